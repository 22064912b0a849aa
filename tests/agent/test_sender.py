"""The session protocol against a real gRPC server that does what the test says, and against the clock."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from glassbottom._agent import Agent
from glassbottom.testing import FakeClock, MemoryTransport
from glassbottom.wire.v1 import ingest_pb2

from tests.support.ingest_double import IngestDouble, Response, Session

HEAP = ingest_pb2.STREAM_HEAP
Agents = Callable[..., Agent]


def change(agent: Agent) -> None:
    agent.core.sites[1].live_bytes += 1  # type: ignore[attr-defined]


# Against a real server


def test_hello_comes_first_and_says_who_it_is(agents: Agents, double: IngestDouble):
    agent = agents(double.endpoint)
    double.wait_for(lambda: bool(double.batches()) and bool(double.sessions[0].heartbeats))
    hello = double.sessions[0].hello
    assert hello.protocol == 1
    assert hello.process.service == "tested"
    assert hello.process.instance_id == agent.identity.instance_id
    assert len(hello.session_id) == len(hello.process.instance_id) == 32
    assert 0 < hello.process.started_at_ns < agent.clock.time_ns()
    assert hello.process.attributes["process.runtime.name"] == "cpython"
    assert ingest_pb2.COMMAND_KIND_SNAPSHOT in hello.commands_allowed
    assert double.sessions[0].heartbeats[0].sampler_state == "running"


def test_batches_arrive_in_order_and_are_let_go_when_acknowledged(agents: Agents, double: IngestDouble):
    agent = agents(double.endpoint)
    double.wait_for(lambda: len(double.batches()) >= 4)
    assert [batch.seq for batch in double.batches()][:4] == [1, 2, 3, 4]
    assert agent.sender.flush(5.0)
    assert agent.queue.is_empty()


def test_after_a_lost_connection_only_what_was_not_stored_is_sent_again(agents: Agents, double: IngestDouble):
    """The collector stored batch 2 and died before it could say so."""

    def store_two_acknowledge_one(session: Session, batch: ingest_pb2.Batch) -> None:
        double.marks[session.hello.session_id, batch.stream] = min(batch.seq, 2)
        if batch.seq == 1:
            session.ack(batch)
        elif batch.seq == 3:
            double.on_batch = None
            session.close()

    double.on_batch = store_two_acknowledge_one
    agent = agents(double.endpoint)
    double.wait_for(lambda: len(double.sessions) >= 2 and len(double.sessions[1].batches) >= 2)
    assert double.sessions[0].hello.session_id == double.sessions[1].hello.session_id
    assert double.sessions[1].batches[0].seq == 3
    assert agent.sender.statistics().reconnects >= 1


def test_the_first_reading_after_a_reconnect_is_complete(agents: Agents, double: IngestDouble):
    agents(double.endpoint)
    double.wait_for(lambda: len(double.batches()) >= 2)
    assert not double.heaps()[1].complete
    double.sessions[0].close()
    double.wait_for(lambda: len(double.sessions) == 2 and len(double.sessions[1].batches) >= 2)
    first_seq = double.sessions[0].batches[-1].seq
    later = [heap for heap, batch in zip(double.heaps(), double.batches(), strict=False) if batch.seq > first_seq]
    assert any(heap.complete for heap in later[:2])


def test_a_collector_that_was_killed_and_came_back_gets_everything(agents: Agents, double: IngestDouble):
    agent = agents(double.endpoint)
    double.wait_for(lambda: len(double.batches()) >= 2)
    double.stop()
    double.start()
    double.wait_for(lambda: len(double.sessions) >= 2 and bool(double.sessions[-1].batches))
    assert agent.sender.flush(5.0)
    seqs = sorted({batch.seq for batch in double.batches()})
    assert seqs == list(range(1, len(seqs) + 1))


def test_a_new_store_is_told_all_definitions_again(agents: Agents, double: IngestDouble):
    agents(double.endpoint)
    double.wait_for(lambda: len(double.batches()) >= 2)
    double.marks.clear()
    double.welcome.store_id = "store-2"
    double.sessions[0].close()
    double.wait_for(lambda: len(double.sessions) == 2 and len(double.sessions[1].batches) >= 1)
    double.wait_for(lambda: any(heap.definitions.stacks for heap in double.heaps()[-3:]))


def test_no_more_than_the_credit_is_in_flight(agents: Agents, double: IngestDouble):
    held: list[tuple[Session, ingest_pb2.Batch]] = []
    double.welcome.credit_bytes = 1024
    double.on_batch = lambda session, batch: held.append((session, batch))
    agent = agents(double.endpoint)
    double.wait_for(lambda: bool(held) and agent.queue.statistics().batches > 12)
    assert sum(len(batch.body) for _, batch in held) <= 1024
    seen = len(held)
    held[-1][0].ack(held[-1][1])
    double.wait_for(lambda: len(held) > seen)


def test_a_rejected_batch_is_counted_and_not_sent_again(agents: Agents, double: IngestDouble):
    def reject_second(session: Session, batch: ingest_pb2.Batch) -> None:
        if batch.seq == 2:
            session.send(Response(reject=ingest_pb2.Reject(stream=batch.stream, seq=2, reason="malformed")))
        else:
            session.ack(batch)

    double.on_batch = reject_second
    agent = agents(double.endpoint)
    double.wait_for(lambda: len(double.batches()) >= 5)
    assert [batch.seq for batch in double.batches()].count(2) == 1
    assert agent.sender.statistics().batches_rejected == 1
    assert any(heap.complete for heap in double.heaps()[2:])


def test_a_batch_larger_than_the_collector_takes_is_dropped_here(agents: Agents, double: IngestDouble):
    double.welcome.batch_bytes_max = 10
    agent = agents(double.endpoint)
    double.wait_for(lambda: agent.sender.statistics().batches_rejected >= 2)
    assert not double.batches()
    assert agent.sender.statistics().connected


def test_a_collector_without_zstandard_gets_plain_bodies(agents: Agents, double: IngestDouble):
    del double.welcome.codecs[:]
    double.welcome.codecs.append(ingest_pb2.CODEC_NONE)
    agents(double.endpoint)
    double.wait_for(lambda: len(double.batches()) >= 2)
    assert {batch.codec for batch in double.batches()} == {ingest_pb2.CODEC_NONE}


def test_a_snapshot_command_is_answered_when_the_snapshot_is_stored(agents: Agents, double: IngestDouble):
    agents(double.endpoint, snapshot_interval_s=3600)
    double.wait_for(lambda: bool(double.sessions) and bool(double.sessions[0].heartbeats))
    before = len(double.batches())
    double.sessions[0].send(
        Response(command=ingest_pb2.Command(id="c1", kind=ingest_pb2.COMMAND_KIND_SNAPSHOT, deadline_ns=0))
    )
    double.wait_for(lambda: bool(double.sessions[0].results))
    result = double.sessions[0].results[0]
    assert (result.id, result.outcome) == ("c1", ingest_pb2.COMMAND_OUTCOME_DONE)
    assert len(double.batches()) == before + 1
    assert double.heaps()[-1].complete


def test_a_command_the_configuration_does_not_allow_is_refused(agents: Agents, double: IngestDouble):
    agents(double.endpoint, commands="none")
    double.wait_for(lambda: bool(double.sessions))
    assert not double.sessions[0].hello.commands_allowed
    double.sessions[0].send(Response(command=ingest_pb2.Command(id="c1", kind=ingest_pb2.COMMAND_KIND_SNAPSHOT)))
    double.wait_for(lambda: bool(double.sessions[0].results))
    assert double.sessions[0].results[0].outcome == ingest_pb2.COMMAND_OUTCOME_REFUSED
    assert "GLASSBOTTOM_COMMANDS" in double.sessions[0].results[0].reason


def test_stopping_ends_every_thread_behind_the_connection(agents: Agents, double: IngestDouble):
    agent = agents(double.endpoint)
    double.wait_for(lambda: bool(double.batches()))
    agent.stop(5.0)
    assert agent.sender.statistics().close_timeouts == 0
    double.wait_for(lambda: not double.sessions[0].is_open)


# Against the clock


class Stepped:
    """An agent whose thread is the test: time passes only in pass_time()."""

    def __init__(self, agents: Agents, **options: object) -> None:
        self.clock = FakeClock()
        self.collector = MemoryTransport()
        self.attempts_s: list[float] = []
        self.agent = agents(start=False, connect=self._connect, clock=self.clock, **options)
        for probe in self.agent._probes:
            probe.start()
            self.agent._due_s[probe.name] = self.clock.monotonic_s()

    def _connect(self, on_event: Callable[[], None]) -> object:
        self.attempts_s.append(self.clock.monotonic_s())
        return self.collector.connect(on_event)

    def pass_time(self, seconds: float) -> None:
        end_s = self.clock.monotonic_s() + seconds
        while self.clock.monotonic_s() < end_s:
            change(self.agent)
            wait_s = self.agent.sender.step()
            self.clock.advance(min(max(wait_s, 0.01), end_s - self.clock.monotonic_s() + 1e-9))


def test_an_hour_without_a_collector_costs_bounded_memory_and_sending_resumes_by_itself(agents: Agents):
    stepped = Stepped(agents, snapshot_interval_s=1.0, queue_bytes_max=65536, backoff_s_min=0.5, backoff_s_max=60.0)
    stepped.collector.available = False
    stepped.pass_time(3600)
    statistics = stepped.agent.queue.statistics()
    assert statistics.bytes_held <= statistics.bytes_max
    assert statistics.dropped[HEAP] > 3000
    assert stepped.agent.guard.errors == 0
    stepped.collector.available = True
    stepped.pass_time(61)
    assert stepped.agent.queue.statistics().batches <= 1
    assert stepped.collector.batches
    assert stepped.collector.heaps()[0].complete, "what was kept must not build on what was dropped"
    last = [seq for _, seq, _ in stepped.collector.batches][-1]
    assert last > 3500


def test_pauses_between_attempts_grow_are_jittered_and_have_an_end(agents: Agents):
    stepped = Stepped(agents, snapshot_interval_s=60.0, backoff_s_min=0.5, backoff_s_max=60.0)
    stepped.agent.sender._rng = random.Random(1)
    stepped.collector.available = False
    stepped.pass_time(3600)
    pauses_s = [later - earlier for earlier, later in zip(stepped.attempts_s, stepped.attempts_s[1:], strict=False)]
    for attempt, pause_s in enumerate(pauses_s):
        longest_s = min(0.5 * 2**attempt, 60.0)
        assert longest_s * 0.5 <= pause_s <= longest_s + 0.02
    assert len(pauses_s) > 60
    assert len({round(pause_s, 2) for pause_s in pauses_s[10:]}) > 10


def test_a_throttled_agent_sends_no_batch_before_its_time_but_stays_alive(agents: Agents):
    stepped = Stepped(agents, snapshot_interval_s=1.0, heartbeat_interval_s=1.0)
    stepped.pass_time(2.5)
    (connection,) = stepped.collector._open
    connection.respond(Response(throttle=ingest_pb2.Throttle(retry_after_ms=10_000, reason="disk full")))
    stepped.pass_time(0.5)
    batches, heartbeats = len(stepped.collector.batches), len(stepped.collector.heartbeats)
    stepped.pass_time(9.0)
    assert len(stepped.collector.batches) == batches
    assert len(stepped.collector.heartbeats) >= heartbeats + 8
    stepped.pass_time(2.0)
    assert len(stepped.collector.batches) >= batches + 10


def test_a_collector_that_never_welcomes_is_left(agents: Agents, monkeypatch: pytest.MonkeyPatch):
    stepped = Stepped(agents)
    monkeypatch.setattr(stepped.collector, "_accept", lambda _request, _session: [])
    stepped.pass_time(9.0)
    assert len(stepped.attempts_s) == 1
    stepped.pass_time(5.0)
    assert len(stepped.attempts_s) >= 2
    assert not stepped.collector.batches


def test_commands_too_late_or_too_often_are_refused(agents: Agents):
    stepped = Stepped(agents, snapshot_interval_s=60.0)
    stepped.pass_time(1.0)
    snapshot = ingest_pb2.COMMAND_KIND_SNAPSHOT
    past_ns = stepped.clock.time_ns() - 1
    stepped.collector.command(ingest_pb2.Command(id="late", kind=snapshot, deadline_ns=past_ns))
    stepped.collector.command(ingest_pb2.Command(id="first", kind=snapshot))
    stepped.collector.command(ingest_pb2.Command(id="again", kind=snapshot))
    stepped.collector.command(ingest_pb2.Command(id="odd", kind=ingest_pb2.COMMAND_KIND_UNSPECIFIED))
    stepped.pass_time(1.0)
    outcomes = {result.id: result.outcome for result in stepped.collector.results}
    assert outcomes == {
        "late": ingest_pb2.COMMAND_OUTCOME_REFUSED,
        "first": ingest_pb2.COMMAND_OUTCOME_DONE,
        "again": ingest_pb2.COMMAND_OUTCOME_REFUSED,
        "odd": ingest_pb2.COMMAND_OUTCOME_REFUSED,
    }
