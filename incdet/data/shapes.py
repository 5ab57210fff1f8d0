"""The embedded shapes data set: drawn on the spot, seeded, as COCO JSON + PNG; no download needed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from incdet.data.formats.coco import write_coco
from incdet.data.records import Record
from incdet.errors import Finding, InputError
from incdet.files import write_remade

CLASSES = ("circle", "cross", "ring", "square", "star", "triangle")
SPLITS = ("train", "test")
VERSION = 1
"""Raised when the drawing changes, so that an older folder is drawn again."""

Points = NDArray[np.float64]
Canvas = NDArray[np.uint8]


def write_shapes(
    root: Path,
    train: int = 600,
    test: int = 200,
    size: int = 96,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Draw the data set into ``root``, unless the same one lies there already.

    Images are square and hold two to five objects of random classes, sizes (0.19 to 0.5 of the image side), angles,
    colours and little overlap, over a gradient with lines, dots and noise. Image i of a split depends on (seed, split,
    i, size) alone.

    Args:
        root: Gets ``train.json``, ``test.json`` and ``images/{train,test}/*.png``; read them with
            ``read_coco(root / "train.json", root / "images")``.
        train: Number of training images.
        test: Number of test images.
        size: Side of the images in pixels, at least 48.
        seed: Of everything drawn.
        progress: Called with (images drawn, images to draw) now and then, not at all if they are there.

    Returns:
        ``root``.

    Raises:
        InputError: ``root`` holds files that this function did not write, or a number is too small.
    """
    root = Path(root)
    if size < 48 or train < 1 or test < 1:
        raise InputError(
            Finding(
                "shapes",
                "parameters",
                f"train={train}, test={test}, size={size}",
                "use at least one image each and 48 pixels",
            )
        )
    counts = dict(zip(SPLITS, (train, test), strict=True))
    stamps = {
        split: {"shapes": VERSION, "split": split, "count": count, "size": size, "seed": seed}
        for split, count in counts.items()
    }
    missing = [split for split, stamp in stamps.items() if not _is_drawn(root, split, stamp)]
    drawn, total = 0, sum(counts[split] for split in missing)
    for split in missing:
        for _ in _draw_split(root, split, stamps[split]):
            drawn += 1
            if progress is not None and (drawn % 16 == 0 or drawn == total):
                progress(drawn, total)
    return root


def _is_drawn(root: Path, split: str, stamp: Mapping[str, Any]) -> bool:
    path = root / f"{split}.json"
    if not path.is_file():
        return False
    try:
        found = json.loads(path.read_text(encoding="utf-8")).get("info", {})
    except (ValueError, AttributeError):
        found = {}
    if not isinstance(found, dict) or "shapes" not in found:
        raise InputError(Finding(str(path), "file", "is not a shapes data set", "choose an empty folder for data.root"))
    folder = root / "images" / split
    return found == dict(stamp) and sum(1 for _ in folder.glob("*.png")) >= int(stamp["count"])


def _draw_split(root: Path, split: str, stamp: Mapping[str, Any]) -> Iterator[None]:
    """Draws a split, an image each time it is asked for one; the split is there when the last has been asked for."""
    folder = root / "images" / split
    folder.mkdir(parents=True, exist_ok=True)
    # The JSON is what says "drawn": without it a stopped run starts over.
    (root / f"{split}.json").unlink(missing_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    records = []
    for index in range(stamp["count"]):
        rng = np.random.default_rng(np.random.SeedSequence([stamp["seed"], SPLITS.index(split), index]))
        canvas, boxes, names = draw_image(rng, stamp["size"])
        path = folder / f"{index + 1:06d}.png"
        # OpenCV's own writing says no more than that it did not succeed.
        content = cv2.imencode(".png", cv2.cvtColor(canvas, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 1])[1]
        write_remade(path, content.tobytes())
        records.append(
            Record(
                path,
                index + 1,
                stamp["size"],
                stamp["size"],
                boxes,
                names,
                np.zeros(len(names), dtype=np.bool_),
                frozenset(CLASSES),
            )
        )
        yield
    ids = {name: number for number, name in enumerate(CLASSES, start=1)}
    write_coco(records, root / f"{split}.json", CLASSES, ids, images=root / "images", info=stamp)


def draw_image(rng: np.random.Generator, size: int) -> tuple[Canvas, NDArray[np.float32], tuple[str, ...]]:
    """One image (size, size, 3) uint8 RGB with its boxes (M, 4) xyxy float32 and names, 2 <= M <= 5."""
    canvas, ground = _background(rng, size)
    _clutter(rng, canvas)
    boxes: list[tuple[float, float, float, float]] = []
    names: list[str] = []
    wanted = int(rng.integers(2, 6))
    for _ in range(40):
        if len(names) == wanted:
            break
        name = CLASSES[int(rng.integers(len(CLASSES)))]
        # After many misses only small objects still find a place; two always fit.
        scale = math.exp(rng.uniform(math.log(0.19), math.log(0.5 if len(names) < 2 else 0.38)))
        outline = _outline(name, rng.uniform(0, 2 * math.pi)) * (scale * size / 2)
        low, high = outline.min(axis=0), outline.max(axis=0)
        centre = rng.uniform(1 - low, size - 1 - high)
        corner, far = low + centre, high + centre
        box = (float(corner[0]), float(corner[1]), float(far[0]), float(far[1]))
        if any(_hides(box, other) for other in boxes):
            continue
        _paint(rng, canvas, name, outline + centre, centre, scale * size / 2, ground)
        boxes.append(box)
        names.append(name)
    noise = rng.normal(0, rng.uniform(2, 8), canvas.shape)
    canvas = np.clip(canvas + noise, 0, 255).astype(np.uint8)
    return canvas, np.array(boxes, dtype=np.float32).reshape(-1, 4), tuple(names)


def _outline(name: str, angle: float) -> Points:
    """The silhouette in a circle of radius 1 around 0, (N, 2), turned by ``angle``."""
    if name in ("circle", "ring"):
        turns = np.linspace(0, 2 * math.pi, 48, endpoint=False)
        return np.stack([np.cos(turns), np.sin(turns)], axis=1)
    if name == "cross":
        arm = 0.32
        points = np.array(
            [
                (arm, arm),
                (1, arm),
                (1, -arm),
                (arm, -arm),
                (arm, -1),
                (-arm, -1),
                (-arm, -arm),
                (-1, -arm),
                (-1, arm),
                (-arm, arm),
                (-arm, 1),
                (arm, 1),
            ]
        )
    else:
        radii, corners = {"square": ([1.0], 4), "triangle": ([1.0], 3), "star": ([1.0, 0.42], 10)}[name]
        turns = np.arange(corners) * 2 * math.pi / corners
        radius = np.array([radii[i % len(radii)] for i in range(corners)])
        points = np.stack([radius * np.cos(turns), radius * np.sin(turns)], axis=1)
    cos, sin = math.cos(angle), math.sin(angle)
    turned: Points = points @ np.array([[cos, sin], [-sin, cos]])
    return turned


def _hides(box: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Whether two boxes share more than a quarter of the smaller one."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    smaller = min((b[2] - b[0]) * (b[3] - b[1]) for b in (box, other))
    return width > 0 and height > 0 and width * height > 0.25 * smaller


def _background(rng: np.random.Generator, size: int) -> tuple[Canvas, NDArray[np.float64]]:
    """A soft gradient and its mean colour."""
    ground = rng.uniform(30, 225, 3)
    corners = np.clip(ground + rng.uniform(-30, 30, (2, 2, 3)), 0, 255).astype(np.uint8)
    return np.asarray(cv2.resize(corners, (size, size), interpolation=cv2.INTER_LINEAR), dtype=np.uint8), ground


def _clutter(rng: np.random.Generator, canvas: Canvas) -> None:
    size = len(canvas)
    for _ in range(int(rng.integers(2, 7))):
        ends = rng.integers(0, size, (2, 2)).tolist()
        cv2.line(canvas, ends[0], ends[1], rng.uniform(0, 255, 3).tolist(), int(rng.integers(1, 3)), cv2.LINE_AA)
    for _ in range(int(rng.integers(4, 16))):
        spot, radius = rng.integers(0, size, 2).tolist(), int(rng.integers(1, 3))
        cv2.circle(canvas, spot, radius, rng.uniform(0, 255, 3).tolist(), -1, cv2.LINE_AA)


def _paint(
    rng: np.random.Generator,
    canvas: Canvas,
    name: str,
    outline: Points,
    centre: Points,
    radius: float,
    ground: NDArray[np.float64],
) -> None:
    """Fill the silhouette in a colour that stands out from the ground; some get a darker or lighter rim."""
    colour = rng.uniform(0, 255, 3)
    while np.abs(colour - ground).sum() < 180:
        colour = rng.uniform(0, 255, 3)
    # OpenCV takes whole numbers with 4 fractional bits, pixel centres at whole numbers: hence - 0.5.
    fixed = [np.round((outline - 0.5) * 16).astype(np.int32)]
    if name == "ring":
        fixed.append(np.round(((outline - centre) * 0.55 + centre - 0.5) * 16).astype(np.int32))
    cv2.fillPoly(canvas, fixed, colour.tolist(), cv2.LINE_AA, 4)
    if rng.random() < 0.4:
        rim = np.clip(colour * rng.choice([0.5, 1.5]), 0, 255).tolist()
        cv2.polylines(canvas, fixed, True, rim, max(1, round(radius / 12)), cv2.LINE_AA, 4)
