"""gRPC servicer of HeapDumpService: questions about heap dumps, one after another in a thread of their own.

One thread, because a question may load a dump of millions of objects: several at once would need several times the
memory, and a core each. Those who have gone before their turn cost nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from glassbottom.wire.v1 import heapdump_pb2, heapdump_pb2_grpc

from .errors import answering
from .heapdump_cache import IDLE_S, StoredDumps
from .heapdump_query import HeapDumpAnswers

Request = TypeVar("Request")
Response = TypeVar("Response")


class HeapDumps(heapdump_pb2_grpc.HeapDumpServiceServicer):
    """Everything a person can ask about a heap dump. Errors: see heapdump.proto."""

    def __init__(self, dumps: StoredDumps) -> None:
        self._dumps = dumps
        self._answers = HeapDumpAnswers(dumps)
        self._idle: asyncio.TimerHandle | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="glassbottom-heapdump")

    @answering
    async def DescribeDump(self, request: Any, context: Any) -> heapdump_pb2.DescribeDumpResponse:  # noqa: N802, ARG002
        """The dump as a whole."""
        return await self._in_turn(self._answers.describe, request)

    @answering
    async def LargestObjects(self, request: Any, context: Any) -> heapdump_pb2.LargestObjectsResponse:  # noqa: N802, ARG002
        """The objects that retain most."""
        return await self._in_turn(self._answers.largest, request)

    @answering
    async def TypeTotals(self, request: Any, context: Any) -> heapdump_pb2.TypeTotalsResponse:  # noqa: N802, ARG002
        """All objects by type or module."""
        return await self._in_turn(self._answers.types, request)

    @answering
    async def HolderPaths(self, request: Any, context: Any) -> heapdump_pb2.HolderPathsResponse:  # noqa: N802, ARG002
        """Who holds something."""
        return await self._in_turn(self._answers.paths, request)

    @answering
    async def RetainedObjects(self, request: Any, context: Any) -> heapdump_pb2.RetainedObjectsResponse:  # noqa: N802, ARG002
        """What would be freed with an object."""
        return await self._in_turn(self._answers.retained, request)

    @answering
    async def LeakSuspects(self, request: Any, context: Any) -> heapdump_pb2.LeakSuspectsResponse:  # noqa: N802, ARG002
        """What is suspicious."""
        return await self._in_turn(self._answers.suspects, request)

    @answering
    async def CompareDumps(self, request: Any, context: Any) -> heapdump_pb2.CompareDumpsResponse:  # noqa: N802, ARG002
        """What changed between two dumps."""
        return await self._in_turn(self._answers.compare, request)

    async def _in_turn(self, answer: Callable[[Request], Response], request: Request) -> Response:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, answer, request)
        finally:
            if self._idle is not None:
                self._idle.cancel()
            self._idle = loop.call_later(IDLE_S + 1, self._let_idle_go)

    def _let_idle_go(self) -> None:
        asyncio.get_running_loop().run_in_executor(self._thread, self._dumps.let_idle_go)
