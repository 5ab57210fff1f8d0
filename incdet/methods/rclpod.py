"""``rclpod``: Replay Consolidation with Label Propagation (De Monte et al., 2024, arXiv 2409.05650).

The old network's detections label the new images, the new network's detections label the memory after the step, the
pyramid is distilled, and half of each batch comes from the memory. The paper balances the memory by OCDM: set
``memory.selection=ocdm``. Where we depart: the paper distils chosen layers of YOLOv8's backbone and neck, here all
levels of the pyramid are compared; the thresholds of the pseudo-labels are fitted to the step, and detections below
them are left out of the loss. What no exemplar's label covers yet trains nothing.
"""

from __future__ import annotations

from incdet.distillation.terms import KdFeature, PseudoLabels
from incdet.methods.method import Method, Replay

METHOD = Method(
    "rclpod",
    "De Monte et al., 2024, on a detector with anchors",
    terms=(PseudoLabels(), KdFeature()),
    replay=Replay(share=0.5, propagation=0.5),
)
