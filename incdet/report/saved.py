"""A run folder, loaded: what a report is drawn from."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from incdet.errors import Finding, InputError
from incdet.evaluation.match_file import load_matches
from incdet.evaluation.metrics import Matches
from incdet.evaluation.results import JOINT, Results, read_json
from incdet.report.events import Log, read_log
from incdet.report.samples import load_mistakes, load_samples


@dataclass(frozen=True)
class SavedMethod:
    """One method of a run.

    Attributes:
        folder: Where its steps lie.
        base: Where the shared first step lies.
        results: What it scored.
    """

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
        """The sample entries after ``step``."""
        return load_samples(self.folder / f"step_{step}") or load_samples(self.base / f"step_{step}") or []

    def mistakes(self) -> list[dict[str, Any]]:
        """The mistakes between old and new classes after the last step that was run."""
        return load_mistakes(self.folder / f"step_{max(self.results.steps)}")

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
        try:
            exemplars = json.loads(path.read_text(encoding="utf-8"))["exemplars"]
            images = {name: len(records) for name, records in exemplars.items()}
            objects = Counter(name for records in exemplars.values() for record in records for name in record["names"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            fix = "restore the file; a report needs it whole"
            raise InputError(Finding(str(path), "memory", f"cannot be read ({error!r})", fix)) from None
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
    """

    root: Path
    methods: tuple[SavedMethod, ...]
    config: str
    protocol: dict[str, Any] | None
    log: Log

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
            order = list(read_json(root / "comparison.json").get("methods", {}))
        rank = {method: place for place, method in enumerate(order)}
        last = len(rank)
        loaded.sort(key=lambda item: (rank.get(item[1].method, last), item[1].method == JOINT, item[1].method))
        config, protocol = root / "config.yaml", root / "protocol.json"
        return cls(
            root,
            tuple(SavedMethod(folder, root / "base", results) for folder, results in loaded),
            config.read_text(encoding="utf-8", errors="replace") if config.is_file() else "",
            read_json(protocol) if protocol.is_file() else None,
            read_log(root / "log.jsonl"),
        )
