"""``bpf``: Bridge Past and Future (Mo et al., ECCV 2024) on a dense head.

The bridge to the past is pseudo-labels of the old classes; the bridge to the future keeps what looks like an object of
no known class from being learned as background; an interim network of the new classes teaches beside the old one, on
all channels. Without memory. Where we depart: the paper finds future objects in the attention of the feature maps
among the proposals of a two-stage detector; a dense head has no proposals, so anchors of a doubtful highest score take
their place. Its distillation shares out the background probability of a softmax; with sigmoids it is one minus the
highest old score. It distils on proposals, here on the anchors where one of the teachers sees something.
"""

from __future__ import annotations

from incdet.distillation.terms import FutureObjects, KdDual, PseudoLabels
from incdet.methods.method import Interim, Method

METHOD = Method(
    "bpf",
    "Mo et al., ECCV 2024, on a dense head",
    terms=(PseudoLabels(), FutureObjects(), KdDual()),
    interim=Interim(),
)
