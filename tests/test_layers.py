from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "incdet"

# Imports point downwards, or sideways within a group; `network` and `data` are strangers.
WORDS = {"background", "errors", "vocab", "losses", "assign", "boxes", "yamlfile", "recipe", "sizes"}
NETWORK = {
    "backbones", "heads", "model", "convert", "checkpoint", "weights", "postprocess", "transform", "targets", "fold",
    "graphs",
}  # fmt: skip
LEARNING = {
    "config", "schema", "engine", "iteration", "methods", "distill", "teacher", "pseudo", "memory", "features",
    "responses", "archive", "guidance", "procedure", "evaluate", "matching", "cocoeval", "metrics", "results",
    "samples", "sources", "journal", "runfolder", "batches",
}  # fmt: skip
PEOPLE = {"cli", "__main__", "report", "viz", "run", "custom", "console", "benchmarks", "predict", "export"}
GROUPS = {"words": WORDS, "network": NETWORK, "learning": LEARNING, "people": PEOPLE}
BELOW = {
    "words": {"words"},
    "network": {"words", "network"},
    "data": {"words", "data"},
    "learning": {"words", "network", "data", "learning"},
    "people": {"words", "network", "data", "learning", "people"},
}
TORCH_FREE = [
    "incdet", "incdet.errors", "incdet.vocab", "incdet.config", "incdet.cli", "incdet.metrics", "incdet.results",
    "incdet.report", "incdet.viz", "incdet.data.records", "incdet.data.formats", "incdet.data.checks",
    "incdet.data.protocols", "incdet.data.shapes",
]  # fmt: skip


def modules() -> list[str]:
    paths = (path.relative_to(PACKAGE.parent).with_suffix("") for path in PACKAGE.rglob("*.py"))
    return sorted(".".join(path.parts).removesuffix(".__init__") for path in paths)


def group_of(module: str) -> str:
    words = module.split(".")
    if words[1] == "data":
        return "data"
    homes = [group for group, names in GROUPS.items() if words[1] in names]
    assert len(homes) == 1, f"{module} has to stand in exactly one layer of this test, not in {homes}"
    return homes[0]


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
        yield from (name for name in names if name.split(".")[0] == "incdet")


def upward_imports(sources: dict[str, str]) -> list[str]:
    known = list(sources)
    return [
        f"{module} ({group_of(module)}) imports {name} ({group_of(name)})"
        for module, source in sources.items()
        if module != "incdet"  # the package offers names of every layer, lazily
        for name in imports_of(source, module, known)
        if name != "incdet" and group_of(name) not in BELOW[group_of(module)]
    ]


def test_imports_point_downwards() -> None:
    sources = {
        name: (PACKAGE.parent / Path(*name.split(".")) / "__init__.py").read_text("utf-8")
        if (PACKAGE.parent / Path(*name.split("."))).is_dir()
        else (PACKAGE.parent / Path(*name.split("."))).with_suffix(".py").read_text("utf-8")
        for name in modules()
    }
    assert len(sources) > 20
    assert upward_imports(sources) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("incdet.model", "from incdet.data.records import Record"),
        ("incdet.data.records", "import incdet.model"),
        ("incdet.losses", "def f():\n    from incdet import model"),
        ("incdet.memory", "from incdet.cli import main"),
    ],
)
def test_an_upward_import_is_found(module: str, source: str) -> None:
    sources = {name: "" for name in modules()} | {module: source}
    assert len(upward_imports(sources)) == 1


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
