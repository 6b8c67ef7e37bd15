"""What pages are told, and when."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from genbatch import Prompt, Unavailable
from genbatch._store import Choice, choose, export
from genbatch.view._feed import Feed
from support.folders import fill, picture

PROMPTS = [Prompt(f"p{n}", metadata={"x": n % 2}) for n in range(4)]


@pytest.fixture
def feed(tmp_path: Path) -> Iterator[Feed]:
    """A feed that looks only when it is told to."""
    feed = Feed(tmp_path / "out", lambda: {})
    feed._closing.set()
    feed._thread.join()
    yield feed
    feed.close()


def told(feed: Feed, mark: str) -> tuple[str, dict[str, Any]]:
    feed.refresh()
    found = feed.since(mark)
    assert found
    return found[0], json.loads(found[1])


def test_only_what_has_changed_is_told(feed: Feed) -> None:
    folder = feed.directory
    fill(folder, PROMPTS, lambda n: None)
    mark, first = told(feed, "")
    assert sorted(item["prompt"] for item in first["items"]) == ["p0", "p1", "p2", "p3"]
    assert first["head"]["fields"] == [["x", ["0", "1"]]]
    assert feed.since(mark) is None
    fill(folder, PROMPTS, lambda n: picture(n) if n == 2 else None)
    mark, second = told(feed, mark)
    (item,) = [item for item in second["items"] if item["status"] == "done"]
    assert (item["prompt"], item["at"][0], item["takes"][0]["size"]) == ("p2", 0, [48, 32])
    file = next(row["file"] for row in export(folder) if row["file"])
    choose(folder, {file: Choice("keep", 2, "n")})
    mark, third = told(feed, mark)
    (take,) = third["items"][0]["takes"]
    assert (take["verdict"], take["stars"], take["note"]) == ("keep", 2, "n")
    assert "fields" not in third["head"]
    fill(folder, PROMPTS, lambda n: Unavailable("503") if n == 3 else None)
    _, fourth = told(feed, mark)
    assert "Unavailable" in [item.get("error", {}).get("kind") for item in fourth["items"]]


def test_a_page_of_another_server_is_told_everything(feed: Feed) -> None:
    fill(feed.directory, PROMPTS)
    mark, _ = told(feed, "")
    for foreign in ("", "x:1", f"x:{mark.partition(':')[2]}", "::", f"{mark}x", "nonsense"):
        found = feed.since(foreign)
        assert found
        assert len(json.loads(found[1])["items"]) == 4


def test_pages_get_items_in_the_order_of_export(feed: Feed) -> None:
    fill(feed.directory, PROMPTS)
    fill(feed.directory, [PROMPTS[3], PROMPTS[1]])
    feed.refresh()
    items = [json.loads(item) for item in feed.page()[1]]
    rows = list(export(feed.directory, all=True))
    assert [item["prompt"] for item in items] == [row["prompt"] for row in rows]


def test_a_damaged_journal_is_told_and_what_was_known_stays(feed: Feed) -> None:
    fill(feed.directory, PROMPTS)
    mark, _ = told(feed, "")
    journal = feed.directory / ".genbatch" / "journal.sqlite"
    journal.write_bytes(b"damaged" * 1000)
    _, now = told(feed, mark)
    assert "is damaged" in now["head"]["problem"]
    assert len(feed.page()[1]) == 4
