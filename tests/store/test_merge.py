"""Merging: the folders of several machines become the one that a single run would have made."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genbatch import (
    Blocked,
    DamagedImage,
    Image,
    Prompt,
    StoreError,
    Success,
    generate_images,
)
from genbatch._store import (
    HIDDEN,
    JOURNAL,
    Choice,
    choices,
    choose,
    export,
    merge,
    pick_file,
    pinned,
    status,
    verify,
)
from genbatch.inputs import Shard
from support.archives import opened
from support.folders import add_take, fill, picture

_OF_A_CALL = ("elapsed", "made", "response_id")


async def draw(prompt: str | Prompt) -> Image:
    """Return an image, with a further one for "two"; some prompts fail."""
    text = Prompt.of(prompt).text.strip()
    number = sum(text.encode())
    if "blocked" in text:
        raise Blocked("a filter took it")
    if "broken" in text:
        damaged = DamagedImage("an invalid image came")
        damaged.data, damaged.cost = b"no image %d" % number, 0.04
        raise damaged
    further = (Image(picture(number + 1), "image/png"),) if "two" in text else ()
    return Image(picture(number), "image/png", cost=0.03, model="m", extras=further)


def run(prompts: Iterable[Any], folder: Path) -> None:
    async def make() -> None:
        async with generate_images(draw, prompts, save_dir=folder, max_concurrent=1) as outcomes:
            async for each in outcomes:
                assert isinstance(each, Success) or isinstance(each.error, Blocked | DamagedImage)

    anyio.run(make)


_DAMAGED = re.compile(r"damaged/\S+")


def rows(folder: Path, *without: str) -> list[dict[str, Any]]:
    """Return what is known of a folder, but for what is another for each call."""
    found = list(export(folder, all=True))
    for row in found:
        for name in (*_OF_A_CALL, *without):
            del row[name]
        if row["error"] and (named := _DAMAGED.search(row["error"]["message"])):
            assert (folder / named[0]).is_file()  # whose name is of the attempt
            row["error"]["message"] = row["error"]["message"].replace(named[0], "")
    return found


def spent(folder: Path) -> tuple[float, int, float, int]:
    found = status(folder).spent
    return round(found.usd, 9), found.images, round(found.maybe_usd, 9), found.maybe_images


def files_in(folder: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in folder.glob("*.png")}


_words = st.sampled_from(["a fox", " a fox", "two", "blocked", "broken", "an owl", "a Fox", "ü"])
_prompts = st.lists(
    st.builds(
        Prompt, _words, seed=st.sampled_from([None, 1, 2]), filename=st.sampled_from([None, "pic"])
    ),
    max_size=12,
)


@pytest.mark.slow
@settings(deadline=None, max_examples=15, suppress_health_check=list(HealthCheck))
@given(prompts=_prompts, count=st.integers(1, 3), data=st.data())
def test_shards_merged_are_the_same_as_one_run(
    tmp_path_factory: pytest.TempPathFactory, prompts: list[Prompt], count: int, data: st.DataObject
) -> None:
    home = tmp_path_factory.mktemp("merge")
    run(prompts, home / "one")
    folders = []
    for number in range(1, count + 1):
        if part := Shard(number, count).of(prompts):
            folders.append(home / f"shard{number}")
            run(part, folders[-1])
    if not folders:
        return
    order = data.draw(st.permutations(folders))
    merged = merge(order, home / "all")
    again = merge(order, home / "all")
    assert rows(home / "all") == rows(home / "one")
    assert files_in(home / "all") == files_in(home / "one")
    assert spent(home / "all") == spent(home / "one")
    assert (again.prompts, again.images) == (merged.prompts, 0)
    assert list(verify(home / "all")) == list(verify(home / "one"))

    run(prompts, home / "all")
    assert spent(home / "all") == spent(home / "one")


def test_every_prompt_is_in_one_shard_and_stays_there(tmp_path: Path) -> None:
    prompts = [Prompt(f"a fox {n % 50}", seed=n % 3) for n in range(200)]
    parts = [Shard(number, 3).of(prompts) for number in (1, 2, 3)]
    positions = [position for part in parts for position in part.input_positions or ()]
    assert sorted(positions) == list(range(200))
    for part in parts:
        assert [prompts[n] for n in part.input_positions or ()] == list(part)
        assert len(part) == len(list(part)) > 30
    without = [each for part in parts[:1] for each in part if each.text != "a fox 7"]
    assert list(Shard(1, 3).of([p for p in prompts if p.text != "a fox 7"])) == without


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "1/0", "a/b", "1/2/3", "-1/2"])
def test_what_names_no_shard_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not like 1/2, the first of two shards"):
        Shard.parse(text)
    assert Shard.parse(" 2 / 3 ") == Shard(2, 3)


def test_takes_picks_choices_and_pins_come_along(tmp_path: Path) -> None:
    a, b, c = fill(tmp_path / "a", ["fox", "owl"]), fill(tmp_path / "b", ["elk"]), tmp_path / "c"
    add_take(a, 0, picture(7), pick=True)
    first, second, owl = [row["file"] for row in export(a, all=True)]
    choose(a, {second: Choice("keep", 5, "the best"), owl: Choice("reject")})
    for folder, model in ((a, "flash-1"), (b, "flash-2")):
        with opened(folder) as archive:
            archive.pin({"flash": model})
    assert merge([a, b], c).pins == ["flash"]
    assert pinned(c) == {"flash": "flash-1"}
    assert choices(c) == choices(a)
    made = {row["prompt"]: row for row in export(c)}
    assert (made["fox"]["take"], made["fox"]["takes"], made["fox"]["file"]) == (2, 2, second)
    assert (c / first).read_bytes() == (a / first).read_bytes()

    # What is chosen here since then stays, and what is chosen there since then comes.
    pick_file(c, first)
    choose(c, {owl: Choice("keep")})
    choose(a, {first: Choice(stars=1)})
    assert merge([a, b], c).images == 0
    assert {row["prompt"]: row["take"] for row in export(c)}["fox"] == 1
    assert choices(c)[owl] == Choice("keep")
    assert choices(c)[first] == Choice(stars=1)


def test_a_copied_folder_adds_only_what_it_made_since(tmp_path: Path) -> None:
    a = fill(tmp_path / "a", ["fox", "owl"])
    b = shutil.copytree(a, tmp_path / "b")
    fill(b, ["fox", "owl", "elk"])
    merged = merge([a, b], tmp_path / "c")
    assert (merged.prompts, merged.images, merged.known) == (3, 3, 2)
    assert spent(tmp_path / "c")[1] == 3


def test_what_both_have_paid_for_is_kept_as_takes(tmp_path: Path) -> None:
    a = fill(tmp_path / "a", ["fox"])
    b = fill(tmp_path / "b", ["fox"], lambda number: picture(9))
    merge([a, b], tmp_path / "c")
    (first, second) = export(tmp_path / "c", all=True)
    assert (first["take"], first["picked"], second["take"], second["picked"]) == (1, True, 2, False)
    assert first["sha256"] == next(export(a))["sha256"]
    assert list(verify(tmp_path / "c")) == []


def test_a_merge_into_a_run_s_folder_adds_to_it(tmp_path: Path) -> None:
    c = fill(tmp_path / "c", ["fox", "elk"])
    before = files_in(c)
    merge([fill(tmp_path / "a", ["owl"], lambda number: picture(5))], c)
    assert [(row["index"], row["prompt"]) for row in export(c)] == [
        (0, "fox"),
        (1, "elk"),
        (2, "owl"),
    ]
    assert before.items() <= files_in(c).items()
    results = (c / "results.jsonl").read_text().splitlines()
    assert [json.loads(each)["prompt"] for each in results] == ["fox", "elk", "owl"]


def test_nothing_in_the_way_is_overwritten(tmp_path: Path) -> None:
    a, c = fill(tmp_path / "a", ["fox"]), tmp_path / "c"
    (name,) = files_in(a)
    c.mkdir()
    (c / name).write_bytes(b"mine")
    merge([a], c)
    assert (c / name).read_bytes() == b"mine"
    assert (c / next(export(c))["file"]).read_bytes() == files_in(a)[name]


def test_a_merge_that_was_killed_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, c = fill(tmp_path / "a", ["fox", "owl", "elk"]), tmp_path / "c"
    with monkeypatch.context() as patch:
        patch.setattr("genbatch._store._journal.Transaction.add_image", _killed_at(2))
        with pytest.raises(KeyboardInterrupt):
            merge([a], c)
    assert len(files_in(c)) == 2
    merge([a], c)
    assert files_in(c) == files_in(a)
    assert rows(c) == rows(a)


def _killed_at(number: int) -> Any:
    from genbatch._store._journal import Transaction

    calls, add_image = [0], Transaction.add_image

    def add(*args: Any, **options: Any) -> None:
        calls[0] += 1
        if calls[0] == number:
            raise KeyboardInterrupt
        add_image(*args, **options)

    return add


def test_an_image_that_is_gone_stays_paid_for(tmp_path: Path) -> None:
    a, c = fill(tmp_path / "a", ["fox"]), tmp_path / "c"
    for name in files_in(a):
        (a / name).unlink()
    merge([a], c)
    assert spent(c) == spent(a)
    assert [problem.rpartition(" ")[2] for problem in verify(c)] == ["missing"]


@pytest.mark.parametrize("which", ["source", "target"])
def test_a_folder_in_use_is_refused(tmp_path: Path, which: str) -> None:
    a, c = fill(tmp_path / "a", ["fox"]), fill(tmp_path / "c", ["owl"])
    with opened(a if which == "source" else c):
        with pytest.raises(StoreError, match=rf"{'a' if which == 'source' else 'c'} is in use by"):
            merge([a], c)
    assert status(c).total == 1


def test_what_cannot_be_merged_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    a, c = fill(tmp_path / "a", ["fox"]), tmp_path / "c"
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match="empty has no journal"):
        merge([a, tmp_path / "empty"], c)
    with pytest.raises(ValueError, match="is named twice"):
        merge([a, tmp_path / "b" / ".." / "a"], c)
    with pytest.raises(ValueError, match="is named twice"):
        merge([a], a)
    assert not c.exists()
    assert not (tmp_path / "empty" / HIDDEN / JOURNAL).exists()


def test_fetched_input_images_and_answers_come_along(tmp_path: Path) -> None:
    for number, name in enumerate(("a", "b")):
        inputs = tmp_path / name / HIDDEN / "inputs"
        inputs.mkdir(parents=True)
        (inputs / name).write_bytes(picture(number))
        (inputs / "cut.part").write_bytes(b"cut off")
        answers = {"/prompts.csv": {name: -1, "both": number}}
        (inputs.parent / "answers.json").write_text(json.dumps(answers))
        run([Prompt(f"fox {name}", images=[inputs / name])], tmp_path / name)
    for _ in range(2):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "all")
    kept = tmp_path / "all" / HIDDEN
    assert {each.name: each.read_bytes() for each in (kept / "inputs").iterdir()} == {
        "a": picture(0),
        "b": picture(1),
    }
    assert json.loads((kept / "answers.json").read_text()) == {
        "/prompts.csv": {"a": -1, "b": -1, "both": 0}
    }
    for name in ("a", "b"):
        shutil.rmtree(tmp_path / name)
    images = [image for row in export(tmp_path / "all") for image in row["asked"]["images"]]
    assert images == [str(kept / "inputs" / name) for name in ("a", "b")]
    before = spent(tmp_path / "all")
    run([Prompt(f"fox {each}", images=[kept / "inputs" / each]) for each in "ab"], tmp_path / "all")
    assert spent(tmp_path / "all") == before
