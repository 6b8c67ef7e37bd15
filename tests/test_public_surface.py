"""The names, parameters and defaults that users rely on."""

from __future__ import annotations

import dataclasses
import inspect
import pydoc
import re
from typing import Any

import pytest

import genbatch

SETTINGS = {
    "model": "flash",
    "aspect_ratio": None,
    "image_size": None,
    "thinking": None,
    "temperature": None,
    "seed": None,
    "system_instruction": None,
    "generation_config": None,
}
CORE = {"max_concurrent": 5, "limiter": None, "ordered": False, "fail_fast": False}


def parameters(function: Any) -> tuple[list[str], dict[str, Any]]:
    """Return the names of positional parameters, and of keyword-only ones with their defaults."""
    found = inspect.signature(function).parameters.values()
    positional = [each.name for each in found if each.kind is each.POSITIONAL_OR_KEYWORD]
    return positional, {each.name: each.default for each in found if each.kind is each.KEYWORD_ONLY}


def test_all_names_what_is_there_and_is_sorted() -> None:
    assert genbatch.__all__ == sorted(genbatch.__all__)
    assert all(hasattr(genbatch, name) for name in genbatch.__all__)
    public = {name for name in vars(genbatch) if not name.startswith("_")}
    modules = {name for name in public if inspect.ismodule(getattr(genbatch, name))}
    assert public - modules - {"Any", "TYPE_CHECKING", "import_module"} == set(genbatch.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        genbatch.nonsense  # type: ignore[attr-defined]  # noqa: B018


def test_help_tells_of_every_name() -> None:
    text = pydoc.render_doc(genbatch, renderer=pydoc.plaintext)
    for name in genbatch.__all__:
        assert re.search(rf"^    (class |async )?{name}\b", text, re.MULTILINE), name


def test_stream() -> None:
    assert parameters(genbatch.stream) == (["generate", "prompts"], CORE)
    assert not inspect.iscoroutinefunction(genbatch.stream)


def test_collect() -> None:
    options = {name: default for name, default in CORE.items() if name != "ordered"}
    assert parameters(genbatch.collect) == (["generate", "prompts"], options)
    assert inspect.iscoroutinefunction(genbatch.collect)


MONEY = {"budget": None, "price": None}


def test_generate_images() -> None:
    positional, options = parameters(genbatch.generate_images)
    assert positional == ["client", "prompts"]
    assert options == {
        "save_dir": None,
        "store": None,
        **CORE,
        "namespace": "",
        **SETTINGS,
        **MONEY,
        "on_event": None,
        "prompt_column": None,
    }


def test_gemini_client() -> None:
    positional, options = parameters(genbatch.GeminiClient)
    assert positional == ["api_key"]
    vertex = ["vertexai", "project", "location", "credentials"]
    connection = ["base_url", "http_client", "trust_env", "throttle"]
    assert list(options) == [*vertex, *connection, "max_retries", "timeout", "on_event"]
    assert options["max_retries"] == 3
    assert parameters(genbatch.GeminiClient.generate_image) == (
        ["self", "prompt"],
        SETTINGS | MONEY,
    )


def test_throttle() -> None:
    options = {"capacity": None, "pace": None, "burst": 1, "patience": 1800.0}
    assert parameters(genbatch.Throttle) == ([], options)
    assert parameters(genbatch.Throttle.run) == (["self", "call"], {})
    assert parameters(genbatch.throttled) == (["generate", "throttle"], {})


@pytest.mark.parametrize(
    ("value_type", "names"),
    [
        (genbatch.Success, "index prompt value elapsed"),
        (genbatch.Failure, "index prompt error elapsed"),
        (
            genbatch.Prompt,
            "text id filename model aspect_ratio image_size images seed metadata source variant",
        ),
        (
            genbatch.Image,
            "data mime_type model usage text cost response_id extras damaged is_placeholder",
        ),
        (
            genbatch.SavedImage,
            "path mime_type size_mb sha256 cost resumed model usage text extras width height"
            " damaged",
        ),
    ],
)
def test_value_objects_are_frozen_and_slotted(value_type: Any, names: str) -> None:
    assert [each.name for each in dataclasses.fields(value_type)] == names.split()
    assert value_type.__dataclass_params__.frozen
    assert "__slots__" in vars(value_type)


@pytest.mark.parametrize("name", genbatch.__all__)
def test_every_public_name_has_a_docstring(name: str) -> None:
    if name == "Outcome":  # an alias has none
        return
    public = getattr(genbatch, name)
    assert public.__doc__
    assert not public.__doc__.startswith(f"{name}(")  # a dataclass's own
    for method in vars(public) if inspect.isclass(public) else ():
        if not method.startswith("_") and callable(getattr(public, method)):
            assert inspect.getdoc(getattr(public, method)), method
