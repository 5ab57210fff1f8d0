"""results.json and scores.json: what a run found, in the one schema that other tools read.

results.json keeps to its published keys. What goes beyond them (VOC forms, precision and recall at the deployed
threshold, intervals of change, confusion, false alarms) lies in scores.json beside it; both are written whole or not
at all.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from incdet.errors import Finding, InputError
from incdet.evaluation import metrics
from incdet.evaluation.confusion import Confusion
from incdet.evaluation.metrics import ClassScore, Interval, Number
from incdet.files import reading
from incdet.seal import unsealed, write_sealed

SCHEMA = 1
JOINT = "joint"
PROTOCOL_KEYS = ("name", "order", "images", "hash", "steps")
Scores = dict[str, ClassScore | None]
_FIX = "run the evaluation again, or give a file that incdet wrote"


@dataclass(frozen=True)
class StepResult:
    """What was measured after one step.

    Attributes:
        step: 1-based.
        scores: By class seen so far; None where the test set has no object of the class.
        train_images: Images the step trained on, exemplars included; None if unknown.
        memory: ``{"images", "bytes"}`` of the exemplars kept after the step.
        seconds: ``{"train", "evaluate"}``; None if unknown.
        changes: AP50 change of old classes against the step before, with paired bootstrap intervals.
        since: The same against the step that learned the class.
        confusion: Which class fires on which object.
        false_alarms: Of the ``old`` and the ``new`` classes, per image without any of them; None if unknown.
        iterations: Optimiser steps by the kind of phase, those of an interim teacher included.
    """

    step: int
    scores: Scores
    train_images: int | None = None
    memory: dict[str, int | None] = field(default_factory=lambda: {"images": 0, "bytes": 0})
    seconds: dict[str, Number] = field(default_factory=lambda: {"train": None, "evaluate": None})
    changes: dict[str, Interval] = field(default_factory=dict)
    since: dict[str, Interval] = field(default_factory=dict)
    confusion: Confusion | None = None
    false_alarms: dict[str, Number] = field(default_factory=dict)
    iterations: dict[str, int] = field(default_factory=dict)

    @property
    def megabytes(self) -> Number:
        """Of the exemplars kept after the step."""
        size = self.memory["bytes"]
        return None if size is None else size / 1e6

    @property
    def minutes(self) -> Number:
        """Training and evaluation together; None if neither is known."""
        known = [value for value in self.seconds.values() if value is not None]
        return sum(known) / 60 if known else None


class Results:
    """The results of one method over the steps of one protocol, in any state of completion.

    Args:
        method: Name in tables; ``joint`` is the reference that gaps are measured against.
        seed: The run's seed.
        detector: What was trained, in a few words.
        protocol: ``{"name", "order", "images", "hash", "steps": [[names]]}``, JSON values only.
        changed: Numbers of the method that are not its own, ``part.field=value``.

    Raises:
        InputError: A protocol key is missing or there is no step.
    """

    def __init__(
        self, method: str, seed: int, detector: str, protocol: Mapping[str, Any], changed: Sequence[str] = ()
    ) -> None:
        missing = [key for key in PROTOCOL_KEYS if key not in protocol]
        if missing or not protocol.get("steps"):
            problem = f"lacks {', '.join(missing)}" if missing else "has no step"
            raise InputError(Finding("results", "protocol", problem, f"give {', '.join(PROTOCOL_KEYS)}"))
        self.method, self.seed, self.detector, self.changed = method, seed, detector, tuple(changed)
        self.protocol: dict[str, Any] = {key: protocol[key] for key in PROTOCOL_KEYS}
        self.protocol["steps"] = [list(step) for step in protocol["steps"]]
        self.steps: dict[int, StepResult] = {}
        self._gaps: tuple[Number, Number] = (None, None)

    @property
    def title(self) -> str:
        """The method and what was changed of it, for tables."""
        return f"{self.method} ({', '.join(self.changed)})" if self.changed else self.method

    @property
    def classes(self) -> list[list[str]]:
        """Class names of step 1..T."""
        steps: list[list[str]] = self.protocol["steps"]
        return steps

    @property
    def last(self) -> StepResult | None:
        """The result after step T, the one that tables compare; None while the run is not complete."""
        return self.steps.get(len(self.classes))

    @property
    def minutes(self) -> Number:
        """Training and evaluation over all steps, the shared first one included."""
        known = [result.minutes for result in self.steps.values() if result.minutes is not None]
        return sum(known) if known else None

    def add_step(
        self,
        step: int,
        scores: Mapping[str, ClassScore | None],
        train_images: int | None = None,
        memory: Mapping[str, int | None] | None = None,
        seconds: Mapping[str, Number] | None = None,
        changes: Mapping[str, Interval] | None = None,
        since: Mapping[str, Interval] | None = None,
        confusion: Confusion | None = None,
        false_alarms: Mapping[str, Number] | None = None,
        iterations: Mapping[str, int] | None = None,
    ) -> None:
        """Puts in the result after ``step``; an earlier result of the same step is replaced.

        Args:
            step: 1-based.
            scores: As ``scoring.score`` returns them, for the classes seen so far.
            train_images: Images the step trained on.
            memory: ``{"images", "bytes"}``; None means that no exemplar is kept.
            seconds: ``{"train", "evaluate"}``.
            changes: As ``scoring.changes`` returns them, against the step before.
            since: The same against the step that learned the class.
            confusion: As ``scoring.measure`` returns it.
            false_alarms: As ``scoring.measure`` returns them.
            iterations: Optimiser steps by the kind of phase.

        Raises:
            ValueError: The step or a class is not in the protocol.
        """
        if not 1 <= step <= len(self.classes):
            raise ValueError(f"step {step} is not in 1..{len(self.classes)}")
        known = {name for names in self.classes for name in names}
        if unknown := sorted(set(scores) - known):
            raise ValueError(f"classes outside the protocol: {', '.join(unknown)}")
        result = StepResult(
            step,
            dict(scores),
            train_images,
            {"images": 0, "bytes": 0, **(memory or {})},
            {"train": None, "evaluate": None, **(seconds or {})},
            dict(changes or {}),
            dict(since or {}),
            confusion,
            dict(false_alarms or {}),
            dict(iterations or {}),
        )
        self.steps = dict(sorted({**self.steps, step: result}.items()))
        self._gaps = (None, None)

    def renamed(self, method: str) -> Results:
        """The same results under another method's name."""
        other = copy.copy(self)
        other.method = method
        return other

    def measure_against(self, joint: Results | None) -> None:
        """Sets AbsGap and RelGap from the joint run's AP50 over all classes; joint itself has none.

        Raises:
            InputError: ``joint`` ran under another protocol.
        """
        self._gaps = (None, None)
        if joint is None or self.method == JOINT:
            return
        same_protocol(self, joint)
        summary = self.summary_against(joint)
        self._gaps = (summary["AbsGap"], summary["RelGap"])

    def summary_against(self, joint: Results | None = None, metric: str = "AP50") -> dict[str, Number]:
        """``metrics.summary`` of these results, with gaps to ``joint``."""
        reference = joint.last.scores if joint is not None and joint.last is not None else None
        return metrics.summary({t: r.scores for t, r in self.steps.items()}, self.classes, reference, metric)

    @property
    def summary(self) -> dict[str, Number]:
        """The summary of results.json: see ``metrics.summary`` for what is AP and what AP50."""
        return {**self.summary_against(), "AbsGap": self._gaps[0], "RelGap": self._gaps[1]}

    @property
    def learned(self) -> Scores:
        """The scores every class had after the first step that measured it."""
        first: Scores = {}
        for result in self.steps.values():
            first = {**result.scores, **first}
        return first

    @property
    def kept(self) -> Number:
        """The share of the old classes' AP50 when they were learned that is left after the last step."""
        old = [name for names in self.classes[:-1] for name in names]
        return (
            metrics.kept(self.learned, self.last.scores, old) if self.last is not None and len(self.steps) > 1 else None
        )

    def groups(self, step: int, metric: str = "AP50") -> dict[str, Number]:
        """``{"old", "new", "all"}`` means after ``step``; old is None at step 1."""
        scores = self.steps[step].scores
        old = [name for names in self.classes[: step - 1] for name in names]
        new = self.classes[step - 1]
        return {
            "old": metrics.group_mean(scores, old, metric),
            "new": metrics.group_mean(scores, new, metric),
            "all": metrics.group_mean(scores, [*old, *new], metric),
        }

    def matrix(self, metric: str = "AP50") -> metrics.Matrix:
        """(T, T) nested lists: row t holds the means of every step's classes after step t."""
        return metrics.matrix({t: r.scores for t, r in self.steps.items()}, self.classes, metric)

    def to_json(self) -> dict[str, Any]:
        """The content of results.json."""
        return {
            "schema": SCHEMA,
            "method": self.method,
            "changed": list(self.changed),
            "seed": self.seed,
            "detector": self.detector,
            "protocol": self.protocol,
            "steps": [self._step_json(result) for result in self.steps.values()],
            "matrix_AP50": self.matrix(),
            "summary": self.summary,
        }

    def _step_json(self, result: StepResult) -> dict[str, Any]:
        ap, ap50 = self.groups(result.step, "AP"), self.groups(result.step)
        old, new = ({"AP": ap[group], "AP50": ap50[group]} for group in ("old", "new"))
        return {
            "step": result.step,
            "AP": ap["all"],
            "AP50": ap50["all"],
            "old": old if result.step > 1 else None,
            "new": new,
            "per_class": {
                name: {"AP": score.AP, "AP50": score.AP50} if score else {"AP": None, "AP50": None}
                for name, score in result.scores.items()
            },
            "train_images": result.train_images,
            "memory": result.memory,
            "seconds": result.seconds,
            "iterations": result.iterations,
        }

    def save(self, path: Path | str) -> None:
        """Writes results.json to ``path`` and scores.json beside it, each in one move."""
        path = Path(path)
        details = [
            {
                "step": result.step,
                "per_class": {n: score._asdict() if score else None for n, score in result.scores.items()},
                "changes": {name: interval._asdict() for name, interval in result.changes.items()},
                "since": {name: interval._asdict() for name, interval in result.since.items()},
                "confusion": result.confusion and result.confusion.to_json(),
                "false_alarms": result.false_alarms,
            }
            for result in self.steps.values()
        ]
        write_sealed(path.with_name("scores.json"), {"schema": SCHEMA, "method": self.method, "steps": details})
        write_sealed(path, self.to_json())

    @classmethod
    def load(cls, path: Path | str) -> Results:
        """The inverse of ``save``; without scores.json only AP and AP50 of every class are known.

        Raises:
            InputError: A file is missing or cut off, has another schema, or lacks a key.
        """
        path = Path(path)
        value = read_json(path)
        details = path.with_name("scores.json")
        extra = {}
        if details.is_file():
            with reading(details, "details of the steps", "put it back, or delete it to go on with AP and AP50 alone"):
                extra = {item["step"]: item for item in read_json(details)["steps"]}
        with reading(path, "results", _FIX):
            if not isinstance(value["method"], str):
                raise TypeError("method is no name")
            about = (value["method"], value["seed"], value["detector"], value["protocol"], value.get("changed", ()))
            results = cls(*about)
            for item in value["steps"]:
                more = extra.get(item["step"], {})
                scores = _scores(item["per_class"], more.get("per_class", {}))
                results.add_step(
                    item["step"],
                    scores,
                    item["train_images"],
                    item["memory"],
                    item["seconds"],
                    _intervals(more.get("changes", {})),
                    _intervals(more.get("since", {})),
                    confusion=Confusion.from_json(more["confusion"]) if more.get("confusion") else None,
                    false_alarms=more.get("false_alarms"),
                    iterations=item.get("iterations"),
                )
            results._gaps = (value["summary"]["AbsGap"], value["summary"]["RelGap"])
        return results


def _intervals(value: Mapping[str, Any]) -> dict[str, Interval]:
    return {name: Interval(**interval) for name, interval in value.items()}


def _scores(plain: Mapping[str, Any], full: Mapping[str, Any]) -> Scores:
    """Scores from results.json, with what scores.json adds where the two agree."""
    scores: Scores = {}
    for name, value in plain.items():
        more = full.get(name)
        if value["AP"] is None or value["AP50"] is None:
            scores[name] = None
        elif more is not None and (more["AP"], more["AP50"]) == (value["AP"], value["AP50"]):
            scores[name] = ClassScore(**more)
        else:
            scores[name] = ClassScore(value["AP"], value["AP50"])
    return scores


def percent(value: Number) -> str:
    """A fraction as percent with one decimal, "-" if unknown."""
    return decimal(None if value is None else 100 * value)


def decimal(value: Number) -> str:
    """One decimal, "-" if unknown; never a negative zero."""
    return "-" if value is None else f"{round(value, 1) + 0.0:.1f}"


def same_protocol(first: Results, second: Results) -> None:
    """Refuses to compare what ran under different protocols.

    Raises:
        InputError: The hashes or the class names differ.
    """
    if first.protocol["hash"] != second.protocol["hash"] or first.classes != second.classes:
        problem = f"{first.method} and {second.method} ran under different protocols"
        raise InputError(Finding("comparison", "protocol", problem, "compare runs of one protocol hash"))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of schema 1.

    Raises:
        InputError: The file is missing, cut off, of another schema, or not as it was written.
    """
    with reading(path, "file", _FIX):
        value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        found = value.get("schema") if isinstance(value, dict) else type(value).__name__
        raise InputError(Finding(str(path), "schema", f"is {found!r}, not {SCHEMA}", _FIX))
    return unsealed(path, value, "content", _FIX)
