"""`@pytest.mark.no_leak`: a test that fails when what it does leaves memory behind.

pytest loads this by itself. A marked test is not called once but until it is clear (rounds.py), with the fixtures of
one call. What pytest itself keeps of each call (captured output, log records, warnings) is let go of in between.
Nothing but pytest is imported before a marked test runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import logging
import warnings
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .verdict import Verdict

MARK = "no_leak"
OPTIONS = {"bytes_per_call", "seconds", "warm_up_calls"}
_MEASURED = pytest.StashKey[bool]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        f"{MARK}(bytes_per_call=16, seconds=30, warm_up_calls=1): calls the test until it is clear whether each call "
        f"leaves more than bytes_per_call bytes behind, and fails if so (glassbottom)",
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """A mark on what cannot be repeated must not look like a test that passed."""
    result = yield
    if item.get_closest_marker(MARK) is not None and not item.stash.get(_MEASURED, False):
        pytest.fail(
            f"{MARK} works on test functions, coroutine functions and methods of plain classes, not on "
            f"{type(item).__name__}; write the test as one of these.",
            pytrace=False,
        )
    return result


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """In place of the test stands, for the one call that somebody makes, what calls the test until it is clear.

    Somebody: pytest, or a plugin that knows in which event loop the test and its fixtures live.
    """
    mark = pyfuncitem.get_closest_marker(MARK)
    if mark is None:
        return (yield)
    options = _options(mark)
    pyfuncitem.stash[_MEASURED] = True
    test = pyfuncitem.obj
    pyfuncitem.obj = _repeated(pyfuncitem, test, options)
    try:
        return (yield)
    finally:
        pyfuncitem.obj = test


def _options(mark: pytest.Mark) -> dict[str, Any]:
    from .rounds import Limits

    options = dict(mark.kwargs)
    if len(mark.args) == 1 and "bytes_per_call" not in options:
        options["bytes_per_call"] = mark.args[0]
    elif mark.args:
        pytest.fail(f"{MARK} takes options by name, such as {MARK}(bytes_per_call=100).", pytrace=False)
    unknown = sorted(set(options) - OPTIONS)
    if unknown:
        there_are = ", ".join(sorted(OPTIONS))
        pytest.fail(f"{MARK} has no option {unknown[0]}; there are: {there_are}.", pytrace=False)
    try:
        Limits(**options)
    except (TypeError, ValueError) as error:
        pytest.fail(f"{MARK}: {error}", pytrace=False)
    return options


def _repeated(item: pytest.Function, test: Callable[..., Any], options: dict[str, Any]) -> Callable[..., Any]:
    from .run import measure, measure_async

    @functools.wraps(test)
    def call(**arguments: Any) -> None:
        with _quiet(item) as tidy:
            verdict = measure(lambda: test(**arguments), tidy=tidy, **options)
        _tell(item, verdict)

    @functools.wraps(test)
    async def call_in_loop(**arguments: Any) -> None:
        with _quiet(item) as tidy:
            verdict = await measure_async(lambda: test(**arguments), tidy=tidy, **options)
        _tell(item, verdict)

    def call_in_new_loop(**arguments: Any) -> None:
        asyncio.run(call_in_loop(**arguments))

    if not inspect.iscoroutinefunction(test):
        return call
    return call_in_loop if _has_its_loop(item) else call_in_new_loop


def _has_its_loop(item: pytest.Function) -> bool:
    """Whether another plugin will run this coroutine function."""
    if "anyio_backend" in item.fixturenames:
        return True
    return item.get_closest_marker("asyncio") is not None and item.config.pluginmanager.hasplugin("asyncio")


@contextlib.contextmanager
def _quiet(item: pytest.Function) -> Generator[Callable[[], None], None, None]:
    """Gives what lets go of all that pytest keeps of a call. Of warnings one of a kind is warned again at the end."""
    with warnings.catch_warnings(record=True) as log:
        yield _Tidy(item, log).tidy
    for each in log or ():
        warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)


def _tell(item: pytest.Function, verdict: Verdict) -> None:
    from .verdict import Outcome, Undecided

    report = verdict.report(item.name)
    if verdict.outcome is Outcome.LEAK:
        pytest.fail(report, pytrace=False)
    if verdict.outcome is Outcome.UNDECIDED:
        item.warn(Undecided(report))


class _Tidy:
    """Lets go of what pytest keeps of each call; what it had before the first stays, and of warnings one of a kind."""

    def __init__(self, item: pytest.Function, log: list[warnings.WarningMessage] | None) -> None:
        self._log = log
        self._seen: set[tuple[str, int, type]] = set()
        self._captures: list[Any] = [
            item.funcargs[name]
            for name in ("capsys", "capfd", "capsysbinary", "capfdbinary", "recwarn")
            if name in item.funcargs
        ]
        self._capture_manager = item.config.pluginmanager.getplugin("capturemanager")

    def tidy(self) -> None:
        for fixture in self._captures:
            (fixture.clear if hasattr(fixture, "clear") else fixture.readouterr)()
        if self._capture_manager is not None:
            with contextlib.suppress(AssertionError, AttributeError, ValueError):
                self._capture_manager.read_global_capture()
        for handler in logging.getLogger().handlers:
            if hasattr(handler, "records") and hasattr(handler, "clear"):
                handler.clear()
        if self._log is not None:
            self._forget_warnings(self._log)

    def _forget_warnings(self, log: list[warnings.WarningMessage]) -> None:
        kept = []
        for each in log:
            kind = (each.filename, each.lineno, each.category)
            if kind not in self._seen:
                self._seen.add(kind)
                kept.append(each)
        log[:] = kept[:100]
