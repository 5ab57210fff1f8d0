"""A few pictures to prove something on: somebody's own, or drawn ones."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from incdet.app.photograph import Photograph
from incdet.app.sources import find_sources, frames
from incdet.data.resize import to_planes
from incdet.data.shapes import draw_image


class ProofPictures(NamedTuple):
    """Pictures, and what they are, for people."""

    pictures: list[Photograph]
    words: str


def proof_pictures(images: Sequence[str | Path] | None, number: int) -> ProofPictures:
    """The first ``number`` of somebody's pictures, or as many drawn ones of several formats.

    Raises:
        InputError: One of the pictures cannot be read, or there is none.
    """
    if images:
        found = find_sources(images)[:number]
        pictures = [frame.picture for source in found for frame in islice(frames(source), 1)]
        return ProofPictures(pictures, f"{len(pictures)} pictures")
    generator = np.random.default_rng(0)
    drawn = []
    for place in range(number):
        canvas = draw_image(generator, 320)[0]
        canvas = canvas[: (320, 213, 320)[place % 3], : (320, 320, 240)[place % 3]]
        drawn.append(Photograph(torch.from_numpy(to_planes(np.ascontiguousarray(canvas)))))
    return ProofPictures(drawn, f"{number} drawn pictures")
