"""Answers that a generator makes up are read as by json.loads and plain extraction, or refused.

2,000 of them in the suite; ``GENBATCH_DOCUMENTS=200000 python -m pytest`` of this file reads more.
"""

from __future__ import annotations

import base64
import json
import os
import random
from typing import Any

from genbatch._values import GenbatchError, ImageRequest, InvalidResponse, is_whole, sniff_mime_type
from genbatch.gemini import image_from, parse_answer

DOCUMENTS = int(os.environ.get("GENBATCH_DOCUMENTS", "2000"))
PNG, END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
TEXTS = ("", "a fox", '"data": "', '{"data": 0}', "\\", "é\u2028\U0001f98a", "/+-_=", "\x00\x7f")


class Documents:
    """Makes answers up: mostly right, with oddities in every place."""

    def __init__(self, seed: int) -> None:
        self.pick = random.Random(seed)

    def one(self) -> bytes:
        pick = self.pick
        answer: dict[str, Any] = {
            "candidates": [self.candidate() for _ in range(pick.choice((0, 1, 1, 1, 2)))],
            "usageMetadata": {"promptTokenCount": 5, "data": pick.choice((0, "AAAA"))},
        }
        if pick.random() < 0.1:
            answer[pick.choice(TEXTS)] = self.value(3)
        separators = pick.choice(((",", ":"), (", ", ": "), (" ,\n", "\t:\r\n ")))
        text = json.dumps(
            self.shuffled(answer), separators=separators, ensure_ascii=pick.random() < 0.5
        )
        if pick.random() < 0.2:
            text = text.replace("/", "\\/")
        if pick.random() < 0.1:
            text = text.replace("data", "d\\u0061ta")
        body = text.encode("utf-8", "surrogatepass")
        if pick.random() < 0.1:
            at = pick.randrange(len(body))
            body = body[:at] + pick.choice((b"", b"\xff", b",", b'"', b"}")) + body[at + 1 :]
        return body

    def candidate(self) -> Any:
        parts = [self.part() for _ in range(self.pick.randrange(4))]
        return self.shuffled({"content": {"role": "model", "parts": parts}, "finishReason": "STOP"})

    def part(self) -> Any:
        pick = self.pick
        if pick.random() < 0.3:
            return {"text": pick.choice(TEXTS)}
        if pick.random() < 0.1:
            return self.value(2)
        part: dict[str, Any] = {"inlineData": self.shuffled({"mimeType": "x", "data": self.data()})}
        if pick.random() < 0.1:
            part["thought"] = pick.choice((True, False, 1))
        return self.shuffled(part)

    def data(self) -> Any:
        pick = self.pick
        image = (
            PNG + pick.randbytes(pick.randrange(40)) + pick.choice((END, END, END + b"more", b""))
        )
        data = base64.b64encode(image).decode()
        match pick.randrange(8):
            case 0:
                return data.rstrip("=")
            case 1:
                return data.translate(str.maketrans("+/", "-_"))
            case 2:
                return "\n".join(data[at : at + 20] for at in range(0, len(data), 20))
            case 3:
                return pick.choice((0, None, [], {"data": data}, True, "", "*", data + "**", "é"))
        return data

    def value(self, depth: int) -> Any:
        pick = self.pick
        kind = pick.randrange(6 if depth else 4)
        if kind == 4:
            return [self.value(depth - 1) for _ in range(pick.randrange(3))]
        if kind == 5:
            return {pick.choice(("data", "text", "inlineData")): self.value(depth - 1)}
        return pick.choice((0, -1, 1.5, None, True, float("nan"), 10**30, *TEXTS))

    def shuffled(self, value: dict[str, Any]) -> dict[str, Any]:
        items = list(value.items())
        self.pick.shuffle(items)
        return dict(items)


def plainly(body: bytes) -> list[bytes] | None:
    """Return the images of a body as json.loads and the plainest code see them, None for none."""
    try:
        answer = json.loads(body.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError):
        return None
    images: list[bytes] = []
    candidates = answer.get("candidates") if isinstance(answer, dict) else None
    for candidate in candidates if isinstance(candidates, list) else []:
        content = candidate.get("content") if isinstance(candidate, dict) else None
        parts = content.get("parts") if isinstance(content, dict) else None
        for part in parts if isinstance(parts, list) else []:
            if not isinstance(part, dict) or part.get("thought"):
                continue
            inline = part.get("inlineData")
            data = inline.get("data") if isinstance(inline, dict) else None
            image = plain_base64(data) if isinstance(data, str) else b""
            kind = sniff_mime_type(image)
            if kind is not None and is_whole(image, kind):
                images.append(image)
    return images


def plain_base64(text: str) -> bytes:
    plain = "".join(text.split()).replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except ValueError:
        return b""


def read(body: bytes) -> list[bytes] | None:
    try:
        answer = parse_answer(body, "a-model")
    except InvalidResponse:
        return None
    try:
        image = image_from(answer, ImageRequest("a cup"))
    except GenbatchError:
        return []
    return [image.data, *(extra.data for extra in image.extras)]


def test_answers_are_read_as_by_json_and_plain_extraction() -> None:
    documents = Documents(20_26)
    counts = {"images": 0, "none": 0, "refused": 0}
    for number in range(DOCUMENTS):
        body = documents.one()
        expected, found = plainly(body), read(body)
        if found is None and expected is not None:
            assert not isinstance(json.loads(body.decode("utf-8-sig", "replace")), dict), number
            continue
        assert found == expected, (number, body)
        counts["refused" if found is None else "images" if found else "none"] += 1
    # The generator makes up all there is to tell apart.
    assert min(counts.values()) > DOCUMENTS / 100
