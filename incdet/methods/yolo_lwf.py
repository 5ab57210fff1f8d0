"""``yolo_lwf``: YOLO LwF (De Monte et al., CoLLAs 2025) on a one-stage detector with anchors.

Self-distillation of the old scores, each anchor weighed by how sure the old network is, and of the boxes, off those of
annotated objects; half of each batch comes from the memory, whose images train no new channel. The paper balances the
memory by OCDM: set ``memory.selection=ocdm``. Where we depart: the paper weighs each anchor by the old network's
confidence; here the anchors where it sees something count alike. RetinaNet predicts four numbers for a box and not
YOLOv8's distributions, so the detector's own box loss stands in for the softened cross-entropy.
"""

from __future__ import annotations

from incdet.distillation.terms import KdBox, KdResponse
from incdet.methods.method import Method, Replay

METHOD = Method(
    "yolo_lwf",
    "De Monte et al., CoLLAs 2025, on a detector with anchors",
    terms=(KdResponse(), KdBox()),
    replay=Replay(share=0.5),
)
