"""kill -USR2: asks the collector to capture the incident, where nobody else uses the signal, and harms nobody."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

import pytest

from tests.support.ingest_double import IngestDouble
from tests.support.programs import environment, python, server

WATCHED = """
import glassbottom, json, signal, sys
glassbottom.init(service="signalled")
print(json.dumps(glassbottom.status()["incident_signal"]), file=sys.stderr, flush=True)
for line in sys.stdin:
    if line.strip() == "take":
        signal.signal(signal.SIGUSR2, lambda *_: print("taken", file=sys.stderr, flush=True))
    print(json.dumps(glassbottom.status()["incident_signal"]), file=sys.stderr, flush=True)
    print("calls", glassbottom.status()["statistics"]["incident_calls_unsent_total"], file=sys.stderr, flush=True)
"""


@pytest.fixture
def double() -> Iterator[IngestDouble]:
    with IngestDouble() as double:
        yield double


def test_the_collector_is_asked_once_a_minute(double: IngestDouble):
    with server([sys.executable, "-c", WATCHED], environment(double.endpoint), subprocess.PIPE) as program:
        assert program.wait_for_line("state")[0]
        assert program.lines[0] == '{"state": "running", "reason": ""}\n'
        double.wait_for(lambda: bool(double.heartbeats()))
        began_ns = time.time_ns()
        program.process.send_signal(signal.SIGUSR2)
        double.wait_for(lambda: bool(double.calls()))
        (call,) = double.calls()
        assert call.reason == "SIGUSR2"
        assert began_ns - 10**9 <= call.at_ns <= time.time_ns()
        program.wait_for_line("the collector is asked to capture this incident")
        program.process.send_signal(signal.SIGUSR2)
        program.wait_for_line("passed on once in 60 s; this one is not")
        assert len(double.calls()) == 1
        tell(program, "take")
        program.wait_for_line("The application has taken SIGUSR2 since")
        program.process.send_signal(signal.SIGUSR2)
        program.wait_for_line("taken")
        program.process.stdin.close()  # type: ignore[union-attr]
        assert program.process.wait(20) == 0


def tell(program: object, word: str) -> None:
    stdin = program.process.stdin  # type: ignore[attr-defined]
    stdin.write(f"{word}\n")
    stdin.flush()


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        ("signal.signal(signal.SIGUSR2, lambda *_: None)", "SIGUSR2 was in use before the agent came."),
        ("signal.signal(signal.SIGUSR2, signal.SIG_IGN)", "This process ignores SIGUSR2."),
        ("faulthandler.register(signal.SIGUSR2)", "SIGUSR2 was in use before the agent came."),
    ],
)
def test_a_signal_that_is_in_use_is_left_alone(before: str, reason: str):
    code = f"""
import faulthandler, glassbottom, signal
{before}
found = signal.getsignal(signal.SIGUSR2)
glassbottom.init(service="x", connect_delay_s=60)
assert signal.getsignal(signal.SIGUSR2) is found
assert glassbottom.status()["incident_signal"] == {{"state": "refused", "reason": {reason!r}}}
glassbottom.shutdown()
assert signal.getsignal(signal.SIGUSR2) is found
"""
    done = python(code, "127.0.0.1:1")
    assert done.returncode == 0, done.stderr


def test_in_another_thread_or_turned_off_it_is_not_taken_and_at_the_end_it_is_given_back():
    code = """
import glassbottom, signal, threading
thread = threading.Thread(target=lambda: glassbottom.init(service="x", connect_delay_s=60))
thread.start(); thread.join()
assert "main thread" in glassbottom.status()["incident_signal"]["reason"]
glassbottom.shutdown()
glassbottom.init(service="x", connect_delay_s=60, incident_signal="")
assert glassbottom.status()["incident_signal"]["state"] == "off"
assert signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL
glassbottom.shutdown()
glassbottom.init(service="x", connect_delay_s=60)
assert glassbottom.status()["incident_signal"]["state"] == "running"
glassbottom.shutdown()
assert signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL
"""
    done = python(code, "127.0.0.1:1")
    assert done.returncode == 0, done.stderr


def test_a_forked_child_asks_for_itself(double: IngestDouble):
    code = """
import glassbottom, os, signal, sys, time
glassbottom.init(service="x")
pid = os.fork()
if pid == 0:
    os.kill(os.getpid(), signal.SIGUSR2)
    deadline = time.monotonic() + 30
    while not glassbottom.status()["statistics"]["incident_calls_total"] and time.monotonic() < deadline:
        glassbottom.flush(1)
    # What is acknowledged now was sent after the call.
    os._exit(0 if glassbottom.snapshot() and glassbottom.flush(30) else 1)
assert os.waitpid(pid, 0)[1] == 0
assert glassbottom.status()["statistics"]["incident_signals_total"] == 0
print(pid)
"""
    done = python(code, double.endpoint, PYTHONWARNINGS="ignore")
    assert done.returncode == 0, done.stderr
    double.wait_for(lambda: bool(double.calls()))
    (session,) = (session for session in double.sessions if session.calls)
    assert session.hello.process.pid == int(done.stdout)


def test_a_worker_of_gunicorn_asks_and_goes_on_serving(double: IngestDouble):
    command = [sys.executable, "-m", "gunicorn", "--workers", "1", "--bind", "127.0.0.1:0"]
    with server([*command, "tests.apps.preloaded_wsgi:app"], environment(double.endpoint)) as gunicorn:
        port = gunicorn.wait_for_line(r"Listening at: http://127\.0\.0\.1:(\d+)")[1]
        double.wait_for(lambda: bool(double.heartbeats()))
        (worker,) = double.pids()
        assert worker != gunicorn.process.pid
        os.kill(worker, signal.SIGUSR2)
        double.wait_for(lambda: bool(double.calls()))
        for _ in range(5):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
                assert int(answer.read()) == worker
    assert gunicorn.process.returncode == 0


def test_the_master_of_gunicorn_keeps_the_signal_for_itself_though_it_preloads(double: IngestDouble):
    command = [sys.executable, "-m", "gunicorn", "--preload", "--workers", "1", "--bind", "127.0.0.1:0"]
    with server([*command, "tests.apps.preloaded_wsgi:app"], environment(double.endpoint)) as gunicorn:
        gunicorn.wait_for_line(r"Listening at: http://127\.0\.0\.1:(\d+)")
        double.wait_for(lambda: len(double.pids()) == 2)
        gunicorn.process.send_signal(signal.SIGUSR2)
        gunicorn.wait_for_line("Handling signal: usr2")
        # It starts another master, whose agent says hello; with a worker of its own.
        double.wait_for(lambda: len(double.pids()) >= 4)
        assert not double.calls()
        masters = {int(s.hello.process.attributes["process.parent_pid"]) for s in double.sessions}
        (other,) = {s.hello.process.pid for s in double.sessions} & masters - {gunicorn.process.pid}
        os.kill(other, signal.SIGTERM)
