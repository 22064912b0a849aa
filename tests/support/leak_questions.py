"""Asks a real collector what leaks in a service, as the command line does: for whoever counts its answers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import grpc
from glassbottom.wire.v1 import control_pb2, control_pb2_grpc, query_pb2, query_pb2_grpc


def question(service: str, from_ns: int, to_ns: int, limit: int) -> query_pb2.LeaksRequest:
    """What is asked: of a window, Unix epoch."""
    return query_pb2.LeaksRequest(
        selector=query_pb2.Selector(service=service),
        range=query_pb2.Range(from_ns=from_ns, to_ns=to_ns),
        limit=limit,
    )


@contextlib.contextmanager
def connected(address: str) -> Iterator[query_pb2_grpc.QueryServiceStub]:
    """A way to ask; answers may be long."""
    with grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", 64 << 20)]) as channel:
        yield query_pb2_grpc.QueryServiceStub(channel)


def ask(query: query_pb2_grpc.QueryServiceStub, asked: query_pb2.LeaksRequest) -> query_pb2.LeakReport | None:
    """The report; None while the collector has nothing of the service."""
    try:
        for message in query.Leaks(asked, timeout=120):
            if message.HasField("report"):
                return message.report
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            return None
        raise
    raise RuntimeError("the collector ended its answer without a report")


def settle(address: str, service: str) -> None:
    """Returns when what the process told before is stored: batches are stored in the order in which they were sent, and
    this one last. The same question then has the same answer for ever."""
    with grpc.insecure_channel(address) as channel:
        control = control_pb2_grpc.ControlServiceStub(channel)
        control.TakeSnapshot(control_pb2.TakeSnapshotRequest(service=service), timeout=60)
