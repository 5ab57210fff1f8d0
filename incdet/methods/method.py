"""A method as a value: what it is made of, and the named sum of weighted terms that it minimises.

Shape letters: B images, K student columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import BaseModel, Field, ValidationError
from torch import Tensor

from incdet.distillation.part import Part
from incdet.distillation.teacher_targets import BatchTargets, Entries, Targets, TermTargets
from incdet.distillation.term import Term
from incdet.errors import Finding, InputError, suggest
from incdet.methods.penalty import Penalty
from incdet.network.retinanet import HeadOutputs
from incdet.ops.losses import ClassTargets, box_loss, focal_loss, focal_losses


class Replay(Part):
    """Exemplars, or their objects alone, are mixed into what is trained on."""

    name: ClassVar[str] = "replay"
    share: float | None = Field(None, gt=0, lt=1)
    """Share of every batch that comes from the memory; null mixes them as they fall."""
    images: bool = True
    """Whole exemplars are trained on."""
    boxes: float = Field(0.0, ge=0, le=1)
    """Share of a batch's images that get objects of exemplars: half have one mixed in, half become a mosaic of four."""
    propagation: float | None = Field(None, gt=0, le=1)
    """Score from which on the student's detections after a step label the exemplars for the classes that are not
    annotated in them; null leaves them as they are."""


class Mixup(Part):
    """Enlarged, blended parts of a batch's pictures are added to it, of which the teachers alone speak."""

    name: ClassVar[str] = "mixup"
    share: float = Field(0.25, ge=0, le=4)
    """Pictures that are added for each one of the batch; 0 adds none."""


class Interim(Part):
    """A network of the new classes is trained first and teaches as `interim`."""

    name: ClassVar[str] = "interim"
    length: float = Field(1.0, gt=0)
    """Its training, as a share of the step's own."""
    exemplars: float = Field(0.0, ge=0, lt=1)
    """Share of its batches that comes from the memory where a step has a single class, which exemplars are taken to be
    without: its own images all show it. 0 trains it on these alone, and a method without replay has no others."""


class Averaging(Part):
    """The student starts between the network before the step and the interim one; its new predictor is the latter's."""

    name: ClassVar[str] = "averaging"
    old: float | None = Field(None, ge=0, le=1)
    """Weight of the network before the step in the shared parameters; null takes the share of classes that are old."""


class Branch(Part):
    """The new classes get a network of their own beside the old detector, which is left as it is."""

    name: ClassVar[str] = "branch"
    trunk: Literal["own", "shared", "taught"] = "own"
    """`own` is a whole second network, which costs a second forward pass; `shared` are heads on the old network's
    frozen features, which cost little; `taught` is a second network that the method teaches the old classes too, so
    that it tells its own from them. The first two have no teacher."""


class Calibration(Part):
    """When the step is learned, the new logits are shifted so that exemplars of all classes are scored aright."""

    name: ClassVar[str] = "calibration"
    strength: float = Field(1.0, ge=0, le=1)
    """Share of the fitted shift; 0 shifts nothing."""


class Precedence(Part):
    """From the step on earlier classes go first: where they are seen, later ones are believed less."""

    name: ClassVar[str] = "precedence"
    power: float = Field(1.0, ge=0, le=10)
    """A new score is multiplied by (1 - the highest earlier score at the anchor) to this power."""


class Finetune(Part):
    """A short, class-balanced fine-tuning ends the step; its schedule is `train.finetune`."""

    name: ClassVar[str] = "balanced_finetune"


FIXED = (
    *(Interim.name, Averaging.name, Replay.name, Mixup.name, Finetune.name, Penalty.name, Branch.name),
    *(Precedence.name, Calibration.name),
)
"""The parts that are not terms, by the names of their fields of ``Method``."""


class Setting(NamedTuple):
    """A number (or switch) of a method.

    Attributes:
        key: ``part.field``, or deeper.
        value: As it stands.
        description: What it means.
    """

    key: str
    value: Any
    description: str


@dataclass(frozen=True)
class Method:
    """A way to learn a step, made of parts.

    Attributes:
        name: What ``--method`` calls it.
        source: Where it comes from.
        masked: Only annotated channels are trained; False declares every channel covered.
        terms: What teachers add to the loss.
        replay: How exemplars are used; None means no memory.
        interim: A second teacher, trained on the step's images alone.
        mixup: Pictures that nobody annotated, added to every batch in which teachers speak; None adds none.
        averaging: Where the student starts; None starts from the network before the step.
        balanced_finetune: What ends the step.
        penalty: Holds the parameters near where they stood before the step.
        branch: The step is learned by a network beside the old one; but for a ``taught`` one from the new labels alone,
            so that the method then has no terms, no interim teacher and no averaging.
        precedence: How detections are made of the scores of earlier and later classes, once the step is learned.
        calibration: Shifts the new logits at the end of the step.
        joint: Trains on all steps' data at once; it has no teacher.
        changed: The settings that differ from the method's own, ``part.field=value``.
    """

    name: str
    source: str
    masked: bool = True
    terms: tuple[Term, ...] = ()
    replay: Replay | None = None
    interim: Interim | None = None
    mixup: Mixup | None = None
    averaging: Averaging | None = None
    balanced_finetune: Finetune | None = None
    penalty: Penalty | None = None
    branch: Branch | None = None
    precedence: Precedence | None = None
    calibration: Calibration | None = None
    joint: bool = False
    changed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.branch is not None and self.branch.trunk != "taught":
            for part, nothing in (("terms", ()), ("interim", None), ("mixup", None), ("averaging", None)):
                object.__setattr__(self, part, nothing)

    @property
    def title(self) -> str:
        """The name and what was changed, for tables."""
        return f"{self.name} ({', '.join(self.changed)})" if self.changed else self.name

    @property
    def parts(self) -> dict[str, Any]:
        """The parts by name: those that ``without`` can take away and settings can change."""
        fixed = [getattr(self, name) for name in FIXED]
        return {part.name: part for part in (*self.terms, *fixed) if part is not None}

    @property
    def teachers(self) -> tuple[str, ...]:
        """The names of the teachers that its terms listen to and that there are."""
        wanted = dict.fromkeys(name for term in self.terms for name in term.teachers)
        return tuple(name for name in wanted if name != "interim" or self.interim is not None)

    @property
    def needs_features(self) -> bool:
        """Whether a term reads the student's features, so that they have to keep their gradient."""
        return any("features" in term.needs for term in self.speaking().terms)

    def without(self, *names: str) -> Method:
        """The method less the named parts, for ablations; its name says so.

        Raises:
            InputError: The method has no such part.
        """
        method = self
        for name in names:
            if name not in method.parts:
                raise InputError(
                    Finding(
                        "config",
                        "key without",
                        f"method {self.name!r} has no part {name!r}",
                        suggest(name, method.parts),
                    )
                )
            gone: dict[str, Any] = {part: None for part in FIXED if part == name}
            terms = tuple(term for term in method.terms if term.name != name)
            method = replace(method, name=f"{method.name}-{name}", terms=terms, **gone)
        # Balanced fine-tuning and calibration need exemplars, averaging a second network.
        if method.replay is None:
            method = replace(method, balanced_finetune=None, calibration=None)
        if method.interim is None:
            method = replace(method, averaging=None)
        changed = tuple(change for change in method.changed if change.partition(".")[0] in method.parts)
        return replace(method, changed=changed)

    def speaking(self) -> Method:
        """The method less the terms of weight 0, which would be computed for nothing."""
        terms = tuple(term for term in self.terms if getattr(term, "weight", 1.0) != 0)
        return self if len(terms) == len(self.terms) else replace(self, terms=terms)

    def settings(self) -> Iterator[Setting]:
        """Every number and switch of its parts."""
        for name, part in self.parts.items():
            if isinstance(part, BaseModel):
                yield from _settings_of(part, name)

    def configured(self, values: Mapping[str, Any]) -> Method:
        """The method with other numbers: ``{part: {field: value}}``.

        Raises:
            InputError: A part or field is unknown, or a value is out of its range.
        """
        parts = self.parts
        before = {setting.key: setting.value for setting in self.settings()}
        for name, given in values.items():
            if name not in parts or not isinstance(parts[name], BaseModel):
                raise self._refused(name, "is unknown", suggest(name, parts) if parts else "the method has no setting")
            if not isinstance(given, Mapping):
                raise self._refused(name, f"is {given!r}", "give one of its fields, such as weight=0.5")
            parts[name] = self._changed_part(parts[name], name, given)
        method = replace(
            self,
            terms=tuple(parts[term.name] for term in self.terms),
            **{name: parts[name] for name in FIXED if name in parts},
        )
        changed = dict(change.split("=", 1) for change in self.changed)
        changed |= {s.key: f"{s.value}" for s in method.settings() if s.value != before[s.key]}
        return replace(method, changed=tuple(f"{key}={value}" for key, value in changed.items()))

    def _changed_part(self, part: Any, name: str, given: Mapping[str, Any]) -> Any:
        measured = [word for word in given if word in type(part).model_fields and _measured(part, word)]
        if measured:
            known = [setting.key for setting in _settings_of(part, name)]
            raise self._refused(f"{name}.{measured[0]}", "is unknown", _near(measured[0], known))
        try:
            return type(part).model_validate(_merged(part.model_dump(), given))
        except ValidationError as error:
            fault = error.errors()[0]
            words = [str(word) for word in fault["loc"]]
            if fault["type"] == "extra_forbidden":
                known = [setting.key for setting in _settings_of(part, name)]
                raise self._refused(".".join((name, *words)), "is unknown", _near(words[-1], known)) from None
            problem = f"is {fault['input']!r}: {fault['msg'][0].lower()}{fault['msg'][1:]}"
            raise self._refused(".".join((name, *words)), problem, "correct the value") from None

    def _refused(self, key: str, problem: str, fix: str) -> InputError:
        return InputError(Finding("config", f"key method.{self.name}.{key}", problem, fix))

    def targets(self, batch: BatchTargets, terms: Mapping[str, TermTargets]) -> Targets:
        """All that the student's outputs on a batch are compared with, given what the teachers said."""
        counts = {term.name: term.count(terms[term.name], batch) for term in self.terms if term.name in terms}
        return Targets(batch, terms, {"images": batch.anchors.new_full((), len(batch.targets)), **counts})

    def losses(self, student: HeadOutputs, targets: Targets, totals: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Named, weighted terms of a batch, or of a piece of one; what is minimised is their sum over all pieces.

        Args:
            student: Its outputs.
            targets: What they are compared with.
            totals: ``targets.counts``, summed over the pieces of the batch.

        Returns:
            Scalars ``focal`` and ``box`` always, and those of the terms that had teachers to listen to.
        """
        batch = targets.batch
        scale = batch.assignment.positives.clamp(min=1) * totals["images"]
        spoken = [term for term in self.terms if term.name in targets.terms]
        charges = {
            term.name: charge
            for term in spoken
            if (charge := term.class_targets(targets.terms[term.name], batch, totals[term.name])) is not None
        }
        focal, others = self._focal(student, batch, scale, charges, left_out(targets.terms))
        losses = {
            "focal": focal,
            "box": box_loss(student.deltas, batch.anchors, batch.assignment, kind=batch.box_kind, normaliser=scale),
        }
        for term in spoken:
            own = targets.terms[term.name]
            losses |= term.losses(student, own, batch, totals[term.name], others.get(term.name))
        return losses

    def _focal(
        self,
        student: HeadOutputs,
        batch: BatchTargets,
        scale: Tensor,
        charges: Mapping[str, ClassTargets],
        ignored: tuple[Tensor, Tensor, Tensor] | None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The focal loss of the annotations, and those of the terms by name.

        What is annotated and what a term speaks for share no channel, so that one pass over the logits serves both.
        """
        coverage = batch.trained if self.masked else None
        if not charges:
            return focal_loss(
                student.logits, batch.assignment, coverage=coverage, ignored=ignored, normaliser=scale
            ), {}
        first, *more = charges
        annotated = ClassTargets(batch.assignment, batch.trained, ignored, scale)
        focal, own = focal_losses(student.logits, [annotated, charges[first]])
        alone = {name: focal_losses(student.logits, [charges[name]])[0] for name in more}
        return focal, {first: own, **alone}


def left_out(terms: Mapping[str, TermTargets]) -> tuple[Tensor, Tensor, Tensor] | None:
    """Image, anchor and column (N,) of what the lists ``left_out`` of the terms take out of the annotations' loss."""
    lists = [own["left_out"] for own in terms.values() if isinstance(own.get("left_out"), Entries)]
    parts = [(one.image, one.anchor, one["column"]) for one in lists if isinstance(one, Entries)]
    if not parts:
        return None
    image, anchor, column = (torch.cat(values) for values in zip(*parts, strict=True))
    return image, anchor, column


def _settings_of(part: BaseModel, start: str) -> Iterator[Setting]:
    for name, field in type(part).model_fields.items():
        value = getattr(part, name)
        if isinstance(value, BaseModel):
            yield from _settings_of(value, f"{start}.{name}")
        elif not _measured(part, name):
            yield Setting(f"{start}.{name}", value, " ".join((field.description or "").split()))


def _measured(part: BaseModel, field: str) -> bool:
    """Whether a field holds what a term measured on a step (declared with ``exclude=True``), which is no setting."""
    return bool(type(part).model_fields[field].exclude)


def _merged(whole: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """``whole`` with the values of ``given``, section by section."""
    merged = dict(whole)
    for name, value in given.items():
        before = merged.get(name)
        nested = isinstance(value, Mapping) and isinstance(before, Mapping)
        merged[name] = _merged(before, value) if nested else value  # type: ignore[arg-type]
    return merged


def _near(word: str, keys: list[str]) -> str:
    """The settings of a part whose last word is near."""
    return suggest(word, [key.partition(".")[2] for key in keys])
