"""A disk that is full or read-only: said in words, nothing spoilt, and what is resumed later is what nobody disturbed.

The disks are tmpfs mounts, so that this needs Linux and the right to mount; nothing else is imitated.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trust.kills import Told, undisturbed
from trust.scene import Scene, deviations, outcome

ROOMY = 256 << 20


def too_small(scene: Scene, levels: int) -> Iterator[Told]:
    """``levels`` disks, from one for hardly a page to one for nearly the whole run, then one that is read-only."""
    wanted, _, _ = undisturbed(scene)
    folder = scene.root / "undisturbed"
    total = sum(_pages(path) for path in folder.rglob("*"))
    for level in range(1, levels + 1):
        size = total * level // (levels + 1) // 4096 * 4096
        with disk(scene.root / "disk", size) as place:
            yield Told(f"{size >> 10} of {total >> 10} KiB", 0, _survives(scene, place, wanted, "free some space"))
    with disk(scene.root / "disk", ROOMY) as place:
        (place / "run").mkdir()
        _mount(place, "remount,ro")
        yield Told("read-only", 0, _survives(scene, place, wanted, "read-only"))


def _survives(scene: Scene, place: Path, wanted: dict[str, str], words: str) -> list[str]:
    folder, faults = place / "run", []
    ended = scene.run(folder)
    if ended.code not in (1, 2):
        faults.append(f"exit code {ended.code}")
    if "Traceback" in ended.said or words not in ended.said:
        faults.append(f"not told in words: {ended.said[-1500:]}")
    left = [path.name for path in folder.rglob(".*.tmp*")]
    faults += [f"{name} is litter" for name in left]
    frozen = folder / "config.yaml"
    if frozen.is_file() and not frozen.read_text(encoding="utf-8").endswith("\n"):
        faults.append("config.yaml is cut off")
    _mount(place, f"remount,rw,size={ROOMY}")
    again = scene.run(folder)
    if again.code:
        return [*faults, f"cannot be resumed, exit code {again.code}: {again.said[-1500:]}"]
    return faults + deviations(outcome(folder), wanted)


@contextmanager
def disk(place: Path, size: int) -> Iterator[Path]:
    """A file system of ``size`` bytes at ``place``, gone afterwards."""
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "incdet", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)
        place.rmdir()


def _mount(place: Path, options: str) -> None:
    subprocess.run(["mount", "-o", options, str(place)], check=True)


def _pages(path: Path) -> int:
    return (path.stat().st_size + 4095) // 4096 * 4096 if path.is_file() else 0
