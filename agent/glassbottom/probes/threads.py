"""Where threads spend their time: runs the clock that samples them, and sends what it gathered.

Two threads of the agent's live here. "glassbottom-clock" takes the GIL for each sample and for the stack of a step that
blocks its event loop; between, it keeps the rate within its budget. "glassbottom-watchdog", which finds such steps,
never takes it while it looks, and exists only where there is a loop. Both spend their lives in the native core.
"""

from __future__ import annotations

import contextlib
import threading
import time
from array import array
from collections.abc import Callable, Mapping
from types import CodeType
from typing import Protocol

from .. import _threads
from .._clock import Clock
from .._config import AsyncioConfig, ProfileConfig
from .._guard import Guard
from ..transport.queue import BatchQueue
from ..wire.v1 import ingest_pb2, profile_pb2
from . import ProbeState
from .definitions import Definer
from .heap_symbols import presentable
from .native import label_name, load_threads

STREAM = int(ingest_pb2.STREAM_PROFILE)
CLOCK = "profile.clock"
WATCHDOG = "profile.watchdog"
TURN_S = 1.0
"""How long the clock runs between two looks at what it costs; less where the first event loop has begun."""
WATCHDOG_TURN_S = 60.0
RETRY_S = 0.5
GIL_RATIO = 0.002
"""How much of the time the GIL may be held to take samples."""
HZ_MIN = 0.2
HZ_CHANGE_MIN = 1.2
"""Smaller changes of the rate are not worth making: each loses the time since the last sample."""
COST_WEIGHT = 0.25
"""Of the newest turn, in the mean cost of a sample: one that the machine interrupted says little."""
NAME_CHARACTERS_MAX = 255
BREATH_EVERY = 32
"""Call paths named between two offers of the GIL to the application."""


class ThreadCore(Protocol):
    """What this probe needs of glassbottom._native; see _native.pyi."""

    def exclude_thread(self) -> None: ...

    def set_clock(self, *, blocked_ms: float = ..., sample_hz: float = ...) -> None: ...

    def run_clock(self, seconds: float, /) -> None: ...

    def run_watchdog(self, seconds: float, /) -> None: ...

    def clock_interrupt(self) -> None: ...

    def clock_statistics(self) -> dict[str, int]: ...

    def steps_statistics(self) -> dict[str, int]: ...

    def steps_running(self) -> list[tuple[int, CodeType, int]]: ...

    def threads_take(self) -> tuple[list[tuple[int, int, int, int, int, int]], list[CodeType], int, int]: ...

    def threads_stack(self, node: int, /) -> tuple[list[tuple[CodeType, int]], bool, int]: ...

    def threads_statistics(self) -> dict[str, int]: ...


class RateControl:
    """Lowers the rate of samples when they cost more than GIL_RATIO of the time, and raises it again. Arithmetic."""

    def __init__(self, configured_hz: float) -> None:
        self.hz = configured_hz
        self._configured_hz = configured_hz
        self._cost_s: float | None = None

    def observe(self, samples: int, held_s: float) -> float:
        """The rate from now on; held_s: for how long these samples held the GIL."""
        if samples <= 0:
            return self.hz
        cost_s = held_s / samples
        self._cost_s = cost_s if self._cost_s is None else self._cost_s + COST_WEIGHT * (cost_s - self._cost_s)
        affordable_hz = GIL_RATIO / self._cost_s if self._cost_s > 0 else self._configured_hz
        wanted_hz = min(self._configured_hz, max(HZ_MIN, affordable_hz))
        if not 1 / HZ_CHANGE_MIN < wanted_hz / self.hz < HZ_CHANGE_MIN or wanted_hz == self._configured_hz:
            self.hz = wanted_hz
        return self.hz


class ProfileProbe:
    """Samples of every thread, every interval_s; and the threads that watch for blocked event loops."""

    name = "profile"

    def __init__(
        self,
        config: ProfileConfig,
        asyncio: AsyncioConfig,
        queue: BatchQueue,
        clock: Clock,
        guard: Guard,
        core: ThreadCore | None = None,
    ) -> None:
        """core: None loads the real one."""
        self.interval_s = config.interval_s
        self._config = config
        self._asyncio = asyncio
        self._queue = queue
        self._clock = clock
        self._guard = guard
        self._core, self._refusal = (core, "") if core is not None else load_threads()
        self._rate = RateControl(config.sample_hz)
        self._definer = Definer()
        self._ending = _threads.Event()
        self._threads: list[_threads.Thread] = []
        self._started = False
        self._from_ns = clock.time_ns()
        self._counted: tuple[int, int] | None = None
        self._gil_wait_ns_max = 0
        # Names by ident, of threads that may have ended when their samples are read.
        self._names: dict[int, str] = {}

    # Life

    def start(self) -> None:
        core = self._core
        if core is None or not (self._config.enabled or self._asyncio.enabled):
            return
        _threads.exclude_with(core.exclude_thread)
        core.set_clock(sample_hz=0.0)  # of time before this, no sample stands for anything
        self._set_clock(core)
        self._from_ns = self._clock.time_ns()
        self._started = True
        self._spawn("glassbottom-clock", self._run_clock, core)

    def stop(self, timeout_s: float) -> None:
        core = self._core
        self._ending.set()
        if core is None or not self._started:
            return
        self._started = False
        deadline_s = time.monotonic() + timeout_s
        # The clock may be about to start the watchdog, so it ends first.
        for thread in self._threads:
            core.clock_interrupt()
            thread.wait(deadline_s - time.monotonic())
        with contextlib.suppress(RuntimeError):
            core.threads_take()
            core.threads_take()  # lets go the code objects of both intervals

    def _spawn(self, name: str, target: Callable[[ThreadCore], None], core: ThreadCore) -> None:
        thread = _threads.Thread(target, name, (core,))
        self._threads.append(thread)
        thread.start()

    # In threads of their own

    def _run_clock(self, core: ThreadCore) -> None:
        _threads.enter()
        while not self._ending.is_set() and not self._guard.is_disabled(CLOCK):
            done = False
            with self._guard.guarded(CLOCK):
                core.run_clock(TURN_S)
                self._keep_within_budget(core)
                self._names.update(_thread_names())
                if self._asyncio.enabled and len(self._threads) == 1 and self._is_there_a_loop(core):
                    self._spawn("glassbottom-watchdog", self._run_watchdog, core)
                done = True
            if not done:
                self._ending.wait(RETRY_S)

    def _run_watchdog(self, core: ThreadCore) -> None:
        _threads.enter()
        while not self._ending.is_set() and not self._guard.is_disabled(WATCHDOG):
            done = False
            with self._guard.guarded(WATCHDOG):
                core.run_watchdog(WATCHDOG_TURN_S)
                done = True
            if not done:
                self._ending.wait(RETRY_S)

    def _is_there_a_loop(self, core: ThreadCore) -> bool:
        # By its first step already: the clock's turn ends with it, and it may be what holds the loop.
        return not self._ending.is_set() and (core.steps_statistics()["steps"] > 0 or bool(core.steps_running()))

    def _keep_within_budget(self, core: ThreadCore) -> None:
        statistics = self._clock_statistics(core)
        before, self._counted = self._counted, (statistics["ticks"], statistics["sample_ns"])
        if before is None or not self._config.enabled:
            return
        before_hz = self._rate.hz
        samples, held_ns = self._counted[0] - before[0], self._counted[1] - before[1]
        if self._rate.observe(samples, held_ns / 1e9) != before_hz:
            self._set_clock(core)

    def _set_clock(self, core: ThreadCore) -> None:
        hz = self._rate.hz if self._config.enabled else 0.0
        core.set_clock(blocked_ms=self._asyncio.blocked_ms, sample_hz=hz)

    def _clock_statistics(self, core: ThreadCore) -> dict[str, int]:
        statistics = core.clock_statistics()
        self._gil_wait_ns_max = max(self._gil_wait_ns_max, statistics["gil_wait_ns_max"])
        return statistics

    # Reading, in the agent's thread

    def welcomed(self, store_id: str, store_changed: bool) -> None:
        self._definer.welcomed(store_id, store_changed)

    def read(self) -> None:
        core = self._core
        if core is None or not self._started or not self._config.enabled:
            return
        now = _thread_names()
        known, self._names = self._names, now
        rows, codes, ticks, dropped = core.threads_take()
        from_ns, to_ns = self._from_ns, self._clock.time_ns()
        if to_ns <= from_ns:  # the clock was set back; the interval must still have a length
            from_ns, to_ns = to_ns, to_ns + 1
        self._from_ns = to_ns
        if ticks == 0:
            return
        table = _Table()
        stacks: dict[int, int] = {}
        for node, ident, code, samples, wall_ns, cpu_ns in rows:
            stack = stacks.get(node)
            if stack is None:
                stack = stacks[node] = self._stack(*core.threads_stack(node))
                if len(stacks) % BREATH_EVERY == 0:
                    _threads.sleep(0)
            thread = now.get(ident) or known.get(ident) or f"thread-{ident}"
            task = "" if code < 0 else codes[code].co_qualname
            table.add(stack, thread, task, samples, wall_ns, cpu_ns)
        self._definer.put(self._queue, STREAM, table.message(from_ns, to_ns, ticks, dropped), rows=len(table))

    def _stack(self, path: list[tuple[CodeType, int]], truncated: bool, label: int) -> int:
        if not path:  # the core's way to say that its table was full
            frame = self._definer.frame("<more call paths than the agent keeps>", "", 0)
            return self._definer.stack([frame], truncated=truncated)
        return self._definer.path(path, truncated=truncated, label=label_name(label) if label else "")

    # How it is

    def state(self) -> ProbeState:
        if self._core is None:
            return ProbeState("refused", self._refusal)
        if not self._started:
            return ProbeState(
                "stopped", "Threads are not sampled: profile and asyncio are off, or the agent is stopped."
            )
        return ProbeState("running")

    def statistics(self) -> Mapping[str, float]:
        core = self._core
        if core is None or not self._started:
            return {}
        clock, tables = self._clock_statistics(core), core.threads_statistics()
        return {
            "profile_hz": self._rate.hz if self._config.enabled else 0.0,
            "profile_ticks_total": clock["ticks"],
            "profile_sample_seconds_total": clock["sample_ns"] / 1e9,
            "profile_threads": tables["threads"],
            "profile_threads_max": tables["threads_max"],
            "profile_rows": tables["rows"],
            "profile_rows_max": tables["rows_max"],
            "profile_rows_dropped_total": tables["dropped"],
            "profile_nodes": tables["nodes"],
            "profile_nodes_max": tables["nodes_max"],
            "profile_stacks_truncated_total": tables["truncated"],
            "profile_stacks_overflowed_total": tables["overflowed"],
            "profile_codes": tables["codes"],
            "profile_codes_max": tables["codes_max"],
            "profile_tables_bytes": tables["tables_bytes"],
            "gil_waits_total": clock["gil_waits"],
            "gil_wait_seconds_total": clock["gil_wait_ns"] / 1e9,
            "gil_wait_ms_max": self._gil_wait_ns_max / 1e6,
            "blocks_total": clock["blocks"],
            "blocks_dropped_total": clock["blocks_dropped"],
        }


class _Table:
    """Rows of a reading, one for each stack, thread name and task name."""

    def __init__(self) -> None:
        self._rows: dict[tuple[int, int, int], list[int]] = {}
        self._names: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, stack: int, thread: str, task: str, samples: int, wall_ns: int, cpu_ns: int) -> None:
        row = self._rows.setdefault((stack, self._name(thread), self._name(task)), [0, 0, 0])
        row[0] += samples
        row[1] += wall_ns
        row[2] += cpu_ns

    def message(self, from_ns: int, to_ns: int, ticks: int, dropped: int) -> profile_pb2.ProfileSnapshot:
        keys, sums = list(self._rows), list(self._rows.values())
        return profile_pb2.ProfileSnapshot(
            from_ns=from_ns,
            to_ns=to_ns,
            ticks=ticks,
            dropped=dropped,
            stack=array("Q", [stack for stack, _, _ in keys]).tobytes(),
            thread=array("I", [thread for _, thread, _ in keys]).tobytes(),
            task=array("I", [task for _, _, task in keys]).tobytes(),
            samples=array("I", [samples for samples, _, _ in sums]).tobytes(),
            wall_s=array("d", [wall_ns / 1e9 for _, wall_ns, _ in sums]).tobytes(),
            cpu_s=array("d", [cpu_ns / 1e9 for _, _, cpu_ns in sums]).tobytes(),
            names=list(self._names),
        )

    def _name(self, name: str) -> int:
        return self._names.setdefault(name, len(self._names))


def _thread_names() -> dict[int, str]:
    """By ident, of every thread that `threading` knows. Runs nothing of the application's: Thread.name may be a
    property of somebody's subclass, and enumerate() takes a lock."""
    active: dict[int, threading.Thread] = dict(getattr(threading, "_active", {}))
    names = {}
    for ident, thread in active.items():
        with contextlib.suppress(AttributeError):
            name = object.__getattribute__(thread, "_name")
            if type(name) is str and name:
                names[ident] = presentable(name)[:NAME_CHARACTERS_MAX]
    return names
