"""What the page's server answers, and whom."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from genbatch import Prompt
from genbatch._store import Choice, Tuning, choices, export, note_steered, tunings
from genbatch.view import serving
from support.archives import opened
from support.folders import add_take, fill, picture
from support.markup import MARKUP
from support.served import Page

ROUTES = ("/choices", "/pick", "/tune", "/price", "/redo", "/give-up", "/take-over")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = fill(tmp_path / "out", ["a fox", "an owl"])
    add_take(folder, 0, picture(7))
    return folder


@pytest.fixture
def page(folder: Path) -> Iterator[Page]:
    with serving(folder) as server:
        yield Page(server.url)


def paths_of(folder: Path) -> list[str]:
    row = next(export(folder))
    thumb = f"/.genbatch/thumbs/{row['sha256']}-48x32.webp"
    return ["/", "/events", f"/{quote(row['file'])}", thumb, "/nothing"]


def test_whoever_has_no_token_gets_nothing(folder: Path, page: Page) -> None:
    for path in paths_of(folder):
        for cookie in ("", page.cookie[:-1], page.cookie.partition("=")[0] + "=é"):
            answer = page.get(path, cookie=cookie)
            assert (answer.status, answer.headers["set-cookie"]) == (403, None)
            assert b"fox" not in answer.body
    assert page.get("/?token=wrong", cookie="").status == 403
    for route in ROUTES:
        assert page.post(route, {}, cookie="").status == 403


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost@evil", "[::2]"]
)
def test_another_host_name_gets_nothing(folder: Path, page: Page, host: str) -> None:
    for path in (*paths_of(folder), f"/?{page.token}"):
        assert page.get(path, host=host).status == 403
    for route in ROUTES:
        assert page.post(route, {}, host=host, origin=f"http://{host}").status == 403


@pytest.mark.parametrize("host", ["localhost:9999", "127.0.0.1:1", "[::1]:80", "LOCALHOST"])
def test_any_local_port_of_a_loopback_name_is_answered(page: Page, host: str) -> None:
    assert page.get("/", host=host).status == 200
    assert page.post("/choices", {}, host=host, origin=f"http://{host}").status == 200


def test_another_origin_gets_nothing(folder: Path, page: Page) -> None:
    here = f"127.0.0.1:{page.port}"
    for origin in ("null", "http://evil.example", f"https://{here}", "http://127.0.0.1:1"):
        for path in paths_of(folder):
            assert page.get(path, origin=origin).status == 403
        for route in ROUTES:
            assert page.post(route, {}, origin=origin).status == 403
    for site in ("cross-site", "same-site"):
        for path in paths_of(folder):
            assert page.get(path, sec_fetch_site=site).status == 403
        for route in ROUTES:
            assert page.post(route, {}, sec_fetch_site=site).status == 403
    # Whatever led to the whole address, its token lets in.
    assert page.get(f"/?{page.token}", sec_fetch_site="cross-site", cookie="").status == 200


def test_no_form_of_another_page_could_send_a_choice(page: Page) -> None:
    for route in ROUTES:
        assert page.post(route, {}, content_type="text/plain").status == 415
        assert page.get(f"{route}?x=1").status == 404
        assert page.post(route, b" " * 1_000_001).status == 413


def test_only_files_that_the_journal_knows_are_served(folder: Path, page: Page) -> None:
    (folder / "private.png").write_bytes(picture(9))
    (folder.parent / "above.png").write_bytes(picture(9))
    row = next(export(folder))
    image = page.get(f"/{row['file']}")
    assert (image.status, image.body) == (200, (folder / row["file"]).read_bytes())
    assert image.headers["content-type"] == "image/png"
    again = page.get(f"/{row['file']}", if_none_match=image.headers["etag"])
    assert (again.status, again.body) == (304, b"")
    for path in (
        *("/private.png", "/../above.png", "/..%2Fabove.png", "/%2e%2e/above.png", "/x/../../a"),
        *(
            "/.genbatch/journal.sqlite",
            "/.genbatch%2Fjournal.sqlite",
            "/index.html",
            "//etc/x",
        ),
        *("/.genbatch/thumbs/../journal.sqlite", "/.genbatch/thumbs/x.webp", "/%00", "/..", "/."),
        f"/.genbatch/thumbs/{'0' * 64}-1x1.webp",
        *("/input/x/0", f"/input/{row['key']}/0", f"/input/{row['key']}/99"),
    ):
        assert page.get(path).status == 404, path


def test_a_link_is_not_followed(folder: Path, page: Page) -> None:
    secret = folder.parent / "secret.png"
    secret.write_bytes(picture(9))
    row = next(export(folder))
    (folder / row["file"]).unlink()
    (folder / row["file"]).symlink_to(secret)
    assert page.get(f"/{row['file']}").status == 404
    assert page.get(f"/.genbatch/thumbs/{row['sha256']}-48x32.webp").status == 404


def test_thumbnails_are_made_when_asked_for(folder: Path, page: Page) -> None:
    path = paths_of(folder)[3]
    thumb = page.get(path)
    assert (thumb.status, thumb.headers["content-type"]) == (200, "image/webp")
    assert (folder / path[1:]).read_bytes() == thumb.body
    assert page.get(path).body == thumb.body


def test_input_images_are_shown_and_nothing_else_that_is_named_so(tmp_path: Path) -> None:
    shown, text, link = (tmp_path / name for name in ("in.png", "in.txt", "link.png"))
    shown.write_bytes(picture(5))
    text.write_text("secret")
    link.symlink_to(shown)
    paths = tuple(map(str, (shown, text, link)))
    folder = fill(tmp_path / "out", [Prompt("a", images=paths)])
    with serving(folder) as server:
        page = Page(server.url)
        (item,) = page.told()["items"]
        found = [page.get(f"/input/{item['key']}/{n}").status for n in item["inputs"]]
    assert found == [200, 404, 404]
    assert str(tmp_path) not in json.dumps(item)


def test_a_relative_input_image_is_found_beside_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "refs").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "refs" / "in.png").write_bytes(picture(5))
    monkeypatch.chdir(tmp_path)
    folder = fill(tmp_path / "out", [Prompt("a", images=("refs/in.png",))])
    for place in (tmp_path, tmp_path / "elsewhere"):
        monkeypatch.chdir(place)
        with serving(folder) as server:
            page = Page(server.url)
            (item,) = page.told()["items"]
            found = page.get(f"/input/{item['key']}/0")
        assert (found.status, found.body) == (200, picture(5))


def test_choices_and_picks_are_journalled(folder: Path, page: Page) -> None:
    first, further, owl = (row["file"] for row in export(folder, all=True))
    chosen = {first: {"verdict": "keep", "stars": 5, "note": "n\n<b>"}, owl: {"verdict": "reject"}}
    assert page.post("/choices", chosen).status == 200
    assert choices(folder) == {first: Choice("keep", 5, "n <b>"), owl: Choice("reject")}
    assert page.post("/pick", further).status == 200
    assert next(export(folder))["file"] == further


@pytest.mark.parametrize(
    "body",
    [
        *([], "x", 1, {"a.png": 1}, {"a.png": {"verdict": "keep"}}, b"{", b"[" * 100_000, b"\xff"),
        *({"0": {"stars": 6}}, {"0": {"stars": True}}, {"0": {"note": []}}, {"0": {"verdict": 1}}),
    ],
)
def test_a_choice_that_is_none_is_refused(folder: Path, page: Page, body: Any) -> None:
    answer = page.post("/choices", body)
    assert (answer.status, list(json.loads(answer.body))) == (400, ["error"])
    assert page.post("/pick", {"x": 1}).status == page.post("/pick", "x.png").status == 400
    assert choices(folder) == {}
    assert page.post("/choices", b" " * 1_000_001).status == 413


def test_headers_contain_what_is_served(folder: Path, page: Page) -> None:
    for path in paths_of(folder):
        if path == "/events":
            continue
        headers = page.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["access-control-allow-origin"] is None
        policy = headers["content-security-policy"]
        assert policy == "frame-ancestors 'none'" or "default-src 'none'" in policy
    entry = page.get(f"/?{page.token}", cookie="").headers["set-cookie"]
    assert "HttpOnly; SameSite=Strict" in entry
    assert page.get("/").headers["set-cookie"] is None


def test_hostile_text_adds_no_element(tmp_path: Path) -> None:
    prompts = [Prompt(text, metadata={text: text, "x": n % 2}) for n, text in enumerate(MARKUP)]
    plain = fill(tmp_path / "plain", ["p"])
    hostile = fill(tmp_path / "hostile", prompts)
    files = [row["file"] for row in export(hostile)]
    tags = []
    for folder in (plain, hostile):
        with serving(folder) as server:
            page = Page(server.url)
            if folder is hostile:
                notes = {file: {"note": text} for file, text in zip(files, MARKUP, strict=True)}
                assert page.post("/choices", notes).status == 200
            tags.append(page.get("/").body.count(b"<"))
    assert tags[0] == tags[1]


def test_a_port_that_is_taken_is_named(folder: Path) -> None:
    with serving(folder) as server:
        with pytest.raises(ValueError, match=f"cannot serve at port {server.port}: .*--port 0"):
            with serving(folder, port=server.port):
                pass


def test_a_folder_that_is_only_read_is_shown(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("genbatch.view._app.publish_thumb", refuse)
    with serving(folder) as server:
        assert Page(server.url).get(paths_of(folder)[3]).status == 200
    assert not os.listdir(folder / ".genbatch" / "thumbs")


def test_a_run_is_told_what_the_page_is_told(folder: Path, page: Page) -> None:
    given = {"command": "pause", "max_concurrent": 7, "pace": "10/min", "budget": 2}
    answer = page.post("/tune", given)
    assert answer.status == 503
    assert "no run is in progress" in json.loads(answer.body)["error"]
    with opened(folder) as store:
        assert page.post("/tune", given).status == 200
        assert page.post("/tune", {"command": "resume"}).status == 200
        told = [tuning for _, tuning in tunings(folder, 0)]
        assert told == [Tuning("pause", 7, "10/min", 2.0), Tuning("resume")]
        note_steered(store.journal, 2, {"is": "paused", "max_concurrent": 7, "problems": ["<b>"]})
        assert page.post("/choices", {}).status == 200  # after it, the journal has been read
        assert page.told()["steer"] == {"is": "paused", "max_concurrent": 7, "problems": ["<b>"]}
    page.post("/choices", {})
    assert page.told()["steer"] is None


@pytest.mark.parametrize(
    "given",
    [
        *({"command": "stop"}, {"command": ["pause"]}, {"max_concurrent": 0}, {"pace": "soon"}),
        *({"max_concurrent": True}, {"max_concurrent": "7"}, {"max_concurrent": 10**20}),
        *({"budget": -1}, {"budget": 1e300}, {"budget": "2"}, {"budget": True}, {"pace": 3}, [], 1),
        b'{"budget": NaN}',
    ],
)
def test_what_no_run_can_be_told_is_refused(folder: Path, page: Page, given: Any) -> None:
    with opened(folder):
        answer = page.post("/tune", given)
        assert (answer.status, list(json.loads(answer.body))) == (400, ["error"])
        assert tunings(folder, 0) == []
