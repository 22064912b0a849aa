"""Who is connected: one Connection per open stream, and the Registry that answers as `LiveInstances`.

A Connection is what the reading side and the sending side of one stream share. Acknowledgements are kept as one
number per stream kind, so however slowly an agent reads, what waits for it is bounded.

Everything here happens in the event loop's thread.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import grpc
from glassbottom.wire.v1 import ingest_pb2

from ..model.live import CommandAnswer, InstanceLive
from ..model.process import Process
from .limits import IngestCounters, RowRate

RESPONSES_MAX = 1_000
"""Rejections waiting for an agent that does not listen; above that it is not read any more."""
COMMANDS_MAX = 16
"""Commands under way in one process."""
LOST_KEPT_S = 3600
LOST_MAX = 10_000
"""Processes remembered after they have gone."""
SNAPSHOT_SLACK_NS = 1_000_000_000
"""How much older than the command its snapshot may seem, for clocks that are compared over a network."""


@dataclass
class _Command:
    """A snapshot asked for: the agent's answer, and when its snapshot is durable."""

    not_before_ns: int  # on the agent's clock
    result: asyncio.Future[ingest_pb2.CommandResult]
    stored: asyncio.Future[None]


class Connection:
    """One open stream. `ended` is set once, with what the stream is to end with."""

    def __init__(
        self,
        hello: ingest_pb2.Hello,
        process: Process,
        now_ns: int,
        rate: RowRate,
    ) -> None:
        self.session_id = hello.session_id
        self.process = process
        self.agent_version = hello.agent_version
        self.commands_allowed = frozenset(hello.commands_allowed)
        self.rate = rate
        self.received: dict[int, int] = {}  # stream to the highest seq that has been looked at
        self.durable: dict[int, int] = {}  # stream to the highest seq that may be acknowledged
        self.dropped: dict[int, int] = {}  # stream to batches the agent says it has dropped
        self.in_flight = 0
        self.in_flight_bytes = 0
        self.ended: tuple[grpc.StatusCode, str] | None = None
        self.reading: asyncio.Task[None] | None = None
        self.live = InstanceLive(process, hello.agent_version, True, now_ns, "unknown", "", {}, 0.0)
        self.commands: dict[str, _Command] = {}
        self._responses: deque[ingest_pb2.SessionResponse] = deque()
        self._acks: dict[int, int] = {}
        self._changed = asyncio.Event()

    def send(self, response: ingest_pb2.SessionResponse) -> None:
        """Queues a message for the agent."""
        self._responses.append(response)
        self._changed.set()

    def ack(self, stream: int, seq: int) -> None:
        """A batch is durable, and all before it."""
        self.durable[stream] = max(seq, self.durable.get(stream, 0))
        self._acks[stream] = self.durable[stream]
        self._changed.set()

    def reject(self, stream: int, seq: int, reason: str) -> None:
        """A batch is refused for good."""
        self.send(ingest_pb2.SessionResponse(reject=ingest_pb2.Reject(stream=stream, seq=seq, reason=reason)))  # type: ignore[arg-type]

    def launched(self, size: int) -> None:
        """A batch has been given to the store."""
        self.in_flight += 1
        self.in_flight_bytes += size

    def landed(self, size: int) -> None:
        """The store has answered."""
        self.in_flight -= 1
        self.in_flight_bytes -= size
        self._changed.set()

    def end(self, code: grpc.StatusCode, reason: str) -> None:
        """Takes nothing more in. What is with the store is still acknowledged, then the stream ends."""
        if self.ended is None:
            self.ended = (code, reason)
            if self.reading is not None:
                self.reading.cancel()
            for command in self.commands.values():
                command.result.cancel()
            self._changed.set()

    def has_room(self, credit_bytes: int) -> bool:
        """True when another batch may be read."""
        return self.in_flight_bytes < credit_bytes and len(self._responses) < RESPONSES_MAX

    async def changed(self) -> None:
        """Waits for anything above to happen. Look for what you wait for before, with nothing awaited in between."""
        self._changed.clear()
        await self._changed.wait()

    def take_responses(self) -> list[ingest_pb2.SessionResponse]:
        """What is to be sent now."""
        responses = list(self._responses)
        self._responses.clear()
        for stream, seq in self._acks.items():
            ack = ingest_pb2.Ack(stream=stream, seq=seq)  # type: ignore[arg-type]
            responses.append(ingest_pb2.SessionResponse(ack=ack))
        self._acks.clear()
        return responses

    def snapshot_stored(self, at_ns: int) -> None:
        """A complete heap snapshot of that time is durable."""
        for command in self.commands.values():
            if at_ns >= command.not_before_ns and not command.stored.done():
                command.stored.set_result(None)


class Registry:
    """Connected processes and those lost within the last hour. Implements model.live.LiveInstances."""

    def __init__(self, counters: IngestCounters, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._counters = counters
        self._clock_ns = clock_ns
        self._connections: dict[str, Connection] = {}
        self._lost: OrderedDict[str, InstanceLive] = OrderedDict()

    def __len__(self) -> int:
        return len(self._connections)

    def connections(self) -> Sequence[Connection]:
        """All open ones."""
        return list(self._connections.values())

    def enter(self, connection: Connection) -> None:
        """The newest connection of a session wins: an agent that reconnects may know first that the old one is dead."""
        old = self._connections.get(connection.session_id)
        if old is not None:
            self._counters["sessions_replaced_total"] += 1
            old.end(grpc.StatusCode.ABORTED, "A newer connection of this session has taken over.")
        self._connections[connection.session_id] = connection
        self._lost.pop(connection.process.instance_id, None)

    def leave(self, connection: Connection) -> None:
        """The stream is gone."""
        if self._connections.get(connection.session_id) is connection:
            del self._connections[connection.session_id]
            self._lost[connection.process.instance_id] = replace(connection.live, connected=False)
            self._lost.move_to_end(connection.process.instance_id)
        while len(self._lost) > LOST_MAX:
            self._lost.popitem(last=False)

    def beat(self, connection: Connection, beat: ingest_pb2.Heartbeat, statistics: Mapping[str, float]) -> None:
        """An agent has told how it is."""
        now_ns = self._clock_ns()
        connection.live = replace(
            connection.live,
            last_seen_ns=now_ns,
            sampler_state=beat.sampler_state or "unknown",
            sampler_reason=beat.sampler_reason,
            statistics=statistics,
            clock_skew_s=(now_ns - beat.at_ns) / 1e9,
        )

    def heard(self, connection: Connection) -> None:
        """An agent has sent anything."""
        connection.live = replace(connection.live, last_seen_ns=self._clock_ns())

    def instances(self) -> Sequence[InstanceLive]:
        """Connected processes and those lost within the last hour, by service and start."""
        oldest_ns = self._clock_ns() - LOST_KEPT_S * 10**9
        for instance_id in [key for key, live in self._lost.items() if live.last_seen_ns < oldest_ns]:
            del self._lost[instance_id]
        connected = {one.process.instance_id: one.live for one in self._connections.values()}
        everyone = {**self._lost, **connected}
        return sorted(
            everyone.values(),
            key=lambda live: (live.process.service, live.process.started_at_ns, live.process.instance_id),
        )

    async def take_snapshot(
        self, instance_ids: Sequence[str], timeout_s: float, label: str = ""
    ) -> Sequence[CommandAnswer]:
        """Asks connected processes for a heap snapshot under a name, which may be empty; returns when it is durable, or
        the deadline has passed."""
        connected = {one.process.instance_id: one for one in self._connections.values()}
        return await asyncio.gather(
            *(self._ask(instance_id, connected.get(instance_id), timeout_s, label) for instance_id in instance_ids)
        )

    async def _ask(
        self, instance_id: str, connection: Connection | None, timeout_s: float, label: str
    ) -> CommandAnswer:
        if connection is None:
            return CommandAnswer(instance_id, "failed", "The process is not connected.")
        if ingest_pb2.COMMAND_KIND_SNAPSHOT not in connection.commands_allowed:
            return CommandAnswer(instance_id, "refused", "The agent's configuration does not allow this command.")
        if len(connection.commands) >= COMMANDS_MAX:
            return CommandAnswer(instance_id, "refused", f"{COMMANDS_MAX} commands are under way there; wait for them.")
        # Both moments are for the agent to compare with its own clock.
        agent_now_ns = self._clock_ns() - round(connection.live.clock_skew_s * 1e9)
        loop = asyncio.get_running_loop()
        command_id = uuid.uuid4().hex
        command = _Command(agent_now_ns - SNAPSHOT_SLACK_NS, loop.create_future(), loop.create_future())
        connection.commands[command_id] = command
        connection.send(
            ingest_pb2.SessionResponse(
                command=ingest_pb2.Command(
                    id=command_id,
                    kind=ingest_pb2.COMMAND_KIND_SNAPSHOT,
                    deadline_ns=agent_now_ns + round(timeout_s * 1e9),
                    label=label,
                )
            )
        )
        self._counters["commands_sent_total"] += 1
        try:
            async with asyncio.timeout(timeout_s):
                return await _outcome(instance_id, command)
        except TimeoutError:
            missing = "an answer" if not command.result.done() else "its snapshot"
            return CommandAnswer(instance_id, "failed", f"The process did not send {missing} within {timeout_s:g} s.")
        finally:
            connection.commands.pop(command_id, None)


async def _outcome(instance_id: str, command: _Command) -> CommandAnswer:
    # Waited for as a set: cancelling the future means that the connection is gone, not that we are cancelled.
    await asyncio.wait([command.result])
    if command.result.cancelled():
        return CommandAnswer(instance_id, "failed", "The process disconnected before it answered.")
    result = command.result.result()
    if result.outcome == ingest_pb2.COMMAND_OUTCOME_DONE:
        await command.stored
        return CommandAnswer(instance_id, "done", "")
    refused = result.outcome == ingest_pb2.COMMAND_OUTCOME_REFUSED
    reason = result.reason[:1024] or "The agent gave no reason."
    return CommandAnswer(instance_id, "refused" if refused else "failed", reason)
