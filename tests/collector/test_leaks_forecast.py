"""When memory will be full, and whether what grows may be garbage."""

from __future__ import annotations

import numpy as np
import pytest
from glassbottom_collector.leaks.forecast import forecast
from glassbottom_collector.leaks.garbage import kind_of
from glassbottom_collector.leaks.readings import Readings, Series
from glassbottom_collector.model.code import Frame
from glassbottom_collector.model.leak import Evidence, Forecast, LeakFinding, LeakKind, Rate, Verdict
from glassbottom_collector.model.process import Process, Span

pytestmark = pytest.mark.once

SECOND = 10**9
MIB = float(1 << 20)
AT = np.arange(61) * 10 * SECOND
A, B = "a" * 32, "b" * 32
WINDOW = Span(100 * SECOND, 600 * SECOND)


def finding(rate: float, error: float = 0.0, verdict: Verdict = Verdict.LEAK, *instances: str) -> LeakFinding:
    each = Rate(rate, rate - 1.96 * error, rate + 1.96 * error)
    proof = (Evidence("trend", True, "It rises."),)
    return LeakFinding(
        verdict, Frame("f", "/a.py", 1), (), each, each, 1.0, 0.0, 1.0, 9, 0.01, proof, "", instances or (A,), None
    )


def process(instance: str = A, **numbers: object) -> Readings:
    """Readings by name, `container_memory_limit=3.0` for one value all the time."""
    found = {}
    for name, value in numbers.items():
        base, _, attribute = name.partition("__")
        key = (base.replace("_", ".").replace("working.set", "working_set").replace("address.space", "address_space"),)
        values = np.full(len(AT), value) if isinstance(value, float) else np.asarray(value, dtype=float)
        found[(key[0], attribute)] = Series(AT, values)
    return Readings(instance, found)


def contained(instance: str = A, used: float = 600 * MIB, limit: float = 1000 * MIB) -> Readings:
    return process(instance, container_memory_limit=limit, container_memory_usage=used)


def told(*findings: LeakFinding, **processes: Readings) -> Forecast | None:
    by_instance = {each.instance_id: each for each in processes.values()}
    known = {each: Process("shop", each, 1, 0, {"host.name": "h"}) for each in by_instance}
    return forecast(findings, by_instance, known)


def test_what_is_left_divided_by_the_rate_is_the_time_that_is_left():
    found = told(finding(MIB), one=contained())

    assert found is not None
    assert (found.limit, found.limit_bytes, found.room_bytes) == ("container", 1000 * MIB, 400 * MIB)
    assert found.seconds_10 == found.seconds_50 == found.seconds_90 == pytest.approx(400)
    assert "400 MiB left to the container's limit of 1000 MiB last about 6.67 min" in found.sentence


def test_an_uncertain_rate_spreads_the_time_and_one_that_may_be_nothing_may_last_for_ever():
    found = told(finding(MIB, 0.1 * MIB), one=contained())
    assert found is not None
    assert found.seconds_10 == pytest.approx(400 / 1.128, rel=0.02)
    assert found.seconds_90 == pytest.approx(400 / 0.872, rel=0.02)
    assert found.seconds_50 == pytest.approx(400, rel=0.02)

    found = told(finding(MIB, 2 * MIB), one=contained())
    assert found is not None
    assert found.seconds_90 == float("inf")
    assert "perhaps for ever" in found.sentence


def test_peaks_reach_the_limit_before_the_floor_does():
    usage = 600 * MIB + np.where(np.arange(61) % 3 == 0, 100 * MIB, 0.0)
    found = told(finding(MIB), one=process(container_memory_limit=1000 * MIB, container_memory_usage=usage))

    assert found is not None
    assert found.room_bytes == 400 * MIB
    assert found.seconds_50 == pytest.approx(300)


def test_processes_of_one_container_grow_towards_its_limit_together():
    leaks = finding(2 * MIB, 0.0, Verdict.LEAK, A, B)
    together = told(leaks, one=contained(A), two=contained(B, used=601 * MIB))
    apart = told(leaks, one=contained(A), two=contained(B, used=100 * MIB))

    assert together is not None
    assert together.seconds_50 == pytest.approx(200)
    assert together.instance_ids == (A, B)
    assert "2 processes share it" in together.sentence
    assert apart is not None
    assert apart.seconds_50 == pytest.approx(400)
    assert apart.instance_ids == (A,)


def test_the_nearest_limit_counts_whatever_it_is():
    near = process(
        container_memory_limit=1000 * MIB,
        container_memory_usage=600 * MIB,
        glassbottom_memory_limit__address_space=500 * MIB,
        process_memory_virtual=450 * MIB,
        system_linux_memory_available=60_000 * MIB,
    )
    found = told(finding(MIB), one=near)
    assert found is not None
    assert (found.limit, found.seconds_50) == ("address space", pytest.approx(50))

    found = told(finding(MIB), one=process(system_linux_memory_available=60 * MIB))
    assert found is not None
    assert (found.limit, found.limit_bytes, found.seconds_50) == ("host", 0.0, pytest.approx(60))


def test_working_set_counts_where_it_is_told_since_the_kernel_drops_the_rest():
    found = told(
        finding(MIB),
        one=process(
            container_memory_limit=1000 * MIB, container_memory_usage=990 * MIB, container_memory_working_set=500 * MIB
        ),
    )
    assert found is not None
    assert found.room_bytes == 500 * MIB


def test_nothing_is_foretold_of_what_does_not_leak_for_certain_and_far_ends_are_called_far():
    assert told(finding(MIB, 0.0, Verdict.GROWING), one=contained()) is None
    assert told(finding(MIB), one=process(process_memory_usage=MIB)) is None
    assert told(finding(MIB, 0.0, Verdict.LEAK, B), one=contained(A)) is None

    found = told(finding(1.0), one=contained())
    assert found is not None
    assert "last longer than 30 days" in found.sentence


# --- Garbage ---


def collecting(at: int, enabled: float = 1.0) -> Readings:
    """One full collection between the reading `at` and the next."""
    counts = np.where(np.arange(61) > at, 8.0, 7.0)
    return Readings(
        A,
        {
            ("cpython.gc.collections", "2"): Series(AT, counts),
            ("glassbottom.gc.enabled", ""): Series(AT, np.full(61, enabled)),
        },
    )


def test_what_survives_a_full_collection_is_reachable():
    kind, evidence = kind_of({A: collecting(at=50)}, [A], WINDOW)

    assert kind is LeakKind.REACHABLE
    assert evidence is not None
    assert evidence.supports_leak
    assert "1 full collection was made meanwhile, the last 100 s before the end" in evidence.sentence


def test_with_the_collector_off_it_is_called_garbage_until_a_collection_tells():
    kind, evidence = kind_of({A: collecting(at=99, enabled=0.0)}, [A], WINDOW)
    assert kind is LeakKind.GARBAGE
    assert evidence is not None
    assert "dump gc" in evidence.sentence

    # A collection by hand tells, though the collector is off.
    assert kind_of({A: collecting(at=50, enabled=0.0)}, [A], WINDOW)[0] is LeakKind.REACHABLE


def test_without_a_collection_late_enough_a_doubt_is_told():
    for at, words in ((99, "No full collection"), (12, "Only an early full collection")):
        kind, evidence = kind_of({A: collecting(at)}, [A], WINDOW)
        assert kind is LeakKind.REACHABLE
        assert evidence is not None
        assert not evidence.supports_leak
        assert words in evidence.sentence


def test_where_collections_are_not_told_nothing_is_said():
    assert kind_of({A: Readings(A, {})}, [A, B], WINDOW) == (LeakKind.REACHABLE, None)
