"""Heap dumps where memory or disk ends: the service answers on, and what came of the dump is a sentence either way.

Limits of the process are the kernel's. A control group is a directory of files as the kernel writes them, with this
process's own resident memory in it, since not every machine lets a test make one.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from glassbottom import _native
from glassbottom.captures import CaptureError, heap, room
from glassbottom.captures.heap import dump_heap

pytestmark = pytest.mark.once

MIB = 1 << 20
LIMITS = {"service": "", "instance_id": "", "bytes_max": 1 << 30, "seconds_max": 60.0}

LIMITED = """
import resource, socket, threading
from pathlib import Path
from glassbottom.captures import CaptureError
from glassbottom.captures.heap import dump_heap

kept = [[str(number)] for number in range(100_000)]
listening = socket.create_server(("127.0.0.1", 0))

def serve():
    while True:
        with listening.accept()[0] as connection:
            connection.sendall(connection.recv(100).upper())

def ask():
    while not ended.is_set():
        with socket.create_connection(listening.getsockname()) as client:
            client.sendall(b"hello")
            answers.append(client.recv(100))

answers, ended = [], threading.Event()
threading.Thread(target=serve, daemon=True).start()
client = threading.Thread(target=ask)
client.start()
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[2]),) * 2)
try:
    made = dump_heap(Path(sys.argv[1]), service="", instance_id="", bytes_max=1 << 30, seconds_max=60.0)
    print(made.facts["end"])
except CaptureError as error:
    print(error)
before = len(answers)
while len(answers) < before + 20:
    pass
ended.set()
client.join()
print(set(answers), Path(sys.argv[1]).exists())
"""


@pytest.mark.parametrize(
    ("left", "says"),
    [(8 * MIB, "The system would not promise memory for a copy of this process (ENOMEM)."), (256 * MIB, "complete")],
)
def test_a_process_at_its_limit_of_memory_answers_on_whether_it_was_dumped_or_not(
    left: int, says: str, tmp_path: Path
) -> None:
    start = f"import sys; sys.path[:0] = {sys.path!r}\n"
    done = subprocess.run(
        [sys.executable, "-I", "-c", start + textwrap.dedent(LIMITED), str(tmp_path / "heap"), str(left)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.stdout.splitlines() == [says, f"{ {b'HELLO'} } {says == 'complete'}"], done.stderr


class Group:
    """A control group of this process alone, as /proc and the kernel's files tell of it."""

    def __init__(self, directory: Path, left: float) -> None:
        """left: bytes free below the limit."""
        self._directory = directory / "group"
        self.proc = directory / "proc"
        self._directory.mkdir()
        (self.proc / "self").mkdir(parents=True)
        (self.proc / "sys/vm").mkdir(parents=True)
        (self.proc / "meminfo").write_text(Path("/proc/meminfo").read_text())
        (self.proc / "self/statm").write_text(Path("/proc/self/statm").read_text())
        (self.proc / "self/cgroup").write_text("0::/\n")
        (self.proc / "self/mountinfo").write_text(f"30 25 0:26 / {self._directory} rw - cgroup2 cgroup2 rw\n")
        self._limit = int(room.resident_bytes() + left)
        (self._directory / "memory.max").write_text(f"{self._limit}\n")
        (self._directory / "memory.stat").write_text("inactive_file 0\n")
        self.leave(left)

    def leave(self, left: float) -> None:
        """So much is left from now on."""
        (self._directory / "memory.current").write_text(f"{self._limit - int(left)}\n")


def test_the_nearer_its_groups_limit_the_sooner_a_dump_is_refused_or_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host has room all the time; what is left below the limit decides."""
    group = Group(tmp_path, 0.5 * room.resident_bytes() + 128 * MIB)
    monkeypatch.setattr(room, "left_ratio", partial(room.left_ratio, group.proc))
    assert heap.refusal(proc=group.proc) is None
    made = dump_heap(tmp_path / "first", **LIMITS)  # type: ignore[arg-type]
    assert made.facts["end"] == "complete"

    with pytest.raises(CaptureError, match=r"less than 7% were left, so the dump was given up after \d+ objects"):
        _stopped(lambda: dump_heap(tmp_path / "second", **LIMITS), lambda: group.leave(1 * MIB), monkeypatch)  # type: ignore[arg-type]
    assert not (tmp_path / "second").exists()

    reason = str(heap.refusal(proc=group.proc))
    assert "0.00 GiB are free" in reason
    assert "census=1 counts objects by type instead" in reason


def _stopped(make: Callable[[], object], meanwhile: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """With a copy that is certain to run still when something happens."""
    start = _native.dump_start

    def stopped(*arguments: object, **limits: object) -> tuple[int, int]:
        pid, pause_ns = start(*arguments, **limits)  # type: ignore[arg-type]
        os.kill(pid, signal.SIGSTOP)
        meanwhile()
        return pid, pause_ns

    with monkeypatch.context() as patch:
        patch.setattr(_native, "dump_start", stopped)
        make()


def test_a_disk_without_a_byte_left_is_told_before_a_copy_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/dev/full is one."""
    monkeypatch.setattr(heap.os, "open", lambda *_: os.dup(full))
    with Path("/dev/full").open("wb") as file:
        full = file.fileno()
        with pytest.raises(CaptureError, match=r"no room for the dump .*: No space left on device"):
            dump_heap(tmp_path / "heap", **LIMITS)  # type: ignore[arg-type]
    monkeypatch.undo()
    assert dump_heap(tmp_path / "heap", **LIMITS).facts["end"] == "complete"  # type: ignore[arg-type]
