"""Reads asyncio's own objects from another thread, without a method an application may have replaced.

A task may be of a subclass whose get_name() does anything. So attributes and methods are those of asyncio's classes,
C or Python, and an object is what its type says, never what it claims by __class__. What the tasks of a loop are is
kept differently by every version of Python; that stands here and nowhere else.
"""

from __future__ import annotations

import asyncio
import asyncio.futures
import asyncio.tasks
import contextlib
import os
import sys
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType
from typing import Any

_CTask, _PyTask = asyncio.Task, asyncio.tasks._PyTask  # type: ignore[attr-defined]
_CFuture, _PyFuture = asyncio.Future, asyncio.futures._PyFuture  # type: ignore[attr-defined]
_TASKS, _FUTURES = (_CTask, _PyTask), (_CFuture, _PyFuture)
_get_loop, _done, _get_coro = _CFuture.get_loop, _CFuture.done, _CTask.get_coro
_GATHERING: type = getattr(asyncio.tasks, "_GatheringFuture", _PyFuture)
HOME = str(Path(asyncio.__file__).parent) + os.sep
"""Where asyncio's own code is."""
RETRIES = 100


def is_a(thing: object, kinds: type | tuple[type, ...]) -> bool:
    """isinstance() that asks the type and never __class__, which may be the application's code."""
    return issubclass(type(thing), kinds)


def is_task(thing: object) -> bool:
    return issubclass(type(thing), _TASKS)


def is_future(thing: object) -> bool:
    return issubclass(type(thing), _FUTURES)


def coroutine_of(task: Any) -> Any:
    return _CTask.get_coro(task) if issubclass(type(task), _CTask) else task._coro


def read(task: Any) -> tuple[Any, bool, Any, Any]:
    """(loop, whether it is done, coroutine, the future it waits for or None) of a task, in one go: they may be many."""
    if issubclass(type(task), _CTask):
        return _get_loop(task), _done(task), _get_coro(task), task._fut_waiter
    return task._loop, is_done(task), task._coro, task._fut_waiter


def name_of(task: Any) -> str:
    return str(_CTask.get_name(task) if issubclass(type(task), _CTask) else task._name)


def is_done(future: Any) -> bool:
    return _CFuture.done(future) if issubclass(type(future), _CFuture) else bool(_PyFuture.done(future))


def is_done_future(thing: Any) -> bool:
    """Whether it is a future, and done."""
    kind = type(thing)
    if issubclass(kind, _CFuture):
        return _done(thing)
    return issubclass(kind, _PyFuture) and bool(_PyFuture.done(thing))


def cancelled(future: Any) -> bool:
    return _CFuture.cancelled(future) if issubclass(type(future), _CFuture) else bool(_PyFuture.cancelled(future))


def exception_of(future: Any) -> Any:
    """The exception of one that is done; not by exception(), which would mark it as retrieved."""
    return future._exception


def loop_of(future: Any) -> Any:
    return _CFuture.get_loop(future) if issubclass(type(future), _CFuture) else future._loop


def waiter_of(task: Any) -> Any:
    """The future a task waits for, or None."""
    return task._fut_waiter


def type_name(thing: object) -> str:
    """Of an awaited object: "Future" and "Task" for asyncio's, else with its module."""
    kind = type(thing)
    if kind in _FUTURES:
        return "Future"
    if kind in _TASKS:
        return "Task"
    if kind is _GATHERING:
        return "asyncio.gather"
    return f"{kind.__module__}.{kind.__qualname__}"


def callbacks(future: Any) -> list[Any]:
    """What is called when it is done."""
    try:
        return [callback for callback, _ in future._callbacks or ()]
    except TypeError:  # an older shape, or none of ours
        return []


def waiting_for(awaited: Any) -> tuple[list[Any], list[Any]]:
    """(tasks, futures) that go on when this task is done, by the callbacks asyncio has added to it.

    A task that awaits it directly; the future behind gather(), wait(), wait_for(), shield() or a task group, which
    another task waits for in turn.
    """
    tasks: list[Any] = []
    futures: list[Any] = []
    for callback in callbacks(awaited):
        kind = type(callback)
        if kind is BuiltinFunctionType or kind is MethodType:
            owner = callback.__self__
            if is_task(owner):
                tasks.append(owner)
            elif type(owner) is getattr(asyncio, "TaskGroup", None):
                futures.append(getattr(owner, "_on_completed_fut", None))
        elif kind is FunctionType and callback.__code__.co_filename.startswith(HOME):
            code: CodeType = callback.__code__
            cells = dict(zip(code.co_freevars, callback.__closure__ or (), strict=False))
            for name in ("outer", "waiter"):
                if name in cells:
                    futures.append(_content(cells[name]))
        elif kind.__name__ == "partial" and callback.args and is_future(callback.args[0]):
            futures.append(callback.args[0])
    return tasks, [future for future in futures if future is not None and is_future(future)]


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # empty
        return None


# All tasks


def task_references(loops: Iterable[Any]) -> list[Callable[[], Any]]:
    """A weak reference to each task there is, done or not, of these loops at least. So our list keeps nothing alive.

    It is made in one go in C. The set may still change under it when a collection of garbage begins: then once more.
    """
    if sys.version_info >= (3, 14):
        return [ref for loop in loops for ref in map(weakref.ref, asyncio.all_tasks(loop))]
    known: Any = getattr(asyncio.tasks, "_scheduled_tasks", None)
    if known is None:
        known = asyncio.tasks._all_tasks  # type: ignore[attr-defined]
    eager: Any = getattr(asyncio.tasks, "_eager_tasks", ())
    return [*map(weakref.ref, _copied(eager)), *_copied(known.data)]


def _alone() -> int:
    box = [object()]
    return sys.getrefcount(box[0])


IN_BOX = _alone()
"""What getrefcount() says of something that only one list holds, taken from that list; versions of Python differ."""


def hand_over(box: list[Any]) -> None:
    """When nobody holds the task in the box any more but the box, its loop is to destroy it, in its own thread.

    For that closes a coroutine that has not ended, and its `finally` would run here.
    """
    if box and box[0] is not None and sys.getrefcount(box[0]) <= IN_BOX:
        with contextlib.suppress(RuntimeError):  # a closed loop runs nothing any more
            loop_of(box[0]).call_soon_threadsafe(box.clear)


class Kept:
    """Tasks held for a moment, to be let go all at once and in the right thread."""

    __slots__ = ("_tasks",)

    def __init__(self) -> None:
        self._tasks: list[Any] = []

    def take(self, reference: Callable[[], Any]) -> Any:
        """The task of a weak reference, or None; it lives until let_go()."""
        task = reference()
        if task is not None:
            self._tasks.append(task)
        return task

    def take_all(self, references: list[Callable[[], Any]]) -> list[Any]:
        """Those of many that are still alive."""
        tasks = [task for reference in references if (task := reference()) is not None]
        self._tasks += tasks
        return tasks

    def let_go(self) -> None:
        """The caller must not hold any of them in a variable."""
        tasks, self._tasks = self._tasks, []
        while tasks:
            hand_over([tasks.pop()])


def _copied(changing: Any) -> list[Any]:
    for _ in range(RETRIES):
        try:
            return list(changing)
        except RuntimeError:  # it changed size
            continue
    return []
