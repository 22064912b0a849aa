"""atexit.register(bound method) per object: the interpreter keeps each of them until it ends.

Mended: unregistered when the object is closed.
"""

from __future__ import annotations

import atexit

from tests.leakbench.case import Case, Operation, kept

CASE = Case(
    id="S3",
    title="atexit.register(bound method) per object",
    sites=kept(__file__),
    holder="atexit",
    bytes_per_operation=730,
)


class Connection:
    """Wants to say goodbye, whatever happens."""

    def __init__(self, number: int) -> None:
        self.buffer = bytearray(400)  # kept
        self.number = number
        atexit.register(self.close)  # kept

    def close(self) -> None:
        self.buffer.clear()


class MendedConnection(Connection):
    """Once closed it has nothing to say any more."""

    def close(self) -> None:
        super().close()
        atexit.unregister(self.close)


def setup(fixed: bool) -> Operation:
    kind = MendedConnection if fixed else Connection

    def operation(number: int) -> None:
        kind(number).close() if fixed else kind(number)  # kept

    return operation
