"""Inputs: prompt files, standard input, templates and grids become Prompts; see docs/inputs.md.

1. A file is checked to its end before its first prompt is yielded; standard input is read as it
   arrives.
2. Memory is flat: both are read block by block, lines are bounded, and no row is kept. Workbooks,
   Markdown and JSON objects are read whole.
3. Every error is one ValueError, "file:line: what was found; what to do", a line for each mistake.
"""

from ._doubts import LINES, SKIPPABLE, Doubt, Doubts
from ._formats import InputError, Layout, canonical, check_encoding
from ._names import FIELDS, Reading, bare, parse_map
from ._recipe import (
    MOST_IMAGES,
    Asked,
    Grid,
    Recipe,
    RemoteImages,
    Template,
    located_image,
    parse_aspect_ratio,
    parse_image_size,
)
from ._recognize import FORMATS
from ._shard import Shard
from ._sources import PromptFiles, Selection, StandardInput, read_prompts

__all__ = [
    "FIELDS",
    "FORMATS",
    "LINES",
    "MOST_IMAGES",
    "SKIPPABLE",
    "Asked",
    "Doubt",
    "Doubts",
    "Grid",
    "InputError",
    "Layout",
    "PromptFiles",
    "Reading",
    "Recipe",
    "RemoteImages",
    "Selection",
    "Shard",
    "StandardInput",
    "Template",
    "bare",
    "canonical",
    "check_encoding",
    "located_image",
    "parse_aspect_ratio",
    "parse_image_size",
    "parse_map",
    "read_prompts",
]
