"""Sockets kept in a list of connections that nothing is ever taken out of.

Mended: closed and forgotten at the end of the request.
"""

from __future__ import annotations

import socket

from tests.leakbench.case import Case, Operation, kept

CASE = Case(
    id="T5",
    title="sockets without close",
    sites=kept(__file__),
    holder="list",
    bytes_per_operation=400,
    per_second=25,
)


class Peer:
    """One side of a connection and what has come in on it."""

    def __init__(self) -> None:
        self.near, self.far = socket.socketpair()  # kept
        self.received = bytearray(200)  # kept

    def close(self) -> None:
        self.near.close()
        self.far.close()


def setup(fixed: bool) -> Operation:
    peers: list[Peer] = []

    def operation(number: int) -> None:
        peer = Peer()  # kept
        peers.append(peer)  # kept
        if fixed:
            peers.remove(peer)
            peer.close()

    return operation
