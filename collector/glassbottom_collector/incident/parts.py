"""What a captured incident is put together from: collectors that each look at one thing, and files they leave.

An incident is captured fail-forward: a collector that cannot do its work says so in one sentence, and the others go on.
Everything is planned before anything is read, so that a person can see every query and file beforehand (`--dry-run`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Cost = Literal["cheap", "medium", "heavy"]
Role = Literal["agent", "collector", "primary", "standby", "cache", "file"]


@dataclass(frozen=True)
class Planned:
    """One thing that would be read. what: the statement, the command line or the path, complete, without secrets.
    node: where, as HOST:PORT/DATABASE, an instance id or a path; role: what that is."""

    what: str
    node: str
    role: Role
    cost: Cost = "cheap"
    timeout_s: float = 5.0


class CollectingError(Exception):
    """A collector could not do its work. The text is one sentence: what happened and what to do."""


class RefusedError(CollectingError):
    """It must not be done: the wrong role, a user who can write, a server that lags or is short of connections."""


class Sink(Protocol):
    """Takes what a collector found. Redacts everything that is text before it is kept, and bounds its size."""

    def text(self, path: str, text: str, *, node: str, role: Role) -> None:
        """A file of the archive, by its path in it, such as `db/orders/schema.sql`. Raises CollectingError for a path
        that is taken or leaves the archive."""
        ...

    def json(self, path: str, value: Any, *, node: str, role: Role) -> None:
        """The same as JSON, with sorted keys. Values of str, int, float, bool, None, list and dict."""
        ...

    def numbers(self, path: str, data: bytes, *, node: str, role: Role) -> None:
        """A binary file without any text in it, such as a table whose texts are indices into a file of their own. It is
        kept as it is; the scan of the finished archive looks at its bytes."""
        ...

    def note(self, sentence: str) -> None:
        """Something the reader must know that is no failure: what was left out, and why. At most 100 a collector."""
        ...

    def anonymised(self, path: str, text: str, *, node: str, role: Role) -> None:
        """A file whose values have been masked one by one already (the sample of rows): kept as it is, but the scan of
        the finished archive looks at it as at everything else."""
        ...


class Collector(Protocol):
    """Looks at one thing. `name` is unique in a capture and names its entry in manifest.json, such as `postgres.locks`.
    budget_s: it is told to end then; a collector must set its own timeouts so that it does."""

    @property
    def name(self) -> str: ...

    @property
    def budget_s(self) -> float: ...

    def plan(self) -> Sequence[Planned]:
        """Everything collect() would read, without reading it."""
        ...

    def collect(self, sink: Sink, deadline_s: float) -> None:
        """Does it. deadline_s: a time of time.monotonic(). Called in a thread of its own.

        Raises CollectingError; anything else is a mistake of ours and is recorded as one.
        """
        ...


def as_json(value: Any) -> str:
    """JSON as every file of an archive has it: the same value is the same bytes."""
    return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
