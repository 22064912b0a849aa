"""Heap dumps read from files here, by the same code that answers in a collector.

The only module of the command line that reaches into the collector's analysis, and it does so late: reading a file
needs the collector's extra, asking a collector does not.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from .exits import CliError, UsageError

if TYPE_CHECKING:
    from glassbottom.wire.v1 import heapdump_pb2

    from ..api.heapdump_query import Found
    from ..heapdump import HeapDump

Request = TypeVar("Request")
Response = TypeVar("Response")


class Files:
    """What a stub of HeapDumpService answers, from files: capture_id is the path of one."""

    def __init__(self) -> None:
        from ..api.heapdump_query import HeapDumpAnswers

        answers = HeapDumpAnswers(_Loaded())
        self.LargestObjects = _translated(answers.largest)
        self.TypeTotals = _translated(answers.types)
        self.HolderPaths = _translated(answers.paths)
        self.RetainedObjects = _translated(answers.retained)
        self.LeakSuspects = _translated(answers.suspects)
        self.CompareDumps = _translated(answers.compare)


class _Loaded:
    """Each file once, also when a dump is compared with itself."""

    def __init__(self) -> None:
        self._dumps: dict[str, HeapDump] = {}

    def find(self, selector: heapdump_pb2.DumpSelector) -> Found:
        from ..api.heapdump_query import Found
        from ..heapdump import load

        path = selector.capture_id
        if path not in self._dumps:
            self._dumps[path] = load(Path(path))
        return Found(path, self._dumps[path], self._dumps[path].summary())


def _translated(answer: Callable[[Request], Response]) -> Callable[..., Response]:
    """The method as a stub has it: with a timeout, which a file does not need, and errors of the command line."""
    from ..errors import BadRequest, CollectorError

    def call(request: Request, timeout: float = 0) -> Response:  # noqa: ARG001
        try:
            return answer(request)
        except BadRequest as error:
            raise UsageError(str(error)) from None
        except CollectorError as error:
            raise CliError(str(error)) from None

    return call
