"""py-spy, really run: where threads are, seen from outside, and what is refused or fails with a sentence."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from glassbottom.captures import CaptureError, find, pyspy

from tests.support.captured import captured, order

pytestmark = pytest.mark.once  # what is tested is how it is started; py-spy itself knows the versions


@pytest.fixture
def spinner() -> Iterator[None]:
    """A thread that works, by a name."""
    stop = threading.Event()

    def spin_for_a_test() -> None:
        while not stop.is_set():
            sum(range(2000))

    thread = threading.Thread(target=spin_for_a_test, name="spinner")
    thread.start()
    yield
    stop.set()
    thread.join()


def test_stacks_are_those_of_all_threads_with_their_names_and_no_values(tmp_path: Path, spinner: None):
    secret = "hunter2"
    made = captured(order("dump_stacks", 20.0), tmp_path / "d")
    assert made.path is not None
    text = made.path.read_text()
    threads = {thread["thread_name"]: thread for thread in json.loads(text)}
    assert "spin_for_a_test" in [frame["name"].rpartition(".")[2] for frame in threads["spinner"]["frames"]]
    assert any(frame["filename"] == __file__ for frame in threads["MainThread"]["frames"])
    assert secret not in text
    assert made.facts["took_ms"] > 0


def test_call_paths_are_counted_for_a_while(tmp_path: Path, spinner: None):
    made = captured(order("dump_cpu", 1.0, rate_hz="100"), tmp_path / "d")
    assert made.path is not None
    counts = {}
    for line in made.path.read_text().splitlines():
        path, _, count = line.rpartition(" ")
        counts[path] = int(count)
    spinning = [path for path in counts if "spin_for_a_test" in path]
    assert spinning
    assert all(path.startswith("thread (") and ": spinner;" in path for path in spinning)
    assert all(f"({__file__}:" in path for path in spinning)


def test_a_recording_that_is_to_end_early_keeps_what_it_has(tmp_path: Path, spinner: None):
    seen = threading.Event()

    def end_soon(ending: object) -> None:
        seen.wait(1.0)
        ending.set()  # type: ignore[attr-defined]

    made = captured(order("dump_cpu", 3600.0, rate_hz="100"), tmp_path / "d", end_soon)
    assert made.path is not None
    assert "spin_for_a_test" in made.path.read_text()
    assert made.facts["took_s"] < 60


def test_an_application_that_handles_sigchld_is_left_alone():
    before = signal.signal(signal.SIGCHLD, lambda *_: None)
    try:
        refusal = find("dump_stacks").refusal(order("dump_stacks"))
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert refusal is not None
    assert "handles SIGCHLD itself" in refusal
    assert find("dump_stacks").refusal(order("dump_stacks")) is None


def test_an_application_that_ignores_sigchld_gets_its_capture(tmp_path: Path, spinner: None):
    """Children of such a process vanish without being waited for."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        made = captured(order("dump_stacks", 20.0), tmp_path / "d")
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert made.path is not None
    assert "spin_for_a_test" in made.path.read_text()


@pytest.mark.parametrize("rate", ["0", "1000", "often"])
def test_a_rate_out_of_range_is_refused(rate: str):
    assert find("dump_cpu").refusal(order("dump_cpu", rate_hz=rate)) == (
        "The option rate_hz must be a whole number from 1 to 200 samples a second."
    )


def test_without_the_program_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pyspy.sys, "executable", "/nowhere/python")  # type: ignore[attr-defined]
    monkeypatch.setenv("PATH", "/nowhere")
    refusal = find("dump_stacks").refusal(order("dump_stacks"))
    assert refusal == (
        "py-spy is not installed beside this interpreter or on its PATH; run: pip install 'glassbottom[captures]'."
    )


@pytest.mark.parametrize(
    ("scope", "privileged", "begins"),
    [
        ("0", False, None),
        ("1", False, None),  # the child is let in by name
        ("2", True, None),
        ("2", False, "kernel.yama.ptrace_scope is 2"),
        ("3", True, "kernel.yama.ptrace_scope is 3"),
    ],
)
def test_what_the_kernel_would_not_allow_is_known_before(
    scope: str, privileged: bool, begins: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "scope").write_text(f"{scope}\n")
    (tmp_path / "status").write_text(f"Name:\tpython\nCapEff:\t{1 << 19 if privileged else 0:016x}\n")
    monkeypatch.setattr(pyspy, "YAMA", tmp_path / "scope")
    monkeypatch.setattr(pyspy, "STATUS", tmp_path / "status")
    refusal = find("dump_stacks").refusal(order("dump_stacks"))
    assert refusal is None if begins is None else str(refusal).startswith(begins)


def failing(directory: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program in py-spy's place."""
    directory.mkdir()
    program = directory / "py-spy"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(pyspy, "program", lambda: str(program))


def test_its_last_words_are_passed_on_and_permission_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    failing(
        tmp_path / "bin",
        f"echo tried >> {tmp_path}/tries; echo noise >&2; "
        "echo 'Error: Permission Denied: Try running again' >&2; exit 1",
        monkeypatch,
    )
    with pytest.raises(CaptureError) as caught:
        captured(order("dump_stacks", 20.0), tmp_path / "d")
    assert str(caught.value) == (
        "py-spy failed: Error: Permission Denied: Try running again; a container needs CAP_SYS_PTRACE for it, or a "
        "seccomp profile that allows process_vm_readv."
    )
    assert (tmp_path / "tries").read_text() == "tried\ntried\n", "it may have looked before it was let in"


def test_a_program_that_hangs_is_stopped_and_its_child_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    failing(tmp_path / "bin", "exec sleep 600", monkeypatch)
    with pytest.raises(CaptureError, match="still looking"):
        captured(order("dump_stacks", 0.3), tmp_path / "d")


def test_a_file_larger_than_allowed_is_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    failing(tmp_path / "bin", "echo '[]                                  '", monkeypatch)
    with pytest.raises(CaptureError, match="were allowed"):
        captured(order("dump_stacks", 20.0, bytes_max=10), tmp_path / "d")
