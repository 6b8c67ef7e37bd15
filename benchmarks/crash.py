"""The crash harness: folders whose runs are killed at random moments until they are done.

Run ``python -m benchmarks.crash --kills 300``. Each folder gets 60 images, 8 at once, under asyncio
and trio in turn, from a FakeGemini in this process that keeps a ledger of its own. Some folders are
made by the library, others by the command line: live, by batch jobs, or by both in turn, with a
redo, gallery or export between. Processes are forked with everything imported, so that kills within
the first 300 ms hit what a run does at its start; some commands start for real. SIGKILL, SIGTERM,
SIGINT, SIGHUP, or SIGSTOP and SIGCONT end or hold them; some answers have two images, and some file
names are such that an image's extras are called like another prompt.

After each kill ``status`` and ``verify`` must work, and the journal must account for all that the
service has billed; after a graceful stop every image that was paid must be there. Counted are
images that were told to be saved and are lost, ones that are there twice, ones under a prompt that
is not theirs, and every other problem.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from base64 import b64decode
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
from tests.support.till import Till
from tests.support.warm import PythonProcess, start_module, usual_streams

from genbatch import GeminiClient, Prompt, Success, batch_api, generate_images
from genbatch.testing import Call, FakeGemini, Fault, Job, JobFault, reset
from genbatch.testing._pictures import draw
from genbatch.testing._wire import inline

ROOT = Path(__file__).parents[1]
WAYS = ("run", "library", "batch", "library-batch", "mixed")
# The extras of the first are called like those that follow, where names are made of words alone.
PROMPTS = ["a fox", *(f"a fox {number}" for number in range(2, 57)), *["a fox"] * 4]
AT_ONCE = 8
LATENCY = 0.12  # seconds of a call
JOB_LATENCY = 0.15
EARLY, LATE = (0.0, 0.3), (0.3, 1.3)  # seconds from a process's begin to its kill
REAL = 0.15  # of the live commands start for real, and import
REFERENCE = b"\x89PNG\r\n\x1a\n" + bytes(20_000)  # for jobs, which upload it
TOKENS = 1_130  # of a prompt with the reference, at least
HOW = [signal.SIGKILL] * 3 + [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGSTOP]
_LOST = [Fault(status=500, late=True), reset(), Fault(truncate=20), Fault(status=503)]
_HEALS = re.compile("is not in the journal yet|is left from a write that was cut off")


@dataclass
class Tally:
    """What has come of all folders so far."""

    kills: int = 0
    early: int = 0
    folders: int = 0
    images: int = 0
    paid: int = 0
    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    problems: int = 0
    how: Counter[str] = field(default_factory=Counter)

    @property
    def clean(self) -> bool:
        """Whether all that is promised held."""
        return not (self.lost or self.doubled or self.wrong or self.problems)

    def __str__(self) -> str:
        how = ", ".join(f"{count} {name}" for name, count in sorted(self.how.items()))
        return (
            f"{self.kills} kills ({self.early} early; {how}), {self.folders} folders, "
            f"{self.images} images, {self.paid} paid, lost/doubled/wrong/problems = "
            f"{self.lost}/{self.doubled}/{self.wrong}/{self.problems}"
        )


class Service:
    """What the service bills and sends, and what goes wrong with its jobs."""

    def __init__(self, choose: random.Random) -> None:
        self.till = Till()
        self.made: Counter[str] = Counter()  # answers by prompt
        self.prompts: dict[str, str] = {}  # by the digests of their images
        self._choose = random.Random(choose.random())

    def fault(self, call: Call) -> Fault:
        """Let 3 % of the rows of jobs go wrong; put two images into a fifth of the answers.

        The second one is not billed: what is reserved for a call is the price of one.
        """
        if call.key and self._choose.random() < 0.03:
            return Fault(status=503)
        billed = self.till.fault(call).edit
        assert billed is not None
        count = 1 + (self._choose.random() < 0.2)

        def edit(answer: dict[str, Any]) -> object:
            parts = answer["candidates"][0]["content"]["parts"]
            for number in range(1, count):
                parts.append(inline(draw(f"{call.prompt}, {number}", width=16, height=16)))
            self.made[call.prompt] += 1
            for part in parts[-count:]:
                digest = hashlib.sha256(b64decode(part["inlineData"]["data"])).hexdigest()
                self.prompts[digest] = call.prompt
            return billed(answer)

        return Fault(edit=edit)

    def job_fault(self, job: Job) -> JobFault:
        """Let one job fail and one expire halfway; shuffle the results of all, and be late."""
        state: Any = {2: "FAILED", 4: "EXPIRED"}.get(job.number, "SUCCEEDED")
        after = 0.5 if state == "EXPIRED" else None
        return JobFault(state=state, after=after, shuffle=True, late_output=job.number % 3)

    def control_fault(self, call: object) -> Fault | None:
        """Lose some answers about jobs."""
        return self._choose.choice(_LOST) if self._choose.random() < 0.05 else None


class Folder:
    """One folder of images, made in one way under one backend."""

    def __init__(
        self, path: Path, way: str, backend: str, fake: FakeGemini, service: Service, tally: Tally
    ) -> None:
        self.path, self.out, self.way, self.backend = path, path / "out", way, backend
        self.fake, self.service, self.tally = fake, service, tally
        self.told: dict[str, str] = {}  # digests by file
        self.redone: Counter[str] = Counter()  # prompts of further takes that were asked for
        self.env = usual_streams() | {
            "GEMINI_API_KEY": "a-key",
            "GOOGLE_GEMINI_BASE_URL": fake.url,
            "SSL_CERT_FILE": str(ROOT / "tests" / "fixtures" / "authority.pem"),
        }
        (path / "prompts.txt").write_text("".join(f"{prompt}\n" for prompt in PROMPTS))
        (path / "reference.png").write_bytes(REFERENCE)

    # Processes

    def _command(self, choose: random.Random, *, only_run: bool) -> list[str]:
        """Return what to start next, and note which takes it asks for."""
        if self.way.startswith("library"):
            return ["--library", str(self.path), self.backend, self.way]
        other = choose.random()
        is_done = len(self.told) >= len(PROMPTS)
        if self.told and not only_run and other < 0.3 + 0.4 * is_done:
            if other < 0.1:
                return ["--cli", "gallery", str(self.out)]
            if other < 0.2:
                return ["--cli", "export", str(self.out), "--all"]
            if self.way != "batch":  # where nothing must be paid twice
                number = choose.randrange(len(PROMPTS))
                if self._rows_of(number):
                    self.redone[PROMPTS[number]] += 1
                    options = ["--json", "--backend", self.backend]
                    return ["--cli", "redo", str(self.out), str(number), *options]
        return self._run(choose)

    def _run(self, choose: random.Random) -> list[str]:
        options = ["-k", str(AT_ONCE), "--json", "--backend", self.backend, "-o", str(self.out)]
        ways = {"run": ["live"], "batch": ["batch"], "mixed": ["live", "batch", "batch,live"]}
        via = choose.choice(ways[self.way])
        if self.way != "run":
            options += ["--image", str(self.path / "reference.png")]
        if self._has_short_names:
            options += ["--name", "{slug}"]
        return ["--cli", "run", str(self.path / "prompts.txt"), "--via", via, *options]

    @property
    def _has_short_names(self) -> bool:
        return self.path.name.endswith(("0", "2", "4", "6", "8"))

    def _start(self, arguments: list[str], *, real: bool, **streams: Any) -> PythonProcess:
        if not real:
            return start_module("benchmarks.crash", *arguments, cwd=ROOT, env=self.env, **streams)
        # The variable is not that of the warm process, which is not forked therefore.
        env = self.env | {"PYTHONIOENCODING": "utf-8:strict"}
        return start_module("genbatch", *arguments[1:], cwd=ROOT, env=env, **streams)

    def step(self, choose: random.Random, how: signal.Signals | None) -> bool:
        """Start something, kill it unless how is None, check; return whether it was killed."""
        arguments = self._command(choose, only_run=how is None)
        early = choose.random() < 0.5
        delay = choose.uniform(*(EARLY if early else LATE))
        paid, kept = self.fake.stats.images, self._files()
        killed, real = False, self.way == "run" and choose.random() < REAL
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            with self._start(arguments, real=real, stdout=out, stderr=err) as process:
                try:
                    process.wait(60 if how is None else delay)
                except subprocess.TimeoutExpired:
                    killed = True
                    process.send_signal(how or signal.SIGKILL)
                    if how is signal.SIGSTOP:
                        time.sleep(choose.uniform(0, 0.3))
                        process.send_signal(signal.SIGCONT)
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(60)
                code = process.poll()
                process.kill()
            self._note(out)
            err.seek(0)
            text = err.read()
        if killed:
            self.tally.kills += 1
            self.tally.early += early
            self.tally.how[(how or signal.SIGKILL).name] += 1
        ended = f"{arguments[1]} ended with {code} after {how and how.name} at {delay:.3f} s"
        allowed = [0] if how is None or not killed else [0, -how, 128 + how]
        is_cli = arguments[0] == "--cli"
        if (self.way != "run") if is_cli else (how is signal.SIGINT):
            allowed.append(1)  # rows of jobs have failed; KeyboardInterrupt comes in a group
        has_begun = "genbatch" in text or not text.rstrip().endswith("KeyboardInterrupt")
        if real and killed and not has_begun:
            allowed.append(1)  # Python itself was starting, and had nothing of ours yet
        # Without frames of the command, it is this module that was interrupted as it was imported.
        is_raw = is_cli and "Traceback" in text and f"{os.sep}genbatch{os.sep}" in text
        if code not in allowed or is_raw or (killed and how is None):
            self._problem(f"{ended}: {text[-600:]}")
        if how and code == 128 + how and self.way == "run" and arguments[1] in ("run", "redo"):
            if missing := (self.fake.stats.images - paid) - (self._files() - kept):
                self._problem(f"{ended}: {missing} paid images are not there: {text[-300:]}")
        self._check_usable(ended)
        return killed

    # What is there

    def _note(self, out: Any) -> None:
        """Note the rows that a process has told, as far as they are whole."""
        out.seek(0)
        for line in out:
            if line.endswith("\n") and line.startswith("{"):
                row = json.loads(line)
                if row.get("sha256"):
                    self.told[row["file"]] = row["sha256"]

    def _files(self) -> int:
        with suppress(FileNotFoundError):
            return sum(name.endswith(".png") and name[0] != "." for name in os.listdir(self.out))
        return 0

    def _look(self, *arguments: str) -> tuple[int, str]:
        pipe = subprocess.PIPE
        with start_module(
            "genbatch", *arguments, env=self.env, stdout=pipe, stderr=pipe
        ) as looking:
            out, err = looking.communicate(timeout=60)
        return looking.returncode, out + err

    def _rows(self) -> list[dict[str, Any]]:
        code, text = self._look("export", str(self.out), "--all")
        if code:
            self._problem(f"export ended with {code}: {text[-300:]}")
            return []
        return [row for row in map(json.loads, text.splitlines()) if row["status"] == "done"]

    def _rows_of(self, number: int) -> list[dict[str, Any]]:
        return [row for row in self._rows() if row["index"] == number]

    def _problem(self, text: str) -> None:
        self.tally.problems += 1
        print(f"{self.way}, {self.backend}, {self.path.name}: {text}", file=sys.stderr)

    def _check_usable(self, ended: str) -> None:
        """Check that the folder can be looked at, and its journal accounts for what was paid."""
        if not (self.out / ".genbatch").exists():
            return
        # In this order: what the service makes meanwhile is noted before it is asked for.
        calls, billed = self.service.made.total(), self.service.till.billed
        code, text = self._look("status", str(self.out), "--json")
        if code in (2, 3) and not calls:  # there is no journal yet
            return
        if code:
            return self._problem(f"{ended}; status ended with {code}: {text[-300:]}")
        spent = json.loads(text)["spent"]
        if calls > len(rows := self._rows()) + spent["maybe_images"]:
            self._problem(f"{ended}; {calls} calls were paid, {len(rows)} rows, {spent}")
        if billed > spent["usd"] + spent["maybe_usd"] + 1e-6:
            self._problem(f"{ended}; ${billed} were billed, status tells {spent}")
        code, text = self._look("verify", str(self.out))
        bad = [line for line in text.splitlines() if not _HEALS.search(line)]
        if code not in (0, 1) or (code and bad):
            self._problem(f"{ended}; verify ended with {code}: {bad[:3]}")

    def finish(self, choose: random.Random) -> None:
        """Run to the end, and compare the folder with what the service made."""
        self.step(choose, None)
        for _ in range(5):
            rows = self._rows()
            if len({row["key"] for row in rows}) >= len(PROMPTS):
                break
            self.step(choose, None)  # some rows of jobs have failed
        code, text = self._look("verify", str(self.out))
        if code:
            self._problem(f"at the end verify tells {text[-300:]}")
        tally, asked = self.tally, Counter(PROMPTS)
        tally.folders += 1
        tally.paid += self.fake.stats.images
        saved = {row["file"]: row["sha256"] for row in rows}
        lost = [name for name, digest in self.told.items() if saved.get(name) != digest]
        there = Counter(row["prompt"] for row in rows)
        lost += (asked - there).elements()
        doubled = there - asked - self.redone
        if self.way.endswith("batch"):
            doubled += self.service.made - asked
        names = [name for row in rows for name in (row["file"], *(row["extras"] or []))]
        doubled += Counter(names) - Counter(set(names))
        tally.images += len(names)
        wrong = [
            f"{name} under {row['prompt']!r}"
            for row in rows
            for name in (row["file"], *(row["extras"] or []))
            if self.service.prompts.get(self._digest(name)) != row["prompt"]
        ]
        tally.lost += len(lost)
        tally.doubled += doubled.total()
        tally.wrong += len(wrong)
        for name, found in (("lost", lost), ("doubled", doubled), ("wrong", wrong)):
            if found:
                print(f"{self.way}, {self.backend}: {name}: {found}", file=sys.stderr)

    def _digest(self, name: str) -> str:
        try:
            return hashlib.sha256((self.out / name).read_bytes()).hexdigest()
        except OSError as error:
            return str(error)


def hunt(kills: int, each: int, seed: int, ways: list[str]) -> Tally:
    """Kill so many times, each folder at most so often."""
    tally, choose = Tally(), random.Random(seed)
    turns = zip(itertools.cycle(ways), itertools.cycle(["asyncio", "trio"]), strict=False)
    for number in itertools.count():
        way, backend = next(turns)
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / f"folder-{number // len(ways)}"
            path.mkdir()
            _kill_until_done(path, way, backend, min(each, kills - tally.kills), choose, tally)
        print(f"{way}, {backend}: {tally}", file=sys.stderr, flush=True)
        if tally.kills >= kills:
            return tally
    raise AssertionError


def _kill_until_done(
    path: Path, way: str, backend: str, kills: int, choose: random.Random, tally: Tally
) -> None:
    service = Service(choose)
    fake = FakeGemini(
        image_size=16,
        latency=LATENCY,
        faults=service.fault,
        job_latency=JOB_LATENCY,
        job_tokens=20 * TOKENS,
        job_faults=service.job_fault,
        control_faults=service.control_fault,
    )
    with (
        anyio.from_thread.start_blocking_portal() as portal,
        portal.wrap_async_context_manager(fake),
    ):
        folder = Folder(path, way, backend, fake, service, tally)
        killed = 0
        for _ in range(2 * kills):
            killed += folder.step(choose, choose.choice(HOW))
            if killed >= kills:
                break
        folder.finish(choose)


# The processes that are killed


async def _library(path: str, way: str) -> None:
    """Make the images of a folder, and tell each that is seen."""
    make: Any = partial(generate_images, max_concurrent=AT_ONCE)
    prompts: Any = PROMPTS
    if way == "library-batch":
        make = partial(batch_api.generate_images, job_size=20)
        prompts = [Prompt(text, images=(REFERENCE,)) for text in PROMPTS]
    async with (
        GeminiClient() as client,
        make(client, prompts, save_dir=f"{path}/out") as outcomes,
    ):
        async for outcome in outcomes:
            if isinstance(outcome, Success):
                image = outcome.value
                print(json.dumps({"file": image.path.name, "sha256": image.sha256}), flush=True)


def _heed_signals() -> None:
    """Undo what a shell in the background or nohup has set; processes started would inherit it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def _child(arguments: list[str]) -> None:
    _heed_signals()
    batch_api._queue._LINGER = 0.05
    batch_api._job._FEWEST_TOKENS = TOKENS
    batch_api.generate_images = partial(batch_api.generate_images, poll=0.2)
    if arguments[0] == "--library":
        _, path, backend, way = arguments
        anyio.run(_library, path, way, backend=backend)
    else:
        from genbatch.cli import main

        sys.argv = ["genbatch", *arguments[1:]]
        main()


def main() -> None:
    """Hunt as the command line says; exit 1 if anything was lost, doubled, wrong or left over."""
    if sys.argv[1:2] in (["--cli"], ["--library"]):
        return _child(sys.argv[1:])
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crash", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--each", type=int, default=12, help="kills of a folder, at most")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    options = parser.parse_args()
    _heed_signals()
    seed = random.randrange(10**9) if options.seed is None else options.seed
    print(f"--seed {seed}", flush=True)
    tally = hunt(options.kills, options.each, seed, options.ways)
    print(tally)
    sys.exit(not tally.clean)


if __name__ == "__main__":
    main()
