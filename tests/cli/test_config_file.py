"""``genbatch.toml``: what it sets, what wins over it, and what somebody else's may not do."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from genbatch.gemini import model_id
from support.commands import Genbatch, Serve, write_prompts


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return where the user's own file is."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    path = tmp_path / "home" / "genbatch" / "genbatch.toml"
    path.parent.mkdir(parents=True)
    return path


def test_the_command_line_wins_over_the_environment_and_files(
    own: Path, genbatch: Genbatch, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve()
    write_prompts(1)
    own.write_text('image_size = "1K"\naspect_ratio = "1:1"\nmodel = "lite"\nbudget = 5\n')
    Path("genbatch.toml").write_text('aspect_ratio = "4:3"\nmodel = "flash"\noutput = "mine"\n')

    def model(*options: str) -> str:
        done = genbatch("run", "prompts.txt", "--dry-run", "--json", *options)
        assert done.returncode == 0, done.stderr
        named: str = json.loads(done.stdout)["model"]
        return named

    assert model() == model_id("flash")
    monkeypatch.setenv("GENBATCH_MODEL", "pro")
    assert model() == model_id("pro")
    assert model("--model", "lite") == model_id("lite")
    assert genbatch("run", "prompts.txt").returncode == 0
    assert json.loads(genbatch("status", "--json").stdout)["done"] == 1
    assert Path("mine").is_dir()


def test_the_plan_names_what_files_have_set(own: Path, genbatch: Genbatch, serve: Serve) -> None:
    serve()
    write_prompts(1)
    own.write_text("budget = 5\n")
    Path("genbatch.toml").write_text('model = "pro"\nimage_size = "2K"\noutput = "mine"\n')
    told = genbatch("run", "prompts.txt", "--image-size", "1K").stderr
    assert "Set by genbatch.toml: model, output\n" in told
    assert f"Set by {own}: budget\n" in told


def test_a_relative_place_of_ones_own_file_is_not_followed(
    own: Path, genbatch: Genbatch, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve()
    write_prompts(1)
    monkeypatch.setenv("XDG_CONFIG_HOME", ".")
    monkeypatch.setenv("HOME", str(own.parent))
    Path("genbatch").mkdir()
    Path("genbatch", "genbatch.toml").write_text("max_images = 0\n")
    assert genbatch("run", "prompts.txt").returncode == 0


@pytest.mark.parametrize(
    "text",
    [
        "budget = 1000",
        "max_images = 9",
        "price = 0",
        'prices = "prices.json"',
        'log_file = "../.bashrc"',
        "deadline = 9",
        "yes = true",
        'base_url = "http://127.0.0.1:9"',
        'service = ["evil:client"]',
        'proxy = "http://127.0.0.1:9"',
        'key = "k"',
        'api_key = "k"',
        'model = "openai/sunburst"',
        'model = "sunburst"',
        'model = "gpt-image-2"',
        'model = " gpt-image-2 "',
        'model = "flare\\t"',
        'output = "../elsewhere"',
        'output = "/tmp"',
        'output = "link"',
        'output = "s3://bucket/folder"',
        'output = "gs://bucket"',
        "quiet = true",
        "timeout = 0.001",
        "model = ['pro']",
        "[run]\nyes = true",
        "model = pro",
        "\0",
        "\ufeffmodel",
        "# " + "x" * 70_000,
    ],
)
def test_a_file_of_somebody_else_takes_no_money_keys_or_files(
    own: Path, text: str, genbatch: Genbatch, serve: Serve
) -> None:
    server = serve()
    write_prompts(1)
    os.symlink("/tmp", "link")
    Path("genbatch.toml").write_text(text)
    done = genbatch("run", "prompts.txt", "-y")
    assert done.returncode == 2
    assert done.stderr.startswith("genbatch: genbatch.toml"), done.stderr
    assert done.stderr.count("\n") == 1
    assert server.stats.calls == 0


def test_the_users_own_file_sets_limits_but_no_server_and_no_answers(
    own: Path, genbatch: Genbatch, serve: Serve
) -> None:
    server = serve()
    write_prompts(3)
    own.write_text("max_images = 1\n")
    assert genbatch("run", "prompts.txt", "-k", "1").returncode == 3
    assert server.stats.images == 1
    own.write_text("yes = true\n")
    assert "'yes' cannot be set here" in genbatch("status").stderr


def test_a_bad_value_is_told_with_its_file(own: Path, genbatch: Genbatch) -> None:
    Path("genbatch.toml").write_text("max_concurrent = 0\n")
    done = genbatch("run", "prompts.txt", "--demo")
    assert done.returncode == 2
    assert "(from genbatch.toml: max_concurrent)" in done.stderr


def test_a_pipe_of_that_name_is_not_waited_for(own: Path, genbatch: Genbatch) -> None:
    os.mkfifo("genbatch.toml")
    assert genbatch("models").returncode == 0
