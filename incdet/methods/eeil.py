"""``eeil``: End-to-End Incremental Learning (Castro et al., ECCV 2018) on a one-stage detector.

Softmax distillation a head at temperature 2 on new images and exemplars alike, herded memory, balanced fine-tuning with
temporary distillation of the new head. As in the paper, unlabelled old objects of new images are background to the
labels' own loss. Where we depart: the distillation counts at the anchors where the old network sees something, since
most anchors of a detector show nothing.
"""

from __future__ import annotations

from incdet.distillation.terms import KdSoftmax
from incdet.methods.method import Finetune, Method, Replay

METHOD = Method(
    "eeil",
    "Castro et al., ECCV 2018, on a one-stage detector",
    masked=False,
    terms=(KdSoftmax(),),
    replay=Replay(),
    balanced_finetune=Finetune(),
)
