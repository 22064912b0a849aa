"""What the double of query_double.py says about time: spans, tasks, blocked loops, findings, samples of threads.

A shop whose `Orders.fetch` sleeps in the event loop, whose stock and payment tasks await each other for ever, and some
of whose names want to do harm.
"""

from __future__ import annotations

from dataclasses import dataclass

from glassbottom.wire.v1 import common_pb2, operations_pb2, query_pb2

SECOND_NS = 10**9
AT_NS = 1_795_442_710 * SECOND_NS
MIB = 1024.0 * 1024.0
INSTANCE = "4f2a9c1be0d84d0f8e5b7a6c3d2e1f00"
HOSTILE = "evil\x1b[31m[bold red]x[/]\n\u202e"
ROUTE = "GET /orders/{id}"
OTHER_ROUTE = "POST /orders"


def frame(number: int, function: str, file: str, line: int) -> common_pb2.Frame:
    """A frame with an id that no other frame of the double has."""
    return common_pb2.Frame(id=100 + number, function=function, file=file, line=line)


SLEEP = frame(1, "Orders.fetch", "/srv/checkout/app/orders/service.py", 88)
GET_ORDER = frame(2, "get_order", "/srv/checkout/app/orders/handlers.py", 31)
ASGI = frame(3, "RequestResponseCycle.run_asgi", "/opt/venv/lib/python3.12/site-packages/uvicorn/http.py", 403)
RESERVE = frame(4, "Stock.reserve", "/srv/checkout/app/stock.py", 57)
CHARGE = frame(5, "Payment.charge", "/srv/checkout/app/payment.py", 22)
CHECKOUT = frame(6, "Checkout.run", "/srv/checkout/app/checkout.py", 14)
ACQUIRE = frame(7, "Lock.acquire", "/usr/lib/python3.12/asyncio/locks.py", 117)
EVIL = frame(8, HOSTILE, "/tmp/[link]x.py", 7)
MATCH = frame(9, "Pattern.match", "/srv/checkout/app/validate.py", 12)
MAIN = frame(10, "<module>", "/srv/checkout/app/main.py", 9)

OPERATIONS = (
    query_pb2.OperationSummary(
        kind=operations_pb2.OPERATION_KIND_SPAN,
        name=ROUTE,
        span_kind="SERVER",
        count=12_345,
        errors=41,
        p50_s=0.0482,
        p95_s=1.25,
        p99_s=2.104,
        max_s=5.0,
        total_s=1842.0,
        self_s=611.0,
        cpu_s=82.5,
        cpu_count=4000,
        alloc_bytes=9_300 * MIB,
        live_bytes=92.6 * MIB,
        slow=702,
        flagged=True,
    ),
    query_pb2.OperationSummary(
        kind=operations_pb2.OPERATION_KIND_COROUTINE,
        name="Orders.fetch",
        frame=common_pb2.Frame(id=101, function="Orders.fetch", file=SLEEP.file, line=80),
        route=ROUTE,
        count=12_000,
        cancelled=3,
        p50_s=0.012,
        p95_s=0.31,
        p99_s=0.48,
        max_s=1.2,
        total_s=420.0,
        self_s=420.0,
        cpu_s=31.0,
        cpu_count=12_000,
        busy_s=64.0,
        slow=900,
        flagged=True,
        bare_yield_ratio=0.01,
        step_max_s=0.45,
    ),
    query_pb2.OperationSummary(
        kind=operations_pb2.OPERATION_KIND_SPAN,
        name="SELECT orders",
        span_kind="CLIENT",
        route=ROUTE,
        target="postgresql",
        count=24_690,
        p50_s=0.0011,
        p95_s=0.0048,
        p99_s=0.021,
        max_s=0.2,
        total_s=61.0,
        self_s=61.0,
        slow=0,
    ),
    query_pb2.OperationSummary(
        kind=operations_pb2.OPERATION_KIND_FUNCTION,
        name=HOSTILE,
        frame=EVIL,
        count=3,
        p50_s=0.00085,
        p95_s=0.0012,
        p99_s=0.0012,
        max_s=0.0012,
        total_s=0.003,
        self_s=0.003,
        cpu_s=0.0029,
        cpu_count=3,
        alloc_bytes=1.5 * MIB,
    ),
)

SLOW_SPANS = (
    query_pb2.SlowSpan(
        at_ns=AT_NS - 40 * SECOND_NS,
        name=ROUTE,
        instance_id=INSTANCE,
        duration_s=5.0,
        self_s=4.2,
        trace_id="0af7651916cd43dd8448eb211c80319c",
        span_id="b7ad6b7169203331",
        status="error",
        attributes={"http.route": "/orders/{id}", "http.response.status_code": "500", "user": "x\x1b[2J"},
    ),
    query_pb2.SlowSpan(
        at_ns=AT_NS - 90 * SECOND_NS, name=OTHER_ROUTE, instance_id=INSTANCE, duration_s=1.4, self_s=1.4, status="ok"
    ),
)

LOOPS = (
    query_pb2.LoopSummary(
        thread="MainThread",
        implementation="uvloop.Loop",
        lag_p50_s=0.00021,
        lag_p99_s=0.034,
        lag_max_s=2.1,
        ready=-1,
        ready_max=-1,
        tasks=131,
    ),
    query_pb2.LoopSummary(
        thread="worker-loop",
        implementation="asyncio.unix_events._UnixSelectorEventLoop",
        lag_p50_s=0.0001,
        lag_p99_s=0.002,
        lag_max_s=0.004,
        ready=3,
        ready_max=17,
        tasks=2,
    ),
)

# One checkout awaits the stock, which awaits a payment, which awaits the stock; a hundred and twenty others a lock.
GROUPS = (
    query_pb2.TaskGroupSummary(
        path=[ACQUIRE, SLEEP, GET_ORDER],
        state="waiting",
        awaits="Future of Lock.acquire",
        count=120,
        age_oldest_s=238.0,
        age_mean_s=100.0,
        wait_longest_s=236.5,
        steps=240,
        busy_s=0.02,
        task_name="Task-17",
    ),
    query_pb2.TaskGroupSummary(
        path=[RESERVE], state="waiting", awaits="Task", count=1, age_oldest_s=4000.0, wait_longest_s=3999.0, steps=1
    ),
    query_pb2.TaskGroupSummary(
        path=[CHARGE], state="waiting", awaits="Task", count=1, age_oldest_s=4000.0, wait_longest_s=3999.0, steps=1
    ),
    query_pb2.TaskGroupSummary(
        path=[CHECKOUT], state="waiting", awaits="Task", count=8, age_oldest_s=4001.0, wait_longest_s=4000.0, steps=8
    ),
    query_pb2.TaskGroupSummary(
        loop=1, path=[EVIL], state="running", awaits="", count=2, age_oldest_s=0.5, steps=12, busy_s=0.4
    ),
)
WAITS = (
    query_pb2.WaitsFor(waiter=3, awaited=1, count=8),
    query_pb2.WaitsFor(waiter=1, awaited=2, count=1),
    query_pb2.WaitsFor(waiter=2, awaited=1, count=1),
)

FINDINGS = (
    query_pb2.Finding(
        kind="task.stuck",
        severity=query_pb2.SEVERITY_CRITICAL,
        sentence="1 task of Stock.reserve has waited for 1h6m on a future that nothing else refers to.",
        frame=RESERVE,
        path=[RESERVE, CHECKOUT],
        count=1,
        value=3999.0,
        first_ns=AT_NS - 500 * SECOND_NS,
        last_ns=AT_NS - 9 * SECOND_NS,
        instance_ids=[INSTANCE],
        evidence=[
            query_pb2.Evidence(name="referrers", supports_leak=True, sentence="No object but the task refers to it."),
            query_pb2.Evidence(name="load", supports_leak=False, sentence="Requests fell meanwhile."),
        ],
    ),
    query_pb2.Finding(
        kind="loop.blocked",
        severity=query_pb2.SEVERITY_WARNING,
        sentence=f"The event loop was held 12 times, 2.10 s at most, by {HOSTILE}.",
        frame=EVIL,
        count=12,
        value=2.1,
        first_ns=AT_NS - 500 * SECOND_NS,
        last_ns=AT_NS - 9 * SECOND_NS,
        instance_ids=[INSTANCE],
    ),
    query_pb2.Finding(
        kind="gc.pause",
        severity=query_pb2.SEVERITY_NOTICE,
        sentence="Collecting garbage took 7 % of the time.",
        count=1,
    ),
)

BLOCKS = (
    query_pb2.Block(
        path=[SLEEP, GET_ORDER, ASGI, *(frame(20 + at, f"layer_{at}", f"/opt/m{at}.py", at) for at in range(9)), MAIN],
        coroutine="RequestResponseCycle.run_asgi",
        count=12,
        total_s=9.4,
        max_s=2.1,
        last_ns=AT_NS - 9 * SECOND_NS,
        thread="MainThread",
        application_frame=SLEEP,
        instance_ids=[INSTANCE],
    ),
    query_pb2.Block(
        path=[MATCH, EVIL],
        coroutine=HOSTILE,
        count=1,
        total_s=0.84,
        max_s=0.84,
        last_ns=AT_NS - 70 * SECOND_NS,
        gil_held=True,
        late=True,
        thread="MainThread",
        instance_ids=[INSTANCE],
    ),
    query_pb2.Block(
        coroutine="poll", count=2, total_s=0.3, max_s=0.2, last_ns=AT_NS - 80 * SECOND_NS, thread="worker-loop"
    ),
)


@dataclass(frozen=True)
class TimePath:
    """Samples of one call path (frames, innermost first) in one thread."""

    frames: tuple[common_pb2.Frame, ...]
    cpu_s: float
    wall_s: float
    samples: int
    route: str = ""
    thread: str = "MainThread"
    task: str = ""


TIMES = (
    TimePath((SLEEP, GET_ORDER, ASGI), 0.25, 31.5 + 1 / 3, 420, ROUTE, task="run_asgi"),
    TimePath((SLEEP, GET_ORDER, ASGI), 0.125, 2.5, 33, OTHER_ROUTE, task="run_asgi"),
    TimePath((MATCH, GET_ORDER, ASGI), 8.4 + 1 / 3, 8.5, 112, ROUTE, task="run_asgi"),
    TimePath((EVIL, MAIN), 1.0, 1.5, 20, thread=HOSTILE),
    TimePath((MAIN,), 0.0, 60.0, 790, thread="worker-loop"),
)


def slow(request: query_pb2.SlowRequest) -> query_pb2.SlowResponse:
    """Rows of the kinds asked for."""
    rows = [each for each in OPERATIONS if not request.kinds or each.kind in request.kinds]
    return query_pb2.SlowResponse(
        operations=rows[: request.limit or 10],
        slow_spans=SLOW_SPANS,
        operations_total=37,
        covered=query_pb2.Range(from_ns=AT_NS - 590 * SECOND_NS, to_ns=AT_NS - 5 * SECOND_NS),
    )


def tasks() -> query_pb2.TasksResponse:
    """One process with a deadlock, and what is wrong with its tasks."""
    process = query_pb2.ProcessTasks(
        instance_id=INSTANCE,
        at_ns=AT_NS - 4 * SECOND_NS,
        loops=LOOPS,
        groups=GROUPS,
        waits=WAITS,
        tasks=133,
        tasks_examined=132,
    )
    return query_pb2.TasksResponse(processes=[process], findings=FINDINGS[:1])


def blocked() -> query_pb2.BlockedResponse:
    """Three places that held a loop."""
    return query_pb2.BlockedResponse(
        blocks=BLOCKS,
        loops=LOOPS,
        total_s=10.54,
        covered=query_pb2.Range(from_ns=AT_NS - 590 * SECOND_NS, to_ns=AT_NS - 5 * SECOND_NS),
    )


def findings() -> query_pb2.FindingsResponse:
    """One of each severity."""
    return query_pb2.FindingsResponse(
        findings=FINDINGS,
        covered=query_pb2.Range(from_ns=AT_NS - 590 * SECOND_NS, to_ns=AT_NS - 5 * SECOND_NS),
        notes=["Process a1b2c3d4 has sent no tasks: its agent is older."],
    )


def time_profile(request: query_pb2.ProfileRequest) -> query_pb2.ProfileResponse:
    """Samples of the route and thread asked for, in one piece."""
    kept = [path for path in TIMES if request.route in ("", path.route) and request.thread in ("", path.thread)]
    frames = {each.id: each for path in kept for each in path.frames}
    return query_pb2.ProfileResponse(
        totals=query_pb2.Totals(instances=2, samples=sum(path.samples for path in kept)),
        frames=list(frames.values()),
        stacks=[
            query_pb2.ProfileStack(
                frames=[each.id for each in path.frames],
                cpu_s=path.cpu_s,
                wall_s=path.wall_s,
                samples=path.samples,
                route=path.route,
                thread=path.thread,
                task=path.task,
            )
            for path in kept
        ],
    )
