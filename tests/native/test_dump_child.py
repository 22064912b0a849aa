"""The copy that writes a heap dump is nobody's business: the application, its children, threads and handlers go on as
if there were none, and whatever becomes of the copy is told.

Where a copy must be certain to run still, its file is a pipe that nobody reads: it waits in the middle of a write.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from glassbottom import _native

from tests.support import dump_reader
from tests.support.forking import in_child

LIMITS = {"bytes_max": 1 << 30, "seconds_max": 60.0}


def program(code: str, *arguments: str) -> str:
    """What a small process says, which must end well."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path[:0] = {sys.path!r}\n" + textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def settled() -> None:
    """Until the copy is about to write for the first time."""
    until_s = time.monotonic() + 60
    while _native.dump_progress()["objects"] == 0:
        assert time.monotonic() < until_s
        time.sleep(0.001)


@contextlib.contextmanager
def waiting_copy() -> Iterator[int]:
    """Process id of a copy that waits, settled, until the block ends; then it is gone."""
    read_end, write_end = os.pipe()
    try:
        pid, _ = _native.dump_start(write_end, b"{}", **LIMITS)  # type: ignore[arg-type]
        os.close(write_end)
        until_s = time.monotonic() + 60
        while (
            _native.dump_progress()["objects"] == 0
        ):  # told before the first write, which the pipe does not take whole
            assert time.monotonic() < until_s
            time.sleep(0.001)
        yield pid
        _native.dump_kill(pid)
        with contextlib.suppress(ValueError):  # waited for in the block
            assert _native.dump_wait(pid, 60.0) == -signal.SIGKILL
    finally:
        os.close(read_end)


@pytest.mark.once
def test_whoever_waits_for_children_or_watches_forks_never_hears_of_it(tmp_path: Path) -> None:
    said = program(
        """
        import os, signal
        from glassbottom import _native
        heard = []
        signal.signal(signal.SIGCHLD, lambda *_: heard.append("SIGCHLD"))
        os.register_at_fork(before=lambda: heard.append("before"), after_in_parent=lambda: heard.append("after"))
        fd = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)
        pid, _ = _native.dump_start(fd, b"{}", bytes_max=1 << 30, seconds_max=60.0)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            print("no child")
        print(_native.dump_wait(pid, 60.0), heard)
        """,
        str(tmp_path / "heap"),
    )
    assert said == "no child\n0 []\n"


@pytest.mark.once
def test_a_child_of_the_applications_is_waited_for_as_ever_while_a_dump_is_written() -> None:
    with waiting_copy():
        child = subprocess.Popen([sys.executable, "-c", "raise SystemExit(7)"])
        assert os.waitpid(-1, 0) == (child.pid, 7 << 8)
        child.returncode = 7


@pytest.mark.once
def test_it_keeps_no_descriptor_open_and_yields_to_everyone() -> None:
    ours, theirs = socket.socketpair()
    with waiting_copy() as pid:
        theirs.close()
        ours.settimeout(60)
        assert ours.recv(1) == b"", "whoever talks to the application sees the end"
        assert len(os.listdir(f"/proc/{pid}/fd")) == 1
        assert Path(f"/proc/{pid}/comm").read_text() == "gb-heap-dump\n"
        assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "1000\n"
        assert os.getpriority(os.PRIO_PROCESS, pid) == min(19, os.getpriority(os.PRIO_PROCESS, 0) + 10)
        assert len(os.listdir(f"/proc/{pid}/task")) == 1
    ours.close()


@pytest.mark.once
def test_requests_are_answered_while_it_is_written() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for _ in range(50):
                with server.accept()[0] as connection:
                    connection.sendall(connection.recv(100).upper())

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with waiting_copy():
            for _ in range(50):
                with socket.create_connection(server.getsockname()) as client:
                    client.settimeout(60)
                    client.sendall(b"hello")
                    assert client.recv(100) == b"HELLO"
        thread.join(60)


@pytest.mark.once
def test_no_handler_of_the_applications_runs_in_it() -> None:
    """A byte on the wakeup descriptor would wake the application's event loop; there is none, and none is written."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    wakeup = signal.set_wakeup_fd(theirs.fileno())
    try:
        with waiting_copy() as pid:
            os.kill(pid, signal.SIGUSR1)
            os.kill(pid, signal.SIGHUP)
            os.kill(pid, signal.SIGTERM)
            assert _native.dump_wait(pid, 60.0) == -signal.SIGTERM
        with pytest.raises(BlockingIOError):
            ours.recv(1)
    finally:
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGUSR1, before)
        ours.close()
        theirs.close()


@pytest.mark.once
def test_it_ends_with_the_thread_that_made_it() -> None:
    read_end, write_end = os.pipe()
    made: list[int] = []

    def make() -> None:
        made.append(_native.dump_start(write_end, b"{}", **LIMITS)[0])  # type: ignore[arg-type]
        settled()

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    assert _native.dump_wait(made[0], 60.0) == -signal.SIGKILL
    os.close(read_end)
    os.close(write_end)


@pytest.mark.once
def test_one_dump_at_a_time_and_none_is_another_processs() -> None:
    with waiting_copy() as pid:
        with pytest.raises(RuntimeError, match="Another heap dump"):
            _native.dump_start(1, b"{}", **LIMITS)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="No heap dump"):
            _native.dump_wait(pid + 1, 0.0)
        assert _native.dump_wait(pid, 0.0) is None

        def check() -> None:
            assert set(_native.dump_progress().values()) == {0}
            with pytest.raises(ValueError, match="No heap dump"):
                _native.dump_wait(pid, 0.0)
            _native.dump_kill(pid)
            with waiting_copy():
                pass

        assert in_child(check) == 0
        assert _native.dump_wait(pid, 0.0) is None
        assert _native.dump_progress()["objects"] > 0


@pytest.mark.once
def test_a_reader_that_goes_away_is_told() -> None:
    read_end, write_end = os.pipe()
    pid, _ = _native.dump_start(write_end, b"{}", **LIMITS)  # type: ignore[arg-type]
    os.close(write_end)
    os.close(read_end)
    assert _native.dump_wait(pid, 60.0) == 100
    assert os.strerror(_native.dump_progress()["errno"]) == "Broken pipe"


def test_none_begins_during_a_garbage_collection(tmp_path: Path) -> None:
    """Then objects are in lists of the collection's own."""
    met: list[object] = []

    def begin(phase: str, info: dict[str, int]) -> None:
        if phase == "start" and not met:
            try:
                fd = os.open(tmp_path / "heap", os.O_CREAT | os.O_WRONLY)
                met.append(_native.dump_start(fd, b"{}", **LIMITS))  # type: ignore[arg-type]
            except BlockingIOError as error:
                met.append(error.errno)
            finally:
                os.close(fd)

    gc.callbacks.append(begin)
    try:
        gc.collect()
    finally:
        gc.callbacks.remove(begin)
    assert met == [None]


def test_locks_that_other_threads_hold_at_that_moment_stop_nothing(tmp_path: Path) -> None:
    """Threads that allocate and free in C all the time, within malloc's locks and the sampler's."""
    said = program(
        """
        import os, threading, zlib
        from glassbottom import _native
        _native.start(interval_bytes=4096.0, window_share=1.0)
        text, ended = os.urandom(50_000), threading.Event()
        def allocate():
            while not ended.is_set():
                zlib.decompress(zlib.compress(text, 1))
                [bytes(5000) for _ in range(50)]
        threads = [threading.Thread(target=allocate) for _ in range(4)]
        for thread in threads:
            thread.start()
        codes = []
        for number in range(6):
            fd = os.open(f"{sys.argv[1]}{number}", os.O_CREAT | os.O_WRONLY)
            pid, _ = _native.dump_start(fd, b"{}", bytes_max=1 << 30, seconds_max=60.0)
            os.close(fd)
            codes.append(_native.dump_wait(pid, 60.0))
        ended.set()
        for thread in threads:
            thread.join()
        _native.stop()
        print(codes)
        """,
        str(tmp_path / "heap"),
    )
    assert said == f"{[0] * 6}\n"


BROKEN = """
import ctypes, gc, os
from glassbottom import _native
TRAVERSE = 184  # tp_traverse in a type object
class Crashes:
    def __init__(self): self.held = [1]
class Hangs:
    def __init__(self): self.held = [1]
class Sound:
    def __init__(self): self.held = [1]
kept = [kind() for _ in range(3) for kind in (Crashes, Hangs, Sound)]
gc.collect()
gc.disable()
fd = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)
slots = [ctypes.c_void_p.from_address(id(kind) + TRAVERSE) for kind in (Crashes, Hangs)]
before = [slot.value for slot in slots]
slots[0].value = 16
slots[1].value = ctypes.cast(ctypes.CDLL(None).sigwait, ctypes.c_void_p).value  # for ever
pid, _ = _native.dump_start(fd, b"{}", bytes_max=1 << 30, seconds_max=60.0)
for slot, value in zip(slots, before):
    slot.value = value
print(_native.dump_wait(pid, 60.0), _native.dump_progress()["faults"])
"""


def test_a_type_whose_own_code_crashes_or_hangs_costs_its_references_and_nothing_else(tmp_path: Path) -> None:
    assert program(BROKEN, str(tmp_path / "heap")) == "0 2\n"
    dump = dump_reader.read(tmp_path / "heap")
    assert dump.end is not None
    assert (dump.end[2], dump.end[4]) == (0, 2)
    found: dict[str, list[int]] = {"Crashes": [], "Hangs": [], "Sound": []}
    for each in dump.objects.values():
        if each.type.module == "__main__" and each.type.qualname in found:
            found[each.type.qualname].append(len(each.edges))
    assert {name: len(counts) for name, counts in found.items()} == {"Crashes": 3, "Hangs": 3, "Sound": 3}
    assert all(count == 0 for count in found["Crashes"] + found["Hangs"])
    assert all(count >= 2 for count in found["Sound"])
