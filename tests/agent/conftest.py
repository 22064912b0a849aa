"""What tests of the agent share: a collector double, agents and probes that end with their test, both kinds of loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import glassbottom
import pytest
import uvloop
from glassbottom import _profile
from glassbottom._agent import Agent
from glassbottom._clock import Clock
from glassbottom._config import Config
from glassbottom._guard import Guard
from glassbottom._options import from_env
from glassbottom.probes import Probe
from glassbottom.probes.heap import HeapProbe
from glassbottom.transport.connection import Connector
from glassbottom.transport.queue import BatchQueue

from tests.support.ingest_double import IngestDouble
from tests.support.native_fake import FakeCore, FakeSite
from tests.support.profiled import Recorded
from tests.support.spans import seen, tracer
from tests.support.tasks_rig import Main, Rig, Run

__all__ = ["agents", "double", "recorded", "rig", "run", "seen", "tracer", "way"]

QUICK = {
    "snapshot_interval_s": 0.1,
    "heartbeat_interval_s": 0.1,
    "connect_delay_s": 0.0,
    "backoff_s_min": 0.05,
    "backoff_s_max": 0.2,
    "window_share": 0.5,
}


class Build:
    """agents(endpoint, **options): a running Agent, unless start=False; `core` is its fake heap."""

    def __init__(self) -> None:
        self.agents: list[Agent] = []

    def __call__(
        self,
        endpoint: str = "127.0.0.1:1",
        *,
        start: bool = True,
        connect: Connector | None = None,
        clock: Clock | None = None,
        **options: Any,
    ) -> Agent:
        core = FakeCore()
        code = self.__call__.__code__
        core.sites[1] = FakeSite([(code, 0)], live_bytes=100.0, live_objects=1.0, alloc_bytes=100.0, samples=1)

        def probes(config: Config, queue: BatchQueue, clock: Clock, guard: Guard) -> list[Probe]:
            return [HeapProbe(config.heap, queue, clock, guard, core=core)]

        config = from_env({}, service="tested", endpoint=endpoint, options={**QUICK, **options})
        agent = Agent(config, connect=connect, clock=clock, probes=probes)
        agent.core = core  # type: ignore[attr-defined]
        self.agents.append(agent)
        if start:
            agent.start()
        return agent


@pytest.fixture
def agents() -> Iterator[Callable[..., Agent]]:
    build = Build()
    yield build
    for agent in build.agents:
        agent.stop(5.0)


@pytest.fixture
def double() -> Iterator[IngestDouble]:
    with IngestDouble() as double:
        yield double


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine to its end on a new loop of each kind."""
    factory = asyncio.new_event_loop if request.param == "asyncio" else uvloop.new_event_loop

    def run(main: Main) -> Any:
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(main)

    return run


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    """What `glassbottom.profile` measures meanwhile."""
    found = Recorded()
    _profile.attach(found.recorder)
    yield found
    _profile.detach()


@pytest.fixture(params=["plain", "off", "on"])
def way(request: pytest.FixtureRequest) -> Iterator[Callable[[Any], Any]]:
    """The decorator of one way, which leaves a function plain in the first."""
    if request.param == "on":
        _profile.attach(Recorded().recorder)
    yield (lambda function: function) if request.param == "plain" else glassbottom.profile
    _profile.detach()


@pytest.fixture
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """A tasks probe; options by parametrize(indirect=True)."""
    rig = Rig(**getattr(request, "param", {}))
    yield rig
    rig.probe.stop(1.0)
    assert rig.guard.errors == 0
