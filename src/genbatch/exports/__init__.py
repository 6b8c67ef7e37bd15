"""What is taken out of a folder: its rows as tables, its images as copies and data sets.

Parquet needs the extra ``data``, and what changes images the extra ``cli``; the rest needs neither.
"""

from pathlib import Path

from ._convert import Conversion
from ._copy import NAME_FIELDS, Copied, Copying, copy_images
from ._filter import Filter, parse_where
from ._rows import KeptRows, flat_rows, rows_of, write_csv, write_json_lines
from ._sheet import kind_of_sheet, write_sheets

__all__ = [
    "NAME_FIELDS",
    "Conversion",
    "Copied",
    "Copying",
    "Filter",
    "KeptRows",
    "copy_images",
    "flat_rows",
    "kind_of_sheet",
    "parse_where",
    "rows_of",
    "write_csv",
    "write_json_lines",
    "write_parquet",
    "write_sheets",
]


def write_parquet(rows: KeptRows, path: Path) -> None:
    """Write flat rows to a Parquet file; one that an earlier call has written is replaced.

    Raises:
        ModuleNotFoundError: If pyarrow is not installed; the message says how.
        ValueError: If there is a file that is not ours.
        StoreError: If it cannot be written.
    """
    from ._parquet import write  # needs the extra

    write(rows, path)
