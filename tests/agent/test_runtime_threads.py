"""Threads are counted by what they run, without calling anything of the application's."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import glassbottom
import pytest
from glassbottom.probes.runtime_threads import TARGETS_TOLD, Threads, target_of

Start = Callable[..., threading.Thread]


@pytest.fixture
def ending() -> Iterator[threading.Event]:
    ending = threading.Event()
    yield ending
    ending.set()


@pytest.fixture
def start(ending: threading.Event) -> Iterator[Start]:
    threads: list[threading.Thread] = []

    def start(target: Any = None, thread: threading.Thread | None = None, name: str | None = None) -> threading.Thread:
        thread = thread or threading.Thread(target=target, args=(ending,), daemon=True, name=name)
        thread.start()
        threads.append(thread)
        return thread

    yield start
    ending.set()
    for thread in threads:
        thread.join(30)


def wait(ending: threading.Event) -> None:
    ending.wait()


class Worker(threading.Thread):
    def __init__(self, ending: threading.Event) -> None:
        super().__init__(daemon=True)
        self.ending = ending

    def run(self) -> None:
        self.ending.wait()


class Called:
    def __call__(self, ending: threading.Event) -> None:
        ending.wait()

    def method(self, ending: threading.Event) -> None:
        ending.wait()

    def __getattr__(self, name: str) -> Any:
        raise AssertionError("nothing of the application's is asked")


def counts(threads: Threads) -> dict[str, float]:
    return {attributes["code.function.name"]: value for _, value, attributes in threads.read(1)[0]}


def test_threads_of_every_sort_are_counted_by_their_target(start: Start, ending: threading.Event) -> None:
    for _ in range(3):
        start(wait)
    start(functools.partial(wait))
    start(Called().method)
    start(functools.partial(functools.partial(Called())))
    start(glassbottom.profile("label")(wait))
    start(thread=Worker(ending))
    start(ending.wait.__self__.wait.__func__)  # a method's function
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: None, range(2)))
        found = counts(Threads())
    assert found["wait"] == 5
    assert found["Called.method"] == found["Called.__call__"] == found["Worker.run"] == found["Event.wait"] == 1
    assert found["_worker"] >= 1
    assert found["<main thread>"] == 1


def test_our_own_threads_are_not_counted(start: Start) -> None:
    start(wait, name="glassbottom-sender")
    assert "wait" not in counts(Threads())


def test_threads_not_started_by_python_are_named_so() -> None:
    names: list[str] = []

    def look() -> None:
        threading.current_thread()  # makes a dummy, as logging does
        names.extend(counts(Threads()))

    import _thread

    done = _thread.allocate_lock()
    done.acquire()
    _thread.start_new_thread(lambda: (look(), done.release()), ())  # type: ignore[func-returns-value]
    done.acquire()
    assert "<thread not started by Python>" in names


def test_many_of_one_target_are_told_with_the_place_it_is_defined(start: Start) -> None:
    threads = Threads()
    for _ in range(9):
        start(wait)
    assert threads.read(1)[1] == []
    start(wait)
    [told] = threads.read(77)[1]
    assert (told.at_ns, told.kind, told.name, told.count, told.value) == (77, "thread.started", "wait", 10, 10.0)
    assert told.place == ("wait", __file__, wait.__code__.co_firstlineno)
    assert threads.read(78)[1] == []  # nothing has changed
    start(wait)
    assert [each.count for each in threads.read(79)[1]] == [11]


def test_a_thread_whose_target_is_gone_is_named_by_its_class() -> None:
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    assert target_of(thread).name == "Thread.run"


def test_only_the_largest_targets_are_told() -> None:
    alive = []
    for i in range(TARGETS_TOLD + 10):
        namespace: dict[str, Any] = {}
        exec(f"def target_{i}(): pass", namespace)
        alive += [threading.Thread(target=namespace[f"target_{i}"])] * (i + 1)
    found = counts(Threads(lambda: alive))
    assert len(found) == TARGETS_TOLD
    assert found[f"target_{TARGETS_TOLD + 9}"] == TARGETS_TOLD + 10
