"""How tests open an archive, plan in it and save to it, without an event loop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from genbatch import Image, ImageRequest, Prompt
from genbatch._store._archive import Archive
from genbatch._store._keys import DEFAULT_TEMPLATE, digests_of_texts
from genbatch._store._plan import BegunCall, Plan, PlanRequest, Policy


def content_digest(namespace: str, request: ImageRequest) -> str:
    """Return the digest of all that a request asks for."""
    return digests_of_texts(namespace, request)(request.text)


def image(number: int = 0, **changes: Any) -> Image:
    """Return an image like no other of another number."""
    data = b"\x89PNG\r\n\x1a\n" + f"image {number}".encode() * 20
    return Image(**{"data": data, "mime_type": "image/png", "model": "m", "cost": 0.5} | changes)


def open_archive(
    directory: Path, *, fresh: bool = False, template: str = DEFAULT_TEMPLATE, **policy: Any
) -> Archive:
    return Archive(Policy(directory, template, **policy), fresh=fresh)


@contextmanager
def opened(directory: Path, **options: Any) -> Iterator[Archive]:
    archive = open_archive(directory, **options)
    try:
        yield archive
    finally:
        archive.close()


def wanted(index: int, prompt: str | Prompt | ImageRequest, namespace: str = "") -> PlanRequest:
    request = prompt if isinstance(prompt, ImageRequest) else ImageRequest.of(prompt, {})
    return PlanRequest.of(index, request, content_digest(namespace, request))


def plan_all(
    archive: Archive, prompts: list[Any], namespace: str = "", *, whole: bool = True
) -> list[Plan]:
    """Plan an input as a whole, and return the plans."""
    batch = archive.begin_batch(namespace)
    asked = [wanted(index, prompt, namespace) for index, prompt in enumerate(prompts)]
    archive.plan(batch, namespace, asked, {}, 0)
    archive.end_batch(batch, {}, whole=whole)
    for each in asked:
        if each.error is not None:
            raise each.error
    return [each.plan for each in asked if each.plan is not None]


def begin(archive: Archive, plan: Plan, price: float | None = 0.25) -> BegunCall:
    """Begin a call and send an attempt of it."""
    call = archive.begin(plan)
    assert isinstance(call, BegunCall)
    archive.send(call, price)
    return call


def fail(archive: Archive, call: BegunCall, error: Exception) -> None:
    """Let a call fail, that cannot have been paid."""
    archive.unsend(call)
    archive.fail(call, error)


def make_all(archive: Archive, prompts: list[Any], namespace: str = "") -> list[Plan]:
    """Plan an input and make every image that is missing."""
    plans = plan_all(archive, prompts, namespace)
    for number, plan in enumerate(plans):
        if plan.saved is None and plan.error is None:
            archive.save(begin(archive, plan), image(number), 1.0)
    return plans
