"""The settings of an extension: those of the run that made the checkpoint, what was chosen by word, and what fits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from incdet.app.extend_data import Lesson
from incdet.app.load import locate
from incdet.app.origin import run_of
from incdet.app.run_folder import CONFIG, difference, frozen_config
from incdet.app.unused import refuse_unused
from incdet.config import Config, Extension, load_config, parse_config
from incdet.config.yamlfile import parse_override
from incdet.errors import Finding, InputError
from incdet.methods.method import Method
from incdet.methods.registry import frozen_settings, get_method
from incdet.network.device import device_named, free_memory
from incdet.network.footprint import footprint
from incdet.network.paired import PairedRetinaNet, newcomer, pupil
from incdet.network.retinanet import IncrementalRetinaNet
from incdet.training.fitting import fit, refresh
from incdet.training.loaders import canvas_of


class Way(NamedTuple):
    """What ``--keep`` means.

    Attributes:
        method: Name of a method.
        without: Its parts that are left out.
        settings: ``key=value`` of it.
    """

    method: str
    without: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()


WAYS = {
    "balanced": Way("incdet"),
    # The second network speaks for new classes where they are not annotated, which is in exemplars alone.
    "fast": Way("incdet", ("replay", "interim")),
    "strict": Way("pair", settings=("method.pair.branch.trunk=shared",)),
}
_ELSEWHERE = {
    "base": "the detector is that of the command",
    "data": "the annotations are those of --data",
    "extend": "the options of the command say it",
    "methods": "give --method",
    "model": "the network is that of the detector",
    "output": "give --out",
    "protocol": "the step is --classes",
    "train.base": "the detector is trained already: set train.increment and train.finetune",
    "train.joint": "there is no joint training",
}
"""Settings that an extension does not use, and what says it in their place."""
MEMORY = 0.6
"""Share of the free memory that training may take by an estimate."""
FITTED = (
    "train.increment.iterations",
    "train.increment.epochs",
    "train.increment.batch_size",
    "train.increment.lr",
    "train.increment.warmup",
    "train.finetune.batch_size",
)
"""Settings that are chosen to fit the data and the machine unless the command gives them."""
_FRESH = (
    *(
        f"train.{name}.{words}"
        for name in ("increment", "finetune")
        for words in ("optimizer=adamw", "weight_decay=0.01", "schedule=cosine", "clip=5.0")
    ),
    "train.increment.lr=5e-4",
    "train.finetune.lr=1e-4",
)
"""How a detector learns that no run of incdet has trained, at 16 images in a batch."""


class Call(NamedTuple):
    """An extension as it was asked for.

    Attributes:
        extension: Detector, annotations, and how the old classes are kept.
        output: Run folder.
        method: Name of a method in place of ``extension.keep``.
        overrides: ``key=value`` settings.
        resume: Refuse with what differs, where ``output`` holds an extension by another call.
    """

    extension: Extension
    output: Path
    method: str | None = None
    overrides: Sequence[str] = ()
    resume: bool = False


class Settled(NamedTuple):
    """The settings of a call.

    Attributes:
        config: Complete but for ``unfitted``.
        unfitted: Keys whose values wait for the data; none where the folder holds an earlier part of the run.
        resume: Whether the run goes on.
    """

    config: Config
    unfitted: tuple[str, ...]
    resume: bool


def settle(call: Call) -> Settled:
    """The settings of ``call``, those that an earlier part of it in the same folder has fitted among them.

    Raises:
        InputError: A setting is unknown, or not used by an extension.
    """
    extension = call.extension.model_copy(update={"checkpoint": locate(call.extension.checkpoint)})
    config = _configured(call, extension)
    given = [parse_override(text)[0] for text in call.overrides]
    open_keys = tuple(key for key in FITTED if not any(key == one or key.startswith(f"{one}.") for one in given))
    if "train.increment.epochs" in given or "train.increment.iterations" in given:
        open_keys = tuple(key for key in open_keys if not key.endswith((".iterations", ".epochs")))
    frozen = config.output / CONFIG
    if frozen.is_file():
        before = frozen_config(frozen)
        if before.extend is not None:
            config = changed(config, {key: _value(before, key) for key in open_keys})
            open_keys = ()
    return Settled(config, open_keys, call.resume or (frozen.is_file() and not difference(frozen, config)))


def changed(config: Config, values: dict[str, object]) -> Config:
    """``config`` with other schedules: ``{"train.increment.lr": 0.1}``."""
    sections = {name: getattr(config.train, name) for name in ("increment", "finetune")}
    for key, value in values.items():
        _, name, field = key.split(".")
        sections[name] = sections[name].model_copy(update={field: value})
    return config.model_copy(update={"train": config.train.model_copy(update=sections)})


def fitted(config: Config, keys: Sequence[str], model: IncrementalRetinaNet, lessons: Lesson, method: Method) -> Config:
    """``config`` with the values of ``keys`` that fit the data and the memory of the device."""
    if not keys:
        return config
    if method.branch is not None:
        trunk = method.branch.trunk
        model = pupil(model) if trunk == "taught" else newcomer(model, lessons.names, trunk)
    device, architecture = device_named(config.engine.device), model.architecture
    shape = canvas_of(lessons.view.records, architecture, config.augment)
    if shape is None:  # a size is drawn, or nothing is resized: the largest there is
        sides = [max(record.width, record.height) for record in lessons.view.records]
        side = max(sides) if architecture.skip_resize else min(architecture.max_size, 2 * max(architecture.min_size))
        shape = (side, side)
    room = footprint(model, shape).images(int(MEMORY * free_memory(device)))
    if lessons.names:
        rarest = min(lessons.objects.get(name, 0) for name in lessons.names)
        found = fit(config.train.increment, lessons.view.images, rarest, room)
    else:
        found = refresh(config.train.increment, lessons.view.images, room)
    values: dict[str, object] = {
        "train.increment.iterations": found.iterations,
        "train.increment.epochs": None,
        "train.increment.batch_size": found.batch_size,
        "train.increment.lr": found.lr,
        "train.increment.warmup": found.warmup,
        "train.finetune.batch_size": found.batch_size,
    }
    return changed(config, {key: value for key, value in values.items() if key in keys})


def chosen_method(config: Config) -> Method:
    """The method of an extension.

    Raises:
        InputError: There is none of that name, or it learns from all steps at once.
    """
    method = get_method(config.methods[0], config.without, config.method)
    if method.joint:
        fix = "use another: incdet methods"
        raise InputError(Finding("command line", "method joint", "needs the data of all steps", fix))
    return method


def refuse_unfit(method: Method, model: IncrementalRetinaNet, names: Sequence[str], source: str) -> None:
    """Checks that ``method`` can do with this detector and these new classes what is asked for.

    Raises:
        InputError: Known classes are to be refreshed by a method that leaves them alone; or a detector of several
            networks is to grow in one.
    """
    if method.branch is not None and not names:
        problem = "show no new class, and the old ones are to be left exactly as they are"
        raise InputError(Finding(source, "annotations", problem, "refresh them with --keep balanced"))
    if method.branch is None and isinstance(model, PairedRetinaNet):
        problem = "is several networks side by side, as --keep strict and --method pair make them"
        fix = "extend it with --keep strict again, or with --method pair"
        raise InputError(Finding(source, "detector", problem, fix))


def refuse_idle(extension: Extension, method: Method, replays: bool) -> None:
    """Checks that every file that was named has a use.

    Raises:
        InputError: Old annotations where no exemplar is kept, or pictures of annotations that are not given.
    """
    findings = []
    measures = extension.validation > 0 and extension.test_annotations is None
    if extension.old_annotations is not None and not replays and not measures:
        problem = f"is not used: {method.name} with this memory keeps no exemplar"
        findings.append(Finding("command line", "--old-data", problem, "leave it out, or keep a memory"))
    for name in ("old", "test"):
        for part in ("images", "split"):
            if getattr(extension, f"{name}_annotations") is None and getattr(extension, f"{name}_{part}") is not None:
                fix = f"give --{name}-data too, or leave it out"
                findings.append(Finding("command line", f"--{name}-{part}", "is not used alone", fix))
    if findings:
        raise InputError(findings)


def _configured(call: Call, extension: Extension) -> Config:
    """The settings of the run that made the checkpoint, or the defaults, with what an extension has no use for gone."""
    run = run_of(Path(extension.checkpoint))
    refuse_unused(call.overrides, _ELSEWHERE, "incdet extend")
    way = _way(call)
    words = [f"methods=[{way.method}]", f"without=[{','.join(way.without)}]", *way.settings]
    words += [*(() if run else _FRESH), *call.overrides]
    config = load_config(run / CONFIG if run else None, words).model_copy(
        update={"extend": extension, "output": call.output}
    )
    own = {way.method: config.method[way.method]} if way.method in config.method else {}
    config = config.model_copy(update={"method": frozen_settings([way.method], own)})
    return parse_config(config.tree(), "settings")


def _way(call: Call) -> Way:
    if call.method is None:
        return WAYS[call.extension.keep or "balanced"]
    if call.extension.keep is not None:
        fix = "give one of the two: --keep chooses the method"
        raise InputError(Finding("command line", "--method", "is given beside --keep", fix))
    return Way(call.method)


def _value(config: Config, key: str) -> object:
    _, name, field = key.split(".")
    return getattr(getattr(config.train, name), field)
