"""Calls that end where nobody expects it: never, elsewhere, or in an exception that is not ours to keep."""

from __future__ import annotations

import concurrent.futures
import contextlib
from collections.abc import Iterator
from typing import Any

import glassbottom
import pytest
from glassbottom import _native, _profile
from glassbottom.probes.operations import Recorder

from tests.support.programs import python


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    found = Recorder(_native.OperationTable(64))
    _profile.attach(found)
    yield found
    _profile.detach()


def interrupted_by(error: BaseException) -> _native.Operation:
    """An operation that a signal handler of the application's interrupts while its slot is asked for."""

    def slot(_status: str) -> int:
        raise error

    return _native.Operation(slot)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_what_a_signal_handler_raises_reaches_the_application(recorder: Recorder, error: BaseException) -> None:
    call = _native.call_begin(interrupted_by(error))
    with pytest.raises(type(error)) as raised:
        _native.call_end(call, None)
    assert raised.value is error
    pieces = _native.call_new(interrupted_by(error))
    assert pieces is not None
    with pytest.raises(type(error)):
        pieces.end_items(None)
    assert recorder.take() == []


def test_an_error_of_ours_does_not(recorder: Recorder) -> None:
    call = _native.call_begin(interrupted_by(ValueError()))
    _native.call_end(call, None)
    assert recorder.take() == []


def test_a_block_that_ends_in_another_thread_is_told_without_what_is_a_threads_own(recorder: Recorder) -> None:
    # As a dependency of FastAPI's that is a generator: each half of it runs in any thread of a pool.
    @contextlib.contextmanager
    def dependency() -> Iterator[None]:
        with glassbottom.profile("dependency"):
            yield

    def spin() -> None:
        kept = [str(i) for i in range(200_000)]
        del kept

    with concurrent.futures.ThreadPoolExecutor(1) as first, concurrent.futures.ThreadPoolExecutor(1) as second:
        second.submit(spin).result()
        for _ in range(40):  # CPU time is asked for once in a while
            around = dependency()
            first.submit(around.__enter__).result()
            second.submit(around.__exit__, None, None, None).result()
    [(key, row)] = recorder.take()
    assert key.name == "dependency"
    count, cpu_count, alloc_bytes = row[1], row[6], row[8]
    assert count == 40
    assert cpu_count == 0
    assert alloc_bytes == 0.0


NEVER_LEFT = """
import contextvars
from glassbottom import _native

_native.calls_attach(_native.OperationTable(1))
operation = _native.Operation(lambda status: 0)

def work():
    for _ in range(300_000):
        _native.call_begin(operation)

contextvars.copy_context().run(work)
print("alive")
"""


def test_blocks_that_are_never_left_go_without_harm() -> None:
    done: Any = python(NEVER_LEFT, "127.0.0.1:1")
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr
