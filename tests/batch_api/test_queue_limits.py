"""A queue that is slow or has no room: late results, limits of tokens, shared input images."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio.lowlevel
import pytest

from genbatch import Prompt
from genbatch.batch_api import _job, _queue, _references
from genbatch.testing import ControlCall, FakeGemini, Fault, Job, JobFault, rate_limited
from support.batch_runs import (
    check_whole,
    errors,
    images,
    jobs_in,
    kinds,
    prompts,
    run,
    spent_in,
    submitted,
)

pytestmark = pytest.mark.anyio

REFERENCE = b"\x89PNG\r\n\x1a\n" + bytes(20_000)
SHORT = "2 waits"


@pytest.fixture
def polled(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that were to be waited between two looks at a job; nothing waits."""
    seconds: list[float] = []

    async def sleep(pause: float) -> None:
        seconds.append(pause)
        await anyio.lowlevel.checkpoint()

    monkeypatch.setattr(_job, "sleep", sleep)
    return seconds


class Uploads:
    """The files that a service has been given, and how often each thing was asked of it."""

    def __init__(self, fault: Callable[[ControlCall], Fault | None] = lambda call: None) -> None:
        self.files: list[dict[str, Any]] = []
        self.actions: list[str] = []
        self._fault = fault

    def __call__(self, call: ControlCall) -> Fault | None:
        self.actions.append(call.action)
        return self._fault(call) or (Fault(edit=self._note) if call.action == "upload" else None)

    def _note(self, answer: Any) -> Any:
        self.files += filter(None, [answer.get("file")])
        return answer

    @property
    def images(self) -> list[str]:
        return [file["name"] for file in self.files if file["mimeType"].startswith("image/")]


async def test_shared_reference_late_results_and_a_limit_of_tokens_together(
    tmp_path: Path,
) -> None:
    """2,000 rows with one image of 1 MB through a queue that holds 400,000 tokens."""
    reference = REFERENCE + bytes(2**20)
    asked = [Prompt(text, images=(reference,)) for text in prompts(2000)]
    uploads = Uploads()
    async with FakeGemini(
        image_size=4,
        job_tokens=400_000,
        job_faults=lambda job: JobFault(late_output=3),
        control_faults=uploads,
    ) as fake:
        assert kinds(await run(fake, tmp_path, asked)) == {"image": 2000}
        await check_whole(fake, tmp_path, 2000)
        assert {name for job in fake.jobs for name in job.files} == {uploads.images[0]}
        assert len(uploads.images) == 1
        assert fake.stats.calls == 0
        # Refusals were waited out, not repeated for each row.
        assert fake.stats.jobs < 20
