from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import unicodedata
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genbatch import GeminiClient, ImageRequest
from genbatch._store._keys import (
    DEFAULT_TEMPLATE,
    candidates,
    check_template,
    folded,
    key_of,
    safe_name,
    slug,
)
from genbatch.openai import OpenAIClient
from support.archives import content_digest

PROMPT = ImageRequest("Coffee cup on wooden table", model="m")
KEY = "0123456789abcdef" * 4
HOSTILE = [
    "../../etc/passwd",
    "CON",
    "nul.png",
    "com1",
    "a" * 300,
    "a\0b",
    "\u202egpj",
    "☕️",
    "...",
    " ",
]


def first_name(prompt: ImageRequest, index: int = 7, template: str = DEFAULT_TEMPLATE) -> str:
    return next(candidates(template, index, prompt, KEY))


def test_a_name_has_the_index_the_prompt_and_a_part_of_the_key() -> None:
    assert first_name(PROMPT) == "0007-coffee-cup-on-wooden-table-012345"


def test_a_name_takes_the_id_before_the_text() -> None:
    assert first_name(dataclasses.replace(PROMPT, id="row 9")) == "0007-row-9-012345"


def test_a_filename_is_the_name() -> None:
    assert first_name(dataclasses.replace(PROMPT, filename="My Cup_2.PNG")) == "My-Cup_2"
    assert first_name(dataclasses.replace(PROMPT, filename="Becher für Öl")) == "Becher-für-Öl"
    assert first_name(dataclasses.replace(PROMPT, filename="猫")) == "猫"


def test_a_template_says_how_names_are_made() -> None:
    assert first_name(PROMPT, template="{index:05d}_{slug}") == "00007_coffee-cup-on-wooden-table"
    prompt = dataclasses.replace(PROMPT, id="a/b")
    assert first_name(prompt, template="../{id}/{key}") == "a-b/012345"


def test_a_template_has_folders_and_what_a_row_has() -> None:
    changes = {"id": "00007-2", "variant": 2, "seed": 5, "source": "my shots"}
    prompt = dataclasses.replace(PROMPT, model="gemini-3.1-flash", **changes)
    assert first_name(prompt, template="{id}/samples/{n:04d}") == "00007/samples/0002"
    assert first_name(prompt, template="{source}/{id}-{seed}") == "my-shots/00007-2-5"
    assert first_name(prompt, template="{model}/./{name}") == "gemini-3.1-flash/00007-2"
    named = dataclasses.replace(prompt, filename="hero.png", model="of/some one")
    assert first_name(named, template="{model}/{name}") == "of-some-one/hero"
    assert first_name(named, template="{model}/{slug}") == "hero"
    assert first_name(PROMPT, template="{n}{seed}") == "1"
    assert first_name(PROMPT, template="../..") == "coffee-cup-on-wooden-table"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("狐", "狐"),
        ("Лиса в снегу", "лиса-в-снегу"),
        ("groß", "groß"),
        ("Cafe\u0301 NOIR", "café-noir"),
        ("हिन्दी", "हिन्दी"),
        ("ثعلب \u202eأحمر", "ثعلب-أحمر"),
        ("👩\u200d🚀 in space", "in-space"),
        ("🦊", "prompt"),
        ("word " * 4000, "word-word-word-word-word-word-word-word-word"),
        ("狐" * 20_000, "狐" * 21),
    ],
)
def test_slug_keeps_the_letters_of_any_script(text: str, name: str) -> None:
    assert slug(text) == name
    assert len(slug(text).encode()) <= 64


@pytest.mark.parametrize(
    "template", ["{color}", "{index", "{index:x!}", "{0}", "{slug.__class__}", "{index:999999999d}"]
)
def test_a_template_that_cannot_be_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match="name template"):
        check_template(template)


def test_where_a_name_is_taken_the_key_tells_them_apart() -> None:
    names = list(candidates("{slug}", 0, PROMPT, KEY))
    stem = "coffee-cup-on-wooden-table"
    assert names == [stem, *(f"{stem}-{KEY[:length]}" for length in (6, 12, 64))]


@given(st.text(min_size=1).filter(str.strip), st.integers(0, 10**6))
def test_every_name_is_one_safe_component(text: str, index: int) -> None:
    name = first_name(ImageRequest(text), index)
    assert len(name.encode()) < 80
    assert safe_name(name) == name
    assert name.isprintable()
    assert all(each == "-" or unicodedata.category(each)[0] in "LNM" for each in name)


@given(st.text())
def test_every_filename_is_one_safe_component(text: str) -> None:
    name = safe_name(text)
    assert 0 < len(name.encode()) <= 121
    assert os.path.basename(name) == name
    assert not set(name) & set('<>:"/\\|?*\0 ')
    assert name.isprintable()
    assert not name.startswith((".", "-"))
    assert not name.endswith((".", "-"))
    assert unicodedata.normalize("NFC", name) == name
    assert safe_name(name) in (name, f"_{name}") or len(name.encode()) > 110 or "." in name


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_text_makes_a_harmless_name(text: str) -> None:
    for name in (safe_name(text), slug(text)):
        assert os.path.basename(name) == name
        assert name.isascii()
        assert name.isprintable()
        assert len(name) <= 120
    assert safe_name(text).partition(".")[0].lower() not in ("con", "nul", "com1")


def test_names_that_a_file_system_takes_for_the_same_fold_alike() -> None:
    assert folded("CAFÉ") == folded(unicodedata.normalize("NFD", "café"))
    assert folded("straße") == folded("STRASSE")
    assert folded("a") != folded("b")


CHANGES: list[dict[str, Any]] = [
    {"text": "Tea cup"},
    {"model": "n"},
    {"aspect_ratio": "16:9"},
    {"image_size": "2K"},
    {"seed": 1},
    {"images": (b"GIF89a",)},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_the_key_covers_everything_that_changes_the_image(change: dict[str, Any]) -> None:
    changed = dataclasses.replace(PROMPT, **change)
    assert content_digest("", changed) != content_digest("", PROMPT)
    assert content_digest("", changed) == content_digest("", dataclasses.replace(changed))


def test_the_key_covers_the_namespace_the_settings_and_the_ordinal() -> None:
    assert content_digest("a", PROMPT) != content_digest("b", PROMPT)
    assert content_digest("", dataclasses.replace(PROMPT, thinking="high")) != content_digest(
        "", PROMPT
    )
    digest = content_digest("", PROMPT)
    assert len({key_of(digest, ordinal) for ordinal in range(5)}) == 5


def test_the_key_covers_the_service_but_that_the_first_one_is_not_named() -> None:
    services = [dataclasses.replace(PROMPT, service=each) for each in ("", "gemini", "openai", "x")]
    digests = [content_digest("", each) for each in services]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_an_explicit_default_asks_for_the_same_image() -> None:
    asked = ImageRequest("a", model="gemini-3-pro-image", image_size="1K", aspect_ratio="1:1")
    bare = ImageRequest("a", model="gemini-3-pro-image")
    assert GeminiClient.canonical(asked) == GeminiClient.canonical(bare) == bare
    for other in (
        dataclasses.replace(asked, image_size="2K", aspect_ratio=None),
        dataclasses.replace(bare, aspect_ratio="1:1", images=(b"",)),
        dataclasses.replace(asked, generation_config={"image_config": {"image_size": "4K"}}),
        dataclasses.replace(asked, service="openai"),
    ):
        assert GeminiClient.canonical(other) == other
    bare = ImageRequest("a", model="gpt-image-2.6-flare", service="openai")
    assert OpenAIClient.canonical(bare) == bare  # the service may choose then
    square = dataclasses.replace(bare, image_size="1K")
    assert OpenAIClient.canonical(square) == OpenAIClient.canonical(
        dataclasses.replace(bare, aspect_ratio="1:1")
    )


def test_the_key_does_not_cover_id_metadata_filename_and_blanks_around() -> None:
    text = f" {PROMPT.text}\n"
    other = dataclasses.replace(PROMPT, text=text, id="1", metadata={"a": 1}, filename="b")
    assert content_digest("", other) == content_digest("", PROMPT)


def test_the_key_covers_the_content_of_input_images(tmp_path: Path) -> None:
    path = tmp_path / "in.gif"
    prompt = dataclasses.replace(PROMPT, images=(path,))
    path.write_bytes(b"GIF89a one")
    before = content_digest("", prompt)
    path.write_bytes(b"GIF89a two")
    assert content_digest("", prompt) != before


def test_the_key_is_the_same_in_every_process() -> None:
    script = """
from genbatch import GeminiClient, ImageRequest
from genbatch._store._keys import digests_of_texts
config = {"b": {"z", "y"}, "a": b"x"}
request = ImageRequest("a\\ud800\\u2028é", model="m", seed=7, generation_config=config)
print(digests_of_texts("n", request)(request.text))
"""
    runs = [
        subprocess.run(
            [sys.executable, "-c", script],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    ]
    assert len(set(runs)) == 1
    assert len(runs[0].strip()) == 64


def test_a_setting_without_a_lasting_text_is_refused() -> None:
    config = MappingProxyType({"tools": object()})
    with pytest.raises(TypeError, match=r"same repr\(\) in every process"):
        content_digest("", dataclasses.replace(PROMPT, generation_config=config))
