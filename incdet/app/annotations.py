"""What a person sees while annotations are opened and their pictures are looked at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from incdet.app.progress import Display
from incdet.data.picture_book import Progress

FEW = 200
"""So many pictures are decoded before anybody wants to know how far it is."""


@contextmanager
def picture_progress() -> Iterator[Progress]:
    """Shows on stderr how many of the pictures that were not seen before are decoded; given to ``open_annotations``."""
    with Display(Console(stderr=True)) as display:

        def progress(done: int, total: int) -> None:
            if total > FEW:
                display.advance("looking at pictures", done, total)

        yield progress
