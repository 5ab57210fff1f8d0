"""Where the labels of boxes stand, so that they hide neither each other nor leave the picture."""

from __future__ import annotations

from collections.abc import Sequence

Box = Sequence[float]
"""Left, top, right, bottom."""


class Labels:
    """Places labels one after another.

    Args:
        view: Left, top, right and bottom of what is seen.
    """

    def __init__(self, view: tuple[float, float, float, float]) -> None:
        self.view = view
        self.taken: list[tuple[float, float, float, float]] = []

    def place(self, box: Box, width: float, height: float) -> tuple[float, float]:
        """Left and top of a label at the first corner of ``box`` where no earlier one stands, inside the view.

        Where every corner is taken it is the first corner.
        """
        left, top, right, bottom = self.view
        x1, y1, x2, y2 = box
        corners = [(x1, y1 - height), (x2 - width, y1 - height), (x1, y1), (x1, y2), (x1, y2 - height)]
        corners.append((x2 - width, y2 - height))
        spots = [(max(min(x, right - width), left), max(min(y, bottom - height), top)) for x, y in corners]
        x, y = next((spot for spot in spots if not self._hides(spot, width, height)), spots[0])
        self.taken.append((x, y, x + width, y + height))
        return x, y

    def _hides(self, spot: tuple[float, float], width: float, height: float) -> bool:
        x1, y1, x2, y2 = *spot, spot[0] + width, spot[1] + height
        return any(x1 < right and left < x2 and y1 < bottom and top < y2 for left, top, right, bottom in self.taken)
