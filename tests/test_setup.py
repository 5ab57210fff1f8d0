from __future__ import annotations

import ast
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path


def imported(package: Path) -> set[str]:
    """The top-level modules of other people that the files of ``package`` import, in functions too."""
    found: set[str] = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {"incdet"}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


PARTS = {"pydantic_core": "pydantic"}  # which pins it


def test_every_package_that_is_imported_is_declared(repository: Path) -> None:
    text = (repository / "setup.py").read_text("utf-8")
    declared = {normal(name) for name in re.findall(r'"([A-Za-z][\w-]*)(?:[>=<!].*?)?"', text)}
    providers = packages_distributions()
    missing = {
        module
        for module in {PARTS.get(name, name) for name in imported(repository / "incdet")}
        if not declared & set(map(normal, providers.get(module, [module])))
    }
    assert missing == set()


def test_a_source_distribution_holds_what_its_installation_reads(repository: Path) -> None:
    read = re.findall(r'HERE / "([A-Z][\w.]+)"', (repository / "setup.py").read_text("utf-8"))
    listed = (repository / "MANIFEST.in").read_text("utf-8").split()
    assert len(read) >= 2 and set(read) <= {*listed, "README.md"}  # setuptools takes README.md by itself
