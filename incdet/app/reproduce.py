"""The benchmark of a suite: step 1 once for every seed, every method from it, and a table that grows run by run."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from incdet.app.progress import Display
from incdet.app.run_folder import CONFIG, RunFolder
from incdet.app.suite_document import SuiteDocument
from incdet.app.suite_runs import MethodRun, deciding, runs_below, same, trained_base
from incdet.app.suites import Entry, suite_named
from incdet.app.train import train
from incdet.config import Config, load_config
from incdet.errors import Finding, InputError, Terminated, suggest
from incdet.evaluation.results import Results, percent
from incdet.files import is_writer
from incdet.methods.registry import OWN, get_method
from incdet.report.suite import FIRST

ORDER = ("finetune", "incdet", "joint", "eeil")
"""Trained before the others: a table that was stopped early says the most then."""


class Wanted(NamedTuple):
    """One row that a suite is to have.

    Attributes:
        entry: Its protocol.
        seed: Of the run.
        word: The method as it was asked for, with the parts that it goes without after dashes.
        config: What trains it, without its folder and its step 1.
        place: Folder of all runs of this protocol and seed.
    """

    entry: Entry
    seed: int
    word: str
    config: Config
    place: Path

    @property
    def method_title(self) -> str:
        """The method and what was changed of it, as rows are called."""
        return get_method(self.config.methods[0], self.config.without, self.config.method).title


class Suite(NamedTuple):
    """What is asked for.

    Attributes:
        name: Of ``suites.SUITES``.
        methods: Names, with the parts that they go without after dashes (``incdet-kd_box``); empty takes the suite's.
        seeds: One run of everything for each.
        output: Runs go to ``output/PROTOCOL/seed-S/METHOD``; see ``suite_runs``.
        results: The table's JSON; the page lies beside it.
        configs: Folder of the configuration files.
        settings: ``key=value`` words for every run.
        command: What was typed.
        again: Measure rows anew from their run folders.
    """

    name: str
    methods: Sequence[str]
    seeds: Sequence[int]
    output: Path
    results: Path
    configs: Path
    settings: Sequence[str] = ()
    command: str = ""
    again: bool = False

    def wanted(self) -> list[Wanted]:
        """The rows, seed by seed; every configuration has been read and every method is known.

        Raises:
            InputError: A suite, method, part or setting is unknown, or a configuration cannot be read.
        """
        benchmark = suite_named(self.name)
        words = self.methods or benchmark.methods or [*ORDER, *(name for name in OWN if name not in ORDER)]
        of_methods = [word for word in self.settings if word.startswith("method.")]
        names = [word.split("-")[0] for word in words]
        for setting in of_methods:
            if setting.split(".")[1] not in names:
                raise InputError(
                    Finding("command line", setting, "is of no method of this suite", suggest(setting, names))
                )
        rows = []
        for seed in self.seeds:
            for entry in benchmark.entries:
                place = self.output / entry.name / f"seed-{seed}"
                for word in words:
                    name, *parts = word.split("-")
                    own = [f"methods={json.dumps([name])}", f"without={json.dumps(parts)}", f"seed={seed}"]
                    own += [setting for setting in of_methods if setting.split(".")[1] == name]
                    own.append(f"output={json.dumps(str(place / word))}")
                    common = [setting for setting in self.settings if setting not in of_methods]
                    config = load_config(self.configs / entry.config, [*entry.settings, *common, *own])
                    rows.append(Wanted(entry, seed, word, config, place))
                    rows[-1].method_title  # noqa: B018  an unknown method is refused before anything is trained
        return rows


def reproduce(suite: Suite, *, limit: float | None = None, display: Display | None = None) -> bool:
    """Trains what a suite lacks, and writes its table after every finished run.

    What is finished is not trained again: rows of the saved document whose settings are the same, and run folders below
    ``suite.output``. A run that was stopped goes on. A run in which another process works is left to it.

    Args:
        suite: What is wanted.
        limit: Seconds after which training is stopped, ready to go on; None never stops.
        display: Progress of the runs; stderr if None, for stdout gets one line per finished run.

    Returns:
        Whether the table is complete.

    Raises:
        InputError: See ``Suite.wanted`` and ``train``.
        TrainingError: A loss was not finite.
    """
    wanted = suite.wanted()
    study = bool(suite_named(suite.name).methods)
    document = SuiteDocument(suite.results, suite.name, suite.command, study=study)
    for row in wanted:
        about = " ".join([f"`configs/{row.entry.config}`", *(f"`{word}`" for word in row.entry.settings)])
        document.want(row.entry.name, about, {row.seed: [*([] if study else [FIRST]), row.method_title]})
    complete, stopped = True, threading.Event()
    try:
        with _limited(limit, stopped):
            for row in wanted:
                complete = _settle(suite, row, document, display) and complete
    except Terminated:
        if not stopped.is_set():
            raise
        _say("stopped at the time limit; the same command goes on")
        complete = False
    if is_writer():
        document.save()
    return complete


def _settle(suite: Suite, row: Wanted, document: SuiteDocument, display: Display | None) -> bool:
    """Takes a row from where it is, or trains it; whether the document has it now."""
    title = row.method_title
    settings = deciding(row.config, get_method(row.config.methods[0], row.config.without, row.config.method))
    if not suite.again and document.row(row.entry.name, row.seed, title, settings):
        return True
    run = _run_of(row, title, settings)
    results = run.results if run else None
    if results is None:
        try:
            train(_to_train(row, run, settings), resume=run is not None, display=display or _quiet())
        except InputError as error:
            if "is in use by" not in str(error):
                raise
            _say(f"{row.entry.name} seed {row.seed} {title}: another process is at it")
            return False
        run = _run_of(row, title, settings)
        results = run.results if run else None
    if run is None or results is None:
        return False
    if is_writer():
        _keep(suite, row, document, run, results)
    return True


def _run_of(row: Wanted, title: str, settings: dict[str, object]) -> MethodRun | None:
    """The run with these settings, a finished one before others."""
    runs = (run for place in _places(row.place) for run in runs_below(place))
    found = [run for run in runs if run.method.title == title and same(run.settings, settings)]
    return min(found, key=lambda run: run.results is None, default=None)


def _places(own: Path) -> list[Path]:
    """Where runs of a protocol and seed may lie: in a folder of its own, or in that of another protocol of the seed.

    Settings tell them apart, so that a study takes up what the benchmark has trained.
    """
    return [own, *sorted(place for place in own.parents[1].glob(f"*/{own.name}") if place != own)]


def _to_train(row: Wanted, run: MethodRun | None, settings: dict[str, object]) -> Config:
    """The configuration that begins the row, or goes on with ``run`` as it was frozen."""
    if run is not None:
        data = run.frozen.data.model_copy(update={"root": row.config.data.root})
        return run.frozen.model_copy(update={"output": run.root, "data": data, "engine": row.config.engine})
    bases = (trained_base(place, settings) for place in _places(row.place))
    base = next((base for base in bases if base is not None), None)
    output, number = row.place / row.word, 2
    while (output / CONFIG).exists():  # of other settings
        output, number = row.place / f"{row.word}.{number}", number + 1
    step_1 = None if base is None else RunFolder.step(base, 1).resolve()
    return row.config.model_copy(update={"output": output.absolute(), "base": step_1})


def _keep(suite: Suite, row: Wanted, document: SuiteDocument, run: MethodRun, results: Results) -> None:
    """Writes the row, and step 1's where this run trained it, and says so."""
    if run.frozen.base is None and (run.base / "results.json").is_file():
        first = run._replace(folder=run.base)
        document.add(row.entry.name, row.seed, FIRST, first, Results.load(run.base / "results.json"), 1)
    own = document.add(row.entry.name, row.seed, row.method_title, run, results, len(results.classes))["figures"]
    places = {other: suite.output / row.entry.name / f"seed-{other}" for other in _seeds(document, row.entry.name)}
    runs = [
        (seed, found.method.title, found)
        for seed, own_place in places.items()
        for place in _places(own_place)
        for found in runs_below(place)
        if (kept := document.row(row.entry.name, seed, found.method.title, found.settings))
        and found.results
        # The row may come from elsewhere: its figures tell whether these detections are the ones behind it.
        and kept["figures"]["all_AP50"] == found.results.summary["AP50"]
    ]
    document.compare(row.entry.name, runs)
    document.save()
    shown = ", ".join(f"{key} {percent(own[f'{key}_AP50'])}" for key in ("old", "new", "all"))
    minutes = "" if own["minutes"] is None else f", {own['minutes']:.1f} minutes"
    _say(f"{row.entry.name} seed {row.seed} {row.method_title}: AP50 {shown}{minutes}")


def _seeds(document: SuiteDocument, protocol: str) -> list[int]:
    return sorted({seed for name, seed, _ in document.rows if name == protocol})


@contextmanager
def _limited(seconds: float | None, stopped: threading.Event) -> Iterator[None]:
    """After ``seconds`` the process tells itself to end, as an operator does: the engine keeps its state first.

    Raises:
        Terminated: The time is over; ``stopped`` is set then, and was not by anybody else's signal.
    """
    if seconds is None:
        yield
        return
    over = threading.Event()

    def stop() -> None:
        stopped.set()
        os.kill(os.getpid(), signal.SIGTERM)

    def hear(*_: object) -> None:
        if not over.is_set():
            raise Terminated

    before = signal.signal(signal.SIGTERM, hear)
    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    try:
        timer.start()
        yield
    finally:
        over.set()
        timer.cancel()
        timer.join()  # a signal that it sent meanwhile has been heard
        signal.signal(signal.SIGTERM, before)


def _quiet() -> Display:
    return Display(Console(stderr=True, soft_wrap=True))


def _say(line: str) -> None:
    if is_writer():
        print(f"{time.strftime('%H:%M')} {line}", flush=True)
