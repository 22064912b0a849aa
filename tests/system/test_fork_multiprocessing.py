"""multiprocessing, by fork and by spawn, and subprocess: children report for themselves, and none hangs."""

from __future__ import annotations

import pytest

from tests.support.ingest_double import IngestDouble
from tests.support.programs import python

POOL = """
import multiprocessing, os, sys
import glassbottom
glassbottom.init(service="parent")

def work(barrier):
    glassbottom.init(service="parent")  # only a spawned child needs it
    kept = [str(number) for number in range(50_000)]
    glassbottom.snapshot()
    assert glassbottom.flush(20), glassbottom.status()
    barrier.wait(30)

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    barrier = context.Barrier(4)
    children = [context.Process(target=work, args=(barrier,)) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join(40)
    print(os.getpid(), *(child.pid for child in children))
    sys.exit(any(child.exitcode for child in children))
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_every_child_reports_under_an_instance_id_of_its_own(
    double: IngestDouble, method: str, tmp_path_factory: pytest.TempPathFactory
):
    script = tmp_path_factory.mktemp("pool") / "pool.py"
    script.write_text(POOL)
    code = f"import runpy, sys; sys.argv[0] = {str(script)!r}; runpy.run_path({str(script)!r}, run_name='__main__')"
    if method != "fork":  # children import the main module again, by its file
        code = f"import os, sys; os.execv(sys.executable, [sys.executable, {str(script)!r}, {method!r}])"
    done = python(code, double.endpoint, method)
    assert done.returncode == 0, done.stderr
    pids = {int(pid) for pid in done.stdout.split()}
    assert len(pids) == 5
    parent, *_ = done.stdout.split()
    reported = {s.hello.process.pid for s in double.sessions if s.batches}
    assert pids - {int(parent)} <= reported
    by_pid = {s.hello.process.pid: s.hello.process.instance_id for s in double.sessions}
    assert len(set(by_pid.values())) == len(by_pid)


def test_a_short_lived_forked_child_delivers_its_last_reading(double: IngestDouble):
    """multiprocessing ends its children by os._exit(), past atexit."""
    code = """
import multiprocessing, glassbottom, time
glassbottom.init(service="parent", snapshot_interval_s=3600, runtime_interval_s=3600)

def work():
    while not glassbottom.status()["connected"]:
        time.sleep(0.01)

child = multiprocessing.get_context("fork").Process(target=work)
child.start()
child.join(30)
print(child.pid, child.exitcode)
"""
    done = python(code, double.endpoint)
    pid, exit_code = (int(word) for word in done.stdout.split())
    assert exit_code == 0
    assert any(s.batches for s in double.sessions if s.hello.process.pid == pid)


def test_programs_started_as_subprocesses_neither_hang_nor_report(double: IngestDouble):
    code = """
import subprocess, sys, glassbottom
glassbottom.init(service="parent")
for _ in range(20):
    subprocess.run([sys.executable, "-S", "-c", "pass"], check=True, timeout=30)
subprocess.run([sys.executable, "-S", "-c", "pass"], check=True, timeout=30, preexec_fn=lambda: None)
assert glassbottom.snapshot() and glassbottom.flush(20)
"""
    done = python(code, double.endpoint)
    assert done.returncode == 0, done.stderr
    assert len(double.pids()) == 1
