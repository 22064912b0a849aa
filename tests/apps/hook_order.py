"""Starts and stops tools that replace allocators, in given orders, allocating all the while.

python hook_order.py '[["+us", "+tracemalloc", "-us", "-tracemalloc"], …]' SHARE

One JSON line per sequence: what the sampler says in a last run of its own, after everything allocated was freed.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
import threading
import time
import tracemalloc
from pathlib import Path

from glassbottom import _native


class Tracemalloc:
    def start(self) -> None:
        tracemalloc.start(3)

    def stop(self) -> None:
        tracemalloc.stop()


class Memray:
    def start(self) -> None:
        import memray

        self.directory = tempfile.TemporaryDirectory()
        self.tracker = memray.Tracker(Path(self.directory.name) / "out.bin", trace_python_allocators=True)
        self.tracker.__enter__()

    def stop(self) -> None:
        self.tracker.__exit__(None, None, None)


class Ddtrace:
    def start(self) -> None:
        from ddtrace.profiling.collector import _memalloc

        _memalloc.start(32, 65536, 1)

    def stop(self) -> None:
        from ddtrace.profiling.collector import _memalloc

        _memalloc.stop()


class Us:
    def __init__(self, share: float) -> None:
        self.share = share

    def start(self) -> None:
        _native.start(interval_bytes=8192.0, window_share=self.share, window_ms=2.0, seed=1)

        def schedule() -> None:
            _native.exclude_thread()
            _native.run_windows(3600.0)

        self.thread = threading.Thread(target=schedule)
        self.thread.start()

    def stop(self) -> None:
        _native.interrupt()
        self.thread.join()
        _native.stop()


def churn(kept: list[object]) -> None:
    for i in range(3000):
        kept.append({str(i): [i] * (i % 50)})
        if len(kept) > 2000:
            kept.clear()
    block = bytearray()
    for _ in range(2000):
        block.extend(b"abc" * 5)
    kept.append(block)


def main() -> None:
    sequences, share = json.loads(sys.argv[1]), float(sys.argv[2])
    tools = {"us": Us(share), "tracemalloc": Tracemalloc(), "memray": Memray(), "ddtrace": Ddtrace()}
    for sequence in sequences:
        kept: list[object] = []
        seen: dict[str, object] = {}
        for event in sequence:
            sign, tool = event[0], tools[event[1:]]
            if sign == "?":
                _native.snapshot()
                churn(kept)
                seen = dict(_native.statistics())
            else:
                tool.start() if sign == "+" else tool.stop()
            churn(kept)
            time.sleep(0.01)
            churn(kept)
        tools["us"].start()
        for _ in range(4 if share < 1 else 1):
            churn(kept)
            time.sleep(0.02)
        kept.clear()
        del kept
        gc.collect()
        _native.snapshot()
        now = _native.statistics()
        print(
            json.dumps(
                {
                    "sequence": sequence,
                    "state": now["state"],
                    "reason": now["reason"],
                    "samples": now["samples"],
                    "live_samples_after_everything_was_freed": live_of_churn(),
                    "seen": seen,
                }
            ),
            flush=True,
        )
        tools["us"].stop()


def live_of_churn() -> int:
    """Live samples whose call path passes through churn()."""
    snapshot = _native.snapshot()
    total = 0
    for node, samples in zip(
        memoryview(snapshot["node"]).cast("I"), memoryview(snapshot["samples_by_node"]).cast("I"), strict=True
    ):
        frames, _, _ = _native.stack(node)
        total += samples if any(code.co_name == "churn" for code, _ in frames) else 0
    return total


main()
