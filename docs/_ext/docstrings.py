"""What autodoc makes of genbatch's docstrings and types."""

from __future__ import annotations

import inspect
import re
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.domains.python import PyObject
from sphinx.environment import BuildEnvironment
from sphinx.pycode import ModuleAnalyzer

_PROMISE = re.compile(
    r"^(Ordering|Backpressure|Cancellation|Failure|Retries|Resuming|Stopping): ", re.MULTILINE
)


def forget_overloads(app: Sphinx) -> None:
    """Show one signature of generate_images: its overloads differ in types only."""
    analyzer = ModuleAnalyzer.for_module("genbatch._run._images")
    analyzer.analyze()
    analyzer.overloads.clear()


def process(app: Sphinx, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    """Set the word that begins a promise, such as Cancellation, in bold."""
    if what == "property":  # napoleon takes what stands before a colon for its type
        lines[:] = inspect.cleandoc(obj.__doc__ or "").splitlines()
    lines[:] = [_PROMISE.sub(r"**\1**: ", line) for line in lines]


def find_public_name(
    app: Sphinx, environment: BuildEnvironment, node: pending_xref, content: nodes.Element
) -> nodes.Element | None:
    """Return a reference to a public name where a type is named by the module it is written in."""
    if node.get("refdomain") != "py":
        return None
    _, _, name = node["reftarget"].rpartition(".")
    domain = environment.domains.python_domain
    for public in (f"genbatch.{name}", f"genbatch.testing.{name}"):
        if public in domain.objects:
            return domain.resolve_xref(
                environment, node["refdoc"], app.builder, "obj", public, node, content
            )
    return None


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"
    app.connect("builder-inited", forget_overloads)
    app.connect("autodoc-process-docstring", process, priority=600)  # after napoleon
    app.connect("missing-reference", find_public_name)
    return {"parallel_read_safe": True}
