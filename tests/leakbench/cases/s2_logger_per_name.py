"""logging.getLogger with a name of its own per request: the manager keeps every logger for ever.

Mended: one logger, and the request's name in an adapter.
"""

from __future__ import annotations

import logging

from tests.leakbench.case import Case, Operation, kept

CASE = Case(
    id="S2",
    title="logging.getLogger(unique)",
    sites=kept(__file__),
    holder="loggerDict",
    bytes_per_operation=600,
)


def setup(fixed: bool) -> Operation:
    common = logging.getLogger("requests")

    def mended(number: int) -> None:
        logging.LoggerAdapter(common, {"request": f"request {number}"}).debug("served")

    def leaky(number: int) -> None:
        logging.getLogger(f"request {number}").debug("served")  # kept

    return mended if fixed else leaky
