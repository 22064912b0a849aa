"""matplotlib.pyplot keeps every figure until it is closed.

Mended: closed.
"""

from __future__ import annotations

from tests.leakbench.case import Case, Operation, kept

CASE = Case(
    id="T3",
    title="matplotlib.pyplot figures never closed",
    sites=kept(__file__),
    holder="figs",
    bytes_per_operation=260_000,
    per_second=4,
    environments={"both": "misuse"},
)


def setup(fixed: bool) -> Operation:
    import warnings

    from matplotlib import pyplot

    warnings.simplefilter("ignore")

    def operation(number: int) -> None:
        figure = pyplot.figure(figsize=(2, 2))  # kept
        axes = figure.add_subplot()  # kept
        axes.plot([number, number + 1])  # kept
        if fixed:
            pyplot.close(figure)

    return operation
