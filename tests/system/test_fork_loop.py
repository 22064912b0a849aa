"""os.fork() again and again, under load, with an open connection: nothing hangs, crashes or is shared."""

from __future__ import annotations

import json

from tests.support.ingest_double import IngestDouble
from tests.support.programs import python

LOOP = """
import json, os, sys, threading, time
import glassbottom
glassbottom.init(service="loop")
kept = []

def load():
    while True:
        kept.append([str(number) for number in range(1000)])
        if len(kept) > 50:
            kept.clear()

for _ in range(int(sys.argv[1])):
    threading.Thread(target=load, daemon=True).start()
while not glassbottom.status()["connected"]:
    time.sleep(0.01)
reporting, pauses_ms = [], []
for number in range(25):
    connected = glassbottom.status()["connected"]
    began = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        if number % 10 == 0:
            kept.append([str(number) for number in range(100_000)])
            glassbottom.snapshot()
            os._exit(0 if glassbottom.flush(20) else 9)
        os._exit(0)
    if connected:
        pauses_ms.append((time.perf_counter() - began) * 1000)
    if number % 10 == 0:
        reporting.append(pid)
    if number % 5 == 0:  # now and then the parent has time to connect again
        while not glassbottom.status()["connected"]:
            time.sleep(0.01)
    assert os.waitpid(pid, 0)[1] == 0, number
assert glassbottom.snapshot() and glassbottom.flush(20)
print(json.dumps([os.getpid(), reporting, pauses_ms, glassbottom.status()]))
"""


def test_forks_under_load_leave_parent_and_children_reporting(double: IngestDouble):
    done = python(LOOP, double.endpoint, "2")
    assert done.returncode == 0, done.stderr
    parent, reporting, _, status = json.loads(done.stdout)
    assert double.pids() == {parent, *reporting}
    assert len(double.instance_ids()) == 1 + len(reporting)
    assert all(any(s.batches for s in double.sessions if s.hello.process.pid == pid) for pid in reporting)
    sessions = {s.hello.session_id for s in double.sessions if s.hello.process.pid == parent}
    assert len(sessions) == 1, "the parent goes on in the session it had"
    assert status["statistics"]["errors_total"] == 0


def test_a_fork_waits_little_for_the_agent(double: IngestDouble):
    """Of the forks that find an open connection to close; the median, whatever else the machine does."""
    done = python(LOOP, double.endpoint, "0")
    assert done.returncode == 0, done.stderr
    pauses_ms = sorted(json.loads(done.stdout)[2])
    assert len(pauses_ms) >= 5
    assert pauses_ms[len(pauses_ms) // 2] < 100


def test_forks_from_several_threads_at_once_leave_the_parent_reporting(double: IngestDouble):
    code = """
import os, threading, glassbottom, time
glassbottom.init(service="threads")
while not glassbottom.status()["connected"]:
    time.sleep(0.01)

def fork_many():
    for _ in range(15):
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0

threads = [threading.Thread(target=fork_many) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert glassbottom.snapshot() and glassbottom.flush(20)
assert glassbottom.status()["statistics"]["errors_total"] == 0
"""
    done = python(code, double.endpoint)
    assert done.returncode == 0, done.stderr


def test_a_grandchild_reports_as_well(double: IngestDouble):
    code = """
import os, glassbottom
glassbottom.init(service="family")

def generation(left):
    glassbottom.snapshot()
    if not glassbottom.flush(20):
        return 9
    if left == 0:
        return 0
    pid = os.fork()
    if pid == 0:
        os._exit(generation(left - 1))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

raise SystemExit(generation(3))
"""
    done = python(code, double.endpoint)
    assert done.returncode == 0, done.stderr
    assert len(double.pids()) == len(double.instance_ids()) == 4


def test_children_forked_while_the_agent_starts_and_connects_report(double: IngestDouble):
    code = """
import os, glassbottom
glassbottom.init(service="early", connect_delay_s=0)
for _ in range(12):
    pid = os.fork()
    if pid == 0:
        glassbottom.snapshot()
        os._exit(0 if glassbottom.flush(20) else 9)
    assert os.waitpid(pid, 0)[1] == 0
"""
    done = python(code, double.endpoint)
    assert done.returncode == 0, done.stderr
    assert len(double.instance_ids()) >= 12


def test_a_child_forked_in_the_middle_of_a_step_reports_all_the_same(double: IngestDouble):
    code = """
import os, glassbottom, time
import glassbottom._process
glassbottom.init(service="hasty")
while not glassbottom.status()["connected"]:
    time.sleep(0.01)
sender = glassbottom._process._current.sender
sender._stepping.acquire()  # as a step does that takes too long
pid = os.fork()
if pid == 0:
    glassbottom.snapshot()
    os._exit(0 if glassbottom.flush(20) else 9)
sender._stepping.release()
assert os.waitpid(pid, 0)[1] == 0
assert glassbottom.snapshot() and glassbottom.flush(20)
assert glassbottom.status()["statistics"]["fork_timeouts_total"] == 1
"""
    done = python(code, double.endpoint)
    assert done.returncode == 0, done.stderr
    assert len(double.pids()) == 2
