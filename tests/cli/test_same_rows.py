"""What a folder has already: names of models that it keeps, and images with other settings."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from genbatch import ImageRequest
from genbatch.gemini import resolve
from support.commands import Genbatch, Serve, images, write_prompts

FLASH = resolve(ImageRequest("any", model="flash")).model
BEFORE = "gemini-nano-banana-2"


def test_a_folder_keeps_what_a_short_name_meant_when_it_began(
    genbatch: Genbatch, serve: Serve
) -> None:
    fake = serve(image_size=8)
    write_prompts(3)
    assert genbatch("run", "prompts.txt", "--model", BEFORE).returncode == 0
    assert genbatch("run", "prompts.txt", "--limit", "0").returncode == 0
    with sqlite3.connect("genbatch-out/.genbatch/journal.sqlite") as journal:
        journal.execute("CREATE TABLE IF NOT EXISTS pin (name TEXT PRIMARY KEY, model TEXT)")
        journal.execute("INSERT INTO pin VALUES ('flash', ?)", (BEFORE,))
    journal.close()
    told = f"flash is {BEFORE} in genbatch-out, as when it began"
    Path("p.jsonl").write_text('{"prompt": "a fox, number 0", "model": "flash"}\n')
    for run in (("prompts.txt",), ("p.jsonl", "--model", "pro"), ("prompts.txt", "--dry-run")):
        done = genbatch("run", *run)
        assert done.returncode == 0, done.stderr
        assert told in done.stderr
    assert fake.stats.calls == 3
    done = genbatch("redo", "genbatch-out", "0", "--model", "flash", "--dry-run", "--json")
    assert json.loads(done.stdout)["model"] == BEFORE
    assert told in done.stderr
    done = genbatch("run", "prompts.txt", "--model", FLASH)
    assert done.returncode == 0
    assert fake.stats.calls == 6


@pytest.mark.parametrize("model", ["gpt-image-2", "openai/gpt-image-2"])
def test_a_folder_of_somebody_else_chooses_no_other_service(
    genbatch: Genbatch, serve: Serve, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    serve(image_size=8)
    monkeypatch.setenv("OPENAI_API_KEY", "a-key")
    write_prompts(1)
    assert genbatch("run", "prompts.txt").returncode == 0
    with sqlite3.connect("genbatch-out/.genbatch/journal.sqlite") as journal:
        journal.execute("UPDATE pin SET model = ?", (model,))
    journal.close()
    write_prompts(2)
    done = genbatch("run", "prompts.txt", "--dry-run", "--json")
    assert json.loads(done.stdout)["model"] == FLASH
    assert "openai" not in done.stderr


def test_the_first_run_notes_what_its_names_mean(genbatch: Genbatch, serve: Serve) -> None:
    serve(image_size=8)
    write_prompts(1)
    assert genbatch("run", "prompts.txt").returncode == 0
    with sqlite3.connect("genbatch-out/.genbatch/journal.sqlite") as journal:
        assert journal.execute("SELECT * FROM pin").fetchall() == [("flash", FLASH)]
    journal.close()


def test_images_with_other_settings_are_named_before_paying(
    genbatch: Genbatch, serve: Serve
) -> None:
    serve(image_size=8)
    write_prompts(3)
    assert genbatch("run", "prompts.txt").returncode == 0
    Path("more.txt").write_text(Path("prompts.txt").read_text() + "something else\n")
    wide = ("run", "more.txt", "--aspect-ratio", "16:9", "--dry-run")
    assert "3 prompts have images in the folder already, with other settings" in (
        genbatch(*wide).stdout
    )
    assert json.loads(genbatch(*wide, "--json").stdout)["similar"] == 3
    plan = genbatch("run", "more.txt", "--dry-run").stdout
    assert "other settings" not in plan
    Path("twice.txt").write_text(2 * Path("prompts.txt").read_text())
    plan = genbatch("run", "twice.txt", "--dry-run").stdout
    assert "other settings" not in plan
    assert len(images("genbatch-out")) == 3


def test_a_row_that_comes_back_with_what_it_had_is_not_paid_again(
    genbatch: Genbatch, serve: Serve
) -> None:
    """Edited, taken out of the file, and back as it was at first: both images are there."""
    fake = serve(image_size=8)
    fox, wolf, owl = "a,a fox\n", "a,a wolf\n", "b,an owl\n"
    for rows, calls in [(fox + owl, 2), (wolf + owl, 3), (owl, 3), (fox + owl, 3), (wolf, 3)]:
        Path("shots.csv").write_text(f"id,prompt\n{rows}")
        planned = genbatch("run", "shots.csv", "--dry-run", "--json")
        assert json.loads(planned.stdout)["calls"] == calls - fake.stats.calls
        assert genbatch("run", "shots.csv").returncode == 0
        assert fake.stats.calls == calls
    assert genbatch("export", "genbatch-out", "--all").stdout.count("a wolf") == 1


def test_a_blank_system_instruction_is_none(genbatch: Genbatch, serve: Serve) -> None:
    """As from a variable of the shell that is not set."""
    fake = serve(image_size=8)
    write_prompts(2)
    for blank in ((), ("--system", ""), ("--system", " ")):
        assert genbatch("run", "prompts.txt", *blank).returncode == 0
        assert fake.stats.calls == 2


def test_what_is_all_there_is_shown_without_a_key(
    genbatch: Genbatch, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = serve(image_size=8)
    write_prompts(2)
    assert genbatch("run", "prompts.txt").returncode == 0
    monkeypatch.delenv("GEMINI_API_KEY")
    done = genbatch("run", "prompts.txt")
    assert (done.returncode, fake.stats.calls) == (0, 2)
    assert "2 already there" in done.stdout
    write_prompts(3)
    done = genbatch("run", "prompts.txt")
    assert (done.returncode, fake.stats.calls) == (2, 2)
    assert "no API key: set GEMINI_API_KEY" in done.stderr


def test_a_blank_server_is_refused(genbatch: Genbatch, serve: Serve) -> None:
    fake = serve(image_size=8)
    write_prompts(1)
    done = genbatch("run", "prompts.txt", "--base-url", "")
    assert (done.returncode, fake.stats.calls) == (2, 0)
    assert "--base-url is blank: leave it out" in done.stderr


def test_the_plan_knows_that_an_edited_row_whose_image_another_has_is_paid(
    genbatch: Genbatch, serve: Serve
) -> None:
    fake = serve(image_size=8)
    for content in ("a,a fox\n", "a,a wolf\n", "a,a fox\nb,a wolf\n", "b,a wolf\na,a fox\n"):
        Path("shots.csv").write_text(f"id,prompt\n{content}")
        planned = json.loads(genbatch("run", "shots.csv", "--dry-run", "--json").stdout)["calls"]
        before = fake.stats.calls
        assert genbatch("run", "shots.csv").returncode == 0
        assert fake.stats.calls - before == planned
    assert fake.stats.calls == 3
