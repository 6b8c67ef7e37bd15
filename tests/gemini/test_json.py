"""Reading the JSON of an answer: it is found by a parser, and nothing that is paid is lost."""

from __future__ import annotations

import base64
import json
import sys
import traceback
from typing import Any

import pytest

from genbatch._client import _wire, parse_answer
from genbatch._values import ImageRequest, InvalidResponse
from genbatch.gemini._answer import image_from

MODEL = "a-model"
KEY = "AIza-a-key-that-is-echoed"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) + b"IEND\xaeB`\x82"
ENCODED = base64.b64encode(PNG).decode()


def hide(text: str) -> str:
    return text.replace(KEY, "[API key]")


def answer(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"candidates": [{"content": {"parts": list(parts)}}]}


def image(data: Any = ENCODED) -> dict[str, Any]:
    return {"inlineData": {"mimeType": "image/png", "data": data}}


def read(body: bytes) -> tuple[bytes, str]:
    found = image_from(parse_answer(body, MODEL, hide), ImageRequest("a cup"))
    return found.data, found.text


@pytest.mark.parametrize("kind", [bytes, bytes.decode])
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (" ,\n", "\t:\r\n ")])
def test_image_is_found_however_the_json_is_laid_out(kind: Any, separators: Any) -> None:
    body = json.dumps(answer({"text": "here"}, image()), separators=separators)
    assert read(kind(body.encode())) == (PNG, "here")


@pytest.mark.parametrize(
    "text", ['"data": "', '{"data": "QUJD"}', 'say "data', "\\", '"', "0", "data", 'x","data":"y']
)
def test_text_that_looks_like_an_image_stays_text(text: str) -> None:
    body = json.dumps(answer({"text": text}, image(), {text: text, "text": ""})).encode()
    assert read(body) == (PNG, text)


def test_escaped_base64_is_read() -> None:
    assert "/" in ENCODED
    body = json.dumps(answer(image("@"))).replace("@", ENCODED.replace("/", "\\/"))
    assert read(body.encode()) == (PNG, "")


@pytest.mark.parametrize(
    "data", ["%%%", 'quo"te', "\\", "", "@@", 0, 7, -1, None, {"data": ENCODED}]
)
def test_data_that_is_no_base64_is_no_image(data: Any) -> None:
    with pytest.raises(InvalidResponse):
        read(json.dumps(answer(image(data))).encode())


@pytest.mark.parametrize(
    "damage",
    [
        lambda body: b"\xef\xbb\xbf" + body,
        lambda body: body.replace(b"here", b"h\xffre"),
        lambda body: body.replace(b"here", b"\\ud83d"),
        lambda body: body.replace(b'"here"', b'"here", "deep": ' + b"[" * 300 + b"]" * 300),
        lambda body: body.replace(b'"here"', b'"here", "number": NaN'),
    ],
    ids=["byte order mark", "stray byte", "half a character", "deep", "not a number"],
)
def test_paid_image_survives_what_strict_parsers_refuse(damage: Any) -> None:
    body = json.dumps(answer({"text": "here"}, image())).encode()
    assert read(damage(body))[0] == PNG


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[1]", b"<html>", b'{"a": 1} x', b'{"data": "', b"[" * 99_999, b'{"data": "\\'],
)
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(
        InvalidResponse, match="a-model sent an answer that is not JSON: "
    ) as caught:
        parse_answer(body, MODEL, hide)
    assert caught.value.maybe_paid


def test_key_that_a_server_echoes_is_hidden_everywhere() -> None:
    echo: Any = answer({"text": f"your key is {KEY}", "list": [KEY]}, image())
    echo["promptFeedback"] = {"blockReason": KEY}
    assert KEY not in str(parse_answer(json.dumps(echo).encode(), MODEL, hide))
    with pytest.raises(InvalidResponse, match=r"\[API key\]") as caught:
        parse_answer(b"<html>" + KEY.encode() * 9, MODEL, hide)
    assert KEY[:12] not in str(caught.value)
    assert KEY not in str(caught.value.__cause__)


@pytest.mark.parametrize("kind", [str, str.encode])
def test_answer_of_far_too_many_values_is_refused_unparsed(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = json.dumps(answer(image(), {"list": [0] * 100_000}))
    monkeypatch.setattr(_wire, "from_json", None)
    with pytest.raises(InvalidResponse, match="more than 100,000 values") as caught:
        parse_answer(kind(body), MODEL)
    assert caught.value.maybe_paid


def test_answer_of_many_values_is_read() -> None:
    assert read(json.dumps(answer(image(), {"list": [0] * 99_000})).encode())[0] == PNG


def test_texts_of_answers_are_not_kept() -> None:
    def parse(first: int) -> None:
        for number in range(first, first + 1000):
            parse_answer(json.dumps(answer({"text": f"text {number}"}, image())), MODEL)

    parse(0)
    before = sys.getallocatedblocks()
    parse(1000)
    assert sys.getallocatedblocks() - before < 500


def test_error_about_an_answer_does_not_keep_it() -> None:
    with pytest.raises(InvalidResponse) as caught:
        parse_answer(b"<html>" + b" " * 1_000_000, MODEL)
    error: BaseException | None = caught.value.with_traceback(caught.tb.tb_next)
    while error is not None:
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        held = [getattr(error, "doc", ""), *(v for f in frames for v in f.f_locals.values())]
        assert all(sys.getsizeof(each) < 100_000 for each in held)
        error = error.__cause__ or error.__context__
