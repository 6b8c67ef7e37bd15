"""One input on several machines: run --shard, then merge."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.archives import opened
from support.commands import Genbatch, Serve, images, write_prompts

pytestmark = pytest.mark.slow


def rows(genbatch: Genbatch, folder: str) -> list[dict[str, object]]:
    found = [json.loads(line) for line in genbatch("export", folder).stdout.splitlines()]
    return [{**row, "elapsed": 0, "made": "", "response_id": ""} for row in found]


def test_two_shards_merged_are_the_folder_of_one_run(genbatch: Genbatch, serve: Serve) -> None:
    fake = serve()
    write_prompts(12)
    with Path("prompts.txt").open("a") as file:
        file.write("a fox\n a fox\n")
    said = ""
    for shard, folder in (("1/2", "a"), ("2/2", "b"), ("1/1", "one")):
        command = ["run", "prompts.txt", "-o", folder, "--shard", shard, "--json"]
        done = genbatch(*command, "--literal", "all", "--no-look")
        assert done.returncode == 0, done.stderr
        made = [json.loads(line)["index"] for line in done.stdout.splitlines()]
        by_run = {row["index"] for row in rows(genbatch, folder)}
        assert set(made) == by_run
        said += done.stderr
    assert "Shard 1/1: 14 of 14 prompts" in said
    assert fake.stats.images == 28
    assert len(images("a")) + len(images("b")) == 14

    merged = genbatch("merge", "a", "b", "--to", "all")
    assert merged.stdout == "all: 14 prompts of a, b; 14 images copied, 0 there already\n"
    assert genbatch("merge", "b", "a", "--to", "all").stdout.endswith(
        "0 images copied, 14 there already\n"
    )
    assert rows(genbatch, "all") == rows(genbatch, "one")
    assert [each.name for each in images("all")] == [each.name for each in images("one")]
    assert genbatch("verify", "all").stdout == "all is well\n"
    spent = [json.loads(genbatch("status", each, "--json").stdout) for each in ("all", "one")]
    assert spent[0]["spent"] == pytest.approx(spent[1]["spent"])

    again = genbatch("run", "prompts.txt", "-o", "all", "--literal", "all")
    assert again.stdout.startswith("14 images in all, 0 failed, 14 already there\n")
    assert fake.stats.calls == 28


def test_a_shard_that_cannot_be_is_refused_before_anything_is_paid(genbatch: Genbatch) -> None:
    write_prompts(1)
    wrong = genbatch("run", "prompts.txt", "--demo", "--shard", "3/2")
    assert (wrong.returncode, Path("genbatch-out").exists()) == (2, False)
    assert "'3/2' is not like 1/2, the first of two shards" in wrong.stderr
    piped = genbatch("run", "-", "--demo", "--shard", "1/2", input="a fox\n")
    assert piped.returncode == 2
    assert piped.stderr == "genbatch: --shard needs files: standard input is read only once\n"
    empty = [genbatch("run", "prompts.txt", "--demo", "--shard", f"{n}/2") for n in (1, 2)]
    assert "Nothing to do: no prompts in prompts.txt, shard" in "".join(e.stdout for e in empty)
    assert [each.returncode for each in empty] == [0, 0]


def test_a_merge_says_what_is_wrong_with_a_folder(genbatch: Genbatch) -> None:
    write_prompts(1)
    assert genbatch("run", "prompts.txt", "--demo", "-o", "a").returncode == 0
    missing = genbatch("merge", "a", "b", "--to", "c")
    assert missing.stderr == "genbatch: b is not there: no such folder\n"
    twice = genbatch("merge", "a", "--to", "a")
    assert "is named twice: merge different folders into another one" in twice.stderr
    with opened(Path("a")):
        used = genbatch("merge", "a", "--to", "c")
    assert "a is in use by process" in used.stderr
    assert "--shard 1/2, then genbatch merge" in used.stderr
    assert [missing.returncode, twice.returncode, used.returncode] == [2, 2, 3]
    assert not Path("c").exists()
