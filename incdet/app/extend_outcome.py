"""What an extension brought and what it cost: every class before and after, and what to deploy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from incdet.app.extend_proof import Proof
from incdet.app.run import Run
from incdet.app.run_folder import RunFolder
from incdet.evaluation.metrics import Matches, Number, average_precision, bootstrap_change, mean
from incdet.evaluation.results import Results, percent
from incdet.evaluation.thresholds import Threshold, choose_thresholds

DRAWS = 500


@dataclass(frozen=True)
class Change:
    """A class before and after; AP50 in [0, 1].

    Attributes:
        name: The class.
        kind: ``new``, ``refreshed`` or ``old``.
        objects: How many of it were there to be found.
        before: None for a new class, which nobody looked for.
        after: With the new detector.
        change: After minus before, where a new class begins at 0.
        low: Lower end of the paired 95 % bootstrap interval of ``change``; None where it has none.
        high: Upper end.
    """

    name: str
    kind: str
    objects: int
    before: Number
    after: Number
    change: Number
    low: Number
    high: Number

    @property
    def verdict(self) -> str:
        """``gained``, ``lost`` or ``as before`` (the interval holds 0)."""
        if self.low is not None and self.low > 0:
            return "gained"
        return "lost" if self.high is not None and self.high < 0 else "as before"


@dataclass(frozen=True)
class Outcome:
    """The end of an extension.

    Attributes:
        run: The run folder.
        checkpoint: The new detector.
        report: The page to read.
        changes: Every class that was there to be found, the new ones first.
        thresholds: The score from which on to show each class, chosen on what was measured.
        measured: What that was, in words; empty if nothing.
        seconds: Training.
        proof: What became of the old detections.
    """

    run: str
    checkpoint: str
    report: str
    changes: tuple[Change, ...]
    thresholds: Mapping[str, Threshold]
    measured: str
    seconds: float | None
    proof: Proof

    def lines(self) -> list[str]:
        """The outcome for people."""
        lines = []
        if self.changes:
            lines += [f"measured on {self.measured}", "", *self._table(), "", *self._summary()]
            shown = ", ".join(f"{name} {one.score:.2f}" for name, one in self.thresholds.items())
            lines.append(f"thresholds to deploy (`incdet predict --threshold auto` takes them): {shown}")
        else:
            lines.append("nothing was measured: give --test-data, or run `incdet evaluate` on the new checkpoint")
        if not any(change.kind != "new" for change in self.changes):
            lines.append(
                "what the old classes lost is not measured: nothing that was measured on is annotated for them"
            )
        lines.append(self.proof.line())
        return [*lines, f"detector: {self.checkpoint}", f"report:   {self.report}"]

    def _table(self) -> list[str]:
        width = max(len("class"), *(len(one.name) for one in self.changes))
        head = f"{'class':<{width}}  {'':<9}  objects  AP50 before  after  change  95 % interval"
        rows = [head]
        for one in self.changes:
            interval = "-" if one.low is None or one.high is None else f"{_signed(one.low)} .. {_signed(one.high)}"
            rows.append(
                f"{one.name:<{width}}  {one.kind:<9}  {one.objects:>7}  {percent(one.before):>11}  "
                f"{percent(one.after):>5}  {_signed(one.change):>6}  {interval}"
            )
        return rows

    def _summary(self) -> list[str]:
        new = [one for one in self.changes if one.kind == "new"]
        known = [one for one in self.changes if one.kind != "new"]
        lines = []
        if new:
            lines.append(f"gained: {len(new)} new classes at AP50 {percent(mean(one.after for one in new))}")
        if known:
            before, after = (mean(getattr(one, side) for one in known) for side in ("before", "after"))
            moved = {word: ", ".join(one.name for one in known if one.verdict == word) for word in ("gained", "lost")}
            told = "; ".join(f"{word} beyond chance: {names}" for word, names in moved.items() if names)
            told = told or "none moved beyond chance"
            lines.append(f"old classes: AP50 {percent(before)} before, {percent(after)} after; {told}")
        return lines

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        value = asdict(self)
        value["changes"] = [{**asdict(one), "verdict": one.verdict} for one in self.changes]
        value["proof"] = {**self.proof._asdict(), "holds": self.proof.holds}
        value["thresholds"] = {name: one._asdict() for name, one in self.thresholds.items()}
        return value


def outcome(
    work: Run, results: Results, names: Sequence[str], refreshed: Sequence[str], measured: str, proof: Proof
) -> Outcome:
    """What the finished step of ``work`` brought.

    Args:
        work: The run, everything in it scored and saved.
        results: Its results.
        names: The new classes.
        refreshed: The known ones that were trained on too.
        measured: What was measured on, in words.
        proof: What became of the old detections.
    """
    root, step = work.folder.root, len(work.protocol.steps)
    before, after = (work.stored_matches(root, one) for one in (step - 1, step))
    kinds = {**dict.fromkeys(refreshed, "refreshed"), **dict.fromkeys(names, "new")}
    order = [*names, *(name for name in after if name not in names)]
    changes = [_change(name, kinds.get(name, "old"), before.get(name), after[name]) for name in order if name in after]
    known = tuple(change for change in changes if change.objects)
    seen = {one.name: after[one.name] for one in known}
    return Outcome(
        run=str(root),
        checkpoint=str(RunFolder.step(root, step)),
        report=str(Path(root) / "report.html"),
        changes=known,
        thresholds=choose_thresholds(seen) if seen else {},
        measured=measured,
        seconds=results.steps[step].seconds["train"] if results.steps[step].seconds else None,
        proof=proof,
    )


def _change(name: str, kind: str, before: Matches | None, after: Matches) -> Change:
    """The change of a class; a detector that did not know it found nothing of it."""
    first = before if before is not None else _nothing(after)
    interval = bootstrap_change(first, after, draws=DRAWS)
    start = None if before is None else average_precision(before)
    return Change(name, kind, int(after.positives.sum()), start, average_precision(after), *interval)


def _nothing(like: Matches) -> Matches:
    return Matches(np.zeros(0), np.zeros(0, bool), np.zeros(0, np.int64), like.positives)


def _signed(value: Number) -> str:
    return "-" if value is None else f"{100 * value:+.1f}"
