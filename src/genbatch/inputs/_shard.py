"""Shards: an input divided among machines that know nothing of each other.

1. Every prompt is in exactly one of the shards of an input, and prompts that ask for the same are
   in the same one: so many of them have as many images.
2. Where a prompt belongs follows from itself alone: it stays there when rows around it come or go.
3. Each keeps its place in the whole input, by which it is numbered and its image is named.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from re import fullmatch
from typing import Self

from genbatch._values import Prompt

from ._sources import PromptFiles


@dataclass(frozen=True, slots=True)
class Shard:
    """One of so many parts of an input; as text, such as ``1/2``.

    Attributes:
        number: From 1.
        count: How many there are.
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the shard that a text names.

        Raises:
            ValueError: If it names none.
        """
        found = fullmatch(r"\s*([0-9]{1,6})\s*/\s*([0-9]{1,6})\s*", text)
        number, count = map(int, found.groups()) if found else (0, 0)
        if not 1 <= number <= count:
            raise ValueError(f"{text!r:.40} is not like 1/2, the first of two shards")
        return cls(number, count)

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def has(self, prompt: str | Prompt) -> bool:
        """Return whether a prompt is in this shard."""
        each = Prompt.of(prompt)
        asked = f"{each.seed} {each.text.strip()}".encode("utf-8", "surrogatepass")
        return int.from_bytes(sha256(asked).digest()[:8]) % self.count == self.number - 1

    def of(self, prompts: Iterable[str | Prompt]) -> PromptFiles:
        """Return the prompts of an input that are in this shard; this reads all of it.

        Raises:
            ValueError: If a file has changed since it was checked.
        """
        positions, asked = array("Q"), Counter[tuple[str | None, str | None, str | None]]()
        for position, each in enumerate(map(Prompt.of, prompts)):
            if self.has(each):
                positions.append(position)
                asked[each.model, each.aspect_ratio, each.image_size] += 1
        source = f"{getattr(prompts, 'source', '')} shard {self}"
        part = _Part(prompts, self)
        return PromptFiles([part], len(positions), asked, source, input_positions=positions)


@dataclass(frozen=True, slots=True)
class _Part:
    prompts: Iterable[str | Prompt]
    shard: Shard

    def __iter__(self) -> Iterator[Prompt]:
        return filter(self.shard.has, map(Prompt.of, self.prompts))
