"""What people type, and the words in which messages speak of it.

The library names its arguments; whoever typed an option is told of the option.
"""

from __future__ import annotations

import re

_RENAMED = {"generation_config": "config", "system_instruction": "system"}
# Words of one part are of English too: they are arguments before "=" and " must ", and as what a
# model does not take.
_LONG = "aspect_ratio|image_size|max_images|max_concurrent|base_url|job_latency"
_LONG = f"{_LONG}|{'|'.join(_RENAMED)}"
_SHORT = "price|budget|pace|patience|timeout|thinking|seed|quota|speed|latency|daily"
_ARGUMENT = re.compile(
    rf"\b({_LONG}|{_SHORT})=(?P<value>[^\s,;:])?"
    rf"|(?<!-)(?<!generation_config )\b({_SHORT})(?= must )"
    rf"|(?<=takes no )({_SHORT})\b"
    rf"|(?<![\w.'\"-])({_LONG})\b"
)

_PARSING = re.compile(r", unable to (parse string as [a-z ]+|interpret input)")
_WIDE = re.compile(r"(\d+)[xX/](\d+)")


def as_typed(message: str) -> str:
    """Return a message of the library with options in place of its arguments."""

    def option(match: re.Match[str]) -> str:
        name = next(each for each in match.group(1, 3, 4, 5) if each)
        typed = f"--{_RENAMED.get(name, name).replace('_', '-')}"
        return f"{typed} {match['value']}" if match["value"] else typed

    return _ARGUMENT.sub(option, message)


def in_our_words(message: str) -> str:
    """Return what typer says of a value, in place of the words of its validator."""
    message = message.replace("Input should be ", "must be ").replace("Value error, ", "")
    return _PARSING.sub("", message)


def ratio(text: str | None) -> str | None:
    """Return an aspect ratio as services name it, None for the model's own.

    Raises:
        ValueError: If it is a size in pixels, say.
    """
    text = "".join((text or "").split())
    if (match := _WIDE.fullmatch(text)) is not None:
        raise ValueError(f"{text} is not an aspect ratio: did you mean {match[1]}:{match[2]}?")
    return None if text.lower() in ("", "auto") else text


def size(text: str | None) -> str | None:
    """Return an image size as services name it, None for the model's own."""
    text = (text or "").strip().upper()
    return None if text in ("", "AUTO") else text
