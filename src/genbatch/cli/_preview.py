"""The preview of a command that makes images: what it will do and cost, before it does."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from genbatch import Estimate, ImageRequest, Prompt, estimate, inputs
from genbatch._bucket import bucket_path
from genbatch._throttle import parse_interval
from genbatch._values import asked_size
from genbatch.gemini import default_size, job_share

from ._console import clock, count, plain
from ._options import Options, kinds_to_retry
from ._run import Prompts
from ._services import Services, models_in

EXPENSIVE = 10.0  # US dollars above which to ask first
FEW_IMAGES = 10  # that are not worth waiting for a job
_DEAREST = 0.25  # US dollars an image, where none is known: what the dearest models cost
_RARE = (
    "failed",
    "in_jobs",
    "placeholders",
    "similar",
)  # in the JSON of a plan only where there are any
_MANY = 20_000  # prompts: so many are not read again for the length of each
_MEGABYTES = {"2K": 6, "4K": 20}  # of an image, roughly; others are of 1K
_OF_1K = 2


@dataclass(frozen=True, slots=True)
class Preview:
    """What a command is about to do and cost.

    Attributes:
        lines: The plan on one line for the user, then what is to be known beside it, if anything.
        reserved: What a budget must have room for, and what that is made of, for the user.
        row: All of it as JSON.
        price: What it is expected to cost, for the user, who is asked about it.
        is_expensive: Whether to ask first.
        calls: Images to be paid, None where unknown.
    """

    lines: tuple[str, ...]
    reserved: str
    row: str
    price: str
    is_expensive: bool
    calls: int | None


def preview(prompts: Prompts, options: Options, services: Services) -> Preview:
    """Return what a run will do and cost, without a call; this may read all prompts."""
    if isinstance(prompts, inputs.StandardInput):
        return _preview_each(options, services)
    plan = estimate(
        prompts,
        client=services,
        save_dir=options.output,
        rate=_rate(options),
        reserve=options.dry_run or len(prompts) <= _MANY,
        redo_missing=options.redo_missing,
        retry_failed=kinds_to_retry(options.retry_failed),
        **options.of_images,
    )
    parts = [count(plan.prompts, "prompt"), f"{plan.done:,} done"]
    if plan.failed:
        parts.append(f"{plan.failed:,} failed for good")
    if plan.in_jobs:
        parts.append(f"{plan.in_jobs:,} in jobs")
    parts += [f"{plan.calls:,} to make", _models(prompts, options, services)]
    notes = [_placeholders(plan.placeholders)] if plan.placeholders else []
    notes += [_similar(plan.similar)] if plan.similar else []
    model = _defaults(options, services).model
    named = {each or options.model for each in models_in(prompts)}
    in_jobs = job_share(model) if services.are_gemini(named) else None
    return _preview(plan, parts, (model, in_jobs), options, notes)


def preview_takes(
    requests: Sequence[ImageRequest], options: Options, services: Services
) -> Preview:
    """Return what further takes will do and cost, without a call.

    Raises:
        ValueError: If a service would refuse one of them.
    """
    for request in {str(each.generation_config): each for each in requests}.values():
        services.check(request)
    costs = [_price_of(each, options, services.expected_price) for each in requests]
    reserved = [_price_of(each, options, services.price) for each in requests]
    rate = _rate(options)
    plan = Estimate(
        len(requests),
        0,
        None if None in costs else sum(filter(None, costs)),
        None if None in reserved else sum(filter(None, reserved)),
        None if rate is None else len(requests) / rate,
    )
    sizes = Counter((each.model, asked_size(each) or default_size(each.model)) for each in requests)
    (model, size), _ = sizes.most_common(1)[0]
    name = f"{model} {size}" if size else model
    parts = [f"{count(len(requests), 'take')} to make"]
    parts.append(f"{name} and others" if len(sizes) > 1 else name)
    kept = f"{plain(options.output)} keeps showing what it shows now; genbatch pick changes that."
    are_gemini = {each.service for each in requests} == {"gemini"}
    in_jobs = job_share(model) if are_gemini else None
    return _preview(plan, parts, (model, in_jobs), options, [kept])


def _preview(
    plan: Estimate,
    parts: list[str],
    of_model: tuple[str, float | None],
    options: Options,
    notes: Sequence[str],
) -> Preview:
    """Return an estimate with its price.

    Args:
        plan: The estimate.
        parts: What comes before the price on its line.
        of_model: The model of most images, and the share of the price in jobs, where it has them.
        options: The options of the command.
        notes: Lines for the user beside it.
    """
    model, in_jobs = of_model
    by_batch = None if plan.cost is None or in_jobs is None else in_jobs * plan.cost
    parts.append("price unknown" if plan.cost is None else _prices(plan.cost, by_batch, plan.calls))
    if plan.seconds is not None:
        parts.append(f"about {clock(plan.seconds)} at {options.pace}")
    share = 1 if options.via == "live" else in_jobs or 1
    most = None if plan.reserved is None or not options.dry_run else share * plan.reserved
    known = {"calls": plan.calls, "batch_cost": by_batch, "model": model, "reserved": most}
    row = {name: value for name, value in asdict(plan).items() if name not in _RARE or value}
    cost = plan.cost if options.via == "live" else by_batch
    return Preview(
        (" · ".join(parts), *notes, _space(plan.calls, options)),
        _reserved(most, options),
        json.dumps({**row, **known}),
        _asked_about(cost, plan.calls),
        _is_expensive(cost, plan.calls, options),
        plan.calls,
    )


def _is_expensive(cost: float | None, calls: int, options: Options) -> bool:
    """Return whether to ask first; a price that is not known may be the highest."""
    if cost is None:
        return options.max_images is None and calls * _DEAREST > EXPENSIVE
    return cost > EXPENSIVE


def _asked_about(cost: float | None, calls: int) -> str:
    images = count(calls, "image")
    if cost is None:
        return f"the price of {images} is not known (--price gives it)"
    return f"about {_dollars(cost)} for {images} is more than ${EXPENSIVE:.0f}"


def _rate(options: Options) -> float | None:
    """Return the calls that start in a second, None where that is not bounded."""
    return None if options.pace is None else 1 / parse_interval(options.pace)


def _price_of(
    request: ImageRequest, options: Options, of: Callable[[ImageRequest], float | None]
) -> float | None:
    return of(request) if options.price is None else options.price


def _similar(number: int) -> str:
    """Return that prompts have images with other settings."""
    have = "prompt has an image" if number == 1 else "prompts have images"
    return (
        f"{number:,} {have} in the folder already, with other settings: what is to make is made "
        "beside them, under numbers of its own."
    )


def _placeholders(number: int) -> str:
    """Return what becomes of images that a fake service has made."""
    what = "is a placeholder" if number == 1 else "are placeholders"
    return f"{count(number, 'image')} in the folder {what} of a fake service, to be made anew."


def _space(calls: int, options: Options) -> str:
    """Return a warning if the images of calls may not fit on the disk, else an empty text."""
    if bucket_path(options.output) is not None:
        return ""
    expected = 1e6 * calls * _MEGABYTES.get(options.image_size or "", _OF_1K)
    folder = options.output.absolute()
    place = next(each for each in (folder, *folder.parents) if each.exists())
    free = shutil.disk_usage(place).free
    if expected <= free:
        return ""
    sizes = f"about {expected / 1e6:,.0f} MB of images, {free / 1e6:,.0f} MB free"
    return f"Warning: the disk of {plain(options.output)} may be too small: {sizes}."


def _reserved(most: float | None, options: Options) -> str:
    """Return what is reserved for all calls, empty where that is unknown."""
    if not most:
        return ""
    if options.price is not None:
        return f"reserved: {_dollars(most)}, at the price given"
    what = "each prompt by its length, its input images, the longest thoughts and one image"
    return f"reserved: at most {_dollars(most)}, for {what}"


def _preview_each(options: Options, services: Services) -> Preview:
    """Return the price per prompt, for prompts whose number is not known yet."""
    each = options.price
    if each is None:
        each = services.expected_price(_defaults(options, services))
    parts = ["prompts as they arrive", _name(options, services)]
    parts.append("price unknown" if each is None else f"about ${each:,.3f} each")
    if options.pace is not None:
        parts.append(f"at {options.pace}")
    return Preview((" · ".join(parts),), "", "", "", False, None)


def _prices(cost: float, by_batch: float | None, calls: int) -> str:
    """Return the cost of live calls, and of jobs if there is enough to make."""
    about = f"about {_dollars(cost)}"
    return (
        about
        if calls < FEW_IMAGES or by_batch is None
        else f"{about}, by batch {_dollars(by_batch)}"
    )


def _dollars(cost: float) -> str:
    return f"${cost:,.0f}" if cost >= 100 else f"${cost:,.2f}"


def _models(
    prompts: inputs.PromptFiles | Sequence[str | Prompt], options: Options, services: Services
) -> str:
    if isinstance(prompts, inputs.PromptFiles):
        own = models_in(prompts)
    else:
        own = {each.model for each in prompts if isinstance(each, Prompt)}
    is_mixed = own - {None, options.model, _defaults(options, services).model}
    name = _name(options, services)
    return f"{name} and per-prompt models" if is_mixed else name


def _defaults(options: Options, services: Services) -> ImageRequest:
    """Return the request of prompts that name no settings of their own."""
    return services.resolve(ImageRequest("any text", **options.settings))


def _name(options: Options, services: Services) -> str:
    """Return the model and image size of prompts that do not name their own."""
    model = _defaults(options, services).model
    name = model if model == options.model else f"{options.model} = {model}"
    size = options.image_size or default_size(model)
    return f"{name} {size}" if size else name
