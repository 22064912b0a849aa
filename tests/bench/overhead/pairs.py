"""The method: two processes on one core, in turn for 15 to 20 ms each, their operations read at every switch.

A machine's speed drifts by more than what we measure, but hardly within 40 ms: a pair that alternates faster than the
drift sees the same machine. A B B A order cancels what is linear in it, slices of random length keep it from running
in step with any timer of the workload. See docs/benchmarks/overhead.md for what this charges to the agent and what not.

This module starts, slices and reads; it does not know what the processes do, nor what a good figure is.
"""

import contextlib
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.bench.overhead.builds import ROOT, BenchError, Build
from tests.bench.overhead.workloads import BUCKET_US, Page

SLICE_MS = 17.5
SLICE_SPREAD = 1 / 7  # slices last SLICE_MS give or take this share: 15 to 20 ms
READY_TIMEOUT_S = 120.0
FAREWELL_TIMEOUT_S = 20.0


@dataclasses.dataclass(frozen=True)
class Cores:
    """Which core the pair shares, and which one everything else has."""

    measured: int
    other: int

    @classmethod
    def choose(cls) -> "Cores":
        """Raises BenchError on a machine with a single core."""
        usable = sorted(os.sched_getaffinity(0))
        if len(usable) < 2:
            raise BenchError("The benchmark needs two cores: one for the pair, one for everything that watches it.")
        return cls(measured=usable[-1], other=usable[0])


class Workload:
    """One process of a pair: running, or stopped by SIGSTOP."""

    def __init__(
        self, build: Build, workload: str, peer: str, options: Mapping[str, Any], core: int, scratch: Path
    ) -> None:
        self.peer = peer
        self.scratch = Path(tempfile.mkdtemp(prefix=f"{workload}-{peer}-", dir=scratch))
        self.page_path = self.scratch / "page"
        self.page = Page(self.page_path, create=True)
        self._errors = (self.scratch / "stderr").open("w+")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        # The same hashes in both; addresses stay random, so that the luck of one layout averages out over runs.
        environment |= {"PYTHONHASHSEED": "0", **options.get("environment", {})}
        command = [str(build.python), "-m", "tests.bench.overhead.workloads", workload, "--page", str(self.page_path)]
        self.process = subprocess.Popen(
            [*command, "--peer", peer, "--options", json.dumps({"scratch": str(self.scratch), **options})],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._errors,
            stderr=self._errors,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),  # every thread it ever starts inherits this
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_ready(self) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not self.page.ready:
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.fail("did not become ready")
            time.sleep(0.01)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def stop(self) -> None:
        """Returns when every thread of the process stands still. Raises BenchError when it has died."""
        os.kill(self.pid, signal.SIGSTOP)
        state = os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED)
        if state is None or state.si_code != os.CLD_STOPPED:
            self.fail("ended while it was measured")

    def cpu_ns(self) -> int:
        """CPU time of the whole process, all threads, also those that ended (CPUCLOCK_SCHED of the pid)."""
        return time.clock_gettime_ns((~self.pid << 3) | 2)

    @property
    def threads(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/task"))

    def main_thread_cpu_ns(self) -> int:
        return int(Path(f"/proc/{self.pid}/task/{self.pid}/schedstat").read_text().split()[0])

    def farewell(self) -> dict[str, Any]:
        """Ends the process politely; what its peer reports about itself."""
        self.resume()
        self.process.terminate()
        report = self.page_path.with_suffix(".report.json")
        deadline = time.monotonic() + FAREWELL_TIMEOUT_S
        # A peer may take its time to shut down after the report; that is not measured and not waited for.
        while not report.exists():
            if time.monotonic() > deadline or (self.process.poll() is not None and not report.exists()):
                self.fail("gave no report when asked to end")
            time.sleep(0.01)
        told: dict[str, Any] = json.loads(report.read_text())
        return told

    def close(self) -> None:
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
                self.resume()
            with contextlib.suppress(ChildProcessError):
                self.process.wait()
        self._errors.close()

    def fail(self, what: str) -> None:
        self._errors.flush()
        tail = (self.scratch / "stderr").read_text(errors="replace").strip().splitlines()[-15:]
        print(*tail, sep="\n", file=sys.stderr)
        raise BenchError(f"The process with {self.peer} {what}: {tail[-1] if tail else 'it said nothing'}")


@dataclasses.dataclass(frozen=True)
class Side:
    """One process of a pair over a whole run."""

    operations: int
    wall_ns: int  # of its own slices
    cpu_ns: int  # of all threads
    main_thread_cpu_ns: int  # the rest is what the peer's own threads took
    latencies: list[int]  # requests by latency, see Page.latencies(); all zero where there are none

    def percentile_us(self, share: float) -> float:
        """Latency that this share of the requests did not exceed, interpolated in its bucket; 0.0 without requests."""
        needed = share * sum(self.latencies)
        seen = 0
        for bucket, count in enumerate(self.latencies):
            if count and seen + count >= needed:
                return (bucket + (needed - seen) / count) * BUCKET_US
            seen += count
        return 0.0


@dataclasses.dataclass(frozen=True)
class Pair:
    """Result of one run. Ratios are speed without / with: 1.01 says the instrumented process is 1 % slower."""

    plain: Side
    instrumented: Side
    slices: int

    @property
    def ratio(self) -> float:
        """Operations per second of own slices."""
        return ratio(self.plain.operations, self.plain.wall_ns, self.instrumented.operations, self.instrumented.wall_ns)

    @property
    def ratio_cpu(self) -> float:
        """Operations per second of own CPU time: blind to foreign load on the core, and to waiting."""
        return ratio(self.plain.operations, self.plain.cpu_ns, self.instrumented.operations, self.instrumented.cpu_ns)

    def ratio_steady(self, background: float) -> float:
        """What a process pays that nobody stops: its main thread's CPU time per operation, and its other threads.

        background: share of a core that the peer's own threads take, measured while the process runs undisturbed. In
        slices they take more: SIGSTOP and SIGCONT wake every thread of the process each time, and timers run by the
        wall, which passes twice as fast as the process's own time.
        """
        main_thread = ratio(
            self.plain.operations,
            self.plain.main_thread_cpu_ns,
            self.instrumented.operations,
            self.instrumented.main_thread_cpu_ns,
        )
        return main_thread / (1 - background)


def background_share(workload: Workload, seconds: float) -> float:
    """Share of a core that the threads beside the main one take while the process, which stands still, runs alone."""
    if workload.threads == 1:
        return 0.0
    taken = workload.main_thread_cpu_ns() - workload.cpu_ns()
    start = time.monotonic_ns()
    workload.resume()
    time.sleep(seconds)
    workload.stop()
    elapsed = time.monotonic_ns() - start
    taken += workload.cpu_ns() - workload.main_thread_cpu_ns()
    return taken / elapsed


def ratio(operations_plain: int, ns_plain: int, operations_instrumented: int, ns_instrumented: int) -> float:
    if operations_instrumented == 0 or operations_plain == 0:
        raise BenchError("A process of the pair did no operation in its slices: run longer (--seconds).")
    return (operations_plain / ns_plain) / (operations_instrumented / ns_instrumented)


@contextlib.contextmanager
def pair(
    build: Build, workload: str, peer: str, options: Mapping[str, Any], cores: Cores, scratch: Path
) -> Iterator[tuple[Workload, Workload]]:
    """Starts a plain and an instrumented process and hands them over stopped; ends whatever is left of them."""
    with contextlib.ExitStack() as stack:
        sides = []
        for name, own in (("null", {**options, "environment": {}}), (peer, options)):
            side = Workload(build, workload, name, own, cores.measured, scratch)
            stack.callback(side.close)
            sides.append(side)
        for side in sides:
            side.wait_ready()
            side.stop()
        yield sides[0], sides[1]


def slice_by_turns(
    plain: Workload, instrumented: Workload, seconds: float, dice: random.Random, slice_ms: float = SLICE_MS
) -> Pair:
    """Lets both, which stand still, run in turn for that long together; they stand still again afterwards."""
    sides = (plain, instrumented)
    operations = [-side.page.operations for side in sides]
    cpu = [-side.cpu_ns() for side in sides]
    main_cpu = [-side.main_thread_cpu_ns() for side in sides]
    latencies = [side.page.latencies() for side in sides]
    wall = [0, 0]
    slices = 0
    end = time.monotonic() + seconds
    order = (0, 1)
    while time.monotonic() < end:
        for turn in order:
            side = sides[turn]
            length = slice_ms * dice.uniform(1 - SLICE_SPREAD, 1 + SLICE_SPREAD) / 1e3
            start = time.monotonic_ns()
            side.resume()
            time.sleep(length)
            side.stop()
            wall[turn] += time.monotonic_ns() - start
            slices += 1
        order = order[::-1]
    for i, side in enumerate(sides):
        operations[i] += side.page.operations
        cpu[i] += side.cpu_ns()
        main_cpu[i] += side.main_thread_cpu_ns()
        latencies[i] = [now - then for now, then in zip(side.page.latencies(), latencies[i], strict=True)]
    columns = zip(operations, wall, cpu, main_cpu, latencies, strict=True)
    plain_side, instrumented_side = (Side(*values) for values in columns)
    return Pair(plain_side, instrumented_side, slices)
