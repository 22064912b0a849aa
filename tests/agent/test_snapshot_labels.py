"""Snapshots that are given a name, by the application or by an operator."""

from __future__ import annotations

import threading

import pytest
from glassbottom._agent import ASKED_MAX, Agent
from glassbottom.control import LABEL_CHARACTERS_MAX
from glassbottom.wire.v1 import ingest_pb2

from tests.agent.conftest import Build as Agents
from tests.support.ingest_double import IngestDouble


@pytest.fixture
def agent(agents: Agents, double: IngestDouble) -> Agent:
    """One that is connected and reads only when it is asked."""
    agent = agents(double.endpoint, snapshot_interval_s=3600)
    double.wait_for(lambda: bool(double.sessions) and bool(double.sessions[0].heartbeats))
    return agent


def labels(double: IngestDouble) -> list[list[str]]:
    return [list(heap.labels) for heap in double.heaps() if heap.labels]


def test_a_name_arrives_with_a_complete_snapshot(agent: Agent, double: IngestDouble):
    assert agent.request_snapshot("before")
    double.wait_for(lambda: labels(double) == [["before"]])
    assert next(heap for heap in double.heaps() if heap.labels).complete


def test_who_waits_goes_on_when_the_heap_has_been_read(agent: Agent, double: IngestDouble):
    for name in ("before", "after"):
        assert agent.request_snapshot(name, wait_s=20)
    assert agent.sender.flush(20)
    assert labels(double) == [["before"], ["after"]], "each was read before the next was asked for"


def test_a_snapshot_that_is_waited_for_needs_no_name(agent: Agent, double: IngestDouble):
    before = len(double.batches())
    assert agent.request_snapshot(wait_s=20)
    assert agent.sender.flush(20)
    assert len(double.batches()) == before + 1
    assert labels(double) == []


def test_names_asked_for_at_once_share_a_reading_and_none_is_there_twice(agents: Agents, double: IngestDouble):
    agent = agents(double.endpoint, start=False, snapshot_interval_s=3600)
    agent._probes[0].start()
    for name in ("a", "b", "a"):
        assert agent.request_snapshot(name)
    agent.sender.start()
    double.wait_for(lambda: bool(double.heaps()))
    assert labels(double) == [["a", "b"]]


def test_more_than_one_reading_can_carry_are_refused_and_counted(agents: Agents, double: IngestDouble):
    agent = agents(double.endpoint, start=False, snapshot_interval_s=3600)
    agent._probes[0].start()
    told = [agent.request_snapshot(f"name {number}") for number in range(ASKED_MAX + 2)]
    assert told == [True] * ASKED_MAX + [False] * 2
    assert agent.statistics()["snapshots_refused_total"] == 2
    agent.sender.start()
    double.wait_for(lambda: bool(double.heaps()))
    assert [len(some) for some in labels(double)] == [ASKED_MAX]


def test_a_long_name_is_cut_and_blanks_in_it_are_single(agent: Agent, double: IngestDouble):
    assert agent.request_snapshot("  after\n 500\trequests " + "x" * 500)
    double.wait_for(lambda: bool(labels(double)))
    ((name,),) = labels(double)
    assert name.startswith("after 500 requests x")
    assert len(name) == LABEL_CHARACTERS_MAX


def test_a_heap_that_is_not_sampled_has_no_snapshots_with_a_name(agents: Agents, double: IngestDouble):
    agent = agents(double.endpoint, start=False)
    assert not agent.request_snapshot("before"), "its probe has not been started"
    assert not agent.request_snapshot(wait_s=20), "and nobody waits for what will not come"


def test_what_is_no_text_is_no_name(agent: Agent):
    assert not agent.request_snapshot(7)  # type: ignore[arg-type]


def test_whoever_waits_does_not_wait_longer_than_they_said(agents: Agents, double: IngestDouble):
    agent = agents(double.endpoint, start=False)
    agent._probes[0].start()
    done = threading.Event()
    waiting = threading.Thread(target=lambda: (agent.request_snapshot("x", wait_s=0.05), done.set()))
    waiting.start()
    assert done.wait(20)
    waiting.join()


def test_an_operator_names_a_snapshot_too(agent: Agent, double: IngestDouble):
    double.sessions[0].send(
        ingest_pb2.SessionResponse(
            command=ingest_pb2.Command(id="c1", kind=ingest_pb2.COMMAND_KIND_SNAPSHOT, label="before")
        )
    )
    double.wait_for(lambda: bool(double.sessions[0].results))
    assert double.sessions[0].results[0].outcome == ingest_pb2.COMMAND_OUTCOME_DONE
    assert labels(double) == [["before"]]
