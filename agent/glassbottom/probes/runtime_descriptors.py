"""Open file descriptors: how many of what, connections by state, and, while they keep growing, who opens them.

What a descriptor is, the kernel says in a link of /proc, some microseconds each, so of many they are read seldom. Who
opened it, nobody remembers; Python's audit events tell when something is about to be opened. A hook for them cannot be
taken away again, therefore it is put in only when descriptors have grown over several readings, and from then on it
returns at once while they do not: 0.1 µs for each audit event, such as an open(), an import, a log record.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path as FilePath

PROC = FilePath("/proc/self")
Reading = tuple[str, float, Mapping[str, str]]

COUNTED_MAX = 65_536
LOOKED_AT_ALWAYS = 512
"""So few are looked at in every reading, in about a millisecond."""
LOOK_COST_RATIO = 0.001
"""Share of time for looking at more: up to some thousand that is every reading of ten seconds, then seldomer."""
LOOK_S_MAX = 0.1
"""A look that takes longer ends; what it has not seen is taken to be like what it has."""
TYPES = ("socket", "file", "pipe", "eventfd", "other")

CONNECTIONS_BYTES_MAX = 4 << 20
CONNECTIONS_COST_RATIO = 0.001
"""Share of time for the table of connections, which lists those of the whole network namespace."""
STATES = {
    "01": "established",
    "02": "syn_sent",
    "03": "syn_received",
    "04": "fin_wait_1",
    "05": "fin_wait_2",
    "06": "time_wait",
    "07": "closed",
    "08": "close_wait",
    "09": "last_ack",
    "0A": "listen",
    "0B": "closing",
}


def type_of(link: str) -> str:
    """The type of a descriptor by what its link says."""
    if link.startswith("/"):
        return "file"
    if link.startswith("socket:"):
        return "socket"
    if link.startswith("pipe:"):
        return "pipe"
    return "eventfd" if "eventfd" in link else "other"


class Descriptors:
    """Counts them at every reading; between two looks at all, types are told as they were at the last."""

    def __init__(self, proc: FilePath = PROC) -> None:
        self._proc = proc
        self._due_s = 0.0
        self._types: dict[str, int] = {}
        self._states: dict[str, int] = {}
        self._connections_due_s = 0.0
        self.links: dict[int, str] = {}
        """Of the last look."""
        self.looked = False
        """In the last reading."""
        self.count = 0

    def read(self, now_s: float) -> Iterator[Reading]:
        """now_s: monotonic."""
        self.count = self._count()
        yield "process.unix.file_descriptor.count", self.count, {}
        self.looked = now_s >= self._due_s or self.count <= LOOKED_AT_ALWAYS
        if self.looked:
            began_s = time.perf_counter()
            self._look(now_s)
            self._due_s = now_s + (time.perf_counter() - began_s) / LOOK_COST_RATIO
        # All of them, each time: one left out would look like none.
        for kind in TYPES:
            yield "glassbottom.fd.count", self._types.get(kind, 0), {"fd.type": kind}
        for state, count in self._states.items():
            yield "glassbottom.socket.count", count, {"network.connection.state": state}

    def _count(self) -> int:
        with contextlib.suppress(OSError):
            # Since Linux 6.2 the size of the directory is the number of descriptors; counting 50 000 takes a while.
            count = (self._proc / "fd").stat().st_size
            if count:
                return count
            with os.scandir(self._proc / "fd") as entries:
                return max(0, sum(1 for _ in zip(entries, range(COUNTED_MAX), strict=False)) - 1)
        return 0

    def _look(self, now_s: float) -> None:
        links: dict[int, str] = {}
        until_s = time.perf_counter() + LOOK_S_MAX
        directory = self._proc / "fd"
        complete = True
        with contextlib.suppress(OSError), os.scandir(directory) as entries:
            for index, entry in enumerate(entries):
                if index >= COUNTED_MAX or (index % 256 == 255 and time.perf_counter() > until_s):
                    complete = False
                    break
                with contextlib.suppress(OSError, ValueError):  # closed meanwhile
                    links[int(entry.name)] = os.readlink(entry.path)  # noqa: PTH115 - a thousand Paths take a millisecond
        ours = os.path.realpath(directory)  # the descriptor by which we look
        self.links = {number: link for number, link in links.items() if link != ours}
        seen: dict[str, int] = {}
        for link in self.links.values():
            kind = type_of(link)
            seen[kind] = seen.get(kind, 0) + 1
        scale = 1.0 if complete else max(1.0, self.count / len(self.links))
        self._types = {kind: round(count * scale) for kind, count in seen.items()}
        if now_s >= self._connections_due_s:
            self._look_at_connections(now_s)

    def _look_at_connections(self, now_s: float) -> None:
        mine = {link[8:-1] for link in self.links.values() if link.startswith("socket:[")}
        known = dict.fromkeys(self._states, 0)
        if mine:
            began_s = time.perf_counter()
            for name in ("tcp", "tcp6"):
                for state in _states(self._proc / "net" / name, mine):
                    known[state] = known.get(state, 0) + 1
            self._connections_due_s = now_s + (time.perf_counter() - began_s) / CONNECTIONS_COST_RATIO
        self._states = known


def _states(table: FilePath, mine: set[str]) -> Iterator[str]:
    with contextlib.suppress(OSError), table.open("rb", buffering=0) as file:
        rest, left = b"", CONNECTIONS_BYTES_MAX
        while left > 0 and (piece := file.read(65_536)):
            left -= len(piece)
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                fields = line.split()
                if len(fields) > 9 and fields[9].decode() in mine:
                    yield STATES.get(fields[3].decode(), "unknown")
