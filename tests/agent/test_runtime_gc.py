"""Pauses of the garbage collector are measured, and told with the place where they begin once they are a burden."""

from __future__ import annotations

import gc
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from glassbottom.probes.runtime_gc import Collections


class Drawn(random.Random):
    """Draws what it is told: 0 hears every interval, nearly 1 none that need not be heard."""

    value = 0.0

    def random(self) -> float:
        return self.value


@pytest.fixture
def draw() -> Drawn:
    return Drawn()


@pytest.fixture
def collections(draw: Drawn) -> Iterator[Collections]:
    gc.collect()
    gc.freeze()  # what earlier tests hold as well, see tests/conftest.py
    watched = Collections(draw)
    watched.start()
    yield watched
    watched.stop()


def readings(collections: Collections) -> dict[tuple[str, str], float]:
    found, _ = collections.read(1)
    return {(name, attributes.get("cpython.gc.generation", "")): value for name, value, attributes in found}


class Cyclic:
    def __init__(self) -> None:
        self.me = self
        self.more = [{}, {}, {}]


def made(generation: int) -> int:
    """Collections so far."""
    return int(gc.get_stats()[generation]["collections"])


def thrash(n: int = 20) -> None:
    """As many collections. One that is asked for while another thread is in the middle of one returns at once."""
    kept = [Cyclic() for _ in range(20_000)]
    until = made(2) + n
    while made(2) < until:
        gc.collect()
    del kept


def test_pauses_add_up_by_generation(collections: Collections) -> None:
    before = readings(collections)
    thrash(3)
    young = made(0)
    while made(0) == young:
        gc.collect(0)
    after = readings(collections)
    pause = "cpython.gc.pause_time"
    assert after[pause, "2"] - before[pause, "2"] > 0.001
    assert after[pause, "0"] > before[pause, "0"]
    assert after["glassbottom.gc.pause_max", "2"] <= after[pause, "2"] - before[pause, "2"]
    assert after["cpython.gc.collections", "2"] - before["cpython.gc.collections", "2"] >= 3
    assert 0 < after["glassbottom.gc.pause_ratio", ""] <= 1.05
    assert readings(collections)["glassbottom.gc.pause_max", "2"] == 0


def test_where_collections_begin_is_told_when_they_take_much_of_the_time(collections: Collections) -> None:
    collections.read(1)
    thrash()
    _, told = collections.read(123)
    heaviest = next(each for each in told if each.name == "2")
    assert (heaviest.kind, heaviest.name, heaviest.at_ns) == ("gc.pause", "2", 123)
    assert 15 <= heaviest.count <= 40
    assert heaviest.value > 0.002
    assert heaviest.path[0][0] is thrash.__code__
    assert float(heaviest.attributes["gc.pause_ratio"]) > 0.05


def test_nothing_is_told_of_a_process_that_collects_little(collections: Collections) -> None:
    thrash(1)
    collections._told_at_ns -= 3_600_000_000_000  # an hour ago
    _, told = collections.read(1)
    assert told == []


def test_short_collections_that_never_end_are_found_by_looking_now_and_then(collections: Collections) -> None:
    def rounds() -> None:
        for _ in range(20_000):
            gc.collect(0)

    collections.read(1)
    rounds()
    collections.read(2)
    rounds()
    _, told = collections.read(3)
    mine = [each for each in told if each.name == "0"]
    assert mine
    assert mine[0].path[0][0] is rounds.__code__
    assert mine[0].count > 10_000


def test_other_callbacks_stay_and_ours_goes_when_it_stops(collections: Collections) -> None:
    seen: list[str] = []

    def other(phase: str, info: dict[str, Any]) -> None:
        seen.append(phase)

    gc.callbacks.append(other)
    try:
        gc.collect()
        collections.stop()
        gc.collect()
        assert seen == ["start", "stop"] * 2
        assert other in gc.callbacks
        assert not any(isinstance(getattr(each, "__self__", None), Collections) for each in gc.callbacks)
    finally:
        gc.callbacks.remove(other)


def test_a_tool_that_empties_the_list_is_counted_and_survived(collections: Collections) -> None:
    others = list(gc.callbacks)
    gc.callbacks.clear()
    collections.read(1)
    assert collections.lost == 1
    assert len(gc.callbacks) == 1
    gc.callbacks[:] = others


def test_one_that_starts_takes_the_place_of_one_inherited_by_a_fork(collections: Collections) -> None:
    second = Collections()
    second.start()
    try:
        ours = [each for each in gc.callbacks if isinstance(getattr(each, "__self__", None), Collections)]
        assert [each.__self__ for each in ours] == [second]  # type: ignore[attr-defined]
    finally:
        second.stop()


def test_a_collection_we_saw_only_the_end_of_is_not_counted(collections: Collections) -> None:
    before = list(collections.pause_ns)
    collections._called("stop", {"generation": 2, "collected": 0, "uncollectable": 0})
    assert collections.pause_ns == before


def test_collections_in_many_threads_are_each_counted_once(collections: Collections) -> None:
    before = readings(collections)
    threads = [threading.Thread(target=lambda: [gc.collect(0) for _ in range(500)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    after = readings(collections)
    assert after["cpython.gc.pause_time", "0"] > before["cpython.gc.pause_time", "0"]
    assert after["glassbottom.gc.pause_ratio", ""] <= 1.05


def test_paths_are_bounded(collections: Collections) -> None:
    collections._armed = True
    for i in range(200):
        namespace: dict[str, Any] = {}
        exec(compile("def f(c): return c._keep(2, ((f.__code__, 0),), 5)", f"{i}.py", "exec"), namespace)
        namespace["f"](collections)
    assert len(collections._paths) == 64


def quick_ones(n: int = 3000) -> None:
    for _ in range(n):
        gc.collect(0)


def test_collections_too_many_to_hear_of_are_reckoned_from_those_that_were_heard(
    collections: Collections, draw: Drawn
) -> None:
    ours = collections._callback
    quick_ones()
    draw.value = 0.999
    heard = readings(collections)["cpython.gc.pause_time", "0"]
    assert ours not in gc.callbacks
    quick_ones(6000)
    draw.value = 0.0
    both = readings(collections)["cpython.gc.pause_time", "0"]
    assert collections.unheard == 1
    assert both - heard == pytest.approx(2 * heard, rel=0.2)
    assert ours in gc.callbacks
    assert collections.lost == 0


def test_collections_that_take_long_are_always_heard(collections: Collections, draw: Drawn) -> None:
    draw.value = 0.999
    for _ in range(3):
        thrash(5)
        collections.read(1)
    assert collections.unheard == 0


def test_a_few_collections_are_always_heard(collections: Collections, draw: Drawn) -> None:
    draw.value = 0.999
    collections.read(1)
    time.sleep(0.05)
    collections.read(1)
    assert collections.unheard == 0
