"""The reference names everything there is, and links lead somewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import genbatch
import genbatch.events
import genbatch.gallery
import genbatch.openai
import genbatch.otel
import genbatch.pytest_plugin
import genbatch.testing
import genbatch.web
from genbatch.cli._main import app
from support.pages import DOCS, PAGES, README, ROOT, read

SOURCE = Path(genbatch.__file__).parent
REFERENCE = DOCS / "reference"
ALL = "\n".join(read(page) for page in REFERENCE.glob("*.md"))
DESCRIBED = re.findall(r"^\.\. (?:auto\w+|py:data):: ([\w.]+)", ALL, re.MULTILINE)


def public_names() -> Iterator[str]:
    modules = (genbatch, genbatch.events, genbatch.otel, genbatch.openai, genbatch.testing)
    for module in (*modules, genbatch.gallery, genbatch.web, genbatch.pytest_plugin):
        yield from (f"{module.__name__}.{name}" for name in module.__all__)


def test_every_public_name_is_described_once() -> None:
    assert sorted(DESCRIBED) == sorted(public_names())


def test_every_error_has_a_row_in_the_table() -> None:
    table = re.findall(r"^\| `(\w+)` \|", read(REFERENCE / "errors.md"), re.MULTILINE)
    errors = {
        name
        for name in genbatch.__all__
        if isinstance(value := getattr(genbatch, name), type) and issubclass(value, Exception)
    }
    assert set(table) == errors - {"GenbatchError"}


def test_every_command_has_a_section() -> None:
    page = read(REFERENCE / "command-line.md")
    names = [each.name for each in app.registered_commands]
    assert re.findall(r"^## (.+)\n\n```\{command\} \1\n```$", page, re.MULTILINE) == [
        "genbatch",
        *names,
    ]


def test_every_variable_that_is_read_is_in_the_table() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py"))
    used = set(
        re.findall(r"\b(?:(?:GEMINI|GOOGLE|OPENAI|SSL_CERT)_[A-Z_]+|GENBATCH_PRICES)\b", code)
    )
    rows = re.findall(r"^\| (`[^|]*)", read(REFERENCE / "environment.md"), re.MULTILINE)
    table = set(re.findall(r"`([A-Z_]+)`", "".join(rows)))
    assert used == {name for name in table if not name.endswith("_PROXY")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_files_of_the_project_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", read(page), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, _ = target.partition("#")
        if path.startswith("src/genbatch/"):  # installed, or in the checkout
            assert (SOURCE / path.removeprefix("src/genbatch/")).exists(), target
        elif path and "://" not in path:
            assert (page.parent / path).exists(), target


def test_the_readme_links_the_documentation() -> None:
    assert {"docs/durability.md", "docs/throttle.md", "docs/testing.md"} <= set(
        re.findall(r"\]\(([^)\s]+)\)", read(README))
    )
