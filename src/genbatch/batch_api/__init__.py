"""Gemini Batch API: half price, results within 24 hours.

```python
async with genbatch.batch_api.generate_images(client, prompts, save_dir="out") as outcomes:
    async for outcome in outcomes:
        ...  # as from genbatch.generate_images
```

Requests are uploaded in files, and each file becomes a *job*. A job takes up to 24 hours, and the
service keeps its results for another 48. A waiting process may be stopped or killed at any time:
the same call picks up the jobs it left, and no prompt is in two jobs at once.
"""

from ._api import cancel, generate_images
from ._journal import Job, jobs
from ._journal import Jobs as Jobs

__all__ = ["Job", "cancel", "generate_images", "jobs"]
