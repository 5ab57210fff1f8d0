"""One run at work: its folder, log, display, engine and worker, and what is kept of every step."""

from __future__ import annotations

import copy
import json
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from incdet.app import data_digest
from incdet.app.facts import facts, maker
from incdet.app.history import history, shortened
from incdet.app.progress import Display
from incdet.app.regression import refuse_regression, refuse_unmeasured
from incdet.app.run_folder import CONFIG, RunFolder, claim, difference, drop_states, leaves, refuse_other_run
from incdet.app.run_manifest import RunManifest
from incdet.config import Config
from incdet.data.datasets import Source
from incdet.data.protocols import Protocol, step_view
from incdet.data.records import Record
from incdet.errors import Finding, InputError
from incdet.evaluation.calibrate import calibrate
from incdet.evaluation.detections import Detections, detect
from incdet.evaluation.match_file import load_matches, save_matches
from incdet.evaluation.metrics import Interval, Matches, paired_changes
from incdet.evaluation.results import Results
from incdet.evaluation.scoring import measure
from incdet.memory.exemplars import Memory
from incdet.memory.manifest import load_memory, save_memory
from incdet.methods.method import Method
from incdet.network import checkpoint
from incdet.network.device import deterministic, device_named
from incdet.network.retinanet import IncrementalRetinaNet
from incdet.report.samples import pick_mistakes, pick_samples, save_mistakes, save_samples
from incdet.seal import write_sealed
from incdet.training.engine import Engine
from incdet.training.increment import Workshop
from incdet.training.log import RunLog
from incdet.training.processes import Processes
from incdet.training.schedule import Lengths
from incdet.training.trackers import require_trackers
from incdet.training.worker import Worker
from incdet.vocab import Vocabulary


@dataclass
class Run:
    """What every part of a run shares; made by ``Run.open`` after all input has been checked.

    Attributes:
        config: The settings, as frozen in the folder.
        source: The records.
        protocol: The steps.
        detector: What is trained, in a few words, for tables.
        folder: Where everything goes; held by this process alone.
        manifest: Which files of the folder are finished.
        engine: Trains.
        display: Shows progress.
        samples: The pictures that the report shows.
        background: Scores and saves while training goes on.
    """

    config: Config
    source: Source
    protocol: Protocol
    detector: str
    folder: RunFolder
    manifest: RunManifest
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

    @staticmethod
    def require(config: Config, *, resume: bool) -> None:
        """Checks of machine and folder that need no data, so that they come before data are read.

        Raises:
            InputError: No such device, a tracker is not installed, or the folder is not free; see ``refuse_other_run``.
        """
        device_named(config.engine.device, "key engine.device")
        require_trackers(config.engine.trackers)
        refuse_other_run(config, resume=resume)

    @classmethod
    @contextmanager
    def open(
        cls,
        config: Config,
        source: Source,
        protocol: Protocol,
        detector: str,
        *,
        resume: bool = False,
        display: Display | None = None,
    ) -> Iterator[Run]:
        """The run at work, for the length of a ``with`` block; leaving it waits for what is scored in the background.

        Raises:
            InputError: The folder is not free, or what it holds of an earlier part does not fit; it is as it was then.
        """
        refuse_unmeasured(config, source)
        processes = Processes(config.engine.device)
        with processes.talking(), ExitStack() as held:
            opened = processes.once(lambda: held.enter_context(_opened(config, source, resume)))
            folder, manifest, changed = opened
            processes.together(lambda: require_shared(folder))
            with (
                deterministic(config.engine.deterministic),
                RunLog(folder.root, trackers=config.engine.trackers, settings=dict(leaves(config.tree()))) as log,
                display or Display() as shown,
                Worker(idle=not processes.main) as background,
            ):
                announce(protocol, source, folder, shown)
                engine = Engine(config.engine, log, shown)
                engine.say(engine.describe())
                if processes.main:
                    found = facts(config, source, engine.describe())
                    log.write("start", **found)
                    if moved := manifest.add_maker(maker(found)):
                        engine.say(f"made so far with other means, so the last digits may differ: {'; '.join(moved)}")
                if changed:
                    engine.say(f"changed since the run began: {', '.join(changed)}")
                samples = pick_samples(source.test or source.train, protocol.steps, config.evaluation.samples)
                yield cls(config, source, protocol, detector, folder, manifest, engine, shown, samples, background)

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
        # One step is scored at a time, for each holds a copy of its detector.
        self.engine.processes.once(self.background.wait)
        start = time.perf_counter()
        detections = self.detect(model, self.source.test, f"step {step} evaluate")
        # Without a test set the pictures to show are training pictures.
        shown = detections if self.source.test else self.detect(model, self.samples, f"step {step} samples")
        spent = time.perf_counter() - start
        if not self.engine.processes.main:
            self._await_verdict()
            return
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
            snapshot.calibration = calibrate(found.matches, "the run's test images", before=snapshot.calibration)
            refuse_regression(results, step, place, snapshot, self.config.evaluation.max_old_drop)
            save_matches(place, found.matches)
            mistakes = pick_mistakes(found.confusion.mistakes, old)
            save_samples(place, self.samples, shown, names, output=self.folder.root)
            save_mistakes(place, self.source.test, mistakes, output=self.folder.root)
            groups = results.groups(step)
            checkpoint.save(place, snapshot, history=history(results), metrics=dict(groups))
            self.manifest.record(place, RunFolder.memory(folder, step))
            results.save(folder / "results.json")
            if states is not None:
                drop_states(states)
            self.engine.log.write("step", method=results.method, step=step, **groups, seconds=seconds)
            known_groups = {f"{group} AP50": value for group, value in groups.items() if value is not None}
            self.engine.log.track(f"{results.method} steps", known_groups, step)
            parts = [f"{group} AP50 {100 * value:.1f}" for group, value in groups.items() if value is not None]
            self.display.say(f"{results.method} step {step}: {', '.join(parts) or 'no test object of a known class'}")

        self.background.submit(finish)
        self._await_verdict()

    def _await_verdict(self) -> None:
        """Where a step may be refused, the next one does not begin before it is scored."""
        if self.config.evaluation.max_old_drop is not None:
            self.engine.processes.once(self.background.wait)

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
        self.display.prefix = self.engine.log.prefix = name
        self.engine.owner = f"{self.manifest.identity} {name}"
        self.engine.log.write("method", method=name)

    def detect(self, model: IncrementalRetinaNet, records: Sequence[Record], phase: str) -> dict[int, Detections]:
        """The detections of ``model`` on ``records``, with the progress of ``phase``; each process has its share."""
        settings, device, processes = self.config.engine, self.engine.device, self.engine.processes
        size = self.config.evaluation.batch_size
        mine = [records[place] for place in processes.share(records, size)]
        found = detect(
            model,
            mine,
            batch_size=size,
            device=device,
            # On a CPU the forward uses every core itself.
            workers=min(settings.workers, os.cpu_count() or 1) if device.type == "cuda" else 0,
            precision=settings.precision,
            progress=lambda done, total: self.display.advance(phase, done, total),
        )
        return {image: one for part in processes.gathered(found) for image, one in part.items()}

    def taken_up(self, folder: Path, method: Method) -> Results:
        """The results of an earlier part of the run in a method's folder; empty ones where there are none."""
        path = folder / "results.json"
        # Rank 0 may write it soon after it has looked.
        results = self.engine.processes.once(lambda: Results.load(path) if path.is_file() else None)
        if results is None:
            return self.results(method)
        steps = ", ".join(map(str, results.steps))
        self.engine.say(f"{method.name}: finished in an earlier part of the run: step {steps}")
        return results

    def save_memory(self, memory: Memory, folder: Path, step: int) -> Memory:
        """Keeps the memory after ``step`` in a method's folder; returns it as it was saved."""
        copies, path = self.config.memory.copy_images, RunFolder.memory(folder, step)
        return self.engine.processes.once(lambda: save_memory(memory, path, root=self.folder.root, copy_images=copies))

    def load_memory(self, folder: Path, step: int) -> Memory:
        """The memory after a finished ``step``.

        Raises:
            InputError: The manifest or one of its pictures is missing or was changed.
        """
        return self.engine.processes.once(lambda: load_memory(RunFolder.memory(folder, step)))

    def has_memory(self, folder: Path, step: int) -> bool:
        """Whether an earlier part of the run has kept the memory after ``step``."""
        return self.engine.processes.once(RunFolder.memory(folder, step).is_file)

    def results(self, method: Method) -> Results:
        """Empty results of a method under this run's protocol."""
        return Results(method.name, self.config.seed, self.detector, self.protocol.to_json(), method.changed)


class _Opened(NamedTuple):
    """What was found in a run folder, and which settings have changed since."""

    folder: RunFolder
    manifest: RunManifest
    changed: list[str]


@contextmanager
def _opened(config: Config, source: Source, resume: bool) -> Iterator[_Opened]:
    """The folder, claimed, and what an earlier part of the run left in it, compared."""
    frozen = config.output / CONFIG
    changed = difference(frozen, config) if frozen.is_file() else []
    with claim(config, resume=resume) as folder:
        manifest = RunManifest.open(folder.root)
        if not manifest.configs:  # none in a run of before, and in one that begins
            manifest.add_config(frozen.read_text(encoding="utf-8"))
        data_digest.keep_or_compare(folder.root, source)
        verify_earlier_part(manifest)
        yield _Opened(folder, manifest, changed)


def require_shared(folder: RunFolder) -> None:
    """Checks that this process, on whatever machine, sees the folder that rank 0 has claimed.

    Raises:
        InputError: It does not.
    """
    if not (folder.root / CONFIG).is_file():
        problem = f"is not seen by the processes on {platform.node()}"
        fix = "name a folder on a disk that all machines share"
        raise InputError(Finding(str(folder.root), "run folder", problem, fix))


def verify_earlier_part(manifest: RunManifest) -> None:
    """Checks what an earlier part of the run left and this one is to build on, before anything is trained.

    Raises:
        InputError: A checkpoint, results, a memory or one of its pictures are not what the run wrote.
    """
    places = [manifest.root, *(place for place in manifest.root.iterdir() if not (place / CONFIG).is_file())]
    for path in sorted(place / "results.json" for place in places if (place / "results.json").is_file()):
        folder, results = path.parent, Results.load(path)
        for step in results.steps:
            manifest.verify(RunFolder.step(folder, step), RunFolder.memory(folder, step))
        last = max(results.steps, default=0)
        description = RunFolder.step(folder, last) / checkpoint.DESCRIPTION
        if description.is_file():
            known = json.loads(description.read_text(encoding="utf-8"))["history"]
            if shortened(known) != history(results):
                fix = "put back the file that the run wrote, or begin a new run in another folder"
                raise InputError(Finding(str(path), "steps", "are not those that the last checkpoint knows of", fix))
        if RunFolder.memory(folder, last).is_file():
            load_memory(RunFolder.memory(folder, last))


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
    write_sealed(folder.root / "protocol.json", value)
