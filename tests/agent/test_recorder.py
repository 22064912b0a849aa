"""The recorder is called from anywhere in the application, also from the middle of itself."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from glassbottom import _native
from glassbottom.probes.operations import FUNCTION, Key, Recorder


def within_each_line(function: Any, also: Callable[[], None]) -> Callable[[FrameType, str, object], Any]:
    """A trace function that does something else at every line of it, as a finalizer or a signal handler may."""

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        if frame.f_code is not function.__code__:
            return None
        if event == "line":
            also()
        return trace

    return trace


def test_a_finalizer_that_is_timed_may_run_while_a_name_is_made() -> None:
    table = _native.OperationTable(1024)
    recorder = Recorder(table)
    made: list[Key] = []

    def also() -> None:
        made.append(Key(FUNCTION, f"finalizer {len(made)}"))
        table.record(recorder.slot(made[-1]), 1)

    def work() -> None:
        sys.settrace(within_each_line(Recorder._new, also))
        try:
            for i in range(20):
                made.append(Key(FUNCTION, f"function {i}"))
                table.record(recorder.slot(made[-1]), 1)
        finally:
            sys.settrace(None)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(20.0)
    assert not thread.is_alive(), "it waits for itself"
    assert len(made) > 40
    assert {key: row[1] for key, row in recorder.take()} == dict.fromkeys(made, 1)


def test_what_a_collection_records_while_rows_are_taken_is_taken_once() -> None:
    table = _native.OperationTable(64)
    slots = [table.add() for _ in range(64)]
    recorded = 0

    def record(_phase: str, _info: object) -> None:
        nonlocal recorded
        for slot in slots:
            table.record(slot, 1)
        recorded += len(slots)

    taken = 0
    before = gc.get_threshold()
    gc.callbacks.append(record)
    gc.set_threshold(2)
    try:
        for _ in range(50):
            taken += sum(row[1] for row in table.take())
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(record)
    taken += sum(row[1] for row in table.take())
    assert recorded > 0
    assert taken == recorded


@pytest.mark.parametrize("names", [2000])
def test_however_many_threads_make_names_there_is_a_bound_and_every_row_has_its_own(names: int) -> None:
    table = _native.OperationTable(256)
    recorder = Recorder(table, slots_max=256)

    def work() -> None:
        for i in range(names):
            table.record(recorder.slot(Key(FUNCTION, f"function {i}")), 1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken = recorder.take()
    assert sum(row[1] for _, row in taken) == 4 * names
    assert len(taken) == len({key for key, _ in taken})
    assert len(recorder) <= 256
