"""Thumbnails: small, made once, and never at the price of the machine's memory."""

from __future__ import annotations

import io
import os
import struct
import threading
import time
import zlib
from pathlib import Path

import pytest
from PIL import Image, ImageFile, PngImagePlugin

from genbatch import Prompt, StoreError
from genbatch._store._reports import export, verify
from genbatch.gallery import _thumbs, write, write_gallery
from support.folders import add_take, fill, picture, thumbs, told


def thumb_of(folder: Path) -> Image.Image:
    (name,) = thumbs(folder)
    return Image.open(io.BytesIO((folder / ".genbatch" / "thumbs" / name).read_bytes()))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_each_kind_of_image_gets_a_small_webp(tmp_path: Path, kind: str) -> None:
    fill(tmp_path, ["a"], lambda n: picture(n, (1200, 800), kind))
    assert not write(tmp_path).problems
    assert (thumb_of(tmp_path).format, thumb_of(tmp_path).size) == ("WEBP", (480, 320))
    assert told(tmp_path)["items"][0]["takes"][0]["size"] == [1200, 800]


@pytest.mark.parametrize(
    ("size", "small"), [((4000, 500), (512, 64)), ((500, 4000), (40, 320)), ((30, 20), (30, 20))]
)
def test_a_thumbnail_keeps_the_shape_and_is_never_larger(
    tmp_path: Path, size: tuple[int, int], small: tuple[int, int]
) -> None:
    write_gallery(fill(tmp_path, ["a"], lambda n: picture(n, size)))
    assert thumb_of(tmp_path).size == small


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_any_mode_of_pixels_is_shown(tmp_path: Path, mode: str) -> None:
    file = io.BytesIO()
    Image.new(mode, (9, 9)).save(file, "JPEG" if mode == "CMYK" else "PNG")
    assert not write(fill(tmp_path, ["a"], lambda _: file.getvalue())).problems


def test_transparency_is_kept(tmp_path: Path) -> None:
    image = Image.new("P", (9, 9))
    image.putpalette([255, 0, 0])
    file = io.BytesIO()
    image.save(file, "PNG", transparency=0)
    write_gallery(fill(tmp_path, ["a"], lambda _: file.getvalue()))
    assert thumb_of(tmp_path).convert("RGBA").getpixel((4, 4))[3] == 0


def test_the_colours_of_a_palette_are_mixed(tmp_path: Path) -> None:
    image = Image.new("P", (640, 640))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([(x + y) % 2 for y in range(640) for x in range(640)])
    file = io.BytesIO()
    image.save(file, "PNG")
    write_gallery(fill(tmp_path, ["a"], lambda _: file.getvalue()))
    red, _, blue = thumb_of(tmp_path).convert("RGB").getpixel((160, 160))
    assert 64 < red < 192
    assert 64 < blue < 192


def test_a_jpeg_is_decoded_at_a_part_of_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []
    load = ImageFile.ImageFile.load

    def watched(self: ImageFile.ImageFile) -> object:
        decoded.append(self.size)
        return load(self)

    monkeypatch.setattr(ImageFile.ImageFile, "load", watched)
    write_gallery(fill(tmp_path, ["a"], lambda n: picture(n, (4096, 4096), "JPEG")))
    assert decoded[0] == (1024, 1024)


def test_only_new_images_are_made(tmp_path: Path) -> None:
    made: list[tuple[int, int]] = []
    fill(tmp_path, ["a", "b"])
    write_gallery(tmp_path, progress=lambda *numbers: made.append(numbers))
    assert made == [(1, 2), (2, 2)]
    first = thumbs(tmp_path)
    add_take(tmp_path, 1, picture(5))
    write_gallery(tmp_path, progress=lambda *numbers: made.append(numbers))
    assert made[2:] == [(1, 1)]
    assert set(first) < set(thumbs(tmp_path))
    write_gallery(tmp_path, progress=lambda *numbers: made.append(numbers))
    assert len(made) == 3


def test_equal_images_share_a_thumbnail(tmp_path: Path) -> None:
    write_gallery(fill(tmp_path, ["a", "b"], lambda _: picture(1)))
    assert len(thumbs(tmp_path)) == 1


def test_what_no_image_needs_any_more_is_removed_and_nothing_else(tmp_path: Path) -> None:
    write_gallery(fill(tmp_path, ["a"]))
    (wanted,) = thumbs(tmp_path)
    directory = tmp_path / ".genbatch" / "thumbs"
    (directory / f"{'0' * 64}-1x1.webp").write_bytes(b"stale")
    left, running = (directory / f".{digit * 16}.part" for digit in "01")
    for temporary in (left, running):
        temporary.write_bytes(b"")
    os.utime(left, (0, 0))
    (directory / "mine.txt").write_text("not written by genbatch")
    write_gallery(tmp_path)
    assert thumbs(tmp_path) == sorted([wanted, running.name, "mine.txt"])


def test_two_galleries_may_be_written_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_gallery(fill(tmp_path, ["a"]))
    stale = tmp_path / ".genbatch" / "thumbs" / f"{'0' * 64}-1x1.webp"
    stale.write_bytes(b"stale")
    unlink = Path.unlink

    def late(self: Path, **options: bool) -> None:
        if self == stale:
            unlink(self)  # the other one was faster
        unlink(self, **options)

    monkeypatch.setattr(Path, "unlink", late)
    assert not write(tmp_path).problems
    assert not stale.exists()


def test_an_empty_thumbnail_is_made_again(tmp_path: Path) -> None:
    write_gallery(fill(tmp_path, ["a"]))
    (name,) = thumbs(tmp_path)
    path = tmp_path / ".genbatch" / "thumbs" / name
    path.write_bytes(b"")
    write_gallery(tmp_path)
    assert path.stat().st_size


def bomb(width: int, height: int) -> bytes:
    """Return a PNG of a few bytes that says it has so many pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("pixels", [(10_001, 4_000), (12_000, 12_000), (60_000, 60_000)])
def test_a_bomb_is_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pixels: tuple[int, int]
) -> None:
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda _: pytest.fail("it was"))
    written = write(fill(tmp_path, ["a", "b"], [bomb(*pixels), None].__getitem__))
    (problem,) = written.problems
    assert problem.endswith(f".png cannot be shown: {pixels[0]} x {pixels[1]} pixels are too many")
    (take,) = told(tmp_path)["items"][0]["takes"]
    assert "size" not in take
    assert take["problem"].startswith("cannot be shown")


def test_as_many_pixels_as_models_make_are_decoded(tmp_path: Path) -> None:
    problems = write(fill(tmp_path, ["a"], lambda _: bomb(7680, 4320))).problems
    assert "image file is truncated" in problems[0]  # as it says when it is decoded


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "has changed: "),
        (lambda path: path.write_bytes(path.read_bytes() + b"!"), "has changed: "),
        (lambda path: path.write_bytes(bytes(path.stat().st_size)), "cannot be shown: it is not "),
        (
            lambda path: path.write_bytes(path.read_bytes()[:30].ljust(path.stat().st_size, b"!")),
            "cannot be shown: ",
        ),
        (lambda path: path.unlink(), "is missing"),
        (lambda path: (path.unlink(), path.mkdir()), "is a directory, not a file: "),
        (lambda path: (path.unlink(), os.mkfifo(path)), "is a pipe, not a file: "),
    ],
    ids=["shorter", "longer", "zeros", "garbage", "missing", "directory", "pipe"],
)
def test_a_foreign_file_is_a_line_and_the_others_are_shown(
    tmp_path: Path, spoil: object, problem: str
) -> None:
    fill(tmp_path, ["a", "b"])
    rows = list(export(tmp_path))
    spoil(tmp_path / rows[0]["file"])  # type: ignore[operator]
    (line,) = write(tmp_path).problems
    assert line.startswith(f"{tmp_path / rows[0]['file']} {problem}")
    assert len(thumbs(tmp_path)) == 1
    first, second = told(tmp_path)["items"]
    assert first["takes"][0]["problem"].startswith(problem)
    assert "problem" not in second["takes"][0]


def test_a_link_is_not_read_through(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(picture(3))
    folder = fill(tmp_path / "out", ["a"])
    (row,) = export(folder)
    (folder / row["file"]).unlink()
    (folder / row["file"]).symlink_to(secret)
    assert len(write(folder).problems) == 1
    assert thumbs(folder) == []


def test_a_file_that_went_keeps_its_thumbnail(tmp_path: Path) -> None:
    write_gallery(fill(tmp_path, ["a"]))
    (row,) = export(tmp_path)
    (tmp_path / row["file"]).unlink()
    assert write(tmp_path).problems == [f"{tmp_path / row['file']} is missing"]
    (take,) = told(tmp_path)["items"][0]["takes"]
    assert (take["size"], take["problem"]) == ([48, 32], "is missing")


def test_thumbnails_are_made_in_several_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = threading.Barrier(3)
    reduce = _thumbs._reduce

    def watched(data: bytes) -> object:
        together.wait(timeout=60)
        return reduce(data)

    monkeypatch.setattr(_thumbs, "_reduce", watched)
    assert not write(fill(tmp_path, ["a", "b", "c"])).problems


def test_an_interruption_makes_no_further_thumbnail(tmp_path: Path) -> None:
    def interrupt(made: int, of: int) -> None:
        raise KeyboardInterrupt

    fill(tmp_path, [f"prompt {n}" for n in range(200)])
    with pytest.raises(KeyboardInterrupt):
        write_gallery(tmp_path, progress=interrupt)
    assert len(thumbs(tmp_path)) < 100
    assert not (tmp_path / "index.html").exists()


def test_a_disk_that_takes_no_thumbnail_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, ["a"])
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space")))
    with pytest.raises(StoreError, match=r"cannot save thumbnails in .*thumbs: No space \(disk"):
        write_gallery(tmp_path)
    assert thumbs(tmp_path) == []


def test_verify_and_export_know_nothing_of_thumbnails(tmp_path: Path) -> None:
    fill(tmp_path, [Prompt("a")])
    before = list(export(tmp_path, all=True))
    write_gallery(tmp_path)
    assert list(verify(tmp_path)) == []
    assert list(export(tmp_path, all=True)) == before


def test_a_temporary_file_of_another_process_is_of_this_hour(tmp_path: Path) -> None:
    write_gallery(fill(tmp_path, ["a"]))
    temporary = tmp_path / ".genbatch" / "thumbs" / f".{'a' * 16}.part"
    temporary.write_bytes(b"")
    os.utime(temporary, (time.time() - 3000,) * 2)
    write_gallery(tmp_path)
    assert temporary.exists()
