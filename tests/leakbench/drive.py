"""The process in which a case runs: the watched one, and the one that measures its truth without an agent.

    python -m tests.leakbench.drive watch s1 --variant leaky --service s1-leaky --endpoint 127.0.0.1:7411 --seconds 60
    python -m tests.leakbench.drive measure s1 --variant leaky

`watch` serves two routes through the agent's ASGI door, POST for the operation and GET for what a healthy service does
beside it (background.py), at an even pace. It says READY when the agent runs, reports on stdout in JSON lines how many
operations there have been, and when the time is over keeps the process as it is until stdin ends, so that a heap
dump finds everything in place. `measure` counts what stays per operation by tracemalloc, gc and resident memory.

Needs nothing but the standard library and the agent, since a case's environment has its library and no more.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import ctypes
import gc
import inspect
import json
import math
import os
import resource
import sys
import time
import tracemalloc
from collections.abc import Sequence
from typing import Any

from tests.leakbench.background import Background
from tests.leakbench.case import FIXED, HERE, LEAKY, Loaded, Operation, load

READY = "ready"
LEAKING_ROUTE, HEALTHY_ROUTE = "POST", "GET"
HEALTHY_PER_SECOND = 25.0
"""At least so many healthy requests: with fewer its cache would still be filling when the minute is over, and whoever
said that it grows would be right."""
DESCRIPTORS = 8192


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=["watch", "measure"])
    parser.add_argument("case")
    parser.add_argument("--variant", choices=[LEAKY, FIXED], default=LEAKY)
    parser.add_argument("--service", default="leakbench")
    parser.add_argument("--endpoint", default="127.0.0.1:7411")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--snapshot-s", type=float, default=0.5)
    parser.add_argument("--interval-bytes", type=int, default=8192)
    parser.add_argument("--operations", type=int, default=0, help="measure: so many after the warm-up")
    parser.add_argument("--lines", action="store_true", help="measure: tell where as well, which takes long")
    args = parser.parse_args(argv)
    loaded = load(args.case)
    # Some cases keep descriptors, and the usual soft limit of 1024 would end them before their time.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(DESCRIPTORS, hard), hard))
    asyncio.run(_watch(loaded, args) if args.mode == "watch" else _measure(loaded, args))
    sys.stdout.flush()
    # Some cases leave threads that never end behind.
    os._exit(0)


# --- Watched ---


async def _watch(loaded: Loaded, args: argparse.Namespace) -> None:
    import glassbottom

    glassbottom.init(
        service=args.service,
        endpoint=args.endpoint,
        strict=True,
        snapshot_interval_s=args.snapshot_s,
        interval_bytes=args.interval_bytes,
        window_share=1.0,
        runtime_interval_s=args.snapshot_s,
        spans_interval_s=args.snapshot_s,
        asyncio_interval_s=args.snapshot_s,
        connect_delay_s=0.0,
        heartbeat_interval_s=1.0,
    )
    if glassbottom.status()["state"] != "running":
        raise SystemExit(f"the agent does not run: {glassbottom.status()['reason']}")
    service = _Service(loaded.setup(args.variant == FIXED))
    app = glassbottom.AsgiMiddleware(service)
    _say(READY, pid=os.getpid())
    began = time.monotonic()
    number, told = 0, began
    healthy = math.ceil(HEALTHY_PER_SECOND / loaded.case.per_second)
    while (now := time.monotonic()) - began < args.seconds:
        await _request(app, LEAKING_ROUTE)
        for _ in range(healthy):
            await _request(app, HEALTHY_ROUTE)
        number += 1
        if now - told >= 0.5:
            told = now
            _say("progress", operations=number, seconds=round(now - began, 3))
        await asyncio.sleep(max(0.0, began + number / loaded.case.per_second - time.monotonic()))
    _say("done", operations=number, seconds=round(time.monotonic() - began, 3), at_ns=time.time_ns())
    # The loop stays as it is, and with it all tasks, while the runner asks its last questions.
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    glassbottom.shutdown(2.0)


class _Service:
    """The ASGI application."""

    def __init__(self, operation: Operation) -> None:
        self._operation = operation
        self._background = Background()
        self._number = self._healthy = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["method"] == LEAKING_ROUTE:
            result = self._operation(self._number)
            if inspect.isawaitable(result):
                await result
            self._number += 1
        else:
            self._background.health(self._healthy)
            self._healthy += 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})


async def _request(app: Any, method: str) -> None:
    scope = {"type": "http", "asgi": {"version": "3.0"}, "method": method, "path": "/", "headers": []}
    await app({**scope, "http_version": "1.1", "scheme": "http", "query_string": b""}, _receive, _send)


async def _receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _send(message: dict[str, Any]) -> None:
    return None


# --- Measured ---


async def _measure(loaded: Loaded, args: argparse.Namespace) -> None:
    """Twice the same number of operations: the first is the warm-up, the second is measured."""
    # What is done seldom is slow, and slower still under tracemalloc.
    count = args.operations or max(20, min(500, round(loaded.case.per_second**1.7)))
    operation = loaded.setup(args.variant == FIXED)
    await _repeat(operation, 0, count)
    # Resident memory first: tracemalloc's own tables would count.
    rss = _rss_bytes()
    await _repeat(operation, count, count)
    rss = _rss_bytes() - rss
    tracemalloc.start(12 if args.lines else 1)
    await _repeat(operation, 2 * count, count // 4)
    _collect()
    objects, traced = len(gc.get_objects()), tracemalloc.get_traced_memory()[0]
    await _repeat(operation, 3 * count, count)
    _collect()
    objects, traced = len(gc.get_objects()) - objects, tracemalloc.get_traced_memory()[0] - traced
    lines = _lines(tracemalloc.take_snapshot(), 1.25 * count) if args.lines else []
    _say(
        "measured",
        operations=count,
        bytes_per_operation=round(traced / count, 1),
        objects_per_operation=round(objects / count, 2),
        rss_bytes_per_operation=round(rss / count, 1),
        lines=lines,
    )


async def _repeat(operation: Operation, first: int, count: int) -> None:
    for number in range(first, first + count):
        result = operation(number)
        if inspect.isawaitable(result):
            await result
    # What the operations have left for the loop to do gets done.
    for _ in range(20):
        await asyncio.sleep(0.002)


def _lines(snapshot: tracemalloc.Snapshot, operations: float) -> list[dict[str, Any]]:
    """Where what stays was allocated, most first: the line itself, and the nearest line of the case above it."""
    cases = str(HERE / "cases")
    found: collections.Counter[tuple[str, int, int]] = collections.Counter()
    for trace in snapshot.traces:
        frames = list(trace.traceback)[::-1]
        if frames[0].filename not in (tracemalloc.__file__, __file__):
            near = next((frame.lineno for frame in frames if frame.filename.startswith(cases)), 0)
            found[frames[0].filename, frames[0].lineno, near] += trace.size
    return [
        {"file": file, "line": line, "case_line": near, "bytes": round(size / operations, 1)}
        for (file, line, near), size in found.most_common(10)
    ]


def _collect() -> None:
    # As long as the case has the collector turned on: its garbage is its leak.
    if gc.isenabled():
        gc.collect()
        gc.collect()


def _rss_bytes() -> int:
    """Resident memory, after the C library has given back what it only keeps for later."""
    if gc.isenabled():
        gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def _say(what: str, **facts: Any) -> None:
    print(json.dumps({"what": what, **facts}), flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
