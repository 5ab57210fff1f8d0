"""Going back to an earlier step of a run: the later ones are set aside, and the run goes on from there."""

from __future__ import annotations

import os
from pathlib import Path

from incdet.app.lock import locked
from incdet.app.run_folder import CONFIG
from incdet.app.run_manifest import FILE, RunManifest
from incdet.errors import Finding, InputError
from incdet.evaluation.results import JOINT, Results

ASIDE = "rolled_back"
"""Folder of a run for what was set aside."""


def roll_back(root: Path, step: int) -> Path | None:
    """Makes a run one that has finished ``step`` and no later one; ``incdet train --resume`` learns them again.

    What the later steps left (checkpoints, memories, states, comparison, report) is moved to ``rolled_back/NUMBER`` in
    the run folder. The results lose the steps first, so that what is killed in between is a run that resumes, and that
    can be rolled back by the same call again.

    Args:
        root: The run folder; no process may work in it.
        step: The last step to keep, 1 or later.

    Returns:
        Where the later steps lie now; None if there were none.

    Raises:
        InputError: It is no run folder, is at work, or has not finished ``step``.
        OutputError: The disk refuses.
    """
    root = Path(root)
    if not (root / CONFIG).is_file():
        raise InputError(Finding(str(root), "run folder", "holds no run", "give the output folder of a run"))
    with locked(root):
        folders = _method_folders(root)
        loaded = {folder: Results.load(folder / "results.json") for folder in folders}
        kept = {folder: results for folder, results in loaded.items() if results.method != JOINT}
        for folder, results in kept.items():
            if step not in results.steps:
                known = ", ".join(map(str, results.steps)) or "none"
                problem = f"{results.method} has not finished step {step}, only {known}"
                raise InputError(Finding(str(folder / "results.json"), "steps", problem, f"give one of {known}"))
        for folder, results in kept.items():
            if max(results.steps) > step:
                results.steps = {number: result for number, result in results.steps.items() if number <= step}
                results.save(folder / "results.json")
        later = [path for folder in kept for path in _later(folder, step)]
        if not later:
            return None
        later += [path for path in (root / "comparison.json", root / "report.html") if path.exists()]
        if (root / FILE).is_file():
            RunManifest.load(root).forget(*later)
        aside = root / ASIDE / str(1 + len(list((root / ASIDE).glob("*"))))
        for path in later:
            target = aside / path.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
    return aside


def _method_folders(root: Path) -> list[Path]:
    """Folders of methods, the shared first step aside."""
    if (root / "results.json").is_file():
        return [root]
    found = sorted(path.parent for path in root.glob("*/results.json") if path.parent != root / "base")
    if not found:
        raise InputError(Finding(str(root), "run folder", "holds no results", "resume the run until a step is done"))
    return found


def _later(folder: Path, step: int) -> list[Path]:
    """What the steps after ``step`` left in a method's folder."""
    found = [*folder.glob("step_*"), *(folder / "memory").glob("step_*.json"), *(folder / "states").glob("step_*")]
    return sorted(path for path in found if _number(path) > step)


def _number(path: Path) -> int:
    digits = path.stem.removeprefix("step_").partition("_")[0]
    return int(digits) if digits.isdecimal() else 0
