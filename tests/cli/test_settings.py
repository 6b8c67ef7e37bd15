"""Settings of images on the command line reach the service, the keys and the rows."""

from __future__ import annotations

import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from genbatch.cli._options import parse_config
from genbatch.testing import FakeGemini, Fault
from support.commands import Genbatch, Serve, write_prompts
from support.folders import picture


def configs(fake: FakeGemini) -> list[dict[str, Any]]:
    """Return what each call asked for beside the prompt, in the order of the texts."""
    calls = sorted(fake.calls, key=lambda call: call.prompt)
    return [call.body["generationConfig"] for call in calls]


def rows(folder: str = "genbatch-out") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(folder, "results.jsonl").read_text().splitlines()]


SETTINGS = [
    *("--thinking", "high", "--system", "Draw in ink.", "--config", "topP=0.5"),
    *("--config", 'imageConfig={"imageSize": "2K"}', "--config", "brush=fine"),
]


def test_settings_reach_the_service_and_enter_the_key(genbatch: Genbatch, serve: Serve) -> None:
    fake = serve()
    write_prompts(1)
    done = genbatch("run", "prompts.txt", *SETTINGS)
    assert done.returncode == 0, done.stderr
    [call] = fake.calls
    assert call.body["generationConfig"] == {
        "responseModalities": ["IMAGE"],
        "imageConfig": {"imageSize": "2K"},
        "thinkingConfig": {"thinkingLevel": "HIGH"},
        "topP": 0.5,
        "brush": "fine",
    }
    assert call.body["systemInstruction"]["parts"] == [{"text": "Draw in ink."}]
    assert rows()[0]["asked"]["settings"]["system_instruction"] == "Draw in ink."

    planned = genbatch("run", "prompts.txt", *SETTINGS, "--dry-run").stdout
    assert planned.startswith("1 prompts · 1 done · 0 to make · ")
    assert genbatch("run", "prompts.txt", *SETTINGS).returncode == 0
    assert len(fake.calls) == 1
    assert genbatch("run", "prompts.txt", *SETTINGS[2:]).returncode == 0
    assert len(fake.calls) == 2


def test_variants_and_images_and_the_seed_are_those_of_rows_without_their_own(
    genbatch: Genbatch, serve: Serve
) -> None:
    fake = serve()
    Path("style.png").write_bytes(picture(1))
    Path("own.png").write_bytes(picture(2))
    Path("shots.jsonl").write_text(
        '{"prompt": "a fox"}\n{"prompt": "an owl", "n": 1, "seed": 3, "images": ["own.png"]}\n'
    )
    command = ["run", "shots.jsonl", "-n", "2", "--seed", "7"]
    command += ["--image", "style.png", "--image", "own.png"]
    done = genbatch(*command)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("3 prompts · 0 done · 3 to make · ")
    assert sorted(config["seed"] for config in configs(fake)) == [3, 7, 8]
    sent = {call.prompt: len(call.body["contents"][0]["parts"]) - 1 for call in fake.calls}
    assert sent == {"a fox": 2, "an owl": 1}
    assert genbatch(*command).returncode == 0
    assert len(fake.calls) == 3


def test_a_template_alone_and_standard_input_have_variants_too(
    genbatch: Genbatch, serve: Serve
) -> None:
    fake = serve()
    done = genbatch("run", "--template", "A {a}", "--matrix", "a=fox,owl", "-n", "2", "-o", "one")
    assert (done.returncode, fake.stats.images) == (0, 4)
    done = genbatch("run", "-", "-n", "3", "-o", "two", input="a fox\n")
    assert (done.returncode, fake.stats.images) == (0, 7)


def test_thinking_of_the_run_is_left_out_where_a_rows_model_has_no_such_level(
    genbatch: Genbatch, serve: Serve
) -> None:
    fake = serve()
    Path("shots.jsonl").write_text(
        '{"prompt": "a fox", "model": "pro"}\n{"prompt": "an owl", "model": "lite"}\n'
    )
    assert genbatch("run", "shots.jsonl", "--thinking", "high").returncode == 0
    assert ["thinkingConfig" in config for config in configs(fake)] == [False, True]
    refused = genbatch("run", "shots.jsonl", "--thinking", "high", "--model", "pro")
    assert refused.returncode == 2
    assert "gemini-3-pro-image takes no --thinking, got 'high'" in refused.stderr


def test_redo_may_change_the_same_settings(genbatch: Genbatch, serve: Serve) -> None:
    fake = serve()
    Path("style.png").write_bytes(picture(1))
    write_prompts(1)
    assert genbatch("run", "prompts.txt", "--thinking", "high").returncode == 0
    done = genbatch("redo", "genbatch-out", "0", *SETTINGS[2:], "--image", "style.png")
    assert done.returncode == 0, done.stderr
    body = fake.calls[-1].body
    assert body["generationConfig"]["thinkingConfig"] == {"thinkingLevel": "HIGH"}
    assert body["generationConfig"]["brush"] == "fine"
    assert len(body["contents"][0]["parts"]) == 2
    assert genbatch("redo", "genbatch-out", "0", "--model", "pro").returncode == 0
    assert "thinkingConfig" not in fake.calls[-1].body["generationConfig"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--config", "topP"], "--config: 'topP' is not like topP=0.9"),
        (["--config", "a=1", "--config", "a=2"], "--config a: is given twice"),
        (["--config", "candidateCount=2"], "candidate_count must be 1, got 2"),
        (["--config", 'imageConfig={"outputMimeType": "image/jpeg"}'], "output_mime_type"),
        (["--config", "topP=much"], "--config topP must be a number"),
        (["--thinking", "deep"], "thinks minimal, medium or high, got --thinking 'deep'"),
        (["--image", "none.png"], "none.png"),
        (["--image", "prompts.txt"], "prompts.txt is not a PNG, JPEG, WebP, HEIC or HEIF image"),
        (["-n", "0"], "'-n'"),
        (["--seed", "4294967296"], "'--seed'"),
    ],
)
def test_what_cannot_be_is_one_line_before_any_call(
    options: list[str], message: str, genbatch: Genbatch, serve: Serve
) -> None:
    fake = serve()
    write_prompts(2)
    done = genbatch("run", "prompts.txt", "--quiet", *options)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert fake.stats.calls == 0


def test_values_of_config_are_json_or_else_text() -> None:
    pairs = ["a=1", "b=true", 'c={"d": [1.5]}', "e=x=y", "f=", "g=NaN", 'h="quoted"', "i=null"]
    assert parse_config(pairs) == {
        **{"a": 1, "b": True, "c": {"d": [1.5]}, "e": "x=y"},
        **{"f": "", "g": "NaN", "h": "quoted", "i": None},
    }
    assert parse_config([]) is None


def answer(width: int, height: int) -> Fault:
    """Return an answer with an image of that size."""
    data = b64encode(picture(5, (width, height))).decode()
    return Fault(body={"candidates": [{"content": {"parts": [{"inlineData": {"data": data}}]}}]})


@pytest.mark.parametrize("way", ["live", "batch"])
def test_image_smaller_than_asked_for_is_told(way: str, genbatch: Genbatch, serve: Serve) -> None:
    serve(faults=[answer(1376, 768), answer(2048, 2048)], job_latency=0.05)
    write_prompts(2)
    options = ["--image-size", "2K", "--log-file", "log.txt", "--quiet", "--via", way, "-k", "1"]
    done = genbatch("run", "prompts.txt", *options)
    assert done.returncode == 0
    told = "1 image smaller than asked for: results.jsonl has width and height of each\n"
    assert done.stderr == told
    sizes = {(row["width"], row["height"]) for row in rows()}
    assert sizes == {(1376, 768), (2048, 2048)}
    warned = [line for line in Path("log.txt").read_text().splitlines() if "WARNING" in line]
    assert len(warned) == 1
    assert "the image has 1376 x 768 pixels, and 2K was asked for" in warned[0]
    again = genbatch("run", "prompts.txt", *options, "--json")
    assert again.stderr == ""
    shown = [json.loads(line) for line in again.stdout.splitlines()]
    assert {(row["width"], row["height"]) for row in shown} == sizes


def test_image_of_the_size_that_was_left_to_the_model_is_not_told(
    genbatch: Genbatch, serve: Serve
) -> None:
    serve()
    write_prompts(1)
    assert genbatch("run", "prompts.txt", "--quiet").stderr == ""
    demo = genbatch("run", "prompts.txt", "--quiet", "--demo", "--image-size", "2K")
    assert (demo.returncode, demo.stderr) == (0, "")
