"""A whole run: step 1 once, every method from it, the joint bound, one honest table."""

from __future__ import annotations

import copy
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from incdet.app.facts import facts
from incdet.app.progress import Display
from incdet.app.run_folder import RunFolder, claim, drop_states, refuse_other_run
from incdet.config import Config
from incdet.data.protocols import (
    Protocol,
    check_protocol,
    class_order,
    joint_view,
    parse_steps,
    step_view,
    subset,
)
from incdet.data.records import Record
from incdet.data.sources import Source, open_source
from incdet.errors import Finding, InputError
from incdet.evaluation.comparison import compare, table
from incdet.evaluation.detections import Detections, detect
from incdet.evaluation.match_file import load_matches, save_matches
from incdet.evaluation.metrics import Interval, Matches
from incdet.evaluation.results import Results
from incdet.evaluation.scoring import measure, paired_changes
from incdet.files import write_json
from incdet.memory.exemplars import Budget, Memory
from incdet.memory.manifest import load_memory, save_memory
from incdet.methods.method import Method
from incdet.methods.registry import frozen_settings, get_method
from incdet.network import checkpoint
from incdet.network.device import device_named
from incdet.network.retinanet import IncrementalRetinaNet
from incdet.report.html import write_report
from incdet.report.samples import pick_mistakes, pick_samples, save_mistakes, save_samples
from incdet.training.engine import Engine
from incdet.training.increment import TrainingSet, Workshop, choose_exemplars, learn_step, train
from incdet.training.log import RunLog, require_tensorboard
from incdet.training.schedule import Lengths, Phase
from incdet.training.worker import Worker
from incdet.vocab import Vocabulary

PLAIN = Method("base", "step 1: everything the step's images show")


@dataclass
class Run:
    """What every part of a run shares; made by ``run`` after all input has been checked."""

    config: Config
    source: Source
    protocol: Protocol
    folder: RunFolder
    engine: Engine
    display: Display
    samples: Sequence[Record]
    background: Worker

    @cached_property
    def lengths(self) -> Lengths:
        """Optimiser steps of every phase."""
        return Lengths.of(self.config.train, self.source.train, self.protocol)

    def shop(self, states: Path) -> Workshop:
        """What a phase needs that resumes from ``states``."""
        return Workshop(self.engine, self.config, self.lengths, states)

    def vocabulary(self, steps: int) -> Vocabulary:
        """The class vocabulary of the first ``steps`` steps."""
        return self.protocol.vocabulary(steps, self.source.source_ids)

    def measure(
        self,
        model: IncrementalRetinaNet,
        results: Results,
        step: int,
        folder: Path,
        *,
        states: Path | None = None,
        **known: Any,
    ) -> None:
        """Detects with ``model`` on the whole test set; scores and saves in the background, while training goes on.

        What is saved of ``step``: checkpoint, samples, and last of all results, which make the step a finished one.
        ``results`` has the step when ``background.wait()`` returns.

        Args:
            model: Copied, so that it may change afterwards.
            results: Those of the method.
            step: 1-based.
            folder: The method's.
            states: What the step would resume from; removed when its results are written.
            known: ``seconds`` of training, and what else ``Results.add_step`` takes.
        """
        self.background.wait()  # one step is scored at a time, for each holds a copy of its detector
        start = time.perf_counter()
        detections = self.detect(model, self.source.test, f"step {step} evaluate")
        # Without a test set the pictures to show are training pictures.
        shown = detections if self.source.test else self.detect(model, self.samples, f"step {step} samples")
        spent = time.perf_counter() - start
        snapshot = copy.deepcopy(model).cpu()

        def finish() -> None:
            start = time.perf_counter()
            names, old = snapshot.vocab.names, snapshot.vocab.old(step)
            found = measure(self.source.test, detections, names, old)
            moved, since = self.changes(found.matches, folder, step)
            seconds = {"train": known.pop("seconds"), "evaluate": spent + time.perf_counter() - start}
            results.add_step(
                step,
                found.scores,
                seconds=seconds,
                changes=moved,
                since=since,
                confusion=found.confusion,
                false_alarms=found.false_alarms,
                **known,
            )
            place = RunFolder.step(folder, step)
            save_matches(place, found.matches)
            mistakes = pick_mistakes(found.confusion.mistakes, old)
            save_samples(place, self.samples, shown, names, output=self.folder.root)
            save_mistakes(place, self.source.test, mistakes, output=self.folder.root)
            groups = results.groups(step)
            checkpoint.save(place, snapshot, history=history(results), metrics=dict(groups))
            results.save(folder / "results.json")
            if states is not None:
                drop_states(states)
            self.engine.log.write("step", method=results.method, step=step, **groups, seconds=seconds)
            parts = [f"{group} AP50 {100 * value:.1f}" for group, value in groups.items() if value is not None]
            self.display.say(f"{results.method} step {step}: {', '.join(parts) or 'no test object of a known class'}")

        self.background.submit(finish)

    def changes(
        self, now: Mapping[str, Matches], folder: Path, step: int
    ) -> tuple[dict[str, Interval], dict[str, Interval]]:
        """The AP50 changes of the old classes after ``step``: against the step before, and since they were learned.

        What is compared lies in the folders of the earlier steps, so that a resumed run says what another one says.
        """
        first: dict[str, Matches] = {}
        before: dict[str, Matches] = {}
        for earlier in range(1, step):
            before = self.stored_matches(folder, earlier)
            first = {**before, **first}
        moved = paired_changes(before, now, list(before))
        longer = [name for name in first if first[name] is not before.get(name)]
        return moved, {**moved, **paired_changes(first, now, longer)}

    def stored_matches(self, folder: Path, step: int) -> dict[str, Matches]:
        """How the detections after ``step`` were judged; empty where no part of the run kept it."""
        for place in (folder, self.folder.base):
            if (found := load_matches(RunFolder.step(place, step))) is not None:
                return found
        return {}

    def begin(self, name: str) -> None:
        """Says in the log and before the progress bar whose training comes next."""
        self.display.prefix = name
        self.engine.log.write("method", method=name)

    def detect(self, model: IncrementalRetinaNet, records: Sequence[Record], phase: str) -> dict[int, Detections]:
        """The detections of ``model`` on ``records``, with the progress of ``phase``."""
        settings, device = self.config.engine, self.engine.device
        return detect(
            model,
            records,
            batch_size=self.config.evaluation.batch_size,
            device=device,
            # On a CPU the forward uses every core itself.
            workers=min(settings.workers, os.cpu_count() or 1) if device.type == "cuda" else 0,
            precision=settings.precision,
            progress=lambda done, total: self.display.advance(phase, done, total),
        )

    def results(self, method: Method) -> Results:
        """Empty results of a method under this run's protocol."""
        return Results(method.name, self.config.seed, describe(self.config), self.protocol.to_json(), method.changed)


def run(config: Config, *, resume: bool = False, display: Display | None = None) -> Path:
    """Trains step 1 and every method of ``config`` from it, and writes the run folder.

    Returns:
        The run folder, with ``results.json`` of every method, ``comparison.json``, plots and ``report.html``.

    Raises:
        InputError: Anything that is wrong with configuration, data or run folder, before training starts.
        TrainingError: A loss was not finite.
    """
    device_named(config.engine.device, "key engine.device")
    methods = [get_method(name, config.without, config.method) for name in config.methods]
    config = config.model_copy(update={"method": frozen_settings(config.methods, config.method)})
    refuse_other_run(config, resume=resume)
    if config.engine.tensorboard:
        require_tensorboard()
    source, protocol = prepare_data(config)
    budget = Budget(config.memory.total, config.memory.per_class)
    if any(method.replay for method in methods):
        budget.quotas([name for step in protocol.steps for name in step])
    base = load_base(config, protocol)
    folder = claim(config)
    with (
        RunLog(folder.root, tensorboard=config.engine.tensorboard) as log,
        display or Display() as shown,
        Worker() as background,
    ):
        announce(protocol, source, folder, shown)
        engine = Engine(config.engine, log, shown)
        engine.say(engine.describe())
        log.write("start", **facts(config, source, engine.describe()))
        picked = pick_samples(source.test, protocol.steps, config.evaluation.samples)
        work = Run(config, source, protocol, folder, engine, shown, picked, background)
        joint = joint_view(source.train, protocol, len(protocol.steps)) if "joint" in config.methods else None
        engine.say(work.lengths.describe(None if joint is None else joint.images))
        first, first_results = learn_base(work, base)
        memory = Memory.empty(budget)
        if any(method.replay for method in methods):
            memory = remember_base(work, first, memory)
        finished = []
        for method in methods:
            work.begin(method.name)
            finished.append(
                learn_joint(work, method) if method.joint else learn_steps(work, method, first, first_results, memory)
            )
        conclude(work, finished)
    return folder.root


def prepare_data(config: Config) -> tuple[Source, Protocol]:
    """The records a run uses and the protocol over their classes.

    Raises:
        InputError: The data cannot be read, or lacks a class of the protocol.
    """
    source = open_source(config)
    rule = config.protocol
    steps = parse_steps(rule.steps, class_order(rule.order, source.names, source.source_ids))
    name = rule.steps if isinstance(rule.steps, str) else "+".join(str(len(step)) for step in steps)
    protocol = Protocol(name, rule.order, steps, rule.images, rule.old_labels)
    findings = check_protocol(protocol, source.train, source.names)
    if any(finding.severity == "error" for finding in findings):
        raise InputError([finding for finding in findings if finding.severity == "error"])
    limit, seed = config.data.limit, config.data.draw_seed
    source = source._replace(
        train=list(subset(source.train, protocol.names, limit.train, seed)),
        test=list(subset(source.test, protocol.names, limit.test, seed)),
        warnings=(*source.warnings, *findings),
    )
    return source, protocol


def announce(protocol: Protocol, source: Source, folder: RunFolder, display: Display) -> None:
    """Prints and stores what every step will see."""
    for warning in source.warnings:
        display.say(f"warning: {warning}")
    display.say(
        f"protocol {protocol.name}, order {protocol.order}, images {protocol.images}, hash {protocol.hash}; "
        f"{len(source.train)} training images, {len(source.test)} test images"
    )
    views = [step_view(source.train, protocol, step) for step in range(1, len(protocol.steps) + 1)]
    for view in views:
        display.say(view.describe())
    value = {"schema": 1, **protocol.to_json(), "views": [view.to_json() for view in views]}
    write_json(folder.root / "protocol.json", value)


def build_model(config: Config, vocabulary: Vocabulary) -> IncrementalRetinaNet:
    """The detector of ``config.model``; its weights are a function of the seed (and of the weights file)."""
    torch.manual_seed(config.seed)
    return IncrementalRetinaNet(config.model.architecture, vocabulary, config.model.weights)


def load_base(config: Config, protocol: Protocol) -> IncrementalRetinaNet | None:
    """The checkpoint that ``config.base`` names, checked against the protocol; None if step 1 is to be trained.

    Raises:
        InputError: The checkpoint cannot be read, or knows other classes than step 1.
    """
    if config.base is None:
        return None
    model = checkpoint.load(config.base).model
    if model.vocab.names != protocol.steps[0]:
        raise InputError(
            Finding(
                str(config.base),
                "class vocabulary",
                f"knows {', '.join(model.vocab.names)}",
                f"the protocol's step 1 has {', '.join(protocol.steps[0])}: use its own checkpoint or protocol",
            )
        )
    wanted, own = config.model.architecture.decisive(), model.architecture.decisive()
    # A weights file may bring its own epsilon, which no configuration names.
    differing = [name for name in wanted if wanted[name] != own[name] and name != "norm_eps"]
    if differing:
        name = differing[0]
        raise InputError(
            Finding(
                str(config.base),
                f"architecture, {name}",
                f"is {own[name]!r}, the configuration says {wanted[name]!r}",
                "give the model section that the checkpoint was trained with",
            )
        )
    return model


def learn_base(work: Run, given: IncrementalRetinaNet | None) -> tuple[IncrementalRetinaNet, Results]:
    """Step 1, trained, given or taken up from an earlier part of the run."""
    folder = work.folder.base
    if (folder / "results.json").is_file():
        return checkpoint.load(RunFolder.step(folder, 1)).model, Results.load(folder / "results.json")
    work.begin("base")
    results, view = work.results(PLAIN), step_view(work.source.train, work.protocol, 1)
    start = time.perf_counter()
    model, states = given, folder / "states"
    if model is None:
        model = build_model(work.config, work.vocabulary(1))
        records, schedule = TrainingSet(tuple(view.records)), work.config.train.base
        train(work.shop(states), model, PLAIN, {}, records, schedule, work.lengths.base(), Phase(1, "train"))
    model = model.to(work.engine.device)
    seconds = time.perf_counter() - start if given is None else None
    known: dict[str, Any] = {"train_images": view.images}
    if given is None:
        known["iterations"] = {"train": work.lengths.base()}
    work.measure(model.eval(), results, 1, folder, states=states, seconds=seconds, **known)
    return model, results


def remember_base(work: Run, model: IncrementalRetinaNet, memory: Memory) -> Memory:
    """The memory after step 1, the same for every method that replays."""
    path = work.folder.base / "memory" / "step_1.json"
    if path.is_file():
        return load_memory(path)
    model.to(work.engine.device)
    view = step_view(work.source.train, work.protocol, 1)
    memory = choose_exemplars(model, view.records, view.names, memory, work.config)
    return save_memory(memory, path, root=work.folder.root, copy_images=work.config.memory.copy_images)


def learn_steps(
    work: Run, method: Method, model: IncrementalRetinaNet, first: Results, memory: Memory, start: int = 2
) -> Results:
    """Steps ``start`` to T with ``method`` from the detector before; finished steps are not repeated on resuming."""
    folder = work.folder.method(method.name)
    results = work.results(method)
    if (folder / "results.json").is_file():
        results = Results.load(folder / "results.json")
    if not method.replay:
        memory = Memory.empty(memory.budget)
    kept = _size(memory)

    def adopt() -> None:
        one = first.steps[start - 1]
        results.add_step(start - 1, one.scores, one.train_images, kept, one.seconds, iterations=one.iterations)

    work.background.submit(adopt)  # the step before may not be scored yet
    for step in range(start, len(work.protocol.steps) + 1):
        place, manifest = RunFolder.step(folder, step), folder / "memory" / f"step_{step}.json"
        if step in results.steps:
            model = checkpoint.load(place).model
            memory = load_memory(manifest) if manifest.is_file() else memory
            continue
        states = folder / "states" / f"step_{step}"
        view = step_view(work.source.train, work.protocol, step)
        outcome = learn_step(work.shop(states), model.to(work.engine.device), view, memory, method)
        model, memory = outcome.model, outcome.memory
        if method.replay:
            memory = save_memory(memory, manifest, root=work.folder.root, copy_images=work.config.memory.copy_images)
        work.measure(
            model,
            results,
            step,
            folder,
            states=states,
            seconds=outcome.seconds,
            train_images=outcome.images,
            memory=_size(memory),
            iterations=outcome.iterations,
        )
    work.background.submit(lambda: drop_states(folder / "states"))
    return results


def learn_joint(work: Run, method: Method) -> Results:
    """The upper bound: all steps' images at once with all their labels, from the weights step 1 started from."""
    folder, last = work.folder.method(method.name), len(work.protocol.steps)
    if (folder / "results.json").is_file():
        return Results.load(folder / "results.json")
    results, view = work.results(method), joint_view(work.source.train, work.protocol, last)
    start = time.perf_counter()
    model = build_model(work.config, work.vocabulary(last))
    states = folder / "states"
    records, steps = TrainingSet(tuple(view.records)), work.lengths.joint(view.images)
    train(work.shop(states), model, method, {}, records, work.config.train.joint, steps, Phase(None, "train"))
    seconds = time.perf_counter() - start
    known: dict[str, Any] = {"train_images": view.images, "iterations": {"train": steps}}
    work.measure(model.eval(), results, last, folder, states=states, seconds=seconds, **known)
    return results


def conclude(work: Run, finished: Sequence[Results]) -> None:
    """Gaps to joint, comparison.json, the table, plots and the report, when the last step is scored."""
    work.background.wait()
    comparison = compare(finished)
    for results in finished:
        results.save(work.folder.method(results.method) / "results.json")
    write_json(work.folder.root / "comparison.json", comparison)
    work.display.say(table(finished))
    write_report(work.folder.root)
    work.display.say(f"wrote {work.folder.root}/report.html")


def describe(config: Config) -> str:
    """The detector in a few words, for tables."""
    model = config.model
    name = model.detector or f"RetinaNet {model.backbone} FPN-{model.channels}"
    return f"{name}, {'/'.join(str(size) for size in model.min_size)} px"


def history(results: Results) -> list[dict[str, Any]]:
    """The steps so far as a JSON value, for the checkpoint."""
    steps: list[dict[str, Any]] = json.loads(json.dumps(results.to_json()["steps"]))
    return steps


def _size(memory: Memory) -> dict[str, int | None]:
    return {"images": len(memory), "bytes": memory.bytes}
