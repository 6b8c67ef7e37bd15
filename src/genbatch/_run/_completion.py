"""Completion: a prompt with every setting that it can have."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from genbatch._values import Prompt
from genbatch.gemini import SETTINGS_OF_A_PROMPT, Settings


class Completion:
    """Gives a prompt every setting that it can have, and returns the others beside it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._own, self._others = split(settings)

    def __call__(self, prompt: str | Prompt) -> tuple[Prompt, dict[str, Any]]:
        if isinstance(prompt, str):  # most are, and a run that resumes completes many in no time
            return Prompt(prompt, **self._own), self._others
        prompt = Prompt.of(prompt)
        own, others = split(self._settings.overridden_by(prompt).checked())
        return replace(prompt, **own), others


def split(settings: Settings) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings that are given, those that a prompt can have apart from the others."""
    values = {each.name: getattr(settings, each.name) for each in fields(settings)}
    given = {name: value for name, value in values.items() if value is not None}
    return {name: given.pop(name) for name in SETTINGS_OF_A_PROMPT if name in given}, given
