"""The page: one file with its style and script inside, and a policy that lets nothing else run.

1. Text of others (prompts, errors, names) is in the page as JSON only, in which nothing can end
   the element around it; the script shows it as text.
2. The policy admits the style and the script by their hashes, images from beside the page, and
   nothing besides: no network, no markup made of text, no form.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterable, Iterator
from importlib.resources import files
from string import Template
from typing import Any

SCRIPTS = ("page.js", "grid.js", "dialog.js", "bar.js")  # one after the other, as one
MARK = b'<meta name="generator" content="genbatch'

# What could end a script element, what scripts took for ends of lines, what no file may have, and
# what UTF-8 cannot write.
_UNSAFE = re.compile("[<>&\u2028\u2029\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_POLICY = (
    "default-src 'none'; img-src 'self' file:; style-src '{}'; script-src '{}'; "
    "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)


def page(head: dict[str, Any], items: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield a page piece by piece.

    Args:
        head: What there is to say of all items, ``name`` and more.
        items: One for each prompt.
    """
    template, style = _resource("page.html"), _resource("page.css")
    script = "\n".join(map(_resource, SCRIPTS))
    before, after = (
        Template(template)
        .substitute(
            policy=_POLICY.format(_hash(style), _hash(script)),
            name=html.escape(head["name"]),
            style=style,
            script=script,
            page="\0",
        )
        .split("\0")
    )
    yield before
    yield to_json(head).removesuffix("}") + ', "items": ['
    for number, item in enumerate(items):
        yield (",\n" if number else "\n") + to_json(item)
    yield "\n]}" + after


def to_json(value: object) -> str:
    """Return value as JSON that may stand in a script element."""
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", _encode(value))


def _resource(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
