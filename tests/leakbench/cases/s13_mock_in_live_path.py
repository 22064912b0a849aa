"""A MagicMock left in a live path: it remembers every call with its arguments.

Mended: a function that does nothing.
"""

from __future__ import annotations

from unittest.mock import MagicMock

from tests.leakbench.case import Case, Operation, kept

CASE = Case(
    id="S13",
    title="MagicMock in a live path",
    sites=kept(__file__),
    holder="mock_calls",
    bytes_per_operation=1550,
)


def silent(_request: dict[str, object]) -> None:
    """What it should have been."""


def setup(fixed: bool) -> Operation:
    audit = silent if fixed else MagicMock()

    def operation(number: int) -> None:
        audit({"number": number, "path": f"/orders/{number}"})  # kept

    return operation
