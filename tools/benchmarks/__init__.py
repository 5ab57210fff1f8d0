"""Measured comparisons with torchvision's own code, one module per suite.

A suite is a module of this package with ``rows(options: Options) -> Iterator[Row]``; its file name is its name on
the command line, so that adding a suite is adding a file. `benchmarks.harness` measures a pair of functions.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.harness import Options, Row

HELPERS = {"harness", "scene", "training"}


def suite_names() -> list[str]:
    """The names of all suites in alphabetical order, without importing any of them."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name not in HELPERS)


def suite(name: str) -> Callable[[Options], Iterator[Row]]:
    """The function that measures the suite ``name``, case by case."""
    rows: Callable[[Options], Iterator[Row]] = importlib.import_module(f"{__name__}.{name}").rows
    return rows
