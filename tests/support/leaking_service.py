"""A service that leaks at one line and fills a cache at another, as a real collector has stored it.

The agent is a WireClient that sends six and a half minutes of snapshots at once; values are exact, so is the truth.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.support.collector_process import collector_process
from tests.support.wire_client import WireClient
from tests.support.wire_messages import HEAP, METRICS, Code

MIB = 1024.0 * 1024.0
SECOND_NS = 10**9
SNAPSHOTS = 40
EVERY_S = 10
LEAK_BYTES_PER_S = 2 * MIB


@dataclass(frozen=True)
class Story:
    """A service that leaks at one line and fills a cache at another: its collector, its agent, what it sent last."""

    address: str
    agent: WireClient
    first_ns: int
    last_ns: int
    live_bytes: float
    sites: Mapping[str, Any]


@contextlib.contextmanager
def leaking_service() -> Iterator[Story]:
    """Runs a collector, tells it the story, and keeps the agent connected."""
    last_ns = time.time_ns() - 2 * SECOND_NS
    first_ns = last_ns - (SNAPSHOTS - 1) * EVERY_S * SECOND_NS
    code = Code()
    outer = ("<module>", "/srv/checkout/main.py", 9)
    leak = code.stack(("Manager.on_connect", "/srv/checkout/handlers.py", 42), outer)
    cache = code.stack(("Catalog.load", "/srv/checkout/cache.py", 17), outer)
    kind = code.type("bytes")
    live_bytes = 0.0
    with (
        collector_process() as collector,
        WireClient(collector.address, started_at_ns=first_ns - 600 * SECOND_NS, pid=4711) as agent,
    ):
        for at in range(SNAPSHOTS):
            at_ns = first_ns + at * EVERY_S * SECOND_NS
            leaked = 30 * MIB + at * EVERY_S * LEAK_BYTES_PER_S + 1 / 3
            sites = {
                "stack": [leak, cache],
                "live_bytes": [leaked, 64 * MIB + 1 / 3],
                "live_bytes_variance": [leaked * 524288 / 50, 64 * MIB * 524288 / 50],
                "live_objects": [leaked / 4096, 16384.0],
                "live_objects_variance": [leaked / 4096, 16384.0],
                "alloc_bytes": [leaked * 1.5, 200 * MIB],
                "alloc_objects": [leaked * 1.5 / 4096, 50_000.0],
                "samples": [round(leaked / 524288), 128],
                "birth_oldest_ms": [first_ns // 10**6] * 2,
                "birth_mean_ms": [(first_ns + at_ns) // 2 // 10**6, first_ns // 10**6],
                "birth_minutes": [1 + at * EVERY_S // 60, 1],
            }
            types = {
                "stack": [leak, cache],
                "type": [kind, kind],
                "live_bytes": sites["live_bytes"],
                "live_objects": sites["live_objects"],
                "samples": sites["samples"],
            }
            heap = agent.send_heap(at_ns, sites, types, code.definitions() if at == 0 else None)
            metrics = agent.send_metrics(at_ns, [("process.memory.usage", leaked + 120 * MIB)])
            live_bytes = sum(sites["live_bytes"])
        agent.heartbeat(statistics={"sampler_interval_bytes": 524288.0, "agent_cpu_ratio": 0.004})
        agent.wait_ack(HEAP, heap)
        agent.wait_ack(METRICS, metrics)
        yield Story(collector.address, agent, first_ns, last_ns, live_bytes, sites)
