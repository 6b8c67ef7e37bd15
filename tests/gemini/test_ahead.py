"""An image that is decoded as its body comes is the one that is decoded at the end."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genbatch._values import GenbatchError, Image, InvalidResponse
from genbatch.gemini._ahead import Ahead
from genbatch.gemini._answer import image_from
from genbatch.gemini._json import parse_answer

PNG = b"\x89PNG\r\n\x1a\n"


def inline(data: str, **more: Any) -> dict[str, Any]:
    return {"inlineData": {"mimeType": "image/png", "data": data}, **more}


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def body_of(*parts: dict[str, Any]) -> bytes:
    return json.dumps({"candidates": [{"content": {"parts": parts}}]}).encode()


def received(body: bytes, cuts: list[int]) -> Ahead:
    ahead = Ahead(len(body))
    for cut in [*sorted(cut % (len(body) + 1) for cut in cuts), len(body)]:
        ahead.content[:cut] = body[:cut]
        ahead.advance(cut)
    return ahead


def read(body: bytes | Ahead) -> Image | type[GenbatchError]:
    try:
        return image_from(parse_answer(body, "a-model"), "a-model")
    except GenbatchError as exc:
        return type(exc)


contents = st.binary(max_size=60).map(lambda end: PNG + end)
data = st.one_of(
    contents.map(encoded),
    st.text('AB+/=\\"', max_size=20),
    contents.map(lambda content: encoded(content).replace("/", "\\/")),
    st.tuples(contents, contents).map(lambda pair: encoded(pair[0]) + encoded(pair[1])),
)
parts = st.one_of(
    st.text(max_size=10).map(lambda text: {"text": text}),
    data.map(inline),
    data.map(lambda each: inline(each, thought=True)),
)


@given(parts=st.lists(parts, max_size=4), cuts=st.lists(st.integers(0, 2**16), max_size=9))
def test_pieces_of_any_size_bring_the_same_image(
    parts: list[dict[str, Any]], cuts: list[int]
) -> None:
    body = body_of(*parts)
    assert read(received(body, cuts)) == read(body)


@given(body=st.binary(max_size=80), cuts=st.lists(st.integers(0, 2**16), max_size=5))
def test_garbage_of_any_kind_is_refused_alike(body: bytes, cuts: list[int]) -> None:
    body = b'{"data": "' + body
    assert read(received(body, cuts)) == read(body)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 1000])
def test_the_image_is_there_before_the_body_ends(size: int) -> None:
    content = PNG + bytes(size)
    body = body_of(inline(encoded(content)), {"text": "said"})
    ahead = Ahead(len(body))
    ahead.content[:] = body
    ahead.advance(len(body) - 20)
    assert ahead.image == content
    assert body[ahead.start : ahead.end].decode() == encoded(content)


def test_what_is_no_plain_base64_is_left_to_the_end() -> None:
    body = body_of(inline("AAA" + "=" + encoded(PNG)))
    ahead = received(body, list(range(len(body))))
    assert ahead.image is None
    assert read(ahead) is InvalidResponse
