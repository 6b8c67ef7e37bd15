"""The management command of the documentation, in a Django project of its own."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from genbatch.testing import Call, FakeGemini, Fault, blocked
from support.gates import Gate
from support.integrations import install, needs_packages
from support.pages import text_of
from support.waiting import until

pytestmark = [pytest.mark.slow, needs_packages]

SETTINGS = """
from pathlib import Path

MEDIA_ROOT = Path("media")
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
INSTALLED_APPS = ["shop"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "shop.sqlite"}}
"""
MODELS = """
from django.db import models


class Product(models.Model):
    description = models.TextField()
    image = models.CharField(max_length=200, blank=True)
"""


@pytest.fixture
def manage(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., subprocess.Popen[str]]:
    """Return what runs a command of a project with twenty products."""
    packages = tmp_path_factory.mktemp("django")
    install(packages, "django")
    commands = tmp_path / "shop" / "management" / "commands"
    commands.mkdir(parents=True)
    (tmp_path / "shop_settings.py").write_text(SETTINGS)
    (tmp_path / "shop" / "__init__.py").write_text("")
    (tmp_path / "shop" / "models.py").write_text(MODELS)
    (commands / "draw_products.py").write_text(text_of("draw_products.py"))
    path = [str(tmp_path), str(packages), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "shop_settings")

    def start(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "django", *arguments]
        return subprocess.Popen(
            command,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )

    shown, _ = start("migrate", "--run-syncdb", "--verbosity=0").communicate(timeout=60)
    assert not shown
    with sqlite3.connect(tmp_path / "shop.sqlite") as shop:
        rows = [(f"a mug, number {number}",) for number in range(19)] + [("a secret",)]
        shop.executemany("INSERT INTO shop_product (description, image) VALUES (?, '')", rows)
    return start


def test_a_command_that_is_killed_goes_on_and_every_row_gets_its_image(
    manage: Callable[..., subprocess.Popen[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate("number 7")

    def faults(call: Call) -> Fault | None:
        return blocked() if "secret" in call.prompt else gate(call)

    with FakeGemini(image_size=8, faults=faults) as fake:
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", fake.url)
        monkeypatch.setenv("GEMINI_API_KEY", "a-key")
        first = manage("draw_products", "--budget", "5")
        until(lambda: fake.stats.images >= 10)
        first.kill()
        first.communicate()
        gate.open()
        calls = fake.stats.calls
        second = manage("draw_products", "--budget", "5")
        shown, _ = second.communicate(timeout=60)
    assert second.returncode == 0, shown
    assert "product 20: " in shown
    assert "blocked" in shown
    with sqlite3.connect(tmp_path / "shop.sqlite") as shop:
        images = dict(shop.execute("SELECT id, image FROM shop_product"))
    assert images.pop(20) == ""
    assert len(set(images.values())) == 19
    assert all((tmp_path / "media" / image).is_file() for image in images.values())
    assert fake.stats.calls < calls + 20
