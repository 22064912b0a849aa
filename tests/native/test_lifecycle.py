"""Start, stop, refuse: the core never hurts the process it lives in."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time

import pytest
from glassbottom import _native

from tests.support.sampling import Row, rows, sampler, within


def run_python(source: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter, so that a crash fails this test and no other."""
    return subprocess.run(
        [sys.executable, *options, "-c", source],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
        check=False,
    )


def test_start_is_idempotent_and_stop_forgets_everything() -> None:
    with sampler(interval_bytes=4096.0):
        kept = [bytes(5000) for _ in range(100)]
        _native.start(interval_bytes=1e9, window_share=0.5)  # running already: the rate stays
        assert _native.statistics()["interval_bytes"] == 4096.0
        assert _native.snapshot()["live_bytes"] > 0
    assert _native.snapshot() is None
    assert _native.statistics()["state"] == "stopped"
    assert _native.statistics()["samples_live"] == 0
    del kept


def test_values_of_two_starts_are_told_apart_by_their_epoch() -> None:
    with sampler():
        first = _native.snapshot()["epoch"]
    with sampler():
        assert _native.snapshot()["epoch"] != first


@pytest.mark.parametrize(
    "wrong",
    [
        {"interval_bytes": 100.0},
        {"interval_bytes": float("nan")},
        {"window_share": 0.0},
        {"window_share": 1.5},
        {"window_ms": 0.1},
    ],
)
def test_arguments_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        _native.start(**wrong)
    assert _native.statistics()["state"] == "stopped"


def test_two_schedules_at_once_are_refused() -> None:
    with sampler():
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            try:
                _native.run_windows(0.0)  # until the other thread is in
            except RuntimeError as refused:
                assert "another thread" in str(refused)
                return
    pytest.fail("a second schedule was accepted")


def test_an_interrupt_ends_the_schedule_at_once() -> None:
    began = time.monotonic()
    with sampler(share=0.1):
        pass
    assert time.monotonic() - began < 1.0


def test_the_agents_own_threads_are_not_sampled() -> None:
    kept: list[bytes] = []

    def agent_work() -> None:
        _native.exclude_thread()
        kept.extend(bytes(5000) for _ in range(500))

    with sampler(interval_bytes=4096.0):
        thread = threading.Thread(target=agent_work)
        thread.start()
        thread.join()
        assert not within(_native.snapshot(), "agent_work")


def test_threads_are_sampled_each_with_its_own_path() -> None:
    kept: list[bytes] = []

    def work_of_a_thread() -> None:
        kept.extend(bytes(5000) for _ in range(500))

    with sampler(interval_bytes=16384.0):
        threads = [threading.Thread(target=work_of_a_thread) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = within(_native.snapshot(), "work_of_a_thread")
    assert sum(row.live_bytes for row in found) == pytest.approx(4 * 500 * 5033, rel=0.25)


def test_the_innermost_line_is_the_one_that_allocates() -> None:
    kept = []
    with sampler(interval_bytes=4096.0):
        kept.append(bytes(1_000_000))  # this line
        line = sys._getframe().f_lineno - 1
        found = [row for row in rows(_native.snapshot()) if row.live_bytes > 900_000]
    assert [row.lines[0] for row in found] == [line]
    assert found[0].functions[0].endswith("test_the_innermost_line_is_the_one_that_allocates")


def test_a_deep_stack_keeps_its_innermost_frames_and_says_so() -> None:
    kept = []

    def deep(levels: int) -> None:
        if levels:
            deep(levels - 1)
        else:
            kept.append(bytes(1_000_000))

    with sampler(interval_bytes=4096.0):
        deep(500)
        (row,) = [row for row in within(_native.snapshot(), "deep") if row.live_bytes > 900_000]
        assert _native.statistics()["stacks_truncated"] >= 1
    assert row.truncated
    assert len(row.functions) == 96


def test_generators_coroutines_and_names_beyond_ascii_are_walked() -> None:
    namespace: dict = {"kept": []}
    exec(
        "async def größe():\n    kept.append(bytes(1_000_000))\n\n"
        "def 生成():\n    yield\n    kept.append(bytes(1_000_000))\n    yield\n",
        namespace,
    )
    with sampler(interval_bytes=4096.0):
        with pytest.raises(StopIteration):
            namespace["größe"]().send(None)
        list(namespace["生成"]())
        snapshot = _native.snapshot()
        assert within(snapshot, "größe")
        assert within(snapshot, "生成")


def test_code_that_comes_and_goes_is_released() -> None:
    """Templates and exec() make functions for ever; the tables drop what nothing live was allocated by.

    In a process of its own: once a debugger, coverage or hypothesis has used sys.monitoring, CPython gives each new
    function 64 or 72 bytes when it first runs, which live as long as its code; where such a block was sampled, its
    name is needed, and the code stays.
    """
    result = run_python(
        "import gc\n"
        "from glassbottom import _native\n"
        "from tests.support.sampling import rows, sampler, within\n"
        "def keeps():\n"
        "    return [bytes(1_000_000)]\n"
        "with sampler(interval_bytes=4096.0):\n"
        "    kept = keeps()\n"
        "    made = 0\n"
        "    while _native.statistics()['codes'] < _native.statistics()['codes_max'] * 0.6:\n"
        "        scope = {}\n"
        "        exec(f'def made_{made}(): return bytes(9000)', scope)\n"
        "        scope[f'made_{made}']()\n"
        "        made += 1\n"
        "    before, epoch = _native.statistics(), _native.snapshot()['epoch']\n"
        "    assert _native.release_unused() > 0\n"
        "    assert _native.statistics()['codes'] < before['codes'] / 2\n"
        "    assert _native.snapshot()['epoch'] != epoch\n"
        "    assert within(_native.snapshot(), 'keeps'), 'what is alive keeps its path, under its new number'\n"
        "    gc.collect()\n"
        "    left = [row for row in rows(_native.snapshot()) for name in row.functions if name.startswith('made_')]\n"
        "    assert not left, left\n"
    )
    assert result.returncode == 0, result.stderr


def test_functions_that_are_gone_are_let_go_of_and_no_path_gets_another_number() -> None:
    """A day of templates would otherwise leave megabytes of dead code objects in the tables."""
    with sampler(interval_bytes=4096.0):
        scope: dict = {"kept": []}
        exec("def lives_on(): kept.append(bytes(1_000_000))", scope)
        scope["lives_on"]()
        del scope["lives_on"]  # dead, but a live sample has its name
        before = _native.statistics()["codes"]
        for i in range(600):
            scope = {"kept": scope["kept"]}
            exec(f"def made_{i}(): return bytes(9000)", scope)
            scope[f"made_{i}"]()
        del scope["made_599"]
        gc.collect()
        epoch = _native.snapshot()["epoch"]

        # Not every call was sampled.
        released = _native.release_dead()
        assert released > 300

        assert _native.statistics()["codes"] <= before + 100
        snapshot = _native.snapshot()
        assert snapshot["epoch"] == epoch
        assert within(snapshot, "lives_on")
        assert _native.release_dead() == 0
        exec("def made_anew(): kept.append(bytes(1_000_000))", scope)
        scope["made_anew"]()
        assert within(_native.snapshot(), "made_anew")


def test_a_full_table_of_paths_folds_and_counts() -> None:
    """Beyond the bound, a stack is counted under one label; it is never lost silently."""
    result = run_python(
        "from glassbottom import _native\n"
        "_native.start(interval_bytes=4096, window_share=1)\n"
        "kept = []\n"
        "i = 0\n"
        "while not _native.statistics()['stacks_overflowed']:\n"
        "    scope = {}\n"
        "    exec(f'def f{i}():\\n' + '\\n'.join('    k.append(bytes(9000))' for _ in range(20)), {'k': kept}, scope)\n"
        "    scope[f'f{i}'](); kept.clear(); i += 1\n"
        "s = _native.statistics(); print(s['codes'], s['codes_max'], s['stacks'], s['stacks_max'])\n"
    )
    assert result.returncode == 0, result.stderr
    codes, codes_max, stacks, stacks_max = map(int, result.stdout.split())
    assert codes == codes_max - 1 or stacks == stacks_max


@pytest.mark.parametrize(
    ("options", "environment"),
    [
        ((), {"PYTHONMALLOC": "malloc"}),
        ((), {"PYTHONMALLOC": "debug"}),
        ((), {"PYTHONMALLOC": "pymalloc_debug"}),
        (("-X", "dev"), {}),
    ],
)
def test_an_unusual_allocator_is_refused_with_a_reason_and_the_program_runs_on(
    options: tuple[str, ...], environment: dict[str, str]
) -> None:
    result = run_python(
        "from glassbottom import _native\n"
        "print(_native.refusal())\n"
        "try:\n    _native.start()\nexcept RuntimeError as error:\n    print(error)\n"
        "print(sum(len(str(i)) for i in range(100000)), _native.statistics()['state'])\n",
        *options,
        **environment,
    )
    assert result.returncode == 0, result.stderr
    reason, error, rest = result.stdout.splitlines()
    assert "ordinary allocator" in reason
    assert error == reason
    assert rest == "488890 stopped"


def test_debug_hooks_are_recognised_by_their_blocks_when_nothing_else_tells() -> None:
    """An application may have taken the variable out of its environment since."""
    result = run_python(
        "import os\nos.environ.pop('PYTHONMALLOC')\n"
        "from glassbottom import _native\n"
        "print(_native.refusal())\n"
        "try:\n    _native.start()\nexcept RuntimeError as error:\n    print(error)\n",
        PYTHONMALLOC="debug",
    )
    assert result.returncode == 0, result.stderr
    reason, error = result.stdout.splitlines()
    assert "ordinary allocator" in reason
    assert error == reason


def test_cpythons_own_count_of_blocks_stays_right() -> None:
    """Leak checks of test suites read sys.getallocatedblocks(); sampling must not move it."""
    with sampler(interval_bytes=4096.0):
        before = sys.getallocatedblocks()
        for _ in range(200):
            kept = [object() for _ in range(2000)]
            del kept
        assert _native.statistics()["samples"] > 500
        assert abs(sys.getallocatedblocks() - before) < 200


def test_tracemalloc_coming_and_going_between_windows_harms_nobody() -> None:
    """A window that opened or closed around a tool's stop must never bring back what the tool has torn down."""
    result = run_python(
        "import threading, time, tracemalloc\n"
        "from glassbottom import _native\n"
        "_native.start(interval_bytes=4096, window_share=0.5, window_ms=1)\n"
        "threading.Thread(target=_native.run_windows, args=(3600.0,), daemon=True).start()\n"
        # A thread that begins frees memory without the GIL, which CPython's tracemalloc does not survive while it stops
        # (gh-128679; without us in the process too).
        "while _native.statistics()['windows'] == 0: time.sleep(0.001)\n"
        "end = time.monotonic() + 2\n"
        "while time.monotonic() < end:\n"
        "    for _ in range(200):\n"
        "        tracemalloc.start(); [object() for _ in range(20)]; tracemalloc.stop()\n"
        "    time.sleep(0.001)\n"
        "print('fine')\n"
    )
    assert (result.returncode, result.stdout) == (0, "fine\n"), result.stderr


def test_hooks_come_and_go_with_windows_where_the_interpreter_has_a_lock_on_its_allocators_and_else_stay() -> None:
    """3.11 has none, and a tool that started in the middle of an exchange would save half of one pointer and half of
    another: seen in Debian's build, whose PyMem_GetAllocator() copies four bytes at a time."""
    result = run_python(
        "import ctypes, threading, time\n"
        "from glassbottom import _native\n"
        "def on_top(domain, read=ctypes.pythonapi.PyMem_GetAllocator):\n"
        "    allocator = (ctypes.c_void_p * 5)(); read(domain, allocator); return tuple(allocator)\n"
        "mem, obj = 1, 2\n"
        "before = on_top(mem), on_top(obj)\n"
        "_native.start(interval_bytes=4096, window_share=0.5, window_ms=5)\n"
        "threading.Thread(target=_native.run_windows, args=(3600.0,), daemon=True).start()\n"
        "seen = set()\n"
        "end = time.monotonic() + 3\n"
        "while time.monotonic() < end and len(seen) < 2:\n"
        "    seen.add((on_top(mem), on_top(obj)) == before); time.sleep(0.001)\n"
        "print(sorted(seen))\n"
    )
    as_before = [False, True] if sys.version_info >= (3, 12) else [False]
    assert (result.returncode, result.stdout) == (0, f"{as_before}\n"), result.stderr


def test_an_interpreter_that_ends_while_sampling_ends_well() -> None:
    result = run_python(
        "import threading\n"
        "from glassbottom import _native\n"
        "_native.start(interval_bytes=4096, window_share=0.5, window_ms=1)\n"
        "threading.Thread(target=_native.run_windows, args=(3600.0,), daemon=True).start()\n"
        "class Late:\n    def __del__(self): bytes(100000); str(object())\n"
        "late = [Late() for _ in range(1000)]; late.append(late)\n"
        "print(len(_native.snapshot()['node']) >= 0)\n"
    )
    assert (result.returncode, result.stdout) == (0, "True\n"), result.stderr


def test_running_out_of_memory_stays_an_ordinary_error() -> None:
    with sampler(interval_bytes=4096.0), pytest.raises(MemoryError):
        bytearray(1 << 60)


def test_a_refused_growth_leaves_the_old_block_counted() -> None:
    with sampler(interval_bytes=4096.0):
        block = bytearray(1_000_000)
        with pytest.raises(MemoryError):
            block *= 1 << 40
        found = within(_native.snapshot(), "test_a_refused_growth_leaves_the_old_block_counted")
        assert sum(row.live_bytes for row in found) == pytest.approx(1_000_000, rel=0.05)


def test_the_tables_are_below_eight_mebibytes() -> None:
    assert _native.statistics()["tables_bytes"] < 8 << 20


def test_the_rows_that_changed_are_marked_and_only_they() -> None:
    def large(snapshot: dict) -> list[Row]:
        return [row for row in rows(_only_changed(snapshot)) if row.live_bytes > 900_000]

    with sampler(interval_bytes=4096.0):
        kept = [bytes(1_000_000)]
        assert len(large(_native.snapshot())) == 1
        assert large(_native.snapshot()) == []
        kept.append(bytes(1_000_000))
        assert len(large(_native.snapshot())) == 1
        kept.clear()
        _native.snapshot()
        assert large(_native.snapshot()) == []


def _only_changed(snapshot: dict) -> dict:
    """The same snapshot with the rows not marked as changed left out."""
    changed = memoryview(snapshot["changed"]).cast("B")
    result = dict(snapshot)
    for name in (
        "node",
        "live_bytes_by_node",
        "live_bytes_variance_by_node",
        "live_objects_by_node",
        "live_objects_variance_by_node",
        "alloc_bytes_by_node",
        "alloc_objects_by_node",
        "samples_by_node",
        "birth_oldest_ms",
        "birth_minutes",
    ):
        width = len(snapshot[name]) // len(changed)
        column = snapshot[name]
        result[name] = b"".join(column[i * width : (i + 1) * width] for i, mark in enumerate(changed) if mark)
    return result
