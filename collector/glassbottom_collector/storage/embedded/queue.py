"""What waits for the writer: a bounded queue that keeps each session's batches in order, also when it refuses one.

Nothing blocks here. What does not fit is refused and counted, and so is everything after it in its lane (session
and stream) until the session is opened again: taking a later batch would lift the high-water mark above the one
that was refused, and it would never be stored.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ...config import CommitConfig
from ...errors import StorageError, StorageFull
from ...model.process import Process
from .columns import Arrival

LANES_REFUSED_MAX = 50_000
"""Lanes remembered as refused; each is forgotten when its session is opened again."""


@dataclass
class Request:
    """One thing to do, and whom to tell. content None: open the session."""

    session_id: str
    process: Process
    agent_version: str
    content: Arrival | None
    rows: int
    bytes: int
    queued_s: float
    future: asyncio.Future[Mapping[int, int] | None]

    @classmethod
    def now(cls, session_id: str, process: Process, agent_version: str, content: Arrival | None) -> Request:
        """A request to be answered in the event loop that runs now."""
        rows, size = (0, 0) if content is None else (content.rows, content.bytes)
        future = asyncio.get_running_loop().create_future()
        return cls(session_id, process, agent_version, content, rows, size, time.monotonic(), future)

    @property
    def data(self) -> Arrival:
        """The content of a request that has one."""
        assert self.content is not None
        return self.content

    @property
    def lane(self) -> tuple[str, int]:
        """Session and stream: what must stay in order."""
        return self.session_id, self.data.key.stream


class RequestQueue:
    """Filled from event loops, emptied by the writer's thread. `counters` are for a person to see."""

    def __init__(self, limits: CommitConfig, bytes_max: int) -> None:
        self._limits = limits
        self._bytes_max = bytes_max
        self._changed = threading.Condition()
        self._waiting: deque[Request] = deque()
        self._bytes = 0
        self._rows = 0
        self._opens = 0
        self._closing = False
        self._hurrying = False
        # Lane to the first seq that was refused.
        self._refused: OrderedDict[tuple[str, int], int] = OrderedDict()
        self.counters = {"queue_bytes_high": 0.0, "batches_refused_total": 0.0}

    def put(self, request: Request) -> None:
        """Queues it, or answers it with StorageError or StorageFull at once."""
        with self._changed:
            refusal: StorageError | None = None
            if self._closing:
                refusal = StorageError("The store is closing; connect again.")
            elif request.content is not None:
                refusal = self._refusal(request)
                if refusal is None and self._bytes + request.bytes > self._bytes_max:
                    refusal = StorageFull("The queue of the store is full; send it again later.")
                    self._refuse([request])
            if refusal is not None:
                self.counters["batches_refused_total"] += request.content is not None
                request.future.set_exception(refusal)
                return
            self._waiting.append(request)
            self._count(request, 1)
            self.counters["queue_bytes_high"] = max(self.counters["queue_bytes_high"], self._bytes)
            self._changed.notify_all()

    def take(self, idle_s: float) -> list[Request] | None:
        """The next requests of one kind, once a limit is reached; empty after so long without any; None at the end."""
        with self._changed:
            until_s = time.monotonic() + idle_s
            while not (self._closing or self._due()):
                now_s = time.monotonic()
                if self._waiting:
                    self._changed.wait(max(0.0, self._waiting[0].queued_s + self._limits.wait_ms_max / 1e3 - now_s))
                elif now_s >= until_s:
                    return []
                else:
                    self._changed.wait(until_s - now_s)
            return self._group() if self._waiting else None

    def refuse(self, requests: Iterable[Request]) -> None:
        """Bars their lanes from there on."""
        with self._changed:
            self._refuse(requests)

    def refusal(self, request: Request) -> StorageError | None:
        """Why a queued batch may not be stored any more; None when it may."""
        with self._changed:
            return self._refusal(request)

    def reopen(self, session_ids: set[str]) -> None:
        """Takes their batches again."""
        with self._changed:
            for lane in [lane for lane in self._refused if lane[0] in session_ids]:
                del self._refused[lane]

    def hurry(self) -> None:
        """From now on no group waits to be filled."""
        with self._changed:
            self._hurrying = True
            self._changed.notify_all()

    def close(self) -> None:
        """Nothing more comes in; what waits is still taken."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def waiting(self) -> tuple[int, int]:
        """Requests and bytes."""
        with self._changed:
            return len(self._waiting), self._bytes

    # With the lock held

    def _due(self) -> bool:
        return bool(self._waiting) and (
            self._hurrying
            or self._opens > 0  # an agent that waits for its Welcome should not wait for a group to fill
            or self._rows >= self._limits.rows_max
            or self._bytes >= self._limits.bytes_max
            or time.monotonic() - self._waiting[0].queued_s >= self._limits.wait_ms_max / 1e3
        )

    def _group(self) -> list[Request]:
        opens = self._waiting[0].content is None
        group: list[Request] = []
        rows = size = 0
        while self._waiting and (self._waiting[0].content is None) == opens:
            if group and (rows >= self._limits.rows_max or size >= self._limits.bytes_max):
                break
            request = self._waiting.popleft()
            self._count(request, -1)
            group.append(request)
            rows += request.rows
            size += request.bytes
        return group

    def _count(self, request: Request, sign: int) -> None:
        self._bytes += sign * request.bytes
        self._rows += sign * request.rows
        self._opens += sign * (request.content is None)

    def _refuse(self, requests: Iterable[Request]) -> None:
        for request in requests:
            self._refused[request.lane] = min(request.data.key.seq, self._refused.get(request.lane, 2**64))
        while len(self._refused) > LANES_REFUSED_MAX:
            self._refused.popitem(last=False)

    def _refusal(self, request: Request) -> StorageError | None:
        first = self._refused.get(request.lane)
        if first is None or request.data.key.seq < first:
            return None
        return StorageError("An earlier batch of this session could not be stored; connect and send it again.")
