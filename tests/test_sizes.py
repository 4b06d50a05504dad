"""Functions fit on a page and modules on a few."""

from __future__ import annotations

import ast
from pathlib import Path

import jpmap_fast

PACKAGE = Path(jpmap_fast.__file__).parent
LONGEST_FUNCTION, LONGEST_MODULE = 80, 300


SOURCES = {
    path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8")
    for path in sorted(PACKAGE.rglob("*.py"))
}


def test_no_module_is_long() -> None:
    lines = {name: len(text.splitlines()) for name, text in SOURCES.items()}
    long = {name: count for name, count in lines.items() if count > LONGEST_MODULE}
    assert not long, long


def test_no_function_is_long() -> None:
    lines = {
        f"{name}: {node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for name, text in SOURCES.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    long = {name: count for name, count in lines.items() if count > LONGEST_FUNCTION}
    assert not long, long
