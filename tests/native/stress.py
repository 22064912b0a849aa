"""Hits the C core from every side for a while: `make soak` runs it under ASAN and UBSAN.

python tests/native/stress.py --seconds 60

Threads allocate, grow, shrink and free across the 512-byte border; windows open and close every few milliseconds;
another thread snapshots, changes the rate, stops and starts; tracemalloc comes and goes; children are forked; code is
made and dropped. Last line: one JSON object with what was done. Any report of a sanitizer ends the process.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
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


def fork_once() -> None:
    pid = os.fork()
    if pid == 0:
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
    for thread in threads:
        thread.start()
    end = time.monotonic() + arguments.seconds
    while time.monotonic() < end:
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
    for thread in threads:
        thread.join()
    gc.collect()
    final = _native.statistics()
    _native.stop()
    print(json.dumps({"ok": True, "operations": counts[0], **done, "samples": final["samples"]}))


main()
