"""loguru's add() per request, without remove(): each sink stays.

Mended: removed.
"""

from __future__ import annotations

import os

from tests.leakbench.case import Case, Operation, kept

CASE = Case(
    id="B6",
    title="loguru.logger.add per request",
    sites=kept(__file__),
    holder="handlers",
    bytes_per_operation=5700,
    per_second=20,
    environments={"both": "misuse"},
)


def setup(fixed: bool) -> Operation:
    from loguru import logger

    logger.remove()

    def operation(number: int) -> None:
        sink = logger.add(os.devnull, level="CRITICAL")  # kept
        if fixed:
            logger.remove(sink)

    return operation
