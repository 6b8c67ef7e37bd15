"""Copies of images: byte for byte or converted, resumable, and never over what is of others."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from genbatch import Prompt, StoreError
from genbatch._store import Choice, choose, export
from genbatch.exports import (
    Conversion,
    Copied,
    Copying,
    Filter,
    KeptRows,
    copy_images,
    parse_where,
    write_sheets,
)
from support.folders import add_take, fill, picture

AS_THEY_ARE = Conversion()
PROMPTS = [
    Prompt("a fox", id="fox", metadata={"category": "animals", "n": 1}),
    Prompt("an owl in a caf\xe9", id="owl", metadata={"category": "animals", "n": 2}),
    Prompt("a fern", id="fern", metadata={"category": "plants"}),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fill(tmp_path / "out", PROMPTS)


def copied(
    folder: Path, wanted: Filter | None = None, conversion: Conversion = AS_THEY_ARE, **how: Any
) -> Copied:
    """Copy to the folder ``copies`` beside a folder."""
    rows = KeptRows((wanted or Filter()).rows(folder))
    out = how.pop("out", folder.parent / "copies")
    return copy_images(rows, Copying(directory=folder, out=out, conversion=conversion, **how))


def names(folder: Path) -> list[str]:
    """Return the files of a folder that are not hidden."""
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in files if not path.name.startswith("."))


def signed(number: int) -> bytes:
    """Return a PNG with content credentials, which are in a chunk of their own."""
    info = PngImagePlugin.PngInfo()
    info.add(b"caBX", b"jumb c2pa manifest %d" % number)
    return picture(number, pnginfo=info)


def of_files(folder: Path, files: Iterable[str]) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files}


# As they are


def test_copies_are_the_files_byte_for_byte(tmp_path: Path) -> None:
    fill(tmp_path / "out", PROMPTS, signed)
    done = copied(tmp_path / "out")
    assert (done.copied, done.there, done.failed) == (3, 0, 0)
    rows = list(export(tmp_path / "out"))
    copies = of_files(tmp_path / "copies", [row["file"] for row in rows])
    assert copies == of_files(tmp_path / "out", copies)
    digests = [hashlib.sha256(data).hexdigest() for data in copies.values()]
    assert digests == [row["sha256"] for row in rows]
    assert all(b"caBX" in data for data in copies.values())


def test_the_same_again_writes_nothing(folder: Path) -> None:
    copied(folder, sidecar="json")
    before = {path: path.stat() for path in (folder.parent / "copies").glob("[!.]*")}
    done = copied(folder, sidecar="json")
    assert (done.copied, done.there) == (0, 3)
    assert {path: path.stat().st_mtime_ns for path in before} == {
        path: about.st_mtime_ns for path, about in before.items()
    }


def test_what_is_missing_is_written_again(folder: Path) -> None:
    copied(folder, sidecar="txt")
    copies = folder.parent / "copies"
    lost = names(copies)[0]
    (copies / lost).unlink()
    done = copied(folder, sidecar="txt")
    assert (done.copied, done.there) == (1, 2)
    assert (copies / lost).exists()


@pytest.mark.parametrize("damage", ["changed", "missing", "link", "outside"])
def test_what_is_not_the_image_is_left_out(folder: Path, damage: str) -> None:
    file = next(row["file"] for row in export(folder))
    path = folder / file
    if damage == "changed":
        path.write_bytes(path.read_bytes() + b"!")
    else:
        path.rename(folder.parent / "moved.png")
    if damage == "link":
        path.symlink_to(folder.parent / "moved.png")
    rows = list(Filter().rows(folder))
    if damage == "outside":  # a journal of others may have any name
        rows[0]["file"] = "../moved.png"
    how = Copying(directory=folder, out=folder.parent / "copies", conversion=AS_THEY_ARE)
    done = copy_images(KeptRows(rows), how)
    assert (done.copied, done.failed) == (2, 1)
    assert len(names(folder.parent / "copies")) == 2


# Which ones


def test_images_are_chosen_by_what_was_kept_and_by_stars(folder: Path) -> None:
    fox, owl, fern = (row["file"] for row in export(folder))
    choose(folder, {fox: Choice("keep", 5), owl: Choice("reject", 4), fern: Choice("keep")})

    def found(**wanted: Any) -> list[str]:
        return [row["file"] for row in Filter(**wanted).rows(folder)]

    assert found(kept=True) == [fox, fern]
    assert found(min_rating=4) == [fox, owl]
    assert found(kept=True, min_rating=4) == [fox]
    assert found() == [fox, owl, fern]


def test_a_take_that_was_kept_is_meant_whichever_is_shown(folder: Path) -> None:
    add_take(folder, 0, picture(9))
    first, further, *_ = (row["file"] for row in Filter(all=True).rows(folder))
    choose(folder, {further: Choice("keep")})
    assert [row["file"] for row in Filter(kept=True).rows(folder)] == [further]
    assert next(Filter().rows(folder))["file"] == first


@pytest.mark.parametrize(
    ("pairs", "ids"),
    [
        (["category=animals"], ["fox", "owl"]),
        (["category=animals", "n=2"], ["owl"]),
        (["category=animals", "category=plants"], ["fox", "owl", "fern"]),
        (["id=fern"], ["fern"]),
        (["category=none"], []),
    ],
)
def test_images_are_chosen_by_fields(folder: Path, pairs: list[str], ids: list[str]) -> None:
    rows = Filter(where=parse_where(pairs)).rows(folder)
    assert [row["id"] for row in rows] == ids


def test_a_field_that_no_prompt_has_is_a_mistake(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"--where categry: no .* field; there are category, n"):
        list(Filter(where=parse_where(["categry=animals"])).rows(folder))
    with pytest.raises(ValueError, match="'animals' is not like category=animals"):
        parse_where(["animals"])


def test_prompts_without_an_image_are_not_meant(tmp_path: Path) -> None:
    fill(tmp_path / "out", ["a fox", "an owl"], lambda n: picture() if n else None)
    assert copied(tmp_path / "out").copied == 1


# Conversion


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_a_converted_copy_says_what_was_asked_for(folder: Path, format: str) -> None:
    copied(folder, Filter(where={"id": frozenset(["owl"])}), Conversion(format))
    (name,) = names(folder.parent / "copies")
    with Image.open(folder.parent / "copies" / name) as image:
        assert image.format == format.upper()
        if format == "png":
            text = image.text  # type: ignore[attr-defined]
            assert text["prompt"] == "an owl in a caf\xe9"
            assert json.loads(text["settings"])["model"] == "gemini-nano-banana-2.1"
            return
        comment = image.getexif().get_ifd(0x8769)[0x9286]
    assert comment.startswith(b"UNICODE\0")
    assert json.loads(comment[8:].decode("utf-16-be"))["prompt"] == "an owl in a caf\xe9"


def test_nothing_is_told_where_that_is_not_wanted(folder: Path) -> None:
    copied(folder, conversion=Conversion("webp", told=False))
    for name in names(folder.parent / "copies"):
        with Image.open(folder.parent / "copies" / name) as image:
            assert not image.getexif()


def test_a_long_prompt_fits_into_a_jpeg(tmp_path: Path) -> None:
    fill(tmp_path / "out", ["\xe9" * 100_000])
    assert copied(tmp_path / "out", conversion=Conversion("jpeg")).copied == 1


def test_only_larger_images_are_reduced(tmp_path: Path) -> None:
    sizes = [(64, 32), (16, 16)]
    fill(tmp_path / "out", ["wide", "small"], lambda n: picture(n, sizes[n]))
    copied(tmp_path / "out", conversion=Conversion(max_size=32))
    wide, small = (tmp_path / "copies" / name for name in names(tmp_path / "copies"))
    with Image.open(wide) as image:
        assert image.size == (32, 16)
    assert small.read_bytes() == (tmp_path / "out" / small.name).read_bytes()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "PA"])
@pytest.mark.parametrize("size", [None, 24])
@pytest.mark.parametrize("format", ["png", "jpeg", "webp", None])
def test_images_of_every_kind_are_converted(
    tmp_path: Path, mode: str, format: str | None, size: int | None
) -> None:
    conversion = Conversion(format, max_size=size)
    file = io.BytesIO()
    Image.new("RGBA", (48, 32), (255, 0, 0, 0)).convert(
        "L" if mode in ("1", "I;16") else "RGBA"
    ).convert("RGBA" if mode == "PA" else mode).save(file, "PNG")
    fill(tmp_path / "out", ["a fox"], lambda _: file.getvalue())
    assert copied(tmp_path / "out", conversion=conversion).problems == []
    (name,) = names(tmp_path / "copies")
    with Image.open(tmp_path / "copies" / name) as image:
        image.load()
        assert image.size == ((24, 16) if conversion.max_size else (48, 32))
        if mode == "RGBA" and conversion.format == "jpeg":
            assert image.getpixel((1, 1)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF"])
def test_a_reduced_image_keeps_its_format(tmp_path: Path, kind: str) -> None:
    fill(tmp_path / "out", ["a fox"], lambda n: picture(n, kind=kind))
    assert copied(tmp_path / "out", conversion=Conversion(max_size=24)).problems == []
    (name,) = names(tmp_path / "copies")
    with Image.open(tmp_path / "copies" / name) as image:
        assert (image.format, image.size) == (kind, (24, 16))


def test_another_conversion_replaces_what_was_written(folder: Path) -> None:
    copied(folder, conversion=Conversion("webp"))
    before = names(folder.parent / "copies")
    done = copied(folder, conversion=Conversion("webp", quality=20))
    assert (done.copied, done.there) == (3, 0)
    assert names(folder.parent / "copies") == before


def test_a_file_that_is_no_image_is_left_out(tmp_path: Path) -> None:
    fill(tmp_path / "out", ["a fox", "an owl"], lambda n: picture(n)[: 60 if n else None])
    done = copied(tmp_path / "out", conversion=Conversion("webp"))
    assert (done.copied, done.failed) == (1, 1)
    assert "cannot be converted" in done.problems[0]


def test_quality_needs_a_format_that_has_one() -> None:
    with pytest.raises(ValueError, match="--quality needs --format jpeg or webp"):
        Conversion("png", 80)


# Names


def test_names_follow_a_template(folder: Path) -> None:
    copied(folder, template="{model}/{index:03d}_{id}")
    assert names(folder.parent / "copies") == [
        f"gemini-nano-banana-2.1/00{n}_{id}.png" for n, id in enumerate(("fox", "owl", "fern"))
    ]


def test_equal_names_are_told_apart_and_stay(folder: Path) -> None:
    copied(folder, template="same")
    first = of_files(folder.parent / "copies", names(folder.parent / "copies"))
    assert len(first) == 3
    done = copied(folder, Filter(where={"id": frozenset(["fern"])}), template="same")
    assert (done.copied, done.there) == (0, 1)
    assert of_files(folder.parent / "copies", names(folder.parent / "copies")) == first


def test_names_that_differ_in_case_alone_are_told_apart(tmp_path: Path) -> None:
    prompts = [Prompt("a fox", filename="Fox"), Prompt("an owl", filename="fox")]
    fill(tmp_path / "out", prompts)
    copied(tmp_path / "out", template="{name}")
    assert len({name.casefold() for name in names(tmp_path / "copies")}) == 2


@pytest.mark.parametrize(
    "file", ["../a.png", "/a.png", "con.png", "a/../../b.png", "a:b.png", ".b"]
)
def test_a_hostile_name_stays_in_the_folder(folder: Path, file: str) -> None:
    row = next(Filter().rows(folder)) | {"file": file}
    how = Copying(directory=folder, out=folder.parent / "copies", conversion=AS_THEY_ARE)
    stem = next(how.stems(row, 0))
    assert ".." not in stem
    assert not stem.startswith(("/", "."))
    assert stem not in ("con", "a:b")


@pytest.mark.parametrize("template", ["{source}", "{nonsense}", "{", "{index:q}"])
def test_a_malformed_template_is_a_mistake(folder: Path, template: str) -> None:
    with pytest.raises(ValueError, match="name template"):
        copied(folder, template=template)


# Beside them


def test_sidecars_have_the_row_or_the_prompt(folder: Path) -> None:
    copied(folder, sidecar="txt")
    copied(folder, sidecar="json", conversion=Conversion("webp", max_size=24))
    texts = sorted((folder.parent / "copies").glob("*.txt"))
    assert [path.read_text("utf-8") for path in texts] == [each.text for each in PROMPTS]
    rows = [json.loads(path.read_text("utf-8")) for path in
            sorted((folder.parent / "copies").glob("*.json"))]  # fmt: skip
    assert [row["metadata"] for row in rows] == [dict(each.metadata) for each in PROMPTS]
    for row in rows:
        copy = folder.parent / "copies" / row["file_name"]
        assert row["sha256"] == hashlib.sha256(copy.read_bytes()).hexdigest()
        assert (row["width"], row["height"], row["mime_type"]) == (24, 16, "image/webp")


def test_paths_of_input_images_are_not_told(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir()
    (private / "fox.png").write_bytes(picture())
    fill(tmp_path / "out", [Prompt("a fox", images=(private / "fox.png",))])
    copied(tmp_path / "out", sidecar="json", conversion=Conversion("png"))
    for data in of_files(tmp_path / "copies", names(tmp_path / "copies")).values():
        assert b"private" not in data
        assert b"fox.png" in data


# What is there already


def test_files_of_others_are_left(folder: Path) -> None:
    copies = folder.parent / "copies"
    copies.mkdir()
    fox, owl, fern = (row["file"] for row in export(folder))
    (copies / fox).write_text("mine")
    (copies / owl).symlink_to(folder.parent / "elsewhere")
    (copies / fern).mkdir()
    assert copied(folder).copied == 3
    assert (copies / fox).read_text() == "mine"
    assert not (folder.parent / "elsewhere").exists()
    assert len([name for name in names(copies) if name != fox]) == 3
    assert copied(folder).there == 3


def test_a_copy_that_was_changed_is_left(folder: Path) -> None:
    copied(folder)
    copies = folder.parent / "copies"
    first = copies / names(copies)[0]
    first.write_bytes(b"retouched")
    done = copied(folder)
    assert (done.there, done.failed) == (2, 1)
    assert first.read_bytes() == b"retouched"
    assert "changed since" in done.problems[0]


def test_nothing_is_written_through_a_link(folder: Path) -> None:
    copies, elsewhere = folder.parent / "copies", folder.parent / "elsewhere"
    copies.mkdir()
    elsewhere.mkdir()
    (copies / "set").symlink_to(elsewhere)
    done = copied(folder, template="set/{id}")
    assert (done.copied, done.failed) == (0, 3)
    assert list(elsewhere.iterdir()) == []


def test_a_link_in_place_of_the_log_is_not_followed(folder: Path) -> None:
    copies = folder.parent / "copies"
    copies.mkdir()
    (copies / ".genbatch-copies").symlink_to(folder.parent / "elsewhere")
    with pytest.raises(StoreError, match="is a symbolic link"):
        copied(folder)
    assert not (folder.parent / "elsewhere").exists()


def test_copies_stay_where_the_log_was_lost(folder: Path) -> None:
    copied(folder)
    before = names(folder.parent / "copies")
    (folder.parent / "copies" / ".genbatch-copies").unlink()
    assert copied(folder).failed == 0
    assert names(folder.parent / "copies") == before


def test_a_damaged_log_is_told(folder: Path) -> None:
    copied(folder)
    (folder.parent / "copies" / ".genbatch-copies").write_bytes(b"nonsense" * 1000)
    with pytest.raises(StoreError, match="genbatch-copies is damaged: delete it"):
        copied(folder)


@pytest.mark.parametrize("where", ["out", "out/copies", "out/.genbatch/copies", "out/../out/x"])
def test_the_folder_itself_is_no_place_for_copies(folder: Path, where: str) -> None:
    with pytest.raises(ValueError, match="choose a folder outside of it"):
        copied(folder, out=folder.parent / where)


def test_copies_may_be_around_the_folder_but_not_in_it(folder: Path) -> None:
    assert copied(folder, out=folder.parent).copied == 3
    with pytest.raises(ValueError, match="--name would make files in"):
        copied(folder, out=folder.parent, template="out/{id}")
    with pytest.raises(ValueError, match="a data set has its own folder"):
        copied(folder, out=folder.parent, layout="imagefolder")


def test_another_run_s_folder_is_no_place_for_copies(folder: Path) -> None:
    fill(folder.parent / "copies", ["an owl"])
    with pytest.raises(ValueError, match="is the folder of a run"):
        copied(folder)


def test_a_file_is_no_folder(folder: Path) -> None:
    (folder.parent / "copies").write_text("mine")
    with pytest.raises(ValueError, match="is a file, not a directory"):
        copied(folder)


# Ends


def test_an_interrupted_copy_goes_on(folder: Path) -> None:
    seen = []

    def interrupt(number: int, total: int) -> None:
        seen.append((number, total))
        raise KeyboardInterrupt

    how = Copying(
        directory=folder,
        out=folder.parent / "copies",
        conversion=Conversion("webp"),
        sidecar="json",
    )
    with pytest.raises(KeyboardInterrupt):
        copy_images(KeptRows(Filter().rows(folder)), how, interrupt)
    assert seen == [(1, 3)]
    (folder.parent / "copies" / ".0123456789abcdef.part").write_text("half")
    done = copy_images(KeptRows(Filter().rows(folder)), how)
    assert done.copied + done.there == 3
    assert done.failed == 0
    fresh = copy_images(
        KeptRows(Filter().rows(folder)),
        Copying(
            directory=folder,
            out=folder.parent / "fresh",
            conversion=Conversion("webp"),
            sidecar="json",
        ),
    )
    assert fresh.copied == 3
    found = names(folder.parent / "copies")
    assert of_files(folder.parent / "copies", found) == of_files(folder.parent / "fresh", found)
    assert list((folder.parent / "copies").glob(".*.part")) == []


def test_what_was_written_before_its_note_is_ours(folder: Path) -> None:
    copied(folder, conversion=Conversion("webp"), sidecar="txt")
    copies = folder.parent / "copies"
    before = of_files(copies, names(copies))
    with closing(sqlite3.connect(copies / ".genbatch-copies")) as log, log:
        log.execute("DELETE FROM file")
    assert copied(folder, conversion=Conversion("webp"), sidecar="txt").failed == 0
    assert of_files(copies, names(copies)) == before


def test_a_full_disk_ends_it_and_leaves_no_half(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match="No space left on device"):
            copied(folder)
    assert not (folder.parent / "copies").exists() or names(folder.parent / "copies") == []
    assert copied(folder).copied == 3


def test_one_copy_at_a_time_writes_to_a_folder(folder: Path) -> None:
    def again(number: int, total: int) -> None:
        with pytest.raises(StoreError, match="written to by another genbatch copy"):
            copied(folder)

    how = Copying(directory=folder, out=folder.parent / "copies", conversion=AS_THEY_ARE)
    copy_images(KeptRows(Filter().rows(folder)), how, again)


# Contact sheets


@pytest.mark.parametrize("kind", ["png", "jpg", "webp"])
def test_a_contact_sheet_has_all_images(folder: Path, kind: str) -> None:
    path = folder.parent / f"sheet.{kind}"
    rows = KeptRows(Filter().rows(folder))
    for _ in range(2):  # ours is replaced
        assert write_sheets(rows, folder, path) == [path]
    with Image.open(path) as sheet:
        assert sheet.size == (2 * 272 + 16, 2 * 300 + 16)
    path.write_bytes(picture())
    with pytest.raises(ValueError, match="was not written by genbatch copy"):
        write_sheets(rows, folder, path)
