"""What the sender needs from a way to the collector; channel.py is the real one, memory.py one for tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from ..wire.v1 import ingest_pb2


class Connection(Protocol):
    """One open session stream. No method waits, but close()."""

    def send(self, request: ingest_pb2.SessionRequest) -> None:
        """Hands a message over."""
        ...

    def receive(self) -> Sequence[ingest_pb2.SessionResponse]:
        """What has arrived since the last call."""
        ...

    def failure(self) -> str | None:
        """Why the stream has ended, in one sentence; None while it is open."""
        ...

    def close(self, timeout_s: float) -> bool:
        """Ends the stream and every thread behind it; False when some still run after timeout_s."""
        ...

    def abandon(self) -> None:
        """In a forked child: closes the descriptors it inherited. The peer must not notice, for the parent goes on."""
        ...


Connector = Callable[[Callable[[], None]], Connection]
"""Opens a connection; the argument is called, from any thread, when something has arrived or the stream has ended.

Raises CollectorUnavailable when it cannot even begin."""
