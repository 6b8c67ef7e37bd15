"""genbatch.ray on a cluster of this machine: rows in, rows out, and what ends a run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import anyio.from_thread
import pytest

import genbatch
from genbatch.testing import Call, FakeGemini, Fault, blocked
from support.pages import DOCS, blocks_of

pytestmark = [
    pytest.mark.skipif(
        os.environ.get("GENBATCH_TEST_RAY") != "1",
        reason="starts a Ray cluster: set GENBATCH_TEST_RAY=1, with genbatch[ray] installed",
    ),
    pytest.mark.filterwarnings("ignore"),  # Ray's own
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEMINI_API_KEY", "a-key")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import genbatch.ray  # noqa: F401 - as a user would
        import ray

        options = {"log_to_driver": False, "logging_level": "ERROR", "include_dashboard": False}
        ray.init("local", num_cpus=4, **options)  # not one that runs beside it
        ray.data.DataContext.get_current().enable_progress_bars = False
        try:
            yield ray
        finally:
            ray.shutdown()


@contextmanager
def serving(**options: Any) -> Iterator[FakeGemini]:
    """Run a server beside the test."""
    with ExitStack() as stack:
        portal = stack.enter_context(anyio.from_thread.start_blocking_portal())
        fake = portal.call(lambda: FakeGemini(image_size=32, **options))
        yield stack.enter_context(portal.wrap_async_context_manager(fake))


@pytest.fixture
def generate(cluster: Any, tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """Return what runs rows through generate, and returns the rows that come out."""

    def run(server: FakeGemini, rows: list[dict[str, Any]], **options: Any) -> list[dict[str, Any]]:
        arguments = {"store": tmp_path, "max_concurrent": 4, "workers": 2, "max_retries": 0}
        arguments |= {"base_url": server.url, **options}
        dataset = cluster.data.from_items(rows)
        made = genbatch.ray.generate(dataset, **arguments)
        made = made.map_batches(lambda table: table, batch_format="pyarrow")  # as any pipeline
        return sorted(made.take_all(), key=lambda row: row.get("number", 0))

    return run


Generate = Callable[..., list[dict[str, Any]]]


def foxes(n: int) -> list[dict[str, Any]]:
    return [{"number": i, "prompt": f"fox {i}", "tags": ["a", str(i)]} for i in range(n)]


def test_rows_come_out_with_their_images_and_their_other_columns(generate: Generate) -> None:
    with serving() as server:
        rows = generate(server, foxes(20))
        assert (server.stats.images, server.stats.peak <= 4) == (20, True)
    assert [row["number"] for row in rows] == list(range(20))
    assert [list(row["tags"]) for row in rows] == [["a", str(i)] for i in range(20)]
    assert all(Path(row["uri"]).read_bytes().startswith(b"\x89PNG") for row in rows)
    assert {row["mime_type"] for row in rows} == {"image/png"}
    assert {row["model"] for row in rows} == {"gemini-nano-banana-2.1"}
    assert {row["error"] for row in rows} == {None}
    assert all(row["cost"] > 0 for row in rows)
    assert all(row["sha256"] in row["uri"] for row in rows)


def test_running_again_makes_only_what_is_missing(generate: Generate) -> None:
    with serving() as server:
        first = generate(server, foxes(10))
        again = generate(server, foxes(15))
        assert server.stats.calls == 15
        assert generate(server, foxes(15)) == again
        assert server.stats.calls == 15
    assert again[:10] == first


def test_a_failure_is_a_row(generate: Generate) -> None:
    def fault(call: Call) -> Fault | None:
        return blocked() if call.prompt == "fox 3" else None

    with serving(faults=fault) as server:
        rows = generate(server, [*foxes(5), {"number": 5, "prompt": " ", "tags": []}])
    kinds = [row["error_kind"] for row in rows]
    assert kinds == [None, None, None, "Blocked", None, "ValueError"]
    assert [row["uri"] is None for row in rows] == [kind is not None for kind in kinds]


def test_equal_prompts_are_refused_and_an_id_tells_them_apart(generate: Generate) -> None:
    rows = [{"number": i, "prompt": "a fox"} for i in range(3)]
    with serving() as server:
        with pytest.raises(ValueError, match="two rows have the prompt 'a fox': give id_column="):
            generate(server, rows)
        assert server.stats.calls == 0
        made = generate(server, rows, id_column="number")
        assert server.stats.images == 3
        assert len({row["key"] for row in made}) == 3
        with pytest.raises(ValueError, match="ids must be unique: column 'number' has 0 twice"):
            generate(server, [rows[0], {"number": 0, "prompt": "other"}], id_column="number")


def test_a_refused_key_is_raised_as_what_it_is(generate: Generate, tmp_path: Path) -> None:
    with serving(faults=lambda call: Fault(status=403) if call.number == 6 else None) as server:
        with pytest.raises(genbatch.Unauthorized) as caught:
            generate(server, foxes(60))
        assert str(caught.value) == str(caught.value.cause)  # type: ignore[attr-defined]
        assert str(caught.value).endswith("(403): The caller does not have permission.")
        assert len(list(tmp_path.glob("done/*/*/*.json"))) == server.stats.images
        assert server.stats.calls < 60


def test_the_budget_is_of_all_workers_and_runs(generate: Generate) -> None:
    with serving() as server:
        for _ in range(2):
            with pytest.raises(genbatch.BudgetExhausted, match="budget"):
                generate(server, foxes(30), budget=0.3)
        assert 6 <= server.stats.images <= 8


def test_images_go_to_any_file_system(generate: Generate, tmp_path: Path) -> None:
    with serving() as server:
        rows = generate(server, foxes(4), store=f"file://{tmp_path / 'other'}")
        assert all(Path(row["uri"]).is_file() for row in rows)
        assert (tmp_path / "other" / "done").is_dir()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 5}, "max_concurrent must be >= workers, one call for each, got 4 < 5"),
        ({"workers": 0}, "workers must be >= 1, got 0"),
        ({"prompt_column": "text"}, "no column 'text': it has number, prompt, tags"),
        ({"aspect_ratio": "7:1"}, "aspect_ratio='7:1'"),
        ({"model": "another-model", "budget": 1.0}, "no price of another-model is known"),
        ({"budget": -1.0}, "budget must be >= 0"),
        ({"pace": "fast"}, "pace must be like"),
    ],
)
def test_a_mistake_is_told_at_once(
    generate: Generate, options: dict[str, Any], message: str
) -> None:
    with serving() as server, pytest.raises(ValueError, match=message):
        generate(server, foxes(2), **options)


def test_a_column_of_the_results_must_not_be_there(generate: Generate) -> None:
    with serving() as server, pytest.raises(ValueError, match="a column 'uri' already"):
        generate(server, [{"prompt": "a fox", "uri": "x"}])


@pytest.mark.parametrize(("reserved", "outcome"), [(None, 12), (0, 12), (0.25, "give num_cpus=0")])
def test_two_nodes_of_one_cpu_run_or_refuse(
    tmp_path: Path, reserved: float | None, outcome: object
) -> None:
    """In a process of its own: a process has one cluster."""
    program = (
        "from ray.cluster_utils import Cluster\n"
        "import genbatch.ray, ray\n"
        "small = {'num_cpus': 1, 'object_store_memory': 100 * 2**20}\n"
        "cluster = Cluster(initialize_head=True, head_node_args=small)\n"
        "cluster.add_node(**small)\n"
        "cluster.wait_for_nodes()\n"
        "ray.init(address=cluster.address, log_to_driver=False, logging_level='ERROR')\n"
        "rows = ray.data.from_items([{'prompt': f'fox {n}'} for n in range(12)])\n"
        "try:\n"
        f"    made = genbatch.ray.generate(rows, store={str(tmp_path)!r}, max_concurrent=4,\n"
        f"        workers=4, num_cpus={reserved}, base_url={{url!r}})\n"
        "    [state] = genbatch.ray.progress()\n"
        "    assert (state.rows, state.done) == (12, 0), state\n"
        "    assert genbatch.ray.progress('elsewhere') == []\n"
        "    print(made.count())\n"
        "except ValueError as error:\n"
        "    print(error)\n"
        "ray.shutdown()\n"
        "cluster.shutdown()\n"
    )
    with serving() as server:
        done = subprocess.run(
            [sys.executable, "-c", program.replace("{url!r}", repr(server.url))],
            capture_output=True,
            text=True,
            env={**os.environ, "GEMINI_API_KEY": "a-key"},
        )
        assert server.stats.images == (outcome if isinstance(outcome, int) else 0), done.stderr
    assert str(outcome) in done.stdout


def test_the_programs_of_the_page_run(cluster: Any, tmp_path: Path) -> None:
    rows = [{"sku": str(number), "prompt": "a fox"} for number in range(3)]
    cluster.data.from_items(rows).write_parquet(str(tmp_path / "prompts"))
    names: dict[str, Any] = {}
    with serving() as server:
        for block in blocks_of(DOCS / "ray.md"):
            if block.language == "py":
                code = block.text.replace("s3://bucket", str(tmp_path))
                code = code.replace("max_concurrent=200, workers=20", "max_concurrent=2, workers=2")
                exec(code.replace("budget=", f"base_url={server.url!r}, budget="), names)
        assert server.stats.images == 3
    written = cluster.data.read_parquet(str(tmp_path / "results")).take_all()
    assert {row["error"] for row in written} == {None}
    assert {row["sku"] for row in written} == {"0", "1", "2"}
