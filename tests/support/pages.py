"""The pages of the documentation, and the blocks of code in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = [README, *sorted(page for page in DOCS.rglob("*.md") if "_build" not in page.parts)]

_FENCED = re.compile(r"^(```+)([^\n]*)\n(.*?)^\1$", re.MULTILINE | re.DOTALL)
_CAPTION = re.compile(r"\A:caption: (.+)\n\n?")
_VARYING = [
    (r"\d+\.\d+ s\b", "_ s"),
    (r"\d+\.\d+ MB\b|\d+ KB\b", "_ MB"),
    (r'"(sha256|made|bytes|elapsed|key|response_id)": [^,\n]+', r'"\1": _'),
]


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block.

    Attributes:
        page: The page it stands on.
        line: Number of its first line.
        language: What stands behind the fence.
        text: What stands in it.
        caption: The file that it is, if it says so.
        output: What the block of output behind it says that it prints, if there is one.
    """

    page: Path
    line: int
    language: str
    text: str
    caption: str = ""
    output: str | None = None

    @property
    def name(self) -> str:
        """Its place."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def file(self) -> str:
        """The file that a block of Python is, by its first line, if it says so."""
        named = re.match(r"# (\w+\.py)\n", self.text)
        return named[1] if named else ""


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks_of(page: Path) -> Iterator[Block]:
    """Yield the blocks of a page in their order."""
    text = read(page)
    found = list(_FENCED.finditer(text))
    for number, match in enumerate(found):
        content, caption = match[3], ""
        if captioned := _CAPTION.match(content):
            content, caption = content[captioned.end() :], captioned[1]
        output = None
        if match is not found[-1]:
            following = found[number + 1]
            if following[2] == "output" and not text[match.end() : following.start()].strip():
                output = following[3]
        line = text.count("\n", 0, match.start()) + 1
        yield Block(page, line, match[2].strip(), content, caption, output)


def steady(text: str) -> str:
    """Return text without the figures that vary: durations, megabytes, and those of an image."""
    for pattern, word in _VARYING:
        text = re.sub(pattern, word, text)
    return text


def text_of(file: str) -> str:
    """Return the text of a file that a page shows."""
    (found,) = [
        block.text for page in DOCS.glob("*.md") for block in blocks_of(page) if block.file == file
    ]
    return found
