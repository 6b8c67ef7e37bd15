"""The commands about a folder of images: status, verify, gallery, pick and jobs.

All but gallery, pick and jobs --cancel only read, and all work while a run is in progress.
"""

from __future__ import annotations

import json
import webbrowser
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from genbatch import GeminiClient, Store, batch_api
from genbatch._bucket import bucket_path, bucket_problems, bucket_status
from genbatch._store import Status, status, verify
from genbatch.batch_api import Job

from ._console import QuietConsole, count, plain
from ._merge import copied_here
from ._options import (
    DEMO,
    OUT,
    FolderOrFirst,
    OfDemo,
    Options,
    OutputFolder,
    command,
    default_folder,
    option,
    refuse_bucket,
)
from ._result import by_run, read_progress
from ._run import check_folder, client_of, run

_MOST_PROBLEMS = 10  # lines

Index = Annotated[
    int,
    typer.Argument(
        min=0, metavar="PROMPT", help="Prompt number as shown by export.", show_default=False
    ),
]
Take = Annotated[
    int | None,
    typer.Argument(min=1, metavar="TAKE", help="Take number, starting at 1.", show_default=False),
]
AsObject = Annotated[bool, option(None, "Print the status as one JSON object.", "", "--json")]
Everything = Annotated[bool, option(None, "Include all takes and removed prompts.", "", "--all")]
Open = Annotated[bool, option(None, "Open the page in a browser.", "", "--open")]
Cancel = Annotated[list[str] | None, option(None, "Cancel this job; repeatable.", "NAME")]
CancelAll = Annotated[bool, option(None, "Cancel all running jobs.")]
AsLines = Annotated[bool, option(None, "Print one JSON line per job.", "", "--json")]


@command()
def status_command(folder: OutputFolder = OUT, as_json: AsObject = False) -> int:
    """Show the progress and cost of an output folder.

    Examples:

    - `genbatch status`
    - `genbatch status out --json`
    """
    bucket = bucket_path(folder)
    found = status(folder) if bucket is None else bucket_status(str(bucket))
    out = QuietConsole()
    if as_json:
        runner = found.runner and found.runner._asdict()
        runs = [run._asdict() for run in found.runs]
        row = {
            **asdict(found),
            "total": found.total,
            "spent": found.spent._asdict(),
            "runs": runs,
            "runner": runner,
            "cost": _by_kind(found),
            **read_progress(folder),
        }
        del row["damaged_usd"]
        out.data(json.dumps(row))
        return 0
    for line in _lines(found):
        out.say(plain(line))
    return 0


def _by_kind(found: Status) -> dict[str, float]:
    return {
        "images": found.spent.usd - found.damaged_usd,
        "damaged": found.damaged_usd,
        "maybe": found.spent.maybe_usd - found.in_jobs_usd,
        "in_jobs": found.in_jobs_usd,
    }


def _lines(found: Status) -> Iterator[str]:
    yield f"{found.done:,} of {found.total:,} done, ${found.spent.usd:.2f}"
    if len(paid := [run for run in found.runs if run.usd]) > 1:
        yield f"by run: {by_run(paid)}"
    for name, kinds in (("failed", found.failed), ("will be tried again", found.transient)):
        if kinds:
            each = ", ".join(f"{number:,} {kind}" for kind, number in sorted(kinds.items()))
            yield f"{sum(kinds.values()):,} {name}: {each}"
    if found.to_do:
        yield f"{found.to_do:,} to do"
    if found.in_jobs:
        price = f"${found.in_jobs_usd:.2f}"
        yield f"{found.in_jobs:,} in jobs, {price}: run again with --via batch to collect them"
    if calls := found.spent.maybe_images - found.in_jobs:
        dollars = found.spent.maybe_usd - found.in_jobs_usd
        yield f"{count(calls, 'call')} without an image may have been billed, ${dollars:.2f}"
    if found.runner is not None:
        yield f"a run is in progress: {found.runner}"


@command()
def verify_command(folder: OutputFolder = OUT) -> int:
    """Check every image against the checksum recorded when it was saved.

    Examples:

    - `genbatch verify out`
    """
    out, problems = QuietConsole(), 0
    bucket = bucket_path(folder)
    for problem in verify(folder) if bucket is None else bucket_problems(str(bucket)):
        problems += 1
        out.say(plain(problem))
    if not problems:
        out.say("all is well")
    return 1 if problems else 0


@command()
def gallery_command(folder: OutputFolder = OUT, opened: Open = False) -> int:
    """Write an HTML page for viewing, searching and comparing the images.

    The page is index.html in the folder itself and works offline.

    Examples:

    - `genbatch gallery out --open`
    - `genbatch gallery s3://bucket/foxes`
    """
    path = _write_gallery(copied_here(folder))
    if opened and not webbrowser.open(path.absolute().as_uri()):
        QuietConsole(stderr=True).say("No browser was found: open the page yourself.")
    return 0


def add_gallery(folder: Path) -> None:
    """Write the gallery of a folder after a run; an error is only reported: the run is done."""
    try:
        _write_gallery(folder)
    # Whatever it is, the run has made its images, and its exit code stays.
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001
        why = "interrupted" if isinstance(error, KeyboardInterrupt) else plain(error, 1000)
        QuietConsole(stderr=True).error(f"the gallery was not written: {why}")


def _write_gallery(folder: Path) -> Path:
    try:
        # Not at the top: the other commands do without Pillow and the time it takes to load.
        from genbatch.gallery import write
    except ModuleNotFoundError as error:
        raise ValueError(str(error)) from error
    notes = QuietConsole(stderr=True)
    with notes.status("Making thumbnails") as line:
        written = write(folder, lambda n, of: line.update(f"Making thumbnails: {n:,} of {of:,}"))
    parts = [f"{written.counts[name]:,} {name}" for name in ("done", "failed", "to do")]
    QuietConsole().say(f"{plain(written.path)}: {', '.join(parts)}")
    for problem in written.problems[:_MOST_PROBLEMS]:
        notes.say(plain(problem))
    if (more := len(written.problems) - _MOST_PROBLEMS) > 0:
        notes.say(f"and {more:,} more images that cannot be shown")
    return written.path


@command()
def pick_command(
    first: FolderOrFirst, prompt: Index, take: Take = None, demo: OfDemo = False
) -> int:
    """Choose which take of a prompt export and gallery show.

    Examples:

    - `genbatch pick out 17 2`
    - `genbatch pick 17 2`
    """
    folder = Path(first)
    if take is None:
        if not first.isdecimal() or prompt < 1:
            raise ValueError("give a prompt and a take: genbatch pick [DIR] PROMPT TAKE")
        folder, prompt, take = default_folder(), int(first), prompt
    namespace = DEMO if demo else ""
    refuse_bucket(folder, "pick")
    check_folder(folder, namespace)
    run(partial(_pick, folder, prompt, take, namespace), "asyncio")
    QuietConsole().say(f"prompt {prompt} of {plain(folder)} now shows take {take}")
    return 0


async def _pick(folder: Path, index: int, take: int, namespace: str) -> None:
    async with Store(folder) as store:
        await store.pick(index, take, namespace)


@command("base_url", "backend")
def jobs_command(
    *,
    folder: OutputFolder = OUT,
    cancel: Cancel = None,
    cancel_all: CancelAll = False,
    as_json: AsLines = False,
    options: Options,
) -> int:
    """List the jobs of run --via batch in their last known state, or cancel them.

    Images made before a job was cancelled are billed; repeat the run command to collect them.

    Examples:

    - `genbatch jobs out`
    - `genbatch jobs out --cancel batches/x1`
    - `genbatch jobs out --cancel-all`
    """
    refuse_bucket(folder, "jobs")
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    out = QuietConsole()
    if cancel or cancel_all:
        client, names = client_of(options.base_url), None if cancel_all else cancel
        cancelled = run(partial(_cancel, client, folder, names), options.backend)
        for job in cancelled:
            out.say(f"cancelling {job.name}: run again to collect what it has made")
        if not cancelled:
            out.say("No job is running.")
        return 0
    found = batch_api.jobs(folder)
    for job in found:
        out.data(json.dumps(asdict(job), default=str)) if as_json else out.say(plain(_line(job)))
    if not found and not as_json:
        notes = QuietConsole(stderr=True)
        notes.say(f"No jobs in {plain(folder)}: run --via batch makes them.")
    return 0


async def _cancel(client: GeminiClient, folder: Path, names: Sequence[str] | None) -> list[Job]:
    async with client:
        return await batch_api.cancel(client, folder, names)


def _line(job: Job) -> str:
    began = job.began.astimezone()
    parts = [f"{job.name or job.label} {job.state.lower().replace('_', ' ')}"]
    parts.append(f"{count(job.requests, 'prompt')} for {job.model}, {job.open} open")
    parts.append(f"since {began:%Y-%m-%d %H:%M}")
    return " · ".join(parts if job.ended is None else parts[:-1])
