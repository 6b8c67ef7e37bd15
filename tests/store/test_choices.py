"""Choices: what is thought of images, beside what the runs have made."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from genbatch import StoreError
from genbatch._store import Choice, choice_lines, choices, choose, export, parse_choices, pick_file
from support.archives import opened
from support.folders import add_take, fill, picture


def files_of(folder: Path) -> list[str]:
    return [row["file"] for row in export(folder, all=True)]


def test_choices_are_kept_by_file_and_the_last_one_counts(tmp_path: Path) -> None:
    first, second, third = files_of(fill(tmp_path, ["a", "b", "c"]))
    assert choices(tmp_path) == {}
    choose(tmp_path, {first: Choice("keep", 4, "the best"), second: Choice("reject")})
    choose(tmp_path, {second: Choice(stars=2), third: Choice()})
    assert choices(tmp_path) == {first: Choice("keep", 4, "the best"), second: Choice(stars=2)}
    choose(tmp_path, {first: Choice()})
    assert choices(tmp_path) == {second: Choice(stars=2)}


def test_choices_are_saved_while_a_run_holds_the_directory(tmp_path: Path) -> None:
    (file,) = files_of(fill(tmp_path, ["a"]))
    with opened(tmp_path):
        choose(tmp_path, {file: Choice("keep")})
        assert choices(tmp_path) == {file: Choice("keep")}


def test_an_unknown_file_changes_nothing(tmp_path: Path) -> None:
    (file,) = files_of(fill(tmp_path, ["a"]))
    with pytest.raises(ValueError, match=r"other\.png' is not an image of"):
        choose(tmp_path, {file: Choice("keep"), "other.png": Choice("keep")})
    with pytest.raises(ValueError, match=r"\\ud800' is not an image of"):
        choose(tmp_path, {"\ud800": Choice("keep")})
    assert choices(tmp_path) == {}


def test_a_take_is_picked_by_its_file(tmp_path: Path) -> None:
    fill(tmp_path, ["a"])
    add_take(tmp_path, 0, picture(7))
    first, second = files_of(tmp_path)
    pick_file(tmp_path, second)
    assert [row["file"] for row in export(tmp_path)] == [second]
    with pytest.raises(ValueError, match="is not an image"):
        pick_file(tmp_path, "../x.png")
    assert first != second


def test_without_a_journal_none_is_made(tmp_path: Path) -> None:
    for act in (lambda: choose(tmp_path, {}), lambda: pick_file(tmp_path, "a")):
        with pytest.raises(StoreError, match="nothing was run into it"):
            act()
    assert os.listdir(tmp_path) == []


NOTED = {
    "0001-a fox.png": Choice("keep", 4, "dark: but good"),
    "a: b.png": Choice("reject"),
    "a: b.png: c.png": Choice(stars=1, note="x"),
    "5 owls.png": Choice("keep"),
}


def test_choices_come_back_from_text() -> None:
    lines = list(choice_lines(NOTED))
    assert lines[0] == "keep 4 0001-a fox.png: dark: but good"
    assert lines[1] == "reject - a: b.png"
    assert parse_choices(lines, {"other.png", *NOTED}) == NOTED
    quoted = ["# of out", "", *(f"  > {line} \r" for line in lines)]
    assert parse_choices(quoted, set(NOTED)) == NOTED


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("keep 5 owls.jpg", "there is no such image"),
        ("keep 6 5 owls.png", "6 is not a number of stars from 1 to 5"),
        ("keep x 5 owls.png", "'x' is not a number of stars"),
        ("maybe 1 5 owls.png", "'maybe' is neither keep nor reject"),
        ("keep", "not a verdict, stars and a file"),
        (f"keep 1 5 owls.png: {'x' * 2001}", "a note is a text of at most 2,000 characters"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(line: str, why: str) -> None:
    with pytest.raises(ValueError, match=rf"^line 2, .*{why}"):
        parse_choices(["- - 5 owls.png", line], set(NOTED))
