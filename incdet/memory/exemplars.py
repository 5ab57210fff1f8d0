"""The exemplar memory: a few images of every class seen, ranked, within an exact budget of images.

Every exemplar is credited to one class and keeps the boxes and the coverage it had when it was stored. Removal cuts
the tail of each class's ranking; nothing is ranked again (Castro et al., ECCV 2018, sec. 3.3).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from incdet.data.records import Record
from incdet.errors import Finding, InputError
from incdet.files import copy_file, write_json
from incdet.memory.selection import SELECTIONS, Features, Pool


@dataclass(frozen=True)
class Budget:
    """How many images the memory may hold: ``total`` over all classes, or ``per_class`` of each.

    Raises:
        InputError: Neither or both are given, or a number is negative.
    """

    total: int | None = None
    per_class: int | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.total, self.per_class) if value is not None]
        if len(given) != 1 or given[0] < 0:
            raise InputError(
                Finding(
                    "config",
                    "key memory",
                    f"total={self.total}, per_class={self.per_class}",
                    "give exactly one of memory.total and memory.per_class, 0 or more",
                )
            )

    def quotas(self, names: Sequence[str]) -> dict[str, int]:
        """Images of each class; with ``total`` the remainder goes to the first classes, so that they sum to it.

        Raises:
            InputError: The total is positive but smaller than the number of classes.
        """
        if self.per_class is not None:
            return dict.fromkeys(names, self.per_class)
        total = self.total or 0
        if 0 < total < len(names):
            raise InputError(
                Finding(
                    "config",
                    "key memory.total",
                    f"{total} images cannot hold one of each of {len(names)} classes",
                    f"set memory.total to at least {len(names)}",
                )
            )
        share, rest = divmod(total, max(1, len(names)))
        return {name: share + (rank < rest) for rank, name in enumerate(names)}


@dataclass(frozen=True)
class Memory:
    """Ranked exemplars of every class; an image stands in one list only.

    Attributes:
        budget: The bound that ``update`` keeps.
        exemplars: Class name -> records, best first.
    """

    budget: Budget
    exemplars: Mapping[str, tuple[Record, ...]]

    @classmethod
    def empty(cls, budget: Budget) -> Memory:
        """A memory that holds nothing yet."""
        return cls(budget, {})

    def __iter__(self) -> Iterator[Record]:
        return (record for ranked in self.exemplars.values() for record in ranked)

    def __len__(self) -> int:
        return sum(len(ranked) for ranked in self.exemplars.values())

    @property
    def bytes(self) -> int:
        """Bytes of the stored images on disk."""
        return sum(record.image.stat().st_size for record in self)

    def reduce(self, names: Sequence[str]) -> Memory:
        """The memory cut to the quotas that hold when ``names`` are known: each list loses its tail."""
        quotas = self.budget.quotas(names)
        kept = {name: ranked[: quotas.get(name, 0)] for name, ranked in self.exemplars.items()}
        return replace(self, exemplars=kept)

    def update(
        self,
        candidates: Sequence[Record],
        new: Sequence[str],
        *,
        selection: str = "herding",
        features: Features | None = None,
        seed: int = 0,
    ) -> Memory:
        """The memory after a step: old lists cut to their new quotas, the step's classes chosen from ``candidates``.

        Args:
            candidates: The step's records, with the coverage they are to keep.
            new: The step's classes.
            selection: One of ``SELECTIONS``.
            features: As given by ``object_features``.
            seed: Of ``random``.

        Returns:
            A memory of at most the budget; exactly the quota of each class that has as many images.
        """
        known = [*self.exemplars, *(name for name in new if name not in self.exemplars)]
        quotas = self.budget.quotas(known)
        reduced = self.reduce(known)
        used = {record.image for record in reduced}
        chosen: dict[str, tuple[Record, ...]] = dict(reduced.exemplars)
        if selection not in SELECTIONS:
            raise ValueError(f"unknown selection {selection!r}; known: {', '.join(SELECTIONS)}")
        # Rare classes choose first, or a common class would take the few images they have.
        pools = {name: [i for i, record in enumerate(candidates) if _holds(record, name)] for name in new}
        for name in sorted(new, key=lambda name: (len(pools[name]), list(new).index(name))):
            free = [i for i in pools[name] if candidates[i].image not in used]
            ranked = SELECTIONS[selection].rank(Pool(name, free, candidates, features, seed), quotas[name])
            chosen[name] = tuple(candidates[i] for i in ranked)
            used.update(record.image for record in chosen[name])
        return replace(self, exemplars={name: chosen.get(name, ()) for name in known})

    def to_manifest(self, folder: Path | None = None) -> dict[str, Any]:
        """Everything needed to rebuild the memory from the image files, as a JSON value.

        Images below ``folder`` are written relative to it, so that the folder may be moved.
        """
        return {
            "budget": {"total": self.budget.total, "per_class": self.budget.per_class},
            "images": len(self),
            "bytes": self.bytes,
            "exemplars": {
                name: [_to_json(record, folder) for record in ranked] for name, ranked in self.exemplars.items()
            },
        }

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any], folder: Path | None = None) -> Memory:
        """The inverse of ``to_manifest``; relative image paths are taken from ``folder``."""
        exemplars = {
            name: tuple(_from_json(value, folder) for value in ranked) for name, ranked in manifest["exemplars"].items()
        }
        return cls(Budget(**manifest["budget"]), exemplars)

    def save(self, path: Path, *, copy_images: bool = False) -> Memory:
        """Writes the manifest; with ``copy_images`` the pixels go beside it, so the old data set may be deleted.

        Returns:
            The memory as saved: with ``copy_images`` its records point at the copies.
        """
        saved = self._copied(path.parent / "images") if copy_images else self
        write_json(path, saved.to_manifest(path.parent), indent=1)
        return saved

    @classmethod
    def load(cls, path: Path) -> Memory:
        """Reads a manifest.

        Raises:
            InputError: The file is missing, cut off, or names an image that is not there.
        """
        try:
            memory = cls.from_manifest(json.loads(path.read_text()), path.parent)
        except FileNotFoundError:
            raise InputError(Finding(str(path), "memory manifest", "does not exist", "check the path")) from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                Finding(str(path), "memory manifest", f"cannot be read ({error!r})", "it was cut off: copy it again")
            ) from error
        missing = [record.image for record in memory if not record.image.is_file()]
        if missing:
            raise InputError(
                Finding(
                    str(path),
                    "memory manifest",
                    f"{len(missing)} images are missing, the first is {missing[0]}",
                    "restore them, or train with memory.copy_images=true to keep the pixels in the run folder",
                )
            )
        return memory

    def _copied(self, folder: Path) -> Memory:
        def copied(record: Record) -> Record:
            # Two data sets may both hold a 000001.jpg: the name carries a digest of where it came from.
            digest = hashlib.sha256(str(record.image.resolve()).encode()).hexdigest()[:8]
            target = folder / f"{record.image.stem}_{digest}{record.image.suffix}"
            if record.image.parent.resolve() == folder.resolve():
                return record
            if not target.exists():
                copy_file(record.image, target)
            return replace(record, image=target)

        return replace(
            self,
            exemplars={name: tuple(copied(record) for record in ranked) for name, ranked in self.exemplars.items()},
        )


def _holds(record: Record, name: str) -> bool:
    return any(own == name and not ignored for own, ignored in zip(record.names, record.ignore, strict=True))


def _to_json(record: Record, folder: Path | None) -> dict[str, Any]:
    inside = folder is not None and record.image.is_relative_to(folder)
    return {
        "image": str(record.image.relative_to(folder) if inside and folder else record.image.resolve()),
        "image_id": record.image_id,
        "width": record.width,
        "height": record.height,
        "boxes": [[float(edge) for edge in box] for box in record.boxes],
        "names": list(record.names),
        "ignore": [bool(flag) for flag in record.ignore],
        "coverage": sorted(record.coverage),
    }


def _from_json(value: Mapping[str, Any], folder: Path | None) -> Record:
    image = Path(value["image"])
    if folder is not None and not image.is_absolute():
        image = folder / image
    return Record(
        image=image,
        image_id=value["image_id"],
        width=value["width"],
        height=value["height"],
        boxes=np.asarray(value["boxes"], dtype=np.float32).reshape(-1, 4),
        names=tuple(value["names"]),
        ignore=np.asarray(value["ignore"], dtype=bool),
        coverage=frozenset(value["coverage"]),
    )
