"""The doubts about an input as one question, and the answers, which are kept in the folder.

1. Nothing is paid while there is a doubt: where nobody can be asked, it ends the command.
2. An answer holds for one kind of lines, or one column, of one file. One that pays for such lines
   holds for no more of them than there were.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import typer

from genbatch import StoreError
from genbatch._bucket import local_folder
from genbatch._store import ANSWERS, HIDDEN, make_directory, make_private, replace_file
from genbatch.inputs import LINES, Doubt, Doubts, InputError, Reading, bare

from ._console import QuietConsole, count, plain
from ._options import Options
from ._run import Prompts

_OF_ROWS = ("skip", "map")  # options that are about rows of one file; others are about all
_HOW = "the options named, or take everything as it is with --literal all"

# Reads with options, and the kinds and columns of each file that were to be mended.
Read: TypeAlias = Callable[[Options, Mapping[str, Collection[str]], Doubts], Prompts]


class Answers:
    """What was answered for a folder.

    Args:
        folder: The output folder, which need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / HIDDEN / ANSWERS
        self._by_file: dict[str, dict[str, int]] = {}
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
            self._by_file = {
                str(file): {str(kind): int(most) for kind, most in kinds.items()}
                for file, kinds in found.items()
            }
        except (OSError, ValueError, TypeError, AttributeError):
            pass  # none yet, or damaged: asked again

    def mended(self) -> dict[str, list[str]]:
        """Return the kinds of lines, and the columns, to be mended, by both paths of each file."""
        mended: dict[str, list[str]] = {}
        for path, kinds in self._by_file.items():
            mended[path] = [kind for kind, most in kinds.items() if most < 0]
            with suppress(ValueError):  # on another drive, where that can be
                mended[os.path.relpath(path)] = mended[path]
        return mended

    def is_paid(self, doubt: Doubt) -> bool:
        """Return whether so many rows of this kind were to be paid for as they are."""
        return self._by_file.get(_key(doubt.file), {}).get(doubt.kind, 0) >= doubt.count

    def keep(self, mended: Sequence[Doubt], paid: Sequence[Doubt]) -> None:
        """Remember which doubts are to be mended, and which paid for as they are.

        Raises:
            StoreError: If the folder cannot be written to.
        """
        for each in (*mended, *paid):
            most = -1 if each in mended else each.count
            self._by_file.setdefault(_key(each.file), {})[each.kind] = most
        try:
            make_directory(self._folder)
            make_private(self._path.parent)
        except OSError as error:
            raise StoreError(f"cannot write to {self._folder}: {error.strerror}") from error
        replace_file(self._path, iter([json.dumps(self._by_file, indent=1)]))


def _key(file: str) -> str:
    return os.path.abspath(file)


def settle(
    read: Read, options: Options, files: Sequence[str], *, can_ask: bool
) -> tuple[Prompts, Options, Doubts] | None:
    """Read inputs until nothing in them is doubtful, by asking; None if the user quits.

    Args:
        read: Reads them.
        options: Of the run.
        files: The names of the inputs.
        can_ask: Whether somebody can answer.

    Returns:
        What was read, the options that it was read with, and what was understood. The doubts of a
        dry run, or of a demo, are only told.

    Raises:
        ValueError: If there is a doubt and nobody can be asked, or --map names no column.
    """
    answers = Answers(local_folder(options.output))
    options = _as_answered(options, answers, files)
    while True:
        mended = {f: [*filter(_is_of_rows, kinds)] for f, kinds in answers.mended().items()}
        doubts = Doubts(strict="-" in files and not (options.dry_run or options.demo))
        prompts = read(options, mended, doubts)
        if "-" not in files:
            _check_map(options.reading, doubts)
        open_ones = [each for each in doubts if not answers.is_paid(each)]
        if options.demo and not (options.dry_run or options.quiet):
            for each in open_ones:
                QuietConsole(stderr=True).say(plain(f"Doubt: {each.text}", 600))
        if not open_ones or options.dry_run or options.demo:
            return prompts, options, doubts
        mendable = [each for each in open_ones if _can_mend(each, options, files)]
        is_mended = _answer(open_ones, mendable, can_ask=can_ask)
        if is_mended is None:
            return None
        if not is_mended:
            answers.keep([], open_ones)
            return prompts, options, doubts
        _check_files(mendable, files)
        answers.keep(mendable, [each for each in open_ones if each not in mendable])
        options = _as_answered(options, answers, files)


def _answer(doubts: Sequence[Doubt], mendable: Sequence[Doubt], *, can_ask: bool) -> bool | None:
    """Return whether to mend what is doubtful, or to pay for it as it is; None to quit."""
    out = QuietConsole(stderr=True)
    for each in doubts:
        out.say(plain(each.text, 600))
    if not can_ask:
        what = count(len(doubts), "doubt")
        raise ValueError(f"{what} about the input: nothing was paid; say what you mean by {_HOW}")
    actions = _actions(mendable)
    if actions:
        out.say(("s", "bold"), f"  {plain(actions, 600)}")
    out.say(("p", "bold"), "  pay for all of it as it is (--literal all)")
    out.say(("q", "bold"), "  quit")
    while True:
        answer = typer.prompt("s, p or q?" if actions else "p or q?", prompt_suffix=" ", err=True)
        match str(answer).strip().lower()[:1]:
            case "s" if actions:
                return True
            case "p":
                return False
            case "q":
                return None


def _actions(mendable: Sequence[Doubt]) -> str:
    """Return what mending the doubts would do, empty if nothing can be mended."""
    by_option: dict[str, dict[str, None]] = defaultdict(dict)
    for name, value in (each.option for each in mendable if each.option):
        by_option[name][f"--{name} {value}".strip()] = None
    words = {"skip": "skip those lines", "map": "use those columns"}
    return ", ".join(f"{words.get(n, 'read it so')} ({' '.join(o)})" for n, o in by_option.items())


def _is_of_rows(kind: str) -> bool:
    """Return whether what mends a doubt concerns its rows alone."""
    known = LINES.get(kind)
    return known is None or known.option is None or known.option[0] in _OF_ROWS


def _can_mend(doubt: Doubt, options: Options, files: Sequence[str]) -> bool:
    if doubt.option is None or doubt.option[0] in _OF_ROWS:
        return doubt.option is not None
    return [*files] == [doubt.file] and hasattr(options, doubt.option[0])


def _as_answered(options: Options, answers: Answers, files: Sequence[str]) -> Options:
    """Return options that read a file as was answered, where that is not about rows alone."""
    for kind in answers.mended().get(_key(files[0]), ()) if len(files) == 1 else ():
        if not _is_of_rows(kind):
            name, value = LINES[kind].option or ("", "")
            given: Any = True if name == "expand" else value
            options = replace(options, **{name: given})
    return options


def _check_map(reading: Reading, doubts: Doubts) -> None:
    """Refuse a --map of a column that no input has."""
    found = {bare(name) for name in doubts.columns}
    for name in sorted(reading.columns.keys() - found):
        columns = ", ".join(map(plain, doubts.columns)) or "none"
        raise InputError(f"--map: no column named {name}; the columns are: {columns}")


def _check_files(doubts: Sequence[Doubt], files: Sequence[str]) -> None:
    """Refuse to read a pipe again, which has given what it had."""
    for file in files:
        if not (Path(file).is_file() or Path(file).is_dir()):
            typed = {" ".join((f"--{d.option[0]}", d.option[1])) for d in doubts if d.option}
            raise InputError(f"{file} can be read only once: repeat with {' '.join(sorted(typed))}")
