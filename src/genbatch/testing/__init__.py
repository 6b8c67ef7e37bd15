"""A Gemini for tests and demos: a real HTTP server on this machine, with faults on request.

```python
async with FakeGemini(latency=0.1, faults=[None, rate_limited(2), Fault(reset=True)]) as server:
    ...  # calls to server.url: an image, a 429 that asks for 2 s, a TCP reset, then only images
    assert server.stats.images == 1
```
"""

from ._faults import (
    Fault,
    bad_base64,
    blocked,
    broken_json,
    filtered,
    html_page,
    no_candidates,
    no_image,
    no_quota,
    not_an_image,
    rate_limited,
    redirect,
    stalled,
)
from ._server import FakeGemini, Stats
from ._wire import Call

__all__ = [
    "Call",
    "FakeGemini",
    "Fault",
    "Stats",
    "bad_base64",
    "blocked",
    "broken_json",
    "filtered",
    "html_page",
    "no_candidates",
    "no_image",
    "no_quota",
    "not_an_image",
    "rate_limited",
    "redirect",
    "stalled",
]
