"""import glassbottom, init(), status(): cheap, idempotent, and harmless in every process that cannot be watched.

Each test is a process of its own, since the agent belongs to one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.support.ingest_double import IngestDouble

ROOT = Path(__file__).resolve().parents[2]


def run(code: str, *arguments: str, check: bool = True, **environ: str) -> subprocess.CompletedProcess[str]:
    """Runs a program with the agent on its path."""
    env = {**os.environ, "PYTHONPATH": str(ROOT / "agent"), **environ}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    if check:
        assert done.returncode == 0, done.stderr
    return done


def test_importing_pulls_in_nothing_heavy():
    code = """
import sys, json
before = set(sys.modules)
import glassbottom
print(json.dumps(sorted(set(sys.modules) - before)))
"""
    modules = json.loads(run(code).stdout)
    assert [name for name in modules if not name.startswith("glassbottom")] in ([], ["__future__"])


def test_importing_costs_less_than_thirty_milliseconds_and_five_megabytes():
    """The best of several starts: what it costs, not what a busy machine adds."""
    code = """
import time, resource
began = time.process_time()
import glassbottom
spent = time.process_time() - began
print(spent, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    bare = min(
        float(run("import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)").stdout)
        for _ in range(3)
    )
    costs = [run(code).stdout.split() for _ in range(3)]
    assert min(float(spent_s) for spent_s, _ in costs) < 0.030
    assert min(float(kib) for _, kib in costs) - bare < 5 * 1024


def test_init_is_idempotent_and_status_tells_what_runs(double: IngestDouble):
    code = """
import glassbottom, json, sys, threading
glassbottom.init(service="checkout", endpoint=sys.argv[1], connect_delay_s=0)
first = glassbottom.status()["instance_id"]
glassbottom.init(service="other")
assert glassbottom.status()["instance_id"] == first
assert glassbottom.snapshot() and glassbottom.flush(10)
names = sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("glassbottom"))
print(json.dumps([glassbottom.status(), names]))
glassbottom.shutdown()
assert glassbottom.status()["state"] == "stopped"
assert not [thread for thread in threading.enumerate() if thread.name.startswith("glassbottom")]
"""
    status, names = json.loads(run(code, double.endpoint).stdout)
    assert status["service"] == "checkout"
    assert status["connected"]
    assert status["state"] in ("running", "refused")
    assert status["statistics"]["batches_acked_total"] >= 1
    assert names == ["glassbottom-channel", "glassbottom-clock", "glassbottom-sampler", "glassbottom-sender"]
    assert {metric.name for metric in double.metrics()[0].metrics} >= {
        "process.memory.usage",
        "process.memory.virtual",
        "process.cpu.time",
        "process.thread.count",
        "process.unix.file_descriptor.count",
        "process.uptime",
        "cpython.gc.collections",
        "cpython.gc.collected_objects",
        "cpython.gc.uncollectable_objects",
    }


def test_every_statistic_is_documented():
    code = """
import glassbottom, json
glassbottom.init(service="x", connect_delay_s=60)
print(json.dumps(sorted(glassbottom.status()["statistics"])))
"""
    documented = (ROOT / "docs" / "status.md").read_text()
    missing = [name for name in json.loads(run(code).stdout) if f"`{name}`" not in documented]
    assert missing == []


def test_every_option_is_documented():
    from glassbottom._options import OPTIONS

    documented = (ROOT / "docs" / "agent.md").read_text()
    missing = [name for name in OPTIONS if f"`{name}`" not in documented]
    assert missing == []


def test_the_kill_switch_leaves_nothing_behind_not_even_imports():
    code = """
import sys, glassbottom, threading
glassbottom.init(service="x")
assert "google.protobuf" not in sys.modules and "glassbottom._native" not in sys.modules
assert threading.active_count() == 1
print(glassbottom.status()["state"])
"""
    assert run(code, GLASSBOTTOM_DISABLE="1").stdout == "off\n"


def test_a_wrong_setting_is_logged_and_the_application_runs_on():
    code = """
import glassbottom
glassbottom.init(service="x", snapshot_interval=1)
print(glassbottom.status()["state"], glassbottom.status()["reason"])
"""
    done = run(code)
    assert done.stdout.startswith("off snapshot_interval is not a setting")
    assert "did you mean snapshot_interval_s?" in done.stderr


def test_a_strict_init_raises_for_a_wrong_setting():
    code = """
import glassbottom
try:
    glassbottom.init(service="x", strict=True, nonsense=1)
except glassbottom.ConfigError as error:
    print("refused", error)
"""
    assert run(code).stdout.startswith("refused nonsense")


def test_where_the_native_part_is_missing_the_rest_goes_on_and_says_so(double: IngestDouble):
    code = """
import sys
sys.modules["glassbottom._native"] = None
import glassbottom
glassbottom.init(service="x", endpoint=sys.argv[1], connect_delay_s=0, heartbeat_interval_s=0.1)
assert glassbottom.snapshot() and glassbottom.flush(10)
print(glassbottom.status()["state"])
"""
    done = run(code, double.endpoint)
    assert done.stdout == "refused\n"
    assert "cannot be imported" in done.stderr
    heartbeat = double.sessions[0].heartbeats[0]
    assert heartbeat.sampler_state == "refused"
    assert "cannot be imported" in heartbeat.sampler_reason
    assert double.metrics()


def test_under_pythonmalloc_debug_the_sampler_refuses_and_the_application_runs_on():
    code = """
import glassbottom
glassbottom.init(service="x", connect_delay_s=60)
print(glassbottom.status()["state"])
"""
    done = run(code, PYTHONMALLOC="debug")
    assert done.stdout == "refused\n"
    assert "PYTHONMALLOC" in done.stderr


def test_a_process_whose_threads_gevent_replaced_is_left_alone(tmp_path: Path):
    package = tmp_path / "gevent"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "monkey.py").write_text("def is_module_patched(name): return name == 'threading'\n")
    code = """
import gevent.monkey, glassbottom, threading
glassbottom.init(service="x")
print(glassbottom.status()["state"], glassbottom.status()["reason"], threading.active_count())
"""
    done = run(code, PYTHONPATH=f"{ROOT / 'agent'}{os.pathsep}{tmp_path}")
    assert done.stdout.startswith("refused gevent has replaced threading")
    assert done.stdout.endswith(" 1\n")


def test_the_agent_never_loads_grpc(double: IngestDouble):
    """Its native core does not survive forks: not even while connected may it be in the application's process."""
    code = """
import glassbottom, sys
glassbottom.init(service="x", endpoint=sys.argv[1], connect_delay_s=0)
assert glassbottom.snapshot() and glassbottom.flush(10)
print(sorted(name for name in sys.modules if name.partition(".")[0] in ("grpc", "numpy", "asyncio")))
"""
    assert run(code, double.endpoint).stdout == "[]\n"


def test_the_last_readings_are_stored_before_the_process_ends(double: IngestDouble):
    code = """
import glassbottom, sys, time
glassbottom.init(service="x", endpoint=sys.argv[1], connect_delay_s=0, snapshot_interval_s=3600)
while not glassbottom.status()["connected"]:
    time.sleep(0.01)
"""
    run(code, double.endpoint)
    double.wait_for(lambda: bool(double.batches()))


def test_a_process_that_ends_while_windows_are_open_does_not_crash():
    code = """
import glassbottom, threading
glassbottom.init(service="x", window_share=1.0, connect_delay_s=0)
threading.Thread(target=lambda: [[str(i) for i in range(1000)] for _ in range(10**9)], daemon=True).start()
"""
    for _ in range(3):
        done = run(code)
        assert "Fatal" not in done.stderr


def test_an_absent_collector_does_not_hold_up_the_exit_nor_write_more_than_one_line():
    code = """
import glassbottom, sys, time
glassbottom.init(service="x", endpoint="127.0.0.1:1", connect_delay_s=0, backoff_s_min=0.05, backoff_s_max=0.1)
while not glassbottom.status()["collector"]["last_error"]:
    time.sleep(0.01)
time.sleep(0.5)
began = time.perf_counter()
glassbottom.shutdown()
assert time.perf_counter() - began < 0.9
"""
    assert len(run(code).stderr.splitlines()) == 1


def test_an_agent_that_cannot_be_made_leaves_the_application_alone():
    done = run("""
from glassbottom import _agent
import glassbottom, json

def broken(*_, **__):
    raise RuntimeError("a bug of ours")

_agent.identify = broken
glassbottom.init(service="whole")
print(json.dumps(glassbottom.status()))
""")
    told = json.loads(done.stdout)
    assert (told["state"], "a bug of ours" in told["reason"]) == ("off", True)
    assert "kept it from starting" in done.stderr
