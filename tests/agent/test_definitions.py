"""What the agent remembers of the functions it named: enough not to look them up again, and no longer than it helps."""

from __future__ import annotations

import weakref
from types import CodeType

import pytest
from glassbottom.probes import definitions
from glassbottom.probes.definitions import BATCHES_REMEMBERED, KNOWN_MAX, Definer
from glassbottom.probes.heap_symbols import Symbols
from glassbottom.transport.queue import BatchQueue
from glassbottom.wire.v1 import tasks_pb2

STREAM = 1


def code_made_anew(number: int = 0) -> CodeType:
    return compile(f"made = {number}\n", f"made_{number}.py", "exec")


def put(definer: Definer, queue: BatchQueue) -> None:
    definer.put(queue, STREAM, tasks_pb2.TasksSnapshot(), rows=1)


def test_a_function_that_the_process_has_dropped_is_not_kept_alive_by_having_been_named() -> None:
    definer, queue = Definer(), BatchQueue(1_000_000)
    code = code_made_anew()
    gone = weakref.ref(code)
    definer.code(code)
    del code

    for _ in range(2 * BATCHES_REMEMBERED):
        assert gone() is not None
        put(definer, queue)

    assert gone() is None


def test_a_function_that_every_batch_names_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    definer, queue = Definer(), BatchQueue(1_000_000)
    code = code_made_anew()
    looked_up: list[CodeType] = []
    find_line = definitions.line_at
    monkeypatch.setattr(definitions, "line_at", lambda code, at: (looked_up.append(code), find_line(code, at))[1])

    for _ in range(5 * BATCHES_REMEMBERED):
        definer.code(code)
        put(definer, queue)
        batch = queue.next_unsent(1_000_000)
        assert batch is not None
        queue.acknowledge(STREAM, batch.seq, batch.store_id)

    assert looked_up == [code]


def test_ids_that_are_in_use_no_more_are_forgotten_before_they_weigh_a_megabyte() -> None:
    symbols = Symbols(lambda: None)

    symbols.acknowledged(range(KNOWN_MAX))
    assert not symbols.is_overfull()

    symbols.acknowledged(range(KNOWN_MAX, 13_000))
    assert symbols.is_overfull()


def test_a_service_with_very_many_call_paths_in_use_does_not_tell_them_anew_all_the_time() -> None:
    symbols = Symbols(lambda: None)
    code = code_made_anew()

    symbols.stacks(range(8_000), lambda node: ([(code, -1)], False, 0))
    symbols.acknowledged(range(15_000))

    assert not symbols.is_overfull()


def test_a_new_function_at_the_address_of_one_that_is_gone_gets_its_own_name() -> None:
    symbols = Symbols(lambda: None)
    names = []
    for number in range(50):  # some of them lie where the one before lay
        code = code_made_anew().replace(co_qualname=f"made_{number}")
        (stack,) = symbols.stacks([number], lambda node, code=code: ([(code, -1)], False, 0))
        (frame,) = symbols._stacks[stack][0]
        names.append(symbols._frames[frame][0])
        del code
        symbols.forget_places()

    assert names == [f"made_{number}" for number in range(50)]
