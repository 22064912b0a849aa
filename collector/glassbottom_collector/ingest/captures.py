"""Orders of captures on their way to agents, and what comes back: results, and files piece by piece.

A piece is acknowledged when it is durable, and the next message of that agent is read only then, so a file takes no
more memory here than one piece. What an agent says of a capture that is not its own, or that has ended, changes
nothing: it is told that it is settled, and lets go. Everything happens in the event loop's thread; the disk is written
in others.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from glassbottom.wire.v1 import ingest_pb2

from ..captures import CaptureStore
from ..captures.store import PIECE_BYTES_MAX
from ..errors import CollectorError, StorageError
from ..model.capture import FAILED, ORDERED, REFUSED, RUNNING, STORED, UPLOADING, CaptureRow
from .limits import IngestCounters
from .sessions import Connection, Registry

ANSWER_S = 30.0
"""How long an agent may take to say whether it will."""
RETIRE_EVERY_S = 3600.0
REASON_CHARACTERS_MAX = 1024
FACTS_MAX = 64
FACT_CHARACTERS_MAX = 512

_log = logging.getLogger(__name__)


class CaptureRelay:
    """Implements model.capture.CaptureOrders. start() and stop() belong to the event loop it is used in."""

    def __init__(
        self,
        store: CaptureStore,
        registry: Registry,
        counters: IngestCounters,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._store = store
        self._registry = registry
        self._counters = counters
        self._clock_ns = clock_ns
        self._changed = asyncio.Event()
        self._stopped = False
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Goes on with what a collector before this one has begun."""
        for row in self._store.unended():
            self._watch_over(row)
        self._retire_later()

    def stop(self) -> None:
        """Ends every watch; captures under way go on when the agent meets the next collector."""
        self._stopped = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        for task in self._tasks:
            task.cancel()
        self._notify()

    # CaptureOrders

    async def order(self, row: CaptureRow) -> CaptureRow:
        connection = self._connection_of(row)
        if connection is None:
            return await self._record(row, state=FAILED, reason="The process is not connected.")
        kind = _kind_of(row)
        if kind not in connection.commands_allowed:
            return await self._record(
                row,
                state=REFUSED,
                reason=f'The configuration of that process does not allow "{row.kind}"; add it to GLASSBOTTOM_COMMANDS '
                "there, or its agent is older than this collector.",
            )
        others = [each for each in self._store.unended() if each.instance_id == row.instance_id]
        if others:
            return await self._record(
                row,
                state=REFUSED,
                reason=f"Capture {others[0].id[:8]} ({others[0].kind}) is under way in that process; wait for it, or "
                f"call it off with `glassbottom captures cancel {others[0].id[:8]}`.",
            )
        await asyncio.to_thread(self._store.open, row)
        self._watch_over(row)
        self._notify()
        skew_ns = round(connection.live.clock_skew_s * 1e9)
        connection.send(
            ingest_pb2.SessionResponse(
                command=ingest_pb2.Command(
                    id=row.id,
                    kind=kind,
                    deadline_ns=self._clock_ns() - skew_ns + round(ANSWER_S * 1e9),
                    capture=ingest_pb2.CaptureOrder(
                        seconds=row.seconds,
                        bytes_max=row.bytes_max,
                        lease_until_ns=row.lease_until_ns - skew_ns,
                        options=row.options,
                    ),
                )
            )
        )
        self._counters["commands_sent_total"] += 1
        return row

    async def refuse(self, row: CaptureRow, reason: str) -> CaptureRow:
        return await self._record(row, state=REFUSED, reason=reason)

    async def watch(self, capture_id: str) -> AsyncIterator[CaptureRow]:
        told: CaptureRow | None = None
        while True:
            changed = self._changed
            row = self._store.get(capture_id)
            if row != told:
                yield row
                told = row
            if row.ended:
                return
            if self._stopped:
                raise StorageError(f"The collector is stopping; capture {row.id[:8]} goes on when it is back.")
            if changed is self._changed:
                await changed.wait()

    async def cancel(self, capture_id: str, reason: str) -> CaptureRow:
        row = self._store.get(capture_id)
        return row if row.ended or self._stopped else await self._end(row, FAILED, reason)

    # What agents say. Called by the reading side of a connection, one message at a time.

    async def result(self, connection: Connection, result: ingest_pb2.CommandResult) -> None:
        """An agent has said what became of an order; again, after a reconnect."""
        row = self._own(connection, result.id)
        if row is None or row.ended:
            self._settle(connection, result.id, row)
            return
        try:
            match result.outcome:
                case ingest_pb2.COMMAND_OUTCOME_STARTED:
                    if row.state == ORDERED:
                        row = await asyncio.to_thread(self._store.change, row.id, state=RUNNING)
                    self._acknowledge(connection, row)
                case ingest_pb2.COMMAND_OUTCOME_DONE:
                    row = await self._made(row, result.made)
                    if row.ended:
                        self._settle(connection, row.id, row)
                    else:
                        self._acknowledge(connection, row)
                case outcome:
                    state = REFUSED if outcome == ingest_pb2.COMMAND_OUTCOME_REFUSED else FAILED
                    reason = result.reason[:REASON_CHARACTERS_MAX] or "The agent gave no reason."
                    row = await asyncio.to_thread(self._store.change, row.id, state=state, reason=reason)
                    self._settle(connection, row.id, row)
        except CollectorError as error:
            await self._end(row, FAILED, str(error))
        self._notify()

    async def chunk(self, connection: Connection, chunk: ingest_pb2.CaptureChunk) -> None:
        """A piece of a file has come."""
        row = self._own(connection, chunk.id)
        if row is None or row.state != UPLOADING:
            self._settle(connection, chunk.id, row)
            return
        end = chunk.offset + len(chunk.data)
        wrong = ""
        if not 0 < len(chunk.data) <= PIECE_BYTES_MAX or end > row.file_bytes:
            wrong = "The agent sent a piece that does not fit the file."
        elif chunk.offset > row.stored_bytes:
            wrong = "The agent left out a piece of the file."
        elif zlib.crc32(chunk.data) != chunk.crc32:
            wrong = "A piece of the file arrived damaged."
        if wrong:
            self._counters["capture_pieces_refused_total"] += 1
            await self._end(row, FAILED, wrong)
            return
        self._counters["capture_pieces_total"] += 1
        try:
            if end > row.stored_bytes:
                row = await asyncio.to_thread(self._store.write, row.id, chunk.offset, chunk.data)
            if row.stored_bytes == row.file_bytes and not row.ended:
                row = await asyncio.to_thread(self._store.complete, row.id)
        except CollectorError as error:
            await self._end(row, FAILED, str(error))
            return
        if row.ended:
            self._settle(connection, row.id, row)
        else:
            self._acknowledge(connection, row)
        self._notify()

    async def _made(self, row: CaptureRow, made: ingest_pb2.CaptureMade) -> CaptureRow:
        if row.state == UPLOADING:  # said again after a reconnect
            return row
        numbers = {name[:100]: value for name, value in list(made.numbers.items())[:FACTS_MAX] if math.isfinite(value)}
        texts = {name[:100]: text[:FACT_CHARACTERS_MAX] for name, text in list(made.texts.items())[:FACTS_MAX]}
        facts: dict[str, Any] = {"numbers": numbers, "texts": texts}
        if made.file_bytes == 0:
            return await asyncio.to_thread(self._store.change, row.id, state=STORED, **facts)
        row = await asyncio.to_thread(self._store.change, row.id, **facts)
        if made.file_bytes > row.bytes_max:
            return await self._end(
                row, FAILED, f"The file has {made.file_bytes} bytes, and {row.bytes_max} were allowed."
            )
        return await asyncio.to_thread(self._store.begin, row.id, made.file_bytes)

    # Ends

    async def _record(self, row: CaptureRow, *, state: str, reason: str) -> CaptureRow:
        await asyncio.to_thread(self._store.open, row)
        return await asyncio.to_thread(self._store.change, row.id, state=state, reason=reason)

    async def _end(self, row: CaptureRow, state: str, reason: str) -> CaptureRow:
        """Ends it here, and at the agent when that is connected; otherwise it hears of it when it connects again."""
        ended = await asyncio.to_thread(self._store.change, row.id, state=state, reason=reason)
        connection = self._connection_of(ended)
        if connection is not None:
            self._settle(connection, ended.id, ended)
        self._notify()
        return ended

    def _watch_over(self, row: CaptureRow) -> None:
        """Ends it when its time is over, or when the agent has not said within ANSWER_S whether it will."""
        now_ns = self._clock_ns()
        due_ns = row.lease_until_ns
        if row.state == ORDERED:
            due_ns = min(due_ns, row.asked_at_ns + round(ANSWER_S * 1e9))
        delay_s = max(0.0, (due_ns - now_ns) / 1e9)
        self._timers[row.id] = asyncio.get_running_loop().call_later(delay_s, self._due, row.id)

    def _due(self, capture_id: str) -> None:
        self._timers.pop(capture_id, None)
        row = self._store.find(capture_id)
        if row is None or row.ended:
            return
        if self._clock_ns() >= row.lease_until_ns:
            what = "the agent had answered" if row.state == ORDERED else "everything was stored"
            self._spawn(self._give_up(row, f"Its lease ended before {what}."))
        elif row.state == ORDERED and self._clock_ns() >= row.asked_at_ns + ANSWER_S * 1e9:
            self._spawn(self._give_up(row, f"The agent did not answer within {ANSWER_S:g} s."))
        else:
            self._watch_over(row)

    async def _give_up(self, row: CaptureRow, reason: str) -> None:
        try:
            await self._end(row, FAILED, reason)
        except CollectorError as error:
            _log.warning("the end of capture %s could not be recorded: %s", row.id, error)

    def _retire_later(self) -> None:
        def retire() -> None:
            self._spawn(asyncio.to_thread(self._store.retire))
            self._retire_later()

        self._timers[""] = asyncio.get_running_loop().call_later(RETIRE_EVERY_S, retire)

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Words to agents

    def _own(self, connection: Connection, capture_id: str) -> CaptureRow | None:
        """The row, when it is one of that process."""
        row = self._store.find(capture_id)
        return row if row is not None and row.instance_id == connection.process.instance_id else None

    def _acknowledge(self, connection: Connection, row: CaptureRow) -> None:
        ack = ingest_pb2.CaptureAck(id=row.id, offset=row.stored_bytes)
        connection.send(ingest_pb2.SessionResponse(capture_ack=ack))

    def _settle(self, connection: Connection, capture_id: str, row: CaptureRow | None) -> None:
        reason = row.reason if row is not None else "This collector does not know of it."
        ack = ingest_pb2.CaptureAck(
            id=capture_id, offset=row.stored_bytes if row is not None else 0, settled=True, reason=reason
        )
        connection.send(ingest_pb2.SessionResponse(capture_ack=ack))

    def _connection_of(self, row: CaptureRow) -> Connection | None:
        for connection in self._registry.connections():
            if connection.process.instance_id == row.instance_id and connection.ended is None:
                return connection
        return None

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _kind_of(row: CaptureRow) -> ingest_pb2.CommandKind.ValueType:
    return ingest_pb2.CommandKind.Value(f"COMMAND_KIND_{row.kind.upper()}")
