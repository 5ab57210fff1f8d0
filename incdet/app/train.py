"""A whole run: step 1 once, every method from it, the joint bound, one honest table."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from incdet.app.annotations import picture_progress
from incdet.app.detector import build_model, describe, load_base
from incdet.app.progress import Display
from incdet.app.run import Run
from incdet.app.run_folder import RunFolder, drop_states
from incdet.app.steps import conclude, learn_steps, size_of
from incdet.config import Config
from incdet.data.datasets import Source, open_source
from incdet.data.protocols import (
    Protocol,
    check_protocol,
    class_order,
    joint_view,
    parse_steps,
    step_view,
    subset,
)
from incdet.errors import InputError
from incdet.evaluation.results import Results
from incdet.memory.exemplars import Budget, Memory
from incdet.methods.method import Method
from incdet.methods.registry import frozen_settings, get_method
from incdet.network import checkpoint
from incdet.network.retinanet import IncrementalRetinaNet
from incdet.training.increment import TrainingSet, choose_exemplars, grown
from incdet.training.increment import train as train_phase
from incdet.training.processes import Processes
from incdet.training.schedule import Phase

PLAIN = Method("base", "step 1: everything the step's images show")


def train(config: Config, *, resume: bool = False, display: Display | None = None) -> Path:
    """Trains step 1 and every method of ``config`` from it, and writes the run folder.

    Args:
        config: The settings; not those of an extension, which ``incdet.extend`` takes.
        resume: Go on with the run that the folder holds.
        display: Shows progress; by default on stdout.

    Returns:
        The run folder, with ``results.json`` of every method, ``comparison.json``, plots and ``report.html``.

    Raises:
        InputError: Anything that is wrong with configuration, data or run folder, before training starts.
        TrainingError: A loss was not finite.
        OutputError: The disk refuses; the run can be resumed.
    """
    methods = [get_method(name, config.without, config.method) for name in config.methods]
    config = config.model_copy(update={"method": frozen_settings(config.methods, config.method)})
    budget = Budget(config.memory.total, config.memory.per_class)
    replays = any(method.replay for method in methods)
    processes = Processes(config.engine.device)

    def prepared() -> tuple[Source, Protocol, IncrementalRetinaNet | None]:
        Run.require(config, resume=resume)
        source, protocol = prepare_data(config)
        if replays:
            budget.quotas([name for step in protocol.steps for name in step])
        return source, protocol, load_base(config, protocol)

    with processes.talking():
        source, protocol, base = processes.first(prepared)  # rank 0 draws, downloads and remembers for the others
    detector = describe(config.model.architecture)
    with Run.open(config, source, protocol, detector, resume=resume, display=display) as work:
        joint = joint_view(source.train, protocol, len(protocol.steps)) if any(one.joint for one in methods) else None
        work.engine.say(work.lengths.describe(None if joint is None else joint.images))
        first, first_results = learn_base(work, base)
        memory = Memory.empty(budget)
        if replays:
            memory = remember_base(work, first, memory)
        finished = []
        for method in methods:
            work.begin(method.name)
            if method.joint:
                finished.append(learn_joint(work, method, first))
            else:
                finished.append(learn_method(work, method, first, first_results, memory))
        conclude(work, finished)
    return work.folder.root


def prepare_data(config: Config) -> tuple[Source, Protocol]:
    """The records a run uses and the protocol over their classes.

    Raises:
        InputError: The data cannot be read, or lacks a class of the protocol.
    """
    with picture_progress() as progress:
        source = open_source(config, progress)
    rule = config.protocol
    steps = parse_steps(rule.steps, class_order(rule.order, source.names, source.source_ids))
    name = rule.steps if isinstance(rule.steps, str) else "+".join(str(len(step)) for step in steps)
    scarcity = (rule.images_per_class, rule.hidden_share)
    protocol = Protocol(name, rule.order, steps, rule.images, rule.old_labels, *scarcity)
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


def learn_base(work: Run, given: IncrementalRetinaNet | None) -> tuple[IncrementalRetinaNet, Results]:
    """Step 1, trained, given or taken up from an earlier part of the run."""
    folder = work.folder.base
    results, view = work.taken_up(folder, PLAIN), step_view(work.source.train, work.protocol, 1)
    if results.steps:
        drop_states(folder / "states")  # who was killed just after the results has left them
        return checkpoint.load(RunFolder.step(folder, 1)).model, results
    work.begin(PLAIN.name)
    start = time.perf_counter()
    model, states = given, folder / "states"
    if model is None:
        model = work.engine.processes.first(lambda: build_model(work.config, work.vocabulary(1)))
        records, schedule = TrainingSet(tuple(view.records)), work.config.train.base
        train_phase(work.shop(states), model, PLAIN, {}, records, schedule, work.lengths.base(), Phase(1, "train"))
    model = model.to(work.engine.device)
    seconds = time.perf_counter() - start if given is None else None
    known: dict[str, Any] = {"train_images": view.images}
    if given is None:
        known["iterations"] = {"train": work.lengths.base()}
    work.measure(model.eval(), results, 1, folder, states=states, seconds=seconds, **known)
    return model, results


def remember_base(work: Run, model: IncrementalRetinaNet, memory: Memory) -> Memory:
    """The memory after step 1, the same for every method that replays."""
    folder = work.folder.base
    if work.has_memory(folder, 1):
        return work.load_memory(folder, 1)
    model.to(work.engine.device)
    view = step_view(work.source.train, work.protocol, 1)
    chosen = choose_exemplars(work.engine, model, view.records, view.names, memory, work.config)
    return work.save_memory(chosen, folder, 1)


def learn_method(work: Run, method: Method, model: IncrementalRetinaNet, first: Results, memory: Memory) -> Results:
    """Every step after the first with ``method``, whose results begin with those of step 1."""
    results = work.taken_up(work.folder.method(method.name), method)
    if not method.replay:
        memory = Memory.empty(memory.budget)
    kept = size_of(memory)

    def adopt() -> None:
        one = first.steps[1]
        results.add_step(1, one.scores, one.train_images, kept, one.seconds, iterations=one.iterations)

    if 1 not in results.steps:
        work.background.submit(adopt)  # the step before may not be scored yet
    return learn_steps(work, method, model, memory, results)


def learn_joint(work: Run, method: Method, first: IncrementalRetinaNet) -> Results:
    """The upper bound: all steps' images at once with all their labels, from what step 1 began as or from its end."""
    folder, last = work.folder.method(method.name), len(work.protocol.steps)
    results = work.taken_up(folder, method)
    if results.steps:
        drop_states(folder / "states")
        return results
    view = joint_view(work.source.train, work.protocol, last)
    start = time.perf_counter()
    if work.config.train.joint.start == "step 1":
        model = first
        for step in range(2, last + 1):
            model = grown(work.config, model, step_view(work.source.train, work.protocol, step))
    else:
        model = work.engine.processes.first(lambda: build_model(work.config, work.vocabulary(last)))
    states = folder / "states"
    records, steps = TrainingSet(tuple(view.records)), work.lengths.joint(view.images)
    train_phase(work.shop(states), model, method, {}, records, work.config.train.joint, steps, Phase(None, "train"))
    seconds = time.perf_counter() - start
    known: dict[str, Any] = {"train_images": view.images, "iterations": {"train": steps}}
    work.measure(model.eval(), results, last, folder, states=states, seconds=seconds, **known)
    return results
