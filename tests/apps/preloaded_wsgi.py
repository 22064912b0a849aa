"""A WSGI service that starts the agent when imported: under `gunicorn --preload`, before the workers are forked."""

import os
from collections.abc import Callable, Iterable

import glassbottom

glassbottom.init(service="preloaded")
_kept: list[list[str]] = []


def app(_environ: dict[str, object], start_response: Callable[..., object]) -> Iterable[bytes]:
    """Answers with the worker's process id; keeps a little of every request."""
    _kept.append([str(number) for number in range(2000)])
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
