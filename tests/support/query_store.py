"""A small store of two services, and how tests ask about it: the same heaps for every question about memory."""

from __future__ import annotations

from collections.abc import Sequence

import grpc
import numpy as np
import pytest
from glassbottom.wire.v1 import query_pb2, query_pb2_grpc
from glassbottom_collector.model.code import Frame, Stack, stack_id, type_id
from glassbottom_collector.model.heap import (
    Definitions,
    HeapSnapshot,
    MetricPoint,
    SiteColumns,
    SnapshotHeader,
    TypeColumns,
)
from glassbottom_collector.model.process import Process

from tests.support.memory_reader import MemoryReader

SECOND = 10**9
START = 1_700_000_000 * SECOND
NOW = START + 100 * SECOND
A, B, OTHER = "aa1" + "0" * 29, "aa2" + "0" * 29, "bb3" + "0" * 29

HANDLER = Frame("Socket.on_message", "/srv/app/ws.py", 42)
CONNECT = Frame("Socket.on_connect", "/srv/app/ws.py", 20)
CACHE = Frame("Cache.put", "/srv/app/cache.py", 7)
MAIN = Frame("main", "/srv/app/main.py", 3)
PATHS = {
    "message": (HANDLER, MAIN),
    "message, from connect": (HANDLER, CONNECT, MAIN),
    "connect": (CONNECT, MAIN),
    "cache": (CACHE, MAIN),
    "cache, in orders": (CACHE, MAIN),
    "message, in orders": (HANDLER, MAIN),
    "message, in users": (HANDLER, MAIN),
}
ORDERS, USERS = "GET /orders/{id}", "GET /users"
LABELS = {"cache, in orders": ORDERS, "message, in orders": ORDERS, "message, in users": USERS}


def _stack(path: Sequence[Frame], label: str) -> Stack:
    ids = tuple(frame.id for frame in path)
    return Stack(stack_id(ids, label), ids, label=label)


STACKS = {name: _stack(path, LABELS.get(name, "")) for name, path in PATHS.items()}
DEFINITIONS = Definitions(
    {frame.id: frame for path in PATHS.values() for frame in path},
    {stack.id: stack for stack in STACKS.values()},
    {type_id(name): name for name in ("bytes", "dict")},
)


def snapshot(
    instance_id: str,
    at_s: float,
    held: dict[str, float],
    *,
    epoch: int = 1,
    variance: float = 1e10,
    heap_variance: float | None = None,
    allocated: dict[str, float] | None = None,
) -> HeapSnapshot:
    """A complete snapshot; each path's objects are 1 000 bytes, two thirds of them bytes and the rest dicts."""
    names, live = list(held), np.array(list(held.values()))
    stacks = np.array([STACKS[name].id for name in names], dtype=np.uint64)
    count = len(names)
    header = SnapshotHeader(
        instance_id,
        epoch,
        START + int(at_s * SECOND),
        True,
        524_288.0,
        0.1,
        float(live.sum()),
        variance * count if heap_variance is None else heap_variance,
    )
    sites = SiteColumns(
        stack=stacks,
        live_bytes=live,
        live_bytes_variance=np.full(count, variance),
        live_objects=live / 1000,
        live_objects_variance=np.full(count, variance / 1e6),
        alloc_bytes=np.array([(allocated or held)[name] for name in names]),
        alloc_objects=live / 1000,
        samples=np.full(count, 5, dtype=np.uint32),
        birth_oldest_ms=np.full(count, START // 10**6, dtype=np.int64),
        birth_mean_ms=np.full(count, START // 10**6, dtype=np.int64),
        birth_minutes=np.ones(count, dtype=np.uint32),
    )
    types = TypeColumns(
        stack=np.repeat(stacks, 2),
        type=np.tile(np.array([type_id("bytes"), type_id("dict")], dtype=np.uint64), count),
        live_bytes=np.repeat(live, 2) * np.tile([2 / 3, 1 / 3], count),
        live_objects=np.repeat(live / 1000, 2) * np.tile([2 / 3, 1 / 3], count),
        samples=np.tile(np.array([3, 2], dtype=np.uint32), count),
    )
    return HeapSnapshot(header, sites, types, DEFINITIONS)


def store() -> MemoryReader:
    """Two processes of `shop`: one grows by 20 MB between 10 s and 90 s, the other holds still; and one of `mail`."""
    reader = MemoryReader()
    for service, instance in (("shop", A), ("shop", B), ("mail", OTHER)):
        reader.add_process(Process(service, instance, 7, START, {"host.name": "web1"}))
    for at_s, grown in ((10.0, 0.0), (50.0, 10e6), (90.0, 20e6)):
        reader.add_snapshot(
            snapshot(A, at_s, {"message": 5e6 + grown, "message, from connect": 2e6, "connect": 1e6, "cache": 3e6})
        )
        reader.add_snapshot(snapshot(B, at_s, {"message": 4e6, "cache": 6e6}))
        reader.add_metrics(A, [MetricPoint(START + int(at_s * SECOND), "process.memory.usage", 100e6 + grown)])
    reader.add_snapshot(snapshot(OTHER, 20.0, {"cache": 1e6}))
    return reader


Client = query_pb2_grpc.QueryServiceStub
SHOP = query_pb2.Selector(service="shop")


def at(seconds: float) -> int:
    return START + int(seconds * SECOND)


def by_place(sites) -> dict[str, query_pb2.Site]:
    return {site.type or site.frame.function or site.frame.file: site for site in sites}


def failure(call, request) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        answer = call(request)
        if not hasattr(answer, "DESCRIPTOR"):
            list(answer)
    return caught.value.code(), caught.value.details()
