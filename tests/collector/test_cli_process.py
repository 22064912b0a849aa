"""The command line as a process: pipes that close, keys that interrupt, terminals with few letters."""

from __future__ import annotations

import signal
import subprocess

from tests.support.cli import MODULE
from tests.support.collector_process import python_environment
from tests.support.query_double import Answers
from tests.support.query_double_memory import AT

LEAKS = ("leaks", "--service", "checkout")


def start(*line: str, **more: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*MODULE, *line], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=python_environment(more), bufsize=0
    )


def test_a_reader_that_goes_away_ends_it_quietly(address: str) -> None:
    """As in `glassbottom top -o folded | head -0`."""
    process = start("top", "--addr", address, "--service", "checkout", "-o", "folded")
    assert process.stdout is not None
    process.stdout.close()

    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (141, b"")


def test_ctrl_c_ends_it_with_one_word_and_no_traceback(address: str, answers: Answers) -> None:
    answers.hangs = True
    process = start(*LEAKS, "--addr", address)
    assert answers.hanging.wait(60)

    process.send_signal(signal.SIGINT)

    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, b"", b"glassbottom leaks: interrupted.\n")


def test_pprof_bytes_pass_through_a_pipe_unharmed(address: str) -> None:
    process = start("top", "--addr", address, "--service", "checkout", "--at", AT, "-o", "pprof")

    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, b"")
    assert out[:2] == b"\x1f\x8b"


def test_a_terminal_with_few_letters_gets_escapes_and_no_crash(address: str) -> None:
    process = start("top", "--addr", address, "--service", "checkout", PYTHONIOENCODING="ascii")

    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, b"")
    assert b"\\xb1" in out


def test_grpc_does_not_talk_between_our_lines(answers: Answers) -> None:
    """Its C core logs to standard error on failures; people asked us, not it."""
    process = start("services", "--addr", "127.0.0.1:1")

    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.count(b"\n") == 1
