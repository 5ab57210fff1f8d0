"""Looking at all that a run left: is it what the run wrote, and are its data those that it saw?"""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path

import torch
import torchvision

import incdet
from incdet.app import data_digest
from incdet.app.extend_data import Given, lesson
from incdet.app.facts import code
from incdet.app.run import verify_earlier_part
from incdet.app.run_folder import CONFIG, frozen_config
from incdet.app.run_manifest import RunManifest
from incdet.app.train import prepare_data
from incdet.config import Config
from incdet.data.datasets import Source
from incdet.data.resize import Geometry
from incdet.errors import Finding, InputError
from incdet.evaluation.results import Results, read_json
from incdet.network.importing import load_detector
from incdet.seal import unsealed_lines
from incdet.training import log
from incdet.training.failure import FAILED_STEP, read_failure
from incdet.training.phase_state import read_state


def verify(root: Path, *, data: bool = True) -> list[str]:
    """Reads every file of a run that is read back, compares digests, and with ``data`` annotations and pictures too.

    Args:
        root: The run folder; nothing is written there.
        data: Compare the data with those that the run saw.

    Returns:
        What was looked at, in words.

    Raises:
        InputError: What is missing, damaged, edited or of another run, all of it.
    """
    root = Path(root)
    if not (root / CONFIG).is_file():
        raise InputError(Finding(str(root), "run folder", "holds no run", "give the output folder of a run"))
    manifest = RunManifest.load(root)
    checks: list[Callable[[], object]] = [
        lambda: manifest.verify_config(root / CONFIG),
        lambda: manifest.verify(root),
        lambda: verify_earlier_part(manifest),
    ]
    checks += [lambda path=path: read_json(path) for path in _documents(root)]  # type: ignore[misc]
    checks += [lambda path=path: Results.load(path) for path in sorted(root.rglob("results.json"))]  # type: ignore[misc]
    states = sorted(path for path in root.rglob("states/**/*.pt") if path.name != FAILED_STEP)
    checks += [lambda path=path: read_state(path, torch.device("cpu")) for path in states]  # type: ignore[misc]
    checks += [lambda path=path: read_failure(path) for path in sorted(root.rglob(FAILED_STEP))]  # type: ignore[misc]
    checks.append(lambda: _whole_log(root / log.FILE))
    if data:
        checks.append(lambda: data_digest.keep_or_compare(root, _data(frozen_config(root / CONFIG))))
    findings = [finding for check in checks for finding in _findings(check)]
    if findings:
        raise InputError(list(dict.fromkeys(findings)))  # what two checks find is told once
    return [*_made(manifest), f"{len(manifest.files)} files, {len(states)} states: as the run wrote them", _said(data)]


def _findings(check: Callable[[], object]) -> list[Finding]:
    try:
        check()
    except InputError as error:
        return error.findings
    return []


def _whole_log(path: Path) -> None:
    """Every line of the log is as it was written."""
    lines = [number for number, line in enumerate(unsealed_lines(path), start=1) if line is None]
    if lines:
        shown = ", ".join(map(str, lines[:5])) + (f" and {len(lines) - 5} more" if len(lines) > 5 else "")
        problem = f"{len(lines)} of its lines are not as they were written (line {shown})"
        fix = "delete them: the report leaves them out already, and nothing else is made of them"
        raise InputError(Finding(str(path), "log", problem, fix))


def _documents(root: Path) -> list[Path]:
    names = ("comparison.json", "protocol.json", "scores.json", "samples.json", "mistakes.json")
    return sorted(path for name in names for path in root.rglob(name))


def _data(config: Config) -> Source:
    if config.extend is None:
        return prepare_data(config)[0]
    extension = config.extend
    model = load_detector(extension.checkpoint, extension.arch, extension.known_classes)
    given = Given.read(extension, Geometry.smallest(model.architecture))
    return lesson(given, extension, model.vocab, config.seed).source


def _made(manifest: RunManifest) -> list[str]:
    """By what the run was made, and what of it is another one here."""
    if not manifest.makers:
        return ["made by a version that did not note its means"]
    last, names = manifest.makers[-1], ("incdet", "python", "torch", "torchvision", "code")
    here = (incdet.__version__, platform.python_version(), torch.__version__, torchvision.__version__, code())
    lines = [
        f"made in {len(manifest.makers)} part(s), last with " + ", ".join(f"{one} {last.get(one)}" for one in names)
    ]
    other = [f"{one} {now}" for one, now in zip(names, here, strict=True) if last.get(one) != now]
    return lines + ([f"here is another: {', '.join(other)}"] if other else [])


def _said(data: bool) -> str:
    return "data: annotations and pictures are those that the run saw" if data else "data: not looked at"
