"""The workloads, each a process that counts its operations in a page the harness reads while it runs.

    python -m tests.bench.overhead.workloads w1 --page FILE --peer agent --options JSON

They know nothing of time, slices or ratios: they work until SIGTERM, then write the peer's report beside the page.
Everything is deterministic (one seed), so that two processes of a pair differ in nothing but the peer.

w1  allocation-heavy: JSON round trips, small objects, dicts, strings, churn over a live heap of 120 MB
w2  a real ASGI server (uvicorn + starlette, uvloop, httptools), driven by wrk from the other core
w3  CPU-bound pure Python: a one-way constraint chain, a task scheduler passing packets, gravity between bodies
w4  allocation below a stack of 60 to 100 frames
a1  tasks of an event loop (uvloop) whose steps take about 4 us
a2  an ASGI echo server (uvicorn, uvloop, httptools) without a framework, driven by wrk from the other core
"""

import argparse
import contextlib
import gc
import json
import mmap
import random
import signal
import socket
import sys
import time
import types
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.bench.overhead import peers

NAMES = ("w1", "w2", "w3", "w4")
ASYNC = ("a1", "a2")  # of the async benchmark
SERVERS = ("w2", "a2")
HEAD_SLOTS = 8
BUCKETS, BUCKET_US = 16384, 10  # of the latency histogram: 0 to 164 ms; the last bucket also holds what is longer
PAGE_BYTES = (HEAD_SLOTS + BUCKETS) * 8
LIVE_HEAP_BYTES = 120_000_000


class Page:
    """Shared 8-byte slots: operations done, ready flag, port, histogram of latencies. One writer, the workload.

    An aligned 8-byte store is atomic on every machine this runs on, so the harness reads without a lock.
    """

    def __init__(self, path: Path, *, create: bool = False) -> None:
        if create:
            path.write_bytes(bytes(PAGE_BYTES))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), PAGE_BYTES)
        self.slots = memoryview(self._map).cast("Q")

    @property
    def operations(self) -> int:
        return self.slots[0]

    @property
    def ready(self) -> bool:
        return self.slots[1] != 0

    @property
    def port(self) -> int:
        return self.slots[2]

    def latencies(self) -> list[int]:
        """Requests by latency, in buckets of BUCKET_US of the server's own running time."""
        return list(self.slots[HEAD_SLOTS:])


class Stop(Exception):
    """SIGTERM arrived and uvicorn has shut down: the harness has seen enough."""


def on_sigterm(signum: int, frame: types.FrameType | None) -> None:
    raise Stop


# ---- w1 ----


class Account:
    """What the churn of w1 creates: an object with attributes of several sizes."""

    def __init__(self, number: int, name: str) -> None:
        self.number = number
        self.name = name
        self.history: list[tuple[int, float]] = []
        self.labels = {"region": name[:4], "tier": number % 5}


def record(number: int, dice: random.Random) -> dict[str, Any]:
    return {
        "id": number,
        "name": f"customer-{number:08d}",
        "email": f"user{number}@example.org",
        "tags": [f"tag-{dice.randrange(1000)}" for _ in range(4)],
        "balance": dice.random() * 1e4,
        "address": {
            "street": f"{number % 977} Long Street",
            "city": f"city-{number % 131}",
            "zip": f"{number % 99999:05d}",
        },
        "orders": [{"sku": f"sku-{dice.randrange(50_000)}", "count": 1 + i, "price": dice.random()} for i in range(2)],
    }


RECORD_BYTES = 1900  # measured: 120 MB / this many records


def w1() -> Iterator[None]:
    dice = random.Random(7)
    heap = [record(i, dice) for i in range(LIVE_HEAP_BYTES // RECORD_BYTES)]
    recent: deque[Account] = deque(maxlen=500)
    number = len(heap)
    while True:
        # A request-like step: parse, look up, build, change the heap a little, serialise.
        text = json.dumps(heap[dice.randrange(len(heap))])
        parsed = json.loads(text)
        account = Account(parsed["id"], parsed["name"])
        for order in parsed["orders"]:
            account.history.append((order["count"], order["price"] * 1.19))
        words = [word.strip('"{}[]:, ').upper() for word in text.split(" ")]
        counts: dict[str, int] = {}
        for word in words:
            counts[word] = counts.get(word, 0) + 1
        account.labels["words"] = len(counts)
        account.labels["longest"] = "-".join(sorted(counts, key=len)[-3:])
        recent.append(account)
        number += 1
        heap[dice.randrange(len(heap))] = record(number, dice)
        yield


# ---- w3 ----


class Body:
    __slots__ = ("m", "vx", "vy", "vz", "x", "y", "z")

    def __init__(self, dice: random.Random) -> None:
        self.x, self.y, self.z = (dice.uniform(-10, 10) for _ in range(3))
        self.vx, self.vy, self.vz = (dice.uniform(-0.1, 0.1) for _ in range(3))
        self.m = dice.uniform(0.01, 0.1)


def attract(bodies: list[Body], dt: float) -> None:
    for i, a in enumerate(bodies):
        for b in bodies[i + 1 :]:
            dx, dy, dz = a.x - b.x, a.y - b.y, a.z - b.z
            # Softened, so that a close encounter cannot throw a body out of the range of floats during a long run.
            pull = dt / (dx * dx + dy * dy + dz * dz + 0.5) ** 1.5
            a.vx -= dx * b.m * pull
            a.vy -= dy * b.m * pull
            a.vz -= dz * b.m * pull
            b.vx += dx * a.m * pull
            b.vy += dy * a.m * pull
            b.vz += dz * a.m * pull
    for body in bodies:
        body.x += dt * body.vx
        body.y += dt * body.vy
        body.z += dt * body.vz


class Cell:
    """A variable of the constraint chain: its value follows from an input through a rule."""

    def __init__(self, rule: Callable[[int], int], source: "Cell | None") -> None:
        self.rule = rule
        self.value = 0
        self.stale = True
        self.readers: list[Cell] = []
        self.source = source
        if source is not None:
            source.readers.append(self)

    def set(self, value: int) -> None:
        self.value = value
        self.stale = False
        self.spoil()

    def spoil(self) -> None:
        pending = list(self.readers)
        while pending:
            cell = pending.pop()
            if not cell.stale:
                cell.stale = True
                pending.extend(cell.readers)

    def get(self) -> int:
        if self.stale and self.source is not None:
            self.value = self.rule(self.source.get()) & 0xFFFF
            self.stale = False
        return self.value


def scaled(k: int) -> Callable[[int], int]:
    return lambda v: v * 3 + k


def mixed(k: int) -> Callable[[int], int]:
    return lambda v: v ^ (k << 3)


class Packet:
    def __init__(self, kind: int) -> None:
        self.kind = kind
        self.hops = 0


class Task:
    def __init__(self, name: int) -> None:
        self.name = name
        self.inbox: deque[Packet] = deque()
        self.handled = 0

    def step(self, tasks: "list[Task]") -> None:
        packet = self.inbox.popleft()
        packet.hops += 1
        self.handled += 1
        self.route(packet, tasks).inbox.append(packet)

    def route(self, packet: Packet, tasks: "list[Task]") -> "Task":
        return tasks[(self.name + packet.kind) % len(tasks)]


class Device(Task):
    def route(self, packet: Packet, tasks: "list[Task]") -> Task:
        if packet.hops % 3 == 0:
            return tasks[(self.name * 7 + packet.hops) % len(tasks)]
        return super().route(packet, tasks)


def schedule(tasks: list[Task], steps: int) -> None:
    turn = 0
    while steps:
        task = tasks[turn % len(tasks)]
        turn += 1
        if task.inbox:
            task.step(tasks)
            steps -= 1


def w3() -> Iterator[None]:
    dice = random.Random(11)
    bodies = [Body(dice) for _ in range(6)]
    head = Cell(lambda v: v, None)
    tail = head
    for i in range(60):
        tail = Cell(scaled(i) if i % 2 else mixed(i), tail)
        Cell(lambda v: v + 1, tail)  # a side branch, spoilt with the rest and never read
    tasks = [Device(i) if i % 3 == 0 else Task(i) for i in range(12)]
    for i in range(30):
        tasks[i % len(tasks)].inbox.append(Packet(1 + i % 5))
    value = 0
    while True:
        attract(bodies, 0.01)
        head.set(value)
        value = tail.get()
        schedule(tasks, 60)
        yield


# ---- w4 ----


def work_at_the_bottom(kept: deque[Any], n: int) -> None:
    for i in range(n):
        rows = [{"k": i, "v": float(j)} for j in range(6)]
        text = f"row {i} of {n}: " + ",".join([str(row["v"]) for row in rows])
        pairs = [(text[j : j + 9], bytearray(48)) for j in range(0, 36, 9)]
        kept.append((rows, text, pairs))


def descend_by_two(depth: int, kept: deque[Any], n: int) -> None:
    if depth <= 2:
        work_at_the_bottom(kept, n)
    elif depth & 1:
        descend_by_one(depth - 1, kept, n)
    else:
        descend_again(depth - 1, kept, n)


def descend_by_one(depth: int, kept: deque[Any], n: int) -> None:
    if depth <= 2:
        work_at_the_bottom(kept, n)
    else:
        descend_by_two(depth - 1, kept, n)


def descend_again(depth: int, kept: deque[Any], n: int) -> None:
    if depth <= 2:
        work_at_the_bottom(kept, n)
    elif depth % 5 == 0:
        descend_by_one(depth - 1, kept, n)
    else:
        descend_by_two(depth - 1, kept, n)


def w4() -> Iterator[None]:
    kept: deque[Any] = deque(maxlen=4000)
    depth = 60
    while True:
        descend_by_two(depth, kept, 20)
        depth = depth + 1 if depth < 100 else 60
        yield


# ---- w2 ----


def application(count: Callable[[tuple[str, int]], None], report: Callable[[], dict[str, Any]]) -> Any:
    """The service of w2: a path and a query parameter, some rows, JSON. /report is the footprint benchmark's.

    count: called once a request with the client's address.
    """
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    catalogue: list[dict[str, Any]] = [
        {"sku": f"sku-{i:05d}", "price": i * 0.37, "tags": [f"t{i % 7}", f"u{i % 11}"]} for i in range(20_000)
    ]
    recent: deque[dict[str, Any]] = deque(maxlen=200)

    async def orders(request: Request) -> JSONResponse:
        customer = int(request.path_params["customer"])
        limit = int(request.query_params.get("limit", "10"))
        rows = []
        for i in range(limit):
            item = catalogue[(customer * 31 + i * 17) % len(catalogue)]
            rows.append({**item, "customer": customer, "total": round(item["price"] * (i + 1), 2)})
        answer = {"customer": customer, "rows": rows, "agent": request.headers.get("user-agent", "")}
        recent.append(answer)
        count(request.scope["client"])
        return JSONResponse(answer)

    async def about_peer(request: Request) -> JSONResponse:
        return JSONResponse(report())

    return Starlette(routes=[Route("/customers/{customer}/orders", orders), Route("/report", about_peer)])


def echo(count: Callable[[tuple[str, int]], None], report: Callable[[], dict[str, Any]]) -> Any:
    """The service of a2: says back what it is told. The arguments are those of application()."""

    async def app(scope: dict[str, Any], receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": body or scope["path"].encode()})
        count(scope["client"])

    return app


APPLICATIONS = {"w2": application, "a2": echo}


def serve(workload: str, page: Page, peer: peers.Peer) -> None:
    """Runs the server of w2 or a2 until SIGTERM, which uvicorn takes."""
    import uvicorn

    slots = page.slots
    answered_ns: dict[tuple[str, int], int] = {}
    clock_ns = time.process_time_ns

    def count(client: tuple[str, int]) -> None:
        """One request done. Its latency: since the answer before on the same connection, in this process's CPU time.

        The load is a closed loop that keeps every connection full, so between two answers on one the client waits for
        us: it is what the client sees, queueing included. On a saturated core that belongs to this process alone CPU
        time is running time, of all our threads; it stands still while we are stopped and while others run.
        """
        now = clock_ns()
        before = answered_ns.get(client, now)
        answered_ns[client] = now
        slots[HEAD_SLOTS + min((now - before) // (1000 * BUCKET_US), BUCKETS - 1)] += 1
        slots[0] += 1

    listener = socket.create_server(("127.0.0.1", 0), backlog=512)

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            slots[2] = listener.getsockname()[1]
            # As services do whose collections hurt: what they start with is out of the collector's sight. Without it
            # the 99th percentile is a measurement of full collections.
            gc.collect()
            gc.freeze()
            slots[1] = 1

    config = uvicorn.Config(
        APPLICATIONS[workload](count, peer.report),
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
        lifespan="off",
    )
    # uvicorn shuts down at SIGTERM and then raises the signal once more for whoever handled it before.
    signal.signal(signal.SIGTERM, on_sigterm)
    with contextlib.suppress(Stop):
        Server(config).run(sockets=[listener])


# ---- a1 ----

STEPPING_TASKS = 100


def step_work(rows: list[int]) -> int:
    """About 4 us on the machine of docs/benchmarks: what a small piece of a handler takes between two awaits."""
    total = 0
    for row in rows:
        total += row
    return total


def a1(page: Page) -> None:
    """Steps of tasks until SIGTERM; one operation a step."""
    import asyncio

    import uvloop

    slots = page.slots
    rows = list(range(110))
    stopping: list[int] = []

    async def worker() -> None:
        while not stopping:
            step_work(rows)
            slots[0] += 1
            await asyncio.sleep(0)

    async def main() -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.append, 1)
        tasks = [asyncio.create_task(worker()) for _ in range(STEPPING_TASKS)]
        slots[1] = 1
        await asyncio.gather(*tasks)

    gc.collect()
    gc.freeze()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def work(steps: Iterator[None], page: Page) -> None:
    """Runs a workload until SIGTERM, one operation a step."""
    slots = page.slots
    next(steps)  # builds what stays alive
    # One full collection over 120 MB costs as much as six slices: in a short run its luck would be larger than what we
    # measure. Nothing here makes cycles, so the oldest generation can be left alone.
    gc.collect()
    gc.set_threshold(700, 10, 1_000_000)
    # Noted, not raised: an exception would end the generator and free the heap before the peer reports on it.
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda signum, frame: stopping.append(signum))
    slots[1] = 1
    for operations, _ in enumerate(steps, 1):
        slots[0] = operations
        if stopping:
            return


def main() -> int:
    parser = argparse.ArgumentParser(description="One process of a pair.")
    parser.add_argument("workload", choices=NAMES + ASYNC)
    parser.add_argument("--page", type=Path, required=True)
    parser.add_argument("--peer", choices=peers.ALL, default="null")
    parser.add_argument("--options", type=json.loads, default={}, help="JSON for the peer: addresses, paths")
    arguments = parser.parse_args()
    page = Page(arguments.page)
    peer = peers.switch_on(arguments.peer, arguments.options)
    if arguments.workload in SERVERS:
        serve(arguments.workload, page, peer)
    elif arguments.workload == "a1":
        a1(page)
    else:
        steps = {"w1": w1, "w3": w3, "w4": w4}[arguments.workload]()
        work(steps, page)
    report = arguments.page.with_suffix(".report.json")
    # Renamed into place: the harness must never read half a report.
    report.with_suffix(".part").write_text(json.dumps(peer.report(), default=str))
    report.with_suffix(".part").rename(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
