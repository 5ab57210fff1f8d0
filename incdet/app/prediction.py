"""What a detector found in one picture, as a person holds it: to look at, to save, to count, to hand on.

Shapes: N detections.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageShow
from torch import Tensor

from incdet.app.photograph import SUFFIXES, Photograph, read_photograph
from incdet.errors import Finding, InputError
from incdet.evaluation.detections import Detections
from incdet.evaluation.results import SCHEMA
from incdet.files import require_output, write_bytes, write_json
from incdet.report.drawing import draw_detections


class Found(NamedTuple):
    """One detection.

    Attributes:
        name: Its class.
        score: In [0, 1].
        box: x1, y1, x2, y2 in pixels of the picture.
    """

    name: str
    score: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class Prediction:
    """The detections in a picture, best first.

    Attributes:
        detections: What was found, boxes in pixels of the picture after its camera's turn.
        classes: All classes of the detector; labels are positions in them.
        width: Of the picture, in pixels.
        height: Of the picture, in pixels.
        file: The picture; None where it was given in memory.
        planes: The pixels (3, H, W) of a picture that was given in memory.
    """

    detections: Detections
    classes: tuple[str, ...]
    width: int
    height: int
    file: Path | None = None
    planes: Tensor | None = None

    @classmethod
    def of(cls, picture: Photograph, detections: Detections, classes: Sequence[str]) -> Prediction:
        """What was found in ``picture``; the pixels of a file are read again where they are wanted."""
        planes = picture.planes if picture.file is None else None
        return cls(detections, tuple(classes), picture.width, picture.height, picture.file, planes)

    @property
    def boxes(self) -> NDArray[np.float32]:
        """(N, 4) float32 xyxy pixels."""
        return self.detections.boxes

    @property
    def scores(self) -> NDArray[np.float32]:
        """(N,) float32 in [0, 1]."""
        return self.detections.scores

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) int64, positions in ``classes``."""
        return self.detections.labels

    @property
    def names(self) -> list[str]:
        """The class of every detection, N of them."""
        return [self.classes[label] for label in self.labels]

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Found]:
        for name, score, (x1, y1, x2, y2) in zip(self.names, self.scores.tolist(), self.boxes.tolist(), strict=True):
            yield Found(name, score, (x1, y1, x2, y2))

    def __repr__(self) -> str:
        found = ", ".join(f"{one.name} {one.score:.2f}" for one in list(self)[:5])
        more = f", and {len(self) - 5} more" if len(self) > 5 else ""
        return f"Prediction({self.width} x {self.height}: {found or 'nothing'}{more})"

    def to_json(self) -> list[dict[str, Any]]:
        """``{"name", "score", "box": [x1, y1, x2, y2]}`` of every detection, rounded for people."""
        return [
            {"name": one.name, "score": round(one.score, 4), "box": [round(edge, 2) for edge in one.box]}
            for one in self
        ]

    def drawn(self) -> Image.Image:
        """The picture at its own size with a frame and a label for every detection.

        Raises:
            InputError: Its file is gone.
        """
        if self.planes is None:
            assert self.file is not None, "a prediction has a file or pixels"
            picture = read_photograph(self.file)
        else:
            picture = Photograph(self.planes)
        return Image.fromarray(draw_detections(picture.pixels(), self.to_json(), self.classes))

    def show(self) -> None:
        """Shows ``drawn``: in the notebook where one runs, else in the system's viewer of pictures.

        Raises:
            InputError: This machine has no viewer.
        """
        shell = sys.modules.get("IPython")
        if shell is not None and shell.get_ipython() is not None:
            shell.display.display(self.drawn())
        elif not ImageShow.show(self.drawn(), title=str(self.file or "prediction")):
            raise InputError(Finding("prediction", "show", "no viewer of pictures is known", "use save('found.png')"))

    def _repr_png_(self) -> bytes:
        """What a notebook shows of it."""
        content = io.BytesIO()
        self.drawn().save(content, "PNG")
        return content.getvalue()

    def save(self, path: str | Path) -> Path:
        """Writes ``drawn`` into a picture file, or what was found into a ``.json`` one, and returns the path.

        The JSON is ``{"schema", "image", "width", "height", "detections": to_json()}``.

        Raises:
            InputError: The name ends with something else, or the folder does not let us write.
            OutputError: The disk refuses.
        """
        path = Path(path)
        kind = path.suffix.lower()
        if kind not in (*SUFFIXES, ".json"):
            fix = f"end it with one of .json, {', '.join(SUFFIXES)}"
            raise InputError(Finding(str(path), "output", f"ends with {kind or 'nothing'}", fix))
        require_output(path)
        if kind == ".json":
            source = None if self.file is None else str(self.file)
            entry = {"image": source, "width": self.width, "height": self.height, "detections": self.to_json()}
            write_json(path, {"schema": SCHEMA, **entry})
        else:
            content = io.BytesIO()
            self.drawn().save(content, Image.registered_extensions()[kind], **({"quality": 95} if "j" in kind else {}))
            write_bytes(path, content.getvalue())
        return path

    def to_supervision(self) -> Any:
        """The same as ``supervision.Detections``, class names in ``data["class_name"]``.

        Raises:
            ImportError: The package is not installed.
        """
        try:
            import supervision
        except ModuleNotFoundError as error:
            if error.name != "supervision":
                raise
            raise ImportError("to_supervision needs another package: pip install 'incdet[supervision]'") from error
        return supervision.Detections(
            xyxy=self.boxes.copy(),
            confidence=self.scores.copy(),
            class_id=self.labels.astype(int),
            data={"class_name": np.array(self.names, dtype=str)},
        )
