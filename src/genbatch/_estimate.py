"""estimate: what a batch will ask for and cost, without a call."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ._prompt import Prompt
from .gemini._models import model_id
from .gemini._models import price as price_of


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a batch will take.

    Attributes:
        prompts: Prompts in it.
        done: Images of it that are there already.
        cost: US dollars expected for the others, None where a price is unknown.
        seconds: How long it will take at the rate given, None without one.
    """

    prompts: int
    done: int
    cost: float | None
    seconds: float | None

    @property
    def calls(self) -> int:
        """Calls to be made, retries not counted."""
        return self.prompts - self.done


def estimate(
    prompts: Iterable[str | Prompt],
    *,
    model: str = "flash",
    image_size: str | None = None,
    price: float | None = None,
    rate: float | None = None,
    done: Iterable[int] = (),
) -> Estimate:
    """Return how many calls a batch will make, and what they are expected to cost.

    Args:
        prompts: Finite; read once.
        model: ``"flash"``, ``"pro"``, ``"lite"``, or any full model id, for prompts without one.
        image_size: ``"1K"``, ``"2K"`` or ``"4K"``, for prompts without one.
        price: US dollars an image, in place of the price table's.
        rate: Calls that start in a second.
        done: Indexes of prompts whose image is there already.

    Raises:
        ValueError: If a model cannot be one, a prompt is blank, or rate is not above 0.
    """
    if rate is not None and not rate > 0:
        raise ValueError(f"rate must be > 0 calls a second, got {rate}")
    made = frozenset(done)
    default, size = model_id(model), image_size
    number = skipped = 0
    cost: float | None = 0.0
    for index, each in enumerate(prompts):
        number += 1
        if index in made:
            skipped += 1
            continue
        prompt = Prompt.of(each)
        expected = price
        if expected is None:
            expected = price_of(prompt.model or default, prompt.image_size or size)
        cost = None if cost is None or expected is None else cost + expected
    seconds = None if rate is None else (number - skipped) / rate
    return Estimate(number, skipped, cost, seconds)
