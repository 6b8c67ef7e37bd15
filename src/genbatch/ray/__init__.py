"""Images for the rows of a Ray dataset, on as many machines as its cluster has.

```python
rows = ray.data.read_parquet("s3://bucket/prompts")
rows = genbatch.ray.generate(rows, store="s3://bucket/foxes", max_concurrent=200, workers=20)
rows.write_parquet("s3://bucket/results")
```
"""

from typing import Any

__all__ = ["FleetProgress", "generate", "progress"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        import pyarrow  # noqa: F401 - only to see if it is there
        import ray.data  # noqa: F401 - the same
    except ImportError as exc:
        raise ImportError("genbatch.ray needs Ray: pip install 'genbatch[ray]'") from exc
    from . import _generate, _progress

    return getattr(_generate if name == "generate" else _progress, name)
