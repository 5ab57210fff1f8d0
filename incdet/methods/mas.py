"""``mas``: memory aware synapses (Aljundi et al., ECCV 2018) on a dense head; an ablation of all teachers.

A quadratic penalty holds each parameter by how strongly the squared outputs of the old network depend on it. That needs
no labels, so that it is measured on the new images before the step, which the paper proposes too; it covers all old
classes at once and is not added up over steps. Without memory. Where we depart: the outputs are the scores, and the
boxes weighed by them, since a dense head's logits are mostly those of background; the importance is divided by its
mean. New labels train the annotated channels only.
"""

from __future__ import annotations

from incdet.methods.method import Method
from incdet.methods.penalty import Penalty

METHOD = Method("mas", "Aljundi et al., ECCV 2018", penalty=Penalty(importance="sensitivity"))
