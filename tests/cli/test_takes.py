"""Further takes: redo makes them, pick chooses one; and what a rerun asks for again."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from genbatch.cli._takes import parse_indices, spans_of
from genbatch.testing import Fault, blocked
from support.commands import Genbatch, Serve, arrival, images, started, write_prompts


def rows(genbatch: Genbatch, *options: str) -> list[dict[str, Any]]:
    done = genbatch("export", "genbatch-out", *options)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_redo_adds_takes_and_pick_chooses_what_export_shows(
    genbatch: Genbatch, serve: Serve
) -> None:
    fake = serve()
    write_prompts(8)
    assert genbatch("run", "prompts.txt").returncode == 0
    first = [row["file"] for row in rows(genbatch)]
    done = genbatch("redo", "genbatch-out", "1", "4-5")
    assert (done.returncode, fake.stats.images) == (0, 11)
    assert done.stdout.startswith("3 images in genbatch-out, 0 failed\n")
    assert [row["file"] for row in rows(genbatch)] == first
    done = genbatch("pick", "genbatch-out", "4", "2")
    assert done.stdout == "prompt 4 of genbatch-out now shows take 2\n"
    shown = rows(genbatch)
    assert [row["index"] for row in shown if row["file"] != first[row["index"]]] == [4]
    assert (shown[4]["take"], shown[4]["takes"]) == (2, 2)
    assert len(rows(genbatch, "--all")) == len(images("genbatch-out")) == 11
    kept = json.loads(Path("genbatch-out/results.jsonl").read_text().splitlines()[4])
    # What is empty in all rows is null in those of export.
    assert {name: shown[4][name] or kept[name] for name in kept} == kept
    assert genbatch("verify", "genbatch-out").returncode == 0
    assert genbatch("run", "prompts.txt").returncode == 0
    assert fake.stats.calls == 11  # what was picked is what resumes
    spent = json.loads(genbatch("status", "genbatch-out", "--json").stdout)["spent"]
    assert (spent["images"], spent["maybe_images"]) == (11, 0)


def test_redo_may_ask_for_something_else(genbatch: Genbatch, serve: Serve) -> None:
    fake = serve()
    write_prompts(3)
    genbatch("run", "prompts.txt")
    change = ["--prompt", "a hare", "--model", "pro", "--seed", "7", "--aspect-ratio", "16:9"]
    assert genbatch("redo", "genbatch-out", "2", *change).returncode == 0
    assert fake.calls[-1].prompt == "a hare"
    assert fake.calls[-1].body["generationConfig"]["seed"] == 7
    assert genbatch("pick", "genbatch-out", "2", "2").returncode == 0
    row = rows(genbatch)[2]
    assert row["prompt"] == "a hare"
    assert (row["asked"]["seed"], row["asked"]["aspect_ratio"]) == (7, "16:9")
    done = genbatch("redo", "genbatch-out", "1", "--model", "lite", "--image-size", "4K")
    assert (done.returncode, fake.stats.calls) == (2, 4)
    assert "1K only" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["redo", "genbatch-out", "8"], "there is no prompt 8"),
        (["redo", "genbatch-out", "5-2"], "give the lower number first"),
        (
            ["redo", "genbatch-out", "two"],
            "'two' is not a prompt number: give numbers as export shows them",
        ),
        (["redo", "nowhere", "1"], "nowhere is not there: no such folder"),
        (["pick", "nowhere", "1", "1"], "nowhere is not there: no such folder"),
        (["pick", "genbatch-out", "1", "2"], "prompt 1 has no take 2"),
        (["pick", "genbatch-out", "1", "0"], "Invalid value for 'TAKE'"),
    ],
)
def test_what_is_not_there_is_refused_before_any_call(
    genbatch: Genbatch, serve: Serve, arguments: list[str], message: str
) -> None:
    fake = serve()
    write_prompts(2)
    genbatch("run", "prompts.txt")
    done = genbatch(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert fake.stats.calls == 2
    assert not Path("nowhere").exists()


def test_takes_of_a_demo_are_made_by_a_demo(genbatch: Genbatch) -> None:
    write_prompts(3)
    genbatch("run", "prompts.txt", "--demo")
    for command in (["redo", "genbatch-out", "1"], ["pick", "genbatch-out", "1", "1"]):
        done = genbatch(*command)
        assert done.returncode == 2
    assert done.stderr.endswith("were made by a demo: add --demo\n")
    assert genbatch("redo", "genbatch-out", "1", "--demo").returncode == 0
    assert genbatch("pick", "genbatch-out", "1", "2", "--demo").returncode == 0
    assert rows(genbatch)[1]["take"] == 2


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_interrupted_redo_says_which_takes_are_left(
    genbatch: Genbatch, serve: Serve, backend: str
) -> None:
    arrived, latency = arrival(10, lambda call: 0.0 if call.number < 10 else 3600.0)
    fake = serve(latency=latency)
    write_prompts(8)
    genbatch("run", "prompts.txt")
    command = ["redo", "genbatch-out", "0-3", "6", "-k", "1", "--backend", backend]
    with started(command) as process:
        assert arrived.wait(60)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        # What it is about to pay for comes first, as for run.
        told = next(line for line in process.stderr if line.startswith("Stopping"))
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert told.startswith("Stopping: waiting for the calls in flight.")
    assert process.returncode == 130
    assert "finished images are kept, the rest: genbatch redo genbatch-out 1-3 6" in err
    assert err.rstrip().endswith("1 call may have been billed without an image")
    assert fake.stats.images == 9


def test_what_was_refused_for_good_is_asked_again_only_on_request(
    genbatch: Genbatch, serve: Serve
) -> None:
    fake = serve(faults=[blocked(), Fault(status=400)])
    write_prompts(4)
    for _ in range(2):
        assert genbatch("run", "prompts.txt", "-k", "1").returncode == 1
        assert fake.stats.calls == 4
    assert genbatch("run", "prompts.txt", "--retry-failed=rejected").returncode == 1
    assert fake.stats.calls == 5
    assert genbatch("run", "prompts.txt", "--retry-failed").returncode == 0
    assert fake.stats.calls == 6
    done = genbatch("run", "prompts.txt", "--retry-failed=Sad")
    assert done.returncode == 2
    assert "'Sad' is not one of Blocked, NoImage, Rejected, DamagedImage, all" in done.stderr


def test_an_image_that_was_deleted_is_paid_again_only_on_request(
    genbatch: Genbatch, serve: Serve
) -> None:
    fake = serve()
    write_prompts(3)
    genbatch("run", "prompts.txt")
    images("genbatch-out")[1].unlink()
    done = genbatch("run", "prompts.txt")
    assert (done.returncode, fake.stats.calls) == (1, 3)
    assert "ImageMissing" in done.stderr
    assert genbatch("run", "prompts.txt", "--redo-missing").returncode == 0
    assert fake.stats.calls == 4


def test_files_are_named_as_asked_and_a_fresh_folder_is_empty(
    genbatch: Genbatch, serve: Serve
) -> None:
    fake = serve()
    write_prompts(2)
    name = ["--name", "{index:05d}_{slug}"]
    assert genbatch("run", "prompts.txt", "--fresh", *name).returncode == 0
    assert [path.name for path in images("genbatch-out")] == [
        "00000_a-fox-number-0.png",
        "00001_a-fox-number-1.png",
    ]
    done = genbatch("run", "prompts.txt", "--fresh")
    assert done.returncode == 2
    assert (
        done.stderr.splitlines()[-1]
        == "genbatch: genbatch-out is not empty, as a fresh run needs it: give another folder"
    )
    assert genbatch("run", "prompts.txt", "--name", "{colour}").returncode == 2
    assert fake.stats.calls == 2


def test_numbers_and_ranges_are_read_and_written() -> None:
    assert parse_indices(["17", "42-45", "3,1"]) == [1, 3, 17, 42, 43, 44, 45]
    assert spans_of([1, 3, 17, 42, 43, 44, 45]) == "1 3 17 42-45"
    assert spans_of([]) == ""
    for bad in ("", "-1", "1-", "2-1", "1-9999999999", "x"):
        with pytest.raises(ValueError, match="is not a"):
            parse_indices([bad])


# What redo costs


def test_an_expensive_redo_is_refused_with_its_price_where_nobody_can_answer(
    genbatch: Genbatch, serve: Serve
) -> None:
    fake = serve()
    write_prompts(400)
    assert genbatch("run", "prompts.txt", "--yes").returncode == 0
    for command in (["redo", "genbatch-out", "0-399"], ["run", "prompts.txt", "-o", "again"]):
        done = genbatch(*command, "--image-size", "4K")
        assert (done.returncode, fake.stats.calls) == (2, 400)
        assert done.stderr.splitlines()[-1] == (
            "genbatch: about $45.37 for 400 images is more than $10, and nobody can be asked: "
            "add --yes to pay it, or a --budget"
        )


def test_redo_says_what_it_would_do(genbatch: Genbatch, serve: Serve) -> None:
    fake = serve()
    write_prompts(12)
    genbatch("run", "prompts.txt")
    done = genbatch("redo", "genbatch-out", "0-11", "--image-size", "4K", "--dry-run")
    assert (done.returncode, fake.stats.calls) == (0, 12)
    assert done.stdout == (
        "12 takes to make · gemini-nano-banana-2.1 4K · about $1.36, by batch $0.68\n"
        "reserved: at most $1.54, for each prompt by its length, its input images, the longest "
        "thoughts and one image\n"
        "genbatch-out keeps showing what it shows now; genbatch pick changes that.\n"
    )
    done = genbatch("redo", "genbatch-out", "0-11", "--budget", "0.1", "-k", "1")
    assert (done.returncode, fake.stats.calls) == (3, 12)  # what the folder has cost counts
    assert "the rest: genbatch redo genbatch-out 0-11" in done.stderr


def test_redo_takes_numbers_ids_and_files(genbatch: Genbatch, serve: Serve) -> None:
    fake = serve()
    rows = [{"prompt": f"a fox {n}", "id": f"fox,{n}"} for n in range(6)]
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    genbatch("run", "rows.jsonl")
    files = images("genbatch-out")
    names = ["0", "fox,2", str(files[3]), files[4].stem]
    assert genbatch("redo", "genbatch-out", *names).returncode == 0
    again = sorted(call.prompt for call in fake.calls[6:])
    assert again == ["a fox 0", "a fox 2", "a fox 3", "a fox 4"]


def test_variants_are_takes_with_seeds_of_their_own(genbatch: Genbatch, serve: Serve) -> None:
    fake = serve()
    write_prompts(2)
    genbatch("run", "prompts.txt")
    command = ["redo", "genbatch-out", "0-1", "--variants", "3", "--seed", "7"]
    planned = genbatch(*command, "--dry-run").stdout
    assert planned.startswith("6 takes to make · ")
    assert genbatch(*command, "-k", "4").returncode == 0
    seeds = sorted(call.body["generationConfig"]["seed"] for call in fake.calls[2:])
    assert seeds == [7, 7, 8, 8, 9, 9]
    assert len(rows(genbatch, "--all")) == 8
    assert genbatch("run", "prompts.txt").returncode == 0
    assert fake.stats.calls == 8


def test_variants_that_are_left_are_told(genbatch: Genbatch, serve: Serve) -> None:
    serve()
    write_prompts(3)
    genbatch("run", "prompts.txt")
    command = ["redo", "genbatch-out", "0-2", "--variants", "2", "-k", "1", "--max-images", "7"]
    done = genbatch(*command)
    assert done.returncode == 3
    assert "the rest: genbatch redo genbatch-out 1-2" in done.stderr


def test_a_run_of_variants_resumes(genbatch: Genbatch, serve: Serve) -> None:
    fake = serve()
    write_prompts(3)
    command = ["run", "prompts.txt", "--variants", "4"]
    assert genbatch(*command, "--dry-run").stdout.startswith("12 prompts · 0 done · 12 to make")
    assert genbatch(*command, "--max-images", "5").returncode == 3
    for _ in range(2):
        assert genbatch(*command).returncode == 0
        assert fake.stats.calls == 12


def test_a_plan_knows_what_was_refused_and_what_is_missing(
    genbatch: Genbatch, serve: Serve
) -> None:
    serve(faults=[blocked(), Fault(status=400)])
    write_prompts(6)
    genbatch("run", "prompts.txt", "-k", "1")
    images("genbatch-out")[0].unlink()

    def plan(*options: str) -> str:
        return " · ".join(
            genbatch("run", "prompts.txt", "--dry-run", *options).stdout.split(" · ")[:4]
        )

    assert plan().startswith("6 prompts · 4 done · 2 failed for good · 0 to make")
    assert plan("--redo-missing").startswith("6 prompts · 3 done · 2 failed for good · 1 to make")
    assert plan("--retry-failed=Blocked").startswith(
        "6 prompts · 4 done · 1 failed for good · 1 to make"
    )
    assert plan("--retry-failed", "--redo-missing").startswith("6 prompts · 3 done · 3 to make")
