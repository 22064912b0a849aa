"""Takes orders for captures, one at a time, and sees each to its end: done, refused with a reason, or failed.

An order is a lease. When it ends, or the agent stops, or the collector wants no more, the capture is told to end, its
file is deleted, and the desk is free again; a capture that does not end when told keeps the desk until it has. Between
two captures the desk rests as long as the last one ran, so that all of them together take at most half of the time.

Everything but the capture itself happens in the sender's thread. The capture runs in a thread of its own,
"glassbottom-capture", which exists only while one runs. A forked child makes a new desk: the capture stays with the
parent, whose thread and directory it is.
"""

from __future__ import annotations

import math
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path

from .. import _threads
from .._clock import Clock
from .._config import CapturesConfig
from .._errors import CaptureError
from .._guard import Guard
from ..wire.v1 import ingest_pb2
from . import Capture, Made, Order, find, places
from .upload import Upload

SECONDS_DEFAULT = 60.0
LEASE_S_MAX = 3600.0
END_AFTER_S = 10.0
"""So long beyond the seconds of its order, a capture is told to end."""
GIVE_UP_AFTER_S = 30.0
"""So long after it was told to, it is reported as failed."""
REST_S_MIN = 1.0
REST_S_MAX = 60.0
STOP_WAIT_S = 0.5
OPTIONS_MAX = 16
OPTION_CHARACTERS_MAX = 200
FACTS_MAX = 40
FACT_CHARACTERS_MAX = 300
UNSETTLED_MAX = 16
"""Last words on captures, repeated at each new connection until the collector has heard them."""
PIECES_AT_ONCE = 4

STARTED = ingest_pb2.COMMAND_OUTCOME_STARTED
DONE = ingest_pb2.COMMAND_OUTCOME_DONE
REFUSED = ingest_pb2.COMMAND_OUTCOME_REFUSED
FAILED = ingest_pb2.COMMAND_OUTCOME_FAILED


class _Job:
    """A capture that runs, or its file on the way.

    over: the thread has done all it will. closed: the last word has been said, and only the thread is waited for.
    """

    def __init__(self, order: Order, capture: Capture, directory: Path, now_s: float, lease_until_s: float) -> None:
        self.order = order
        self.capture = capture
        self.directory = directory
        self.started_s = now_s
        self.end_at_s = min(now_s + order.seconds + END_AFTER_S, lease_until_s)
        self.lease_until_s = lease_until_s
        self.ending = _threads.Event()
        self.thread: _threads.Thread | None = None
        self.over = False
        self.ran_s = 0.0
        self.made: Made | None = None
        self.error = "It ended without a result."
        self.upload: Upload | None = None
        self.closed = False


class Desk:
    """The captures of one Agent. stop() may be called from any thread, everything else from the sender's.

    answer: sends the result of a command. wake: makes the sender look again; from any thread.
    """

    def __init__(
        self,
        config: CapturesConfig,
        clock: Clock,
        guard: Guard,
        answer: Callable[[ingest_pb2.CommandResult], None],
        wake: Callable[[], None],
        find: Callable[[str], Capture] = find,
    ) -> None:
        self._config = config
        self._clock = clock
        self._guard = guard
        self._answer = answer
        self._wake = wake
        self._find = find
        self._lock = threading.Lock()
        self._job: _Job | None = None
        self._unsettled: OrderedDict[str, ingest_pb2.CommandResult] = OrderedDict()
        self._rest_until_s = float("-inf")
        self._rest_s = 0.0
        self._stopped = False
        self._started = self._done = self._refused = self._failed = self._untold = 0
        self._seconds = 0.0
        self._bytes_sent = 0

    def order(self, command: ingest_pb2.Command, kind: str) -> None:
        """Begins, or refuses with a sentence; answers either way."""
        with self._lock:
            try:
                job = self._accept(command, kind)
            except CaptureError as error:
                self._refused += 1
                self._tell(command.id, REFUSED, str(error))
                return
            except Exception as error:  # a mistake of ours; who asked hears of it, and so does the log
                with self._guard.guarded(_name(kind)):
                    raise
                self._failed += 1
                self._tell(command.id, FAILED, _mistake(error))
                return
            self._job = job
            self._started += 1
            self._tell(command.id, STARTED)
            thread = _threads.Thread(self._run, "glassbottom-capture", (job,))
            try:
                thread.start()
                job.thread = thread
            except RuntimeError as error:  # the interpreter is on its way out, or the system has no thread left
                job.error, job.over = f"There is no thread for it: {error}.", True
                self._wake()

    def work(self, now_s: float) -> float:
        """Sees after what runs; returns when it next must, on the monotonic clock."""
        with self._lock:
            job = self._job
            if job is None:
                return float("inf")
            if job.over and not job.closed and job.upload is None:
                self._hand_in(job)
            if not job.closed and now_s >= job.lease_until_s:
                self._fail(job, "Its lease ended before everything was stored.")
            if not job.over and now_s >= job.end_at_s:
                job.ending.set()
                if now_s >= job.end_at_s + GIVE_UP_AFTER_S and not job.closed:
                    self._fail(job, f"It did not end within {GIVE_UP_AFTER_S:g} s after it was told to.")
            if job.closed:
                if job.over:
                    self._clear(job, now_s)
                return float("inf")  # otherwise its thread wakes us
            if job.over or now_s < job.end_at_s:
                return job.lease_until_s if job.over else job.end_at_s
            return min(job.lease_until_s, job.end_at_s + GIVE_UP_AFTER_S)

    def welcomed(self) -> None:
        """On a new connection: says the last word on everything that the collector has not settled."""
        with self._lock:
            if self._job is not None and self._job.upload is not None:
                self._job.upload.rewind()
            for result in self._unsettled.values():
                self._answer(result)

    def acknowledge(self, ack: ingest_pb2.CaptureAck) -> None:
        """The collector has so much, or wants no more."""
        with self._lock:
            job = self._job
            if job is not None and (job.order.id != ack.id or job.closed):
                job = None
            if ack.settled:
                self._unsettled.pop(ack.id, None)
                if job is not None:
                    if job.upload is not None and ack.offset == job.upload.size_bytes:
                        self._done += 1
                    else:
                        self._failed += 1
                    self._close(job)
                    self._wake()
            elif job is not None and job.upload is not None:
                try:
                    job.upload.acknowledge(ack.offset)
                except CaptureError as error:
                    self._fail(job, str(error))

    def pieces(self, now_s: float) -> tuple[list[ingest_pb2.SessionRequest], float]:
        """What to send of a file now, and when to ask again on the monotonic clock."""
        found: list[ingest_pb2.SessionRequest] = []
        with self._lock:
            job = self._job
            if job is None or job.closed or job.upload is None:
                return found, float("inf")
            while len(found) < PIECES_AT_ONCE:
                try:
                    piece = job.upload.next_piece(now_s)
                except CaptureError as error:
                    self._fail(job, str(error))
                    return [], now_s
                if isinstance(piece, float):
                    return found, piece
                self._bytes_sent += len(piece.capture_chunk.data)
                found.append(piece)
        return found, now_s

    def stop(self, timeout_s: float) -> None:
        """Takes no more orders, ends what runs and deletes what there is. The thread has STOP_WAIT_S at most."""
        with self._lock:
            self._stopped = True
            job = self._job
            if job is None:
                return
            job.ending.set()
        if job.thread is not None:
            job.thread.wait(min(timeout_s, STOP_WAIT_S))
        with self._lock:
            if self._job is job:
                if not job.closed:
                    self._fail(job, "The process ended before everything was stored.")
                places.remove_directory(job.directory)

    def statistics(self) -> Mapping[str, float]:
        return {
            "captures_running": float(self._job is not None),
            "captures_started_total": float(self._started),
            "captures_done_total": float(self._done),
            "captures_refused_total": float(self._refused),
            "captures_failed_total": float(self._failed),
            "captures_untold_total": float(self._untold),
            "capture_seconds_total": self._seconds,
            "capture_bytes_sent_total": float(self._bytes_sent),
        }

    # Below, the lock is held.

    def _accept(self, command: ingest_pb2.Command, kind: str) -> _Job:
        """Raises CaptureError with the reason when it must not be."""
        now_s = self._clock.monotonic_s()
        if self._stopped:
            raise CaptureError("The process is ending.")
        if self._job is not None:
            job = self._job
            what = "is being sent" if job.over else "runs"
            raise CaptureError(
                f'Another capture, "{job.order.kind}", {what} in this process since {now_s - job.started_s:.0f} s; '
                "only one is done at a time."
            )
        if now_s < self._rest_until_s:
            raise CaptureError(
                f"The last capture ran for {self._rest_s:.1f} s, and as long there is none; try again in "
                f"{math.ceil(self._rest_until_s - now_s)} s."
            )
        if self._guard.is_disabled(_name(kind)):
            raise CaptureError(
                f'Captures of kind "{kind}" are turned off after errors: {self._guard.disabled[_name(kind)]}.'
            )
        capture = self._find(kind)
        place = places.choose(self._config.directory, self._config.bytes_max)
        order, lease_s = self._order_of(command, kind, place.bytes_max)
        refusal = capture.refusal(order)
        if refusal is not None:
            raise CaptureError(refusal)
        try:
            directory = places.make_directory(place.path)
        except OSError as error:
            raise CaptureError(f"No directory can be made in {place.path}: {error.strerror}.") from error
        return _Job(order, capture, directory, now_s, now_s + lease_s)

    def _order_of(self, command: ingest_pb2.Command, kind: str, bytes_max: int) -> tuple[Order, float]:
        wanted = command.capture
        lease_s = (wanted.lease_until_ns - self._clock.time_ns()) / 1e9
        if lease_s <= 0:
            raise CaptureError("The order arrived after the end of its lease; the clocks may differ.")
        if not math.isfinite(wanted.seconds) or wanted.seconds < 0:
            raise CaptureError("The order does not say how many seconds it may take.")
        too_long = any(len(text) > OPTION_CHARACTERS_MAX for pair in wanted.options.items() for text in pair)
        if len(wanted.options) > OPTIONS_MAX or too_long:
            raise CaptureError(
                f"At most {OPTIONS_MAX} options are taken, of at most {OPTION_CHARACTERS_MAX} characters each."
            )
        order = Order(
            id=command.id,
            kind=kind,
            seconds=min(wanted.seconds or SECONDS_DEFAULT, self._config.seconds_max),
            bytes_max=min(wanted.bytes_max or bytes_max, bytes_max),
            lease_until_ns=wanted.lease_until_ns,
            options=dict(wanted.options),
        )
        return order, min(lease_s, LEASE_S_MAX)

    def _hand_in(self, job: _Job) -> None:
        """The capture is over: tells what came of it, and lets its file be sent."""
        if job.made is None:
            self._fail(job, job.error)
            return
        try:
            size_bytes = _file_bytes(job.made.path, job)
        except CaptureError as error:
            self._fail(job, str(error))
            return
        self._tell(job.order.id, DONE, "", _made_of(size_bytes, job.made.facts))
        if job.made.path is not None and size_bytes:
            job.upload = Upload(job.order.id, job.made.path, size_bytes)
        else:
            self._done += 1
            self._close(job)

    def _fail(self, job: _Job, reason: str) -> None:
        self._failed += 1
        self._tell(job.order.id, FAILED, reason)
        self._close(job)
        self._wake()

    def _close(self, job: _Job) -> None:
        job.closed = True
        job.upload = None
        job.ending.set()

    def _clear(self, job: _Job, now_s: float) -> None:
        places.remove_directory(job.directory)
        self._job = None
        self._seconds += job.ran_s
        self._rest_s = job.ran_s
        self._rest_until_s = now_s + min(max(REST_S_MIN, job.ran_s), REST_S_MAX)

    def _tell(
        self,
        command_id: str,
        outcome: ingest_pb2.CommandOutcome.ValueType,
        reason: str = "",
        made: ingest_pb2.CaptureMade | None = None,
    ) -> None:
        result = ingest_pb2.CommandResult(id=command_id, outcome=outcome, reason=reason, made=made)
        self._unsettled[command_id] = result
        while len(self._unsettled) > UNSETTLED_MAX:
            self._unsettled.popitem(last=False)
            self._untold += 1
        self._answer(result)

    # In the capture's thread, without the lock.

    def _run(self, job: _Job) -> None:
        _threads.enter()
        began_s = self._clock.monotonic_s()
        try:
            with self._guard.guarded(_name(job.order.kind)):
                try:
                    job.made = job.capture.run(job.order, job.directory, job.ending)
                except CaptureError as error:
                    job.error = str(error)
                except Exception as error:
                    job.error = _mistake(error)
                    raise
        finally:
            job.ran_s = self._clock.monotonic_s() - began_s
            job.over = True
            self._wake()


def _name(kind: str) -> str:
    return f"captures.{kind}"


def _mistake(error: Exception) -> str:
    return f"The agent met an error of its own, {type(error).__name__}; the log of that process has the details."


def _file_bytes(path: Path | None, job: _Job) -> int:
    """0 when there is none. Raises CaptureError when it is not what was promised."""
    if path is None:
        return 0
    try:
        status = os.lstat(path)
    except OSError as error:
        raise CaptureError(f"The file of the capture is gone: {error.strerror}.") from error
    if not stat.S_ISREG(status.st_mode) or job.directory not in path.parents:
        raise CaptureError("The file of the capture is not where it belongs.")
    if status.st_size == 0:
        raise CaptureError("The file of the capture is empty.")
    if status.st_size > job.order.bytes_max:
        raise CaptureError(
            f"The file became {status.st_size} bytes long, and {job.order.bytes_max} were allowed; allow more with "
            "GLASSBOTTOM_CAPTURE_BYTES_MAX, or capture less."
        )
    return status.st_size


def _made_of(size_bytes: int, facts: Mapping[str, float | str]) -> ingest_pb2.CaptureMade:
    made = ingest_pb2.CaptureMade(file_bytes=size_bytes)
    for name, value in list(facts.items())[:FACTS_MAX]:
        if isinstance(value, str):
            made.texts[name] = value[:FACT_CHARACTERS_MAX]
        elif math.isfinite(value):
            made.numbers[name] = float(value)
    return made
