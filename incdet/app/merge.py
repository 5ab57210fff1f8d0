"""Two detectors made into one with the classes of both: by weights that they share, else by distillation."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from incdet.app.class_edits import noise
from incdet.app.load import load
from incdet.app.lock import locked
from incdet.app.photograph import read_photograph, record_of
from incdet.app.progress import Display
from incdet.app.sources import find_sources
from incdet.config import Config, load_config
from incdet.config.yamlfile import parse_override
from incdet.data.records import Record
from incdet.errors import Finding, InputError
from incdet.evaluation.detections import Detections, detect
from incdet.evaluation.metrics import group_mean
from incdet.evaluation.sameness import Sameness, compare
from incdet.evaluation.scoring import score
from incdet.evaluation.thresholds import FALLBACK
from incdet.files import require_output
from incdet.network import checkpoint
from incdet.network.device import device_named, free_memory
from incdet.network.footprint import footprint
from incdet.network.merging import beside, joined, new_classes, require_same_pictures, share_heads, share_trunk
from incdet.network.retinanet import IncrementalRetinaNet
from incdet.training.engine import Engine
from incdet.training.fitting import fit
from incdet.training.increment import Workshop
from incdet.training.loaders import canvas_of
from incdet.training.log import RunLog
from incdet.training.merging import merge_by_distillation
from incdet.training.schedule import Lengths

How = Literal["auto", "heads", "trunk", "beside", "distil"]
PROVEN = 20
"""So many pictures are enough for a proof or a measurement."""
HELD_OUT = 0.1
"""Share of the pictures that a student does not learn from, and is measured on."""
_SETTINGS = (
    "train.increment.optimizer=adamw",
    "train.increment.weight_decay=0.01",
    "train.increment.schedule=cosine",
    "train.increment.clip=5.0",
    "train.increment.lr=5e-4",
)
_WORK, _MEMORY = "work", 0.6


class Merged(NamedTuple):
    """What came of a merge.

    Attributes:
        model: The detector of both.
        how: ``heads`` (one network, two predictors), ``trunk`` (heads side by side on one trunk), ``beside`` (two
            networks) or ``distil`` (one student of both).
        shared: Classes of both, for which the first one speaks.
        proof: What stayed identical, by whose classes they are; empty after distillation.
        agreement: AP50 of the student against the detections (score 0.3 or more) of each, by ``first`` and ``second``,
            on pictures it did not learn from; empty where nothing was learned, None for a detector that saw nothing.
    """

    model: IncrementalRetinaNet
    how: str
    shared: tuple[str, ...]
    proof: Mapping[str, Sameness]
    agreement: Mapping[str, float | None]


def merge(
    first: str | Path,
    second: str | Path,
    output: str | Path,
    *,
    images: Sequence[str | Path] = (),
    how: How = "auto",
    overrides: Sequence[str] = (),
    device: str = "auto",
    display: Display | None = None,
) -> Merged:
    """Writes the checkpoint of a detector that knows the classes of two; of a class of both, the first one speaks.

    The same call goes on with a distillation that was stopped.

    Args:
        first: What ``incdet.load`` takes.
        second: The same.
        output: Folder of the checkpoint.
        images: Pictures, or folders of them, without labels: to distil on, or to prove the rest on.
        how: ``auto`` takes ``heads`` or ``trunk`` where the two share that much, else distils.
        overrides: ``key=value`` settings of ``train.increment``, ``augment`` and ``engine`` for distillation.
        device: Where the student learns.
        display: Shows progress; on stderr if None.

    Raises:
        InputError: A detector or picture cannot be read, the two do not fit ``how``, or there is nothing to merge.
    """
    output = Path(output)
    require_output(output, folder=True)
    if (output / checkpoint.DESCRIPTION).exists():
        raise InputError(Finding(str(output), "output", "already holds a checkpoint", "name another folder"))
    place = device_named(device)
    one, other = load(first).model, load(second).model
    shared = tuple(name for name in other.vocab.names if name in one.vocab)
    added = new_classes(one, other)
    chosen = _chosen(how, one, other, bool(images))
    files = [source.file for source in find_sources(images)] if images else []
    records = [record_of(file, number) for number, file in enumerate(files, start=1)]
    with display or Display.on_stderr() as shown:
        if chosen == "distil":
            config = _config(one, records, overrides, output, device)
            learned, held = _split(records)
            model = _distilled(config, one, other, learned, output, shown)
            agreement = {
                whose: _agreement(teacher.to(place), model.to(place), names, held)
                for whose, teacher, names in (("first", one, one.vocab.names), ("second", other, added))
            }
            proof: dict[str, Sameness] = {}
        else:
            model, agreement = _put_together(chosen, one, other), {}
            proof = _proof(chosen, one, other, model, files)
        checkpoint.save(output, model.to("cpu"))
        shutil.rmtree(output / _WORK, ignore_errors=True)
    return Merged(model, chosen, shared, proof, agreement)


def _chosen(how: How, one: IncrementalRetinaNet, other: IncrementalRetinaNet, pictures: bool) -> str:
    """The way that ``how`` means for these two.

    Raises:
        InputError: They do not share what it needs, or there is no picture to distil on.
    """
    able = {"heads": share_heads(one, other), "trunk": share_trunk(one, other)}
    if how in able and not able[how]:
        what = "but their predictors" if how == "heads" else "of their backbones"
        fix = "leave --how out: auto takes what fits"
        raise InputError(Finding("command line", f"how {how}", f"needs two detectors that share all {what}", fix))
    chosen = next((name for name in able if able[name]), "distil") if how == "auto" else how
    if chosen == "distil":
        require_same_pictures(one.architecture, other.architecture)
        if not pictures:
            problem = "are needed: the two detectors share no trunk, and one is to learn from both"
            fix = "add --images with pictures of the kind they are for, without labels; or take --how beside"
            raise InputError(Finding("command line", "--images", problem, fix))
    return chosen


def _put_together(how: str, one: IncrementalRetinaNet, other: IncrementalRetinaNet) -> IncrementalRetinaNet:
    if how == "heads":
        return joined(one, other)
    return beside(one, other, "shared" if how == "trunk" else "own")


def _proof(
    how: str, one: IncrementalRetinaNet, other: IncrementalRetinaNet, model: IncrementalRetinaNet, files: Sequence[Path]
) -> dict[str, Sameness]:
    """What stayed as it was; side by side the second's scores yield to the first's, which is no identity."""
    sides = {"classes of the first": (one, one.vocab.names)}
    if how == "heads":
        sides["classes of the second"] = (other, tuple(new_classes(one, other)))
    proofs = {}
    for whose, (before, names) in sides.items():
        shown = (read_photograph(file).planes for file in files[:PROVEN]) if files else noise(one.architecture)
        proofs[whose] = compare(before, model, {name: name for name in names}, shown)
    return proofs


def _split(records: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """The pictures to learn from, and every tenth or so to measure on; of fewer than five both are all."""
    if len(records) < 5:
        return list(records), list(records)
    every = round(1 / HELD_OUT)
    held = list(records[every // 2 :: every])[:PROVEN] or [records[-1]]
    return [record for record in records if record not in held], held


def _config(
    model: IncrementalRetinaNet, records: Sequence[Record], overrides: Sequence[str], output: Path, device: str
) -> Config:
    """The settings of a distillation, with a schedule that fits the pictures unless ``overrides`` say otherwise."""
    words = [*_SETTINGS, f"output={output}", f"engine.device={device}"]
    config = load_config(None, [*words, *overrides])
    given = {parse_override(text)[0] for text in overrides}
    schedule = config.train.increment
    shape = canvas_of(records, model.architecture, config.augment) or (model.architecture.max_size,) * 2
    room = footprint(model, shape).images(int(_MEMORY * free_memory(device_named(device))))
    fitted = fit(schedule, len(records), len(records), room)._asdict()
    lengths = {"train.increment.iterations", "train.increment.epochs"}
    kept = {
        name: value
        for name, value in fitted.items()
        if f"train.increment.{name}" not in given and not (name == "iterations" and given & lengths)
    }
    if schedule.epochs is not None and "iterations" in kept:
        kept["epochs"] = None
    train = config.train.model_copy(update={"increment": schedule.model_copy(update=kept)})
    return config.model_copy(update={"train": train})


def _distilled(
    config: Config,
    one: IncrementalRetinaNet,
    other: IncrementalRetinaNet,
    records: Sequence[Record],
    output: Path,
    display: Display,
) -> IncrementalRetinaNet:
    """The student of both; what it resumes from lies in the output until it is done."""
    lengths = Lengths(config.train, [0, len(records)])
    display.say(f"distilling {len(one.vocab)} and {len(other.vocab)} classes: {len(records)} pictures without labels")
    display.say(lengths.describe())
    output.mkdir(parents=True, exist_ok=True)
    with locked(output), RunLog(output / _WORK) as log:
        engine = Engine(config.engine, log, display)
        engine.owner = _owner(config, one, other, records)
        shop = Workshop(engine, config, lengths, output / _WORK)
        return merge_by_distillation(shop, one, other, records, lengths.increment(2))


def _owner(config: Config, one: IncrementalRetinaNet, other: IncrementalRetinaNet, records: Sequence[Record]) -> str:
    """What tells one distillation from another, for states that are taken up again."""
    digest = hashlib.sha256()
    for model in (one, other):
        digest.update(repr(model.vocab.steps).encode())
        for value in model.state_dict().values():
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    digest.update(repr(([record.image.name for record in records], config.train.increment, config.augment)).encode())
    return f"merge {digest.hexdigest()[:16]}"


def _agreement(
    teacher: IncrementalRetinaNet, student: IncrementalRetinaNet, names: Sequence[str], records: Sequence[Record]
) -> float | None:
    """AP50 of the student against what the teacher shows of its classes ``names``; None where it shows nothing."""
    seen, found = (detect(model, records) for model in (teacher, student))
    truth = [_labelled(record, seen[record.image_id], teacher.vocab.names, names) for record in records]
    scores = score(truth, found, student.vocab.names)
    return group_mean(scores, names, "AP50")


def _labelled(record: Record, found: Detections, known: Sequence[str], names: Sequence[str]) -> Record:
    """The picture with a detector's detections of ``names`` as its annotation, and covered for these alone."""
    sides = (found.boxes[:, 2:] - found.boxes[:, :2]).min(axis=1, initial=np.inf)
    rows = [
        row
        for row, label in enumerate(found.labels)
        if found.scores[row] >= FALLBACK and sides[row] > 0 and known[label] in names
    ]
    own = tuple(known[found.labels[row]] for row in rows)
    return replace(
        record, boxes=found.boxes[rows], names=own, ignore=np.zeros(len(rows), np.bool_), coverage=frozenset(names)
    )
