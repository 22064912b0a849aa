"""The C core: samples the heap. Nothing here is stable; the public face is `glassbottom`.

All functions need the GIL (any Python call has it). None runs user code. See native/module.c.
"""

from types import CodeType
from typing import TypedDict

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
    sample_ns: int  # time spent taking samples (walk, intern, insert)
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
    """Allocations of the calling thread are not sampled from now on (for the agent's own threads)."""

def snapshot() -> Snapshot | None:
    """Reads the tables; None when not started."""

def stack(node: int) -> tuple[list[tuple[CodeType, int]], bool]:
    """(code, byte offset of the instruction or -1 if not started) innermost first; whether outer frames were left out.

    No frames and False: allocated outside Python code. No frames and True: the table of call paths was full.
    Raises KeyError for a node this epoch does not know.
    """

def release_unused() -> int:
    """Drops code objects and call paths nothing live refers to when tables are more than half full; returns how many.

    Starts a new epoch when it drops anything: node ids change.
    """

def statistics() -> Statistics: ...
