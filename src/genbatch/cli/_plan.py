"""What a run is about to do and cost, on one line, before it does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from genbatch import Prompt, estimate
from genbatch._throttle import parse_interval
from genbatch.gemini import JOB_SHARE, default_size, model_id, price
from genbatch.inputs import PromptFiles, StandardInput

from ._console import clock
from ._result import Options
from ._run import Prompts

_EXPENSIVE = 10.0  # US dollars that somebody is asked about first
_FEW = 10  # images that are not worth the wait for a job


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is about to do.

    Attributes:
        line: For the user.
        row: The same as JSON.
        is_expensive: Whether to ask first.
    """

    line: str
    row: str
    is_expensive: bool


def foresee(prompts: Prompts, options: Options, pace: str | None) -> Plan:
    """Say what prompts, which no call has been made for, will come to; this may read them all."""
    if isinstance(prompts, StandardInput):
        return _foresee_each(options, pace)
    plan = estimate(
        prompts,
        save_dir=options.save_dir,
        namespace=options.namespace,
        model=options.model,
        aspect_ratio=options.aspect_ratio,
        image_size=options.image_size,
        price=options.price,
        rate=None if pace is None else 1 / parse_interval(pace),
    )
    parts = [f"{plan.prompts:,} prompts", f"{plan.done:,} done", f"{plan.calls:,} to make"]
    parts.append(_models(prompts, options))
    parts.append("price unknown" if plan.cost is None else _both_prices(plan.cost, plan.calls))
    if plan.seconds is not None and pace is not None:
        parts.append(f"about {clock(plan.seconds)} at {pace}")
    by_batch = None if plan.cost is None else JOB_SHARE * plan.cost
    known = {"calls": plan.calls, "batch_cost": by_batch, "model": model_id(options.model)}
    row = json.dumps({**asdict(plan), **known})
    cost = plan.cost if options.via == "live" else by_batch
    return Plan(" · ".join(parts), row, cost is not None and cost > _EXPENSIVE)


def _foresee_each(options: Options, pace: str | None) -> Plan:
    """Say what each prompt will come to, where nobody knows yet how many there will be."""
    each = price(options.model, options.image_size) if options.price is None else options.price
    parts = ["prompts as they come", _name(options)]
    parts.append("price unknown" if each is None else f"about ${each:,.3f} each")
    if pace is not None:
        parts.append(f"at {pace}")
    return Plan(" · ".join(parts), "", False)


def _both_prices(cost: float, calls: int) -> str:
    """Return what live calls will cost, and jobs where there is enough to make."""
    about = f"about {_dollars(cost)}"
    return about if calls < _FEW else f"{about}, by batch {_dollars(JOB_SHARE * cost)}"


def _dollars(cost: float) -> str:
    return f"${cost:,.0f}" if cost >= 100 else f"${cost:,.2f}"


def _models(prompts: PromptFiles | Sequence[str | Prompt], options: Options) -> str:
    if isinstance(prompts, PromptFiles):
        own = {model for (model, _, _), count in prompts.asked.items() if model and count}
    else:
        own = {each.model for each in prompts if isinstance(each, Prompt) and each.model}
    is_mixed = own - {options.model, model_id(options.model)}
    return f"{_name(options)} and models of their own" if is_mixed else _name(options)


def _name(options: Options) -> str:
    """Return the model and the size of images that bring none of their own."""
    model = model_id(options.model)
    name = model if model == options.model else f"{options.model} = {model}"
    size = options.image_size or default_size(model)
    return f"{name} {size}" if size else name
