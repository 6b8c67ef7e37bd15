"""Images for the rows of a Ray dataset, on as many machines as its cluster has.

```python
rows = ray.data.read_parquet("s3://bucket/prompts")
rows = genbatch.ray.generate(rows, store="s3://bucket/foxes", max_concurrent=200, workers=20)
rows.write_parquet("s3://bucket/results")
```
"""

try:
    import pyarrow  # noqa: F401 - looked for
    import ray.data  # noqa: F401 - the same
except ImportError as exc:
    raise ImportError("genbatch.ray needs Ray: pip install 'genbatch[ray]'") from exc

from ._generate import generate

__all__ = ["generate"]
