from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "incdet"

# A folder is a layer: it may import from those before it, and from itself. Modules beside the folders are below all.
LAYERS = (
    "config",
    "ops",
    "data",
    "network",
    "evaluation",
    "distillation",
    "memory",
    "methods",
    "training",
    "report",
    "app",
)
STRANGERS = (("network", "data"), ("ops", "config"), ("report", "training"))
TORCH_FREE = [
    "incdet",
    "incdet.errors",
    "incdet.vocab",
    "incdet.config",
    "incdet.app.cli",
    "incdet.evaluation.metrics",
    "incdet.evaluation.results",
    "incdet.report.html",
    "incdet.report.plots",
    "incdet.data.records",
    "incdet.data.formats",
    "incdet.data.formats.coco_checks",
    "incdet.data.protocols",
    "incdet.data.shapes",
]


def modules() -> dict[str, Path]:
    paths = {path: path.relative_to(PACKAGE.parent).with_suffix("") for path in PACKAGE.rglob("*.py")}
    return {".".join(short.parts).removesuffix(".__init__"): path for path, short in sorted(paths.items())}


def layer_of(module: str) -> int:
    """The rank of a module's folder; the package itself and `python -m` offer names of every layer."""
    words = module.split(".")
    if module in ("incdet", "incdet.__main__"):
        return len(LAYERS)
    return LAYERS.index(words[1]) if words[1] in LAYERS else -1


def imports_of(source: str, module: str, known: list[str]) -> Iterator[str]:
    """The modules of the package that a source imports, in functions too; ``from incdet import x`` counts as x."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively; the layers are read from full names"
            joined = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in known else str(node.module) for name in joined]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == "incdet" and name != "incdet")


def forbidden_imports(sources: dict[str, str]) -> list[str]:
    strangers = {frozenset(LAYERS.index(name) for name in pair) for pair in STRANGERS}
    return [
        f"{module} imports {name}"
        for module, source in sources.items()
        for name in imports_of(source, module, list(sources))
        if layer_of(name) > layer_of(module) or frozenset((layer_of(name), layer_of(module))) in strangers
    ]


def circles(sources: dict[str, str]) -> list[tuple[str, ...]]:
    """Groups of modules that import each other, directly or not, at any depth of their code."""
    arrows = {module: {*imports_of(source, module, list(sources))} - {module} for module, source in sources.items()}
    below: dict[str, set[str]] = {module: set() for module in arrows}
    for module in arrows:
        waiting = [module]
        while waiting:
            for name in arrows.get(waiting.pop(), ()):
                if name not in below[module]:
                    below[module].add(name)
                    waiting.append(name)
    return sorted({tuple(sorted(n for n in below[m] if m in below[n])) for m in below if m in below[m]})


def sources() -> dict[str, str]:
    return {name: path.read_text("utf-8") for name, path in modules().items()}


def test_every_folder_is_a_layer_and_tests_mirror_them() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == set(LAYERS)
    assert folders <= {path.name for path in (PACKAGE.parent / "tests").iterdir()}


def test_imports_point_downwards_and_make_no_circle() -> None:
    found = sources()
    assert len(found) > 20
    assert forbidden_imports(found) == []
    assert circles(found) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("incdet.network.retinanet", "from incdet.data.records import Record"),
        ("incdet.data.records", "import incdet.network.retinanet"),
        ("incdet.ops.losses", "def f():\n    from incdet.network import retinanet"),
        ("incdet.memory.exemplars", "from incdet.app.cli import main"),
        ("incdet.errors", "from incdet.config import Config"),
    ],
)
def test_an_upward_import_is_found(module: str, source: str) -> None:
    assert len(forbidden_imports({name: "" for name in modules()} | {module: source})) == 1


def test_a_circle_is_found() -> None:
    first, second = "incdet.ops.boxes", "incdet.ops.losses"
    assert circles({first: f"import {second}", second: f"import {first}"}) == [(first, second)]


def test_no_module_is_too_long() -> None:
    lengths = {path.name: len(path.read_text("utf-8").splitlines()) for path in PACKAGE.rglob("*.py")}
    assert {name: length for name, length in lengths.items() if length > 450} == {}


def test_what_must_answer_at_once_loads_no_torch(repository: Path) -> None:
    program = (
        "import importlib, sys\n"
        f"for name in {TORCH_FREE}:\n"
        "    importlib.import_module(name)\n"
        "    assert 'torch' not in sys.modules, f'{name} loads torch'\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=repository, timeout=120)
