"""matches.npz: how a step's detections were judged, small enough to keep and enough for every later comparison.

Curves, thresholds and paired intervals between any two steps or runs on one test set need nothing but this file.
Shapes: N detections of all classes, I images, K classes, P pairs of a class and an image that hold objects.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from incdet.errors import Finding, InputError
from incdet.evaluation.metrics import Matches
from incdet.files import write_bytes

FILE = "matches.npz"
MOST_BYTES = 2**29
"""Unpacked; a kilobyte of a stranger's archive can stand for gigabytes of zeros."""
_FAULTS = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, EOFError, MemoryError),
    *(zipfile.BadZipFile, zlib.error, RuntimeError),  # RuntimeError: kinds of compression and of locks that are unknown
)
"""What a damaged archive makes its readers raise."""


def save_matches(folder: Path | str, matches: Mapping[str, Matches]) -> None:
    """Writes ``folder``/matches.npz, whole or not at all; the classes' matches share their images."""
    names, every = list(matches), list(matches.values())
    images = len(every[0].positives) if every else 0
    positives = np.stack([one.positives for one in every]) if every else np.zeros((0, 0), np.int64)
    label, image = np.nonzero(positives)
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        names=np.array(names, np.str_),
        images=np.int64(images),
        ends=np.cumsum([len(one.scores) for one in every], dtype=np.int64),
        # Scores come from a detector's float32, so that nothing is lost.
        scores=np.concatenate([np.zeros(0), *(one.scores for one in every)]).astype(np.float32),
        hits=np.concatenate([np.zeros(0, np.bool_), *(one.hits for one in every)]),
        image=np.concatenate([np.zeros(0, np.int64), *(one.image for one in every)]).astype(np.int32),
        object_class=label.astype(np.int32),
        object_image=image.astype(np.int32),
        objects=positives[label, image].astype(np.int32),
    )
    write_bytes(Path(folder) / FILE, buffer.getvalue())


def load_matches(folder: Path | str) -> dict[str, Matches] | None:
    """The matches of every class by name; None if the step stored none.

    Raises:
        InputError: The file is cut off or no such file.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(part.file_size for part in archive.infolist()) > MOST_BYTES:
                raise ValueError("it would unpack to more than half a gigabyte")
        with np.load(path, allow_pickle=False) as stored:
            value = {key: stored[key] for key in stored.files}
        names, ends = [str(name) for name in value["names"]], value["ends"]
        if not 0 <= 8 * len(names) * int(value["images"]) <= MOST_BYTES:
            raise ValueError(f"it tells of {int(value['images'])} images")
        positives = np.zeros((len(names), int(value["images"])), np.int64)
        positives[value["object_class"], value["object_image"]] = value["objects"]
        starts = np.concatenate(([0], ends[:-1])).astype(np.int64)
        return {
            name: Matches(
                value["scores"][start:end].astype(np.float64),
                value["hits"][start:end],
                value["image"][start:end].astype(np.int64),
                own,
            )
            for name, start, end, own in zip(names, starts, ends, positives, strict=False)
        }
    except _FAULTS as error:
        fix = "remove the file (curves and intervals go with it) or run the step again"
        raise InputError(Finding(str(path), "matches", f"cannot be read ({error})", fix)) from None
