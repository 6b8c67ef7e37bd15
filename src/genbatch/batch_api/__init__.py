"""Batches by jobs: the service's own batch queue, at half the price, for who can wait up to a day.

```python
async with genbatch.batch_api.generate_images(client, prompts, save_dir="out") as outcomes:
    async for outcome in outcomes:
        ...  # as of genbatch.generate_images
```

Requests go to the service in files, each of which is a *job*. It has up to 24 hours for one, and
keeps what that has brought for 48 more. A process that waits may be stopped, or killed, at any
time: the same call takes up the jobs it left, and no prompt is in two jobs at once.
"""

from ._api import Job, cancel, generate_images, jobs
from ._journal import Jobs as Jobs

__all__ = ["Job", "cancel", "generate_images", "jobs"]
