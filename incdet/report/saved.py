"""A run folder, loaded: what a report is drawn from."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from incdet.errors import Finding, InputError
from incdet.evaluation.match_file import load_matches
from incdet.evaluation.metrics import Matches
from incdet.evaluation.results import JOINT, Results, read_json
from incdet.files import reading
from incdet.report.events import Log, Phase, read_log
from incdet.report.samples import load_mistakes, load_samples


@dataclass(frozen=True)
class SavedMethod:
    """One method of a run.

    Attributes:
        root: The run folder.
        folder: Where its steps lie.
        base: Where the shared first step lies.
        results: What it scored.
    """

    root: Path
    folder: Path
    base: Path
    results: Results

    @property
    def name(self) -> str:
        """Of the method."""
        return self.results.method

    @property
    def incremental(self) -> bool:
        """Whether it went step by step."""
        return self.name != JOINT

    def matches(self, step: int) -> dict[str, Matches]:
        """How the detections after ``step`` were judged; empty where that was not kept."""
        found = load_matches(self.folder / f"step_{step}")
        return (load_matches(self.base / f"step_{step}") if found is None else found) or {}

    def samples(self, step: int) -> list[dict[str, Any]]:
        """The sample entries after ``step``, with the paths of their pictures."""
        found = load_samples(self.folder / f"step_{step}") or load_samples(self.base / f"step_{step}") or []
        return self._with_paths(found, f"samples of step {step}")

    def mistakes(self) -> list[dict[str, Any]]:
        """The mistakes between old and new classes after the last step that was run."""
        found = load_mistakes(self.folder / f"step_{max(self.results.steps)}")
        return self._with_paths(found, "mistakes of the last step")

    def _with_paths(self, entries: list[dict[str, Any]], item: str) -> list[dict[str, Any]]:
        with reading(self.folder, item, "delete the file to draw the report without it"):
            return [{**entry, "image": str(self.root / entry["image"])} for entry in entries]

    def memory(self) -> dict[str, tuple[int, int]]:
        """(exemplar images, objects in them) of every class that has some after the last step, by class.

        Raises:
            InputError: The manifest is cut off.
        """
        last = max(self.results.steps)
        paths = [place / "memory" / f"step_{last}.json" for place in (self.folder, self.base)]
        path = next((path for path in paths if path.is_file()), None)
        if path is None or not self.incremental or not self.results.steps[last].memory["images"]:
            return {}
        with reading(path, "memory", "restore the file; a report needs it whole"):
            exemplars = json.loads(path.read_text(encoding="utf-8"))["exemplars"]
            images = {name: len(records) for name, records in exemplars.items()}
            objects = Counter(name for records in exemplars.values() for record in records for name in record["names"])
        return {name: (number, objects[name]) for name, number in images.items()}


@dataclass(frozen=True)
class SavedRun:
    """What a run folder holds.

    Attributes:
        root: The folder.
        methods: In the order of comparison.json.
        config: The frozen configuration's text, empty if there is none.
        protocol: The content of protocol.json, None if there is none.
        log: What log.jsonl says.
        parts: The runs that were put side by side; none for a run of its own.
    """

    root: Path
    methods: tuple[SavedMethod, ...]
    config: str
    protocol: dict[str, Any] | None
    log: Log
    parts: tuple[SavedRun, ...] = ()

    @property
    def results(self) -> list[Results]:
        """Of every method."""
        return [method.results for method in self.methods]

    @classmethod
    def load(cls, root: Path | str) -> SavedRun:
        """Reads OUTPUT/results.json, or OUTPUT/<method>/results.json in the order of comparison.json.

        Raises:
            InputError: There are no results, or a file cannot be read.
        """
        root = Path(root)
        files = [root / "results.json"] if (root / "results.json").is_file() else sorted(root.glob("*/results.json"))
        loaded = [(path.parent, Results.load(path)) for path in files if path.parent != root / "base"]
        loaded = [(folder, results) for folder, results in loaded if results.steps]
        if not loaded:
            raise InputError(Finding(str(root), "run folder", "holds no results", "give the output folder of a run"))
        order: list[str] = []
        if (root / "comparison.json").is_file():
            with reading(root / "comparison.json", "methods", "delete the file to draw the report without it"):
                order = list(read_json(root / "comparison.json").get("methods", {}))
        rank = {method: place for place, method in enumerate(order)}
        last = len(rank)
        loaded.sort(key=lambda item: (rank.get(item[1].method, last), item[1].method == JOINT, item[1].method))
        config, protocol = root / "config.yaml", root / "protocol.json"
        return cls(
            root,
            tuple(SavedMethod(root, folder, root / "base", results) for folder, results in loaded),
            config.read_text(encoding="utf-8", errors="replace") if config.is_file() else "",
            read_json(protocol) if protocol.is_file() else None,
            read_log(root / "log.jsonl"),
        )

    @classmethod
    def beside(cls, runs: Sequence[SavedRun]) -> SavedRun:
        """Several runs as one; methods of one name get that of their run before it.

        Of several joint runs, which differ in nothing but chance, the first one stays as the upper bound.
        """
        counts = Counter(method.name for run in runs for method in run.methods)
        methods: list[SavedMethod] = []
        phases: list[Phase] = []
        for run, name in zip(runs, _names([run.root for run in runs]), strict=True):
            renamed = {method: f"{name}/{method}" for method, count in counts.items() if count > 1 and method != JOINT}
            for method in run.methods:
                if method.incremental or all(other.incremental for other in methods):
                    results = method.results.renamed(renamed.get(method.name, method.name))
                    methods.append(replace(method, results=results))
            for phase in run.log.phases:
                known = phase.method if phase.method in counts else f"{name}/{phase.method}"
                phases.append(replace(phase, method=renamed.get(phase.method, known)))
        methods.sort(key=lambda method: not method.incremental)
        first = runs[0]
        return cls(first.root, tuple(methods), "", first.protocol, Log([], phases), tuple(runs))


def _names(roots: Sequence[Path]) -> list[str]:
    """A short name of each folder: its own, without what all begin with; numbers where those are alike."""
    names = [root.resolve().name for root in roots]
    common = re.match(r"(.*[_\-. ])?", os.path.commonprefix(names))
    short = [name[len(common[0]) if common else 0 :] for name in names]
    return short if all(short) and len(set(short)) == len(short) else [str(n) for n in range(1, len(names) + 1)]
