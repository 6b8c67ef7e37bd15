"""The store without its event loop: journal, lock, files and reports."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from genbatch import Blocked, ImageMissing, ImageRequest, NoImage, StoreError, TimedOut, Unavailable
from genbatch._store._keys import DEFAULT_TEMPLATE
from genbatch._store._match import BatchInput
from genbatch._store._reports import export, status, verify
from genbatch._values import Rejected
from support.archives import begin, fail, image, make_all, open_archive, opened, plan_all

PROMPTS = ["a cup", "a mug", "a jug"]


def journal_of(directory: Path) -> Path:
    return directory / ".genbatch" / "journal.sqlite"


def shown(directory: Path, **options: Any) -> list[tuple[int, str, str]]:
    rows = export(directory, **options)
    return [(row["index"], row["prompt"], row["status"]) for row in rows]


def images_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.glob("*.png"))


def test_an_image_made_is_known_to_the_next_run(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        make_all(archive, PROMPTS)
    with opened(tmp_path) as archive:
        plans = plan_all(archive, [*PROMPTS, "a pot"])
    assert [plan.saved is not None for plan in plans] == [True, True, True, False]
    saved = plans[1].saved
    assert saved is not None
    assert saved.path.read_bytes() == image(1).data
    assert (saved.resumed, saved.cost, saved.model) == (True, 0.5, "m")


def test_reordering_and_inserting_finds_every_image(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        first = make_all(archive, PROMPTS)
    with opened(tmp_path) as archive:
        plans = plan_all(archive, ["new", *reversed(PROMPTS)])
    assert [plan.saved is not None for plan in plans] == [False, True, True, True]
    assert [plan.key for plan in plans[1:]] == [plan.key for plan in reversed(first)]
    assert [plan.stem for plan in plans[1:]] == [plan.stem for plan in reversed(first)]
    assert shown(tmp_path) == [
        (3, "new", "to do"),
        (2, "a jug", "done"),
        (1, "a mug", "done"),
        (0, "a cup", "done"),
    ]


def test_equal_prompts_have_images_of_their_own_however_many(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        plans = make_all(archive, ["same"] * 40)
        assert len({plan.key for plan in plans}) == len({plan.stem for plan in plans}) == 40
    with opened(tmp_path) as archive:
        again = plan_all(archive, ["same"] * 41)
    assert [plan.key for plan in again[:40]] == [plan.key for plan in plans]
    assert [plan.saved is not None for plan in again] == [True] * 40 + [False]


def test_a_changed_parameter_makes_a_new_image_and_keeps_the_old(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        make_all(archive, [ImageRequest("a cup", image_size="1K")])
    with opened(tmp_path) as archive:
        make_all(archive, [ImageRequest("a cup", image_size="2K")])
    assert len(images_in(tmp_path)) == 2
    assert len(shown(tmp_path)) == 1
    assert [row[0] for row in shown(tmp_path, all=True)] == [1, None]
    assert list(verify(tmp_path)) == []


def test_namespaces_share_no_image_and_each_has_its_input(tmp_path: Path) -> None:
    for namespace in ("a", "b", "a"):
        with opened(tmp_path) as archive:
            make_all(archive, PROMPTS, namespace)
    assert len(images_in(tmp_path)) == 6
    assert len(shown(tmp_path)) == 6


def test_an_input_that_was_not_read_to_its_end_hides_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        make_all(archive, PROMPTS)
    with opened(tmp_path) as archive:
        plan_all(archive, ["new", PROMPTS[0]], whole=False)
    assert [prompt for _, prompt, _ in shown(tmp_path)] == ["new", "a cup", "a mug", "a jug"]


def test_many_unfinished_runs_leave_no_more_rows_than_one(tmp_path: Path) -> None:
    for _ in range(40):
        with opened(tmp_path) as archive:
            plan_all(archive, PROMPTS, whole=False)
    with sqlite3.connect(journal_of(tmp_path)) as connection:
        (places,) = connection.execute("SELECT count(*) FROM place").fetchone()
    connection.close()
    assert places <= 20 * len(PROMPTS)
    assert len(shown(tmp_path)) == 3


@pytest.mark.parametrize(
    "error",
    [Blocked("no", reason="SAFETY"), NoImage("none", text="I cannot"), Rejected("bad", status=400)],
    ids=lambda error: type(error).__name__,
)
def test_what_was_refused_for_good_fails_again_without_a_call(
    tmp_path: Path, error: Exception
) -> None:
    kind = type(error).__name__
    with opened(tmp_path) as archive:
        (plan,) = plan_all(archive, ["a cup"])
        fail(archive, begin(archive, plan), error)
    for options in ({}, {"retry_failed": ("Other",)}):
        with opened(tmp_path, **options) as archive:
            again = plan_all(archive, ["a cup"])[0].error
        assert type(again) is type(error)
        assert str(again) == str(error)
        for name in ("reason", "text", "status"):
            assert getattr(again, name, None) == getattr(error, name, None)
    for retry in (True, {kind}):
        with opened(tmp_path, retry_failed=retry) as archive:
            assert plan_all(archive, ["a cup"])[0].error is None
    assert status(tmp_path).failed == {kind: 1}
    (row,) = export(tmp_path)
    assert row["error"] == {"kind": kind, "message": str(error)}


def test_what_may_pass_is_tried_again(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        (plan,) = plan_all(archive, ["a cup"])
        fail(archive, begin(archive, plan), Unavailable("down"))
    assert status(tmp_path).transient == {"Unavailable": 1}
    with opened(tmp_path) as archive:
        plans = make_all(archive, ["a cup"])
        assert plans[0].error is None
    assert status(tmp_path).transient == {}
    assert status(tmp_path).done == 1


def test_what_may_have_been_paid_is_counted_across_runs(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        plans = plan_all(archive, ["a", "b", "c", "d", "e"])
        archive.save(begin(archive, plans[0], 0.25), image(), 1.0)
        fail(archive, begin(archive, plans[1]), Unavailable("down"))
        archive.fail(begin(archive, plans[2], 0.25), TimedOut("slow"))  # perhaps paid
        begin(archive, plans[3], 0.25)  # of no known end
        fail(archive, begin(archive, plans[4]), ValueError("nothing was sent"))
    with opened(tmp_path) as archive:
        assert archive.spent() == (0.5, 0.5, 1, 2)
    assert status(tmp_path).spent == (0.5, 0.5, 1, 2)


def test_half_a_character_of_a_service_costs_no_image(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        plans = plan_all(archive, ["a cup \ud800", "a mug"])
        made = image(text="so \ud800", response_id="\udfff", model="\ud83d")
        archive.save(begin(archive, plans[0]), made, 1.0)
        fail(archive, begin(archive, plans[1]), Blocked("no \ud800", reason="\ud800"))
    done, failed = export(tmp_path)
    assert (done["text"], done["status"]) == ("so ?", "done")
    assert failed["error"] == {"kind": "Blocked", "message": "no ?"}
    assert list(verify(tmp_path)) == []


def test_a_deleted_file_is_reported_and_made_again_only_when_asked_for(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        make_all(archive, ["a cup"])
    (path,) = tmp_path.glob("*.png")
    path.unlink()
    with opened(tmp_path) as archive:
        (plan,) = plan_all(archive, ["a cup"])
    assert isinstance(plan.error, ImageMissing)
    assert str(path) in str(plan.error)
    assert list(verify(tmp_path)) == [f"{path} is missing"]
    with opened(tmp_path, redo_missing=True) as archive:
        (plan,) = make_all(archive, ["a cup"])
        assert plan.error is None
    with opened(tmp_path) as archive:
        assert plan_all(archive, ["a cup"])[0].saved is not None
        assert archive.spent().images == 2


def test_a_take_more_is_kept_beside_the_first_until_it_is_picked(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        make_all(archive, PROMPTS)
        for number in (1, 2):
            plan, request = archive.further(1, "", {"text": f"a mug, {number}"})
            assert (request.text, request.options) == (f"a mug, {number}", {})
            archive.save(begin(archive, plan), image(100 + number), 1.0)
        assert [row["file"] for row in export(tmp_path)][1].startswith("0001-a-mug-")
        archive.pick(1, 3, "")
    row = list(export(tmp_path))[1]
    assert (row["take"], row["takes"], row["prompt"]) == (3, 3, "a mug, 2")
    assert row["file"].endswith("-take3.png")
    with opened(tmp_path) as archive:
        saved = plan_all(archive, PROMPTS)[1].saved
        assert saved is not None
        assert saved.path.read_bytes() == image(102).data
        with pytest.raises(ValueError, match="no take 4"):
            archive.pick(1, 4, "")
        with pytest.raises(ValueError, match="no prompt 7"):
            archive.pick(7, 1, "")
    takes = [(row["index"], row["take"], row["picked"]) for row in export(tmp_path, all=True)]
    assert takes == [(0, 1, True), (1, 1, False), (1, 2, False), (1, 3, True), (2, 1, True)]
    assert list(verify(tmp_path)) == []


def test_a_take_is_asked_for_with_all_that_the_first_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = ImageRequest("a cup", id="x", seed=7, images=("in.png",), metadata={"a": [1]})
    (tmp_path / "in.png").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    with opened(tmp_path / "out") as archive:
        plan_all(archive, [prompt, ImageRequest("b", images=(b"bytes",))])
        assert archive.further(0, "", {"seed": 8})[1] == ImageRequest(
            "a cup", id="x", seed=8, images=("in.png",), metadata={"a": [1]}
        )
        with pytest.raises(ValueError, match="does not keep"):
            archive.further(1, "", {})


def test_a_failed_take_leaves_the_first_as_it_was(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        make_all(archive, ["a cup"])
        plan, _ = archive.further(0, "", {})
        fail(archive, begin(archive, plan), Blocked("no"))
    assert status(tmp_path).done == 1
    assert status(tmp_path).failed == {}


def test_two_filenames_that_are_the_same_somewhere_are_told_apart(tmp_path: Path) -> None:
    prompts = [
        ImageRequest("a", filename="Hero"),
        ImageRequest("b", filename="hero"),
        ImageRequest("c", filename="hero"),
    ]
    with opened(tmp_path) as archive:
        stems = [plan.stem for plan in make_all(archive, prompts)]
    assert stems[0] == "Hero"
    assert all(stem.startswith("hero-") for stem in stems[1:])
    assert len({stem.lower() for stem in stems}) == 3


def test_a_name_is_fixed_at_first_planning(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        (first,) = plan_all(archive, ["a cup"])
    with opened(tmp_path, template="{slug}") as archive:
        assert plan_all(archive, ["new", "a cup"])[1].stem == first.stem


def test_names_that_others_have_taken_are_not_used(tmp_path: Path) -> None:
    (tmp_path / "a-cup.jpg").write_text("somebody else's")
    with opened(tmp_path, template="{slug}") as archive:
        (plan,) = make_all(archive, ["a cup"])
        assert plan.stem == f"a-cup-{plan.key[:6]}"
        key = plan_all(archive, ["a mug"])[0].key
    for length in (6, 12, 64):
        (tmp_path / f"a-jug-{key[:length]}.png").write_text("no image")
    assert (tmp_path / "a-cup.jpg").read_text() == "somebody else's"


def test_where_every_name_is_taken_planning_refuses(tmp_path: Path) -> None:
    with opened(tmp_path / "elsewhere") as archive:
        (plan,) = plan_all(archive, ["a cup"])
    for length in (6, 12, 64):
        (tmp_path / f"0000-a-cup-{plan.key[:length]}.png").write_text("no image")
    with opened(tmp_path) as archive, pytest.raises(StoreError, match="in the way"):
        plan_all(archive, ["a cup"])


@pytest.mark.parametrize("template", [DEFAULT_TEMPLATE, "{key}_{slug}"])
def test_images_of_a_directory_without_a_journal_are_taken_up(
    tmp_path: Path, template: str
) -> None:
    with opened(tmp_path, template=template) as archive:
        plan = make_all(archive, ["a cup"])[0]
    (path,) = tmp_path.glob("*.png")
    (tmp_path / f"{path.stem}-2.png").write_bytes(image(7).data)
    shutil.rmtree(tmp_path / ".genbatch")
    with opened(tmp_path, template=template) as archive:
        (again,) = plan_all(archive, ["a cup"])
    assert again.key == plan.key
    assert again.saved is not None
    assert again.saved.path == path
    assert [extra.name for extra in again.saved.extras] == [f"{path.stem}-2.png"]
    assert list(verify(tmp_path)) == []


def test_a_second_runner_is_refused_and_told_who_is_there(tmp_path: Path) -> None:
    with opened(tmp_path):
        with pytest.raises(StoreError, match=f"in use by process {os.getpid()} on .* since 20"):
            open_archive(tmp_path)
        runner = status_of_runner(tmp_path)
        assert runner == os.getpid()
    assert status_of_runner(tmp_path) is None
    with opened(tmp_path):
        pass


@pytest.mark.parametrize("other", ["cat 2", "cat take2"])
def test_an_image_beside_the_first_is_never_that_of_another_prompt(
    tmp_path: Path, other: str
) -> None:
    with opened(tmp_path, template="{slug}") as archive:
        plans = plan_all(archive, ["cat", other])
        archive.save(begin(archive, plans[0]), image(1, extras=(image(2),)), 1.0)
        begin(archive, plans[1])
        call = begin(archive, archive.further(0, "", {})[0])
    (tmp_path / f"{call.name}.png").write_bytes(image(3).data)
    with opened(tmp_path, template="{slug}") as archive:
        assert plan_all(archive, ["cat", other])[1].saved is None
    assert list(verify(tmp_path)) == []
    assert len(images_in(tmp_path)) == 3


def test_an_extra_of_an_earlier_version_is_never_that_of_another_prompt(tmp_path: Path) -> None:
    with opened(tmp_path, template="{slug}") as archive:
        plans = plan_all(archive, ["cat", "cat 2"])
        archive.save(begin(archive, plans[0]), image(1), 1.0)
        begin(archive, plans[1])
        (tmp_path / "cat-2.png").write_bytes(image(2).data)
        with archive.journal.writing() as journal:
            journal.execute("UPDATE image SET extras = ?", ('["cat-2.png"]',))
    with opened(tmp_path, template="{slug}") as archive:
        assert plan_all(archive, ["cat", "cat 2"])[1].saved is None


def test_what_is_in_the_way_when_a_call_begins_is_never_its_image(tmp_path: Path) -> None:
    with opened(tmp_path, template="{slug}") as archive:
        (plan,) = plan_all(archive, ["a cup"])
        (tmp_path / "a-cup.png").write_bytes(image(1).data)
        call = begin(archive, plan)
    with opened(tmp_path, template="{slug}") as archive:
        assert plan_all(archive, ["a cup"])[0].saved is None
    (tmp_path / f"{call.name}.png").write_bytes(image(2).data)
    with opened(tmp_path, template="{slug}") as archive:
        saved = plan_all(archive, ["a cup"])[0].saved
    assert saved is not None
    assert saved.path.name == f"a-cup-{plan.key[:6]}.png"


@pytest.mark.parametrize("then", ["deleted", "replaced"])
def test_a_second_runner_is_refused_though_the_file_of_the_lock_is_gone(
    tmp_path: Path, then: str
) -> None:
    lock = tmp_path / ".genbatch" / "lock"
    with opened(tmp_path):
        lock.unlink()
        if then == "replaced":
            lock.write_text("")
        with pytest.raises(StoreError, match="in use by another process: wait until it ends"):
            open_archive(tmp_path)
        assert str(status(tmp_path).runner) == "another process"
    assert status(tmp_path).runner is None
    with opened(tmp_path):
        assert status_of_runner(tmp_path) == os.getpid()


def test_a_runner_of_an_earlier_version_is_seen(tmp_path: Path) -> None:
    with opened(tmp_path):
        pass
    lock = tmp_path / ".genbatch" / "lock"
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match=f"in use by process {os.getpid()} on"):
            open_archive(tmp_path)
        assert status_of_runner(tmp_path) == os.getpid()


def status_of_runner(directory: Path) -> int | None:
    runner = status(directory).runner
    return runner and runner.pid


def test_a_killed_runner_holds_nobody_up(tmp_path: Path) -> None:
    script = f"""
import os, signal, sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from support.archives import *
archive = open_archive(Path({str(tmp_path)!r}))
plans = plan_all(archive, ["a", "b"])
archive.save(begin(archive, plans[0]), image(), 1.0)
begin(archive, plans[1])
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    with opened(tmp_path) as archive:
        plans = plan_all(archive, ["a", "b"])
        assert archive.spent() == (0.5, 0.25, 1, 1)
    assert [plan.saved is not None for plan in plans] == [True, False]


def test_a_journal_is_for_its_owner_only(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        make_all(archive, PROMPTS)
        modes = {
            path.name: stat.S_IMODE(path.stat().st_mode)
            for path in (tmp_path / ".genbatch").iterdir()
        }
    assert set(modes.values()) == {0o600}
    assert "journal.sqlite-wal" in modes


@pytest.mark.parametrize("made", ["", "PRAGMA journal_mode = WAL"])
def test_a_journal_that_an_earlier_version_died_over_is_usable(tmp_path: Path, made: str) -> None:
    journal_of(tmp_path).parent.mkdir()
    journal_of(tmp_path).touch()
    with closing(sqlite3.connect(journal_of(tmp_path))) as connection:
        connection.execute(made)
    for report in (status, lambda path: list(export(path)), lambda path: list(verify(path))):
        with pytest.raises(StoreError, match="has no journal: nothing was run into it"):
            report(tmp_path)
    with opened(tmp_path) as archive:
        make_all(archive, PROMPTS)
    assert status(tmp_path).done == 3


def test_a_log_that_a_journal_has_left_is_no_part_of_the_next(tmp_path: Path) -> None:
    with opened(tmp_path / "out") as archive:
        plan_all(archive, PROMPTS)
        shutil.copytree(tmp_path / "out", tmp_path / "left")
    journal_of(tmp_path / "left").unlink()
    with opened(tmp_path / "left") as archive:
        plan_all(archive, ["a pot"])
    assert shown(tmp_path / "left") == [(0, "a pot", "to do")]


def test_a_newer_journal_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path):
        pass
    connection = sqlite3.connect(journal_of(tmp_path))
    connection.execute("PRAGMA user_version = 9")
    connection.close()
    for read in (open_archive, status):
        with pytest.raises(StoreError, match=r"newer genbatch \(schema 9, this one knows 5\)"):
            read(tmp_path)


def test_a_damaged_journal_is_one_clear_error(tmp_path: Path) -> None:
    with opened(tmp_path):
        pass
    journal_of(tmp_path).write_bytes(b"no journal" * 1000)
    with pytest.raises(StoreError, match=r"is damaged .* move it elsewhere and run again"):
        open_archive(tmp_path)
    journal_of(tmp_path).unlink()
    with opened(tmp_path) as archive:
        plan_all(archive, PROMPTS)


def test_a_fresh_directory_must_be_empty(tmp_path: Path) -> None:
    with opened(tmp_path / "new", fresh=True):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="is not empty"):
        open_archive(tmp_path, fresh=True)


def test_reports_can_be_read_while_a_run_goes_on(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        plans = plan_all(archive, PROMPTS)
        call = begin(archive, plans[0])
        rows = export(tmp_path)
        assert next(rows)["status"] == "to do"
        archive.save(call, image(), 1.0)
        assert [row["status"] for row in rows] == ["to do"] * 2
        assert status(tmp_path).done == 1
        assert list(verify(tmp_path)) == []
        assert [row["status"] for row in export(tmp_path)] == ["done", "to do", "to do"]


def test_reports_of_no_run_are_one_clear_error(tmp_path: Path) -> None:
    for report in (status, lambda path: list(export(path)), lambda path: list(verify(path))):
        with pytest.raises(StoreError, match="has no journal"):
            report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_verify_names_what_is_wrong(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        make_all(archive, PROMPTS)
    first, second, third = sorted(tmp_path.glob("*.png"))
    first.unlink()
    second.write_bytes(b"short")
    third.write_bytes(third.read_bytes()[:-1] + b"!")
    (tmp_path / "stray.png").write_bytes(b"")
    (tmp_path / f".{'0' * 16}.part").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("of no interest")
    problems = sorted(verify(tmp_path))
    assert len(problems) == 5
    assert "belongs to no prompt" in "".join(problems)
    assert "left from a write" in problems[0]


def test_export_says_all_there_is_to_say(tmp_path: Path) -> None:
    prompt = ImageRequest("a \ud800 cup", id="x", aspect_ratio="16:9", metadata={"a": [1, "é"]})
    with opened(tmp_path) as archive:
        (plan,) = plan_all(archive, [prompt], "n")
        extra = image(2, mime_type="image/jpeg")
        made = image(text="Here", response_id="r", extras=(extra,))
        archive.save(begin(archive, plan), made, 1.5)
    (row,) = export(tmp_path)
    json.dumps(row)
    assert row["extras"] == [f"{plan.stem}-2.jpg"]
    assert (row["index"], row["id"], row["prompt"]) == (0, "x", "a \ud800 cup")
    assert (row["status"], row["file"], row["error"]) == ("done", f"{plan.stem}.png", None)
    assert (row["key"], row["namespace"], row["bytes"]) == (plan.key, "n", len(made.data))
    assert (row["cost"], row["elapsed"], row["text"], row["response_id"]) == (0.5, 1.5, "Here", "r")
    assert (row["asked"], row["metadata"]) == ({"aspect_ratio": "16:9"}, {"a": [1, "é"]})


def test_metadata_is_that_of_the_latest_input(tmp_path: Path) -> None:
    for value in (1, 2):
        with opened(tmp_path) as archive:
            make_all(archive, [ImageRequest("a cup", metadata={"row": value})])
    (row,) = export(tmp_path)
    assert row["metadata"] == {"row": 2}


@pytest.mark.parametrize("again", ["{}", "other {}"], ids=["the same", "edited"])
@pytest.mark.parametrize("text", ["{}", "alike"])
@pytest.mark.parametrize("row_id", ["{}", None])
def test_the_work_of_planning_an_input_grows_with_its_length(
    tmp_path: Path, text: str, row_id: str | None, again: str
) -> None:
    def steps(rows: int, asked: list[str]) -> int:
        """Return how much the database does to plan rows, once for each way to ask for them."""
        done = 0

        def count() -> None:
            nonlocal done
            done += 1

        for way in asked:

            def requests(way: str = way) -> Any:
                for row in range(rows):
                    own = None if row_id is None else row_id.format(row)
                    yield row, ImageRequest(way.format(text.format(row)), id=own)

            with opened(tmp_path / str(rows)) as archive:
                archive.journal._connection.set_progress_handler(count, 100)
                batch = archive.begin_batch("", BatchInput("p.txt", rows, requests))
                archive.end_batch(batch, {}, whole=True)
        return done

    assert steps(800, ["{}", again]) < 6 * steps(200, ["{}", again])  # 16 where each looks at all
