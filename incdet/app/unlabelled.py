"""Asks a detector what it sees in annotated pictures that nobody has annotated."""

from __future__ import annotations

from collections.abc import Sequence

from incdet.app.progress import Display
from incdet.data.records import LabelledSet
from incdet.errors import Finding, shown
from incdet.evaluation.detections import detect
from incdet.evaluation.unlabelled import SURE, Unlabelled, find_unlabelled
from incdet.network.retinanet import IncrementalRetinaNet


def look_for_unlabelled(
    model: IncrementalRetinaNet, data: LabelledSet, display: Display, lowest: float = SURE
) -> list[Unlabelled]:
    """What ``model`` sees in the pictures of ``data`` where nothing is annotated, the surest first.

    Args:
        model: On the device where it shall run.
        data: Annotations whose pictures can be read.
        display: Shows how many pictures were looked at.
        lowest: Detections with this score or more count, in [0, 1].
    """

    def progress(done: int, total: int) -> None:
        display.advance("looking for unlabelled objects", done, total)

    found = detect(model, data.records, progress=progress)
    return find_unlabelled(data.records, found, model.vocab.names, lowest)


def unlabelled_warnings(data: LabelledSet, seen: Sequence[Unlabelled]) -> list[Finding]:
    """A warning for every class that is seen without a label, those first that the annotations claim to name."""
    findings = []
    for covered in (True, False):
        for name in dict.fromkeys(one.name for one in seen if one.covered is covered):
            findings.append(_warning(data, [one for one in seen if one.covered is covered and one.name == name]))
    return findings


def _warning(data: LabelledSet, seen: Sequence[Unlabelled]) -> Finding:
    first, name = seen[0], shown(seen[0].name)
    images = len({one.record.image_id for one in seen})
    box = ", ".join(f"{edge:.0f}" for edge in first.box)
    where = f"the surest in image {shown(first.record.source_id)} at ({box}), score {first.score:.2f}"
    if first.covered:
        problem = f"the detector sees {len(seen)} in {images} image(s) without a label, {where}"
        fix = "annotate what is there; --fix OUT marks it as ignored (iscrowd): neither object nor background"
    else:
        problem = f"is not annotated here; the detector sees {len(seen)} in {images} image(s), {where}"
        fix = "nothing for incdet, which lets the old detector speak for them; others would learn them as background"
    return Finding(data.origin, f"class {name!r}", problem, fix, "warning")
