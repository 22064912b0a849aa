"""Under `glassbottom.profile` a function is the function it was, measured or not; and what is measured is true.

Each behaviour is looked at three times: plain, wrapped without an agent, wrapped with one recording.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import copy
import functools
import gc
import inspect
import pickle
import sys
import threading
import time
import traceback
import types
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import glassbottom
import pytest
import uvloop
from glassbottom import _native, _profile
from glassbottom.probes.operations import FUNCTION, OTHER, Key, Recorder
from glassbottom.wire.v1 import ingest_pb2, operations_pb2

from tests.support.ingest_double import IngestDouble, body_of
from tests.support.programs import python

WAYS = ["plain", "off", "on"]


class Recorded:
    """What a Recorder took, by name and status."""

    def __init__(self) -> None:
        self.recorder = Recorder(_native.OperationTable(256))
        self.rows: dict[tuple[str, str], Any] = {}

    def take(self) -> dict[tuple[str, str], Row]:
        return {(key.name, key.status): Row(key, row) for key, row in self.recorder.take()}


class Row:
    def __init__(self, key: Key, row: Any) -> None:
        self.key = key
        _, self.count, self.duration_ns, self.self_ns, self.user_ns, self.system_ns, self.cpu_count = row[:7]
        self.busy_ns, self.alloc_bytes = row[7:9]


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    found = Recorded()
    _profile.attach(found.recorder)
    yield found
    _profile.detach()


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Iterator[Callable[[Any], Any]]:
    """The decorator of one way, which leaves a function plain in the first."""
    if request.param == "on":
        _profile.attach(Recorded().recorder)
    yield (lambda function: function) if request.param == "plain" else glassbottom.profile
    _profile.detach()


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    def run(coroutine: Any) -> Any:
        factory = None if request.param == "asyncio" else uvloop.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(coroutine)

    return run


def frames(error: BaseException) -> list[tuple[str, int]]:
    """(function, line) of the traceback below the test's own function."""
    return [(frame.name, frame.lineno or 0) for frame in traceback.extract_tb(error.__traceback__)][1:]


# ---- looks ----------------------------------------------------------------------------------------------------------


def example(a: int, /, b: str = "x", *rest: int, key: bool = False, **more: Any) -> str:
    """Documented."""
    return f"{a}{b}{rest}{key}{more}"


async def example_coroutine(a: int) -> int:
    """Waits."""
    await asyncio.sleep(0)
    return a


def example_generator(n: int) -> Iterator[int]:
    yield from range(n)


async def example_async_generator(n: int) -> AsyncIterator[int]:
    for i in range(n):
        await asyncio.sleep(0)
        yield i


EXAMPLES = [example, example_coroutine, example_generator, example_async_generator]


@pytest.mark.parametrize("function", EXAMPLES)
@pytest.mark.parametrize("label", [None, "some.label"])
def test_a_wrapped_function_looks_like_the_one_it_wraps(function: Any, label: str | None) -> None:
    wrapped = glassbottom.profile(function) if label is None else glassbottom.profile(label)(function)
    assert wrapped is not function
    assert wrapped.__wrapped__ is function
    assert isinstance(wrapped, types.FunctionType)
    for name in ("__name__", "__qualname__", "__module__", "__doc__", "__annotations__"):
        assert getattr(wrapped, name) == getattr(function, name)
    assert inspect.signature(wrapped) == inspect.signature(function)
    for kind in (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction):
        assert kind(wrapped) == kind(function)
    assert asyncio.iscoroutinefunction(wrapped) == asyncio.iscoroutinefunction(function)
    for name in ("co_name", "co_qualname", "co_filename", "co_firstlineno"):
        assert getattr(wrapped.__code__, name) == getattr(function.__code__, name)
    assert {line for *_, line in wrapped.__code__.co_lines()} == {function.__code__.co_firstlineno}


@glassbottom.profile
def of_the_module(a: int) -> int:
    return a + 1


def test_a_wrapped_function_can_be_pickled_and_copied() -> None:
    assert pickle.loads(pickle.dumps(of_the_module)) is of_the_module
    assert copy.deepcopy(of_the_module) is of_the_module


def test_what_is_no_function_is_refused_with_advice() -> None:
    for thing in (property(lambda self: 1), 3, int):
        with pytest.raises(TypeError, match="below @property"):
            glassbottom.profile(thing)  # type: ignore[call-overload]


def test_under_the_kill_switch_a_function_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLASSBOTTOM_DISABLE", "1")
    assert glassbottom.profile(example) is example
    with glassbottom.profile("block"):
        pass


# ---- functions and methods ------------------------------------------------------------------------------------------


def test_results_and_arguments_pass_unchanged(way: Any) -> None:
    assert way(example)(1, "y", 2, 3, key=True, z=4) == "1y(2, 3)True{'z': 4}"
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        way(example)()


class Shop:
    factor = 3

    def __init__(self, price: int) -> None:
        self.price = price

    @glassbottom.profile
    def total(self, n: int) -> int:
        return self.price * n

    @classmethod
    @glassbottom.profile
    def class_inside(cls, n: int) -> int:
        return cls.factor * n

    @glassbottom.profile("outside")
    @classmethod
    def class_outside(cls, n: int) -> int:
        return cls.factor * n

    @staticmethod
    @glassbottom.profile
    def static_inside(n: int) -> int:
        return n

    @glassbottom.profile
    @staticmethod
    def static_outside(n: int) -> int:
        return n

    @property
    @glassbottom.profile
    def twice(self) -> int:
        return self.price * 2


class Discounter(Shop):
    factor = 2

    def total(self, n: int) -> int:
        return super().total(n) - 1


def test_methods_of_every_sort_are_bound_as_they_were(recorded: Recorded) -> None:
    shop = Shop(5)
    assert (shop.total(2), Shop.total(shop, 2), shop.twice) == (10, 10, 10)
    assert (Shop.class_inside(2), shop.class_outside(2), Discounter.class_outside(2)) == (6, 6, 4)
    assert (Shop.static_inside(7), shop.static_outside(7)) == (7, 7)
    assert Discounter(5).total(2) == 9
    assert isinstance(Shop.__dict__["static_outside"], staticmethod)
    counts = {name: row.count for (name, _), row in recorded.take().items()}
    assert counts == {
        "Shop.total": 3,
        "Shop.twice": 1,
        "Shop.class_inside": 1,
        "outside": 2,
        "Shop.static_inside": 1,
        "Shop.static_outside": 1,
    }


def test_partials_builtins_and_objects_that_are_called_can_be_measured(recorded: Recorded) -> None:
    class Called:
        def __call__(self, n: int) -> int:
            return n + 1

    assert glassbottom.profile("partial")(functools.partial(example, 1))("q") == "1q()False{}"
    assert glassbottom.profile(len)([1, 2]) == 2
    assert glassbottom.profile("object")(Called())(1) == 2
    assert {name for name, _ in recorded.take()} == {"partial", "len", "object"}


def raises(depth: int = 2) -> None:
    if depth:
        raises(depth - 1)
    raise LookupError("lost")


def test_a_traceback_has_no_entry_of_ours(way: Any) -> None:
    with pytest.raises(LookupError) as plain:
        raises()
    with pytest.raises(LookupError) as seen:
        way(raises)()
    assert frames(seen.value) == frames(plain.value)


def test_an_error_of_a_builtin_has_an_empty_traceback_below_the_caller(way: Any) -> None:
    with pytest.raises(TypeError) as seen:
        way(len)(3)
    assert frames(seen.value) == []


def test_causes_and_contexts_stay(way: Any) -> None:
    @way
    def fails() -> None:
        try:
            raise KeyError(1)
        except KeyError as error:
            raise ValueError(2) from error

    try:
        raise OSError(3)
    except OSError as around:
        with pytest.raises(ValueError, match="2") as seen:
            fails()
        assert isinstance(seen.value.__cause__, KeyError)
        assert seen.value.__cause__.__context__ is around


def test_recursion_and_recursion_errors_work(way: Any) -> None:
    @way
    def factorial(n: int) -> int:
        return 1 if n == 0 else n * factorial(n - 1)

    @way
    def endless() -> None:
        endless()

    assert factorial(20) == 2432902008176640000
    with pytest.raises(RecursionError):
        endless()


# ---- coroutines -----------------------------------------------------------------------------------------------------


def test_a_coroutine_returns_raises_and_is_one(way: Any, run: Any) -> None:
    @way
    async def works(value: Any) -> Any:
        await asyncio.sleep(0)
        return value

    @way
    async def fails() -> None:
        await asyncio.sleep(0)
        raise LookupError("lost")

    async def main() -> None:
        for value in (None, 1, (1, 2), ValueError("as a value"), StopIteration(3)):
            assert await works(value) is value
        coroutine = works(1)
        assert inspect.iscoroutine(coroutine)
        assert coroutine.cr_code.co_filename == __file__
        assert await asyncio.create_task(coroutine) == 1
        with pytest.raises(LookupError) as seen:
            await fails()
        assert [name for name, _ in frames(seen.value)] == ["fails"]
        with pytest.raises(LookupError) as seen:
            await asyncio.create_task(fails())
        assert [name for name, _ in frames(seen.value)] == ["fails"]

    run(main())


def test_wrong_arguments_of_a_coroutine_are_an_error_where_it_is_awaited(way: Any, run: Any) -> None:
    async def main() -> None:
        with pytest.raises(TypeError, match="missing 1 required positional argument") as seen:
            await way(example_coroutine)()
        assert frames(seen.value) == []

    run(main())


def test_a_coroutine_that_is_never_awaited_is_told_by_its_name_once(way: Any) -> None:
    with pytest.warns(RuntimeWarning) as warnings:
        way(example_coroutine)(1)
        gc.collect()
    assert [str(warning.message) for warning in warnings] == ["coroutine 'example_coroutine' was never awaited"]


def test_a_cancelled_coroutine_cleans_up_and_may_refuse(way: Any, run: Any) -> None:
    async def main() -> None:
        trace: list[str] = []

        @way
        async def patient() -> str:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                trace.append("cancelled")
                await asyncio.sleep(0)
                return "refused"
            finally:
                trace.append("cleaned")
            return "slept"

        @way
        async def obedient() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0)
                trace.append("obedient")

        for coroutine in (patient, obedient):
            task = asyncio.create_task(coroutine())
            await asyncio.sleep(0)
            task.cancel("enough")
            if coroutine is patient:
                assert await task == "refused"
            else:
                with pytest.raises(asyncio.CancelledError, match="enough"):
                    await task
        assert trace == ["cancelled", "cleaned", "obedient"]

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await obedient()

    run(main())


def test_a_task_group_cancels_its_others_when_one_fails(way: Any, run: Any) -> None:
    async def main() -> None:
        @way
        async def waits() -> None:
            await asyncio.sleep(60)

        @way
        async def fails() -> None:
            await asyncio.sleep(0)
            raise LookupError

        with pytest.raises(ExceptionGroup) as seen:
            async with asyncio.TaskGroup() as group:
                waiting = group.create_task(waits())
                group.create_task(fails())
        assert [type(error) for error in seen.value.exceptions] == [LookupError]
        assert waiting.cancelled()

    run(main())


def test_whoever_follows_the_awaits_of_a_task_gets_to_where_it_waits(way: Any, run: Any) -> None:
    @way
    async def outer() -> None:
        await inner()

    @way
    async def inner() -> None:
        await asyncio.get_running_loop().create_future()

    async def main() -> None:
        task = asyncio.create_task(outer())
        await asyncio.sleep(0)
        names: list[str] = []
        at: Any = task.get_coro()
        while at is not None and hasattr(at, "cr_await"):
            if at.cr_code.co_name not in names:
                names.append(at.cr_code.co_name)
            at = at.cr_await
        assert names == ["outer", "inner"]
        assert hasattr(at, "send")  # the iterator of the future
        task.cancel()

    run(main())


def test_a_coroutine_driven_by_hand_answers_as_it_did(way: Any) -> None:
    @types.coroutine
    def ask(question: str) -> Any:
        return (yield question)

    @way
    async def talk() -> list[Any]:
        answers = [await ask("first")]
        try:
            await ask("second")
        except ValueError as error:
            answers.append(str(error))
        return answers

    coroutine = talk()
    assert coroutine.send(None) == "first"
    assert coroutine.send(1) == "second"
    with pytest.raises(StopIteration) as stop:
        coroutine.throw(ValueError("no"))
    assert stop.value.value == [1, "no"]

    coroutine = talk()
    coroutine.send(None)
    coroutine.close()
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        coroutine.send(None)


def test_a_coroutine_made_of_a_generator_can_be_wrapped(way: Any, run: Any) -> None:
    @way
    @types.coroutine
    def old(n: int) -> Any:
        yield from asyncio.sleep(0).__await__()
        return n

    async def main() -> int:
        return await old(3)

    assert run(main()) == 3


if sys.version_info >= (3, 12):

    def test_eager_tasks_work(way: Any) -> None:
        async def main() -> list[int]:
            asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
            return await asyncio.gather(*(asyncio.create_task(way(example_coroutine)(n)) for n in range(3)))

        assert asyncio.run(main()) == [0, 1, 2]


# ---- generators -----------------------------------------------------------------------------------------------------


def conversation(trace: list[Any]) -> Any:
    """A generator that tells of everything that happens to it."""
    received: Any = "start"
    while True:
        try:
            trace.append(received)
            received = yield received
        except ValueError as error:
            received = f"caught {error}"
        except GeneratorExit:
            trace.append("exit")
            if received == "stubborn":
                received = yield "still here"
            if received == "returns":
                return "last word"
            raise
        if received == "end":
            return "result"


@pytest.mark.parametrize("last", ["end", "close", "drop", "stubborn", "returns", "throw", "exit", "class"])
def test_a_generator_answers_everything_as_it_did(way: Any, last: str) -> None:
    def played(function: Any) -> list[Any]:
        trace: list[Any] = []
        generator = function(trace)
        trace.append(inspect.isgenerator(generator))

        def attempt(what: Callable[[], Any]) -> None:
            try:
                trace.append(("got", what()))
            except BaseException as error:
                trace.append((type(error), str(error), getattr(error, "value", None)))

        attempt(lambda: next(generator))
        attempt(lambda: generator.send("a"))
        attempt(lambda: generator.throw(ValueError("b")))
        if last in ("stubborn", "returns"):
            attempt(lambda: generator.send(last))
        attempt(
            {
                "end": lambda: generator.send("end"),
                "throw": lambda: generator.throw(KeyError("k")),
                "exit": lambda: generator.throw(GeneratorExit()),
                "class": lambda: generator.throw(KeyError),
            }.get(last, generator.close)
        )
        if last == "drop":
            generator = None
            return trace
        attempt(lambda: next(generator))
        return trace

    assert played(way(conversation)) == played(conversation)


def test_a_generator_lets_go_of_what_it_yielded(way: Any) -> None:
    class Item:
        pass

    @way
    def items() -> Any:
        for _ in range(2):
            yield Item()

    generator = items()
    item = weakref.ref(next(generator))
    assert item() is None


def test_an_error_in_a_generator_has_the_traceback_it_had(way: Any) -> None:
    @way
    def fails() -> Any:
        yield 1
        raise LookupError

    def forwards() -> Any:
        yield from fails()

    with pytest.raises(LookupError) as seen:
        list(forwards())
    assert [name for name, _ in frames(seen.value)] == ["forwards", "fails"]
    generator = fails()
    next(generator)
    with pytest.raises(KeyError) as thrown:
        generator.throw(KeyError("from outside"))
    assert [name for name, _ in frames(thrown.value)] == ["fails"]


def test_a_generator_serves_as_a_context_manager(way: Any) -> None:
    trace: list[str] = []

    @contextlib.contextmanager
    @way
    def managed() -> Any:
        try:
            yield 1
        except LookupError:
            trace.append("swallowed")
        finally:
            trace.append("left")

    with managed() as value:
        assert value == 1
        raise LookupError
    with pytest.raises(OSError), managed():
        raise OSError
    assert trace == ["swallowed", "left", "left"]


# ---- async generators -----------------------------------------------------------------------------------------------


async def async_conversation(trace: list[Any]) -> Any:
    received: Any = "start"
    while True:
        try:
            await asyncio.sleep(0)
            trace.append(received)
            received = yield received
        except ValueError as error:
            received = f"caught {error}"
        except GeneratorExit:
            await asyncio.sleep(0)
            trace.append("exit")
            if received == "stubborn":
                received = yield "still here"
            raise
        if received == "end":
            return


@pytest.mark.parametrize("last", ["end", "close", "stubborn", "throw", "exit"])
def test_an_async_generator_answers_everything_as_it_did(way: Any, run: Any, last: str) -> None:
    async def played(function: Any) -> list[Any]:
        trace: list[Any] = []
        generator = function(trace)
        trace.append(inspect.isasyncgen(generator))

        async def attempt(what: Callable[[], Any]) -> None:
            try:
                trace.append(("got", await what()))
            except BaseException as error:
                trace.append((type(error), str(error)))

        await attempt(generator.__anext__)
        await attempt(lambda: generator.asend("a"))
        await attempt(lambda: generator.athrow(ValueError("b")))
        if last == "stubborn":
            await attempt(lambda: generator.asend(last))
        await attempt(
            {
                "end": lambda: generator.asend("end"),
                "throw": lambda: generator.athrow(KeyError("k")),
                "exit": lambda: generator.athrow(GeneratorExit()),
            }.get(last, generator.aclose)
        )
        await attempt(generator.__anext__)
        return trace

    assert run(played(way(async_conversation))) == run(played(async_conversation))


def test_an_async_generator_left_early_is_closed_by_the_loop(way: Any, run: Any) -> None:
    closed: list[str] = []
    complaints: list[Any] = []

    @way
    async def numbers() -> Any:
        try:
            for i in range(10):
                yield i
        finally:
            await asyncio.sleep(0)
            closed.append("closed")

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
        async for i in numbers():
            if i == 2:
                break
        gc.collect()
        while not closed:
            await asyncio.sleep(0)
        kept.append(numbers())
        await anext(kept[0])

    kept: list[Any] = []
    run(main())
    assert closed == ["closed", "closed"]
    assert complaints == []


def test_an_error_in_an_async_generator_has_the_traceback_it_had(way: Any, run: Any) -> None:
    @way
    async def fails() -> Any:
        yield 1
        raise LookupError

    async def main() -> None:
        with pytest.raises(LookupError) as seen:
            async for _ in fails():
                pass
        assert [name for name, _ in frames(seen.value)] == ["fails"]
        generator = fails()
        await anext(generator)
        with pytest.raises(KeyError) as thrown:
            await generator.athrow(KeyError("from outside"))
        assert [name for name, _ in frames(thrown.value)] == ["fails"]
        assert thrown.value.__context__ is None

    run(main())


def test_an_async_generator_serves_as_an_async_context_manager(way: Any, run: Any) -> None:
    @contextlib.asynccontextmanager
    @way
    async def managed() -> Any:
        try:
            yield 1
        except LookupError:
            await asyncio.sleep(0)

    async def main() -> None:
        async with managed() as value:
            assert value == 1
            raise LookupError
        with pytest.raises(OSError):
            async with managed():
                raise OSError

    run(main())


def test_a_cancellation_inside_an_async_generator_reaches_it(way: Any, run: Any) -> None:
    trace: list[str] = []

    @way
    async def waits() -> Any:
        try:
            yield 1
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            trace.append("cancelled")
            raise

    async def consume() -> None:
        async for _ in waits():
            pass

    async def main() -> None:
        task = asyncio.create_task(consume())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())
    assert trace == ["cancelled"]


# ---- what is measured -----------------------------------------------------------------------------------------------


def spin(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_a_call_is_recorded_with_its_name_place_and_times(recorded: Recorded) -> None:
    @glassbottom.profile("checkout.total")
    def total() -> bytes:
        spin(0.02)
        time.sleep(0.02)
        return b""

    total()
    row = recorded.take()["checkout.total", "ok"]
    assert row.key.kind == FUNCTION
    assert row.key.place == (total.__qualname__, __file__, total.__code__.co_firstlineno)
    assert row.count == row.cpu_count == 1
    assert row.duration_ns >= 38e6
    assert row.self_ns == row.duration_ns
    assert 18e6 <= row.user_ns + row.system_ns <= row.duration_ns - 15e6
    assert row.busy_ns == 0


def test_the_time_of_profiled_callees_is_not_the_callers_own(recorded: Recorded) -> None:
    @glassbottom.profile
    def outer() -> None:
        spin(0.01)
        for _ in range(2):
            middle()

    def middle() -> None:
        inner()

    @glassbottom.profile
    def inner() -> None:
        spin(0.02)

    outer()
    rows = {name.rpartition(".")[2]: row for (name, _), row in recorded.take().items()}
    assert rows["inner"].count == 2
    assert rows["inner"].self_ns == rows["inner"].duration_ns
    assert rows["outer"].self_ns == rows["outer"].duration_ns - rows["inner"].duration_ns
    assert rows["outer"].self_ns >= 9e6


def test_an_error_is_an_error_and_a_cancellation_is_none(recorded: Recorded, run: Any) -> None:
    @glassbottom.profile("f")
    def f() -> None:
        raise LookupError

    @glassbottom.profile("c")
    async def c() -> None:
        await asyncio.sleep(60)

    with pytest.raises(LookupError):
        f()

    async def main() -> None:
        task = asyncio.create_task(c())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    run(main())
    assert set(recorded.take()) == {("f", "error"), ("c", "cancelled")}


def test_a_coroutine_is_busy_only_while_it_runs(recorded: Recorded, run: Any) -> None:
    @glassbottom.profile("waits")
    async def waits() -> None:
        spin(0.01)
        await asyncio.sleep(0.05)
        spin(0.01)

    async def main() -> None:
        await asyncio.gather(waits(), other())

    async def other() -> None:
        await asyncio.sleep(0.01)
        spin(0.02)

    run(main())
    row = recorded.take()["waits", "ok"]
    # uvloop counts the sleep from the beginning of its round, so that the first spin is part of it.
    assert row.duration_ns >= 55e6
    assert 19e6 <= row.busy_ns <= row.duration_ns - 30e6
    assert row.cpu_count == 1
    assert 18e6 <= row.user_ns + row.system_ns <= row.busy_ns + 2e6


def test_an_awaited_coroutine_counts_whole_and_one_beside_does_not(recorded: Recorded, run: Any) -> None:
    @glassbottom.profile("parent")
    async def parent() -> None:
        task = asyncio.create_task(child("beside"))
        await child("awaited")
        await task

    async def child(name: str) -> None:
        await glassbottom.profile(name)(sleeper)()

    async def sleeper() -> None:
        await asyncio.sleep(0.04)
        spin(0.001)

    run(parent())
    rows = recorded.take()
    awaited = rows["awaited", "ok"].duration_ns
    assert rows["parent", "ok"].self_ns == rows["parent", "ok"].duration_ns - awaited


def test_a_function_in_another_thread_has_no_caller_here(recorded: Recorded, run: Any) -> None:
    @glassbottom.profile("caller")
    async def caller() -> None:
        await asyncio.to_thread(callee)

    @glassbottom.profile("callee")
    def callee() -> None:
        time.sleep(0.02)

    run(caller())
    rows = recorded.take()
    assert rows["callee", "ok"].duration_ns >= 20e6
    assert rows["caller", "ok"].self_ns == rows["caller", "ok"].duration_ns


def test_a_generator_takes_as_long_as_it_runs(recorded: Recorded) -> None:
    @glassbottom.profile("consumer")
    def consumer() -> None:
        for _ in producer():
            spin(0.01)

    @glassbottom.profile("producer")
    def producer() -> Iterator[int]:
        for i in range(3):
            spin(0.005)
            yield i

    consumer()
    rows = recorded.take()
    assert rows["producer", "ok"].duration_ns >= 15e6
    assert rows["consumer", "ok"].self_ns == rows["consumer", "ok"].duration_ns - rows["producer", "ok"].duration_ns
    assert rows["consumer", "ok"].self_ns >= 29e6


def test_a_generator_left_early_is_no_error(recorded: Recorded, run: Any) -> None:
    wrapped = glassbottom.profile("g")(example_generator)
    for _ in wrapped(10):
        break

    async def main() -> None:
        generator = glassbottom.profile("a")(example_async_generator)(10)
        async for _ in generator:
            break
        await generator.aclose()

    run(main())
    assert {key: row.count for key, row in recorded.take().items()} == {("g", "ok"): 1, ("a", "ok"): 1}


def test_an_async_generator_waits_but_not_for_its_consumer(recorded: Recorded, run: Any) -> None:
    @glassbottom.profile("items")
    async def items() -> AsyncIterator[int]:
        for i in range(2):
            await asyncio.sleep(0.02)
            spin(0.005)
            yield i

    async def main() -> None:
        async for _ in items():
            await asyncio.sleep(0.1)

    run(main())
    row = recorded.take()["items", "ok"]
    assert 40e6 <= row.duration_ns <= 190e6
    assert 9e6 <= row.busy_ns <= row.duration_ns - 25e6


def test_every_call_of_many_threads_is_counted(recorded: Recorded) -> None:
    @glassbottom.profile("counted")
    def counted() -> None:
        pass

    def calls() -> None:
        for _ in range(2000):
            counted()

    threads = [threading.Thread(target=calls) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    row = recorded.take()["counted", "ok"]
    assert row.count == 8000
    # Short calls are asked for their CPU time at random, one in eight.
    assert 400 <= row.cpu_count <= 4000


def test_bytes_allocated_by_the_thread_are_counted_while_the_heap_is_sampled(recorded: Recorded) -> None:
    @glassbottom.profile("allocates")
    def allocates() -> bytes:
        return bytes(3_000_000)

    allocates()
    assert recorded.take()["allocates", "ok"].alloc_bytes == 0
    _native.start(interval_bytes=65536.0, window_share=0.1, seed=1)
    try:
        allocates()
        assert 3_000_000 <= recorded.take()["allocates", "ok"].alloc_bytes < 3_200_000
    finally:
        _native.stop()


def test_another_recorder_gets_slots_of_its_own_and_none_gets_nothing() -> None:
    first, second = Recorded(), Recorded()
    second.recorder.slot(Key(FUNCTION, "before"))
    _profile.attach(first.recorder)
    of_the_module(1)
    _profile.attach(second.recorder)
    of_the_module(1)
    _profile.detach()
    of_the_module(1)
    assert [row.count for row in first.take().values()] == [1]
    assert {name: row.count for (name, _), row in second.take().items()} == {"of_the_module": 1}


def test_a_call_that_outlives_the_agent_is_not_recorded(recorded: Recorded) -> None:
    @glassbottom.profile
    def ends_it() -> None:
        _profile.detach()

    ends_it()
    assert recorded.take() == {}


def test_names_beyond_the_recorders_bound_are_counted_together() -> None:
    found = Recorded()
    found.recorder = Recorder(_native.OperationTable(128), slots_max=80)
    _profile.attach(found.recorder)
    try:
        for i in range(40):
            with glassbottom.profile(f"block {i}"):
                pass
    finally:
        _profile.detach()
    rows = found.take()
    assert len(rows) == 17
    assert rows[OTHER, "ok"].count == 24


# ---- blocks ---------------------------------------------------------------------------------------------------------


def test_a_block_is_measured_and_lets_errors_pass(recorded: Recorded) -> None:
    line = inspect.currentframe().f_lineno + 1  # type: ignore[union-attr]
    with glassbottom.profile("parse"):
        spin(0.01)
    with pytest.raises(LookupError) as seen, glassbottom.profile("parse"):
        raise LookupError
    assert len(traceback.extract_tb(seen.value.__traceback__)) == 1
    with glassbottom.profile():
        pass
    rows = recorded.take()
    assert rows["parse", "ok"].duration_ns >= 10e6
    assert rows["parse", "ok"].user_ns + rows["parse", "ok"].system_ns >= 9e6
    assert rows["parse", "ok"].key.place[1:] == (__file__, line)  # type: ignore[index]
    assert ("parse", "error") in rows
    assert ("test_a_block_is_measured_and_lets_errors_pass", "ok") in rows


def test_blocks_nest_and_functions_in_them_are_callees(recorded: Recorded) -> None:
    @glassbottom.profile("callee")
    def callee() -> None:
        spin(0.01)

    block = glassbottom.profile("block")
    with glassbottom.profile("around"), block, block:
        callee()
    rows = recorded.take()
    assert rows["block", "ok"].count == 2
    # Every moment is one block's or function's own.
    assert rows["around", "ok"].duration_ns == sum(row.self_ns for row in rows.values())
    assert rows["around", "ok"].self_ns < rows["around", "ok"].duration_ns - 9e6


def test_a_block_in_a_task_tells_waiting_from_working(recorded: Recorded, run: Any) -> None:
    _native.steps_start()
    try:

        async def main() -> None:
            await asyncio.gather(waits(), works())

        async def waits() -> None:
            await asyncio.sleep(0)
            async with glassbottom.profile("waits"):
                spin(0.01)
                await asyncio.sleep(0.05)

        async def works() -> None:
            await asyncio.sleep(0.001)
            with glassbottom.profile("works"):
                spin(0.02)

        run(main())
    finally:
        _native.steps_stop()
    rows = recorded.take()
    waits, works = rows["waits", "ok"], rows["works", "ok"]
    assert waits.duration_ns >= 45e6
    assert 9e6 <= waits.busy_ns <= waits.duration_ns - 30e6
    assert waits.cpu_count == 0
    assert waits.self_ns == waits.duration_ns  # what ran in between was another task's
    assert works.cpu_count == 1
    assert works.user_ns + works.system_ns >= 19e6


def test_one_block_entered_from_many_threads_and_tasks_is_told_apart(recorded: Recorded, run: Any) -> None:
    shared = glassbottom.profile("shared")

    async def one(seconds: float) -> None:
        async with shared:
            await asyncio.sleep(seconds)

    async def main() -> None:
        await asyncio.gather(one(0.06), one(0.02), asyncio.to_thread(in_thread))

    def in_thread() -> None:
        with shared:
            time.sleep(0.04)

    run(main())
    of_tasks, of_thread = sorted((Row(*found) for found in recorded.recorder.take()), key=lambda row: -row.count)
    assert (of_tasks.count, of_thread.count) == (2, 1)
    assert of_tasks.duration_ns >= 79e6
    assert of_thread.duration_ns >= 39e6


def test_a_block_opened_in_a_generator_and_closed_late_spoils_nothing(recorded: Recorded) -> None:
    def generator() -> Iterator[None]:
        with glassbottom.profile("inside"):
            yield

    held = generator()
    with glassbottom.profile("outside"):
        next(held)
    with glassbottom.profile("after"):
        pass
    held.close()
    with glassbottom.profile("last"):
        pass
    assert {name for name, _ in recorded.take()} == {"inside", "outside", "after", "last"}


def test_a_context_that_is_run_elsewhere_has_callers_of_its_own(recorded: Recorded) -> None:
    @glassbottom.profile("callee")
    def callee() -> None:
        spin(0.01)

    @glassbottom.profile("caller")
    def caller() -> None:
        contextvars.copy_context().run(callee)

    caller()
    rows = recorded.take()
    assert rows["caller", "ok"].duration_ns >= 10e6
    assert rows["callee", "ok"].count == 1


def test_calls_are_collected_with_the_coroutines_that_held_them(recorded: Recorded, run: Any) -> None:
    @glassbottom.profile("forgotten")
    async def forgotten(held: Any) -> None:
        await asyncio.sleep(60)
        del held

    class Held:
        pass

    async def main() -> weakref.ref[Held]:
        held = Held()
        task = asyncio.ensure_future(forgotten(held))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        return weakref.ref(held)

    gone = run(main())
    gc.collect()
    assert gone() is None


def test_calls_that_ended_leave_nothing_behind(recorded: Recorded, run: Any) -> None:
    def kept() -> int:
        gc.collect()
        return sum(1 for thing in gc.get_objects() if type(thing).__name__ in ("Call", "CallCell"))

    async def main() -> None:
        generator = glassbottom.profile(example_async_generator)
        for _ in range(50):
            glassbottom.profile(example)(1)
            await asyncio.create_task(glassbottom.profile(example_coroutine)(1))
            list(glassbottom.profile(example_generator)(3))
            async for _ in generator(2):
                pass
            async with glassbottom.profile("block"):
                await asyncio.sleep(0)

    before = kept()
    contextvars.Context().run(run, main())
    assert kept() <= before + 2


# ---- in a process ---------------------------------------------------------------------------------------------------

IN_A_PROCESS = """
import os
import sys
import glassbottom

@glassbottom.profile
def before(): ...

before()  # not measured yet
glassbottom.init(service="tested", spans_interval_s=0.1)
before()
child = os.fork() if "fork" in sys.argv else 0
before()
glassbottom.snapshot()
assert glassbottom.flush(20)
if child:
    assert os.waitpid(child, 0)[1] == 0
glassbottom.shutdown()
before()
"""


@pytest.mark.parametrize(("argument", "counts"), [("", [2]), ("fork", [1, 2])])
def test_the_agent_sends_what_functions_took_in_each_process(argument: str, counts: list[int]) -> None:
    with IngestDouble() as double:
        done = python(IN_A_PROCESS, double.endpoint, argument)
        assert done.returncode == 0, done.stderr
        found: dict[int, int] = {}
        for session in double.sessions:
            pid = session.hello.process.pid
            found[pid] = found.get(pid, 0) + sum(map(calls_in, session.batches))
        assert sorted(found.values()) == counts


def calls_in(batch: ingest_pb2.Batch) -> int:
    """Calls of functions that a batch tells of."""
    if batch.stream != ingest_pb2.STREAM_OPERATIONS:
        return 0
    rows = operations_pb2.OperationsSnapshot.FromString(body_of(batch)).operations
    return sum(sum(row.duration.counts) for row in rows if row.kind == FUNCTION)
