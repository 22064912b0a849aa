"""Carries batches to the collector from one daemon thread, "glassbottom-sender", which is also the agent's clock.

step() is the whole protocol as a function of time: it never waits, so a test drives it with a clock of its own. The
thread only calls it again and again. The order on the wire, and what each message means, is told in ingest.proto.

After a fork the child has no thread and perhaps a locked lock; it therefore makes a new Sender, with a new session and
an empty queue. What the parent queued stays with the parent, which goes on in the same session.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from .. import _threads
from .._clock import Clock
from .._config import TransportConfig
from .._errors import CollectorUnavailable
from .._guard import Guard
from .._log import log
from ..wire.v1 import ingest_pb2
from .connection import Connection, Connector
from .encode import without_codec
from .queue import Batch, BatchQueue

WELCOME_TIMEOUT_S = 10.0
CALM_AFTER_S = 30.0
"""A connection that lived so long, or stored something, makes the next pause short again."""
RESULTS_MAX = 100
"""Answers to commands held back until there is a connection."""
CREDIT_BYTES_MIN = 1024
CLOSE_TIMEOUT_S = 0.5
REST_S = 1.0
FAILURES_UNTOLD = 1
"""In a row; one failure may be a collector that restarts, or this process on its way out."""


class Side(Protocol):
    """The agent, as its sender sees it. Called in the sender's thread only."""

    def hello(self) -> ingest_pb2.Hello: ...

    def heartbeat(self) -> ingest_pb2.Heartbeat: ...

    def work(self, now_s: float) -> float | None:
        """Reads what is due and queues it; returns when it next wants to be called, on the monotonic clock. None: the
        sender is to do nothing now, and to ask again in a second."""
        ...

    def welcomed(self, store_id: str, store_changed: bool) -> None: ...

    def command(self, command: ingest_pb2.Command) -> None: ...

    def capture_ack(self, ack: ingest_pb2.CaptureAck) -> None: ...

    def pieces(self, now_s: float) -> tuple[Sequence[ingest_pb2.SessionRequest], float]:
        """Pieces of a file to send now, after all batches, and when to ask again on the monotonic clock."""
        ...


@dataclass(frozen=True)
class SenderStatistics:
    """Counters since the session began; connected, store_id, collector_version and last_error as of now."""

    connected: bool
    store_id: str
    collector_version: str
    last_error: str
    batches_sent: int
    batches_acked: int
    batches_rejected: int
    reconnects: int
    close_timeouts: int
    results_dropped: int


class Sender:
    """One session with the collector, over as many connections as it takes."""

    def __init__(
        self,
        config: TransportConfig,
        queue: BatchQueue,
        side: Side,
        connect: Connector,
        clock: Clock,
        guard: Guard,
        rng: random.Random,
    ) -> None:
        self._config = config
        self._queue = queue
        self._side = side
        self._connect = connect
        self._clock = clock
        self._guard = guard
        self._rng = rng
        self._thread: _threads.Thread | None = None
        self._ending = _threads.Event()
        self._wake = _threads.Event()
        self._stepping = threading.Lock()
        self._held = False
        self._flushes: deque[_threads.Event] = deque()
        self._results: deque[ingest_pb2.CommandResult] = deque()

        self._connection: Connection | None = None
        self._welcome: ingest_pb2.Welcome | None = None
        self._connected_at_s = 0.0
        self._retry_at_s = clock.monotonic_s() + config.connect_delay_s
        self._pause_s = config.backoff_s_min
        self._heartbeat_at_s = 0.0
        self._throttled_until_s = 0.0
        self._last_error = ""
        self._failures = 0
        self._store_id = ""
        self._sent = self._acked = self._rejected = self._connections = 0
        self._close_timeouts = self._results_dropped = 0

    # Life of the thread. start() and stop() are called by the agent, never by the thread itself.

    def start(self) -> None:
        """Starts the thread, after the one before it has ended."""
        self._ending = _threads.Event()
        self._thread = _threads.Thread(self._run, "glassbottom-sender", (self._ending, self._thread))
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Ends the thread and closes the connection; False when that took longer, and it ends as soon as it can."""
        thread = self._thread
        self.end()
        if thread is None:
            return True
        return thread.wait(timeout_s)

    def end(self) -> None:
        """The same without waiting for it; also from the thread itself."""
        self._ending.set()
        self._wake.set()

    def hold(self, timeout_s: float) -> bool:
        """Before a fork, in the forking thread: step() does not run until release(). False when it still does.

        A child could go on without this: nothing it inherits is used again but to close descriptors. It keeps forks
        away from the middle of a message all the same.
        """
        self._held = self._stepping.acquire(timeout=timeout_s)
        return self._held

    def release(self) -> None:
        """After a fork, in the parent, which goes on over the connection it has."""
        if self._held:
            self._held = False
            self._stepping.release()

    def abandon(self) -> None:
        """In a forked child, on the parent's sender: lets go of the parent's connection without a word to the peer."""
        if self._connection is not None:
            self._connection.abandon()

    def wake(self) -> None:
        """Makes the thread look again now. From any thread."""
        self._wake.set()

    def flush(self, timeout_s: float) -> bool:
        """Waits until everything queued is stored. From any thread but the sender's."""
        done = _threads.Event()
        self._flushes.append(done)
        self._wake.set()
        stored = done.wait(timeout_s)
        if not stored and done in self._flushes:
            self._flushes.remove(done)
        return stored

    def answer(self, result: ingest_pb2.CommandResult) -> None:
        """Sends the result of a command when there is a connection. In the sender's thread."""
        if len(self._results) == RESULTS_MAX:
            self._results.popleft()
            self._results_dropped += 1
        self._results.append(result)

    @property
    def has_connection(self) -> bool:
        """Whether the collector answers, or has been asked and may still answer: whether waiting for it is sensible."""
        return self._connection is not None

    def statistics(self) -> SenderStatistics:
        welcome = self._welcome
        return SenderStatistics(
            connected=welcome is not None,
            store_id=self._store_id,
            collector_version=welcome.collector_version if welcome is not None else "",
            last_error=self._last_error,
            batches_sent=self._sent,
            batches_acked=self._acked,
            batches_rejected=self._rejected,
            reconnects=max(0, self._connections - 1),
            close_timeouts=self._close_timeouts,
            results_dropped=self._results_dropped,
        )

    def _run(self, ending: _threads.Event, before: _threads.Thread | None) -> None:
        if before is not None:
            before.wait()
        _threads.enter()
        try:
            while not ending.is_set():
                wait_s = 1.0
                with self._stepping, self._guard.guarded("sender"):
                    wait_s = self.step()
                self._wake.wait(wait_s)
                self._wake.clear()
        finally:
            with self._stepping, self._guard.guarded("sender.close"):
                self.disconnect()

    # The protocol. In the sender's thread, or in a test's.

    def step(self) -> float:
        """Does all that is due now; returns for how many seconds there is nothing to do, unless woken."""
        now_s = self._clock.monotonic_s()
        # Who waits since before this reading; who comes later may wait for what only the next step reads.
        flushes = list(self._flushes)
        next_s = self._side.work(now_s)
        if next_s is None:
            return REST_S
        self._queue.report_lost()
        if self._connection is None:
            # Somebody who waits does not wait for the delay after start, only for the pause after a failure.
            hurried = bool(flushes) and not self._last_error
            if now_s < self._retry_at_s and not hurried:
                self._settle(flushes)
                return self._until(min(next_s, self._retry_at_s))
            self._open(now_s)
        if self._connection is not None:
            next_s = min(next_s, self._converse(self._connection, now_s))
        else:
            next_s = min(next_s, self._retry_at_s)
        self._settle(flushes)
        return self._until(next_s)

    def disconnect(self, timeout_s: float = CLOSE_TIMEOUT_S) -> bool:
        """Closes the connection; what was in flight will be sent again over the next. False when it took longer."""
        connection, self._connection, self._welcome = self._connection, None, None
        self._queue.rewind()
        if connection is None or connection.close(timeout_s):
            return True
        self._close_timeouts += 1
        return False

    def _until(self, moment_s: float) -> float:
        return max(0.0, moment_s - self._clock.monotonic_s())

    def _open(self, now_s: float) -> None:
        try:
            connection = self._connect(self._wake.set)
        except CollectorUnavailable as error:
            self._failed(str(error), now_s)
            return
        self._connection = connection
        self._connected_at_s = now_s
        self._connections += 1
        connection.send(ingest_pb2.SessionRequest(hello=self._side.hello()))

    def _converse(self, connection: Connection, now_s: float) -> float:
        for response in connection.receive():
            self._handle(response, now_s)
            if self._connection is not connection:  # a response may end the connection
                return self._retry_at_s
        failure = connection.failure()
        if failure is not None:
            self._failed(failure, now_s)
            return self._retry_at_s
        if self._welcome is None:
            deadline_s = self._connected_at_s + WELCOME_TIMEOUT_S
            if now_s >= deadline_s:
                self._failed(f"The collector did not answer within {WELCOME_TIMEOUT_S:g} s.", now_s)
                return self._retry_at_s
            return deadline_s
        if now_s >= self._heartbeat_at_s:
            connection.send(ingest_pb2.SessionRequest(heartbeat=self._side.heartbeat()))
            self._heartbeat_at_s = now_s + self._config.heartbeat_interval_s
        while self._results:
            connection.send(ingest_pb2.SessionRequest(command_result=self._results.popleft()))
        if now_s < self._throttled_until_s:
            return min(self._heartbeat_at_s, self._throttled_until_s)
        self._send_batches(connection, self._welcome)
        pieces, next_s = self._side.pieces(now_s)
        for piece in pieces:
            connection.send(piece)
        return min(self._heartbeat_at_s, next_s)

    def _send_batches(self, connection: Connection, welcome: ingest_pb2.Welcome) -> None:
        credit_bytes = max(welcome.credit_bytes, CREDIT_BYTES_MIN)
        while (batch := self._queue.next_unsent(credit_bytes)) is not None:
            content = batch.content
            if content.codec not in welcome.codecs:
                content = without_codec(content)
            if welcome.batch_bytes_max and len(content.body) > welcome.batch_bytes_max:
                self._refuse(
                    batch,
                    f"it has {len(content.body)} bytes and the collector accepts {welcome.batch_bytes_max}; "
                    "raise interval_bytes here or batch_bytes_max there",
                )
                continue
            connection.send(
                ingest_pb2.SessionRequest(
                    batch=ingest_pb2.Batch(
                        stream=ingest_pb2.Stream.ValueType(batch.stream),
                        seq=batch.seq,
                        codec=ingest_pb2.Codec.ValueType(content.codec),
                        body_bytes=content.body_bytes,
                        body_crc32=content.crc32,
                        body=content.body,
                        rows=batch.rows,
                        dropped=self._queue.dropped(batch.stream),
                    )
                )
            )
            self._sent += 1

    def _handle(self, response: ingest_pb2.SessionResponse, now_s: float) -> None:
        kind = response.WhichOneof("message")
        if kind == "welcome":
            self._welcomed(response.welcome, now_s)
        elif kind == "ack":
            self._acked += self._queue.acknowledge(response.ack.stream, response.ack.seq, self._store_id)
            self._pause_s = self._config.backoff_s_min
        elif kind == "reject":
            reject = response.reject
            if self._queue.reject(reject.stream, reject.seq, reject.reason):
                self._rejected += 1
                log().warning("glassbottom: the collector refused batch %d: %s", reject.seq, reject.reason)
        elif kind == "throttle":
            self._throttled_until_s = now_s + response.throttle.retry_after_ms / 1000
        elif kind == "command":
            self._side.command(response.command)
        elif kind == "capture_ack":
            self._side.capture_ack(response.capture_ack)

    def _welcomed(self, welcome: ingest_pb2.Welcome, now_s: float) -> None:
        changed = welcome.store_id != self._store_id
        for stream, seq in welcome.resume.items():
            self._acked += self._queue.acknowledge(stream, seq, welcome.store_id)
        self._queue.forget_other_stores(welcome.store_id)
        self._store_id = welcome.store_id
        self._welcome = welcome
        self._heartbeat_at_s = now_s
        self._throttled_until_s = 0.0
        self._last_error = ""
        self._failures = 0
        self._side.welcomed(welcome.store_id, changed)

    def _refuse(self, batch: Batch, reason: str) -> None:
        self._rejected += 1
        self._queue.reject(batch.stream, batch.seq, reason)
        log().warning("glassbottom: a batch is dropped: %s.", reason)

    def _failed(self, reason: str, now_s: float) -> None:
        lived_s = now_s - self._connected_at_s if self._welcome is not None else 0.0
        if lived_s >= CALM_AFTER_S:
            self._pause_s = self._config.backoff_s_min
        self.disconnect()
        self._last_error = reason
        self._failures += 1
        if self._failures == FAILURES_UNTOLD + 1:
            log().warning("glassbottom: no connection to the collector; trying on, without telling again. %s", reason)
        # Half of the pause is drawn, so that a thousand agents do not return to a restarted collector at once.
        self._retry_at_s = now_s + self._pause_s * self._rng.uniform(0.5, 1.0)
        self._pause_s = min(self._pause_s * 2, self._config.backoff_s_max)

    def _settle(self, flushes: Sequence[_threads.Event]) -> None:
        if flushes and self._queue.is_empty() and not self._results:
            for done in flushes:
                if done in self._flushes:
                    self._flushes.remove(done)
                done.set()
