"""The C core: samples the heap. Nothing here is stable; the public face is `glassbottom`.

All functions need the GIL (any Python call has it). None runs user code. See native/module.c.
"""

from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextvars import ContextVar
from types import CodeType
from typing import Any, TypedDict

class Snapshot(TypedDict):
    """The sampled heap, aggregated. Columns are little-endian arrays; those of one group have equal length."""

    epoch: int
    """Incarnation of the tables; node ids and cumulative values of different epochs are unrelated."""
    at_ns: int
    """CLOCK_REALTIME of the reading."""
    interval_bytes: float
    window_share: float
    live_bytes: float
    live_bytes_variance: float
    node: bytes  # uint32: node id of the call path, for stack()
    changed: bytes  # uint8: 1 when any value of the row differs from the previous snapshot() of this epoch
    live_bytes_by_node: bytes  # float64
    live_bytes_variance_by_node: bytes  # float64
    live_objects_by_node: bytes  # float64
    live_objects_variance_by_node: bytes  # float64
    alloc_bytes_by_node: bytes  # float64, cumulative in the epoch
    alloc_objects_by_node: bytes  # float64, cumulative in the epoch
    samples_by_node: bytes  # uint32
    birth_oldest_ms: bytes  # int64, Unix epoch; 0 without live samples
    birth_mean_ms: bytes  # int64, weighted by live bytes
    birth_minutes: bytes  # uint32: distinct minutes of birth among live samples
    type_node: bytes  # uint32
    type_index: bytes  # uint32: index into type_names
    type_live_bytes: bytes  # float64
    type_live_objects: bytes  # float64
    type_samples: bytes  # uint32
    type_names: list[str]  # every name ever used in this epoch; grows, never reorders; bounded

class Statistics(TypedDict):
    """Gauges and counters, cumulative since start() unless the name says otherwise. Every bound has its counter."""

    state: str  # "running", "paused" (no hook in the chain right now), "stopped"
    reason: str  # why not running, one sentence; else ""
    interval_bytes: float  # in force now (thinning raises it)
    window_share: float
    windows: int  # windows opened
    window_open_ns: int  # time spent inside windows
    watched_ns: int  # time the schedule of windows has been running; window_open_ns / watched_ns estimates window_share
    window_bytes: int  # small allocations seen by the hooks
    elapsed_ns: int  # time since start()
    samples: int  # taken
    samples_live: int
    samples_live_max: int  # size of the table
    samples_dropped: int  # table full even after thinning
    thinnings: int
    stacks: int
    stacks_max: int
    stacks_truncated: int  # deeper than the walk keeps
    stacks_overflowed: int  # folded into <overflow> because the table was full
    codes: int
    codes_max: int
    types: int
    types_max: int
    hook_losses: int  # times another tool removed our hooks and the tables had to restart
    sample_ns: int  # time spent taking samples (walk, intern, insert), without waiting for a CPU
    snapshot_ns: int  # time spent in snapshot() with the GIL held
    tables_bytes: int  # fixed memory of all tables

def refusal() -> str | None:
    """One sentence why this interpreter cannot be sampled (version, free-threaded, PYTHONMALLOC=debug), else None."""

def start(
    *, interval_bytes: float = 524288.0, window_share: float = 0.1, window_ms: float = 20.0, seed: int | None = None
) -> None:
    """Allocates the tables and installs the hooks. Idempotent while running.

    Raises RuntimeError with refusal() where sampling is impossible, ValueError for arguments out of range
    (interval_bytes >= 4096, 0 < window_share <= 1, 1 <= window_ms <= 1000).
    """

def stop() -> None:
    """Ends sampling and forgets all samples. Hooks go where nobody sits above them, and else stay as passthrough."""

def run_windows(seconds: float) -> None:
    """Opens and closes sampling windows for that long, in the calling thread, on time and without the GIL.

    Once a second it takes the GIL to look whether the hooks are still in the chain, and to learn new types; with
    window_share 1 that is all it does. Returns early when interrupt() is called (also shortly before), or when stopped.
    Raises RuntimeError when another thread is in it already.
    """

def interrupt() -> None:
    """Makes run_windows() return soon."""

def set_rate(*, interval_bytes: float | None = None, window_share: float | None = None) -> None:
    """Changes the sampling rate; existing samples are thinned to stay unbiased when it falls. Takes effect for windows
    within a second."""

def exclude_thread() -> None:
    """Neither the calling thread nor its allocations are sampled from now on (for the agent's own threads)."""

def snapshot() -> Snapshot | None:
    """Reads the tables; None when not started."""

def stack(node: int) -> tuple[list[tuple[CodeType, int]], bool, int]:
    """(code, byte offset of the instruction or -1 if not started) innermost first; whether outer frames were left out;
    the label it was born under, 0 for none.

    No frames and False: allocated outside Python code. No frames and True: the table of call paths was full.
    Raises KeyError for a node this epoch does not know.
    """

def release_dead() -> int:
    """Lets go of code objects that nothing but the tables holds and no live sample needs; returns how many.

    Looks only when there are some hundred more than after the last time. Node ids stay.
    """

def release_unused() -> int:
    """Drops code objects and call paths nothing live refers to when tables are more than half full; returns how many.

    Starts a new epoch when it drops anything: node ids change.
    """

def statistics() -> Statistics: ...

# ---- labels.c: what the process works on --------------------------------------------------------------------------

def set_label_variable(variable: ContextVar[int] | None) -> None:
    """Samples of the heap and of threads are labelled with the id this variable holds in the thread's context then."""

def label(name: str) -> int:
    """The id of a label, 1 to 4095, made on first use; beyond that the id of "<more routes than the agent keeps>"."""

def label_name(label: int) -> str:
    """Its name; "" for 0. Raises KeyError for an id that was never given."""

def thread_allocated_bytes() -> float:
    """Bytes allocated by the calling thread since it is seen: blocks above 512 bytes counted, smaller ones estimated
    from samples. Only differences mean anything. 0.0 while the sampler is not running."""

# ---- memory.c: whose the resident memory is -----------------------------------------------------------------------

def memory_pymalloc() -> str | None:
    """CPython's own report on pymalloc, for people; "" when it is not in use, None when this interpreter has none.
    Takes some milliseconds per GiB of arenas, with the GIL."""

def memory_malloc() -> tuple[int, int, int] | None:
    """Of glibc's malloc, all arenas: bytes in use, free bytes that it keeps, and how many of those in use are mappings
    of their own. None where malloc does not tell. Takes time in proportion to the free chunks, without the GIL."""

def memory_resident(ranges: Sequence[tuple[int, int]], /) -> int:
    """Resident bytes of ranges of addresses (start, end), which begin at page boundaries."""

def memory_trim() -> bool | None:
    """Gives free memory of malloc back to the kernel, without the GIL; whether any was. None: malloc is not glibc's."""

def memory_can_trim() -> bool:
    """Whether memory_trim() would do something."""

def allow_tracer(pid: int, /) -> bool:
    """Lets a process of the same user look at this one, where Yama would not; 0: nobody. False: there is no Yama."""

def is_dumpable() -> bool:
    """False: not even processes of the same user may look at this one."""

def threads_traced() -> int:
    """Threads in which a function of sys.setprofile() or sys.settrace() is set."""

def memory_large() -> tuple[float, float] | None:
    """Live bytes that Python has from malloc, not from pymalloc (blocks above 512 bytes), and their variance, as the
    last snapshot() estimates them; None without one."""

# ---- operations.c: exponential histograms -------------------------------------------------------------------------

class OperationTable:
    """Histograms of durations by slot. Methods are atomic under the GIL; record() takes about 60 ns."""

    def __init__(self, slots_max: int = 1024) -> None:
        """Memory is taken as slots are added, about 2.1 KB each. Raises ValueError outside 1 to 65536."""

    def add(self) -> int:
        """A new slot; -1 when all are taken."""

    def record(
        self,
        slot: int,
        duration_ns: int,
        self_ns: int = 0,
        cpu_user_ns: int = -1,
        cpu_system_ns: int = -1,
        busy_ns: int = 0,
        alloc_bytes: float = 0.0,
        /,
    ) -> None:
        """Counts one operation that ended. cpu_user_ns below 0: not known. Ignores a slot that does not exist."""

    def take(self) -> list[OperationRow]:
        """What was recorded since the last take(), of slots with anything, and starts again from nothing."""

OperationRow = tuple[int, int, int, int, int, int, int, int, float, int, int, int, bytes]
"""(slot, count, duration_ns, self_ns, cpu_user_ns, cpu_system_ns, cpu_count, busy_ns, alloc_bytes, min_ns, max_ns,
offset, counts): counts are little-endian uint32, scale 4, of seconds; durations of 0 count as 1 ns."""

# ---- calls.c: calls under glassbottom.profile -----------------------------------------------------------------------

def calls_attach(table: OperationTable | None, /) -> None:
    """Calls are recorded there from now on; None: nowhere."""

class Operation:
    """One function or block that is measured; knows when to ask for CPU time."""

    def __init__(self, new_slot: Callable[[str], int], /) -> None:
        """new_slot: gives the slot for "ok", "error" or "cancelled"; asked once for each table."""

class Call:
    """One call that has begun, or will. To be awaited, it stands for what of() was given: it has its send(), throw(),
    close() and every other attribute, and times each piece between two waits."""

    started_ns: int
    """CLOCK_MONOTONIC."""

    def of(self, awaitable: Any, /) -> Call:
        """Self, to be awaited in place of the awaitable, which must have send() or be an iterator."""

    def awaited(self) -> None:
        """After that await has ended."""

    def run(self, resume: Callable[[Any], Any], argument: Any, /) -> Any:
        """resume(argument), as one piece of a generator."""

    def end_pieces(self, error: BaseException | None, /) -> None:
        """Records a coroutine or async generator: as long as the awaits of it took."""

    def end_items(self, error: BaseException | None, /) -> None:
        """Records a generator: as long as its pieces took, since in between it is its consumer's turn."""

    def end_waited(self, error: BaseException | None, busy_ns: int, /) -> None:
        """Records a block that its task left and resumed meanwhile, without CPU time and bytes."""

    def __await__(self) -> Generator[Any, Any, Any]: ...
    def __iter__(self) -> Call: ...
    def __next__(self) -> Any: ...

def call_begin(operation: Operation, /) -> Call | None:
    """Begins a call in this context; None while there is no table."""

def call_end(call: Call | None, error: BaseException | None, /) -> None:
    """Records a call of call_begin(). Never raises; does nothing with None."""

def call_new(operation: Operation, /) -> Call | None:
    """A call that runs in pieces; None while there is no table."""

# ---- spans.c: the start and the end of spans -------------------------------------------------------------------------

class SpanRecord:
    """A span that is open; spans/open_spans.py says what its fields mean."""

    span: Callable[[], Any] | None
    name: str
    above: SpanRecord | None
    entry: SpanRecord | None
    token: Any
    place: tuple[CodeType, int] | None
    prefix: str | None
    done: bool
    start_ns: int
    covered_ns: int
    since_ns: int
    children: int

class RequestTicket:
    """What contexts hold of a request, or of a SERVER or CONSUMER span: 24 bytes, for they may hold it for ever."""

    @property
    def record(self) -> SpanRecord | None:
        """None once it is closed, or gone."""

class SpanName:
    """What is known of one span name. floor_ns: a tenth of slow_ns; limit_ns: slow_ns, until told otherwise."""

    name: str
    slots: dict[tuple[str, str, str, str], int]
    """(kind, status, route, target) to slot."""
    count: int
    floor_ns: int
    limit_ns: int

    def __init__(self, name: str, slow_ns: int, /) -> None: ...

class SpanListener:
    """The two functions of a span processor. Neither raises: what goes wrong is told to host.failed(where, error).

    host: asked for what is rare, see spans/listening.py. names: SpanName by name. numbers: of labels, by name. label,
    request: context variables. records: open spans by id. suspects: names whose starts are to be looked up.
    running_loop: tells the loop of this thread, or None. failed: StatusCode.ERROR. kinds: SERVER, CONSUMER, CLIENT,
    PRODUCER.
    """

    def __init__(
        self,
        *,
        host: object,
        table: OperationTable,
        names: dict[str, Any],
        numbers: dict[str, int],
        label: ContextVar[int],
        request: ContextVar[Any],
        records: dict[int, SpanRecord],
        suspects: dict[str, Any],
        running_loop: Callable[[], object],
        failed: object,
        kinds: tuple[object, ...],
        open_max: int,
    ) -> None: ...
    def on_start(self, span: object, parent_context: object = None) -> None: ...
    def on_end(self, span: object) -> None: ...

# ---- requests.c: requests that we see ourselves ----------------------------------------------------------------------

class Request(SpanRecord):
    """A request, or a task of a worker, that has begun. Made by RequestDesk only.

    otel: OpenTelemetry's record for it; then it is not counted. environ: what the server handed in; None at the end.
    """

    method: str
    route: str | None
    error: type[BaseException] | str | None
    environ: Mapping[str, Any] | None
    otel: SpanRecord | None
    status_code: int
    is_task: bool

    def end(self, error: BaseException | None = None, /) -> None:
        """The response is complete, or never will be. Only the first call counts; never raises."""

    def close(self) -> None:
        """Ends it, and the context goes back to what it did before; not in another context, where it never was."""

class Door:
    """One request on its way through an ASGI application. request: None once it is closed."""

    request: Request | None

    def __call__(self, message: Any, /) -> Awaitable[None]:
        """As the server's send(), with a look at the message."""

    def end(self, error: BaseException | None = None, /) -> None: ...
    def close(self) -> None: ...

class RequestDesk:
    """Where requests are written down; its methods do not raise. host: see spans/http.py; the rest as SpanListener."""

    requests: int

    def __init__(
        self,
        *,
        host: object,
        table: OperationTable,
        names: dict[str, Any],
        numbers: dict[str, int],
        label: ContextVar[int],
        request: ContextVar[Any],
        methods: frozenset[str],
        other_method: str,
        is_logged: bool,
    ) -> None: ...
    def begin(self, name: str, environ: Mapping[str, Any] | None, in_thread: bool, /) -> Request | None:
        """A request begins; None when it is part of one that is watched already. in_thread: what the calling thread
        does until its end is for this alone: CPU time and allocations are its own."""

    def open(self, scope: Any, send: Any, /) -> Door | None:
        """The same for a scope of ASGI; None also for a scope that is no request."""

    def known(self, path: str, /) -> None:
        """The request of the calling context belongs to this route, such as "/orders/{id}", below its mounts."""

    def mounted(self, path: str, /) -> None:
        """It goes on into what is mounted at a path, such as "/admin"."""

# ---- steps.c: every step of every coroutine an event loop runs -----------------------------------------------------

StepRow = tuple[CodeType, int, int, int, int, bytes, int, list[tuple[str, int, int, int, int, int, int, bytes]]]
"""(code, steps, bare_yields, busy_ns, offset, counts, step_ns_max, ended): of one coroutine function since the last
take. ended: (status, count, lifetime_ns, busy_ns, min_ns, max_ns, offset, counts) for each of "ok", "error",
"cancelled" (by asyncio.CancelledError or GeneratorExit, thrown in or raised), "thrown" (its end was not seen: closed,
dropped, found by steps_reconcile()) that occurred. counts as in OperationRow. A coroutine whose first step was not seen
counts its steps, but is not in ended: how long it lived is not known. A first step inside a step of another coroutine
(an eager task) is time of that other; the life of the one begun counts from there."""

def steps_start() -> None:
    """Puts the wrappers around `am_send` and `throw` of the coroutine type. Idempotent.

    Raises RuntimeError with a sentence where that is not possible (another tool changed the slot, or this Python is
    unknown)."""

def steps_stop() -> None:
    """Stops counting; the slot is restored where nobody sits above us and else passes through. What was counted can be
    taken once more."""

def steps_take() -> list[StepRow]:
    """What happened since the last take."""

def steps_of(coroutine: object) -> tuple[int, int, int, int, int, int] | None:
    """(first_step_ns, last_start_ns, last_end_ns, steps, bare_yields, busy_ns) of a task's coroutine, CLOCK_MONOTONIC;
    last_end_ns is below last_start_ns while a step runs. None for one that was never seen."""

def steps_reconcile(live: list[object], listed_ns: int = ..., /) -> int:
    """Ends, as "thrown", every coroutine that is known, does not run and is not in the list. Returns how many.

    listed_ns: CLOCK_MONOTONIC before the list was begun; who took a step since may be newer than the list and stays."""

def steps_loops() -> list[object]:
    """Running event loops met for the first time since the last call."""

def steps_running() -> list[tuple[int, CodeType, int]]:
    """(thread ident, code of the coroutine, start_ns) of every step that runs now."""

def steps_statistics() -> dict[str, int]:
    """state (1: in place, 0: not), steps, threads, threads_max, threads_dropped (steps in more threads than that),
    coroutines, coroutines_max, coroutines_dropped (steps of more than that), functions, functions_max,
    functions_dropped (steps of more than that), loops_dropped, thrown, tables_bytes."""

# ---- awaits.c: where a coroutine waits ---------------------------------------------------------------------------

def await_chain(
    coroutine: object, objects: list[object] = ..., /
) -> tuple[bytes, list[tuple[CodeType, int]], object, int]:
    """(key, places, awaited, state) of a coroutine and what it awaits in turn, as far as coroutines and generators go.

    places: (code, byte offset of the instruction or -1 if not started), innermost first; of more than 64 the middle is
    left out. key: equal for equal places, as long as their code objects live. awaited: what the innermost awaits, such
    as a FutureIter; None when it was resumed or yielded of its own accord. state of the outermost: 0 created,
    1 suspended, 2 running, 3 finished (or no object of the interpreter's own types). The coroutines and generators are
    added to `objects`, outermost first. No frame object is made."""

def unawaited_hook(original: object, codes: list[CodeType], codes_max: int, /) -> object:
    """A replacement of warnings._warn_unawaited_coroutine: adds the code of the coroutine to the list, up to so many,
    and calls the original, with no Python frame of its own between."""

# ---- watchdog.c: what holds a loop, while it does; the clock -------------------------------------------------------

BlockRow = tuple[int, int, CodeType, int, list[tuple[CodeType, int]], bool, bool, bool, int]
"""(at_ns, thread ident, code of the coroutine, duration_ns, stack, gil_held, late, ended, label): one block. at_ns:
CLOCK_REALTIME of the step's start. stack: as of stack(), empty when it could not be taken. gil_held: the GIL could not
be had for 50 ms while the step ran. late: the stack was taken when the GIL was let go. ended: False for one still
going on (duration so far), which is told in every take until it has ended (or steps_stop(): then never again)."""

def run_watchdog(seconds: float) -> None:
    """Looks for steps that run too long, every 25 ms, for that long, without the GIL; takes no Python lock.

    Returns early after clock_interrupt() or when steps start or stop; up to 5 s late while the stack of a block is
    still missing. Raises RuntimeError when another thread is in it already.
    """

def run_clock(seconds: float) -> None:
    """Samples threads at the rate set, with the GIL only for each sample, and takes stacks for the watchdog.

    Returns early after clock_interrupt(). Raises RuntimeError when another thread is in it already.
    """

def clock_interrupt() -> None:
    """Makes run_watchdog() and run_clock() return soon."""

def set_clock(*, blocked_ms: float = 100.0, sample_hz: float = 0.0) -> None:
    """sample_hz 0: threads are not sampled. Gaps between samples are jittered. Raises ValueError outside 1..60000 ms,
    0..100 Hz."""

def blocks_take() -> list[BlockRow]:
    """Blocks since the last take; at most 256 are kept."""

def clock_statistics() -> dict[str, int]:
    """ticks, gil_waits, gil_wait_ns, gil_wait_ns_max (from wanting the GIL to having it; max since the start),
    blocks, blocks_dropped, blocks_max, sample_ns (time with the GIL held)."""

# ---- threads.c: where every thread is -----------------------------------------------------------------------------

ThreadRow = tuple[int, int, int, int, int, int]
"""(node, thread ident, code index of the coroutine running in it or -1, samples, wall_ns, cpu_ns). cpu_ns: what the
thread's clock counted since it was last seen computing; 0 in rows where it only waited."""

def threads_take() -> tuple[list[ThreadRow], list[CodeType], int, int]:
    """(rows, codes, ticks, dropped) since the last take, and starts again from nothing. Nodes are good for
    threads_stack() until the next threads_take(). dropped: samples for which a table was full.

    Raises RuntimeError while another thread is in it.
    """

def threads_stack(node: int) -> tuple[list[tuple[CodeType, int]], bool, int]:
    """As stack(), of a node of the last threads_take(): (path innermost first, whether outer frames were left out,
    label). Raises KeyError for a node it did not tell."""

def threads_roots() -> list[tuple[int, list[tuple[CodeType, int]]]]:
    """(thread ident, its call path now, innermost first) of every Python thread but the agent's own. Of a path deeper
    than 96 frames the innermost are kept."""

def threads_statistics() -> dict[str, int]:
    """threads, threads_max, nodes, nodes_max, codes, codes_max, rows, rows_max (of the interval under way), dropped,
    truncated, overflowed (samples, cumulative), tables_bytes."""

def _threads_look() -> None:
    """For tests: what run_clock() does just before it wants the GIL."""

def _threads_sample(wall_ns: int) -> None:
    """For tests: one tick of run_clock(), from the calling thread."""

# ---- dump.c: the heap, written to a file by a copy of the process --------------------------------------------------

def dump_refusal() -> str | None:
    """Why this process cannot be dumped at all, in one sentence; None when it can. Changes nothing."""

def dump_start(fd: int, info: bytes, *, bytes_max: int, seconds_max: float) -> tuple[int, int]:
    """(process id of the copy that writes, pause_ns). Writes the head of the file and `info` first, without the GIL.

    The application stands still for pause_ns, in which the kernel copies the tables of its memory. The copy gets no
    memory of its own beyond some 12 MiB and what either of the two writes to; it has one thread, runs C only, closes
    every descriptor but fd, and is killed when the calling thread ends. Its end sends no signal. fd may be closed at
    once. The format is that of docs/heap-dump-format.md.

    Raises RuntimeError when dump_refusal() has a reason, or another dump is being written; BlockingIOError without an
    errno while a garbage collection is under way; OSError when the system would not make the copy, or not take the
    first bytes.
    """

def dump_wait(pid: int, timeout_s: float) -> int | None:
    """Waits without the GIL. None when it still writes. Else how it ended: 0 complete, 1 bytes_max was reached,
    2 seconds_max was, 3 too many objects could not be read, 100 the file could not be written (see dump_progress()),
    below 0 the signal that ended it. It is gone then, and another may be made.

    Raises ValueError when no such dump is being written, OSError when somebody else had waited for it.
    """

def dump_kill(pid: int) -> None:
    """Ends it at once; dump_wait() is still to be called. Does nothing when no such dump is being written."""

def dump_progress() -> dict[str, int]:
    """Of the dump being written, or else of the last: objects, edges, bytes, faults (objects that could not be read),
    lost (objects that were met and not written), errno; and when it has ended, elapsed_us and dirtied_kib: memory that
    was the copy's alone by then, because either of the two had written to it."""
