"""Notebooks: what objects look like there, and cells in a real kernel, interrupted too."""

from __future__ import annotations

import base64
import math
import queue
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from jupyter_client.manager import KernelManager

from genbatch import Image, Progress, SavedImage
from genbatch.testing import Call, FakeGemini, Fault, blocked
from support.backends import until

pytestmark = pytest.mark.slow

DOCUMENTATION = (Path(__file__).parents[1] / "docs" / "notebooks.md").read_text(encoding="utf-8")
CELLS = re.findall(r"```python\n(.*?)```", DOCUMENTATION, re.DOTALL)
PATIENCE = 60.0  # seconds

IMAGES = {
    "image/png": b"\x89PNG\r\n\x1a\n...",
    "image/jpeg": b"\xff\xd8\xff...",
    "image/webp": b"RIFF1234WEBP...",
    "image/gif": b"GIF89a...",
}


@pytest.mark.parametrize("mime_type", IMAGES)
def test_an_image_is_shown_as_what_it_is(mime_type: str, tmp_path: Path) -> None:
    data = IMAGES[mime_type]
    path = tmp_path / "image"
    path.write_bytes(data)
    shown = {mime_type: base64.b64encode(data).decode()}
    assert Image(data, mime_type, "m")._repr_mimebundle_(include=None, exclude=None) == shown
    assert SavedImage(path, mime_type, 0.0, "")._repr_mimebundle_() == shown


def test_a_saved_image_whose_file_is_gone_is_told_in_words(tmp_path: Path) -> None:
    assert SavedImage(tmp_path / "gone.png", "image/png", 0.0, "")._repr_mimebundle_() == {}


class Parts(HTMLParser):
    """The tags of a piece of HTML with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize(("done", "value"), [(0, "0.0"), (3, "60.0"), (5, "100.0")])
def test_progress_is_a_bar_and_the_same_words(done: int, value: str) -> None:
    progress = Progress(5, 5, 0, done, 1, done, 6.0, waiting=1)
    parts = Parts(progress._repr_html_())
    assert parts.tags == [("progress", {"max": "100", "value": value})]
    assert parts.text.strip() == str(progress)


def test_progress_of_an_unknown_total_is_words_alone() -> None:
    progress = Progress(None, 5, 2, 3, 0, 3, 6.0)
    assert progress._repr_html_() == str(progress) == "3 done"


# In a kernel


class Notebook:
    """A kernel in a process of its own, and the client through which Jupyter talks to it."""

    def __init__(self, directory: Path, url: str) -> None:
        self.outputs: list[dict[str, Any]] = []
        self._kernel = KernelManager()
        self._kernel.start_kernel(
            cwd=str(directory),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._client = self._kernel.client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=PATIENCE)
        self.run(f"%env GEMINI_API_KEY=a-key\n%env GOOGLE_GEMINI_BASE_URL={url}")

    def run(self, cell: str) -> None:
        """Run a cell, which must succeed, and keep its outputs."""
        self.outputs.clear()
        reply = self._client.execute_interactive(
            cell, output_hook=self._keep, timeout=PATIENCE, allow_stdin=False
        )
        assert reply["content"]["status"] == "ok", reply["content"]

    def start(self, cell: str) -> str:
        """Begin to run a cell, and return what interrupt takes."""
        identity: str = self._client.execute(cell, allow_stdin=False, stop_on_error=False)
        return identity

    def interrupt(self, cell: str) -> str:
        """Interrupt a cell that was started, and return the name of the error that it ends with."""
        self._kernel.interrupt_kernel()
        while True:
            # ipykernel looks at the interrupt when the next event comes: let one come.
            self._client.kernel_info()
            try:
                reply = self._client.get_shell_msg(timeout=PATIENCE)
            except queue.Empty:
                raise AssertionError("the cell was not interrupted") from None
            if reply["parent_header"]["msg_id"] == cell:
                return str(reply["content"]["ename"])

    def shown(self, mime_type: str = "text/plain") -> list[str]:
        """Return what the last cell has displayed of a type, updates of it included."""
        data = [output["data"] for output in self.outputs if "data" in output]
        return [each[mime_type] for each in data if mime_type in each]

    @property
    def printed(self) -> str:
        """What the last cell has printed."""
        return "".join(output.get("text", "") for output in self.outputs)

    def close(self) -> None:
        self._client.stop_channels()
        self._kernel.shutdown_kernel(now=True)

    def _keep(self, message: dict[str, Any]) -> None:
        self.outputs.append(message["content"])


@pytest.fixture
def portal() -> Iterator[BlockingPortal]:
    with start_blocking_portal() as portal:
        yield portal


@pytest.fixture
def notebook(
    portal: BlockingPortal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., tuple[Notebook, FakeGemini]]]:
    """Return what starts a kernel in tmp_path beside a server of its own."""
    for name in ("RUNTIME", "DATA", "CONFIG"):
        monkeypatch.setenv(f"JUPYTER_{name}_DIR", str(tmp_path / ".jupyter"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / ".ipython"))

    with ExitStack() as stack:

        def start(**options: Any) -> tuple[Notebook, FakeGemini]:
            server = FakeGemini(image_size=32, **options)
            stack.enter_context(portal.wrap_async_context_manager(server))
            kernel = Notebook(tmp_path, server.url)
            stack.callback(kernel.close)
            return kernel, server

        yield start


def test_the_cells_of_the_documentation_run(
    notebook: Callable[..., tuple[Notebook, FakeGemini]], tmp_path: Path
) -> None:
    kernel, server = notebook()
    assert len(CELLS) == 4
    kernel.run(CELLS[0])
    (shown,) = kernel.shown("image/png")
    assert base64.b64decode(shown).startswith(b"\x89PNG")
    kernel.run(CELLS[1])
    bars = kernel.shown("text/html")
    assert "0/3 done" in bars[0]
    assert "3/3 done, 100 %" in bars[-1]
    assert kernel.printed == ""
    kernel.run(CELLS[2])
    kernel.run(CELLS[3])
    assert server.stats.images == 3 + 3 + len(list((tmp_path / "more").glob("*.png")))


def test_outcomes_are_readable(notebook: Callable[..., tuple[Notebook, FakeGemini]]) -> None:
    kernel, _ = notebook(faults=[None, blocked("SAFETY")])
    kernel.run("""
import genbatch
async with genbatch.GeminiClient() as client:
    outcomes = await genbatch.collect(client.generate_image, ["a cup", "a mug"], max_concurrent=1)
outcomes
""")
    (shown,) = kernel.shown()
    assert "Success(index=0, prompt='a cup', value=Image(mime_type='image/png'" in shown
    assert "Failure(index=1, prompt='a mug', error=Blocked('gemini-nano-banana-2.1 blo" in shown
    assert len(shown) < 1000


BATCH = """
import genbatch
budget = genbatch.Budget()
async with (
    genbatch.GeminiClient() as client,
    genbatch.generate_images(
        client, [f"cup {i}" for i in range(12)], save_dir="out", budget=budget
    ) as outcomes,
):
    async for outcome in outcomes:
        print(outcome.index, outcome.unwrap().resumed)
"""


def test_an_interrupted_cell_starts_nothing_more_loses_nothing_and_resumes(
    notebook: Callable[..., tuple[Notebook, FakeGemini]], portal: BlockingPortal, tmp_path: Path
) -> None:
    hanging = True

    def fault(call: Call) -> Fault | None:
        return Fault(delay=math.inf) if hanging and int(call.prompt.split()[1]) >= 6 else None

    kernel, server = notebook(faults=fault)
    cell = kernel.start(BATCH)
    # Six images have come, and five calls go on: no others.
    portal.call(until, lambda: server.stats.calls == 11)
    assert kernel.interrupt(cell) == "CancelledError"
    portal.call(until, lambda: not server.stats.in_flight)
    assert len(list((tmp_path / "out").glob("*.png"))) == server.stats.images == 6
    kernel.run("import asyncio; await asyncio.sleep(0); print(budget.images, budget.maybe_images)")
    assert kernel.printed == "6 5\n"
    assert server.stats.calls == 11
    hanging = False
    kernel.run(BATCH)
    lines = sorted(kernel.printed.splitlines(), key=lambda line: int(line.split()[0]))
    assert lines == [f"{index} {index < 6}" for index in range(12)]
    assert server.stats.images == 12
