"""A WeakKeyDictionary whose values refer to their own keys: weak in name only.

Mended: the value knows the key's name.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

from tests.leakbench.case import Case, Operation, kept

CASE = Case(
    id="T12",
    title="WeakKeyDictionary whose value refers to its key",
    sites=kept(__file__),
    holder="WeakKeyDictionary",
    bytes_per_operation=900,
)


class User:
    """Who asks."""

    def __init__(self, number: int) -> None:
        self.name = f"user {number}"  # kept
        self.rights = [number * 1000 + each for each in range(8)]  # kept


def setup(fixed: bool) -> Operation:
    carts: WeakKeyDictionary[User, dict[str, object]] = WeakKeyDictionary()

    def operation(number: int) -> int:
        user = User(number)  # kept
        carts[user] = {"owner": user.name if fixed else user, "items": number}  # kept
        return len(carts)

    return operation
