"""One tiny program per mistake, run as a real process under asyncio and uvloop: the command line names each with its
line, and finds nothing in a healthy one."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from glassbottom_collector.cli import main

from tests.support.collector_process import collector_process
from tests.support.programs import environment

PROGRAMS = Path(__file__).resolve().parents[1] / "apps" / "behaviours"
KINDS = {
    "task_leak": "task.leak",
    "stuck_lock": "task.stuck",
    "never_ended_span": "span.never_ended",
    "thread_leak": "thread.leak",
    "fd_leak": "fd.leak",
    "blocked_sleep": "loop.blocked",
    "blocked_regex": "loop.blocked",
    "blocked_native": "loop.blocked",
    "spinning": "task.spinning",
    "gc_thrash": "gc.thrash",
}
"""What must be found in each; those that need the processor come last, so that they meet fewest others."""
LOOPS = ("asyncio", "uvloop")
QUICK = {
    "GLASSBOTTOM_ASYNCIO_INTERVAL_S": "0.25",
    "GLASSBOTTOM_SPANS_INTERVAL_S": "0.25",
    "GLASSBOTTOM_RUNTIME_INTERVAL_S": "0.25",
    "GLASSBOTTOM_STUCK_S": "1",
    "GLASSBOTTOM_OPEN_SPAN_S": "1",
    "GLASSBOTTOM_CONNECT_DELAY_S": "0",
}
AT_ONCE = 6
POLL_S = 1.0
FOUND_WITHIN_S = 50.0
HEALTHY_S = 8.0

pytestmark = pytest.mark.once


@dataclass
class Run:
    """What the command line said of a program: the exit code and document of each verb asked, while it ran."""

    codes: dict[str, int] = field(default_factory=dict)
    documents: dict[str, Any] = field(default_factory=dict)
    output: str = ""

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        return [each for each in self.documents.get("findings", {}).get("findings", []) if each["kind"] == kind]


class Asked:
    """The command line, asked by several threads at once: so its answers go to files."""

    def __init__(self, address: str, directory: Path) -> None:
        self._address = address
        self._directory = directory

    def __call__(self, run: Run, verb: str, service: str) -> None:
        path = self._directory / f"{service}-{verb}.json"
        line = [verb, "--addr", self._address, "--service", service, "-o", "json", "--output", str(path)]
        run.codes[verb] = main(line)
        if run.codes[verb] in (0, 3):
            run.documents[verb] = json.loads(path.read_text())


def is_found(program: str, run: Run) -> bool:
    places = [each["frame"] for each in run.of_kind(KINDS[program]) if each["frame"]]
    wanted = (f"{program}.py", line_found(program))
    return any((Path(frame["file"]).name, frame["line"]) == wanted for frame in places)


def line_with(program: str, text: str) -> int:
    lines = (PROGRAMS / f"{program}.py").read_text().splitlines()
    (line,) = [number for number, each in enumerate(lines, 1) if text in each]
    return line


def line_found(program: str) -> int:
    """Of the bug, mostly; of a span that never ends nobody can see where it should have ended, but where it began."""
    return line_with(program, {"never_ended_span": "tracer.start_span"}.get(program, "# BUG"))


def watched(program: str, loop: str, address: str, directory: Path) -> Run:
    """Runs a program until what is wrong with it is found, a healthy one for a while."""
    service = f"{program}-{loop}"
    ask, run = Asked(address, directory), Run()
    log = directory / f"{service}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, str(PROGRAMS / f"{program}.py"), "--loop", loop],
            env=environment(address, **QUICK),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            began_s = time.monotonic()
            while process.poll() is None and time.monotonic() - began_s < FOUND_WITHIN_S:
                time.sleep(POLL_S)
                ask(run, "findings", service)
                if program == "healthy" and time.monotonic() - began_s > HEALTHY_S and "findings" in run.documents:
                    break
                if program in KINDS and is_found(program, run):
                    break
            for verb in ("tasks", "blocked"):
                ask(run, verb, service)
        finally:
            process.kill()
            process.wait(20)
    run.output = log.read_text()
    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[str, str], Run]]:
    directory = tmp_path_factory.mktemp("behaviours")
    programs = [(program, loop) for program in ("healthy", *KINDS) for loop in LOOPS]
    with collector_process() as collector, ThreadPoolExecutor(AT_ONCE) as pool:
        started = {each: pool.submit(watched, *each, collector.address, directory) for each in programs}
        yield {each: future.result() for each, future in started.items()}


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("program", KINDS)
def test_what_is_wrong_is_found_with_its_line(program: str, loop: str, runs: dict[tuple[str, str], Run]):
    run = runs[program, loop]
    assert is_found(program, run), f"{run.documents}\n{run.output}"
    assert run.codes["findings"] == 3


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("program", ["blocked_sleep", "blocked_regex", "blocked_native"])
def test_what_held_the_loop_is_shown(program: str, loop: str, runs: dict[tuple[str, str], Run]):
    run = runs[program, loop]
    assert run.codes["blocked"] == 3
    assert f'{program}.py", "line": {line_found(program)}' in json.dumps(run.documents["blocked"])


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("program", ["task_leak", "stuck_lock"])
def test_where_tasks_wait_is_shown(program: str, loop: str, runs: dict[tuple[str, str], Run]):
    (process,) = runs[program, loop].documents["tasks"]["processes"]
    innermost = [group["path"][0] for group in process["groups"] if group["state"] == "waiting" and group["path"]]
    assert (f"{program}.py", line_found(program)) in {(Path(frame["file"]).name, frame["line"]) for frame in innermost}
    (loop_shown,) = process["loops"]
    assert loop_shown["implementation"].startswith(loop)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_healthy_program_raises_nothing(loop: str, runs: dict[tuple[str, str], Run]):
    run = runs["healthy", loop]
    assert run.documents["findings"]["findings"] == [], run.output
    assert (run.codes["findings"], run.codes["tasks"]) == (0, 0)
    (process,) = run.documents["tasks"]["processes"]
    assert process["tasks"] > 10, "it was watched"
    assert process["loops"][0]["lag_max_s"] > 0
