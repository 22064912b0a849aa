"""An agent: owns the probes and the way to the collector, starts and stops them, and sees after them in its own thread.

Which agent this process has is _process.py's. Importing this module imports protobuf and h2, never grpcio.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from . import _describe, _threads, logs
from ._clock import Clock, SystemClock
from ._config import Config
from ._greenlets import threads_replaced
from ._guard import Guard
from ._identity import Identity, identify
from ._log import log
from ._options import settings
from ._signal import IncidentSignal
from .captures.desk import Desk
from .control import LABEL_CHARACTERS_MAX, Commands
from .probes import Probe, ProbeState, build
from .probes.heap import HeapProbe
from .transport.channel import connector
from .transport.connection import Connector
from .transport.encode import codecs
from .transport.queue import BatchQueue
from .transport.sender import Sender
from .wire.v1 import common_pb2, ingest_pb2

PROTOCOL = 1
FIRST_READING_S = 1.0
"""After start, so that a process is seen before its first full interval."""
IDLE_S = 60.0
PAUSE_TIMEOUT_S = 0.1
"""How long a fork may wait for the agent; some milliseconds are usual, more than a tenth of a second only under a
machine so busy that the fork waits for the GIL anyway."""
PAUSE_SWITCH_INTERVAL_S = 1e-4
FINISH_SLICE_S = 0.1
WITHDRAW_AFTER_S = 1.0
REASON_CHARACTERS_MAX = 1000
"""What a collector takes."""
ASKED_MAX = 20
"""Snapshots with a name, or somebody waiting, that have not been read yet: as many names as one reading carries."""


class Agent:
    """Everything that watches one process. Made and started in the application's thread, then lives in its own."""

    def __init__(
        self,
        config: Config,
        *,
        provisional: bool = False,
        connect: Connector | None = None,
        clock: Clock | None = None,
        probes: Callable[[Config, BatchQueue, Clock, Guard], list[Probe]] = build,
        rng: random.Random | None = None,
        withdraw: Callable[[Agent, str], None] | None = None,
    ) -> None:
        """withdraw: called with a reason, in the agent's thread, where it can no longer live in this process."""
        self._withdraw = withdraw
        self.config = config
        self.provisional = provisional
        self.pid = os.getpid()
        self.guard = Guard()
        self.clock = clock or SystemClock()
        self.connect = connect or connector(config.endpoint, config.transport.tls)
        self.identity: Identity = identify(config.service, config.resource_attributes)
        self.queue = BatchQueue(config.transport.queue_bytes_max)
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, guards no secret
        self.sender = Sender(config.transport, self.queue, self, self.connect, self.clock, self.guard, self._rng)
        self._desk = Desk(config.captures, self.clock, self.guard, self.sender.answer, self.sender.wake)
        self._commands = Commands(
            config.commands, self.clock, self._take_snapshot, self._desk.order, self.sender.answer
        )
        self._probes = probes(config, self.queue, self.clock, self.guard)
        # Where nobody may ask for the state, nothing is kept for it.
        records_max = config.captures.log_records if "state" in config.commands else 0
        self._logs = logs.Ring(records_max) if records_max else None
        self._signal = IncidentSignal(config.captures.incident_signal, self.sender.wake, self.clock.time_ns)
        self._due_s: dict[str, float] = {}
        self._snapshot_wanted = False
        self._asked: deque[_Asked] = deque()
        self._asked_dropped = 0
        self._cpu_s, self._cpu_at_s, self._cpu_ratio = 0.0, self.clock.monotonic_s(), 0.0
        self._fork_timeouts = 0
        self._replaced_at_s = 0.0

    # Life. In the application's thread.

    def start(self) -> None:
        """Starts every probe and the sender's thread."""
        now_s = self.clock.monotonic_s()
        for probe in self._probes:
            with self.guard.guarded(f"{probe.name}.start"):
                probe.start()
            self._due_s[probe.name] = now_s + min(FIRST_READING_S, probe.interval_s)
        if self._logs is not None:
            with self.guard.guarded("logs.start"):
                logs.install(self._logs)
        with self.guard.guarded("signal.start"):
            self._signal.start()
        _describe.subject = self._subject
        state = self._sampler_state()
        if state.state == "refused":
            log().warning("glassbottom: the heap is not sampled. %s", state.reason)
        self.sender.start()

    def finish(self, timeout_s: float) -> None:
        """Reads once more and waits for it to be stored, when there is a collector to wait for; then stops."""
        deadline_s = time.monotonic() + timeout_s
        self.end_captures(timeout_s)  # first, so that the collector still hears of it
        if timeout_s > 0 and self.sender.has_connection:
            self.request_snapshot()
            # In slices: a collector that goes away meanwhile, or never answered, is not waited for.
            while self.sender.has_connection and (left_s := deadline_s - time.monotonic()) > 0:
                if self.sender.flush(min(left_s, FINISH_SLICE_S)):
                    break
        self.stop(max(0.2, deadline_s - time.monotonic()))

    def stop(self, timeout_s: float) -> None:
        """Ends the threads, then the probes."""
        self.end_captures(timeout_s)
        self.sender.stop(timeout_s)
        self.stop_probes(timeout_s)

    def end_captures(self, timeout_s: float) -> None:
        """Also from the sender's thread, with no time."""
        with self.guard.guarded("captures.stop"):
            self._desk.stop(timeout_s)

    def stop_probes(self, timeout_s: float) -> None:
        if self._logs is not None:
            with self.guard.guarded("logs.stop"):
                logs.uninstall(self._logs)
        with self.guard.guarded("signal.stop"):
            self._signal.stop()
        if _describe.subject == self._subject:
            _describe.subject = dict
        for probe in self._probes:
            with self.guard.guarded(f"{probe.name}.stop"):
                probe.stop(max(timeout_s, 0.2))

    def pause(self) -> None:
        """Before a fork: nothing of ours half done, within PAUSE_TIMEOUT_S. The connection stays open."""
        # The sender may need the GIL to finish its step. Beside busy threads of the application it would wait for it
        # 5 ms and more; for these few moments it changes hands faster.
        interval_s = sys.getswitchinterval()
        sys.setswitchinterval(PAUSE_SWITCH_INTERVAL_S)
        try:
            if not self.sender.hold(PAUSE_TIMEOUT_S):
                self._fork_timeouts += 1
        finally:
            sys.setswitchinterval(interval_s)

    def resume(self) -> None:
        """After a fork, in the parent."""
        self.sender.release()

    def request_snapshot(self, label: str = "", wait_s: float = 0.0) -> bool:
        """Makes every probe read at once, completely, under a name when one is given. False when that will not be, or
        was not within wait_s."""
        if not label and wait_s <= 0:
            self._snapshot_wanted = True
            self.sender.wake()
            return True
        if not isinstance(label, str) or self._sampler_state().state not in ("running", "paused"):
            return False
        if len(self._asked) >= ASKED_MAX:
            self._asked_dropped += 1
            return False
        asked = _Asked(" ".join(label.split())[:LABEL_CHARACTERS_MAX])
        self._asked.append(asked)
        self._snapshot_wanted = True
        self.sender.wake()
        return wait_s <= 0 or (asked.done.wait(wait_s) and asked.read)

    # What the sender asks. In its thread.

    def hello(self) -> ingest_pb2.Hello:
        from . import __version__

        identity = self.identity
        return ingest_pb2.Hello(
            protocol=PROTOCOL,
            session_id=identity.session_id,
            process=common_pb2.Process(
                service=identity.service,
                instance_id=identity.instance_id,
                pid=identity.pid,
                started_at_ns=identity.started_at_ns,
                attributes=dict(identity.attributes),
            ),
            agent_version=__version__,
            codecs=[ingest_pb2.Codec.ValueType(codec) for codec in codecs()],
            commands_allowed=self._commands.kinds_allowed(),
        )

    def heartbeat(self) -> ingest_pb2.Heartbeat:
        return ingest_pb2.Heartbeat(
            at_ns=self.clock.time_ns(),
            statistics=self.statistics(),
            sampler_state=self._sampler_state().state,
            sampler_reason=self._reason(),
        )

    def work(self, now_s: float) -> float | None:
        replaced = threads_replaced()
        if replaced is not None:
            # Not at once: who replaces them goes through the list of threads, which may not change meanwhile.
            self._replaced_at_s = self._replaced_at_s or now_s
            if self._withdraw is not None and now_s >= self._replaced_at_s + WITHDRAW_AFTER_S:
                self._withdraw(self, replaced)
            return None
        wanted, self._snapshot_wanted = self._snapshot_wanted, False
        next_s = now_s + IDLE_S
        for probe in self._probes:
            if self.guard.is_disabled(probe.name):
                continue
            if wanted or now_s >= self._due_s[probe.name]:
                asked: list[_Asked] = []
                if wanted and isinstance(probe, HeapProbe):
                    while self._asked:
                        asked.append(self._asked.popleft())
                    probe.request(_nothing, _nothing_because, [each.label for each in asked if each.label])
                with self.guard.guarded(probe.name):
                    probe.read()
                    for each in asked:
                        each.read = True
                for each in asked:
                    each.done.set()
                # Agents started together drift apart, so that they do not all report in the same second.
                self._due_s[probe.name] = now_s + probe.interval_s * self._rng.uniform(0.95, 1.05)
                self._measure_cost(now_s)
            next_s = min(next_s, self._due_s[probe.name])
        desk_s = next_s
        with self.guard.guarded("captures"):
            desk_s = self._desk.work(now_s)
        return min(next_s, desk_s)

    def welcomed(self, store_id: str, store_changed: bool) -> None:
        for probe in self._probes:
            probe.welcomed(store_id, store_changed)
        self._desk.welcomed()

    def command(self, command: ingest_pb2.Command) -> None:
        self._commands.carry_out(command)

    def capture_ack(self, ack: ingest_pb2.CaptureAck) -> None:
        self._desk.acknowledge(ack)

    def pieces(self, now_s: float) -> tuple[Sequence[ingest_pb2.SessionRequest], float]:
        calls = self._signal.take(now_s)
        pieces, next_s = self._desk.pieces(now_s)
        return [*calls, *pieces], next_s

    def _take_snapshot(self, stored: Callable[[], None], lost: Callable[[str], None], label: str) -> str | None:
        heap = self._heap()
        if heap is None or self.guard.is_disabled("heap"):
            return "The heap probe is off in this process."
        refusal = heap.request(stored, lost, [label] if label else [])
        if refusal is None:
            self._due_s[heap.name] = 0.0
            if label and "runtime" in self._due_s:
                self._due_s["runtime"] = 0.0  # a snapshot that is looked at again says what resident memory was then
            self.sender.wake()
        return refusal

    # What it is and costs

    def status(self) -> dict[str, Any]:
        sender, sampler = self.sender.statistics(), self._sampler_state()
        return {
            "state": sampler.state,
            "reason": self._reason(),
            "service": self.identity.service,
            "instance_id": self.identity.instance_id,
            "session_id": self.identity.session_id,
            "endpoint": self.config.endpoint,
            "connected": sender.connected,
            "collector": {
                "version": sender.collector_version,
                "store_id": sender.store_id,
                "last_error": sender.last_error,
            },
            "statistics": self.statistics(),
            "probes_disabled": dict(self.guard.disabled),
            "incident_signal": self._signal.state(),
        }

    def _subject(self) -> dict[str, Any]:
        """What captures/state.py asks of us. In the thread of the capture."""
        from . import __version__

        # By name, for their modules may not be known here: one is imported with spans only, the other with asyncio.
        probes: dict[str, Any] = {probe.name: probe for probe in self._probes}
        spans, tasks = probes.get("spans"), probes.get("tasks")
        status = self.status()
        del status["session_id"]  # looks like a secret to whoever looks for secrets, and says nothing
        return {
            "agent": {"version": __version__, "status": status, "config": settings(self.config)},
            "resource": {
                "service.name": self.identity.service,
                "service.instance.id": self.identity.instance_id,
                "process.pid": self.identity.pid,
                **self.identity.attributes,
            },
            "state_env": self.config.captures.state_env,
            "open_spans": spans.open_spans.records if spans is not None else {},
            "loops": tasks.known_loops() if tasks is not None else (),
        }

    def statistics(self) -> dict[str, float]:
        """Every number of docs/status.md."""
        queue, sender = self.queue.statistics(), self.sender.statistics()
        numbers: dict[str, float] = {
            "agent_cpu_seconds_total": self._cpu_s,
            "agent_cpu_ratio": self._cpu_ratio,
            "queue_bytes": queue.bytes_held,
            "queue_bytes_max": queue.bytes_max,
            "queue_batches": queue.batches,
            "queue_dropped_batches_total": sum(queue.dropped.values()),
            "batches_sent_total": sender.batches_sent,
            "batches_acked_total": sender.batches_acked,
            "batches_rejected_total": sender.batches_rejected,
            "command_results_dropped_total": sender.results_dropped,
            "reconnects_total": sender.reconnects,
            "close_timeouts_total": sender.close_timeouts,
            "fork_timeouts_total": self._fork_timeouts,
            "snapshots_refused_total": self._asked_dropped,
            "errors_total": self.guard.errors,
            "probes_disabled": len(self.guard.disabled),
        }
        numbers.update(self._desk.statistics())
        numbers.update(self._signal.statistics())
        if self._logs is not None:
            numbers.update(self._logs.statistics())
        for probe in self._probes:
            with self.guard.guarded(f"{probe.name}.statistics"):
                numbers.update(probe.statistics())
        return {name: float(value) for name, value in numbers.items()}

    def _sampler_state(self) -> ProbeState:
        heap = self._heap()
        if heap is None:
            return ProbeState("stopped", "The configuration turns the heap sampler off.")
        if self.guard.is_disabled("heap"):
            return ProbeState("stopped", f"Turned off after errors: {self.guard.disabled['heap']}")
        return heap.state()

    def _reason(self) -> str:
        """Why the sampler, or another part of the agent, does not do its work or not all of it."""
        others = (probe.state() for probe in self._probes if not isinstance(probe, HeapProbe))
        reasons = [self._sampler_state().reason, *(each.reason for each in others if each.state != "stopped")]
        return " ".join(dict.fromkeys(filter(None, reasons)))[:REASON_CHARACTERS_MAX]

    def _heap(self) -> HeapProbe | None:
        return next((probe for probe in self._probes if isinstance(probe, HeapProbe)), None)

    def _measure_cost(self, now_s: float) -> None:
        """Threads of our own, samples taken in the application's threads, and the estimated cost of hooks."""
        elapsed_s = now_s - self._cpu_at_s
        if elapsed_s < 1.0:
            return
        heap = self._heap()
        sampling_s = heap.statistics().get("sampler_sample_seconds_total", 0.0) if heap is not None else 0.0
        cpu_s = _threads.cpu_seconds() + sampling_s
        hooks_ratio = heap.hook_cost_ratio() if heap is not None else 0.0
        self._cpu_ratio = max(0.0, cpu_s - self._cpu_s) / elapsed_s + hooks_ratio
        self._cpu_s, self._cpu_at_s = cpu_s, now_s


class _Asked:
    """A snapshot that somebody waits for, or that has a name; read: it has been taken."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.done = _threads.Event()
        self.read = False


def _nothing() -> None:
    pass


def _nothing_because(reason: str) -> None:
    pass
