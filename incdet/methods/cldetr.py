"""``cldetr``: CL-DETR (Liu et al., CVPR 2023) on a one-stage detector.

The old network's confident detections join the annotations, its responses are distilled where it is sure, exemplars are
replayed, and a balanced fine-tuning on them ends the step. Where we depart: there is no bipartite matching to distil
through, so responses and boxes are distilled at the anchors of the old network's highest scores; and exemplars are
chosen by ``memory.selection``.
"""

from __future__ import annotations

from incdet.distillation.terms import KdBox, KdResponse, PseudoLabels
from incdet.methods.method import Finetune, Method, Replay

METHOD = Method(
    "cldetr",
    "Liu et al., CVPR 2023, on a one-stage detector",
    terms=(PseudoLabels(), KdResponse(weight=0.5), KdBox(weight=0.5)),
    replay=Replay(share=0.1),
    balanced_finetune=Finetune(),
)
