"""The run folder: claimed by one run, holding the frozen configuration and everything the run leaves behind."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from incdet.app import data_digest, run_manifest
from incdet.app.lock import locked
from incdet.app.run_manifest import RunManifest
from incdet.config import Config, load_config
from incdet.config.yamlfile import read_yaml
from incdet.errors import Finding, InputError
from incdet.files import is_writer, require_output
from incdet.methods.registry import before_it_was_there
from incdet.training.failure import FAILED_STEP

CONFIG = "config.yaml"
RESCUES = re.compile(r"train\.\w+\.(lr|warmup|clip)|engine\.precision")
"""What may change when a run goes on that stopped at a loss that was not finite."""
_OPENING = (CONFIG, "log.jsonl", "protocol.json", data_digest.FILE, run_manifest.FILE)


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

    @staticmethod
    def memory(folder: Path, step: int) -> Path:
        """Memory manifest of a step below a method's folder."""
        return folder / "memory" / f"step_{step}.json"


def is_frozen(file: Path) -> bool:
    """Whether ``file`` is the configuration that a run froze in its folder."""
    return file.name == CONFIG and (file.parent / "log.jsonl").is_file()


def frozen_config(file: Path, overrides: Sequence[str] = ()) -> Config:
    """The configuration of the run in whose folder ``file`` lies, wherever that folder was copied to.

    ``overrides`` are ``key=value`` words; what the run's version did not know does nothing, unless they name it.
    """
    methods = read_yaml(file).get("method")
    missing = before_it_was_there(methods) if isinstance(methods, dict) else []
    return load_config(file, [f"output={json.dumps(str(file.resolve().parent))}", *missing, *overrides])


def refuse_other_run(config: Config, *, resume: bool) -> None:
    """Checks, before anything is read or written, that the run folder is free or holds this very run.

    Raises:
        InputError: The folder cannot be written, or holds another run, or a run that was not asked to be resumed.
    """
    if not is_writer():  # rank 0 looks, and claims, for all
        return
    root, frozen = config.output, config.output / CONFIG
    require_output(root, folder=True)
    if frozen.is_file():
        if resume and (root / run_manifest.FILE).is_file():
            RunManifest.load(root).verify_config(frozen)
        if not resume:
            raise InputError(
                Finding(
                    str(root),
                    CONFIG,
                    "the folder already holds a run",
                    "continue it with --resume, or name another folder with output=FOLDER",
                )
            )
        stuck = any(root.rglob(FAILED_STEP))
        differing = [key for key in difference(frozen, config) if not (stuck and RESCUES.fullmatch(key))]
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


@contextmanager
def claim(config: Config, *, resume: bool = False) -> Iterator[RunFolder]:
    """Holds the run folder for this process, with the configuration frozen in it.

    A run that is refused before it has learned anything leaves a folder as it found it.

    Raises:
        InputError: See ``refuse_other_run``, or another process works in the folder.
    """
    folder = RunFolder(config.output, len(config.methods) == 1)
    if not is_writer():
        yield folder
        return
    refuse_other_run(config, resume=resume)
    existed = folder.root.exists()
    try:
        with _held(config, resume) as fresh:
            try:
                yield folder
            except InputError:
                if fresh and not any(folder.root.rglob("*.pt")) and not any(folder.root.rglob("checkpoint.json")):
                    for name in _OPENING:
                        (folder.root / name).unlink(missing_ok=True)
                raise
    except InputError:
        if not existed:
            with contextlib.suppress(OSError):  # data that were drawn into it stay
                folder.root.rmdir()
        raise


@contextmanager
def _held(config: Config, resume: bool) -> Iterator[bool]:
    """The lock, and the frozen configuration; gives whether the run begins here."""
    frozen = config.output / CONFIG
    config.output.mkdir(parents=True, exist_ok=True)
    with locked(config.output):
        refuse_other_run(config, resume=resume)  # again, for another may have come in between
        fresh = not frozen.is_file()
        if fresh or difference(frozen, config):
            _announce_config(config)
            config.dump(frozen)
        yield fresh


def _announce_config(config: Config) -> None:
    """Tells the manifest of a configuration that is about to be frozen, where it knows the one before."""
    if (config.output / run_manifest.FILE).is_file():
        manifest = RunManifest.load(config.output)
        if manifest.configs:
            manifest.add_config(config.document())


def drop_states(folder: Path) -> None:
    """Removes the states that a finished step no longer needs to resume from."""
    shutil.rmtree(folder, ignore_errors=True)


def difference(frozen: Path, config: Config) -> list[str]:
    """Keys of ``config`` that differ from a frozen one and decide the outcome.

    Where and how a run is watched may change between its parts, and where its data lie, for their content is compared.
    """
    before, now = (_deciding(one.model_dump(mode="json")) for one in (frozen_config(frozen), config))
    moved = {"data.root"} if (frozen.parent / data_digest.FILE).is_file() else set()
    differing = [key for key in {**now, **before} if before.get(key) != now.get(key) and key not in moved]
    added = [key for key in differing if key.startswith("method.") and key not in before]
    if added:  # by a later version, whose own value of a part that was not there is that it does nothing
        from incdet.methods.registry import frozen_settings

        own = dict(leaves({"method": frozen_settings(config.methods, {})}))
        differing = [key for key in differing if key not in added or now[key] != own.get(key)]
    return differing


def _deciding(values: dict[str, Any]) -> dict[str, Any]:
    engine = values.pop("engine")
    values.pop("output")
    values["evaluation"].pop("max_old_drop")
    kept = {f"engine.{key}": engine[key] for key in ("precision", "accumulation")}
    return {**dict(leaves(values)), **kept}


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys of nested sections, with their values."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
