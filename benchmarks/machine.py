"""What a result depends on, and nothing that names the machine."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = (
    "genbatch",
    "anyio",
    "trio",
    "uvloop",
    "aiometer",
    "aiostream",
    "streamable",
    "tuskpool",
    "tqdm",
    "langchain-core",
)


def facts() -> dict[str, object]:
    """Return processors, Python and the versions of the contenders."""
    return {
        "cpus": os.cpu_count(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": platform.system(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
