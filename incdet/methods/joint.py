"""``joint``: trains on all steps' data at once, everything covered; the upper bound."""

from __future__ import annotations

from incdet.methods.method import Method

METHOD = Method("joint", "the upper bound: all steps' data at once", joint=True)
