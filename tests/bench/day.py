"""A day in a quarter of an hour: does the agent stay as small as it was, and does it say what its tables had to drop?

One process lives through as many readings, new names, tasks, threads, routes and functions as a busy service sees in a
day: all intervals are a hundredth of what they are by default. It makes more names than any table holds. At the end its
resident memory may not have grown since a fifth of the time had passed, beyond what the same process without the agent
grows meanwhile (CPython keeps about 100 bytes of each function made by exec) and what the noise of readings explains.
Every table that has a bound must show it, with a counter of what did not fit. The last line is one JSON object.

python -m tests.bench.day --minutes 14.4
"""

import argparse
import asyncio
import gc
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from tests.support.collector_process import collector_process

FASTER = 100
SETTINGS = {
    "GLASSBOTTOM_SNAPSHOT_INTERVAL_S": 10,
    "GLASSBOTTOM_RUNTIME_INTERVAL_S": 10,
    "GLASSBOTTOM_ASYNCIO_INTERVAL_S": 10,
    "GLASSBOTTOM_SPANS_INTERVAL_S": 10,
    "GLASSBOTTOM_PROFILE_INTERVAL_S": 10,
    "GLASSBOTTOM_HEARTBEAT_INTERVAL_S": 10,
}
"""Seconds by default."""
GROWTH_MB_MAX = 3.0
"""Between a fifth of the time and its end: pages of allocators come and go by about this much."""
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_bytes().split()[1]) * PAGE_BYTES / 2**20


# ---- the life of a service; runs in a child of its own ---------------------------------------------------------------


class Service:
    """Does everything the agent counts, with ever new names."""

    def __init__(self, seconds: float) -> None:
        self.ends_s = time.monotonic() + seconds
        self.number = 0
        self.sizes: list[tuple[float, float]] = []

    def new_function(self) -> Any:
        """A function that no table has seen, as a template engine makes them."""
        self.number += 1
        names: dict[str, Any] = {}
        source = f"async def made_{self.number}(wait):\n    await wait(0)\n    return [b'x' * 600 for _ in range(20)]\n"
        exec(compile(source, f"made_{self.number % 50}.py", "exec"), names)
        return names[f"made_{self.number}"]

    async def busy(self) -> None:
        import glassbottom

        while time.monotonic() < self.ends_s:
            made = self.new_function()
            with glassbottom.profile(f"label {self.number}"):
                await asyncio.gather(*(made(asyncio.sleep) for _ in range(3)))
            await self.request(f"/items/{self.number}")
            doomed = asyncio.create_task(made(lambda _: asyncio.Event().wait()))
            await asyncio.sleep(0)
            doomed.cancel()
            await asyncio.sleep(0.002)

    async def request(self, path: str) -> None:
        """One that our middleware sees; every path is a route of its own, which is the worst an application can do."""
        scope = {"type": "http", "method": "GET", "path": path, "headers": []}

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            await asyncio.sleep(0)

        await self.app(scope, receive, send)

    async def chunks(self) -> AsyncIterator[bytes]:
        yield b"x" * 100
        await asyncio.sleep(0)
        yield b"y" * 100

    async def handle(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        import types

        scope["route"] = types.SimpleNamespace(path=scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        async for chunk in self.chunks():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def threads(self) -> None:
        while time.monotonic() < self.ends_s:
            thread = threading.Thread(target=asyncio.run, args=(asyncio.sleep(0.01),), name=f"worker-{self.number}")
            thread.start()
            await asyncio.to_thread(thread.join)
            await asyncio.sleep(0.1)

    async def weigh(self) -> None:
        began_s = time.monotonic()
        while time.monotonic() < self.ends_s:
            await asyncio.sleep(1.0)
            gc.collect()
            self.sizes.append((time.monotonic() - began_s, resident_mb()))

    async def live(self) -> None:
        import glassbottom

        self.app = glassbottom.AsgiMiddleware(self.handle)
        await asyncio.gather(self.busy(), self.threads(), self.weigh())


def child(seconds: float, *, watched: bool) -> None:
    import glassbottom

    if watched:
        glassbottom.init(service="day")
    service = Service(seconds)
    asyncio.run(service.live())
    print(json.dumps({"sizes": service.sizes, "status": glassbottom.status(), "names": service.number}, default=str))


# ---- judging it ------------------------------------------------------------------------------------------------------


def bounds_without_counter(statistics: dict[str, float]) -> list[str]:
    """Tables whose bound is shown, but neither their fill nor what did not fit."""
    missing = []
    for name in statistics:
        if not name.endswith("_max") or name.endswith(("_ms_max", "_ns_max", "_s_max", "_seconds_max")):
            continue
        table = name.removesuffix("_max")
        stem = table.rpartition("_")[0] or table
        lost = [other for other in statistics if other.endswith("_total") and other.startswith((table, stem))]
        lost = [name for name in lost if any(word in name for word in ("drop", "overflow", "thinning", "lost"))]
        if table not in statistics and not lost:
            missing.append(name)
    return missing


def growth_mb(sizes: list[tuple[float, float]], seconds: float) -> tuple[float, float]:
    """Resident memory when a fifth to three tenths of the time had passed, and in its last tenth."""
    settled = [size for at_s, size in sizes if seconds * 0.2 <= at_s < seconds * 0.3]
    last = [size for at_s, size in sizes if at_s >= seconds * 0.9]
    return sum(settled) / len(settled), sum(last) / len(last)


def live_through(seconds: float, endpoint: str) -> list[dict[str, Any]]:
    """What the watched and the unwatched process told; both live at the same time."""
    environment = {name: str(max(0.1, value / FASTER)) for name, value in SETTINGS.items()}
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.bench.day", "--child", str(seconds), *unwatched],
            env={**os.environ, **environment, "GLASSBOTTOM_ENDPOINT": endpoint},
            stdout=subprocess.PIPE,
            text=True,
        )
        for unwatched in ([], ["--unwatched"])
    ]
    told = [process.communicate()[0] for process in children]
    if any(process.returncode for process in children):
        raise RuntimeError("A service ended with an error, see above.")
    return [json.loads(text.splitlines()[-1]) for text in told]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.day", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=24 * 60 / FASTER, help="a day takes 14.4 (default)")
    parser.add_argument("--child", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--unwatched", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child is not None:
        child(chosen.child, watched=not chosen.unwatched)
        return 0
    seconds = chosen.minutes * 60
    with collector_process() as collector:
        watched, unwatched = live_through(seconds, collector.address)
    statistics = watched["status"]["statistics"]
    settled, end = growth_mb(watched["sizes"], seconds)
    settled_unwatched, end_unwatched = growth_mb(unwatched["sizes"], seconds)
    # What CPython keeps is so much for each name, and the two did not make the same number of them.
    names, names_unwatched = watched["names"], unwatched["names"]
    growth = (end - settled) - (end_unwatched - settled_unwatched) * names / names_unwatched
    missing = bounds_without_counter(statistics)
    for name, value in sorted(statistics.items()):
        print(f"{name:>48}  {value:g}")
    result = {
        "hours": round(seconds * FASTER / 3600, 1),
        "names_made": names,
        "names_made_unwatched": names_unwatched,
        "resident_mb": [round(settled, 1), round(end, 1)],
        "resident_mb_unwatched": [round(settled_unwatched, 1), round(end_unwatched, 1)],
        "growth_mb": round(growth, 2),
        "errors": statistics["errors_total"],
        "probes_disabled": watched["status"]["probes_disabled"],
        "bounds_without_counter": missing,
    }
    print(json.dumps(result))
    return 1 if growth > GROWTH_MB_MAX or missing or statistics["errors_total"] else 0


if __name__ == "__main__":
    sys.exit(main())
