"""A method of another package: one term of its own, on top of coverage and replay.

The package's setup.py offers it: ``entry_points={"incdet.methods": ["squared_logits = squared_logits:METHOD"]}``; then
``incdet train --method squared_logits method.squared_logits.kd_squared.weight=0.5`` trains it.
"""

from typing import Any, ClassVar

from torch import Tensor

from incdet.distillation.part import Selection
from incdet.distillation.selection import selected
from incdet.distillation.teacher_targets import BatchTargets, Entries, TermTargets
from incdet.distillation.term import Answers, PlainTerm
from incdet.methods.method import Method, Replay
from incdet.network.retinanet import HeadOutputs


class KdSquared(PlainTerm):
    """Half the squared distance of the old logits at the anchors where the old network sees something."""

    name: ClassVar[str] = "kd_squared"
    selection: Selection = Selection(kind="score", value=0.1)
    """Which anchors it takes."""

    def targets(self, answers: Answers, batch: BatchTargets) -> TermTargets:
        """The old network's logits (N, O) there; nothing of it depends on the student, so it is cached."""
        return {"rows": Entries.of(selected(answers["old"], self.selection, batch), logits=answers["old"].logits)}

    def count(self, targets: Any, batch: BatchTargets) -> Tensor:
        """The number of anchors; the loss is divided by its sum over the whole batch of an optimiser step."""
        return batch.anchors.new_tensor(len(targets["rows"].image))

    def loss(self, student: HeadOutputs, targets: Any, batch: BatchTargets, total: Tensor) -> Tensor:
        """The unweighted scalar."""
        rows: Entries = targets["rows"]
        own = rows.look_up(student.logits)[:, : rows["logits"].shape[1]]
        return 0.5 * (own - rows["logits"]).square().sum() / total.clamp(min=1)


METHOD = Method("squared_logits", "an example", terms=(KdSquared(),), replay=Replay(share=0.2))
