"""gRPC servicer of Query: every question goes to those who can answer it, in a thread.

Reads and arithmetic run in a few threads of its own, so that a long analysis neither stops ingest nor waits behind
other questions without bound. A cancelled call ends its analysis at the next step.
"""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from glassbottom.wire.v1 import query_pb2, query_pb2_grpc

from .. import __version__
from ..model.live import LiveInstances
from ..storage import Reader, StoreStatistics
from .errors import answering, streaming
from .heap_query import HeapAnswers
from .heapdump_cache import StoredDumps
from .instances import services, status
from .selection import range_of
from .time_query import TimeAnswers

THREADS = 4

P = ParamSpec("P")
R = TypeVar("R")


class Query(query_pb2_grpc.QueryServiceServicer):
    """Everything a person can ask. Errors: see query.proto.

    statistics: the store's and ingest's counters, asked for on each Status call, from a thread. clock_ns: now.
    dumps: heap dumps that say who holds what leaks; None where none are stored.
    """

    def __init__(
        self,
        reader: Reader,
        live: LiveInstances,
        statistics: Callable[[], StoreStatistics],
        started_at_ns: int,
        clock_ns: Callable[[], int] = time.time_ns,
        dumps: StoredDumps | None = None,
    ) -> None:
        self._reader = reader
        self._live = live
        self._statistics = statistics
        self._started_at_ns = started_at_ns
        self._clock_ns = clock_ns
        self._heap = HeapAnswers(reader, clock_ns, dumps)
        self._time = TimeAnswers(reader, clock_ns)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="glassbottom-query")

    @answering
    async def ListServices(self, request: Any, context: Any) -> query_pb2.ListServicesResponse:  # noqa: N802, ARG002
        """Services seen in a range, and those connected if it reaches to now."""
        now_ns = self._clock_ns()
        within = range_of(request.range, request.HasField("range"), now_ns)
        found = await self._in_thread(services, self._reader, list(self._live.instances()), within, now_ns)
        return query_pb2.ListServicesResponse(services=found)

    @answering
    async def Status(self, request: Any, context: Any) -> query_pb2.StatusResponse:  # noqa: N802, ARG002
        """The collector's health, and every process connected or seen within the last hour."""
        now_ns = self._clock_ns()
        live = list(self._live.instances())
        instances = await self._in_thread(status, self._reader, live, request.service, now_ns)
        store = await self._in_thread(self._statistics)
        collector = query_pb2.CollectorStatus(
            version=__version__,
            started_at_ns=self._started_at_ns,
            problems=store.problems,
            statistics=dict(store.values),
        )
        return query_pb2.StatusResponse(collector=collector, instances=instances)

    @answering
    async def Top(self, request: Any, context: Any) -> query_pb2.TopResponse:  # noqa: N802, ARG002
        """Who holds memory at a moment."""
        return await self._in_thread(self._heap.top, request)

    @answering
    async def Timeline(self, request: Any, context: Any) -> query_pb2.TimelineResponse:  # noqa: N802, ARG002
        """How a service's memory moved."""
        return await self._in_thread(self._heap.timeline, request)

    @answering
    async def Diff(self, request: Any, context: Any) -> query_pb2.DiffResponse:  # noqa: N802, ARG002
        """What grew between two moments."""
        return await self._in_thread(self._heap.diff, request)

    @streaming
    async def Profile(self, request: Any, context: Any) -> AsyncIterator[query_pb2.ProfileResponse]:  # noqa: N802, ARG002
        """Whole call paths, in pieces."""
        of_time = request.kind == query_pb2.PROFILE_KIND_TIME
        found = await self._in_thread(self._time.profile if of_time else self._heap.profile, request)
        while (piece := await self._in_thread(next, found, None)) is not None:
            yield piece

    @streaming
    async def Leaks(self, request: Any, context: Any) -> AsyncIterator[query_pb2.LeaksResponse]:  # noqa: N802, ARG002
        """Progress while it works, then the report."""
        loop = asyncio.get_running_loop()
        messages: asyncio.Queue[query_pb2.LeaksResponse] = asyncio.Queue()
        cancelled = threading.Event()

        def tell(stage: str, done: int, total: int) -> None:
            if cancelled.is_set():
                raise _Cancelled
            progress = query_pb2.Progress(stage=stage, done=done, total=total)
            loop.call_soon_threadsafe(messages.put_nowait, query_pb2.LeaksResponse(progress=progress))

        analysis = asyncio.ensure_future(self._in_thread(self._heap.leaks, request, tell))
        analysis.add_done_callback(lambda _: messages.put_nowait(_END))
        try:
            while (message := await messages.get()) is not _END:
                yield message
            yield query_pb2.LeaksResponse(report=await analysis)
        finally:
            cancelled.set()
            # Its thread stops at its next step; nobody is left to hear what it says then.
            analysis.add_done_callback(lambda done: done.cancelled() or done.exception())

    @answering
    async def Slow(self, request: Any, context: Any) -> query_pb2.SlowResponse:  # noqa: N802, ARG002
        """What takes long."""
        return await self._in_thread(self._time.slow, request)

    @answering
    async def Tasks(self, request: Any, context: Any) -> query_pb2.TasksResponse:  # noqa: N802, ARG002
        """What every task waits for."""
        return await self._in_thread(self._time.tasks, request)

    @answering
    async def Blocked(self, request: Any, context: Any) -> query_pb2.BlockedResponse:  # noqa: N802, ARG002
        """What held event loops."""
        return await self._in_thread(self._time.blocked, request)

    @answering
    async def Findings(self, request: Any, context: Any) -> query_pb2.FindingsResponse:  # noqa: N802, ARG002
        """Everything that looks wrong, in one list."""
        return await self._in_thread(self._time.findings, request)

    async def _in_thread(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, functools.partial(function, *args, **kwargs))


class _Cancelled(Exception):  # noqa: N818 - ends an analysis nobody waits for
    """The caller has gone."""


_END = query_pb2.LeaksResponse()
