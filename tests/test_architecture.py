"""Imports go down only: service -> rag -> index -> embedder -> kernels; read from the code, not from running it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From the ground up; a floor may use those before it.
FLOORS = ("kernels", "embedder", "index", "rag", "service")


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name, packages by their own."""
    found: dict[str, Path] = {}
    for floor in FLOORS:
        for file in sorted((ROOT / floor).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            found[".".join(("decant", *(parts[:-1] if parts[-1] == "__init__" else parts)))] = file
    return found


def imports(source: str, module: str, *, is_package: bool, at_import: bool = False) -> Iterator[str]:
    """Yield the `decant` modules that `source` names, `from x import y` as both x and x.y.

    Args:
        source: the code.
        module: its dotted name.
        is_package: whether it is an `__init__.py`.
        at_import: only those that run when the module is imported: not in functions, not for type checkers.
    """
    package = module if is_package else module.rpartition(".")[0]
    for node in _nodes(ast.parse(source), at_import):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "decant")
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [node.module])])
            if base.split(".")[0] == "decant":
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names)


def _nodes(tree: ast.AST, at_import: bool) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if not (at_import and (later or typing)):
            yield node
            yield from _nodes(node, at_import)


def upward(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """Return the imports that go to a higher floor, or to none there is."""
    own = FLOORS.index(module.split(".")[1])
    named = {name.split(".")[1] for name in imports(source, module, is_package=is_package) if name != "decant"}
    return sorted(floor for floor in named if floor not in FLOORS or FLOORS.index(floor) > own)


@pytest.mark.parametrize("module", modules())
def test_imports_go_down_only(module):
    file = modules()[module]
    assert upward(file.read_text("utf-8"), module, is_package=file.name == "__init__.py") == []


@pytest.mark.parametrize("module", modules())
def test_folders_import_each_other_relatively(module):
    """An absolute import works in the wheel and makes a second copy of every class in a source tree."""
    names = {*FLOORS, "decant"}
    tree = ast.parse(modules()[module].read_text("utf-8"))
    plain = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    plain += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level]
    assert [name for name in plain if name.split(".")[0] in names] == []


def test_no_module_needs_itself_to_be_imported():
    known = modules()
    graph = {
        name: {
            other
            for other in imports(file.read_text("utf-8"), name, is_package=file.name == "__init__.py", at_import=True)
            if other in known and other != name and not name.startswith(f"{other}.")
        }
        for name, file in known.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"circular imports: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("from ..service import cli", ["service"]),
        ("from ..service.cli import app", ["service"]),
        ("from .. import rag", ["rag"]),
        ("def f():\n    from ..rag import x", ["rag"]),
        ("if TYPE_CHECKING:\n    import decant.rag", ["rag"]),
        ("from ..nowhere import x", ["nowhere"]),
        ("from ..embedder import Encoder", []),
        ("from . import store", []),
        ("import torch", []),
    ],
)
def test_the_check_finds_planted_imports(line, found):
    assert upward(line, "decant.index.planted") == found


def test_only_what_runs_on_import_counts_for_cycles():
    source = "import decant.a\ndef f():\n    import decant.b\nif TYPE_CHECKING:\n    import decant.c\n"
    assert list(imports(source, "decant.x", is_package=False, at_import=True)) == ["decant.a"]
