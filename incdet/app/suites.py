"""The benchmarks of `tools/reproduce.py`: which configurations, with which settings, make a suite."""

from __future__ import annotations

from typing import NamedTuple

from incdet.errors import Finding, InputError, suggest


class Entry(NamedTuple):
    """One protocol of a suite.

    Attributes:
        name: In tables and folders.
        config: File below ``configs/``.
        settings: ``key=value`` words that make this protocol of the file.
    """

    name: str
    config: str
    settings: tuple[str, ...] = ()


class Benchmark(NamedTuple):
    """Protocols that are measured together.

    Attributes:
        entries: The protocols.
        methods: Those that are trained where none are named; empty takes all. A benchmark of some methods is a study:
            one table sets its entries beside each other.
    """

    entries: tuple[Entry, ...]
    methods: tuple[str, ...] = ()


_VOC20, _SMALL = "voc20/15+5.yaml", "voc20/small.yaml"
_OLD, _NEW = "bus, cat, cow, diningtable, dog", "horse, motorbike, sheep, sofa, tvmonitor"
_ONE_BY_ONE = ", ".join(f"[{name}]" for name in _NEW.split(", "))

SUITES: dict[str, Benchmark] = {
    "shapes": Benchmark((Entry("2x3", "shapes/demo.yaml"),)),
    "voc20-small": Benchmark((Entry("5+5", _SMALL),)),
    # One class at a time: a step has a third of the length, so that five of them cost what one table of 5+5 does.
    "voc20-small-steps": Benchmark(
        (Entry("5+1x5", _SMALL, (f"protocol.steps=[[{_OLD}], {_ONE_BY_ONE}]", "train.increment.iterations=300")),),
        ("finetune", "eeil", "lwf", "erd", "yolo_lwf", "incdet", "pair", "joint"),
    ),
    # 0, 1, 5, 10 and 20 % of the images of step 1; 5+5 itself keeps 50 (3 %).
    "voc20-small-memory": Benchmark(
        tuple(Entry(f"{n} exemplars", _SMALL, (f"memory.total={n}",)) for n in (0, 15, 75, 150, 300)),
        ("incdet", "yolo_lwf"),
    ),
    "voc20-small-images": Benchmark(
        (
            *(Entry(f"{n} images a class", _SMALL, (f"protocol.images_per_class={n}",)) for n in (10, 50)),
            Entry("all images", _SMALL),
        ),
        ("finetune", "lwf", "incdet"),
    ),
    "voc20-small-hidden": Benchmark(
        (
            Entry("no image with a hidden old object", _SMALL, ("protocol.hidden_share=0",)),
            Entry("as they are", _SMALL),
            Entry("half of the images", _SMALL, ("protocol.hidden_share=0.5",)),
            Entry("as they are, old labels used", _SMALL, ("protocol.old_labels=use",)),
        ),
        ("eeil", "pseudo", "incdet"),
    ),
    "voc20-small-order": Benchmark(
        (
            Entry("as it is", _SMALL),
            Entry("the other way round", _SMALL, (f"protocol.steps=[[{_NEW}], [{_OLD}]]",)),
        ),
        ("finetune", "lwf", "incdet", "joint"),
    ),
    "voc20-small-parts": Benchmark(
        (Entry("5+5", _SMALL),),
        ("incdet", *(f"incdet-{part}" for part in ("interim", "averaging", "replay", "mixup", "kd_box", "precedence"))),
    ),
    "voc20": Benchmark(
        (
            Entry("15+5", _VOC20),
            Entry("10+10", _VOC20, ("protocol.steps=10+10",)),
            Entry("19+1", _VOC20, ("protocol.steps=19+1",)),
            Entry("10+2x5", _VOC20, ("protocol.steps=10+2x5",)),
        )
    ),
    "coco80": Benchmark((Entry("40+40", "coco80/40+40.yaml"),)),
}

REHEARSAL = (
    "data.limit.train=60",
    "data.limit.test=20",
    "model.min_size=64",
    "model.max_size=64",
    "model.channels=16",
    "model.tower_depth=1",
    "train.base.iterations=2",
    "train.base.batch_size=4",
    "train.increment.iterations=2",
    "train.increment.batch_size=4",
    "train.finetune.iterations=1",
    "train.finetune.batch_size=4",
    "train.joint.iterations=2",
    "train.joint.batch_size=4",
    "memory.per_class=1",
    "engine.workers=0",
    "engine.precision=auto",
)
"""Settings with which every run of a suite goes from end to end in seconds, and finds nothing."""


def suite_named(name: str) -> Benchmark:
    """A suite's protocols and methods.

    Raises:
        InputError: There is no such suite.
    """
    if name not in SUITES:
        raise InputError(Finding("command line", "--suite", f"{name!r} is no suite", suggest(name, SUITES)))
    return SUITES[name]
