"""A Gemini for tests and demos: a real HTTP server on this machine, with faults on request.

```python
async with FakeGemini(latency=0.1, faults=[None, rate_limited(2), reset()]) as server:
    ...  # calls to server.url: an image, a 429 that asks for 2 s, a TCP reset, then only images
    assert server.stats.images == 1
```
"""

from ._faults import (
    bad_base64,
    bad_key,
    bad_token,
    blocked,
    broken_json,
    closed_port,
    dripping,
    empty_body,
    empty_image,
    filtered,
    garbage,
    html_page,
    jpeg_as_png,
    no_candidates,
    no_image,
    no_quota,
    not_an_image,
    rate_limited,
    redirect,
    reset,
    retired_model,
    several_images,
    short_body,
    slow_headers,
    stalled,
    unknown_values,
    with_drafts,
)
from ._gemini import ControlCall, FakeGemini, Stats
from ._http import Fault
from ._jobs import Job, JobFault
from ._wire import Call

__all__ = [
    "Call",
    "ControlCall",
    "FakeGemini",
    "Fault",
    "Job",
    "JobFault",
    "Stats",
    "bad_base64",
    "bad_key",
    "bad_token",
    "blocked",
    "broken_json",
    "closed_port",
    "dripping",
    "empty_body",
    "empty_image",
    "filtered",
    "garbage",
    "html_page",
    "jpeg_as_png",
    "no_candidates",
    "no_image",
    "no_quota",
    "not_an_image",
    "rate_limited",
    "redirect",
    "reset",
    "retired_model",
    "several_images",
    "short_body",
    "slow_headers",
    "stalled",
    "unknown_values",
    "with_drafts",
]
