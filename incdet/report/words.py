"""The summary of a report in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from incdet.evaluation.metrics import Interval
from incdet.evaluation.results import JOINT, Results, percent
from incdet.report.bars import points, verdict

_LISTED = 4


def summary(results: Sequence[Results]) -> list[str]:
    """What a reader should know who reads nothing else, the best method first."""
    joint = next((result for result in results if result.method == JOINT and result.last is not None), None)
    found = [result for result in results if result.method != JOINT and result.last is not None]
    if not any(score for result in results for item in result.steps.values() for score in item.scores.values()):
        return ["Nothing was measured: the run had no test images that show one of its classes."]
    sentences = []
    for result in sorted(found, key=lambda one: -(one.summary["AP50"] or 0.0)):
        sentences.append(_method(result, joint))
    if joint is not None:
        sentences.append(
            f"Joint training on all data at once, the upper bound, reaches {percent(joint.summary['AP50'])}."
        )
    begun = [result.method for result in results if result.method != JOINT and result.last is None]
    if begun:
        sentences.append(f"Not finished yet: {', '.join(begun)}.")
    return sentences


def _method(result: Results, joint: Results | None) -> str:
    figures, parts = result.summary, []
    old = [name for names in result.classes[:-1] for name in names]
    if result.kept is not None:
        start = percent(_mean(result, old))
        parts.append(
            f"the old classes keep {100 * result.kept:.0f} % of the AP50 they had when they were first measured "
            f"({percent(figures['old_AP50'])} of {start})"
        )
    elif old and _mean(result, old) is None:
        parts.append("what the old classes lost was not measured, for no test image shows one of them")
    if figures["new_AP50"] is not None and len(result.steps) > 1:
        parts.append(f"the new ones reach {percent(figures['new_AP50'])}")
    whole = f"all together {percent(figures['AP50'])}"
    if joint is not None and figures["RelGap"] is not None:
        whole += f", {percent(figures['RelGap'])} % short of joint training"
    return f"{result.method}: {'; '.join([*parts, whole])}."


def _mean(result: Results, names: Sequence[str]) -> float | None:
    known = [score.AP50 for name in names if (score := result.learned.get(name)) is not None]
    return sum(known) / len(known) if known else None


def certain(moved: Mapping[str, Interval], what: str = "old classes") -> str:
    """Which classes lost and gained more than chance would have it, and of how many."""
    known = {name: one for name, one in moved.items() if one.change is not None}
    ordered = sorted(known, key=lambda name: known[name].change or 0.0)
    lost = [name for name in ordered if verdict(known[name]) == "hue-loss"]
    gained = [name for name in ordered[::-1] if verdict(known[name]) == "hue-gain"]
    if not known:
        return ""
    parts = [f"{word} {_listed(names, known)}" for word, names in (("lost", lost), ("gained", gained)) if names]
    rest = len(known) - len(lost) - len(gained)
    if rest:
        parts.append(f"{rest if lost or gained else 'all'} within what chance may do")
    return f"Of {len(known)} {what if len(known) > 1 else what.removesuffix('es')}: {'; '.join(parts)}."


def _listed(names: Sequence[str], moved: Mapping[str, Interval]) -> str:
    words = [f"{name} {points(moved[name].change)}" for name in names[:_LISTED]]
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{len(names)} ({', '.join(words)}{more})"
