"""The run folder: claimed by one run, holding the frozen configuration and everything the run leaves behind."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

from incdet.config import Config, load_config
from incdet.errors import Finding, InputError

CONFIG = "config.yaml"


class RunFolder(NamedTuple):
    """Paths of a run; ``single`` runs keep the results of their one method at the top."""

    root: Path
    single: bool

    @property
    def base(self) -> Path:
        """Step 1, shared by the methods."""
        return self.root / "base"

    def method(self, name: str) -> Path:
        """Folder of a method."""
        return self.root if self.single else self.root / name

    @staticmethod
    def step(folder: Path, step: int) -> Path:
        """Checkpoint folder of a step below a method's folder."""
        return folder / f"step_{step}"


def refuse_other_run(config: Config, *, resume: bool) -> None:
    """Checks, before anything is read or written, that the run folder is free or holds this very run.

    Raises:
        InputError: The folder holds another run, or a run that was not asked to be resumed.
    """
    root, frozen = config.output, config.output / CONFIG
    if frozen.is_file():
        if not resume:
            raise InputError(
                Finding(
                    str(root),
                    CONFIG,
                    "the folder already holds a run",
                    "continue it with --resume, or name another folder with output=FOLDER",
                )
            )
        differing = _difference(load_config(frozen), config)
        if differing:
            raise InputError(
                Finding(
                    str(frozen),
                    f"key {differing[0]}",
                    "differs from the run that is to be resumed",
                    f"resume with the frozen file (--config {frozen}), or name another output",
                )
            )
    elif any((root / name).exists() for name in ("results.json", "comparison.json", "checkpoint.json")):
        raise InputError(
            Finding(
                str(root), "run folder", "holds the results of another run", "name another folder with output=FOLDER"
            )
        )


def claim(config: Config) -> RunFolder:
    """Makes the run folder and freezes the configuration in it, unless it is there already."""
    frozen = config.output / CONFIG
    if not frozen.is_file():
        config.dump(frozen)
    return RunFolder(config.output, len(config.methods) == 1)


def drop_states(folder: Path) -> None:
    """Removes the states that a finished step no longer needs to resume from."""
    shutil.rmtree(folder, ignore_errors=True)


def _difference(before: Config, now: Config) -> list[str]:
    """Keys whose values differ and decide the outcome; where and how a run is watched may change between its parts."""
    old, new = (_deciding(config.model_dump(mode="json")) for config in (before, now))
    return [key for key in new if old.get(key) != new[key]]


def _deciding(values: dict[str, Any]) -> dict[str, Any]:
    engine = values.pop("engine")
    values.pop("output")
    return {**values, "engine.precision": engine["precision"], "engine.accumulation": engine["accumulation"]}
