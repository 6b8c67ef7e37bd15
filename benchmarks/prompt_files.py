"""Random prompt files for benchmarks.inputs: valid ones, mutations of them, and noise."""

from __future__ import annotations

import codecs
import csv
import io
import json
import random
from dataclasses import dataclass, field
from typing import Any

from genbatch import Prompt
from genbatch.inputs import Grid, Recipe, Selection, Template

WORDS = [
    "a red fox", "in the snow", "first light", "16:9", "東京", "Füchslein", "🦊", "e\u0301",
    "\u202e", "\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\ufeff", "\u00a0", '"', '""',
    "'", ",", ";", "\t", "\\", "\\n", "{", "}", "{a}", "[", "]", ":", '":', "#", "=1+1", "null",
    "-", " ", "a" * 200,
]  # fmt: skip
BREAKS = ["\n", "\r\n", "\r", "\n\n"]  # only in quotes
NAMES = ["Lens", "note", "Hair colour", "N", "a,b", "c;d", 'e"f', "ß", "prompt2", "_", "x" * 60]
OWN = ("id", "filename", "model", "aspect_ratio", "image_size", "seed")
HEADERS = {"prompt": ["Prompt", "PROMPT"], "aspect_ratio": ["Aspect Ratio", "aspectRatio"]}
NOISE = [
    b'"', b"'", b"\n", b"\r", b"\r\n", b"\0", b"\xff", b"\xc3", b"\xe2\x80", b"\xed\xa0\x80", b"{",
    b"}", b"[", b"]", b",", b";", b"\t", b":", b"\\", b"\\u0000", b"\\ud800", b"\\ud83d\\ude00",
    b"1e999", b"NaN", b"-0", b"1.5", b"true", b"null", b"[" * 300, b'{"a":' * 300, b"9" * 5000,
    b'"prompt": "a"', b'"n": 3', b'"n": 0', b'"seed": 1.5', b"prompt", b"\x1b[31m", b" ", b"\xa0",
    codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_LE,
]  # fmt: skip
VALUES = [
    '"a"', '" "', '""', '"\\u0000"', '"\\ud800"', "null", "true", "0", "3", "-3", "1.5", "1e999",
    "[]", "{}", '["a.png"]', "[[]]", '{"x": [1e999]}', '"[1"', '"7"', '"x;y"', "1001", "9" * 99,
]  # fmt: skip
ENCODINGS = ["utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1252"]
RARE = ["shift_jis", "gb18030", "utf-7", "iso2022_jp", "utf-16-be", "koi8-r", "ascii"]


@dataclass
class Case:
    """An input, and what it must become, None where nobody knows."""

    suffix: str
    content: bytes
    encoding: str
    expected: list[Prompt] | None
    recipe: Recipe = field(default_factory=Recipe)
    selection: Selection = field(default_factory=Selection)
    block: int = 1 << 16


def text(choose: random.Random, breaks: bool = False) -> str:
    """Return a text that may be a prompt."""
    words = choose.choices(WORDS + (BREAKS if breaks else []), k=choose.randint(1, 5))
    return "".join(words) if "".join(words).strip() else "an owl"


def prompt(choose: random.Random, names: list[str], breaks: bool) -> Prompt:
    """Return a random prompt with these metadata."""
    own: dict[str, Any] = {
        "id": text(choose).strip(),
        "filename": text(choose).strip(),
        "model": choose.choice(["flash", "pro", "gemini-x"]),
        "aspect_ratio": "16:9",
        "image_size": choose.choice(["1K", "4K"]),
        "seed": choose.randint(-(2**31), 2**31 - 1),
    }
    given = {name: value for name, value in own.items() if choose.random() < 0.3}
    metadata = {name: text(choose, breaks) for name in names}
    return Prompt(text(choose, breaks), **given, metadata=metadata)


def cells(choose: random.Random, prompts: list[Prompt], names: list[str]) -> list[list[str]]:
    """Return prompts as a table, with its header."""
    columns = ["prompt", *names]
    columns += [name for name in OWN if any(getattr(each, name) is not None for each in prompts)]
    choose.shuffle(columns)
    rows = [[choose.choice([name, *HEADERS.get(name, [])]) for name in columns]]
    for each in prompts:
        values = {"prompt": each.text, **each.metadata}
        row = (values.get(name, getattr(each, name, None)) for name in columns)
        rows.append(["" if value is None else str(value) for value in row])
    return rows


def table(rows: list[list[str]], delimiter: str, **options: Any) -> str:
    """Return rows as a spreadsheet writes them."""
    buffer = io.StringIO(newline="")
    csv.writer(buffer, delimiter=delimiter, **options).writerows(rows)
    return buffer.getvalue()


def as_json(choose: random.Random, each: Prompt) -> str:
    """Return a prompt as a JSON object."""
    row = {"prompt": each.text, **{name: getattr(each, name) for name in OWN}, **each.metadata}
    fields = [(n, v) for n, v in row.items() if v is not None or choose.random() < 0.5]
    choose.shuffle(fields)
    separators = choose.choice([(",", ":"), (", ", ": "), (" ,\t", " : ")])
    ascii_only = choose.random() < 0.5
    return json.dumps(dict(fields), ensure_ascii=ascii_only, separators=separators)


def valid(choose: random.Random) -> tuple[str, str, list[Prompt]]:
    """Return the extension and the text of a valid file, and its prompts."""
    suffix = choose.choice([".txt", ".jsonl", ".csv", ".tsv"])
    end = choose.choice(["\n", "\r\n"])
    size = choose.randint(0, 6)
    if suffix == ".txt":
        prompts = [Prompt(text(choose)) for _ in range(size)]
        return (
            suffix,
            "".join(f"{each.text}{end}{choose.choice(['', end])}" for each in prompts),
            prompts,
        )
    names = choose.sample(NAMES, choose.randint(0, 3))
    breaks = suffix != ".tsv"
    prompts = [prompt(choose, names, breaks) for _ in range(size)]
    if suffix == ".jsonl":
        return suffix, "".join(as_json(choose, each) + end for each in prompts), prompts
    rows = cells(choose, prompts, names)
    if suffix == ".tsv":
        return suffix, table(rows, "\t", lineterminator=end), prompts
    # Of a header with one column nobody knows the separator, so it is a comma.
    delimiter = choose.choice(",;") if len(rows[0]) > 1 else ","
    # Python's writer leaves a carriage return unquoted, which then ends a row or none.
    minimal = (
        csv.QUOTE_ALL if any("\r" in cell for row in rows for cell in row) else csv.QUOTE_MINIMAL
    )
    quoting = choose.choice([minimal, csv.QUOTE_ALL])
    return suffix, table(rows, delimiter, lineterminator=end, quoting=quoting), prompts


def encoded(choose: random.Random, content: str) -> tuple[str, bytes]:
    """Return text in an encoding that can hold it."""
    encoding = choose.choice(ENCODINGS if choose.random() < 0.8 else RARE)
    if content.startswith("\ufeff"):
        encoding = "utf-8-sig"  # without a mark before it, it would be one
    try:
        return encoding, content.encode(encoding)
    except UnicodeEncodeError:
        return "utf-8", content.encode()


def odd_rows(choose: random.Random) -> str:
    """Return JSON objects whose fields have any values."""
    names = ["prompt", "Prompt", "n", "Lens", "images", *OWN]
    rows = [choose.choices(names, k=choose.randint(0, 4)) for _ in range(choose.randint(1, 3))]
    lines = []
    for names in rows:
        fields = [f'"{name}": {choose.choice(VALUES)}' for name in names]
        lines.append("{" + ", ".join(['"prompt": "a"', *fields]) + "}")
    return "\n".join(lines)


def mutated(choose: random.Random, content: bytes) -> bytes:
    """Return content with some damage."""
    for _ in range(choose.choice([1, 1, 1, 2, 8])):
        at = choose.randint(0, len(content))
        end = min(len(content), at + choose.choice([0, 1, 2, 10]))
        match choose.randrange(6):
            case 0 | 1 | 2:  # put noise in place of something
                content = content[:at] + choose.choice(NOISE) + content[end:]
            case 3:  # take something out
                content = content[:at] + content[end:]
            case 4:  # double something
                content = content[:end] + content[at:]
            case 5:  # cut the end off
                content = content[:at]
    return content


def recipe(choose: random.Random) -> Recipe:
    """Return a recipe that may suit an input; most do not."""
    axes = choose.choice([[], ["n=2"], ["seed=1,2", "model=pro,flash"]])
    if choose.random() < 0.5:
        return Recipe(column=choose.choice(["prompt", "Lens", "id"]), grid=Grid.parse(axes))
    template = choose.choice(["{prompt}", "{Lens} {{x}}", "{prompt} {style}"])
    if "style" in template:
        axes = ["style=ink,oil"]
    return Recipe(template=Template.parse(template), grid=Grid.parse(axes))


def case(seed: int) -> Case:
    """Return the input of a seed."""
    choose = random.Random(seed)
    suffix, content, prompts = valid(choose)
    encoding, data = encoded(choose, content)
    made = Case(suffix, data, encoding, prompts)
    if choose.random() < 0.3:  # many blocks, of which none need end where a character does
        made.block = choose.choice([1, 2, 3, 7]) if len(data) < 200 else 64
    if choose.random() < 0.3:
        return made
    made.expected = None
    if choose.random() < 0.1:
        made.suffix, made.encoding, made.content = ".jsonl", "utf-8", odd_rows(choose).encode()
    else:
        made.content = mutated(choose, data) if choose.random() < 0.95 else choose.randbytes(60)
    if choose.random() < 0.1:
        made.suffix = choose.choice([".txt", ".jsonl", ".ndjson", ".csv", ".tsv"])
    if choose.random() < 0.1:
        made.encoding = choose.choice(ENCODINGS + RARE)
    if choose.random() < 0.3:
        made.recipe = recipe(choose)
    if choose.random() < 0.2:
        limit, sample = choose.choice([None, 0, 1, 3]), choose.choice([None, 1, 2])
        made.selection = Selection(limit, sample, seed)
    return made
