"""memray's window: what it sees, what it leaves behind, and in whose company it is refused."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from glassbottom import _native
from glassbottom.captures import CaptureError, find, memray, room

from tests.support.captured import order

ALONE = """
import sys, time
from pathlib import Path
from tests.support.captured import captured, order
from glassbottom import _native
"""


def alone(program: str, *arguments: str) -> str:
    """The output of a program, which is not watched by whatever watches these tests."""
    done = subprocess.run(
        [sys.executable, "-c", ALONE + program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": ":".join(path for path in sys.path if path), "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_sees_what_other_threads_keep_and_leaves_no_trace_and_no_word_of_the_command_line(tmp_path: Path):
    out = alone(
        """
kept = []
def work_of_a_test(_):
    while not _native.threads_traced():
        time.sleep(0.005)
    kept.extend(bytearray(200_000) for _ in range(50))
made = captured(order("dump_memray", 0.5), Path(sys.argv[1]), work_of_a_test)
print(made.facts.get("threads_still_traced"), _native.threads_traced(), sys.getprofile())
""",
        str(tmp_path / "d"),
        "--password=hunter2",
    )
    assert out == "None 0 None\n"
    data = (tmp_path / "d/memray.bin").read_bytes()
    assert b"hunter2" not in data
    assert b"work_of_a_test" in data
    # Read as the collector reads it: in yet another process.
    read = alone(
        """
import memray
reader = memray.FileReader(sys.argv[1])
print(sum(each.size for each in reader.get_leaked_allocation_records(merge_threads=True)
          if any(frame[0] == "work_of_a_test" for frame in each.stack_trace())))
""",
        str(tmp_path / "d/memray.bin"),
    )
    assert 10e6 <= float(read) <= 12e6


def test_it_runs_beside_the_sampler_which_goes_on_afterwards(tmp_path: Path):
    """Both stand in the way of allocations, and neither may be lost by the other."""
    out = alone(
        """
_native.start(interval_bytes=65536.0, window_share=1.0)
made = captured(order("dump_memray", 0.3, python="1"), Path(sys.argv[1]))
before = _native.statistics()["samples"]
kept = [bytearray(100_000) for _ in range(200)]
after = _native.statistics()
print(after["state"], after["samples"] - before > 50)
_native.stop()
""",
        str(tmp_path / "d"),
    )
    assert out == "running True\n"


@pytest.mark.once
def test_a_second_window_at_once_fails_with_memrays_own_words(tmp_path: Path):
    out = alone(
        """
import memray
with memray.Tracker(destination=memray.FileDestination(sys.argv[1] + ".other", overwrite=True)):
    from glassbottom.captures import CaptureError, find
    capture, wanted = find("dump_memray"), order("dump_memray")
    print(capture.refusal(wanted))
""",
        str(tmp_path / "d"),
    )
    assert "would put it out of work" in out


@pytest.mark.once
@pytest.mark.parametrize(
    ("set_up", "words"),
    [
        ("sys.settrace(lambda *_: None)", "sys.settrace or sys.setprofile"),
        ("import threading; threading.setprofile(lambda *_: None)", "sys.settrace or sys.setprofile"),
        ("sys.modules['greenlet'] = sys", "greenlets are in use"),
        ("sys.modules['memray'] = None", "pip install 'glassbottom[captures]'"),
    ],
)
def test_who_would_be_harmed_is_named_in_the_refusal(set_up: str, words: str):
    out = alone(f"""
{set_up}
from glassbottom.captures import find
print(find("dump_memray").refusal(order("dump_memray")))
""")
    assert words in out


@pytest.mark.once
def test_a_tool_of_sys_monitoring_is_named():
    out = alone("""
sys.monitoring.use_tool_id(sys.monitoring.COVERAGE_ID, "coverage")
from glassbottom.captures import find
print(find("dump_memray").refusal(order("dump_memray")))
""")
    assert out.startswith("coverage watches this process")


@pytest.mark.once
def test_little_memory_is_a_reason_and_ends_a_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memray, "_somebody_traces", lambda: None)
    monkeypatch.delitem(sys.modules, "greenlet", raising=False)
    monkeypatch.setattr(room, "left_ratio", lambda: 0.15)
    refusal = find("dump_memray").refusal(order("dump_memray"))
    assert refusal is not None
    assert refusal.startswith("Only 15% of the memory this process may have is free")
    monkeypatch.setattr(room, "left_ratio", lambda: 0.05)
    assert memray._watch(3600.0, threading.Event())  # type: ignore[arg-type]


def test_threads_of_which_one_is_traced_are_counted():
    ready, done = threading.Event(), threading.Event()

    def traced() -> None:
        sys.setprofile(lambda *_: None)
        ready.set()
        done.wait(20)

    before = _native.threads_traced()
    thread = threading.Thread(target=traced)
    thread.start()
    assert ready.wait(20)
    assert _native.threads_traced() == before + 1
    done.set()
    thread.join()
    assert _native.threads_traced() == before


@pytest.mark.once
def test_a_head_that_is_not_as_expected_is_not_sent(tmp_path: Path):
    path = tmp_path / "memray.bin"
    path.write_bytes(b"memray\0" + b"something else" * 100)
    with pytest.raises(CaptureError, match="not of the form expected"):
        memray._blot_out_command_line(path)


@pytest.mark.once
def test_the_memory_left_is_that_of_the_nearest_limit(tmp_path: Path):
    (tmp_path / "meminfo").write_text("MemTotal: 1000 kB\nMemAvailable: 400 kB\n")
    assert room.left_ratio(tmp_path) == pytest.approx(0.4)
    assert room.left_ratio(tmp_path / "absent") == 1.0
    assert room.resident_bytes() > 1e6
    assert room.resident_bytes(tmp_path / "absent") == 0.0
