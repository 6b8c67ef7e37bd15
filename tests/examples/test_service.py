"""The service: batches share its capacity, and a signal ends it in order."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from genbatch.testing import FakeGemini, Fault
from support.gates import Gate
from support.programs import EXAMPLES, program, read_until
from support.waiting import until

pytestmark = pytest.mark.slow

BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])
RUN = "import anyio, service; anyio.run(service.main, backend={!r})"


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    """A folder with two files of 20 prompts."""
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    for name in ("foxes", "owls"):
        prompts = [f"{name}, number {number}\n" for number in range(20)]
        (inbox / f"{name}.txt").write_text("\n".join(prompts))
    return inbox


@BACKENDS
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_images_in_flight_be_saved_and_a_restart_makes_the_rest(
    inbox: Path, backend: str, number: signal.Signals
) -> None:
    gate = Gate()
    with FakeGemini(image_size=8, faults=gate) as fake:
        to_fake = {"GEMINI_API_KEY": "a-key", "GOOGLE_GEMINI_BASE_URL": fake.url}
        with program(inbox.parent, "-c", RUN.format(backend), **to_fake) as service:
            until(lambda: fake.stats.in_flight == 8)
            service.send_signal(number)
            read_until(service, "Stopping")
            gate.open()
            assert service.wait(60) == 0
        assert (fake.stats.calls, fake.stats.images, fake.stats.peak) == (8, 8, 8)
        assert len(list((inbox.parent / "images").glob("*.png"))) == 8
        with program(inbox.parent, "-c", RUN.format(backend), **to_fake) as service:
            until(lambda: {path.name for path in inbox.iterdir()} == {"foxes.done", "owls.done"})
            service.send_signal(number)
            assert service.wait(60) == 0
        assert fake.stats.images == 40
        assert fake.stats.peak == 8
    assert len(list((inbox.parent / "images").glob("*.png"))) == 40


def test_a_file_with_a_prompt_that_fails_stays(inbox: Path) -> None:
    (inbox / "owls.txt").unlink()
    faults = [None, None, Fault(status=400)]
    with FakeGemini(image_size=8, faults=faults) as fake:
        to_fake = {"GEMINI_API_KEY": "a-key", "GOOGLE_GEMINI_BASE_URL": fake.url}
        with program(inbox.parent, str(EXAMPLES / "service.py"), **to_fake) as service:
            read_until(service, "19 of 20 images")
            service.send_signal(signal.SIGTERM)
            assert service.wait(60) == 0
    assert [path.name for path in inbox.iterdir()] == ["foxes.txt"]
