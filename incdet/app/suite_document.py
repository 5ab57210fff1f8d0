"""docs/results/SUITE.json and the page beside it: the rows of a suite, gathered in parts, on one machine or several.

The document is read again before every write, so that several processes, or parts on several days, add to one table.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from incdet.app.suite_runs import MethodRun, Settings, digest, same
from incdet.evaluation.figures import figures
from incdet.evaluation.metrics import Matches, bootstrap_mean_change
from incdet.evaluation.results import SCHEMA, Results, read_json
from incdet.files import write_json, write_text
from incdet.report.suite import FIRST, JOINT, center, grouped, markdown

Row = dict[str, Any]


class SuiteDocument:
    """The saved state of a suite.

    Args:
        path: Of the JSON; the page has the suffix .md.
        suite: Its name.
        command: The command that goes on with it.
        study: Its protocols stand in one table, beside each other.
    """

    def __init__(self, path: Path, suite: str, command: str, *, study: bool = False) -> None:
        self.path, self.suite, self.command, self.study = path, suite, command, study
        self.rows: dict[tuple[str, int, str], Row] = {}
        self.configs: dict[str, Settings] = {}
        self.protocols: dict[str, dict[str, Any]] = {}
        self._read()

    def _read(self) -> None:
        if not self.path.is_file():
            return
        value = read_json(self.path)
        for row in value["rows"]:
            self.rows.setdefault(_key(row), row)
        self.configs = {**value["configs"], **self.configs}
        for protocol, known in value["protocols"].items():
            wanted = {int(seed): methods for seed, methods in known["wanted"].items()}
            self.want(protocol, self.protocols.get(protocol, known)["about"], wanted)
            own = self.protocols[protocol]["differences"]
            rows = [row for row in self.rows.values() if row["protocol"] == protocol]
            best = rivals(rows)
            still = {
                method: one
                for method, one in known["differences"].items()
                if (one["rival"], one["seeds"]) == best.get(method)
                and one.get("between") == between(rows, method, *best[method])
            }
            self.protocols[protocol]["differences"] = {**still, **own}

    def row(self, protocol: str, seed: int, method: str, settings: Settings) -> Row | None:
        """The row of a run that was measured with these settings, here or elsewhere."""
        row = self.rows.get((protocol, seed, method))
        return row if row is not None and same(self.configs[row["config"]], settings) else None

    def add(self, protocol: str, seed: int, method: str, run: MethodRun, results: Results, step: int) -> Row:
        """Takes the figures of a finished run in, or, for ``FIRST``, those of its step 1."""
        known = {key: value for key, value in run.settings.items() if key != "seed"}
        self.configs[digest(known)] = known
        start = run.start()
        own = figures(results, run.matches(step), step)
        if method == FIRST:  # its classes are the old ones of every other row
            for key in [key for key in own if key.startswith("new_") and key != "new_to_old"]:
                own[f"old_{key.removeprefix('new_')}"], own[key] = own[key], None
            for part in ("precision", "recall"):
                own[f"{part}_old"], own[f"{part}_new"] = own[f"{part}_new"], None
            own["false_alarms"] = None
        row: Row = {
            "protocol": protocol,
            "seed": seed,
            "method": method,
            "config": digest(known),
            "protocol_hash": results.protocol["hash"],
            "commit": start.get("commit"),
            "incdet": start.get("incdet"),
            "torch": start.get("torch"),
            "machine": machine(str(start.get("device", ""))),
            "figures": own,
        }
        self.rows[_key(row)] = row
        return row

    def want(self, protocol: str, about: str, wanted: Mapping[int, Sequence[str]]) -> None:
        """Adds to what the table is to hold of ``protocol``: methods by seed."""
        known = self.protocols.setdefault(protocol, {"about": about, "wanted": {}, "missing": [], "differences": {}})
        known["about"] = about
        for seed, methods in wanted.items():
            known["wanted"][str(seed)] = list(dict.fromkeys([*known["wanted"].get(str(seed), ()), *methods]))

    def compare(self, protocol: str, runs: Iterable[tuple[int, str, MethodRun]]) -> None:
        """Finds how the methods of ``protocol`` differ from the best other one."""
        own, known = [row for row in self.rows.values() if row["protocol"] == protocol], self.protocols[protocol]
        known["differences"] = differences(own, runs, known["differences"])

    def save(self) -> None:
        """Writes JSON and page, with what another process has added meanwhile."""
        self._read()
        for protocol, known in self.protocols.items():
            known["missing"] = [
                f"seed {seed}: {', '.join(lacking)}"
                for seed, methods in sorted(known["wanted"].items())
                if (lacking := [name for name in methods if (protocol, int(seed), name) not in self.rows])
            ]
        used = {row["config"] for row in self.rows.values()}
        value = {
            "schema": SCHEMA,
            "suite": self.suite,
            "command": self.command,
            **({"study": True} if self.study else {}),
            "protocols": self.protocols,
            "configs": {key: self.configs[key] for key in sorted(used)},
            "rows": [self.rows[key] for key in sorted(self.rows)],
        }
        write_json(self.path, value, indent=1)
        write_text(self.path.with_suffix(".md"), markdown(json.loads(json.dumps(value))))


def differences(
    rows: Sequence[Row], runs: Iterable[tuple[int, str, MethodRun]], before: Mapping[str, Any]
) -> dict[str, Any]:
    """Every method against the best other one, over the seeds that both have, where their detections are at hand.

    Elsewhere what was found before stands, as long as it is of the same rival, seeds and figures.
    """
    at_hand = {(seed, method): run for seed, method, run in runs}
    found: dict[str, Any] = {}
    for method, (rival, common) in rivals(rows).items():
        scored = between(rows, method, rival, common)
        pairs = [(at_hand.get((seed, method)), at_hand.get((seed, rival))) for seed in common]
        sides = [_matches(one, other) for one, other in pairs if one is not None and other is not None]
        if len(sides) < len(common):
            old = before.get(method, {})
            if (old.get("rival"), old.get("seeds"), old.get("between")) == (rival, common, scored):
                found[method] = old
            continue
        interval = bootstrap_mean_change(
            [one for theirs, _ in sides for one in theirs], [one for _, ours in sides for one in ours]
        )
        if interval.low is not None:
            found[method] = {"rival": rival, "seeds": common, "between": scored, **interval._asdict()}
    return found


def rivals(rows: Sequence[Row]) -> dict[str, tuple[str, list[int]]]:
    """By method: the best other one that has a seed in common with it, and the seeds that both have."""
    groups = {name: own for name, own in grouped(rows).items() if name not in (FIRST, JOINT)}
    seeds = {name: {row["seed"] for row in rows if row["method"] == name} for name in [*groups, JOINT]}
    best = sorted(groups, key=lambda name: -(center(one["all_AP50"] for one in groups[name]) or 0.0))
    found = {}
    for method, own in seeds.items():
        rival = next((name for name in best if name != method and own & seeds[name]), None)
        if rival is not None:
            found[method] = (rival, sorted(own & seeds[rival]))
    return found


def between(rows: Sequence[Row], method: str, rival: str, seeds: Sequence[int]) -> list[list[float | None]]:
    """What an interval was found between: AP50 over all classes of both methods, seed by seed."""
    scores = {(row["method"], row["seed"]): row["figures"]["all_AP50"] for row in rows}
    return [[scores.get((name, seed)) for seed in seeds] for name in (method, rival)]


def _matches(method: MethodRun, rival: MethodRun) -> tuple[list[Matches], list[Matches]]:
    """The matches of the rival and of the method, class by class, after the last step."""
    last = len(method.results.classes) if method.results else 0
    ours, theirs = method.matches(last), rival.matches(last)
    names = [name for name in theirs if name in ours]
    return [theirs[name] for name in names], [ours[name] for name in names]


def machine(device: str) -> str:
    """What a run computed on: the device in its log, and this machine's processor where it was a CPU."""
    words = device.removeprefix("device: ")
    return f"{words} ({processor()})" if words.startswith("cpu") else words


def processor() -> str:
    """The name of the processor."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _key(row: Row) -> tuple[str, int, str]:
    return row["protocol"], row["seed"], row["method"]
