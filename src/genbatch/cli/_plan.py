"""What a run is about to do and cost, on one line, before it does."""

from __future__ import annotations

from dataclasses import dataclass

from genbatch import Prompt, estimate
from genbatch._pace import parse_interval
from genbatch.gemini._models import default_size, model_id

from ._display import clock
from ._run import Options, Prompts

_EXPENSIVE = 10.0  # US dollars that somebody is asked about first


@dataclass(frozen=True, slots=True)
class Plan:
    """A line for the user, and whether to ask first."""

    line: str
    is_expensive: bool


def foresee(prompts: Prompts, options: Options, pace: str | None) -> Plan:
    """Read all prompts, which no call has been made for, and say what they will come to."""
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
    parts.append("price unknown" if plan.cost is None else f"about {_dollars(plan.cost)}")
    if plan.seconds is not None and pace is not None:
        parts.append(f"about {clock(plan.seconds)} at {pace}")
    return Plan(" · ".join(parts), plan.cost is not None and plan.cost > _EXPENSIVE)


def _dollars(cost: float) -> str:
    return f"${cost:,.0f}" if cost >= 100 else f"${cost:,.2f}"


def _models(prompts: Prompts, options: Options) -> str:
    own = {each.model for each in prompts if isinstance(each, Prompt) and each.model}
    model = model_id(options.model)
    name = model if model == options.model else f"{options.model} = {model}"
    size = options.image_size or default_size(model)
    described = f"{name} {size}" if size else name
    return f"{described} and models of their own" if own - {options.model, model} else described
