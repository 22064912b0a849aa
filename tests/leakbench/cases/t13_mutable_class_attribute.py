"""A list in the class instead of in the object: all baskets are one.

Mended: made in __init__.
"""

from __future__ import annotations

from tests.leakbench.case import Case, Operation, kept

CASE = Case(
    id="T13",
    title="mutable default in a class",
    sites=kept(__file__),
    holder="items",
    bytes_per_operation=400,
)


class Basket:
    """What is bought."""

    items: list[dict[str, object]] = []  # noqa: RUF012 - the mistake

    def add(self, number: int) -> None:
        self.items.append({"article": f"article {number}", "amount": number})  # kept


class MendedBasket(Basket):
    """The same with a list of its own."""

    def __init__(self) -> None:
        self.items = []


def setup(fixed: bool) -> Operation:
    kind = MendedBasket if fixed else Basket

    def operation(number: int) -> None:
        kind().add(number)

    return operation
