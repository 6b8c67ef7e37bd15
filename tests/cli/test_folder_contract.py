"""The reader of docs/folder.md reads what runs have written."""

from __future__ import annotations

from pathlib import Path

from genbatch.testing import blocked
from support.commands import Genbatch, Serve, write_prompts
from support.pages import DOCS, blocks_of


def test_the_reader_agrees_with_a_run(genbatch: Genbatch, serve: Serve, tmp_path: Path) -> None:
    (block,) = (each for each in blocks_of(DOCS / "folder.md") if each.file == "read_folder.py")
    names: dict[str, object] = {}
    exec(block.text, names)
    serve(faults=[None, blocked(), None, None])
    write_prompts(4)
    assert genbatch("run", "prompts.txt", "-k", "1", "-o", "out").returncode == 1
    first, second, _ = sorted(Path("out").glob("*.png"))
    first.unlink()
    second.write_bytes(b"other")
    rows = list(names["read"](Path("out")))  # type: ignore[operator]
    assert [number for number, _, _ in rows] == [0, 1, 2, 3]
    assert rows[0][1] == "a fox, number 0"
    states = [state.partition(",")[0] for _, _, state in rows]
    assert states == ["missing", "Blocked", "changed", "done"]
    assert len(block.text.splitlines()) <= 36
