"""hiredis 2.2.2, redis-py #2693: a C type that takes part in cycles without telling the garbage collector.

Mended in 2.2.3.
"""

from __future__ import annotations

from tests.leakbench.case import CYCLIC, FIXED, LEAKY, REACHABLE, Case, Operation, kept

CASE = Case(
    id="A8",
    title="hiredis 2.2.2: Reader without tp_traverse in a cycle",
    kinds=(CYCLIC, REACHABLE),
    sites=kept(__file__),
    holder="Reader",
    bytes_per_operation=1300,
    environments={LEAKY: "hiredis-2.2.2", FIXED: "hiredis-2.2.3"},
)


def setup(fixed: bool) -> Operation:
    import hiredis

    class Parser:
        """As redis-py's: the reader knows a method of the object that has the reader."""

        def __init__(self, number: int) -> None:
            self.pending = [number * 1000 + each for each in range(8)]  # kept
            self.reader = hiredis.Reader(replyError=self.error)  # kept

        def error(self, text: str) -> Exception:
            return ValueError(text)

    def operation(number: int) -> object:
        parser = Parser(number)  # kept
        parser.reader.feed(b"+OK\r\n")
        return parser.reader.gets()

    return operation
