"""From the JSON of an answer to an image, or to the error that says why there is none."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from genbatch._client import excerpt, parse_answer
from genbatch._values import Blocked, Image, ImageRequest, InvalidResponse, NoImage, Usage
from genbatch.gemini._answer import image_from

PNG = b"\x89PNG\r\n\x1a\n the rest of a picture IEND\xaeB`\x82"
JPEG = b"\xff\xd8\xff the rest of a picture \xff\xd9"
GIF = b"GIF89a" + bytes(7) + b";"
MODEL = "gemini-nano-banana-2.1"
REQUEST = ImageRequest("a cup", model=MODEL)


def inline(content: bytes, **more: Any) -> dict[str, Any]:
    encoded = base64.b64encode(content).decode()
    return {"inlineData": {"mimeType": "image/png", "data": encoded}, **more}


def answer(*parts: object, **more: Any) -> dict[str, Any]:
    return {"candidates": [{"content": {"parts": list(parts)}, "finishReason": "STOP"}], **more}


def test_image_has_everything_the_answer_tells() -> None:
    usage = {"promptTokenCount": 5, "candidatesTokenCount": 1120, "totalTokenCount": 1125}
    image = image_from(
        answer(
            {"text": "Here "}, inline(PNG), {"text": "it is"}, usageMetadata=usage, responseId="r"
        ),
        REQUEST,
    )
    assert image.data == PNG
    assert image.mime_type == "image/png"
    assert image.model == MODEL
    assert image.text == "Here it is"
    assert image.usage == Usage(5, 1120, 1125)
    assert image.cost == pytest.approx(0.0336, abs=1e-4)
    assert image.response_id == "r"


def test_type_is_read_from_the_bytes() -> None:
    assert image_from(answer(inline(JPEG)), REQUEST).mime_type == "image/jpeg"


def test_drafts_and_text_of_thoughts_are_skipped() -> None:
    image = image_from(
        answer(inline(PNG, thought=True), {"text": "Hmm", "thought": True}, inline(JPEG)), REQUEST
    )
    assert image.data == JPEG
    assert image.text == ""


def test_image_counts_whatever_the_finish_reason() -> None:
    content = answer(inline(PNG))
    content["candidates"][0]["finishReason"] = "A_REASON_OF_THE_FUTURE"
    assert image_from(content, REQUEST).data == PNG


def test_broken_image_does_not_hide_a_whole_one() -> None:
    image = image_from(answer(inline(b""), inline(PNG)), REQUEST)
    assert image.data == PNG
    assert image.extras == ()


def test_further_images_are_extras_of_the_first_which_alone_has_the_bill() -> None:
    usage = {"promptTokenCount": 5, "candidatesTokenCount": 3360}
    content = answer(inline(JPEG), {"text": "Two."}, inline(b"?"), inline(PNG), usageMetadata=usage)
    content["candidates"].append({"content": {"parts": [inline(GIF)]}})
    image = image_from(content, REQUEST)
    assert image.data == JPEG
    assert image.text == "Two."
    assert image.cost == pytest.approx(3360 * 30e-6, rel=0.01)
    assert image.extras == (
        Image(PNG, "image/png", MODEL),
        Image(GIF, "image/gif", MODEL),
    )


def test_thoughts_are_counted_and_priced_as_text() -> None:
    counts = {"promptTokenCount": 5, "candidatesTokenCount": 1120, "totalTokenCount": 1625}
    usage = {**counts, "thoughtsTokenCount": 500}
    image = image_from(answer(inline(PNG), usageMetadata=usage), REQUEST)
    assert image.usage == Usage(5, 1120, 1625, thought_tokens=500)
    # 1,120 tokens of image at $30 a million, 5 of prompt at $1.50, 500 of thoughts at $7.50.
    assert image.cost == pytest.approx(0.0336 + 0.0000075 + 0.00375)


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (inline(b"<html>"), "it is not a PNG, JPEG, WebP or GIF"),
        (inline(b""), "it has no bytes"),
        (inline(PNG[:-1]), "it is cut off"),
        (inline(b"\x89PNG\r\n\x1a\n<script>"), "it is cut off"),
        (inline(JPEG[:-1]), "it is cut off"),
        ({"inlineData": {"data": "*not*base64*"}}, "its base64 is broken"),
        ({"inlineData": {"data": 7}}, "it has no bytes"),
        ({"inlineData": None}, "it has no bytes"),
    ],
)
def test_what_is_no_image_is_an_invalid_response_that_may_be_paid(
    part: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InvalidResponse, match=reason) as caught:
        image_from(answer(part, responseId="r"), REQUEST)
    assert caught.value.maybe_paid
    assert caught.value.status == 200
    assert caught.value.request_id == "r"


@pytest.mark.parametrize(
    ("content", "maybe_paid"),
    [
        ({"promptFeedback": {"blockReason": "SAFETY"}}, False),
        (
            {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 9}},
            False,
        ),
        ({"candidates": []}, False),
        ({"candidates": [], "usageMetadata": {"candidatesTokenCount": 1120}}, True),
        ({"candidates": [{"finishReason": "IMAGE_SAFETY"}]}, False),  # blocked images are free
        (
            {
                "candidates": [{"finishReason": "IMAGE_SAFETY"}],
                "usageMetadata": {"candidatesTokenCount": 1120},
            },
            True,
        ),
        (
            {
                "candidates": [
                    {
                        "finishReason": "IMAGE_SAFETY",
                        "finishMessage": "You will not be charged for blocked images.",
                    }
                ],
                "usageMetadata": {"candidatesTokenCount": 1120},
            },
            False,
        ),
        ({"candidates": [{"finishReason": "NO_IMAGE"}]}, True),
        (answer({"text": "I can only describe it."}), True),
    ],
)
def test_answer_without_an_image_may_be_paid_once_the_model_was_asked(
    content: dict[str, Any], maybe_paid: bool
) -> None:
    with pytest.raises((Blocked, NoImage)) as caught:
        image_from({**content, "responseId": "r"}, REQUEST)
    assert caught.value.maybe_paid == maybe_paid
    assert caught.value.status == 200
    assert caught.value.request_id == "r"


def test_blocked_prompt_tells_the_reason() -> None:
    with pytest.raises(Blocked, match=f"{MODEL} blocked the prompt: PROHIBITED") as caught:
        image_from({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}, REQUEST)
    assert caught.value.reason == "PROHIBITED_CONTENT"


@pytest.mark.parametrize(
    "reason",
    [
        "SAFETY",
        "IMAGE_SAFETY",
        "PROHIBITED_CONTENT",
        "IMAGE_PROHIBITED_CONTENT",
        "RECITATION",
        "IMAGE_RECITATION",
        "BLOCKLIST",
        "SPII",
    ],
)
def test_blocked_image_tells_the_reason(reason: str) -> None:
    with pytest.raises(Blocked) as caught:
        image_from({"candidates": [{"finishReason": reason}]}, REQUEST)
    assert caught.value.reason == reason


@pytest.mark.parametrize("reason", ["NO_IMAGE", "OTHER", "MAX_TOKENS", "A_REASON_OF_THE_FUTURE"])
def test_other_finish_reasons_without_an_image_are_no_image(reason: str) -> None:
    with pytest.raises(NoImage, match=f"sent no image \\({reason}\\)$"):
        image_from({"candidates": [{"finishReason": reason}]}, REQUEST)


def test_text_alone_is_kept_whole_and_shown_in_part() -> None:
    text = "I can only describe it.\n" * 100
    with pytest.raises(NoImage, match=r"\(STOP\): I can only describe it\. I can") as caught:
        image_from(answer({"text": text}), REQUEST)
    assert caught.value.text == text
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"candidates": []},
        {"candidates": "none"},
        {"candidates": [None, 7]},
        {"promptFeedback": {}},
        {"promptFeedback": ["blockReason"]},
    ],
)
def test_no_candidates_is_no_image(content: dict[str, Any]) -> None:
    with pytest.raises(NoImage, match="no candidates"):
        image_from(content, REQUEST)


@pytest.mark.parametrize(
    "candidate", [{}, {"content": None}, {"content": {"parts": {}}}, {"content": {"parts": [0]}}]
)
def test_candidate_of_any_shape_is_no_image(candidate: dict[str, Any]) -> None:
    with pytest.raises(NoImage):
        image_from({"candidates": [candidate]}, REQUEST)


@pytest.mark.parametrize("count", ["5", -30000, 10**400, 1.5, True, None])
def test_usage_that_cannot_be_believed_is_none_and_so_is_the_cost(count: object) -> None:
    usage = {"promptTokenCount": count, "candidatesTokenCount": 1120}
    image = image_from(answer(inline(PNG), usageMetadata=usage, responseId=7), REQUEST)
    assert image.usage is None
    assert image.cost is None
    assert image.response_id is None


def test_usage_of_another_shape_counts_nothing() -> None:
    assert image_from(answer(inline(PNG), usageMetadata=[1]), REQUEST).usage is None


@pytest.mark.parametrize(
    ("data", "kept"),
    [(base64.b64encode(PNG[:-1]).decode(), PNG[:-1]), ("*broken*", b"*broken*"), ("", None)],
)
def test_what_came_in_place_of_an_image_is_kept(data: str, kept: bytes | None) -> None:
    with pytest.raises(InvalidResponse) as caught:
        image_from(answer({"inlineData": {"data": data}}), REQUEST)
    assert caught.value.data == kept


@pytest.mark.parametrize("size", range(6))
@pytest.mark.parametrize(
    "write",
    [
        lambda plain: plain.rstrip("="),
        lambda plain: plain.translate(str.maketrans("+/", "-_")),
        lambda plain: plain.translate(str.maketrans("+/", "-_")).rstrip("="),
        lambda plain: "\n".join(plain[at : at + 76] for at in range(0, len(plain), 76)) + "\r\n",
    ],
    ids=["unpadded", "of URLs", "of URLs, unpadded", "in lines"],
)
def test_base64_is_read_as_servers_write_it(write: Any, size: int) -> None:
    image = PNG + bytes(range(200, 256)) * 9 + b"\xff" * size
    written = write(base64.b64encode(image).decode())
    assert image_from(answer({"inlineData": {"data": written}}), REQUEST).data == image


def test_number_in_place_of_data_hides_no_image() -> None:
    content = answer({"inlineData": {"data": 0}}, {"data": 0}, inline(PNG))
    assert image_from(content, REQUEST).data == PNG


@pytest.mark.parametrize(
    "body", ["", "<html>\n<b>502</b>", '{"candidates": [', "[1]", "[" * 99_999]
)
def test_body_that_is_no_json_object_is_shown_in_part(body: str) -> None:
    with pytest.raises(
        InvalidResponse, match=f"{MODEL} sent an answer that is not JSON: "
    ) as caught:
        parse_answer(body, MODEL)
    assert caught.value.maybe_paid
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def test_excerpt_is_one_short_printable_line() -> None:
    assert excerpt("a\x1b[31m\r\nb\x00\u2028c") == "a [31m b c"
    assert len(excerpt("word " * 1000)) == 200
