"""lru_cache(maxsize=None) on a method: the cache's keys hold every object it was ever called on.

Mended: the value is cached on the object itself.
"""

from __future__ import annotations

from functools import cached_property, lru_cache

from tests.leakbench.case import Case, Operation, kept

CASE = Case(
    id="S1",
    title="lru_cache(None) on a method",
    sites=kept(__file__),
    holder="lru_cache",
    bytes_per_operation=700,
)


class Report:
    """One customer's numbers."""

    def __init__(self, number: int) -> None:
        self.rows = [number * 1000 + each for each in range(12)]  # kept

    @lru_cache(maxsize=None)  # noqa: B019, UP033 - the mistake, as it is usually made
    def total(self) -> int:
        return sum(self.rows)


class MendedReport(Report):
    """The same with the sum kept where it belongs."""

    @cached_property
    def total_once(self) -> int:
        return sum(self.rows)


def setup(fixed: bool) -> Operation:
    def mended(number: int) -> str:
        report = MendedReport(number)
        return f"{report.total_once} {report.total_once}"

    def leaky(number: int) -> str:
        report = Report(number)  # kept
        return f"{report.total()} {report.total()}"  # kept

    return mended if fixed else leaky
