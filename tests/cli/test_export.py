"""genbatch export and genbatch copy."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from PIL import Image

from genbatch import Prompt
from genbatch._store import choose, export, parse_choices
from support.commands import Genbatch
from support.folders import fill, picture

PROMPTS = [Prompt(f"a fox, number {n}", metadata={"own": f"=fox{n}"}) for n in range(3)]


@pytest.fixture(autouse=True)
def folder() -> Path:
    return fill(Path("out"), PROMPTS)


def test_csv_is_for_spreadsheets(genbatch: Genbatch) -> None:
    done = genbatch("export", "out", "--csv")
    assert done.stdout.startswith("\ufeffindex,")
    rows = list(csv.DictReader(io.StringIO(done.stdout[1:])))
    assert [row["metadata.own"] for row in rows] == ["'=fox0", "'=fox1", "'=fox2"]


def test_parquet_is_written_to_a_file(genbatch: Genbatch) -> None:
    done = genbatch("export", "out", "--parquet", "rows.parquet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "3 rows in rows.parquet\n", "")
    Path("mine.parquet").write_text("mine")
    done = genbatch("export", "out", "--parquet", "mine.parquet")
    assert (done.returncode, done.stderr) == (
        2,
        "genbatch: mine.parquet was not written by genbatch export: give another name\n",
    )
    assert genbatch("export", "out", "--parquet", "x", "--csv").returncode == 2


def test_kept_images_are_copied(genbatch: Genbatch, folder: Path) -> None:
    files = [row["file"] for row in export(folder)]
    choose(folder, parse_choices([f"keep 4 {files[1]}", f"reject - {files[0]}"], files))
    done = genbatch("copy", "out", "best", "--kept")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "1 image copied to best, 0.0 MB\n"
    assert [path.name for path in Path("best").glob("*.png")] == [files[1]]
    done = genbatch("copy", "out", "best", "--kept")
    assert done.stdout == "0 images copied to best, 0.0 MB, 1 already there\n"
    done = genbatch("copy", "out", "best", "--min-rating", "5")
    assert (done.returncode, done.stdout) == (0, "Nothing to copy: no image in out fits.\n")


def test_copies_are_converted_with_what_is_beside_them(genbatch: Genbatch) -> None:
    options = ["--format", "webp", "--max-size", "24", "--name", "{index:03d}", "--sidecar", "json"]
    done = genbatch("copy", "out", "web", *options, "--sheet", "sheet.png")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("contact sheet in sheet.png\n")
    assert json.loads(Path("web/001.json").read_text())["file_name"] == "001.webp"
    with Image.open("web/001.webp") as image:
        assert image.size == (24, 16)


def test_what_is_left_out_is_told(genbatch: Genbatch, folder: Path) -> None:
    first = next(row["file"] for row in export(folder))
    (folder / first).write_bytes(picture(9))
    done = genbatch("copy", "out", "copies")
    assert done.returncode == 1
    assert done.stdout == "2 images copied to copies, 0.0 MB, 1 left out\n"
    assert done.stderr == f"out/{first} has changed since it was saved\n"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["out"], "out is in out: choose a folder outside of it"),
        (["c", "--quality", "80"], "--quality needs --format jpeg or webp"),
        (["c", "--where", "x"], "--where: 'x' is not like category=animals"),
        (["c", "--where", "x=1"], "--where x: no prompt has such a field; there are own"),
        (["c", "--sheet", "a.gif"], "--sheet a.gif: give a name that ends in .png, .jpg or .webp"),
        (["c", "--layout", "parquet", "--sidecar", "txt"], "--sidecar goes with copies as files: "
         "rows of Parquet have what it would say"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(genbatch: Genbatch, options: list[str], said: str) -> None:
    done = genbatch("copy", "out", *options)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"genbatch: {said}\n")
    assert not Path("c").exists()
