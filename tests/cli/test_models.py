"""genbatch models."""

from __future__ import annotations

import json
import re

from genbatch.gemini._models import MODELS, price
from support.commands import CANARY, Genbatch, Serve


def test_models_lists_short_names_sizes_and_prices(genbatch: Genbatch) -> None:
    done = genbatch("models")
    assert (done.returncode, done.stderr) == (0, "")
    *lines, note = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [[model.alias, model.id] for model in MODELS]
    assert lines[0].endswith("1K $0.034, 2K $0.050, 4K $0.076")
    assert lines[2].endswith("1K (price unknown)")
    assert "US dollars" in note


def test_models_as_json(genbatch: Genbatch) -> None:
    rows = [json.loads(line) for line in genbatch("models", "--json").stdout.splitlines()]
    for row, model in zip(rows, MODELS, strict=True):
        assert row == {
            "id": model.id,
            "alias": model.alias,
            "prices": {size: price(model.id, size) for size in model.image_sizes},
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
