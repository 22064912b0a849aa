"""A forked child: clean, passive until started, and none of it hangs, whatever the parent's threads were doing."""

from __future__ import annotations

import subprocess
import sys
import threading

from glassbottom import _native

from tests.support.forking import in_child
from tests.support.sampling import sampler


def test_a_child_starts_clean_and_can_sample_its_own_heap() -> None:
    kept = [bytes(5000) for _ in range(10)]

    def check() -> None:
        before = _native.statistics()
        assert before["state"] == "stopped"
        assert before["samples_live"] == 0
        kept.clear()  # blocks the parent sampled are freed like any other
        _native.start(interval_bytes=4096.0, window_share=1.0)
        kept.extend(bytes(5000) for _ in range(2000))
        snapshot = _native.snapshot()
        assert abs(snapshot["live_bytes"] / (2000 * 5033) - 1) < 0.2
        _native.stop()

    with sampler(interval_bytes=4096.0, share=0.5, window_ms=1.0):
        kept.extend(bytes(5000) for _ in range(2000))
        epoch = _native.snapshot()["epoch"]
        assert in_child(check) == 0
        # The parent goes on as if nothing had been.
        after = _native.snapshot()
        assert after["epoch"] == epoch
        assert after["live_bytes"] > 1e6


def test_forking_under_load_from_eight_threads_never_hangs_a_child() -> None:
    """The spin lock and the swap of hooks are held thousands of times a second here; no child may inherit them held."""
    stop = threading.Event()

    def load() -> None:
        kept: list[object] = []
        while not stop.is_set():
            kept.extend(bytes(size) for size in (40, 600, 9000) * 50)
            if len(kept) > 3000:
                kept.clear()

    def check() -> None:
        kept = [bytes(5000) for _ in range(200)]
        _native.start(interval_bytes=4096.0, window_share=1.0)
        kept.extend(bytes(5000) for _ in range(200))
        assert _native.snapshot()["live_bytes"] > 0

    threads = [threading.Thread(target=load) for _ in range(8)]
    with sampler(interval_bytes=4096.0, share=0.5, window_ms=1.0):
        for thread in threads:
            thread.start()
        try:
            statuses = [in_child(check) for _ in range(40)]
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    assert statuses == [0] * 40


def test_a_subprocess_is_not_disturbed() -> None:
    with sampler(interval_bytes=4096.0, share=0.5, window_ms=1.0):
        result = subprocess.run([sys.executable, "-c", "print(6 * 7)"], capture_output=True, text=True, check=True)
    assert result.stdout == "42\n"
