"""Under `glassbottom.profile` a generator, async or not, answers everything as it did, measured or not.

Each behaviour is looked at three times: plain, wrapped without an agent, wrapped with one recording.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.profiled import frames

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
