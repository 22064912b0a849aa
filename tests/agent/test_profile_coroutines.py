"""Under `glassbottom.profile` a coroutine runs, waits, is cancelled and is warned of as it was, measured or not.

Each behaviour is looked at three times: plain, wrapped without an agent, wrapped with one recording.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import sys
import types
from typing import Any

import pytest

from tests.support.profiled import example_coroutine, frames


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
