"""genbatch models."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from genbatch.gemini._models import MODELS, price
from support.commands import CANARY, Genbatch, Serve


def test_models_lists_short_names_sizes_and_prices(genbatch: Genbatch) -> None:
    done = genbatch("models")
    assert (done.returncode, done.stderr) == (0, "")
    *lines, note = done.stdout.splitlines()
    own = [[model.alias, model.id] for model in MODELS]
    assert [line.split()[:2] for line in lines[:3]] == own
    assert re.search(r"  1K \$0.034, 2K \$0.050, 4K \$0.113 +2026-11-27$", lines[0])
    assert re.search(r"  1K \$0.134, 2K \$0.134, 4K \$0.240 +2026-11-27$", lines[1])
    assert re.search(r"  1K \$0.034 +2026-11-27$", lines[2])
    assert ["flare", "gpt-image-2.6-flare"] in [line.split()[:2] for line in lines[3:]]
    assert "US dollars" in note


def test_models_as_json(genbatch: Genbatch) -> None:
    rows = [json.loads(line) for line in genbatch("models", "--json").stdout.splitlines()]
    assert all(row["id"].startswith("gpt-image-") and row["prices"] for row in rows[3:])
    for row, model in zip(rows[:3], MODELS, strict=True):
        assert row == {
            "id": model.id,
            "alias": model.alias,
            "prices": {size: price(model.id, size) for size in model.image_sizes},
            "prices_date": "2026-11-27",
            "prices_source": "https://ai.google.dev/gemini-api/docs/pricing",
            "aspect_ratios": list(model.aspect_ratios),
            "thinking": list(model.thinking),
            "available": None,
        }


def test_available_asks_the_service(genbatch: Genbatch, serve: Serve) -> None:
    serve(models=["gemini-3-pro-image", "gemini-9-image\x1b[2J", "gemini-3-flash"])
    done = genbatch("models", "--available")
    assert done.returncode == 0
    *lines, _ = done.stdout.splitlines()
    assert [line.endswith("  available") for line in lines] == [False, True, False, True]
    assert lines[0].endswith("  not available")
    assert re.search(r"gemini-9-image ?\[2J +sizes and prices unknown", lines[3])
    rows = genbatch("models", "--available", "--json").stdout.splitlines()
    assert [json.loads(row)["available"] for row in rows] == [False, True, False, True]


def test_a_key_that_is_missing_or_refused_is_one_line(genbatch: Genbatch, serve: Serve) -> None:
    done = genbatch("models", "--available")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "genbatch: no API key: set GEMINI_API_KEY (or GOOGLE_API_KEY)\n"
    serve(api_keys={"another"})
    done = genbatch("models", "--available", "--backend", "trio")
    assert (done.returncode, done.stdout) == (3, "")
    assert re.fullmatch(r"genbatch: [^\n]+\n", done.stderr)
    assert CANARY not in done.stderr


ROW = {
    "service": "gemini",
    "model": "gemini-3.1-flash-lite-image",
    "date": "2027-01-31",
    "source": "https://example.com/prices",
    "input": 1.0,
    "text": 1.0,
    "image": 1000.0,
    "image_tokens": {"1K": 1000},
    "input_image_tokens": 0,
    "thought_tokens": 0,
    "search": 0,
    "tiers": {},
}


def test_a_file_of_newer_prices_is_used_by_every_command_that_counts(
    genbatch: Genbatch, serve: Serve, tmp_path: Path
) -> None:
    serve()
    prices, prompts = tmp_path / "newer.json", tmp_path / "prompts.txt"
    prices.write_text(json.dumps({"prices": [ROW]}))
    prompts.write_text("a\nb\n")
    line = genbatch("models", "--prices", str(prices)).stdout.splitlines()[2]
    assert line.split()[2:] == ["1K", "$1.000", "2027-01-31"]
    args = (str(prompts), "--model", "lite", "--prices", str(prices))
    assert "about $2.00" in genbatch("run", *args, "--dry-run").stdout
    out = str(tmp_path / "out")
    assert genbatch("run", *args, "-o", out).returncode == 0
    assert "$2.24" in genbatch("status", out).stdout  # 1,120 tokens each
    assert genbatch("redo", out, "0", "--prices", str(prices)).returncode == 0
    assert "$3.36" in genbatch("status", out).stdout


@pytest.mark.parametrize("command", ["models", "run prompts.txt", "redo out 0"])
def test_a_bad_file_of_prices_is_one_line(genbatch: Genbatch, tmp_path: Path, command: str) -> None:
    prices = tmp_path / "newer.json"
    prices.write_text(json.dumps({"prices": [ROW | {"image": "dear"}]}))
    done = genbatch(*command.split(), "--prices", str(prices))
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{prices}: cannot be read as prices: row 1: image must be a number" in done.stderr
    assert "Traceback" not in done.stderr
