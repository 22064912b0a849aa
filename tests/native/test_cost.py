"""What samples cost is the time they take. On a busy machine they wait as well, and that is not their cost."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
from glassbottom import _native

from tests.support.sampling import sampler

BUSY = "import sys; sys.stdout.write('.'); sys.stdout.flush()\nwhile True: pass"


def allocate(wall_s: float, waited_s: float) -> tuple[float, float]:
    """(CPU seconds of this thread, seconds waited) until both limits are passed, all but a little of it in samples."""
    began_s, cpu_began_s = time.perf_counter(), time.thread_time()
    while True:
        for _ in range(1000):
            bytes(5000)
        cpu_s = time.thread_time() - cpu_began_s
        passed_s = time.perf_counter() - began_s
        if passed_s >= wall_s and passed_s - cpu_s >= waited_s:
            return cpu_s, passed_s - cpu_s


@pytest.mark.once
def test_waiting_for_a_cpu_is_no_cost_of_sampling() -> None:
    """Two processes and one CPU. Each sample takes many times what it takes to allocate."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        with subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE) as busy:
            try:
                assert busy.stdout is not None
                busy.stdout.read(1)  # it runs
                with sampler(share=1.0, interval_bytes=4096.0):
                    cpu_s, waited_s = allocate(0.3, 0.5)
                    sampled_s = _native.statistics()["sample_ns"] / 1e9
            finally:
                busy.kill()
    finally:
        os.sched_setaffinity(0, before)
    assert 0.3 * cpu_s < sampled_s < cpu_s + 0.25 * waited_s, (sampled_s, cpu_s, waited_s)
