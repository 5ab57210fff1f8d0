"""``abr``: Augmented Box Replay (Liu et al., ICCV 2023) on a dense head.

Objects of the exemplars, not whole exemplars, are replayed: a crop is mixed into an image of the step, or four crops
make a mosaic (``incdet.training.box_replay``). The old network is held by the attention of its features in the regions
of its objects, and by its responses. Where we depart: regions are detections, for a dense head has no proposals; the
inclusive distillation, which shares out the background probability of a softmax, is that of the old sigmoids at
selected anchors, of the paper's weight 0.5; exemplars are chosen as everywhere here (the paper takes the boxes whose
features are nearest to the class mean), and the whole images are stored, so that MB overstates what the method needs.
Every second image of a batch is changed, half of these by either way; that share is ours.
"""

from __future__ import annotations

from incdet.distillation.terms import KdResponse, KdRoi
from incdet.methods.method import Method, Replay

METHOD = Method(
    "abr",
    "Liu et al., ICCV 2023, on a dense head",
    terms=(KdRoi(), KdResponse(weight=0.5)),
    replay=Replay(images=False, boxes=0.5),
)
