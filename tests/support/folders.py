"""Folders of images for galleries, made without a service and in one transaction."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from genbatch import Prompt
from genbatch._values import EXTENSIONS, sniff_mime_type
from support.archives import opened, plan_all

DATA = re.compile(r'<script type="application/json" id="page">(.*?)</script>', re.DOTALL)

Drawn = bytes | Exception | None  # an image, why there is none, or a prompt that is to do


def picture(
    number: int = 0, size: tuple[int, int] = (48, 32), kind: str = "PNG", **options: Any
) -> bytes:
    """Return an image like no other of another number."""
    colours = (number * 37 % 256, number * 91 % 256, (number >> 8) * 53 % 256)
    image = Image.new("RGB", size, colours)
    image.putpixel((0, 0), (number % 256, number >> 8 & 255, number >> 16 & 255))
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def fill(
    folder: Path,
    prompts: Iterable[str | Prompt],
    draw: Callable[[int], Drawn] = picture,
    *,
    namespace: str = "",
) -> Path:
    """Plan prompts in a folder as one input, note what draw makes of each that is not made."""
    with opened(folder) as archive:
        plans = plan_all(archive, list(prompts), namespace)
        with archive.journal.writing() as journal:
            for number, plan in enumerate(plans):
                made = None if plan.saved else draw(number)
                if isinstance(made, Exception):
                    journal.execute(
                        "UPDATE item SET kind = ?, message = ? WHERE id = ?",
                        (type(made).__name__, str(made), plan.item),
                    )
                elif made is not None:
                    _add(journal, folder, plan.item, 1, plan.stem, made)
    return folder


def add_take(folder: Path, index: int, data: bytes, *, pick: bool = False, **changes: Any) -> None:
    """Note a further take of the prompt at an index."""
    with opened(folder) as archive:
        plan, _ = archive.further(index, "", changes)
        with archive.journal.writing() as journal:
            take = journal.next_take(plan.item)
            name = f"{plan.stem}-take{take}"
            _add(journal, folder, plan.item, take, name, data, pick=pick, prompt=plan.asked)


def _add(
    journal: Any, folder: Path, item: int, take: int, stem: str, data: bytes, **others: Any
) -> None:
    mime_type = sniff_mime_type(data) or "image/png"
    file = stem + EXTENSIONS[mime_type]
    (folder / file).write_bytes(data)
    journal.add_image(
        item,
        take,
        file=file,
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        mime_type=mime_type,
        model="gemini-nano-banana-2.1",
        cost=0.0336,
        elapsed=6.5,
        **others,
    )


def told(folder: Path) -> dict[str, Any]:
    """Return what the page in a folder is told."""
    found = DATA.search((folder / "index.html").read_text(encoding="utf-8"))
    assert found
    page: dict[str, Any] = json.loads(found[1])
    return page


def thumbs(folder: Path) -> list[str]:
    return sorted(each.name for each in (folder / ".genbatch" / "thumbs").iterdir())
