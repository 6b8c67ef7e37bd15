"""Prompt and its variants."""

from __future__ import annotations

import pytest

from genbatch import ImageRequest, Prompt


def test_variants_are_copies_with_ids_filenames_and_seeds_of_their_own() -> None:
    prompt = Prompt("a cat", id="row", filename="cat", seed=7, aspect_ratio="1:1", images=(b"x",))
    first, second, third = prompt.variants(3)
    assert first == Prompt(
        "a cat", id="row-1", filename="cat-1", seed=7, aspect_ratio="1:1", images=(b"x",)
    )
    assert (second.id, second.filename, second.seed) == ("row-2", "cat-2", 8)
    assert (third.id, third.filename, third.seed) == ("row-3", "cat-3", 9)


def test_variants_invent_no_id_filename_or_seed() -> None:
    assert Prompt("a cat").variants(2) == (Prompt("a cat"), Prompt("a cat"))


def test_variants_count_on_from_seed_zero() -> None:
    assert [each.seed for each in Prompt("a cat", seed=0).variants(2)] == [0, 1]


def test_one_variant_is_the_prompt_itself() -> None:
    prompt = Prompt("a cat", id="row", filename="cat", seed=7)
    assert prompt.variants(1) == (prompt,)


@pytest.mark.parametrize("n", [0, -1])
def test_fewer_than_one_variant_is_a_mistake(n: int) -> None:
    with pytest.raises(ValueError, match=f"^n must be >= 1, got {n}$"):
        Prompt("a cat").variants(n)


def test_blank_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="must not be blank"):
        Prompt(" \n")


def test_prompt_that_is_no_string_is_refused() -> None:
    with pytest.raises(TypeError, match="must be a str or Prompt, got int"):
        Prompt.of(7)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("id", 3, "id must be a str, got int"),
        ("filename", b"cup", "filename must be a str, got bytes"),
        ("model", ["pro"], "model must be a str, got list"),
        ("aspect_ratio", 1.5, "aspect_ratio must be a str, got float"),
        ("image_size", 2, "image_size must be a str, got int"),
        ("seed", "7", "seed must be an int, got str"),
        ("seed", True, "seed must be an int, got bool"),
        (
            "images",
            "cup.png",
            "images must be a tuple of paths or bytes, got str: put it in a tuple",
        ),
        ("images", None, "images must be a tuple of paths or bytes, got NoneType"),
        ("images", (3,), "each of images must be a path or bytes, got int"),
        ("metadata", [1], "metadata must be a mapping, such as a dict, got list"),
    ],
)
def test_a_field_of_another_type_is_named(field: str, value: object, message: str) -> None:
    with pytest.raises(TypeError) as caught:
        Prompt("a cat", **{field: value})  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_what_a_prompt_has_is_no_setting_and_that_is_told() -> None:
    with pytest.raises(TypeError, match=r"no setting 'images': .*; a Prompt has it$"):
        ImageRequest.of("a cat", {"images": (b"x",)})  # type: ignore[typeddict-unknown-key]


def test_images_may_be_a_list() -> None:
    assert Prompt("a cat", images=[b"x"]) == Prompt("a cat", images=(b"x",))  # type: ignore[arg-type]


def test_variants_are_counted_with_a_whole_number() -> None:
    with pytest.raises(TypeError, match=r"^n must be an int, got str$"):
        Prompt("a cat").variants("2")  # type: ignore[arg-type]
