"""One row of a table of methods: every figure of a finished run, from its results and how its detections were judged.

Shapes: I images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from incdet.evaluation.confusion import Confusion
from incdet.evaluation.metrics import Matches, Number, mean
from incdet.evaluation.results import Results
from incdet.evaluation.thresholds import choose_thresholds

Figures = dict[str, Number]


def figures(results: Results, matches: Mapping[str, Matches], step: int | None = None) -> Figures:
    """The figures after ``step`` (the last one if None); what is unknown, or has no meaning there, is None.

    Returns:
        In [0, 1]: ``{old,new,all}_{AP50,AP}``, ``kept``, ``forgetting``, and of the ``old`` and the ``new`` classes
        ``precision_*`` and ``recall_*`` at the deployed thresholds (``deployed``).
        Per image: ``false_alarms``, detections of new classes above 0.3 in images without a new object.
        Per object: ``old_to_new`` and ``new_to_old``, on how many old (new) objects a new (old) class fires above 0.3;
        an object on which two classes fire counts twice.
        Sums: ``exemplars`` in images, ``MB`` of them, ``steps`` of the optimiser and ``minutes`` of training, both
        without step 1 unless nothing else was measured.
    """
    last = len(results.classes) if step is None else step
    item = results.steps[last]
    row: Figures = {
        f"{group}_{metric}": value for metric in ("AP50", "AP") for group, value in results.groups(last, metric).items()
    }
    final = last == len(results.classes)
    row |= {"kept": results.kept if final else None, "forgetting": results.summary["forgetting"] if final else None}
    old = [name for names in results.classes[: last - 1] for name in names]
    new = results.classes[last - 1]
    row["false_alarms"] = item.false_alarms.get("new")
    row["old_to_new"] = fires(item.confusion, old, new)
    row["new_to_old"] = fires(item.confusion, new, old)
    row |= _deployed_means(matches, {"old": old, "new": new})
    later = [one for number, one in results.steps.items() if number > 1] or [item]
    images = item.memory["images"]
    row |= {"exemplars": None if images is None else float(images), "MB": item.megabytes}
    spent = [number for one in later for number in one.iterations.values()]
    row["steps"] = float(sum(spent)) if spent else None
    seconds = [value for one in later if (value := one.seconds["train"]) is not None]
    row["minutes"] = sum(seconds) / 60 if seconds else None
    return row


def fires(confusion: Confusion | None, true: Sequence[str], detected: Sequence[str]) -> Number:
    """Objects of the classes ``true`` on which one of ``detected`` fires, as a share of these objects."""
    if confusion is None or not (objects := sum(confusion.objects.get(name, 0) for name in true)) or not detected:
        return None
    return sum(number for _, _, number, _ in confusion.between(true, detected)) / objects


def deployed(matches: Mapping[str, Matches]) -> dict[str, tuple[Number, Number]]:
    """Precision and recall of every class at thresholds that were not chosen on the images they are measured on.

    Thresholds of best F1 are chosen on every other test image and measured on the rest, both ways; counts are added. A
    fixed threshold would compare methods by how high they happen to score.
    """
    found = {name: np.zeros(3) for name in matches}  # shown, right, objects
    for parity in (0, 1):
        chosen = choose_thresholds({name: _part(one, parity) for name, one in matches.items()})
        for name, one in matches.items():
            rest = _part(one, 1 - parity)
            shown = rest.scores >= chosen[name].score
            found[name] += (shown.sum(), rest.hits[shown].sum(), rest.positives.sum())
    return {
        name: (float(right / shown) if shown else None, float(right / objects) if objects else None)
        for name, (shown, right, objects) in found.items()
    }


def _part(matches: Matches, parity: int) -> Matches:
    """The images whose place is even (0) or odd (1)."""
    here = matches.image % 2 == parity
    places = np.arange(len(matches.positives)) % 2 == parity
    return Matches(matches.scores[here], matches.hits[here], matches.image[here], matches.positives * places)


def _deployed_means(matches: Mapping[str, Matches], groups: Mapping[str, Sequence[str]]) -> Figures:
    per_class = deployed(matches)
    row: Figures = {}
    for group, names in groups.items():
        pairs = [per_class[name] for name in names if name in per_class]
        row[f"precision_{group}"] = mean(pair[0] for pair in pairs)
        row[f"recall_{group}"] = mean(pair[1] for pair in pairs)
    return row
