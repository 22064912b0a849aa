"""Under `glassbottom.profile` a function is the function it was, measured or not, and looks like it.

Each behaviour is looked at three times: plain, wrapped without an agent, wrapped with one recording.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import pickle
import types
from typing import Any

import glassbottom
import pytest

from tests.support.profiled import (
    Recorded,
    example,
    example_async_generator,
    example_coroutine,
    example_generator,
    frames,
    of_the_module,
)

EXAMPLES = [example, example_coroutine, example_generator, example_async_generator]


# ---- looks ----------------------------------------------------------------------------------------------------------


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
