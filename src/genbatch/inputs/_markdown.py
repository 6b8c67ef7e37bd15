"""Markdown: list items and tables, or fenced blocks, as rows.

A list item may begin with the name of its image in backticks or bold: ``1. `hero.png` - A knight``.
Without lists and tables, paragraphs that begin with such a name are read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from ._formats import Fields, Row, Rows, Source, header_names, rows_of_cells, short

if TYPE_CHECKING:
    from markdown_it.token import Token

_TASK = re.compile(r"\[[ xX]\]\s+")
_AFTER_NAME = re.compile(r"\s*(?:[-:\u2010-\u2015]+\s|\n)\s*")
# What a page says of itself, in YAML between two lines of hyphens.
_FRONT = re.compile(
    r"\A---[ \t\r]*\n[\w-]+:.*\n(?:(?:[\w-]+:|[ \t#-]).*\n|\r?\n)*?---[ \t\r]*(?=\n|\Z)"
)
_LABEL = re.compile(r"((full|final|image)\s+)?prompt\s*#?\d*", re.IGNORECASE)
_FILE = re.compile(r"[^\s/\\][^/\\]*\.(?:png|jpe?g|webp|gif)", re.IGNORECASE)


def read_markdown(source: Source) -> Rows:
    """Yield a row for each list item and each row of a table, or for each fenced block.

    Raises:
        InputError: If there is nothing of the kind, or no reader is installed.
    """
    try:
        from markdown_it import MarkdownIt
    except ImportError:
        hint = "python -m pip install 'genbatch[data]'"
        raise source.error(f"reading Markdown needs markdown-it-py: {hint}") from None
    text = _FRONT.sub(lambda front: "\n" * front[0].count("\n"), "\n".join(source.lines()))
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    rows: list[Row]
    if source.layout.markdown == "blocks":
        rows = list(_blocks(tokens))
    else:
        items, cells = list(_items(tokens)), list(_tables(tokens, source))
        rows = [*items, *cells] or list(_named_paragraphs(tokens))
        if items and cells:
            read = f"{len(items):,} from lists and {len(cells):,} from tables"
            source.note(f"{source.name}: the prompts are {read}")
        blocks = sum(token.type == "fence" and token.level == 0 for token in tokens)
        if rows and blocks:
            source.note(
                f"{source.name}: fenced blocks not read: {blocks:,}; --md blocks reads those"
            )
    if not rows and text.strip():
        other = {"blocks": "lists", "lists": "blocks"}[source.layout.markdown]
        what = {"blocks": "fenced blocks", "lists": "list items and no table with prompts"}
        hint = f"--md {other} or --format txt reads it otherwise"
        raise source.error(f"no {what[source.layout.markdown]} in it; {hint}")
    yield from _unlabelled(sorted(rows, key=lambda row: row[0]))


def _unlabelled(rows: Sequence[Row]) -> Rows:
    """Yield rows without the label ``**Prompt:**``; what has another one beside it is a mistake."""
    names = [row.get("filename") if isinstance(row, dict) else None for _, row in rows]
    are_prompts = [_LABEL.fullmatch(str(name)) is not None for name in names]
    for (number, row), name, is_prompt in zip(rows, names, are_prompts, strict=True):
        if is_prompt and isinstance(row, dict):
            yield number, {field: value for field, value in row.items() if field != "filename"}
        elif name and any(are_prompts) and not _FILE.fullmatch(str(name)):
            what = f"{short(str(name))} beside items that are called Prompt"
            yield number, ValueError(f"{what}; leave it out, or write a table with a row for each")
        else:
            yield number, row


def _blocks(tokens: Sequence[Token]) -> Iterator[tuple[int, Fields]]:
    for token in tokens:
        if token.type == "fence" and token.content.strip():
            yield _line(token) + 1, {"prompt": token.content.rstrip()}


def _items(tokens: Sequence[Token]) -> Iterator[tuple[int, Fields]]:
    """Yield a row for each item of a list; a name alone before a list inside it is a heading."""
    parts: list[list[Token]] = []  # of the items that are open
    starts: list[int] = []
    for token in tokens:
        if token.type == "list_item_open":
            parts.append([])
            starts.append(_line(token))
        elif token.type in ("inline", "fence", "code_block") and parts:
            parts[-1].append(token)
        elif token.type == "list_item_close":
            own, number = parts.pop(), starts.pop()
            if row := _row(own):
                yield number, row


def _named_paragraphs(tokens: Sequence[Token]) -> Iterator[tuple[int, Fields]]:
    """Yield a row for each paragraph that begins with a name; its text may be the next one."""
    paragraphs = [token for token in tokens if token.type == "inline" and token.level == 1]
    named = [bool(_name_of(token)[0]) for token in paragraphs]
    for place, token in enumerate(paragraphs):
        if named[place]:
            follows = place + 1 < len(paragraphs) and not named[place + 1]
            own = [token, *(paragraphs[place + 1 : place + 2] if follows else ())]
            if row := _row(own if not _name_of(token)[1] else [token]):
                yield _line(token), row


def _row(parts: Sequence[Token]) -> Fields | None:
    if not parts:
        return None
    marks = [each.type for each in parts[0].children or ()]
    if marks == ["link_open", "text", "link_close"] and len(parts) == 1:
        if str((parts[0].children or [])[0].attrs["href"]).startswith("#"):
            return None  # a table of contents
    name, first = _name_of(parts[0])
    texts = [first, *(_plain(part) for part in parts[1:])]
    text = "\n".join(filter(None, (each.strip() for each in texts)))
    if not text:
        return None
    return {"prompt": text, **({"filename": name} if name else {})}


def _name_of(token: Token) -> tuple[str, str]:
    """Return the name that a text begins with, empty if with none, and the text behind it."""
    text = _TASK.sub("", _plain(token), count=1) if token.type == "inline" else _plain(token)
    children = [each for each in token.children or () if each.content or each.nesting]
    kinds = [each.type for each in children[:3]]
    is_bold = kinds[:1] == ["strong_open"]
    if not is_bold and kinds[:1] != ["code_inline"]:
        return "", text
    name = _marked(children) if is_bold else children[0].content
    rest = text.removeprefix(name)
    bare = name.strip().removesuffix(":").strip()
    match = _AFTER_NAME.match(rest + "\n")
    if not (match or name.strip().endswith(":")) or not (is_bold or _FILE.fullmatch(bare)):
        return "", text
    return bare, rest[match.end() :] if match else rest.strip()


def _marked(children: Sequence[Token]) -> str:
    """Return the text between the first pair of marks."""
    end = next(at for at, each in enumerate(children) if each.type == "strong_close")
    return "".join(each.content for each in children[:end])


def _plain(token: Token) -> str:
    """Return the text of a part without its marks."""
    if token.children is None:
        return token.content.rstrip()
    breaks = ("softbreak", "hardbreak")
    return "".join("\n" if each.type in breaks else each.content for each in token.children)


def _tables(tokens: Sequence[Token], source: Source) -> Rows:
    """Yield the rows of the tables that have the columns that are needed."""
    rows: list[tuple[int, list[str]]] = []
    for token in tokens:
        if token.type == "table_open":
            rows = []
        elif token.type == "tr_open":
            rows.append((_line(token), []))
        elif token.type == "inline" and token.level > 3 and rows:
            rows[-1][1].append(_plain(token))
        elif token.type == "table_close":
            yield from _rows_of_table(rows, source)
            rows = []


def _rows_of_table(rows: list[tuple[int, list[str]]], source: Source) -> Rows:
    with suppress(ValueError):  # for a table of other things
        source.check_names(header_names(rows[0][1]))
        return rows_of_cells(source, iter(rows))
    return iter(())


def _line(token: Token) -> int:
    return (token.map or [0])[0] + 1
