"""The commands that are about the service: models and serve-fake."""

from __future__ import annotations

from typing import Annotated

from genbatch.testing import FakeGemini

from . import _options as options
from ._checks import check_host
from ._launch import client_of, serve
from ._models import available_models, show_models

Available = Annotated[
    bool,
    options.flag(None, "--available", help="Ask which of them your key can use."),
]
AsJson = Annotated[bool, options.flag(None, "--json", help="A line of JSON for each model.")]
Host = Annotated[
    str, options.option(None, callback=check_host, metavar="HOST", help="Loopback only.")
]
Port = Annotated[
    int,
    options.option(None, min=0, max=65535, metavar="PORT", help="0 for any free one."),
]
Latency = Annotated[
    float, options.option(None, min=0.0, metavar="SECONDS", help="How long a call takes.")
]
JobLatency = Annotated[
    float, options.option(None, min=0.0, metavar="SECONDS", help="How long a batch takes.")
]
Quota = Annotated[
    str | None, options.option(None, metavar="N/min", help="Calls of a model in any minute.")
]
Daily = Annotated[
    int | None, options.option(None, min=0, metavar="N", help="Calls of a model in a day.")
]
RetryInfo = Annotated[
    bool,
    options.flag(
        None,
        "--retry-info/--no-retry-info",
        help="Tell a call beyond the quota how long to wait.",
    ),
]
Speed = Annotated[
    float,
    options.option(
        None,
        metavar="X",
        help="Its seconds, minutes and days pass so many times as fast as here.",
    ),
]


def models_command(
    available: Available = False,
    as_json: AsJson = False,
    base_url: options.BaseUrl = None,
    backend: options.Backend = "asyncio",
    debug: options.Debug = False,
) -> int:
    """List the models: their short names, sizes and prices.

    Any other full id may be used as well; its price is not known then.

    Examples:

    - `genbatch models`
    - `genbatch models --available`
    """
    found = available_models(client_of(base_url), backend) if available else None
    return show_models(found, as_json)


def serve_command(
    host: Host = "127.0.0.1",
    port: Port = 8765,
    latency: Latency = 0.25,
    job_latency: JobLatency = 5.0,
    quota: Quota = None,
    daily: Daily = None,
    retry_info: RetryInfo = True,
    speed: Speed = 1.0,
    backend: options.Backend = "asyncio",
    debug: options.Debug = False,
) -> int:
    """Serve a fake of the Gemini API on this machine, until Ctrl-C.

    Examples:

    - `genbatch serve-fake --latency 2`
    - `genbatch serve-fake --port 9000`
    - `genbatch serve-fake --quota 5/min --daily 100 --no-retry-info`
    - `genbatch serve-fake --quota 5/min --speed 60`
    """
    fake = FakeGemini(
        latency=latency,
        job_latency=job_latency,
        quota=quota,
        daily=daily,
        retry_info=retry_info,
        speed=speed,
        port=port,
        host=host,
    )
    serve(fake, f"{host} port {port}", backend)
    return 0
