"""A cluster of two nodes on this machine against a FakeGemini: what holds there, and how fast.

Each command prints a line of figures, and fails if a bound is broken:

- peak: calls in flight at the server, and the time beside the ideal one
- kill-worker, remove-node, kill-driver: nothing lost, nothing paid twice but what was in flight
- quota: how many calls a quota rejects; refusal: what is sent after a 403; budget: what is spent
- resume: how soon the first new call comes where half a million images are there
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from ray.cluster_utils import Cluster

import genbatch.ray
import ray
from genbatch._bucket import Objects, StoredImage

WORKERS = 4
AT_ONCE = 20
FLASH = 0.0336  # US dollars an image, about


class Server:
    """A FakeGemini in a process of its own, and the calls that it has let in."""

    def __init__(self, process: subprocess.Popen[str], url: str, log: Path) -> None:
        self.process = process
        self.url = url
        self._log = log

    def stats(self) -> dict[str, int]:
        """Return the server's counters."""
        with urllib.request.urlopen(f"{self.url}/stats") as answer:
            return dict(json.load(answer))

    def calls(self) -> list[tuple[float, str, bool]]:
        """Return when each call came, its prompt, and whether it was refused."""
        lines = self._log.read_text().splitlines()[1:]
        return [(at, prompt, refused) for at, prompt, refused in map(json.loads, lines)]


@contextmanager
def serving(directory: Path, *options: str) -> Iterator[Server]:
    """Run a server for the block."""
    log = directory / f"calls-{secrets.token_hex(4)}"
    command = [sys.executable, "-m", "benchmarks.ray_server", *options]
    with log.open("w") as file, subprocess.Popen(command, stdout=file, text=True) as process:
        try:
            while not log.read_text().endswith("\n"):
                time.sleep(0.05)
            yield Server(process, log.read_text().splitlines()[0], log)
        finally:
            process.kill()


@contextmanager
def clustered() -> Iterator[tuple[Cluster, Any]]:
    """Run a cluster of two nodes for the block; the second is yielded too."""
    os.environ["GEMINI_API_KEY"] = "a-key"
    os.environ["RAY_DEDUP_LOGS"] = "0"
    arguments = {"num_cpus": 4, "object_store_memory": 200 * 2**20}
    cluster = Cluster(
        initialize_head=True, head_node_args={**arguments, "include_dashboard": False}
    )
    try:
        second = cluster.add_node(**arguments)
        cluster.wait_for_nodes()
        yield cluster, second
    finally:
        cluster.shutdown()


def drive(options: dict[str, Any]) -> None:
    """Be the driver: run a dataset through generate, and print what came of it."""
    logging = "ERROR"
    ray.init(address=options["address"], log_to_driver=False, logging_level=logging)
    ray.data.DataContext.get_current().enable_progress_bars = False
    n = options["prompts"]
    rows = ray.data.range(n, override_num_blocks=max(1, min(200, n // 100)))
    rows = rows.map_batches(_prompts, batch_format="pyarrow")
    began = time.monotonic()
    result: dict[str, Any] = {}
    out = genbatch.ray.generate(rows, **options["arguments"])
    result["planned"] = time.monotonic() - began
    print("begun", flush=True)
    began = time.monotonic()
    kinds: Counter[str] = Counter()
    uris = set()
    try:
        for batch in out.iter_batches(batch_size=None, batch_format="pyarrow"):
            kinds.update(str(kind) for kind in batch["error_kind"].to_pylist())
            uris.update(batch["uri"].to_pylist())
    except Exception as exc:  # noqa: BLE001 - the measure tells it
        result["error"] = [each.__name__ for each in type(exc).__mro__]
        result["message"] = str(getattr(exc, "cause", exc))[:200]
    result |= {"seconds": time.monotonic() - began, "kinds": kinds, "files": len(uris - {None})}
    print(json.dumps(result), flush=True)
    ray.shutdown()


def _prompts(table: Any) -> Any:
    import pyarrow as pa

    numbers = table["id"].to_pylist()
    return table.append_column("prompt", pa.array([f"a fox, number {n}" for n in numbers]))


def start(cluster: Cluster, url: str, store: Path, prompts: int, **more: Any) -> Any:
    """Start a driver of its own process."""
    arguments = {"store": str(store), "max_concurrent": AT_ONCE, "workers": WORKERS}
    arguments |= {"base_url": url, **more}
    options = {"address": cluster.address, "prompts": prompts, "arguments": arguments}
    command = [sys.executable, "-m", "benchmarks.ray_cluster", "drive", json.dumps(options)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finish(driver: Any) -> dict[str, Any]:
    """Wait for a driver, and return what it has printed."""
    output, _ = driver.communicate()
    if driver.returncode:
        raise RuntimeError(f"the driver has failed with {driver.returncode}")
    return dict(json.loads(output.splitlines()[-1]))


def until(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("it did not come to that")
        time.sleep(0.05)


def check(store: Path, prompts: int) -> int:
    """Return how many images a store has, each compared with its name."""
    import hashlib

    images = list(Objects(store).done())
    for image in images:
        assert hashlib.sha256(Path(image.uri).read_bytes()).hexdigest() == image.sha256
    assert len({image.key for image in images}) == len(images) <= prompts
    return len(images)


def peak(directory: Path, prompts: int, latency: float) -> dict[str, Any]:
    """Run without faults."""
    with serving(directory, "--latency", str(latency)) as server, clustered() as (cluster, _):
        result = finish(start(cluster, server.url, directory / "store", prompts))
        times = [at for at, _, _ in server.calls()]
        stats = server.stats()
    ideal = prompts * latency / AT_ONCE
    calling = times[-1] - times[0] + latency
    result |= {"peak": stats["peak"], "paid": stats["images"], "ideal": ideal, "calling": calling}
    result |= {"efficiency": ideal / result["seconds"], "efficiency_calling": ideal / calling}
    result["saved"] = check(directory / "store", prompts)
    assert result["peak"] <= AT_ONCE, result
    assert result["paid"] == result["saved"] == result["files"] == prompts, result
    assert result["efficiency"] >= 0.9 or prompts < 4000, result
    return result


def kill_worker(directory: Path, prompts: int, latency: float) -> dict[str, Any]:
    """Kill a worker in the middle."""

    def act(cluster: Cluster, node: Any, driver: Any) -> Any:
        victim = workers()[0]
        victim.kill()
        return driver

    return _with_fault(directory, prompts, latency, act)


def remove_node(directory: Path, prompts: int, latency: float) -> dict[str, Any]:
    """Remove the second node in the middle, without a warning."""

    def act(cluster: Cluster, node: Any, driver: Any) -> Any:
        cluster.remove_node(node, allow_graceful=False)
        return driver

    return _with_fault(directory, prompts, latency, act)


def kill_driver(directory: Path, prompts: int, latency: float) -> dict[str, Any]:
    """Kill the driver in the middle, and run it again."""

    def act(cluster: Cluster, node: Any, driver: Any) -> Any:
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
        return None

    return _with_fault(directory, prompts, latency, act)


def _with_fault(
    directory: Path, prompts: int, latency: float, act: Callable[[Cluster, Any, Any], Any]
) -> dict[str, Any]:
    store = directory / "store"
    with serving(directory, "--latency", str(latency)) as server, clustered() as (cluster, node):
        driver = start(cluster, server.url, store, prompts)
        until(lambda: len(server.calls()) >= prompts // 2)
        in_flight = server.stats()["in_flight"]
        driver = act(cluster, node, driver) or start(cluster, server.url, store, prompts)
        result = finish(driver)
        stats = server.stats()
    result |= {"peak": stats["peak"], "paid": stats["images"], "in_flight": in_flight}
    result["twice"] = stats["images"] - prompts
    result["saved"] = check(store, prompts)
    assert result["saved"] == result["files"] == prompts, result
    assert result["twice"] <= AT_ONCE, result
    assert result["peak"] <= AT_ONCE, result
    return result


def workers() -> list[psutil.Process]:
    """Return the processes of the cluster that make images."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if "RayWorker" in " ".join(child.cmdline())]


def quota(directory: Path, prompts: int, latency: float) -> dict[str, Any]:
    """Run against 300 calls a minute."""
    with (
        serving(directory, "--latency", str(latency), "--quota", "300/min") as server,
        clustered() as (cluster, _),
    ):
        driver = start(cluster, server.url, directory / "store", prompts)
        until(lambda: server.stats()["calls"] >= 20)
        early = server.stats()
        result = finish(driver)
        stats = server.stats()
    sent = stats["calls"] - early["calls"]
    rejected = stats["limited"] - early["limited"]
    result |= {"sent": sent, "rejected": rejected, "share": rejected / sent}
    assert result["share"] <= 0.05, result
    assert result["files"] == prompts, result
    return result


def refusal(directory: Path, prompts: int, latency: float) -> dict[str, Any]:
    """Have one call refused with a 403, and see what is sent afterwards."""
    store = directory / "store"
    with (
        serving(directory, "--latency", str(latency), "--refuse-from", "300") as server,
        clustered() as (cluster, _),
    ):
        result = finish(start(cluster, server.url, store, prompts))
        calls, stats = server.calls(), server.stats()
    refused_at = next(at for at, _, refused in calls if refused)
    later = [at - refused_at for at, _, _ in calls if at > refused_at]
    result |= {"calls": len(calls), "last_after": max(later, default=0.0)}
    result |= {"paid": stats["images"], "saved": check(store, prompts)}
    assert result["last_after"] <= 2, result
    assert result["paid"] == result["saved"], result
    assert "Unauthorized" in result["error"], result
    return result


def budget(directory: Path, prompts: int, latency: float) -> dict[str, Any]:
    """Spend $10, with the driver killed once on the way."""
    store = directory / "store"
    with serving(directory, "--latency", str(latency)) as server, clustered() as (cluster, _):
        driver = start(cluster, server.url, store, prompts, budget=10.0)
        until(lambda: server.stats()["images"] >= 100)
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
        result = finish(start(cluster, server.url, store, prompts, budget=10.0))
        stats = server.stats()
        again = finish(start(cluster, server.url, store, prompts, budget=10.0))
        result["paid_by_third"] = server.stats()["images"] - stats["images"]
    result |= {"paid": stats["images"], "dollars": stats["images"] * FLASH}
    result |= {"saved": check(store, prompts), "third": again["error"][1]}
    assert result["dollars"] <= 10, result
    assert result["paid_by_third"] == 0, result
    assert "BudgetExhausted" in result["error"], result
    return result


def resume(directory: Path, prompts: int, latency: float) -> dict[str, Any]:
    """Make a store of half a million done keys, then run with one prompt more."""
    from pydantic_core import to_json

    from genbatch._store import digests_of_texts
    from genbatch._values import ImageRequest

    store = directory / "store"
    objects = Objects(store)
    digest = digests_of_texts("", ImageRequest("any", model="gemini-nano-banana-2.1"))
    images = []
    for number in range(prompts):
        key = digest(f"a fox, number {number}")
        file = f"images/{key[:2]}/{key[2:4]}/{key}.png"
        image = StoredImage(key, file, key, 1, "image/png", "gemini-nano-banana-2.1", FLASH, "")
        images.append(image)
        path = store / "done" / key[:2] / key[2:4] / f"{key}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(to_json(image, exclude={"uri"}))
    objects.add_segments(images[: -min(5000, prompts // 2)])  # a crash left the others
    with serving(directory, "--latency", str(latency)) as server, clustered() as (cluster, _):
        began = time.monotonic()
        driver = start(cluster, server.url, store, prompts + 1)
        until(lambda: server.stats()["calls"] > 0, 300)
        first = time.monotonic() - began
        result = finish(driver)
        result |= {"first_call": first, "whole": time.monotonic() - began}
        result["received"] = server.stats()["calls"]
    assert result["received"] == 1, result
    assert result["files"] == prompts + 1, result
    assert result["first_call"] <= 60, result
    return result


COMMANDS: dict[str, tuple[Callable[[Path, int, float], dict[str, Any]], int, float]] = {
    "peak": (peak, 4000, 1.0),
    "kill-worker": (kill_worker, 4000, 0.3),
    "remove-node": (remove_node, 4000, 0.3),
    "kill-driver": (kill_driver, 4000, 0.3),
    "quota": (quota, 900, 0.3),
    "refusal": (refusal, 4000, 0.3),
    "budget": (budget, 1000, 0.3),
    "resume": (resume, 500_000, 0.3),
}


def main() -> None:
    """Run a command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ray_cluster", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("command", choices=[*COMMANDS, "drive"])
    parser.add_argument("options", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("--prompts", type=int)
    parser.add_argument("--latency", type=float)
    options = parser.parse_args()
    if options.command == "drive":
        drive(json.loads(options.options))
        return
    measure, prompts, latency = COMMANDS[options.command]
    with tempfile.TemporaryDirectory() as directory:
        result = measure(Path(directory), options.prompts or prompts, options.latency or latency)
    figures = {name: round(v, 3) if isinstance(v, float) else v for name, v in result.items()}
    print(options.command, json.dumps(figures))


if __name__ == "__main__":
    main()
