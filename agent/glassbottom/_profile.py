"""`glassbottom.profile`: how long functions and blocks take, what they cost, and how they end.

What is wrapped must not notice. Results, exceptions, tracebacks, cancellation, the protocol of generators and what
`inspect` tells stay as they were; a wrapper takes its own entry out of a traceback, and its code object carries the
name, file and line of the function, so that tools which group by code tell functions apart. Only the live stack has one
frame more.

Here is what has to be Python so that a function stays a function; clocks and who calls whom are native/calls.c. Until
the agent calls attach(), and where there is no native part, nothing is measured.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Awaitable, Callable, Generator
from threading import get_ident
from time import monotonic_ns as now_ns  # the clock of _native.steps_of()
from types import CodeType, FrameType, FunctionType, TracebackType
from types import coroutine as generator_based
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from ._log import log
from ._switch import is_disabled

if TYPE_CHECKING:
    from ._native import Call, Operation
    from .probes.operations import Recorder

    Steps = tuple[int, int, int, int, int, int]

Profiled = TypeVar("Profiled", bound="Callable[..., Any] | classmethod[Any, ..., Any] | staticmethod[..., Any]")
"""So that a type checker sees the very function that was given."""

BLOCKS_MAX = 1024
"""Places of `with profile(…)` remembered; beyond that they are looked up afresh."""
_COROUTINE, _GENERATOR, _ITERABLE_COROUTINE, _ASYNC_GENERATOR = 0x80, 0x20, 0x100, 0x200  # inspect's, without inspect

_recorder: Recorder | None = None
_error_logged = False


def _no_call(_operation: Operation) -> Call | None:
    return None


def _no_end(_call: Call | None, _error: BaseException | None) -> None:
    pass


def _no_steps(_coroutine: object) -> Steps | None:
    return None


_begin: Callable[[Operation], Call | None] = _no_call
_end: Callable[[Call | None, BaseException | None], None] = _no_end
_new: Callable[[Operation], Call | None] = _no_call
_steps_of: Callable[[object], Steps | None] = _no_steps


def attach(recorder: Recorder) -> None:
    """Records into it from now on; by the agent, also again in a forked child."""
    global _recorder, _begin, _end, _new, _steps_of
    if recorder.table is None:
        detach()
        return
    from . import _native

    _native.calls_attach(recorder.table)
    _begin, _end, _new, _steps_of = _native.call_begin, _native.call_end, _native.call_new, _native.steps_of
    _recorder = recorder


def detach() -> None:
    """Measures nothing from now on."""
    global _recorder
    if _recorder is not None:
        from . import _native

        _recorder = None
        _native.calls_attach(None)


@overload
def profile(target: Profiled, /) -> Profiled: ...


@overload
def profile(target: str | None = None, /) -> Profile: ...


def profile(target: Any = None, /) -> Any:
    """Measures a function, or a block: `@profile`, `@profile("label")`, `with profile("label"):`, `async with`.

    Recorded for each call: wall time, time outside of profiled callees, CPU time of the thread (of short calls: of one
    in eight), bytes allocated, for coroutines the time they really ran, and how it ended: "ok", "error", "cancelled".
    `glassbottom slow` shows them. Costs about 0.5 µs a call while the agent runs, 0.1 µs without it.

    On functions, methods, class and static methods, coroutine functions, generators and async generators. What is
    wrapped keeps its name, docstring, signature, result, exceptions and tracebacks. Raises TypeError for anything else.
    """
    if target is None or isinstance(target, str):
        return Profile(target)
    return _wrapped(target, None)


# ---- what is measured ----------------------------------------------------------------------------------------------


class _Measured:
    """One function or block, and its native side once there is an agent."""

    __slots__ = ("name", "native", "place")

    def __init__(self, name: str, place: tuple[str, str, int] | None) -> None:
        self.name = name
        self.place = place
        self.native: Operation | None = None

    def prepare(self) -> Operation:
        from . import _native

        self.native = _native.Operation(self._slot)
        return self.native

    def _slot(self, status: str) -> int:
        from .probes.operations import FUNCTION, Key

        recorder = _recorder
        if recorder is None:
            return -1
        return recorder.slot(Key(FUNCTION, self.name, status=status, place=self.place))


def _task() -> object:
    """The asyncio task that runs in this thread, if any."""
    tasks = sys.modules.get("asyncio.tasks")
    if tasks is None or sys.modules["asyncio.events"]._get_running_loop() is None:
        return None
    return tasks.current_task()


def _report(error: Exception) -> None:
    global _error_logged
    if not _error_logged:
        _error_logged = True
        log().warning(
            "glassbottom: internal error in profile; the application is not affected and this is logged once.",
            exc_info=error,
        )


# ---- wrappers ------------------------------------------------------------------------------------------------------
#
# Each takes its own entry, the outermost, out of the traceback of an error that it lets pass. A bare `raise`, unlike
# `raise error`, does not enter it a second time. That stands here again and again, rather than in a function, since at
# the limit of recursion a function could not be called.


def _wrapped(target: Any, label: str | None) -> Any:
    if isinstance(target, (classmethod, staticmethod)):
        return type(target)(_wrapped(target.__func__, label))
    if not callable(target) or isinstance(target, type):
        raise TypeError(
            f"glassbottom.profile measures functions, methods and blocks, not {target!r}; "
            "put it on the function itself, below @property and the like."
        )
    if is_disabled():
        return target
    code = _code_of(target)
    name = label or getattr(target, "__qualname__", None) or type(target).__qualname__
    place = None if code is None else (code.co_qualname, code.co_filename, code.co_firstlineno)
    return _in_place_of(target, code, _wrapper(target, 0 if code is None else code.co_flags, _Measured(name, place)))


def _wrapper(function: Callable[..., Any], flags: int, measured: _Measured) -> Any:
    if flags & _ASYNC_GENERATOR:
        return _of_async_generator(function, measured)
    if flags & _COROUTINE or _is_marked(function):
        return _of_coroutine(function, measured)
    if flags & _ITERABLE_COROUTINE:
        return generator_based(_of_generator(function, measured))
    if flags & _GENERATOR:
        return _of_generator(function, measured)
    return _of_function(function, measured)


def _code_of(target: Any) -> CodeType | None:
    """Of a function, a bound method, a partial of one, or an object that is called."""
    while isinstance(target, functools.partial):
        target = target.func
    code = getattr(target, "__code__", None)
    if code is None:
        code = getattr(type(target).__call__, "__code__", None)
    return code if isinstance(code, CodeType) else None


def _is_marked(function: Callable[..., Any]) -> bool:
    """Whether it says of itself that it returns a coroutine, as functions marked by inspect and Cython's do."""
    return any(getattr(function, name, None) is not None for name in ("_is_coroutine_mark", "_is_coroutine"))


def _in_place_of(function: Any, code: CodeType | None, call: FunctionType) -> FunctionType:
    """Makes the wrapper look like what it wraps, to whoever reads functions and to whoever reads code objects."""
    functools.update_wrapper(call, function)
    if code is not None:
        ours = call.__code__
        call.__code__ = ours.replace(
            co_name=code.co_name,
            co_qualname=code.co_qualname,
            co_filename=code.co_filename,
            co_firstlineno=code.co_firstlineno,
            # Every instruction on that line: entries "no columns, same line", each for at most eight code units.
            co_linetable=bytes((0x80 | 13 << 3 | 7, 0)) * -(-len(ours.co_code) // 16),
        )
    return call


def _of_function(function: Callable[..., Any], measured: _Measured) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        begun = None if _recorder is None else _begin(measured.native or measured.prepare())
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            if begun is not None:
                _end(begun, error)
            if (trace := error.__traceback__) is not None:
                error.__traceback__ = trace.tb_next
            raise
        if begun is not None:
            _end(begun, None)
        return result

    return call


def _of_coroutine(function: Callable[..., Awaitable[Any]], measured: _Measured) -> Any:
    async def call(*args: Any, **kwargs: Any) -> Any:
        pieces = None if _recorder is None else _new(measured.native or measured.prepare())
        try:
            coroutine = function(*args, **kwargs)
            del args, kwargs  # they may be large, and this frame may live long
            if pieces is None:
                return await coroutine
            result = await pieces.of(_steppable(coroutine))
        except BaseException as error:
            if pieces is not None:
                pieces.awaited()
                pieces.end_pieces(error)
            if (trace := error.__traceback__) is not None:
                error.__traceback__ = trace.tb_next
            raise
        pieces.awaited()
        pieces.end_pieces(None)
        return result

    return call


def _steppable(awaitable: Any) -> Any:
    """It, or a coroutine that awaits it."""
    if hasattr(awaitable, "send"):
        return awaitable

    async def awaits() -> Any:
        return await awaitable

    return awaits()


def _of_generator(function: Callable[..., Generator[Any, Any, Any]], measured: _Measured) -> Any:
    # By hand, since `yield from` answers close() and throw(GeneratorExit) differently from a generator itself.
    def call(*args: Any, **kwargs: Any) -> Any:
        pieces = None if _recorder is None else _new(measured.native or measured.prepare())
        item: list[Any] = []  # emptied before each yield: what the consumer lets go must be gone
        argument: Any = None
        try:
            generator = function(*args, **kwargs)
            del args, kwargs
            resume = generator.send
            while True:
                item.append(resume(argument) if pieces is None else pieces.run(resume, argument))
                argument = None
                try:
                    argument = yield item.pop()
                    resume = generator.send
                except BaseException as error:  # noqa: BLE001 - for the generator to answer
                    if (trace := error.__traceback__) is not None:
                        error.__traceback__ = trace.tb_next
                    resume, argument = generator.throw, error
        except StopIteration as stop:
            if pieces is not None:
                pieces.end_items(None)
            return stop.value
        except BaseException as error:
            if pieces is not None:
                pieces.end_items(None if isinstance(error, GeneratorExit) else error)
            if (trace := error.__traceback__) is not None:
                error.__traceback__ = trace.tb_next
            raise

    return call


def _of_async_generator(function: Callable[..., Any], measured: _Measured) -> Any:
    async def call(*args: Any, **kwargs: Any) -> Any:
        pieces = None if _recorder is None else _new(measured.native or measured.prepare())
        item: list[Any] = []
        try:
            generator = function(*args, **kwargs)
            del args, kwargs
            step = _first_step(generator)
            while True:
                if pieces is None:
                    item.append(await step)
                else:
                    try:
                        item.append(await pieces.of(step))
                    finally:
                        pieces.awaited()
                try:
                    step = generator.asend((yield item.pop()))
                except BaseException as error:  # noqa: BLE001 - for the generator to answer
                    if (trace := error.__traceback__) is not None:
                        error.__traceback__ = trace.tb_next
                    step = generator.athrow(error)
        except StopAsyncIteration:
            if pieces is not None:
                pieces.end_pieces(None)
        except BaseException as error:
            if pieces is not None:
                pieces.end_pieces(None if isinstance(error, GeneratorExit) else error)
            if (trace := error.__traceback__) is not None:
                error.__traceback__ = trace.tb_next
            raise

    return call


def _first_step(generator: Any) -> Any:
    """Its first __anext__(), unseen by the event loop: the loop closes the wrapper, which closes what it wraps. Closed
    by both at the end of a loop, one of them would fail."""
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(None, None)
    try:
        return generator.__anext__()
    finally:
        sys.set_asyncgen_hooks(*hooks)


# ---- blocks --------------------------------------------------------------------------------------------------------


class Profile:
    """What `profile("label")` returns: a decorator, and a context manager for `with` and `async with`.

    As a context manager without a label it bears the name of the function it stands in. One may be entered many times,
    also at once and from several threads or tasks.
    """

    __slots__ = ("_label", "_open")

    _open: list[_Block] | None  # made when it is needed: most blocks are entered while nothing is measured

    def __init__(self, label: str | None = None) -> None:
        self._label = label
        self._open = None

    def __call__(self, target: Profiled) -> Profiled:
        return cast("Profiled", _wrapped(target, self._label))

    def __enter__(self) -> None:
        if _recorder is not None:
            self._enter(sys._getframe(1))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._open:
            self._exit(self._open, error)

    async def __aenter__(self) -> None:
        if _recorder is not None:
            self._enter(sys._getframe(1))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._open:
            self._exit(self._open, error)

    def _enter(self, frame: FrameType) -> None:
        try:
            measured = _measured_block(self._label, frame)
            task = _task()
            call = _begin(measured.native or measured.prepare())
            if call is not None:
                if self._open is None:
                    self._open = []
                self._open.append(_Block(call, task))
        except Exception as error:  # noqa: BLE001 - ours must not become the application's
            _report(error)

    def _exit(self, blocks: list[_Block], error: BaseException | None) -> None:
        try:
            block = _ending(blocks)
            if block is not None:
                blocks.remove(block)
                block.end(error)
        except Exception as failure:  # noqa: BLE001
            _report(failure)


def _ending(blocks: list[_Block]) -> _Block | None:
    """The one that ends now: of those open on one object, the last of this task and thread."""
    if len(blocks) == 1:
        return blocks[0]
    task, thread = _task(), get_ident()
    return next((b for b in reversed(blocks) if b.task is task and b.thread == thread), None)


class _Block:
    """A `with` that has begun. In a task it may be left and resumed, and in a generator it may end in another thread:
    then CPU time and bytes of the thread are not its own. Of a task they are told if its steps show that it was not."""

    __slots__ = ("call", "steps", "task", "thread")

    def __init__(self, call: Call, task: Any) -> None:
        self.call = call
        self.task = task
        self.thread = get_ident()
        self.steps: Steps | None = None
        if task is not None:
            self.steps = _steps_of(task.get_coro())

    def end(self, error: BaseException | None) -> None:
        if self.thread != get_ident():
            self.call.end_waited(error, 0)
            return
        if self.task is None:
            _end(self.call, error)
            return
        before, now = self.steps, _steps_of(self.task.get_coro())
        if before is None or now is None:
            self.call.end_waited(error, 0)
        elif before[1] == now[1]:  # the same step runs still
            _end(self.call, error)
        else:
            # Busy until now less busy until then, each with what the step of that moment had run.
            busy_ns = (now[5] + now_ns() - now[1]) - (before[5] + self.call.started_ns - before[1])
            self.call.end_waited(error, busy_ns)


_blocks: dict[tuple[str | None, int, int], tuple[CodeType, _Measured]] = {}
"""By label, code and instruction. The code by its id, since hashing one takes a microsecond, and kept, so that the id
stays its own."""


def _measured_block(label: str | None, frame: FrameType) -> _Measured:
    code = frame.f_code
    key = (label, id(code), frame.f_lasti)
    found = _blocks.get(key)
    if found is None:
        if len(_blocks) >= BLOCKS_MAX:  # labels made up at run time
            _blocks.clear()
        place = (code.co_qualname, code.co_filename, frame.f_lineno or code.co_firstlineno)
        found = _blocks[key] = code, _Measured(label or code.co_qualname, place)
    return found[1]
