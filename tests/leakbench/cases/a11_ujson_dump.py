"""ujson 5.10.0, CVE-2026-44660: the text is not released when the file's write raises.

Mended in 5.12.1.
"""

from __future__ import annotations

import contextlib

from tests.leakbench.case import FIXED, LEAKY, NATIVE, REACHABLE, Case, Operation, kept

CASE = Case(
    id="A11",
    title="ujson 5.10.0: dump() to a file that fails",
    # A string nobody refers to and whose count never falls: Python's own memory, held by nothing.
    kinds=(REACHABLE, NATIVE),
    sites=kept(__file__),
    bytes_per_operation=2060,
    environments={LEAKY: "ujson-5.10.0", FIXED: "ujson-5.12.1"},
)


class FullDisk:
    """Cannot be written to."""

    def write(self, text: str) -> int:
        raise OSError("no space left on device")


def setup(fixed: bool) -> Operation:
    import ujson

    disk = FullDisk()
    rows = {"text": "x" * 2000}

    def operation(number: int) -> None:
        with contextlib.suppress(OSError):
            ujson.dump(rows, disk)  # kept

    return operation
