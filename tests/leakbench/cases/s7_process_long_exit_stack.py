"""A process-long ExitStack that every request enters something into; nothing leaves it before the end.

Mended: a stack per request.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tests.leakbench.case import Case, Operation, kept

CASE = Case(
    id="S7",
    title="process-long ExitStack.enter_context",
    sites=kept(__file__),
    holder="_exit_callbacks",
    bytes_per_operation=430,
)


@contextlib.contextmanager
def transaction(number: int) -> Iterator[int]:
    """What a request works in."""
    yield number


def setup(fixed: bool) -> Operation:
    forever = contextlib.ExitStack()

    def mended(number: int) -> int:
        with contextlib.ExitStack() as stack:
            return stack.enter_context(transaction(number))

    def leaky(number: int) -> int:
        return forever.enter_context(transaction(number))  # kept

    return mended if fixed else leaky
