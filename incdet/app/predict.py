"""Detections in one's own photographs and videos, written in the formats that are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from incdet.app.found_files import FORMATS, JSON, Format, Writer, batches, writer
from incdet.app.load import Detector, load
from incdet.app.look import Look
from incdet.app.prediction import Prediction
from incdet.app.progress import Display
from incdet.app.sources import Frame, Source, find_sources, frame_count, frames
from incdet.errors import Finding, InputError, suggest
from incdet.evaluation.shown import Threshold
from incdet.evaluation.thresholds import FALLBACK
from incdet.files import require_output
from incdet.network.device import device_named


class Outcome(NamedTuple):
    """What ``predict_files`` did.

    Attributes:
        files: What was written, folders where there are many.
        pictures: How many pictures and frames were looked at.
        found: How many detections are shown.
        skipped: What could not be read, and why.
        scale: How scores and thresholds are to be read, in words.
    """

    files: tuple[Path, ...]
    pictures: int
    found: int
    skipped: tuple[Finding, ...]
    scale: str


def predict(
    path: str | Path,
    images: Sequence[str | Path],
    output: Path,
    *,
    threshold: Threshold | Literal["auto"] = FALLBACK,
    batch_size: int = 8,
    device: str = "auto",
    arch: str | None = None,
    known_classes: Sequence[str] | None = None,
) -> Path:
    """Runs the checkpoint at ``path`` over photographs and draws what it finds.

    Args:
        path: Checkpoint folder, or what else ``incdet.load`` takes.
        images: Pictures and videos, folders of them, patterns; see ``find_sources``.
        output: Gets ``detections.json``, ``<name>.png`` of every picture and ``<name>.mp4`` of every video.
        threshold: See ``Detector.predict``.
        batch_size: Images per forward.
        device: ``auto``, ``cpu`` or ``cuda``.
        arch: Network of a state dict, see ``load_detector``.
        known_classes: Names of its columns.

    Returns:
        ``output/detections.json``: ``{"schema", "checkpoint", "threshold", "temperature", "images": [{"image", "width",
        "height", "detections": [{"name", "score", "box": [x1, y1, x2, y2]}]}]}``, boxes in pixels of the file; a
        video's frames also say ``"frame"`` and ``"seconds"``.

    Raises:
        InputError: The checkpoint or every picture cannot be read. One among others that cannot be is left out, with a
            warning on stderr.
    """
    place = device_named(device)
    require_output(output, folder=True)
    sources = find_sources(images)
    detector = load(path, arch, known_classes).to(place)
    predict_files(detector, sources, output, threshold=threshold, batch_size=batch_size)
    return output / JSON


def predict_files(
    detector: Detector,
    sources: Sequence[Source],
    output: Path,
    *,
    formats: Sequence[Format] = ("json", "pictures"),
    threshold: Threshold | Literal["auto"] = FALLBACK,
    across: bool = False,
    batch_size: int = 8,
    every: int = 1,
    display: Display | None = None,
) -> Outcome:
    """Looks at every source and writes what is found; one that cannot be read is reported at once and left out.

    Args:
        detector: On the device it is to run on.
        sources: See ``find_sources``; those in ``output`` are what an earlier call drew, and are left out.
        output: Folder.
        formats: What is written there.
        threshold: See ``Detector.predict``.
        across: See ``Detector.predict``.
        batch_size: Pictures in a forward pass.
        every: Of a video, every how many-th frame.
        display: Shows progress and what is left out; by default on stderr.

    Raises:
        InputError: ``output`` or the threshold cannot be used, or no source can be read; nothing is written then.
        OutputError: The disk refuses.
    """
    require_output(output, folder=True)
    for kind in formats:
        if kind not in FORMATS:
            raise InputError(Finding("formats", f"format {kind!r}", "is unknown", suggest(kind, FORMATS)))
    look = detector.looking(threshold, across=across)
    about = {"checkpoint": detector.source, "threshold": look.threshold, "temperature": look.temperature}
    home = output.resolve()
    sources = [source for source in sources if home not in source.file.resolve().parents]
    display, seen, found = display or Display.on_stderr(), 0, 0
    skipped: list[Finding] = []
    writers: list[Writer] = []
    with display:
        total = sum(frame_count(source, every) for source in sources)
        for batch in batches(_all_frames(sources, every, look, skipped, display), batch_size):
            writers = writers or [writer(kind, output, detector.names, about, every) for kind in formats]
            for frame, one in zip(batch, look([frame.picture for frame in batch]), strict=True):
                shown = Prediction(one.detections, one.classes, one.width, one.height, frame.source.file)
                for each in writers:
                    each.add(frame, shown)
                found += len(shown)
            seen += len(batch)
            display.advance("predict", seen, max(seen, total), f"{found} found")
    if not seen:
        raise InputError(skipped or [Finding(str(output), "pictures", "there are none outside of it", "name others")])
    for each in writers:
        each.close()
    names = {"json": JSON, "coco": "coco.json", "yolo": "labels", "csv": "detections.csv", "pictures": "."}
    return Outcome(tuple(output / names[kind] for kind in formats), seen, found, tuple(skipped), look.words)


def _all_frames(
    sources: Sequence[Source], every: int, look: Look, skipped: list[Finding], display: Display
) -> Iterator[Frame]:
    """The frames of all sources that ``look`` can look at; what is wrong with one goes into ``skipped``."""
    for source in sources:
        try:
            for frame in frames(source, every):
                look.require_fit(frame.picture)
                yield frame
        except InputError as error:
            skipped += error.findings
            for finding in error.findings:
                display.say(f"skipped: {finding}")
