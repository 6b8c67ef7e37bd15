"""What the documentation claims of tests, of the code's own words, and of their place."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import genbatch
from support.pages import DOCS, PAGES, ROOT, read

SOURCE = Path(genbatch.__file__).parent
SCOPE = re.compile("task_group|CancelScope|fail_after|move_on_after")
POINTER = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
POINTERS = sorted({pointer for page in PAGES for pointer in POINTER.findall(read(page))})


def functions_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


@pytest.mark.parametrize(("file", "test"), POINTERS, ids=[test for _, test in POINTERS])
def test_a_test_that_the_documentation_names_exists(file: str, test: str) -> None:
    assert test in functions_in(ROOT / file)
    assert test.startswith("test_")


def test_the_ten_promises_are_those_of_the_code() -> None:
    core = (SOURCE / "_core" / "__init__.py").read_text(encoding="utf-8")
    docstring = ast.get_docstring(ast.parse(core))
    assert docstring
    numbered = re.findall(r"^\d+\.\s+(.*(?:\n {4}.*)*)", docstring, re.MULTILINE)
    quoted = re.findall(r"^(> .*(?:\n> .*)*)", read(DOCS / "promises.md"), re.MULTILINE)
    assert [words(each) for each in numbered] == [words(each.replace("> ", "")) for each in quoted]
    assert len(numbered) == 10


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize(
    "path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE))
)
def test_no_generator_yields_inside_a_task_group(path: Path) -> None:
    for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(function, ast.AsyncFunctionDef):
            continue
        is_manager = any("contextmanager" in ast.unparse(each) for each in function.decorator_list)
        assert is_manager or not yields_inside_a_scope(function), function.name


def yields_inside_a_scope(function: ast.AsyncFunctionDef) -> bool:
    scopes = [
        block
        for block in ast.walk(function)
        if isinstance(block, ast.With | ast.AsyncWith)
        and any(SCOPE.search(ast.unparse(item)) for item in block.items)
    ]
    return any(isinstance(inner, ast.Yield) for scope in scopes for inner in ast.walk(scope))


def test_a_yield_inside_a_task_group_would_be_found() -> None:
    text = "async def f():\n    async with create_task_group():\n        yield 1\n"
    (function,) = ast.parse(text).body
    assert isinstance(function, ast.AsyncFunctionDef)
    assert yields_inside_a_scope(function)
