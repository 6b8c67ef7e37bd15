"""No answer, however wrong, raises anything but a GenbatchError."""

from __future__ import annotations

import base64
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from genbatch._client import Secret, parse_answer
from genbatch._http import CapturedBody
from genbatch._values import GenbatchError, Image, ImageRequest
from genbatch.openai import OpenAIClient
from genbatch.openai._answer import error_from, image_from

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n the rest of a picture IEND\xaeB`\x82").decode()
MODEL = "gpt-image-2.6-flare"
REQUEST = ImageRequest("a cat", model=MODEL)

FIELDS = st.sampled_from(
    "data b64_json url usage input_tokens output_tokens total_tokens input_tokens_details "
    "output_tokens_details image_tokens text_tokens size quality error message code type "
    "moderation_details".split()
)
VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES |= st.sampled_from([PNG, "1024x1024", "low", 1756, "moderation_blocked"])
ANSWERS = st.recursive(
    VALUES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS, inner, max_size=5)
)


@given(ANSWERS, ANSWERS, ANSWERS)
def test_any_answer_is_an_image_or_an_error(data: Any, usage: Any, size: Any) -> None:
    body = json.dumps({"data": data, "usage": usage, "size": size, "quality": size})
    try:
        image = image_from(parse_answer(body, MODEL), REQUEST)
    except GenbatchError:
        return
    assert isinstance(image, Image)
    assert image.cost is None or 0 < image.cost < OpenAIClient.price(REQUEST) * 99


@given(st.integers(201, 599), ANSWERS | st.binary())
def test_any_refusal_is_an_error(status: int, answer: Any) -> None:
    captured = CapturedBody()
    captured.body = answer if isinstance(answer, bytes) else json.dumps(answer)
    error = error_from(status, captured, MODEL, Secret("sk-a-secret-key"))
    assert isinstance(error, GenbatchError)
    assert error.status == status
    assert len(str(error)) < 400
