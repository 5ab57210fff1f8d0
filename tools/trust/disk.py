"""A disk that is full, read-only or rationed: said in words, nothing spoilt, and later resumed as if undisturbed.

The disks are tmpfs mounts, and for quotas a subvolume of btrfs in a file, so that this needs Linux, the right to mount
and btrfs-progs; nothing else is imitated.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
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
            more = partial(_mount, place, f"remount,rw,size={ROOMY}")
            yield Told(
                f"{size >> 10} of {total >> 10} KiB", 0, _survives(scene, place, wanted, "free some space", more)
            )
    with disk(scene.root / "disk", ROOMY) as place:
        (place / "run").mkdir()
        _mount(place, "remount,ro")
        more = partial(_mount, place, f"remount,rw,size={ROOMY}")
        yield Told("read-only", 0, _survives(scene, place, wanted, "read-only", more))


def over_quota(scene: Scene, levels: int) -> Iterator[Told]:
    """``levels`` quotas, from one for a little to one for nearly the whole run, on a disk with room for all of it."""
    wanted, _, _ = undisturbed(scene)
    total = sum(_pages(path) for path in (scene.root / "undisturbed").rglob("*"))
    for level in range(1, levels + 1):
        size = total * level // (levels + 1) // 4096 * 4096
        with rationed(scene.root, size) as place:
            more = partial(_run, "btrfs", "qgroup", "limit", "none", place)
            yield Told(f"{size >> 10} of {total >> 10} KiB", 0, _survives(scene, place, wanted, "quota", more))


def _survives(scene: Scene, place: Path, wanted: dict[str, str], words: str, more: Callable[[], None]) -> list[str]:
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
    more()
    again = scene.run(folder)
    if again.code:
        return [*faults, f"cannot be resumed, exit code {again.code}: {again.said[-1500:]}"]
    return faults + deviations(outcome(folder), wanted)


@contextmanager
def disk(place: Path, size: int) -> Iterator[Path]:
    """A file system of ``size`` bytes at ``place``, gone afterwards."""
    place.mkdir(parents=True, exist_ok=True)
    _run("mount", "-t", "tmpfs", "-o", f"size={size}", "incdet", place)
    try:
        yield place
    finally:
        _run("umount", place)
        place.rmdir()


@contextmanager
def rationed(root: Path, size: int) -> Iterator[Path]:
    """A folder that may hold ``size`` bytes of a larger file system, gone afterwards."""
    image, place = root / "rationed.img", root / "rationed"
    place.mkdir(parents=True, exist_ok=True)
    with image.open("wb") as file:
        file.truncate(ROOMY)
    _run("mkfs.btrfs", "-q", "-f", image)
    _run("mount", "-o", "loop", image, place)
    try:
        _run("btrfs", "quota", "enable", place)
        _run("btrfs", "subvolume", "create", place / "own")
        _run("btrfs", "qgroup", "limit", str(size), place / "own")
        yield place / "own"
    finally:
        _run("umount", place)
        place.rmdir()
        image.unlink()


def _run(*words: str | Path) -> None:
    subprocess.run([str(word) for word in words], check=True, stdout=subprocess.DEVNULL)


def _mount(place: Path, options: str) -> None:
    _run("mount", "-o", options, place)


def _pages(path: Path) -> int:
    return (path.stat().st_size + 4095) // 4096 * 4096 if path.is_file() else 0
