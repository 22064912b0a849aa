"""`glassbottom demo`: the real service, the real collector, and a verdict that agrees with the truth."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.collector_process import python_environment

pytestmark = pytest.mark.once

SECONDS = 75


@contextmanager
def demo(scratch: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The demonstration as a process, with its temporary files below a directory of the test's."""
    running = subprocess.Popen(
        [sys.executable, "-m", "glassbottom_collector.cli", "demo", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=python_environment({"TMPDIR": str(scratch)}),
    )
    with running:
        try:
            yield running
        finally:
            running.kill()


def left_behind(scratch: Path) -> list[str]:
    """Files of the demonstration, and processes that work in its directory."""
    processes = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            told = (process / "cmdline").read_text() + str((process / "cwd").readlink())
        except OSError:
            continue  # it has just ended, or is not ours
        if str(scratch) in told and int(process.name) != os.getpid():
            processes.append(f"{process.name} {told}")
    return [*processes, *map(str, scratch.iterdir())]


def test_the_verdict_agrees_with_the_truth_and_nothing_stays_behind(tmp_path: Path) -> None:
    """The leaking line first, its rate within 20 % of the true one, objects by type, the healthy cache not accused."""
    with demo(tmp_path, "--seconds", str(SECONDS)) as running:
        told, progress = running.communicate(timeout=100)

    assert running.returncode == 0, told + progress
    table = told.splitlines()
    assert table[0].startswith("VERDICT")
    assert table[1].startswith("leak ")
    assert "shop.py" in table[1]
    assert told.count("  right  ") == 5
    assert "glassbottom top --addr" in told
    assert f"of {SECONDS}: " in progress
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_ending_it_early_ends_everything_it_started(tmp_path: Path, how: signal.Signals) -> None:
    with demo(tmp_path, "--seconds", "600") as running:
        assert running.stderr is not None
        while "one session holds" not in (line := running.stderr.readline()):
            assert line, "the demonstration ended before it began"
        running.send_signal(how)
        _, rest = running.communicate(timeout=60)

    assert running.returncode == 130, rest
    assert "everything that was started is stopped" in rest
    assert "Traceback" not in rest
    assert left_behind(tmp_path) == []


def test_too_short_a_run_is_refused_with_the_reason(tmp_path: Path) -> None:
    with demo(tmp_path, "--seconds", "5") as running:
        told, message = running.communicate(timeout=30)

    assert running.returncode == 2
    assert told == ""
    assert "too few snapshots" in message


def test_a_shop_that_dies_is_told_with_its_own_last_words(tmp_path: Path) -> None:
    with demo(tmp_path, "--seconds", "600") as running:
        assert running.stderr is not None
        while "one session holds" not in (line := running.stderr.readline()):
            assert line, "the demonstration ended before it began"
        (shop,) = [entry for entry in left_behind(tmp_path) if "uvicorn" in entry]
        os.kill(int(shop.partition(" ")[0]), signal.SIGKILL)
        _, rest = running.communicate(timeout=60)

    assert running.returncode == 1, rest
    assert "The shop ended with code -9" in rest
    assert "Traceback" not in rest
    assert left_behind(tmp_path) == []
