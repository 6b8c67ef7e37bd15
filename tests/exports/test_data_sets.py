"""Data sets, as Hugging Face's datasets read them."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from PIL import Image

from genbatch import Prompt
from genbatch._store import export
from genbatch.exports import Conversion, Copied, Copying, Filter, KeptRows, copy_images
from genbatch.exports import _copy as copy_module
from genbatch.exports import _shards as shards_module
from support.folders import fill, picture

AS_THEY_ARE = Conversion()
# Words of names that would be taken for splits, and fields that have names of their own there.
PROMPTS = [
    Prompt("a test of a train", filename="test", metadata={"a": 1, "mask_file_name": "no.png"}),
    Prompt('validation, "quoted"\nand = more', filename="dev", metadata={"a": "two", "image": 1}),
    Prompt("a caf\xe9", filename="eval", metadata={"file_name": "x", "deep": {"b": [1, {}]}}),
]
LOAD = """
import hashlib, json, sys
import datasets
datasets.disable_progress_bars()
rows = datasets.load_dataset({name!r}, data_dir={folder!r}, cache_dir={cache!r})
assert list(rows) == ["train"], list(rows)
print(json.dumps([
    {{**row, "image": [row["image"].format, *row["image"].size]}} for row in rows["train"]
]))
print(json.dumps([
    hashlib.sha256(row["image"]["bytes"] or open(row["image"]["path"], "rb").read()).hexdigest()
    for row in rows["train"].cast_column("image", datasets.Image(decode=False))
]))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fill(tmp_path / "out", PROMPTS)


def copied(
    folder: Path,
    layout: str,
    wanted: Filter | None = None,
    conversion: Conversion = AS_THEY_ARE,
    **how: Any,
) -> Copied:
    rows = KeptRows((wanted or Filter()).rows(folder))
    out = folder.parent / "set"
    return copy_images(
        rows, Copying(directory=folder, out=out, conversion=conversion, layout=layout, **how)
    )


def files(folder: Path) -> list[str]:
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in found if not path.name.startswith("."))


def loaded(name: str, folder: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Return rows and digests as a fresh process loads them."""
    program = LOAD.format(name=name, folder=str(folder), cache=str(folder.parent / "cache"))
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={"HF_HUB_OFFLINE": "1"}
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    rows, digests = map(json.loads, ran.stdout.splitlines())
    return rows, digests


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "name"), [("imagefolder",) * 2, ("parquet",) * 2])
def test_datasets_read_images_and_rows(folder: Path, layout: str, name: str) -> None:
    assert copied(folder, layout).copied == 3
    rows, digests = loaded(name, folder.parent / "set")
    known = list(export(folder))
    assert [row["prompt"] for row in rows] == [each.text for each in PROMPTS]
    assert digests == [row["sha256"] for row in known]
    assert [row["image"] for row in rows] == [["PNG", 48, 32]] * 3
    assert [row["metadata.a"] for row in rows] == ["1", "two", None]
    assert [row["metadata.deep"] for row in rows] == [None, None, '{"b": [1, {}]}']
    assert rows[0]["metadata.mask_file_name_"] == "no.png"
    assert rows[2]["metadata.file_name_"] == "x"


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "name"), [("imagefolder",) * 2, ("parquet",) * 2])
def test_datasets_read_converted_images(folder: Path, layout: str, name: str) -> None:
    copied(folder, layout, conversion=Conversion("webp", max_size=24))
    rows, digests = loaded(name, folder.parent / "set")
    assert [row["image"] for row in rows] == [["WEBP", 24, 16]] * 3
    assert [(row["width"], row["height"], row["sha256"]) for row in rows] == [
        (24, 16, digest) for digest in digests
    ]


def test_rows_that_tell_kinds_come_early(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Datasets tell the kinds of columns from the beginning of a long file."""
    days = ["2026-01-01", "2026-01-02", None, "unknown"]
    prompts = [Prompt(str(n), metadata={"day": day}) for n, day in enumerate(days)]
    fill(folder.parent / "days", prompts)
    monkeypatch.setattr(copy_module, "_EARLY", 2)
    copied(folder.parent / "days", "imagefolder")
    text = (folder.parent / "set/train/metadata.jsonl").read_text("utf-8")
    found = [json.loads(line)["metadata.day"] for line in text.splitlines()]
    assert found == ["unknown", "2026-01-01", "2026-01-02", None]


def test_a_folder_has_no_more_files_than_it_may(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copy_module, "_MOST_FILES", 2)
    copied(folder, "imagefolder")
    assert files(folder.parent / "set") == [
        "train/0000/dev.png",
        "train/0000/test.png",
        "train/0001/eval.png",
        "train/metadata.jsonl",
    ]
    text = (folder.parent / "set/train/metadata.jsonl").read_text("utf-8")
    for line in text.splitlines():
        assert (folder.parent / "set/train" / json.loads(line)["file_name"]).is_file()
    copied(folder, "imagefolder", sidecar="txt")
    assert len(list((folder.parent / "set/train/0002").iterdir())) == 2


@pytest.mark.parametrize("layout", ["imagefolder", "parquet"])
def test_a_data_set_is_what_was_last_meant(
    folder: Path, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards_module, "_MOST_ROWS", 1)
    copied(folder, layout)
    before = files(folder.parent / "set")
    assert copied(folder, layout).there == 3
    (folder.parent / "set" / "mine.txt").write_text("mine")
    done = copied(folder, layout, Filter(where={"a": frozenset(["1"])}))
    assert done.removed == (2 if layout == "imagefolder" else 3)
    assert "mine.txt" in files(folder.parent / "set")
    (folder.parent / "set" / "mine.txt").unlink()
    copied(folder, layout)
    assert files(folder.parent / "set") == before


def test_shards_are_written_anew_where_images_were_left_out(folder: Path) -> None:
    file = folder / next(row["file"] for row in export(folder))
    data = file.read_bytes()
    file.unlink()
    done = copied(folder, "parquet")
    assert (done.copied, done.failed) == (2, 1)
    file.write_bytes(data)
    done = copied(folder, "parquet")
    assert (done.copied, done.failed) == (3, 0)
    assert copied(folder, "parquet").there == 3


def test_shards_are_resumed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards_module, "_MOST_ROWS", 1)

    def interrupt(number: int, total: int) -> None:
        if number == 2:
            raise KeyboardInterrupt

    out = folder.parent / "set"
    how = Copying(directory=folder, out=out, conversion=AS_THEY_ARE, layout="parquet")
    with pytest.raises(KeyboardInterrupt):
        copy_images(KeptRows(Filter().rows(folder)), how, interrupt)
    done = copy_images(KeptRows(Filter().rows(folder)), how)
    assert (done.there, done.copied) == (2, 1)
    assert files(out) == [f"data/train-0000{n}-of-00003.parquet" for n in range(3)]


def test_shards_have_the_bytes_of_images(folder: Path) -> None:
    copied(folder, "parquet")
    path = folder.parent / "set/data/train-00000-of-00001.parquet"
    images = pq.read_table(path)["image"].to_pylist()
    assert [each["bytes"] for each in images] == [
        (folder / row["file"]).read_bytes() for row in export(folder)
    ]
    assert all(each["path"].endswith(".png") for each in images)
    assert pl.read_parquet(path)["prompt"].to_list() == [each.text for each in PROMPTS]


def test_files_of_others_are_left(folder: Path) -> None:
    out = folder.parent / "set"
    (out / "train").mkdir(parents=True)
    (out / "train/metadata.jsonl").write_text("mine")
    (out / "data").mkdir()
    (out / "data/train-00000-of-00001.parquet").write_text("mine")
    for layout in ("imagefolder", "parquet"):
        done = copied(folder, layout)
        assert done.failed
        assert "was not written by genbatch copy" in done.problems[0]
    assert (out / "train/metadata.jsonl").read_text() == "mine"
    assert (out / "data/train-00000-of-00001.parquet").read_text() == "mine"


def test_sidecars_make_samples_of_webdataset(folder: Path) -> None:
    out = folder.parent / "set"
    how = Copying(
        directory=folder, out=out, conversion=AS_THEY_ARE, template="{index:06d}", sidecar="json"
    )
    copy_images(KeptRows(Filter().rows(folder)), how)
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name in files(out):
            tar.add(out / name, name)
    file.seek(0)
    with tarfile.open(fileobj=file) as tar:
        found = [name.split(".", 1) for name in tar.getnames()]
    assert found == [[f"00000{n}", kind] for n in range(3) for kind in ("json", "png")]
    with Image.open(out / "000000.png") as image:
        assert image.size == (48, 32)
    assert picture(0) == (out / "000000.png").read_bytes()
