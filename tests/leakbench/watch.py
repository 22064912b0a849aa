"""One case, live: its variants side by side, each in a process of its own with the real agent, and one collector."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from glassbottom.wire.v1 import control_pb2, control_pb2_grpc, ingest_pb2, query_pb2

from tests.leakbench import environments
from tests.leakbench.answers import ANSWERS_AT_LOOK_MAX, ANSWERS_MAX, found_in, look_of
from tests.leakbench.case import LEAKY, NATIVE, ROOT, Loaded
from tests.leakbench.drive import READY
from tests.leakbench.score import NO_DUMP, Look, Run
from tests.support.collector_process import collector_process, python_environment
from tests.support.leak_questions import ask, connected, question, settle

LOOK_EVERY_S = 5.0
STORE_MAX = "256MiB"


@dataclass(frozen=True)
class Pace:
    """How long a case runs, the seconds between readings, the bytes per sample, and whether its heap is dumped at the
    end, so that the verdict knows the holder."""

    seconds: float
    snapshot_s: float = 0.5
    interval_bytes: int = 8192
    dump: bool = False


def run_case(loaded: Loaded, pace: Pace, data: Path | None = None) -> tuple[dict[str, Run], float]:
    """Runs all variants of a case side by side; its runs by variant, and the bytes that really stay per operation.

    data: where the collector stores, and what it has stored remains; by default it is deleted.
    """
    truth = measure(loaded, LEAKY) if loaded.case.leaks else {}
    variants = loaded.case.variants
    with (
        collector_process(data, arguments=["--max-bytes", STORE_MAX]) as collector,
        ThreadPoolExecutor(len(variants)) as pool,
    ):
        watched = pool.map(lambda variant: _watch(loaded, variant, collector.address, pace), variants)
        runs = {run.variant: run for run in watched}
    return runs, true_bytes_of(loaded, truth)


def true_bytes_of(loaded: Loaded, truth: dict[str, Any]) -> float:
    """What stays per operation, of a measurement: resident memory where Python's own does not show it."""
    name = "rss_bytes_per_operation" if loaded.case.kinds[0] == NATIVE else "bytes_per_operation"
    return float(truth.get(name, 0.0))


def measure(loaded: Loaded, variant: str, *more: str) -> dict[str, Any]:
    """What stays per operation, by the driver's `measure`. more: of its options. Raises RuntimeError."""
    command = _command(loaded, variant, "measure", *more)
    done = subprocess.run(
        command, capture_output=True, text=True, env=_environment(), timeout=600, check=False, cwd=ROOT
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"what"')]
    if not lines:
        raise RuntimeError(f"{loaded.case.id} {variant} could not be measured:\n{done.stderr[-2000:]}")
    return dict(lines[-1])


def _command(loaded: Loaded, variant: str, mode: str, *more: str) -> list[str]:
    python = environments.python_of(loaded.case.environment(variant))
    return [str(python), "-m", "tests.leakbench.drive", mode, loaded.module, "--variant", variant, *more]


def _environment() -> dict[str, str]:
    return python_environment({"PYTHONDONTWRITEBYTECODE": "1", "MPLBACKEND": "Agg"})


class _Driven:
    """The driver's process: its last report, and its stderr for when it fails."""

    def __init__(self, command: Sequence[str]) -> None:
        self.ready = threading.Event()
        self.over = threading.Event()
        self.last: dict[str, Any] = {}
        self.errors: list[str] = []
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=_environment(),
            cwd=ROOT,
        )
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._read, self._read_errors)]
        for thread in self._threads:
            thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith('{"what"'):
                told = json.loads(line)
                self.last = {**self.last, **told}
                if told["what"] == READY:
                    self.ready.set()
                elif told["what"] == "done":
                    self.over.set()
        self.ready.set()
        self.over.set()

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.errors = [*self.errors[-40:], line.rstrip()]

    @property
    def failed(self) -> str:
        """Why it ended before its time, or ""."""
        if self.last.get("what") == "done":
            return ""
        return f"the driver ended early: {' | '.join(self.errors[-3:])}"

    def end(self) -> None:
        """Lets it go."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(20)


def _watch(loaded: Loaded, variant: str, address: str, pace: Pace) -> Run:
    case = loaded.case
    service = f"{case.id.lower()}-{variant}"
    options = ["--service", service, "--endpoint", address, "--seconds", str(pace.seconds)]
    options += ["--snapshot-s", str(pace.snapshot_s), "--interval-bytes", str(pace.interval_bytes)]
    driven = _Driven(_command(loaded, variant, "watch", *options))
    began_ns = ended_ns = time.time_ns()
    looks: list[Look] = []
    last: query_pb2.LeakReport | None = None
    more: tuple[str, ...] = ()
    try:
        driven.ready.wait(120)
        started = time.monotonic()
        with connected(address) as query:
            while not driven.over.wait(LOOK_EVERY_S):
                asked_s, ended_ns = time.monotonic() - started, time.time_ns()
                last = ask(query, question(service, began_ns, ended_ns, ANSWERS_AT_LOOK_MAX))
                looks.append(look_of(last, round(asked_s, 1), ended_ns))
            if not driven.failed:
                # What comes later is a process at rest, and would look as if its growth had ended.
                ended_ns = int(driven.last["at_ns"])
                settle(address, service)
                last = ask(query, question(service, began_ns, ended_ns, ANSWERS_MAX))
                looks.append(look_of(last, round(float(driven.last["seconds"]), 1), ended_ns))
                if pace.dump and case.holder and variant == LEAKY:
                    more = _dump(address, service)
                    last = ask(query, question(service, began_ns, ended_ns, ANSWERS_MAX))
    finally:
        driven.end()
    return Run(
        variant=variant,
        service=service,
        began_ns=began_ns,
        ended_ns=ended_ns,
        findings=found_in(last) if last is not None else (),
        operations=int(driven.last.get("operations", 0)),
        seconds=float(driven.last.get("seconds", 0.0)),
        looks=tuple(looks),
        notes=(*(last.notes if last is not None else ()), *more),
        error=driven.failed,
    )


def _dump(address: str, service: str) -> tuple[str, ...]:
    """Has the process's heap dumped, so that holders are known; a sentence when that was not possible."""
    request = control_pb2.CaptureRequest(service=service, kind=ingest_pb2.COMMAND_KIND_DUMP_HEAP, lease_seconds=60)
    record = None
    with grpc.insecure_channel(address) as channel:
        try:
            for response in control_pb2_grpc.ControlServiceStub(channel).Capture(request, timeout=90):
                record = response.record
        except grpc.RpcError as error:
            return (f"{NO_DUMP}{error.details()}",)
    if record is None or record.state != control_pb2.CAPTURE_STATE_STORED:
        return (f"{NO_DUMP}{record.reason if record is not None else 'no answer'}",)
    return ()
