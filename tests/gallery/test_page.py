"""The page as a file: what it lets in, what it replaces, and what it never does."""

from __future__ import annotations

import base64
import errno
import hashlib
import html.parser
import json
import re
import sqlite3
import subprocess
import sys
from importlib.resources import files as resources
from pathlib import Path

import pytest

from genbatch import Prompt, StoreError
from genbatch._store import _files as store_files
from genbatch.gallery import write_gallery
from genbatch.gallery._page import SCRIPTS, to_json
from support.archives import begin, image, opened, plan_all
from support.folders import fill, picture, told

HOSTILE = (
    "<script>alert(1)</script></script><!-- --><![CDATA[ ]]> & &amp; \"'`$ $name ${x} \\ \\u003c "
    "é \x00\x01\x1b[31m\x7f\x85\r\n\t \u202eRTL\u202c \u2028\u2029 \ufeff\ufffe\uffff \ud83e 🦊"
)


class Elements(html.parser.HTMLParser):
    """Notes the elements of a page with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))


def read(folder: Path) -> str:
    return (folder / "index.html").read_bytes().decode("utf-8")


def test_json_can_stand_in_a_script_element() -> None:
    text = to_json({HOSTILE: [HOSTILE]})
    assert json.loads(text) == {HOSTILE: [HOSTILE]}
    assert not re.search("[<>&\u2028\u2029\x00-\x1f\x7f-\x9f\ufffe\uffff]", text)
    text.encode("utf-8")
    assert "🦊" in text


def test_text_of_others_adds_no_element(tmp_path: Path) -> None:
    plain = fill(tmp_path / "plain", [Prompt("p", id="i", metadata={"m": "v"})])
    hostile = tmp_path / "<script>alert(1)<!-- \"'&$x"
    fill(hostile, [Prompt(HOSTILE, id=HOSTILE, metadata={HOSTILE: HOSTILE})])
    for folder in (plain, hostile):
        write_gallery(folder)
    assert Elements(read(hostile)).found == Elements(read(plain)).found
    (item,) = told(hostile)["items"]
    assert (item["prompt"], item["id"], item["metadata"]) == (HOSTILE, HOSTILE, {HOSTILE: HOSTILE})
    assert told(hostile)["name"] == hostile.name


def test_the_policy_admits_the_style_and_the_script_and_no_more(tmp_path: Path) -> None:
    write_gallery(fill(tmp_path, ["a"]))
    policy = re.search('Content-Security-Policy" content="(.*?)"', read(tmp_path))
    assert policy
    rules = dict(rule.split(" ", 1) for rule in policy[1].split("; "))
    for kind, element in (("style", "<style>"), ("script", "</script>\n<script>")):
        start = read(tmp_path).index(element) + len(element)
        inside = read(tmp_path)[start : read(tmp_path).index(f"</{kind}>", start)]
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert rules.pop(f"{kind}-src") == f"'sha256-{digest}'"
    assert rules == {
        "default-src": "'none'",
        "img-src": "'self' file:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }


def test_nothing_in_the_page_is_fetched_or_handled_in_line(tmp_path: Path) -> None:
    write_gallery(fill(tmp_path, ["a"]))
    for tag, attributes in Elements(read(tmp_path)).found:
        assert tag not in {"link", "iframe", "object", "embed", "form", "base"}
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        assert not {"src", "href", "srcset"} & attributes.keys()
    package = resources("genbatch.gallery")
    script = "".join((package / name).read_text(encoding="utf-8") for name in SCRIPTS)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", script)
    assert not re.search(r"\bfetch\b|XMLHttpRequest|WebSocket|https?:", script)
    assert "url(" not in (package / "page.css").read_text(encoding="utf-8")


def test_it_is_written_again_in_place_of_itself(tmp_path: Path) -> None:
    path = write_gallery(fill(tmp_path, ["a"]))
    assert path == tmp_path / "index.html"
    fill(tmp_path, ["b"])
    write_gallery(str(tmp_path))
    assert [item["prompt"] for item in told(tmp_path)["items"]] == ["b", "a"]
    assert sorted(each.suffix for each in tmp_path.iterdir() if each.is_file()) == [
        ".html",
        ".png",
        ".png",
    ]


def test_a_foreign_page_is_left(tmp_path: Path) -> None:
    fill(tmp_path, ["a"])
    for foreign in ("<title>mine</title>", "", '<meta name="generator" content="other">'):
        (tmp_path / "index.html").write_text(foreign)
        with pytest.raises(StoreError, match=r"index\.html was not written by genbatch: move it"):
            write_gallery(tmp_path)
        assert (tmp_path / "index.html").read_text() == foreign
    assert not (tmp_path / ".genbatch" / "thumbs").exists()


def test_a_foreign_page_that_comes_meanwhile_is_left(tmp_path: Path) -> None:
    fill(tmp_path, ["a"])
    with pytest.raises(StoreError, match="not written by genbatch"):
        write_gallery(tmp_path, progress=lambda *_: (tmp_path / "index.html").write_text("mine"))
    assert (tmp_path / "index.html").read_text() == "mine"


def test_a_link_or_a_directory_in_its_place_is_left(tmp_path: Path) -> None:
    write_gallery(fill(tmp_path / "other", ["a"]))
    folder = fill(tmp_path / "out", ["a"])
    (folder / "index.html").symlink_to(tmp_path / "other" / "index.html")
    with pytest.raises(StoreError, match="not written by genbatch"):
        write_gallery(folder)
    (folder / "index.html").unlink()
    (folder / "index.html").mkdir()
    with pytest.raises(StoreError, match="not written by genbatch"):
        write_gallery(folder)


def test_a_folder_that_takes_no_file_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read(write_gallery(fill(tmp_path, ["a"])).parent)
    read_only = OSError(errno.EROFS, "Read-only file system")
    monkeypatch.setattr(store_files, "_create", lambda _: (_ for _ in ()).throw(read_only))
    with pytest.raises(StoreError, match=r"cannot write .*index\.html: Read-only file system"):
        write_gallery(tmp_path)
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: (_ for _ in ()).throw(read_only))
    with pytest.raises(StoreError, match=r"cannot save thumbnails in .*: Read-only file system"):
        write_gallery(tmp_path)
    assert read(tmp_path) == before


def test_without_a_journal_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="has no journal"):
        write_gallery(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_an_image_has_a_page(tmp_path: Path) -> None:
    write_gallery(fill(tmp_path, []))
    page = told(tmp_path)
    assert (page["items"], page["fields"], page["axes"]) == ([], [], None)


def test_a_run_that_goes_on_is_shown_as_far_as_it_is(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        plans = plan_all(archive, ["a", "b"])
        archive.save(begin(archive, plans[0]), image(data=picture(1)), 1.0)
        call = begin(archive, plans[1])
        write_gallery(tmp_path)
        page = told(tmp_path)
        assert page["running"] is True
        assert (page["spent"], page["maybe"]) == (0.5, 0.25)
        assert [item["status"] for item in page["items"]] == ["done", "to do"]
        archive.save(call, image(data=picture(2)), 1.0)
    write_gallery(tmp_path)
    assert told(tmp_path)["running"] is False
    assert [item["status"] for item in told(tmp_path)["items"]] == ["done", "done"]


def test_the_journal_is_closed_before_the_first_thumbnail(tmp_path: Path) -> None:
    fill(tmp_path, ["a"])
    path = tmp_path / ".genbatch" / "journal.sqlite"

    def check(*_: object) -> None:
        with sqlite3.connect(path) as connection:
            busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        connection.close()
        assert not busy  # which a reader would have kept it from

    write_gallery(tmp_path, progress=check)


def test_without_pillow_one_line_says_what_to_install() -> None:
    script = "import sys; sys.modules['PIL'] = None; import genbatch.gallery"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1]
    assert last == (
        "ModuleNotFoundError: the gallery needs the package Pillow; "
        "run python -m pip install 'genbatch[cli]'"
    )
