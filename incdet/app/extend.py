"""A checkpoint and somebody's own annotations: teach it their classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from incdet.app.annotations import read_annotations
from incdet.app.facts import facts
from incdet.app.progress import Display
from incdet.app.run import Run, announce, conclude, learn_steps
from incdet.app.run_folder import CONFIG, claim, refuse_other_run
from incdet.config import Config, load_config
from incdet.data.formats.splits import Purpose
from incdet.data.protocols import Protocol
from incdet.data.records import LabelledSet, Record
from incdet.data.sources import Source
from incdet.errors import Finding, InputError, suggest
from incdet.evaluation.results import Results
from incdet.memory.exemplars import Budget, Memory
from incdet.memory.manifest import load_memory
from incdet.methods.registry import get_method
from incdet.network import checkpoint
from incdet.network.device import device_named
from incdet.network.retinanet import IncrementalRetinaNet
from incdet.report.samples import pick_samples
from incdet.training.engine import Engine
from incdet.training.log import RunLog
from incdet.training.worker import Worker
from incdet.vocab import Vocabulary


def extend(
    path: Path,
    data: Path,
    images: Path | None,
    *,
    output: Path,
    split: str | None = None,
    classes: Sequence[str] | None = None,
    method: str = "incdet",
    overrides: Sequence[str] = (),
    old_data: Path | None = None,
    old_images: Path | None = None,
    old_split: str | None = None,
    test_data: Path | None = None,
    test_images: Path | None = None,
    test_split: str | None = None,
) -> Path:
    """Teaches the checkpoint at ``path`` the classes of somebody's own annotation file, as one more step.

    Settings come from the run the checkpoint lies in, where there is one, then from ``overrides``. Exemplars are chosen
    from ``old_data``; where it is not given, they are those of that run; where there is neither, the method goes
    without replay.

    Args:
        path: Checkpoint folder.
        data: Annotations in any format, see ``open_annotations``.
        images: Folder of their pictures, where they lie apart.
        output: Run folder of its own.
        split: Which split of ``data`` is learned; None takes a training split.
        classes: The classes to learn; all of the file's if None. ``"cat,dog"`` is two unless the file has it as one.
        method: Name of the method.
        overrides: ``key=value`` settings.
        old_data: Annotations of old classes, to choose exemplars from.
        old_images: Their image folder.
        old_split: Their split; None takes a training split.
        test_data: Annotations to measure old and new classes on, before and after.
        test_images: Their image folder.
        test_split: Their split; None takes a test split.

    Returns:
        The run folder; the new checkpoint is its ``step_<t>``.

    Raises:
        InputError: Anything that is wrong with the input; nothing has been trained then.
    """
    config = _config(path, output, method, overrides)
    device_named(config.engine.device, "key engine.device")
    chosen = get_method(method, settings=config.method)
    if chosen.joint:
        raise InputError(
            Finding("command line", "method joint", "needs the data of all steps", "use another: incdet methods")
        )
    refuse_other_run(config, resume=False)
    loaded = checkpoint.load(path)
    own = read_annotations(data, images, split)
    names, refreshed = new_classes(loaded.model.vocab, own, classes, data)
    own = replace(own, records=tuple(record.restrict((*names, *refreshed)) for record in own.records))
    step = len(loaded.model.vocab.steps) + 1
    protocol = Protocol(
        "+".join(str(len(part)) for part in (*loaded.model.vocab.steps, names)),
        "as taught",
        (*loaded.model.vocab.steps, names),
        "overlap",
        config.protocol.old_labels if config.protocol.old_labels != "hide" else "use",
    )
    test = _read_or_none(test_data, test_images, test_split, "test")
    source = Source(
        list(own.records), _numbered(test.records if test else ()), own.names, dict(own.source_ids), own.warnings
    )
    old = _read_or_none(old_data, old_images, old_split, "train")
    budget = Budget(config.memory.total, config.memory.per_class)
    if chosen.replay:
        budget.quotas(protocol.names)
    wants = chosen.replay is not None and 0 not in (budget.total, budget.per_class)
    remembered = _stored_memory(path, step - 1) if wants and old_data is None else None
    folder = claim(config)
    with (
        RunLog(folder.root, tensorboard=config.engine.tensorboard) as log,
        Display() as display,
        Worker() as background,
    ):
        for found in (own, old, test):
            if found is not None:
                display.say(found.describe())
        announce(protocol, source, folder, display)
        engine = Engine(config.engine, log, display)
        engine.say(engine.describe())
        log.write("start", **facts(config, source, engine.describe()))
        model = loaded.model.to(engine.device)
        others = old.records if old else ()
        memory = _old_memory(model, remembered, others, budget, config, display) if wants else Memory.empty(budget)
        samples = pick_samples(source.test or source.train, protocol.steps, config.evaluation.samples)
        work = Run(config, source, protocol, folder, engine, display, samples, background)
        before = work.results(chosen)
        work.begin(chosen.name)
        work.measure(model, before, step - 1, folder.root, seconds=None)
        results = learn_steps(work, chosen, model, before, memory, start=step)
        conclude(work, [results])
        _tell(results, step, display)
    return folder.root


def _read_or_none(data: Path | None, images: Path | None, split: str | None, purpose: Purpose) -> LabelledSet | None:
    return None if data is None else read_annotations(data, images, split, purpose=purpose)


def new_classes(
    vocab: Vocabulary, own: LabelledSet, classes: Sequence[str] | None, file: Path
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The classes to learn, and those that the detector knows and whose labels refresh it.

    Raises:
        InputError: The file lacks a class or any object of it, or has no class that is new.
    """
    wanted = chosen_classes(classes, own.names) if classes else own.names
    fresh = tuple(name for name in wanted if name not in vocab)
    findings = []
    for name in wanted:
        if name not in own.names:
            findings.append(Finding(str(file), f"class {name!r}", "is not in the file", suggest(name, own.names)))
        elif name not in vocab and not any(record.counts([name]) for record in own.records):
            findings.append(Finding(str(file), f"class {name!r}", "has no object", "annotate some, or leave it out"))
    if not findings and not fresh:
        fix = "annotate a class that it does not know, or rename the one that is meant"
        findings.append(Finding(str(file), "classes", "are all known to the checkpoint", fix))
    if findings:
        raise InputError(findings)
    return fresh, tuple(name for name in wanted if name in vocab)


def chosen_classes(words: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """The classes that ``words`` mean: one of ``names`` itself, or else a list written with commas."""
    parts = [[word] if word in names else word.split(",") for word in words]
    stripped = [name.strip() for part in parts for name in part]
    return tuple(dict.fromkeys(name for name in stripped if name))


def _config(path: Path, output: Path, method: str, overrides: Sequence[str]) -> Config:
    """The settings of the run that made the checkpoint, or the defaults, as those of a run of their own."""
    parents = [path.resolve(), *path.resolve().parents][:4]
    frozen = next((parent / CONFIG for parent in parents if (parent / CONFIG).is_file()), None)
    own = [f"output={output}", f"methods=[{method}]", "base=null", "without=[]"]
    return load_config(frozen, [*own, *overrides])


def _stored_memory(path: Path, step: int) -> Memory | None:
    manifest = path.resolve().parent / "memory" / f"step_{step}.json"
    return load_memory(manifest) if manifest.is_file() else None


def _old_memory(
    model: IncrementalRetinaNet,
    stored: Memory | None,
    old: Sequence[Record],
    budget: Budget,
    config: Config,
    display: Display,
) -> Memory:
    """Exemplars of the old classes: chosen from ``old``, else the stored ones, else none."""
    from incdet.training.increment import choose_exemplars

    if stored is not None:
        display.say(f"memory: {len(stored)} exemplars of the run that made the checkpoint")
        return replace(stored, budget=budget).reduce(list(stored.exemplars))
    if not old:
        display.say("memory: none (give --old-data to choose exemplars of the old classes)")
        return Memory.empty(budget)
    known = model.vocab.names
    records = [record.restrict(known) for record in old if record.counts(known)]
    memory = choose_exemplars(model, records, known, Memory.empty(budget), config)
    display.say(f"memory: {len(memory)} exemplars chosen from {len(records)} old images")
    return memory


def _numbered(records: Sequence[Record]) -> list[Record]:
    return [replace(record, image_id=number) for number, record in enumerate(records, start=1)]


def _tell(results: Results, step: int, display: Display) -> None:
    before, after = results.groups(step - 1), results.groups(step)
    old = (before["all"], after["old"])
    if old[0] is None and after["new"] is None:
        display.say("nothing was measured: give --test-data, or run tools/evaluate.py on the new checkpoint")
        return
    words = ["-" if value is None else f"{100 * value:.1f}" for value in (*old, after["new"])]
    display.say(f"old classes: AP50 {words[0]} before, {words[1]} after; new classes: {words[2]}")
