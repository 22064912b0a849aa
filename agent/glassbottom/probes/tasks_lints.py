"""What is wrong with a task that waits: nobody can wake it, or nobody would miss it.

Told from reference counts, which cost nothing. A future can only be completed by code that has a reference to it. So
the references of the waiting task itself are counted off: its own pointer, the iterator that awaits it, variables of
its frames. When nothing is left, nobody else knows the future, and nobody will ever complete it. The same holds for a
lock, an event or a queue known only to those frames.

That says nothing of a lock that everybody knows and nobody will release. A lock says whom it goes to next; when that
has not changed for long, it was not released for as long. Whoever is inside `async with lock` has its __aexit__ on the
stack of a frame, and so is found. Then the lock is only held; unless the holder waits for the waiter, which is a
deadlock, or no holder is found.

Waiting for ever is often what a program means to do. `await asyncio.Future()` keeps many a server running. So the task
run by asyncio.run() is not suspected, nor one that keeps no name for what it waits for, nor one with a timer.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from . import awaits
from .asyncio_objects import (
    IN_BOX,
    Kept,
    callbacks,
    coroutine_of,
    is_a,
    is_done,
    is_task,
    waiter_of,
    waiting_for,
)
from .tasks_scan import RUNNING, Chain, Group, Look, Suspect, breathing

PRIMITIVES = (asyncio.Lock, asyncio.Event, asyncio.Condition, asyncio.Semaphore, asyncio.Queue)
_CODES = ("cr_code", "gi_code", "ag_code")
_OPAQUE = (type, ModuleType, FunctionType, BuiltinFunctionType, CodeType, str, bytes, int, float)
REFERENTS_MAX = 200
LOCKS_MAX = 1000
HOLDERS_BUDGET_S = 0.01
_MAIN = ("_run_until_complete_cb", "done_cb")
"""What asyncio and uvloop call when the task given to run_until_complete() is done."""


@dataclass(frozen=True)
class Fault:
    """kind: "stuck" or "orphan"; why: half a sentence for the reader. suspected: it may yet be meant so."""

    kind: str
    suspect: Suspect
    why: str
    suspected: bool = True


@dataclass
class _Lock:
    """What is known of a lock somebody has waited for. head: who gets it next. abandoned: nobody was found to hold it,
    and since then it was not released."""

    lock: weakref.ref[Any]
    head: int
    since_ns: int
    abandoned: bool = False


class Lints:
    """Remembers, from look to look, whom each contended lock goes to next."""

    def __init__(self, chain: Chain, stuck_s: float) -> None:
        self._chain = chain
        self._stuck_s = stuck_s
        self._locks: dict[int, _Lock] = {}

    def judge(self, look: Look, now_ns: int) -> list[Fault]:
        """Faults of the suspects. Adds the edges from those who wait for a lock to those who hold it."""
        faults = []
        lock_waiters = []
        for suspect in look.suspects:
            if suspect.group.awaits == awaits.LOCK:
                lock_waiters.append(suspect)
            elif suspect.wait_s >= self._stuck_s:
                fault = unreachable(suspect, self._chain)
                if fault is not None:
                    faults.append(fault)
        kept = Kept()
        try:
            faults += self._judge_locks(lock_waiters, look, kept, now_ns)
        finally:
            kept.let_go()
        return faults

    def _judge_locks(self, suspects: list[Suspect], look: Look, kept: Kept, now_ns: int) -> list[Fault]:
        waits: list[tuple[Suspect, int, int]] = []
        locks: dict[int, Any] = {}
        for suspect in suspects:
            task = kept.take(suspect.task)
            lock = None if task is None else lock_of(chain_of(task, self._chain)[0])
            if task is not None and lock is not None and len(locks) < LOCKS_MAX:
                locks[id(lock)] = lock
                waits.append((suspect, id(lock), id(task)))
        self._locks = {key: self._seen(lock, now_ns) for key, lock in locks.items()}
        if not locks:
            return []
        holders, complete = self._holders(look, kept, locks)
        held_by_waiter: dict[int, list[int]] = {}
        for _, key, waiting in waits:
            held_by_waiter[waiting] = holders.get(key, [])
            for holder in held_by_waiter[waiting]:
                edge = look.group_of_task.get(waiting, -1), look.group_of_task.get(holder, -1)
                if min(edge) >= 0 and waiting != holder:
                    look.edges[edge] = look.edges.get(edge, 0) + 1
        for key in locks:
            # Whoever holds it by `async with` would have been found then, and it is the same holding still.
            self._locks[key].abandoned |= complete and not holders.get(key)
        awaited = tasks_awaited(look, kept)
        faults = []
        for suspect, key, waiting in waits:
            known = self._locks[key]
            if suspect.wait_s < self._stuck_s:
                continue
            if waits_for_itself(waiting, held_by_waiter, awaited):
                why = "a deadlock: the task that holds the lock waits, in the end, for this one"
                faults.append(Fault("stuck", suspect, why, suspected=False))
            elif known.abandoned and now_ns - known.since_ns >= self._stuck_s * 1e9:
                faults.append(
                    Fault("stuck", suspect, "the lock was never released, and no task is inside `async with`")
                )
        return faults

    def _seen(self, lock: Any, now_ns: int) -> _Lock:
        waiters = getattr(lock, "_waiters", None)
        try:
            head = id(waiters[0]) if waiters else 0
        except IndexError:
            head = 0
        known = self._locks.get(id(lock))
        if known is not None and known.lock() is lock and known.head == head:
            return known
        return _Lock(weakref.ref(lock), head, now_ns)

    def _holders(self, look: Look, kept: Kept, locks: dict[int, Any]) -> tuple[dict[int, list[int]], bool]:
        """By id() of each lock the id() of tasks that are inside `async with`, or know it and release it; and whether
        every frame of every task was looked at. Those of a task that runs cannot be."""
        holders: dict[int, list[int]] = {}
        looked_at = running = 0
        for reference in breathing(look.references, HOLDERS_BUDGET_S):
            looked_at += 1
            task = kept.take(reference)
            if task is None or is_done(task):
                continue
            generators, state = chain_of(task, self._chain)
            running += state == RUNNING
            waited_for = lock_of(generators)
            times_waited_for = 0
            for generator, code in generators:
                for thing in gc.get_referents(generator):
                    for lock in held_by(thing, code, locks):
                        # Whoever waits in `async with` has its __aexit__ there too; who has two waits for itself.
                        times_waited_for += lock is waited_for and type(thing) is MethodType
                        if lock is not waited_for or times_waited_for == 2:
                            found = holders.setdefault(id(lock), [])
                            if id(task) not in found:
                                found.append(id(task))
        return holders, looked_at == len(look.references) and look.scale == 1.0 and not running


def held_by(thing: Any, code: CodeType, locks: dict[int, Any]) -> Iterable[Any]:
    """Of `locks`, those that a frame of this code, which refers to this thing, may hold."""
    if awaits.is_asyncio(code):
        return ()
    owner = thing.__self__ if type(thing) is MethodType else thing
    # From 3.14 on `async with` keeps the lock itself on the stack, like any variable.
    if id(owner) in locks and (owner is not thing or "release" in code.co_names or sys.version_info >= (3, 14)):
        return (owner,)
    if "release" in code.co_names and not is_a(owner, _OPAQUE):
        return [each for each in gc.get_referents(owner)[:REFERENTS_MAX] if id(each) in locks]
    return ()


def tasks_awaited(look: Look, kept: Kept) -> dict[int, set[int]]:
    """id() of a task to those of the tasks it waits for, by asyncio's callbacks."""
    by_waiter: dict[int, int] = {}
    pairs: list[tuple[int, int]] = []
    awaited: dict[int, set[int]] = {}
    for reference in look.references:
        task = kept.take(reference)
        if task is None or is_done(task):
            continue
        by_waiter[id(waiter_of(task))] = id(task)
        tasks, futures = waiting_for(task)
        for waiting in tasks:
            awaited.setdefault(id(waiting), set()).add(id(task))
        pairs += [(id(future), id(task)) for future in futures]
    for future, task_id in pairs:
        if future in by_waiter:
            awaited.setdefault(by_waiter[future], set()).add(task_id)
    return awaited


def waits_for_itself(start: int, holders: Mapping[int, list[int]], awaited: Mapping[int, set[int]]) -> bool:
    """Whether a task waits, over any number of others, for itself."""
    seen: set[int] = set()
    to_visit = [*holders.get(start, ()), *awaited.get(start, ())]
    while to_visit:
        at = to_visit.pop()
        if at == start:
            return True
        if at not in seen:
            seen.add(at)
            to_visit += [*holders.get(at, ()), *awaited.get(at, ())]
    return False


def chain_of(task: Any, chain: Chain) -> tuple[list[tuple[Any, CodeType]], int]:
    """(coroutines of a task, outermost first, with their code; state of the outermost)."""
    objects: list[Any] = []
    state = chain(coroutine_of(task), objects)[3]
    found = []
    for each in objects:
        code = next((code for name in _CODES if (code := getattr(each, name, None)) is not None), None)
        if code is not None:
            found.append((each, code))
    return found, state


def lock_of(generators: list[tuple[Any, CodeType]]) -> Any:
    """The lock that a task waits for in Lock.acquire(), or None."""
    for generator, code in reversed(generators):
        if not awaits.is_asyncio(code):
            return None
        if code.co_qualname == "Lock.acquire":
            return next((thing for thing in gc.get_referents(generator) if is_a(thing, asyncio.Lock)), None)
    return None


# Nobody can wake it


def unreachable(suspect: Suspect, chain: Chain) -> Fault | None:
    """The fault of a task that waits for something nobody else knows, if so."""
    task_box = [suspect.task()]
    if task_box[0] is None or is_done(task_box[0]) or is_main(task_box[0]):
        return None
    future_box = [waiter_of(task_box[0])]
    if future_box[0] is None or is_done(future_box[0]) or is_task(future_box[0]):
        return None
    count = _Count(future_box, task_box, chain)
    outside = sys.getrefcount(future_box[0]) - IN_BOX - count.future
    if count.has_timer or outside > 1 or (outside == 1 and not count.primitive_is_ours):
        return None
    if sys.getrefcount(task_box[0]) - IN_BOX <= count.task and outside == 0:
        return Fault("orphan", suspect, "nothing refers to the task but the future it waits for, which only it knows")
    if count.is_named:
        return Fault("stuck", suspect, f"nothing else refers to {what(suspect.group)}")
    return None


def what(group: Group) -> str:
    return "the future" if group.awaits in ("Future", "") else f"the {group.awaits}"


class _Count:
    """References of a waiting task's own to what it waits for. future: to the future; task: of the future to the task.
    primitive_is_ours: the lock, event or queue behind it is known to the task's frames only. is_named: a variable of
    the application holds one of them."""

    def __init__(self, future_box: list[Any], task_box: list[Any], chain: Chain) -> None:
        future = id(future_box[0])
        self.future = 1  # the task's own pointer
        self.task = sum(
            1
            for callback in callbacks(future_box[0])
            if type(callback) in (BuiltinFunctionType, MethodType) and callback.__self__ is task_box[0]
        )
        self.has_timer = self.is_named = self.primitive_is_ours = False
        primitive: list[Any] = []
        references = methods = 0
        for generator, code in reversed(chain_of(task_box[0], chain)[0]):
            for thing in gc.get_referents(generator):
                kind = type(thing)
                if id(thing) == future:
                    self.future += 1
                    self.is_named = self.is_named or not awaits.is_asyncio(code)
                elif kind.__name__ == "FutureIter":
                    self.future += sum(1 for each in gc.get_referents(thing) if id(each) == future)
                elif not primitive and awaits.is_asyncio(code) and is_a(thing, PRIMITIVES):
                    primitive.append(thing)
                if primitive and thing is primitive[0]:
                    references += 1
                    self.is_named = self.is_named or not awaits.is_asyncio(code)
                elif kind is MethodType:
                    if primitive and thing.__self__ is primitive[0]:
                        methods += 1
                    self.has_timer = self.has_timer or has_timer(thing.__self__)
                else:
                    self.has_timer = self.has_timer or has_timer(thing)
                del thing
        if primitive:
            self.primitive_is_ours = sys.getrefcount(primitive[0]) - IN_BOX <= references + methods


def has_timer(thing: Any) -> bool:
    """Whether it is a timer of a loop or has one, such as asyncio.timeout() and what resembles it."""
    if type(thing).__name__ == "TimerHandle":
        return True
    if is_a(thing, _OPAQUE) or thing is None:
        return False
    return any(type(each).__name__ == "TimerHandle" for each in gc.get_referents(thing)[:REFERENTS_MAX])


def is_main(task: Any) -> bool:
    """Whether run_until_complete() waits for it."""
    return any(getattr(callback, "__name__", "") in _MAIN for callback in callbacks(task) if _is_function(callback))


def _is_function(callback: object) -> bool:
    return type(callback).__name__ in ("function", "cython_function_or_method")
