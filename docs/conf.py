"""Sphinx: ``sphinx-build -W --keep-going -n -b html docs docs/_build`` builds the site, offline."""

from __future__ import annotations

import sys
from importlib.metadata import version as version_of
from pathlib import Path

from pygments.lexers.data import JsonLexer
from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "genbatch"
author = "The genbatch authors"
copyright = "The genbatch authors"
version = release = version_of("genbatch")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "commands", "docstrings"]
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80

# There is no intersphinx: the build needs no network. What others define is not linked.
_OTHERS = (
    r"(anyio|asyncio|collections|contextlib|datetime|google|httpx2?|opentelemetry|os|pathlib|types"
    r"|typing)\..*"
)
_OWN = (
    r"genbatch\.(_core\._outcome\.[PT](_co)?|_run\._images\.PT|batch_api\._api\.PT"
    r"|_money\._budget\.Account|_store\._plan\.Plan)"
)
_SHORT = r"EndOfStream|ClosedResourceError|ControlFaults|Credentials|(Meter|Tracer)Provider|Self"
nitpick_ignore_regex = [("py:.*", _OTHERS), ("py:.*", _OWN), ("py:.*", _SHORT)]
smartquotes_action = "D"  # dashes only; quotes stay as they are typed
highlight_language = "text"

html_theme = "furo"
html_title = f"genbatch {version}"
html_static_path = ["_static"]
html_css_files = ["genbatch.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    "light_css_variables": {
        "color-brand-primary": "#1a56b0",
        "color-brand-content": "#1a56b0",
    },
    "dark_css_variables": {
        "color-brand-primary": "#8ab4f8",
        "color-brand-content": "#8ab4f8",
    },
}


def setup(app: Sphinx) -> None:
    """Teach Sphinx the languages of input files."""
    for language, lexer in (("jsonl", JsonLexer), ("csv", TextLexer), ("txt", TextLexer)):
        app.add_lexer(language, lexer)
