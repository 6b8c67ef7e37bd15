"""What people type, and that messages speak of it and not of the library's arguments."""

from __future__ import annotations

from pathlib import Path

import pytest

from genbatch.cli._services import misspelt
from genbatch.cli._words import as_typed
from support.commands import Genbatch, Serve, write_prompts


@pytest.mark.parametrize(
    ("said", "typed"),
    [
        ("no price of x is known: give price=, US", "no price of x is known: give --price, US"),
        ("x makes 1K only, got image_size='4K'", "x makes 1K only, got --image-size '4K'"),
        ("thinks high, got thinking='deep'", "thinks high, got --thinking 'deep'"),
        ("pace must be like '5/min'", "--pace must be like '5/min'"),
        ("flare takes no thinking, got 'high'", "flare takes no --thinking, got 'high'"),
        ("generation_config must not have 'n'", "--config must not have 'n'"),
        ("aspect_ratio must be from 1:3 to 3:1", "--aspect-ratio must be from 1:3 to 3:1"),
        ("max_images of 2 is reached", "--max-images of 2 is reached"),
        ("--price must be above 0: the price counts", "--price must be above 0: the price counts"),
        ("'image_size' is unknown", "'image_size' is unknown"),
    ],
)
def test_messages_speak_of_options(said: str, typed: str) -> None:
    assert as_typed(said) == typed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--model some-new-model --budget 1", "give --price, US dollars an image"),
        ("--model lite --image-size 4K", "got --image-size '4K'"),
        ("--config topP=much", "--config topP must be a number, got 'much'"),
        ("--config seed=abc", "--config seed must be a whole number, got 'abc'"),
        ("--config imageConfig=3", "--config imageConfig must be an object, got 3"),
        (
            "--aspect-ratio 16x9",
            "'--aspect-ratio': \"16x9\" is no aspect ratio: did you mean 16:9?",
        ),
        ("-k 0", "'--max-concurrent' / '-k': must be greater than or equal to 1. See"),
        ("-k many", "'--max-concurrent' / '-k': must be a valid integer. See"),
        ("--budget much", "'--budget': must be a valid number. See"),
        ("--via post", "'--via': 'post' is not one of 'live', 'batch', 'batch,live'. See"),
        ("--model falsh", "no model is called falsh: did you mean flash?"),
        ("--model gemini-3-pro-imgae", "did you mean gemini-3-pro-image?"),
        ("--model flare --thinking high", "takes no --thinking, got 'high'"),
    ],
)
def test_what_is_wrong_is_told_in_a_line_before_any_call(
    genbatch: Genbatch, serve: Serve, monkeypatch: pytest.MonkeyPatch, options: str, message: str
) -> None:
    fake = serve()
    monkeypatch.setenv("OPENAI_API_KEY", "a-key")
    write_prompts(2)
    done = genbatch("run", "prompts.txt", *options.split())
    assert (done.returncode, fake.stats.calls) == (2, 0)
    last = done.stderr.splitlines()[-1]
    assert message in last
    for word in (
        "pydantic",
        "google-genai",
        "Input should",
        "unable to",
        "Value error",
        "_ratio",
        "_size",
        "price=",
        "Traceback",
    ):
        assert word not in last


def test_a_mistyped_model_is_told_by_a_dry_run_and_for_rows(genbatch: Genbatch) -> None:
    Path("rows.csv").write_text("prompt,model\na fox,flash\na hare,falsh\n")
    for command in (["rows.csv"], ["rows.csv", "--dry-run"], ["rows.csv", "--demo"]):
        done = genbatch("run", *command)
        assert done.returncode == 2
        assert "rows.csv:3" in done.stderr
        assert "did you mean flash?" in done.stderr
    write_prompts(1)
    assert "flash?" in genbatch("run", "prompts.txt", "--dry-run", "--model", "falsh").stderr


@pytest.mark.parametrize(
    ("model", "meant"),
    [
        ("flahs", "flash"),
        ("Flash", "flash"),
        ("gpt-imgae-2.6-flare", "gpt-image-2.6-flare"),
        ("gemini-3-pro-image", None),
        ("gemini-4-ultra-image-preview", None),
        ("gemini-9-next", None),
        ("some-new-model", None),
        ("imagen-5", None),
    ],
)
def test_only_words_near_known_ones_are_mistakes(model: str, meant: str | None) -> None:
    assert misspelt(model) == meant


def test_options_are_read_as_people_type_them(genbatch: Genbatch, serve: Serve) -> None:
    fake = serve()
    write_prompts(1)
    options = ["--image-size", " 2k", "--aspect-ratio", "16 : 9 ", "--model", " flash "]
    assert genbatch("run", "prompts.txt", *options).returncode == 0
    assert fake.calls[0].body["generationConfig"]["imageConfig"] == {
        "imageSize": "2K",
        "aspectRatio": "16:9",
    }
    automatic = ["--image-size", "Auto", "--aspect-ratio", "auto"]
    assert genbatch("run", "prompts.txt", *automatic).returncode == 0
    assert "imageConfig" not in fake.calls[1].body["generationConfig"]


def test_a_folder_without_jobs_says_so(genbatch: Genbatch) -> None:
    write_prompts(1)
    genbatch("run", "prompts.txt", "--demo")
    done = genbatch("jobs", "genbatch-out")
    told = "No jobs in genbatch-out: run --via batch makes them.\n"
    assert (done.stdout, done.stderr) == ("", told)
    done = genbatch("jobs", "genbatch-out", "--json")
    assert (done.stdout, done.stderr) == ("", "")
