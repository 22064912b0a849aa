"""A data frame that lives as long as the process and carries a note of each use in its attrs.

Mended: the last note only.
"""

from __future__ import annotations

from tests.leakbench.case import Case, Operation, kept

CASE = Case(
    id="T8",
    title="pandas: history in DataFrame.attrs",
    sites=kept(__file__),
    holder="attrs",
    bytes_per_operation=500,
    environments={"both": "misuse"},
)


def setup(fixed: bool) -> Operation:
    import pandas

    prices = pandas.DataFrame({"price": [1.0, 2.0, 3.0]})

    def operation(number: int) -> float:
        name = "last" if fixed else f"run {number}"  # kept
        prices.attrs[name] = [number * 1000 + each for each in range(8)]  # kept
        return float(prices["price"].to_numpy().sum())

    return operation
