"""Every reader of incdet with good files of its own, to be spoilt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from incdet.app.run_manifest import RunManifest
from incdet.config import load_config
from incdet.data.formats.convert import FORMATS, convert
from incdet.data.formats.reader import recognise
from incdet.distillation import cache_file
from incdet.distillation.cache_file import CachedTargets, Key, Ragged
from incdet.evaluation.match_file import load_matches
from incdet.evaluation.results import Results
from incdet.memory.manifest import load_memory
from incdet.network import checkpoint
from incdet.report.saved import SavedRun
from incdet.training.phase_state import PhaseState, read_state
from trust.scene import Scene

SUFFIXES = (".json", ".xml", ".txt", ".yaml", ".csv")


class Reader(NamedTuple):
    """What is fuzzed.

    Attributes:
        name: On the command line.
        files: Good ones, of which one at a time is spoilt.
        read: Reads them all, as incdet does.
    """

    name: str
    files: list[Path]
    read: Callable[[], Any]


def readers(root: Path) -> list[Reader]:
    """All of them, on files below ``root``, which are made there by a short run."""
    scene = Scene.train(root)
    run = root / "run"
    ended = scene.run(run)
    if ended.code:
        raise RuntimeError(f"the run fails without any disturbance:\n{ended.said}")
    state, cache, key = root / "train.pt", root / "cache.safetensors", Key("teacher", "data", "rule")
    _write_state(state)
    _write_cache(cache, key)
    last = run / "step_3"
    logged = [run / name for name in ("results.json", "scores.json", "comparison.json", "protocol.json", "log.jsonl")]
    return [
        *(_annotations(run, root, name) for name in FORMATS),
        Reader("checkpoint", [last / checkpoint.DESCRIPTION, last / checkpoint.TENSORS], lambda: checkpoint.load(last)),
        Reader("cache", [cache], lambda: cache_file.load(cache, key)),
        Reader("state", [state], lambda: read_state(state, torch.device("cpu"))),
        Reader("manifest", [run / "run.json"], lambda: RunManifest.load(run)),
        Reader("memory", [run / "memory" / "step_3.json"], lambda: load_memory(run / "memory" / "step_3.json")),
        Reader("results", logged[:2], lambda: Results.load(run / "results.json")),
        Reader("report", [*logged, last / "samples.json"], lambda: _report(run)),
        Reader("matches", [last / "matches.npz"], lambda: load_matches(last)),
        Reader("config", [root / "settings.yaml", run / "config.yaml"], lambda: _configs(root)),
    ]


def _annotations(run: Path, root: Path, name: Any) -> Reader:
    out = root / name
    drawn = next((run / "data").iterdir())
    convert(drawn / "test.json", name, out)

    def read() -> None:
        found = recognise(out)
        for split in found.splits:
            found.read(split)

    return Reader(name, [path for path in sorted(out.rglob("*")) if path.suffix in SUFFIXES], read)


def _report(run: Path) -> None:
    for method in SavedRun.load(run).methods:
        method.samples(3)
        method.memory()


def _configs(root: Path) -> None:
    for path in (root / "settings.yaml", root / "run" / "config.yaml"):
        load_config(path)


def _write_state(path: Path) -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    PhaseState(model, optimizer, None, path, "owner").store(3, torch.get_rng_state())


def _write_cache(path: Path, key: Key) -> None:
    ends, anchor = torch.tensor([0, 2, 3]), torch.tensor([5, 7, 1])
    lists = {"kd_response/entries": Ragged(ends, anchor, {"logit": torch.rand(3, 4)})}
    cached = CachedTargets(torch.tensor([[0, -1], [1, -1]]), torch.ones(2, 2, 2, dtype=torch.int64), lists)
    cache_file.save(path, cached, key)
