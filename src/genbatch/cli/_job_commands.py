"""The command that is about jobs: what a folder has in the batch queue, and ending it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

from genbatch import GeminiClient, batch_api
from genbatch.batch_api import Job

from . import _options as options
from ._console import QuietConsole, count, plain
from ._launch import client_of, run

Cancel = Annotated[
    list[str] | None,
    options.option(None, metavar="NAME", help="End this job; may be given again."),
]
CancelAll = Annotated[bool, options.flag(None, "--cancel-all", help="End all jobs that go on.")]
AsJson = Annotated[bool, options.flag(None, "--json", help="A line of JSON for each job.")]


def jobs_command(
    folder: options.Folder,
    cancel: Cancel = None,
    cancel_all: CancelAll = False,
    as_json: AsJson = False,
    base_url: options.BaseUrl = None,
    backend: options.Backend = "asyncio",
    debug: options.Debug = False,
) -> int:
    """List the jobs of run --via batch, as they were last seen, or end some.

    What a job has made before its end is paid, and collected by the same run command.

    Examples:

    - `genbatch jobs out`
    - `genbatch jobs out --cancel batches/x1`
    - `genbatch jobs out --cancel-all`
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder")
    out = QuietConsole()
    if cancel or cancel_all:
        names = None if cancel_all else cancel
        asked = run(partial(_cancel, client_of(base_url), folder, names), backend)
        for job in asked:
            out.say(f"{job.name} is asked to end: run again to collect what it has made")
        if not asked:
            out.say("No job goes on.")
        return 0
    for job in batch_api.jobs(folder):
        out.data(json.dumps(asdict(job), default=str)) if as_json else out.say(plain(_line(job)))
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
