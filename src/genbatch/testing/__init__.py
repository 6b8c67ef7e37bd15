"""A Gemini for tests and demos: a real HTTP server on this machine, with faults on request.

```python
async with FakeGemini(latency=0.1, faults=[None, rate_limited(2), reset()]) as server:
    ...  # calls to server.url: an image, a 429 that asks for 2 s, a TCP reset, then only images
    assert server.stats.images == 1
```
"""

from . import _faults
from ._faults import *  # noqa: F403 - named once, in its __all__
from ._gemini import ControlCall, FakeGemini, Stats
from ._http import Fault
from ._jobs import Job, JobFault
from ._openai import FakeOpenAI, openai_error
from ._wire import Call

__all__ = ["Call", "ControlCall", "FakeGemini", "FakeOpenAI", "Fault", "Job", "JobFault", "Stats"]
__all__ += ["openai_error"]
__all__ += _faults.__all__
