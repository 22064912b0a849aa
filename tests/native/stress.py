"""Hits the C core from every side for a while: `make soak` runs it under ASAN and UBSAN.

python tests/native/stress.py --seconds 60

Threads allocate, grow, shrink and free across the 512-byte border; windows open and close every few milliseconds;
another thread snapshots, changes the rate, stops and starts; tracemalloc comes and goes; children are forked; code is
made and dropped. Event loops run, block, fail and are cancelled in threads that come and go, while their steps are
counted, taken and reconciled, blocks are looked into, and counting stops and starts. Last line: one JSON object with
what was done. Any report of a sanitizer ends the process.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import random
import re
import sys
import threading
import time
import tracemalloc

from glassbottom import _native


class Cyclic:
    """Allocates while it is torn down, inside a collection."""

    def __init__(self) -> None:
        self.me = self

    def __del__(self) -> None:
        bytes(700)
        str(object())


def churn(stop: threading.Event, seed: int, counts: list[int]) -> None:
    rng = random.Random(seed)
    kept: list[object] = []
    while not stop.is_set():
        for _ in range(300):
            kind = rng.randrange(8)
            size = rng.choice((1, 16, 100, 500, 512, 513, 2000, 50_000))
            if kind == 0:
                kept.append(bytes(size))
            elif kind == 1:
                block = bytearray(size)
                block.extend(bytes(rng.randrange(2000)))
                del block[rng.randrange(len(block)) :]
                kept.append(block)
            elif kind == 2:
                kept.append({i: str(i) for i in range(size % 70)})
            elif kind == 3:
                kept.append([None] * (size % 900))
            elif kind == 4:
                Cyclic()
            elif kind == 5:
                kept.append("ü" * size)
            elif kind == 6 and kept:
                kept[rng.randrange(len(kept))] = None
            else:
                scope: dict[str, object] = {}
                exec(f"def f{rng.randrange(50)}(k): k.append(bytes({size}))", scope)
                next(value for name, value in scope.items() if name.startswith("f"))(kept)  # type: ignore[operator]
        counts[0] += 300
        if len(kept) > 4000:
            del kept[: rng.randrange(4000)]


def schedule(stop: threading.Event) -> None:
    _native.exclude_thread()
    while not stop.is_set():
        _native.run_windows(0.5)
        time.sleep(0.001)


async def step(rng: random.Random, depth: int) -> int:
    """Does one of everything a coroutine can do, and sometimes a little of it for too long."""
    what = rng.randrange(14)
    if what < 3:
        await asyncio.sleep(0)
    elif what == 3:
        await asyncio.sleep(rng.random() * 0.005)
    elif what == 4:
        time.sleep(rng.random() * 0.01)
    elif what == 5:
        re.match(r"(a+)+$", "a" * rng.randrange(17) + "b")
    elif what == 6:
        raise ValueError(what)
    elif what == 7:
        raise asyncio.CancelledError
    elif what == 8:
        scope: dict[str, object] = {}
        exec(f"async def made{rng.randrange(3000)}(): return 1", scope)
        await asyncio.create_task(next(v for k, v in scope.items() if k.startswith("made"))())  # type: ignore[operator]
    elif what == 9:
        await asyncio.get_running_loop().create_future()
    elif what == 10:
        step(rng, depth).close()
    elif what == 11:
        async with asyncio.timeout(0.001):
            await asyncio.sleep(1)
    elif what == 12:
        gc.collect(0)
    elif depth:
        await step(rng, depth - 1)
    return what


async def tasks(rng: random.Random) -> None:
    if sys.version_info >= (3, 12) and rng.randrange(2):
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
    started = [asyncio.create_task(step(rng, 3)) for _ in range(rng.randrange(60))]
    await asyncio.sleep(0)
    for task in started:
        if rng.randrange(3) == 0:
            task.cancel()
        elif rng.randrange(20) == 0:
            task.get_coro().close() if not task.done() and rng.randrange(2) else None
    await asyncio.wait([*started, asyncio.create_task(asyncio.sleep(0))], timeout=0.02)
    for task in started:
        task.cancel()
    await asyncio.gather(*started, return_exceptions=True)


def run_loops(stop: threading.Event, seed: int, done: list[int]) -> None:
    rng = random.Random(seed)
    while not stop.is_set():
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda _loop, _context: None)
        with contextlib.suppress(asyncio.CancelledError, ValueError, TimeoutError, RuntimeError):
            loop.run_until_complete(tasks(rng))
        loop.close()
        done[0] += 1


def many_threads(stop: threading.Event, seed: int, done: list[int]) -> None:
    """Threads with loops that live for a moment each."""
    while not stop.is_set():
        now = threading.Event()
        thread = threading.Thread(target=run_loops, args=(now, seed := seed + 1, done))
        thread.start()
        time.sleep(0.02)
        now.set()
        thread.join()


def look(stop: threading.Event, run_it: object) -> None:
    while not stop.is_set():
        with contextlib.suppress(RuntimeError):  # the other thread is in it
            run_it(0.05)  # type: ignore[operator]


def read_steps(rng: random.Random) -> None:
    what = rng.randrange(8)
    if what == 0:
        for row in _native.steps_take():
            str(row[0].co_qualname)
    elif what == 1:
        for block in _native.blocks_take():
            for code, offset in block[4]:
                str((code.co_name, offset))
    elif what == 2:
        live = [o for o in gc.get_objects() if asyncio.iscoroutine(o)] if rng.randrange(10) == 0 else []
        for coroutine in live:
            _native.steps_of(coroutine)
        _native.steps_reconcile(live)
    elif what == 3:
        for _, code, _ in _native.steps_running():
            str(code)
    elif what == 4:
        _native.steps_loops()
    elif what == 5:
        _native.set_clock(blocked_ms=rng.choice((1.0, 5.0, 100.0)), sample_hz=rng.choice((0.0, 19.0, 100.0)))
    elif what == 6:
        _native.clock_interrupt()
    elif rng.randrange(5) == 0:
        _native.steps_stop()
        _native.steps_take()
        _native.steps_start()


def fork_once() -> None:
    pid = os.fork()
    if pid == 0:
        _native.steps_start()
        asyncio.run(asyncio.sleep(0.001))
        _native.steps_take()
        _native.start(interval_bytes=4096.0, window_share=0.5, window_ms=1.0)
        kept = [bytes(size) for size in (40, 600, 9000) * 100]
        _native.snapshot()
        del kept
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    if status != 0:
        raise SystemExit(f"a forked child ended with status {status}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    stop = threading.Event()
    counts = [0]
    done = {"snapshots": 0, "restarts": 0, "forks": 0, "tracemalloc": 0, "rate_changes": 0}

    def start() -> None:
        _native.start(interval_bytes=4096.0, window_share=0.5, window_ms=1.0, seed=rng.randrange(1 << 60))

    start()
    threads = [threading.Thread(target=churn, args=(stop, i, counts)) for i in range(4)]
    threads.append(threading.Thread(target=schedule, args=(stop,)))
    _native.steps_start()
    loops = [0]
    threads += [threading.Thread(target=run_loops, args=(stop, 100 + i, loops)) for i in range(2)]
    threads.append(threading.Thread(target=many_threads, args=(stop, 1000, loops)))
    threads += [threading.Thread(target=look, args=(stop, run)) for run in (_native.run_watchdog, _native.run_clock)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + arguments.seconds
    while time.monotonic() < end:
        read_steps(rng)
        what = rng.randrange(100)
        if what < 50:
            try:
                snapshot = _native.snapshot()
            except RuntimeError:  # restarted meanwhile, as its message says
                snapshot = None
            if snapshot is not None:
                for node in memoryview(snapshot["node"]).cast("I"):
                    try:
                        _native.stack(node)
                    except KeyError:  # of an epoch that has ended
                        break
            done["snapshots"] += 1
        elif what < 70:
            _native.set_rate(
                interval_bytes=rng.choice((4096.0, 16384.0, 65536.0)), window_share=rng.choice((0.1, 0.5, 1.0))
            )
            done["rate_changes"] += 1
        elif what < 80:
            _native.release_unused()
        elif what < 88:
            _native.stop()
            start()
            done["restarts"] += 1
        elif what < 94:
            tracemalloc.start(2)
            time.sleep(0.01)
            tracemalloc.stop()
            done["tracemalloc"] += 1
        elif what < 97:
            fork_once()
            done["forks"] += 1
        else:
            gc.collect()
        time.sleep(0.002)
    stop.set()
    _native.interrupt()
    _native.clock_interrupt()
    for thread in threads:
        thread.join()
    steps = _native.steps_statistics()["steps"]
    blocks = _native.clock_statistics()["blocks"]
    _native.steps_stop()
    _native.steps_take()
    gc.collect()
    final = _native.statistics()
    _native.stop()
    print(
        json.dumps(
            {
                "ok": True,
                "operations": counts[0],
                **done,
                "samples": final["samples"],
                "loops": loops[0],
                "steps": steps,
                "blocks": blocks,
            }
        )
    )


main()
