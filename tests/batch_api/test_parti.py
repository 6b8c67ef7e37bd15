"""The PartiPrompts by jobs: shuffled results, errors among them, a job that fails, one expires."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import anyio
import pytest

from genbatch import batch_api
from genbatch.testing import Call, FakeGemini, Fault, Job, JobFault
from support.backends import only_trio
from support.batch_runs import jobs_in, kinds, run, spent_in, submitted
from support.commands import PARTI

pytestmark = [
    pytest.mark.slow,
    pytest.mark.anyio,
    pytest.mark.skipif(not PARTI.exists(), reason="PartiPrompts.tsv is not here"),
]


def job_fault(job: Job) -> JobFault:
    if job.number == 2:
        return JobFault(state="FAILED")
    return JobFault(state="EXPIRED" if job.number == 3 else "SUCCEEDED", after=None, shuffle=True)


@only_trio  # benchmarks/crash.py has jobs on both, and killed
async def test_the_parti_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_api._queue, "_LINGER", 60)
    text = await anyio.Path(PARTI).read_text(encoding="utf-8")
    rows_of_file = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t")
    wanted = [row["Prompt"] for row in rows_of_file]
    rows = 0

    def fault(call: Call) -> Fault | None:
        nonlocal rows
        rows += 1
        return Fault(status=503) if rows % 33 == 0 else None

    async with FakeGemini(image_size=4, faults=fault, job_faults=job_fault) as fake:
        outcomes = await run(fake, tmp_path, wanted, job_size=204)
        assert [outcome.index for outcome in outcomes] == list(range(1632))
        ended = sorted(job.state for job in await jobs_in(tmp_path))
        assert ended == ["EXPIRED", "FAILED", *["SUCCEEDED"] * 6]
        failed = 2 * 204 + (1632 - 2 * 204) // 33
        assert kinds(outcomes) == {"image": 1632 - failed, "Unavailable": failed}
        again = await run(fake, tmp_path, wanted, job_size=failed)
        assert len(submitted(fake)) == 1632
        assert kinds(again)["image"] == fake.stats.images
        spent = await spent_in(tmp_path)
        assert (spent.images, spent.maybe_images) == (fake.stats.images, 0)
