"""The run folders of a suite: which of them hold what is asked for, whoever trained them.

Below ``OUTPUT/PROTOCOL/seed-S`` every folder (or link to one) with a ``config.yaml`` is a run of ``incdet train``, of
one method or several, whatever it is called. Step 1 is that of the run which trained it (``base: null``); the others
name its checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from incdet.app.run_folder import CONFIG, RunFolder, frozen_config, leaves
from incdet.config import Config
from incdet.errors import InputError
from incdet.evaluation.match_file import load_matches
from incdet.evaluation.metrics import Matches
from incdet.evaluation.results import Results
from incdet.methods.method import Method
from incdet.methods.registry import CAME_LATER, get_method, settings_tree
from incdet.seal import unsealed_lines
from incdet.training import log

Settings = dict[str, Any]
"""What decides a method's outcome, by dotted keys."""


class MethodRun(NamedTuple):
    """One method of one run folder.

    Attributes:
        root: The run folder.
        folder: Where the method's steps lie.
        base: Where step 1 lies.
        method: With the run's numbers.
        settings: What decides the outcome.
        frozen: The run's configuration.
    """

    root: Path
    folder: Path
    base: Path
    method: Method
    settings: Settings
    frozen: Config

    @property
    def results(self) -> Results | None:
        """Of a finished run: every step measured; None before."""
        path = self.folder / "results.json"
        found = Results.load(path) if path.is_file() else None
        return found if found is not None and found.last is not None else None

    def matches(self, step: int) -> dict[str, Matches]:
        """How the detections after ``step`` were judged; empty where that was not kept."""
        return load_matches(RunFolder.step(self.folder, step)) or {}

    def start(self) -> Mapping[str, Any]:
        """Commit, device and versions that the run's log names; those of its last start."""
        starts = [line for line in unsealed_lines(self.root / log.FILE) if line and line.get("event") == "start"]
        return starts[-1] if starts else {}


def runs_below(place: Path) -> Iterator[MethodRun]:
    """Every method of every run folder in ``place``; folders that cannot be read as runs are passed over."""
    for root in sorted(place.iterdir()) if place.is_dir() else ():
        if not (root / CONFIG).is_file():
            continue
        try:
            config = frozen_config(root / CONFIG)
            methods = [get_method(name, config.without, config.method) for name in config.methods]
        except InputError:
            continue  # of a method or a version that is not at hand
        folder = RunFolder(root, len(methods) == 1)
        # A run that was given its step 1 measures it again; the run that trained it knows what that took.
        for method in methods:
            values = deciding(config, method)
            yield MethodRun(root, folder.method(method.name), folder.base, method, values, config)


def trained_base(place: Path, settings: Settings) -> Path | None:
    """The folder of the finished step 1 that a run in ``place`` trained with the same settings, or None."""
    for run in runs_below(place):
        if run.frozen.base is None and same(_of_step_1(run.settings), _of_step_1(settings)):
            path = run.base / "results.json"
            if path.is_file() and Results.load(path).steps:
                return run.base
    return None


def deciding(config: Config, method: Method) -> Settings:
    """What decides the outcome of ``method``: not where things lie, nor what only other methods use."""
    values = config.model_dump(mode="json")
    for key in ("output", "base", "extend", "methods", "without", "evaluation", "method"):
        del values[key]
    del values["data"]["root"]
    if weights := values["model"]["weights"]:
        values["model"]["weights"] = Path(weights).name
    values["protocol"]["order"] = Path(values["protocol"]["order"]).name
    values["engine"] = {key: values["engine"][key] for key in ("precision", "accumulation")}
    if not method.joint:
        del values["train"]["joint"]
    return dict(leaves({**values, "method": {method.name: settings_tree(method)}}))


def same(before: Settings, now: Settings) -> bool:
    """Whether two of ``deciding`` are one; what one of them does not know was not there then, and did nothing."""
    later = {".".join(("method", *words)): value for words, value in CAME_LATER.items()}
    return all(now[key] == value for key, value in {**later, **before}.items() if key in now)


def digest(settings: Settings) -> str:
    """16 hex digits of settings; the seed does not count."""
    known = {key: value for key, value in settings.items() if key != "seed"}
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]


def _of_step_1(settings: Settings) -> Settings:
    sections = ("method.", "memory.", "train.increment.", "train.finetune.", "train.joint.")
    later = (*sections, "protocol.old_labels", "protocol.images_per_class", "protocol.hidden_share")
    own = {key: value for key, value in settings.items() if not key.startswith(later)}
    steps = own["protocol.steps"]
    if own["protocol.images"] != "partition":  # which shares images out among all steps
        own["protocol.steps"] = re.split(r"[+x]", steps)[0] if isinstance(steps, str) else steps[0]
    return own
