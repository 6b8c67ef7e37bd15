"""What was understood, told before anything is paid: the same lines for a run and a dry run."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from genbatch import GenbatchError, ImageRequest, Prompt
from genbatch._money import model_price
from genbatch._values import asked_size
from genbatch.gemini import default_size, server_of
from genbatch.inputs import FIELDS, Doubts, StandardInput, canonical

from ._console import count, plain
from ._options import Options
from ._run import Prompts
from ._services import Services

_REQUESTS = 3  # shown
_TEXT = 100  # characters of each
_VALUE = 40
_LINE = 300
_NAMES = 8  # of columns


def understood(
    prompts: Prompts, options: Options, services: Services, doubts: Doubts, calls: int | None
) -> Iterator[str]:
    """Yield what is to be known before paying, a screen at most.

    Args:
        prompts: Those of standard input, which is read as they are made, are not shown.
        options: Of the run.
        services: Make the images.
        doubts: Of the inputs.
        calls: How many are to be made, None if that is unknown.
    """
    yield from filter(None, (_columns(options, doubts), *doubts.notes, _left_out(doubts)))
    if doubts.repeats[0] and calls != 0:
        repeats, first = doubts.repeats
        same = (
            "row asks for the same as an earlier one, and is"
            if repeats == 1
            else ("rows ask for the same as earlier ones, and are")
        )
        yield plain(f"Repeated: {repeats:,} {same} paid for as well, first {first}")
    shown = () if isinstance(prompts, StandardInput) else islice(prompts, _REQUESTS)
    requests = [_request(each, options, services) for each in shown]
    for number, each in enumerate(requests, 1):
        text = each if isinstance(each, str) else _shown(each)
        yield f"Request {number}: {text}"
    yield from _server(requests, options, services)
    yield from _price(requests, options, services)
    if options.dry_run:
        for doubt in doubts:
            yield plain(f"Doubt: {doubt.text}", 600)
        if any(doubts):
            yield "A run asks about each doubt once, and is refused where nobody can be asked."


def _columns(options: Options, doubts: Doubts) -> str:
    """Return what the columns are read as, or what else the prompt is made of."""
    read = doubts.columns.items()
    wanted = "prompt" if options.column is None else canonical(options.column)
    prompt = {name: "prompt" for name, each in read if "prompt" in (name, each) or name == wanted}
    settings = {name: each for name, each in read if each in FIELDS - {"prompt", "images"}}
    images = {name: each for name, each in read if each == "images"}
    others = {
        what: [name for name, each in read if each == kind and name not in prompt]
        for what, kind in (("metadata", "metadata"), ("not kept", "secret"))
    }
    parts = ["" if read else "each line is a prompt"]
    if options.template is not None:
        parts = [f'--template "{options.template}" makes the prompt']
    elif read:
        parts = [_some(_renamed(prompt))]
    for what, columns in (("settings", settings), ("input images", images)):
        parts += [f"{what}: {_some(_renamed(columns))}"] if columns else []
    parts += [f"{what}: {_some(names)}" for what, names in others.items() if names]
    return plain(f"Read: {' · '.join(parts)}", _LINE)


def _renamed(columns: Mapping[str, str]) -> list[str]:
    return [
        name if canonical(name) == each else f"{name} as {each}" for name, each in columns.items()
    ]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMES:,} more" if len(names) > _NAMES else ""
    return ", ".join(names[:_NAMES]) + more


def _left_out(doubts: Doubts) -> str:
    each = [
        count(number, kind.removesuffix("s"))
        if kind.endswith("s")
        else f"{kind} of {count(number, 'line')}"
        for kind, number in doubts.skipped.items()
    ]
    return f"Left out: {', '.join(each)}" if each else ""


def _request(prompt: str | Prompt, options: Options, services: Services) -> ImageRequest | str:
    """Return what will be sent for a prompt, or why nothing can be."""
    try:
        request = ImageRequest("any text", **options.settings).with_prompt(prompt)
        return services.resolve(request, prompt)
    except (GenbatchError, ValueError) as error:
        return plain(f"cannot be sent: {error}")


def _shown(request: ImageRequest) -> str:
    size = asked_size(request) or default_size(request.model)
    parts = [request.model, *filter(None, (request.aspect_ratio, size))]
    parts += [] if request.seed is None else [f"seed {request.seed}"]
    parts += map(_name_of, request.images)
    parts += [f"{name}: {plain(value, _VALUE)}" for name, value in request.options.items()]
    length = len(request.text)
    whole = "" if length <= _TEXT else f" ({length:,} characters)"
    return plain(f'{" · ".join(parts)} · "{plain(request.text, _TEXT)}"{whole}', _LINE)


def _name_of(image: bytes | str | Path) -> str:
    return "an image" if isinstance(image, bytes) else str(image)


def _price(
    requests: Sequence[ImageRequest | str], options: Options, services: Services
) -> Iterator[str]:
    """Yield what the price of an image is made of."""
    for request in requests[:1]:
        if isinstance(request, str):
            continue
        if options.price is not None:
            yield f"Price: ${options.price:,.4f} an image, as given by --price"
            continue
        published = model_price(request.service, request.model)
        each = services.expected_price(request)
        if each is None:
            yield f"Price: none is known for {request.model}: give --price"
            continue
        dated = f", as published on {published.date}" if published else ""
        inputs = ", its input images" if request.images else ""
        what = f"its prompt{inputs} and the image, without thoughts{dated}"
        yield f"Price: ${each:,.4f} for the first request: {what}"


def _server(
    requests: Sequence[ImageRequest | str], options: Options, services: Services
) -> Iterator[str]:
    """Yield where the requests go."""
    models = [each.model for each in requests if not isinstance(each, str)] or [options.model]
    for name in dict.fromkeys(map(services.of, models)):
        if options.demo:
            where = "a fake one on this machine (--demo)"
        elif name == "gemini":
            where = server_of(options.base_url) or "Google's, for the Gemini API"
        elif name == "openai":
            where = os.environ.get("OPENAI_BASE_URL") or "OpenAI's"
        else:
            where = name
        yield plain(f"Server: {where}", _LINE)
