"""``ewc``: elastic weight consolidation (Kirkpatrick et al., 2017) with pseudo-labels, after IncDet (Liu et al., 2020).

The old network's detections join the annotations, and a quadratic penalty holds each parameter by its Fisher
information. Without memory. Where we depart: the information is that of the old network on the new images, with labels
drawn from its own outputs, and not that of the old images at the end of their step, so that it needs no file beside
the checkpoint; it covers all old classes at once and is not added up over steps. It is divided by its mean. IncDet's
Huber form of the penalty is left out: the step's gradient clipping serves that purpose.
"""

from __future__ import annotations

from incdet.distillation.terms import PseudoLabels
from incdet.methods.method import Method
from incdet.methods.penalty import Penalty

METHOD = Method(
    "ewc",
    "Liu et al., TNNLS 2020, after Kirkpatrick et al., PNAS 2017",
    terms=(PseudoLabels(),),
    penalty=Penalty(importance="fisher"),
)
