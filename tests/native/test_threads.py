"""Where threads are, and which of their lines the CPU time goes to."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass

import pytest
from glassbottom import _native

from tests.support.forking import in_child

MS = 1_000_000


@dataclass(frozen=True)
class Row:
    """One row of threads_take() with its call path by name, innermost first."""

    functions: tuple[str, ...]
    truncated: bool
    label: int
    ident: int
    coroutine: str | None
    samples: int
    wall_ns: int
    cpu_ns: int


def take() -> list[Row]:
    rows, codes, _, _ = _native.threads_take()
    found = []
    for node, ident, code, samples, wall_ns, cpu_ns in rows:
        path, truncated, label = _native.threads_stack(node)
        functions = tuple(code.co_name for code, _ in path)
        coroutine = None if code < 0 else codes[code].co_qualname
        found.append(Row(functions, truncated, label, ident, coroutine, samples, wall_ns, cpu_ns))
    return found


def tick(wall_ns: int = 10 * MS) -> None:
    """As the clock does it: between the two, others may run."""
    _native._threads_look()
    time.sleep(0.001)
    _native._threads_sample(wall_ns)


def burn(cpu_s: float) -> None:
    until = time.thread_time() + cpu_s
    while time.thread_time() < until:
        sum(range(200))


@contextlib.contextmanager
def running(*targets: Callable[[threading.Event], object]) -> Iterator[list[threading.Thread]]:
    """Threads, each given an event that is set at the end."""
    stop = threading.Event()
    threads = [threading.Thread(target=target, args=(stop,)) for target in targets]
    for thread in threads:
        thread.start()
    try:
        yield threads
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.fixture(autouse=True)
def _from_nothing() -> Iterator[None]:
    """No sample of a test is seen by the next."""
    _native._threads_sample(10 * MS)
    _native.threads_take()
    yield
    _native.threads_take()
    _native.threads_take()


def waiting(stop: threading.Event) -> None:
    stop.wait()


def computing(stop: threading.Event) -> None:
    while not stop.is_set():
        burn(0.001)


def test_cpu_time_goes_to_the_thread_that_computes_and_wall_time_to_both() -> None:
    used_ns = 0

    def measured(stop: threading.Event) -> None:
        nonlocal used_ns
        computing(stop)
        used_ns = time.thread_time_ns()

    with running(measured, waiting) as (busy, idle):
        for _ in range(40):
            time.sleep(0.005)
            tick()
        rows = take()
    of_busy = [row for row in rows if row.ident == busy.ident]
    of_idle = [row for row in rows if row.ident == idle.ident]
    assert sum(row.samples for row in of_busy) == sum(row.samples for row in of_idle) == 40
    assert sum(row.wall_ns for row in of_busy) == sum(row.wall_ns for row in of_idle) == 400 * MS
    # It asks between two burns whether to stop; on a busy machine even that may be met more than once.
    assert sum(row.cpu_ns for row in of_busy if "burn" in row.functions) > 0.7 * sum(row.cpu_ns for row in of_busy)
    # What it used after its last sample is not told, nor twice what it used before.
    assert used_ns * 0.3 < sum(row.cpu_ns for row in of_busy) <= used_ns
    assert sum(row.cpu_ns for row in of_idle) < 5 * MS
    assert all("waiting" in row.functions for row in of_idle)


def test_cpu_time_goes_to_the_line_that_computes_not_to_the_one_where_the_thread_waits() -> None:
    """Seen ten times while it waits and once while it computes, as most threads of most servers are."""
    work, done, still = threading.Semaphore(0), threading.Semaphore(0), threading.Event()

    def server(stop: threading.Event) -> None:
        for _ in range(10):
            work.acquire()
            burn(0.004)
            done.release()
        still.wait()
        computing(stop)

    with running(server) as (thread,):
        for _ in range(10):
            work.release()
            done.acquire()
            cpu_at_rest(thread)
            tick()
        still.set()
        rows = []
        # Once it computes; on a busy machine it may first have to wait for a processor.
        while not any("burn" in row.functions and row.cpu_ns for row in rows):
            cpu_moves(thread)
            tick()
            rows += [row for row in take() if row.ident == thread.ident]
    at_rest = [row for row in rows if "burn" not in row.functions]
    assert sum(row.samples for row in at_rest) == 10
    assert sum(row.cpu_ns for row in at_rest) < 20 * MS
    assert sum(row.cpu_ns for row in rows if "burn" in row.functions) > 20 * MS


def cpu_ns(thread: threading.Thread) -> int:
    return time.clock_gettime_ns((~thread.native_id << 3) | 6)


def cpu_at_rest(thread: threading.Thread) -> None:
    """Returns once the thread computes no more."""
    before = -1
    while before != (before := cpu_ns(thread)):
        time.sleep(0.002)


def cpu_moves(thread: threading.Thread) -> None:
    """Returns once the thread computes."""
    before = cpu_ns(thread)
    while cpu_ns(thread) == before:
        time.sleep(0.001)


def test_cpu_time_from_before_the_first_sample_is_not_counted() -> None:
    def check() -> None:
        burn(0.1)  # in a child, so that there was no sample
        _native._threads_sample(60_000 * MS)
        assert sum(row.cpu_ns for row in take()) < 50 * MS
        burn(0.1)
        _native._threads_sample(60_000 * MS)
        assert sum(row.cpu_ns for row in take()) > 90 * MS

    assert in_child(check) == 0


def test_cpu_time_of_a_thread_that_began_between_two_samples_is_counted_whole() -> None:
    ready = threading.Event()

    def young(stop: threading.Event) -> None:
        burn(0.02)
        ready.set()
        computing(stop)

    _native._threads_sample(60_000 * MS)
    with running(young) as (thread,):
        ready.wait()
        _native._threads_sample(60_000 * MS)
        assert sum(row.cpu_ns for row in take() if row.ident == thread.ident) >= 20 * MS


def test_a_sample_has_the_label_of_what_its_thread_works_on() -> None:
    variable: ContextVar[int] = ContextVar("label", default=0)
    label = _native.label("GET /threads")
    entered = threading.Event()

    def labelled(stop: threading.Event) -> None:
        variable.set(label)
        entered.set()
        stop.wait()

    _native.set_label_variable(variable)
    try:
        with running(labelled, waiting) as (serving, idle):
            entered.wait()
            tick()
            rows = take()
    finally:
        _native.set_label_variable(None)
    assert {row.label for row in rows if row.ident == serving.ident} == {label}
    assert {row.label for row in rows if row.ident == idle.ident} == {0}


def test_threads_that_come_and_go_leave_nothing_behind() -> None:
    before = _native.threads_statistics()["threads"]
    for _ in range(30):
        with running(*[waiting] * 10):
            tick()
    tick()
    rows = take()
    # Hundreds of threads were seen, none twice at once, and those that ended are not in the list.
    assert sum(row.samples for row in rows if "waiting" in row.functions) == 300
    assert _native.threads_statistics()["threads"] <= before + 1


def test_a_deep_stack_keeps_its_innermost_frames_and_is_called_truncated() -> None:
    reached = threading.Event()

    def deep(stop: threading.Event, left: int = 200) -> None:
        if left:
            deep(stop, left - 1)
        else:
            reached.set()
            stop.wait()

    truncated = _native.threads_statistics()["truncated"]
    with running(deep) as (thread,):
        reached.wait()
        tick()
        (row,) = [row for row in take() if row.ident == thread.ident]
    assert len(row.functions) == 96
    assert row.functions[-1] == "deep"
    assert row.truncated
    assert _native.threads_statistics()["truncated"] > truncated


def test_the_agents_own_threads_are_not_seen() -> None:
    entered = threading.Event()

    def hidden(stop: threading.Event) -> None:
        _native.exclude_thread()
        entered.set()
        stop.wait()

    with running(hidden, waiting) as (own, other):
        entered.wait()
        tick()
        assert {own.ident, other.ident} & {row.ident for row in take()} == {other.ident}
        assert {own.ident, other.ident} & {ident for ident, _ in _native.threads_roots()} == {other.ident}


def test_more_threads_of_the_agent_than_are_remembered_at_once_stay_hidden_as_old_ones_end() -> None:
    def hidden(stop: threading.Event) -> None:
        _native.exclude_thread()

    for _ in range(10):
        with running(*[hidden] * 10):
            pass
    test_the_agents_own_threads_are_not_seen()


def test_of_very_many_threads_a_random_part_is_seen_and_stands_for_all() -> None:
    with running(*[waiting] * 300):
        tick()  # the first look at new threads takes fewer
        _native.threads_take()
        for _ in range(20):
            tick()
        rows = [row for row in take() if "waiting" in row.functions]
    assert 20 * 100 < sum(row.samples for row in rows) <= 20 * 130
    # Of the 302 and some threads, 300 wait here; the grid takes one more or less each time.
    assert sum(row.wall_ns for row in rows) / (20 * 10 * MS) == pytest.approx(300, rel=0.05)
    assert len({row.ident for row in rows}) > 250


def test_threads_seen_for_the_first_time_stand_for_all_that_are_new() -> None:
    with running(*[waiting] * 200):
        tick()
        rows = [row for row in take() if "waiting" in row.functions]
    assert sum(row.samples for row in rows) <= 66
    assert sum(row.wall_ns for row in rows) / (10 * MS) == pytest.approx(200, rel=0.05)


def test_a_full_table_drops_samples_and_counts_them() -> None:
    names: dict[str, object] = {"sample": _native._threads_sample}
    exec("def lines():\n" + " sample(1000)\n" * 17_000, names)
    before = _native.threads_statistics()
    names["lines"]()  # type: ignore[operator]
    rows, _, ticks, dropped = _native.threads_take()
    assert ticks == 17_000
    assert len(rows) == before["rows_max"]
    assert dropped >= 17_000 - before["rows_max"]
    after = _native.threads_statistics()
    assert after["dropped"] - before["dropped"] == dropped
    assert after["overflowed"] > before["overflowed"]
    # The next interval has all its room again.
    tick()
    assert take()


def test_call_paths_can_be_asked_for_until_the_next_take() -> None:
    tick()
    rows, _, _, _ = _native.threads_take()
    node = max(node for node, *_ in rows)
    tick()
    assert _native.threads_stack(node)[0]
    _native.threads_take()
    _native.threads_take()
    with pytest.raises(KeyError):
        _native.threads_stack(node)


def test_a_code_object_is_kept_as_long_as_it_can_be_asked_for() -> None:
    names: dict[str, object] = {"sample": _native._threads_sample}
    exec("def passing():\n sample(1000)", names)
    names["passing"]()  # type: ignore[operator]
    code = weakref.ref(names.pop("passing").__code__)  # type: ignore[attr-defined]
    rows, _, _, _ = _native.threads_take()
    assert any(code() in [code for code, _ in _native.threads_stack(node)[0]] for node, *_ in rows)
    _native.threads_take()
    assert code() is None


def test_roots_tell_what_each_thread_does_now() -> None:
    with running(waiting) as (thread,):
        paths = dict(_native.threads_roots())
    functions = [code.co_name for code, _ in paths[thread.ident]]
    assert functions[-1] == "_bootstrap"
    innermost, _ = paths[threading.get_ident()][0]
    assert innermost.co_name == "test_roots_tell_what_each_thread_does_now"


def test_a_forked_child_knows_nothing_of_its_parents_threads() -> None:
    def check() -> None:
        assert _native.threads_take() == ([], [], 0, 0)
        assert _native.threads_statistics()["threads"] == 0
        tick()
        rows = take()
        assert {row.ident for row in rows} == {threading.get_ident()}
        with running(waiting) as (thread,):
            tick()
            assert thread.ident in {row.ident for row in take()}

    with running(waiting) as (thread,):
        tick()
        assert in_child(check) == 0
        assert thread.ident in {row.ident for row in take()}


def test_forks_while_threads_are_sampled_never_hang_a_child() -> None:
    def sampling(stop: threading.Event) -> None:
        while not stop.is_set():
            tick(1 * MS)

    def check() -> None:
        tick()
        assert take()

    with running(sampling, sampling, computing):
        for _ in range(30):
            assert in_child(check) == 0


def test_an_agents_thread_may_fork_and_is_an_ordinary_one_in_the_child() -> None:
    statuses: list[int] = []

    def check() -> None:
        tick()
        assert threading.get_ident() in {row.ident for row in take()}

    def own(stop: threading.Event) -> None:
        _native.exclude_thread()
        statuses.append(in_child(check))

    with running(own):
        pass
    assert statuses == [0], os.getpid()


@contextlib.contextmanager
def clock(sample_hz: float, turn_s: float) -> Iterator[None]:
    """The real clock, in turns of this length as the agent's thread runs it."""

    def run(stop: threading.Event) -> None:
        _native.exclude_thread()
        while not stop.is_set():
            _native.run_clock(turn_s)

    _native.set_clock(sample_hz=0.0)  # forgets when it ran before
    _native.set_clock(sample_hz=sample_hz)
    try:
        with running(run):
            yield
    finally:
        _native.set_clock(sample_hz=0.0)


def test_no_time_is_lost_between_two_turns_of_the_clock_however_short() -> None:
    with clock(sample_hz=20.0, turn_s=0.01):
        _native.threads_take()
        began = time.monotonic()
        while _native.threads_statistics()["threads"] == 0 or time.monotonic() - began < 1.0:
            time.sleep(0.01)
        elapsed_s = time.monotonic() - began
        rows = [row for row in take() if row.ident == threading.get_ident()]
    # But for what passed since the last sample, at most 75 ms on a machine at rest.
    assert elapsed_s - 0.4 < sum(row.wall_ns for row in rows) / 1e9 < elapsed_s + 0.2


def test_a_thread_that_computes_for_less_than_a_switch_interval_at_a_time_is_seen_computing() -> None:
    """The main thread, as that of most event loops: a clock that only waits for the GIL has it when that lets it go."""
    assert threading.current_thread() is threading.main_thread()
    seen = 0
    with clock(sample_hz=100.0, turn_s=1.0):
        for _ in range(2000):
            burn(0.001)
            time.sleep(0.0005)
            if _native.threads_statistics()["rows"] > 3:
                seen += sum(row.samples for row in take() if "burn" in row.functions)
            if seen >= 20:
                break
    assert seen >= 20
