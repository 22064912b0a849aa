"""The real Query servicer on a real grpc.aio server at a free port, over any Reader."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import grpc
from glassbottom.wire.v1 import query_pb2_grpc, snapshots_pb2_grpc
from glassbottom_collector.api.query import Query
from glassbottom_collector.api.snapshots import Snapshots
from glassbottom_collector.model.live import CommandAnswer, InstanceLive
from glassbottom_collector.storage import Reader, StoreStatistics

from tests.support import async_server


class NobodyElse:
    """LiveInstances of a collector whose connected processes are given."""

    def __init__(self, instances: Sequence[InstanceLive] = ()) -> None:
        self._instances = tuple(instances)

    def instances(self) -> Sequence[InstanceLive]:
        return self._instances

    async def take_snapshot(
        self, instance_ids: Sequence[str], timeout_s: float, label: str = ""
    ) -> Sequence[CommandAnswer]:
        return [CommandAnswer(instance, "refused", "not connected") for instance in instance_ids]


@contextlib.contextmanager
def serving(
    reader: Reader,
    now_ns: int,
    live: Sequence[InstanceLive] = (),
    statistics: StoreStatistics | None = None,
) -> Iterator[query_pb2_grpc.QueryServiceStub]:
    """A client of such a server, whose clock stands at now_ns."""
    with listening(reader, now_ns, live, statistics) as channel:
        yield query_pb2_grpc.QueryServiceStub(channel)


@contextlib.contextmanager
def listening(
    reader: Reader,
    now_ns: int,
    live: Sequence[InstanceLive] = (),
    statistics: StoreStatistics | None = None,
) -> Iterator[grpc.Channel]:
    """The way to such a server, which also answers about snapshots."""

    def add(server: grpc.aio.Server) -> None:
        store = statistics or StoreStatistics({}, ())
        query = Query(reader, NobodyElse(live), lambda: store, now_ns - 10**9, lambda: now_ns)
        query_pb2_grpc.add_QueryServiceServicer_to_server(query, server)
        snapshots_pb2_grpc.add_SnapshotServiceServicer_to_server(Snapshots(reader, lambda: now_ns), server)

    with async_server.serving(add) as channel:
        yield channel
