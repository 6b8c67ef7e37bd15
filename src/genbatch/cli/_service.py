"""The commands about the service: models and serve-fake."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Annotated, Any, Literal

import typer

from genbatch import GeminiClient, ImageRequest
from genbatch._money import models_of
from genbatch.gemini import MODELS, Model, price, published_price
from genbatch.openai import OpenAIClient
from genbatch.testing import Call, FakeGemini, FakeOpenAI, Fault

from ._console import QuietConsole, plain
from ._options import Options, command, option
from ._run import client_of, counts_of, run
from ._watch import until_stopped

_SHORT = ("flare", "sunburst")  # of OpenAI's models
_NOTE = "Prices are US dollars per image, as published on the date given; billing may differ."


def _check_host(host: str) -> str:
    if host not in ("127.0.0.1", "::1", "localhost"):
        raise typer.BadParameter("the fake serves this machine only: 127.0.0.1")
    return host


Which = Annotated[Literal["gemini", "openai"], option(None, "The service to imitate.", "NAME")]
Available = Annotated[bool, option(None, "Ask the service which models your key can use.")]
AsJson = Annotated[bool, option(None, "Print one JSON line per model.", "", "--json")]
Host = Annotated[str, option(None, "Loopback address to listen on.", "HOST", callback=_check_host)]
Port = Annotated[int, option(None, "Port; 0 picks a free one.", "PORT", min=0, max=65535)]
Latency = Annotated[float, option(None, "Duration of each call.", "SECONDS", min=0.0)]
JobLatency = Annotated[float, option(None, "Duration of each batch job.", "SECONDS", min=0.0)]
Quota = Annotated[str | None, option(None, "Rate quota per model, such as 5/min.", "N/min")]
Daily = Annotated[int | None, option(None, "Daily quota of calls per model.", "N", min=0)]
RetryInfo = Annotated[
    bool,
    option(
        None,
        "Include a retry delay in quota errors.",
        "",
        "--retry-info/--no-retry-info",
    ),
]
Fault_ = Annotated[
    str | None,
    option(
        None,
        "Answer with this HTTP status: each call, or every Nth one.",
        "STATUS[/N]",
        "--fault",
    ),
]
Key = Annotated[str | None, option(None, "Accept this API key only.", "KEY")]
Speed = Annotated[float, option(None, "Run the fake's clock X times faster than real time.", "X")]


@command("prices", "base_url", "backend")
def models_command(
    *, available: Available = False, as_json: AsJson = False, options: Options
) -> int:
    """List the models with their short names, sizes and prices.

    Any other full model id works too, but its price is unknown.

    Examples:

    - `genbatch models`
    - `genbatch models --available`
    """
    usable = None
    if available:
        usable = run(partial(_ask, client_of(options.base_url)), options.backend)
    out = QuietConsole()
    rows = list(_rows(usable))
    if as_json:
        for row in rows:
            out.data(json.dumps(row))
        return 0
    cells = [_cells(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        out.say("  ".join(map(str.ljust, line, widths)).rstrip())
    out.say((_NOTE, "dim"))
    return 0


async def _ask(client: GeminiClient) -> list[str]:
    async with client:
        return await client.models()


def _rows(usable: Sequence[str] | None) -> Iterator[dict[str, Any]]:
    """Yield a row for each model, unlisted ones last.

    Args:
        usable: Ids that the key can use, None if the service was not asked.
    """
    known = {model.id for model in MODELS}
    others = [Model(plain(id), "", (), (), ()) for id in usable or () if id not in known]
    for model in (*MODELS, *others):
        yield {
            "id": model.id,
            "alias": model.alias or None,
            "prices": {size: price(model.id, size) for size in model.image_sizes},
            "prices_date": priced.date if (priced := published_price(model.id)) else None,
            "prices_source": priced.source if priced else None,
            "aspect_ratios": list(model.aspect_ratios),
            "thinking": list(model.thinking),
            "available": None if usable is None else model in others or model.id in usable,
        }
    if usable is None:  # Gemini's service was not asked
        yield from _of_openai()


def _of_openai() -> Iterator[dict[str, Any]]:
    """Yield a row for each model of OpenAI that has a price, at its usual quality."""
    short = {OpenAIClient.resolve(ImageRequest("any", model=each)).model: each for each in _SHORT}
    for priced in models_of(OpenAIClient.service):
        requests = {
            size: ImageRequest("any text", model=priced.model, image_size=size)
            for size in ("1K", "2K", "4K")
        }
        yield {
            "id": priced.model,
            "alias": short.get(priced.model),
            "prices": {size: OpenAIClient.expected_price(each) for size, each in requests.items()},
            "prices_date": priced.date,
            "prices_source": priced.source,
            "aspect_ratios": [],
            "thinking": [],
            "available": None,
        }


def _cells(row: dict[str, Any]) -> list[str]:
    prices: dict[str, float | None] = row["prices"]
    sizes = [size if usd is None else f"{size} ${usd:.3f}" for size, usd in prices.items()]
    described = ", ".join(sizes) or "sizes and prices unknown"
    if sizes and not any(prices.values()):
        described += " (price unknown)"
    cells = [row["alias"] or "", row["id"], described, row["prices_date"] or ""]
    if row["available"] is not None:
        cells.append("available" if row["available"] else "not available")
    return cells


@command("backend")
def serve_command(
    *,
    service: Which = "gemini",
    host: Host = "127.0.0.1",
    port: Port = 8765,
    latency: Latency = 0.25,
    job_latency: JobLatency = 5.0,
    quota: Quota = None,
    daily: Daily = None,
    retry_info: RetryInfo = True,
    speed: Speed = 1.0,
    fault: Fault_ = None,
    key: Key = None,
    options: Options,
) -> int:
    """Run a fake Gemini API server, or OpenAI's, on this machine until Ctrl-C.

    OpenAI's has neither batch jobs nor a daily quota.

    Examples:

    - `genbatch serve-fake --latency 2`
    - `genbatch serve-fake --port 9000`
    - `genbatch serve-fake --service openai`
    - `genbatch serve-fake --quota 5/min --daily 100 --no-retry-info`
    - `genbatch serve-fake --quota 5/min --speed 60`
    - `genbatch serve-fake --fault 503/3 --key my-key`
    """
    if service == "openai" and daily is not None:
        raise ValueError("--daily is for --service gemini: OpenAI has no daily quota")
    alike: dict[str, Any] = {
        "latency": latency,
        "quota": quota,
        "retry_info": retry_info,
        "speed": speed,
        "faults": _faults(fault),
        "api_keys": None if key is None else {key},
        "port": port,
        "host": host,
    }
    fake = (
        FakeOpenAI(**alike)
        if service == "openai"
        else FakeGemini(**alike, job_latency=job_latency, daily=daily)
    )
    try:
        run(partial(_serve, fake), options.backend)
    except OSError as error:
        raise ValueError(f"cannot serve at {host} port {port}: {error}; try --port 0") from error
    return 0


def _faults(fault: str | None) -> Callable[[Call], Fault | None]:
    """Return what goes wrong with which calls.

    Raises:
        ValueError: If a fault is malformed.
    """
    if fault is None:
        return lambda call: None
    match = re.fullmatch(r"([2-5]\d\d)(?:/([1-9]\d*))?", fault.strip())
    if match is None:
        raise ValueError(f"--fault must be like 503, or 503/3 for every third call, got {fault!r}")
    status, every = int(match[1]), int(match[2] or 1)
    return lambda call: None if call.number % every else Fault(status=status)


async def _serve(fake: FakeGemini | FakeOpenAI) -> None:
    """Serve until a signal comes."""
    out = QuietConsole()
    name, base_url, key, model = "Gemini", "GOOGLE_GEMINI_BASE_URL", "GEMINI_API_KEY", ""
    if isinstance(fake, FakeOpenAI):
        name, base_url, key, model = "OpenAI", "OPENAI_BASE_URL", "OPENAI_API_KEY", " --model flare"
    async with fake:
        out.say(f"A fake {name} API is running at {fake.url}; Ctrl-C stops it. In another shell:")
        out.say(f"  export {base_url}={fake.url} {key}=fake")
        out.say(f"  genbatch run prompts.txt{model}")
        await until_stopped()
        out.say(counts_of(fake))  # type: ignore[arg-type]  # it reads the stats, which are the same
