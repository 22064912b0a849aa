"""What is wrong with loops and tasks, from what an agent tells to the sentence and the place."""

from __future__ import annotations

import numpy as np
import pytest
from glassbottom_collector.findings.finder import TASKS, find
from glassbottom_collector.model.code import Frame
from glassbottom_collector.model.finding import Severity

from tests.support.count_curves import BENIGN, RAMP, readings
from tests.support.told import (
    ACQUIRE,
    HANDLER,
    MAIN,
    SLEEP,
    WORKER,
    A,
    B,
    at,
    between,
    blocked,
    group,
    look,
    seen,
    service,
)
from tests.support.wrong import TIMES, WINDOW, evidence, findings, looks_of, noticed, steady_leak, the_finding

pytestmark = pytest.mark.once  # arithmetic over long series, and what they show does not depend on the version


# --- Loops ---


def test_a_held_loop_is_told_with_the_line_of_the_application():
    path = (SLEEP, HANDLER, MAIN)
    rows = [blocked(float(n), "handle", 0.4, *path) for n in range(100, 110)]
    finding = the_finding(service(look(0), noticed(*rows, paths=[path])))

    assert (finding.kind, finding.severity) == ("loop.blocked", Severity.NOTICE)
    assert finding.frame == HANDLER
    assert finding.path == path
    assert finding.sentence == (
        "`handle` held its event loop 10 times, 4 s in all and 0.4 s at most at /srv/shop/orders.py:88."
    )
    assert (finding.count, finding.value, finding.seen.from_ns) == (10, pytest.approx(4.0), at(100))


@pytest.mark.parametrize(
    ("blocks", "severity"),
    [
        ([0.3, 0.3], None),
        ([0.15] * 3, None),
        ([0.3] * 3, Severity.NOTICE),
        ([0.6], Severity.NOTICE),
        ([1.2], Severity.WARNING),
        ([0.4] * 20, Severity.WARNING),
        ([0.9] * 80, Severity.CRITICAL),
    ],
)
def test_how_bad_it_is_depends_on_the_share_of_time_and_the_longest(blocks, severity):
    rows = [blocked(float(n), "handle", value, HANDLER) for n, value in enumerate(blocks)]
    found = findings(service(look(0), noticed(*rows, paths=[(HANDLER,)])))

    assert [each.severity for each in found] == ([] if severity is None else [severity])


def test_native_code_that_holds_the_gil_and_a_block_without_a_path_are_said():
    native = the_finding(
        service(look(0), noticed(blocked(5, "x", 2.0, HANDLER, gil_held=True, late=True), paths=[(HANDLER,)]))
    )
    unknown = the_finding(service(look(0), noticed(blocked(5, "x", 2.0))))

    assert "holding the GIL" in native.sentence
    assert {"gil", "late"} <= set(evidence(native))
    assert (unknown.frame, unknown.path) == (None, ())
    assert "path" in evidence(unknown)


# --- Tasks ---


def test_tasks_that_pile_up_at_one_place_are_a_leak_with_that_place():
    finding = the_finding(service(*looks_of(steady_leak())))

    assert (finding.kind, finding.severity) == ("task.leak", Severity.WARNING)
    assert finding.frame == HANDLER
    assert finding.path == (ACQUIRE, HANDLER)
    assert finding.count == 298
    assert finding.value == pytest.approx(0.5, rel=0.02)
    assert finding.sentence.startswith(
        "298 tasks of `Orders.fetch` wait for asyncio.Lock at /srv/shop/orders.py:88 and ever more do: from 3 to 298"
    )
    assert all(evidence(finding).values())
    assert {"trend", "noise", "warm-up", "step", "tail", "stays", "age", "idle"} == set(evidence(finding))


def test_ten_seconds_of_a_program_that_has_just_started_are_enough():
    rows = steady_leak(count=22, per_look=5.0, interval_s=0.5)
    reader = service(*looks_of(rows, interval_s=0.5), started_s=-0.5)

    assert the_finding(reader, between(-5, 15)).kind == "task.leak"


def test_leaked_tasks_that_still_run_now_and_then_are_only_a_notice():
    finding = the_finding(service(*looks_of(steady_leak(), steps_of_wait=0.05)))

    assert finding.severity is Severity.NOTICE
    assert not evidence(finding)["idle"]


def test_tasks_that_change_places_while_they_pile_up_are_found_by_their_coroutine():
    lines = [Frame("Orders.fetch", "/srv/shop/orders.py", line) for line in range(90, 95)]
    rng = np.random.default_rng(1)
    births = np.sort(rng.uniform(0, 590, 300))
    found = []
    for at_s in TIMES:
        ages = at_s - births[births < at_s]
        where = rng.integers(0, len(lines), len(ages))
        groups = [
            group(line, count=len(mine), oldest_s=mine.max(), mean_s=mine.mean())
            for number, line in enumerate(lines)
            if len(mine := ages[where == number])
        ]
        found.append(look(at_s, *groups, frames=lines))
    finding = the_finding(service(*found))

    assert (finding.kind, finding.count) == ("task.leak", 300)
    assert (finding.frame.function, finding.frame.file) == ("Orders.fetch", HANDLER.file)


def test_a_leak_in_two_processes_is_one_finding_with_both():
    reader = service(*looks_of(steady_leak()), instances=(A, B))
    for each in looks_of(steady_leak(per_look=10.0)):
        reader.add(B, each)
    finding = the_finding(reader)

    assert finding.instance_ids == (A, B)
    assert finding.value == pytest.approx(1.5, rel=0.02)


@pytest.mark.once
@pytest.mark.parametrize("kind", BENIGN | RAMP)
def test_tasks_of_a_healthy_service_are_no_finding(kind):
    for seed in range(3):
        drawn = readings(kind, 100 + seed, TIMES, ages=True)
        count, mass, oldest = drawn.counts[:, 0], drawn.age_mass[:, 0], drawn.oldest_s[:, 0]
        rows = list(zip(count, mass / np.maximum(count, 1), oldest, strict=True))

        assert findings(service(*looks_of(rows))) == ()


def test_too_few_looks_are_a_note_and_no_finding():
    report = find(service(*looks_of(steady_leak(count=6))), "shop", WINDOW)

    assert report.findings == ()
    (note,) = report.notes
    assert note == (
        "Whether tasks pile up cannot be told: 6 readings of the only process after the first 25 % of its life, 8 are "
        "needed."
    )


# --- What an agent noticed about single tasks ---


@pytest.mark.parametrize(
    ("kind", "severity", "said"),
    [
        (
            "task.stuck",
            Severity.WARNING,
            "`Orders.fetch`: 2 tasks stuck for 70 s, nothing else refers to what is awaited",
        ),
        ("task.spinning", Severity.WARNING, "`Orders.fetch` spins"),
        ("task.never_yielded", Severity.WARNING, "`Orders.fetch` ran 70 s in one step"),
        ("task.orphan", Severity.NOTICE, "Nothing but the event loop refers to 2 tasks of `Orders.fetch`"),
        ("coroutine.never_awaited", Severity.WARNING, "`Orders.fetch` was called and never awaited, 3 times"),
        ("task.exception_never_retrieved", Severity.WARNING, "3 tasks of `Orders.fetch` failed"),
    ],
)
def test_what_was_noticed_about_a_task_is_told_once_with_its_place(kind, severity, said):
    path = (ACQUIRE, HANDLER)
    rows = [seen(10, kind, "Orders.fetch", 30.0, 1, path=path), seen(20, kind, "Orders.fetch", 70.0, 2, path=path)]
    finding = the_finding(service(look(0), noticed(*rows, paths=[path])))

    assert (finding.kind, finding.severity, finding.frame) == (kind, severity, HANDLER)
    assert finding.sentence.startswith(said)
    assert "/srv/shop/orders.py:88" in finding.sentence
    assert (finding.seen.from_ns, finding.seen.to_ns - 1) == (at(10), at(20))


def test_other_places_and_names_are_other_findings_and_names_are_taken_as_they_are():
    rows = [
        seen(10, "coroutine.never_awaited", "f.<locals>.{x}", frame=HANDLER),
        seen(10, "coroutine.never_awaited", "f.<locals>.{x}", frame=WORKER),
        seen(10, "coroutine.never_awaited", "g", frame=HANDLER),
    ]
    found = findings(service(look(0), noticed(*rows)))

    assert len(found) == 3
    assert found[0].sentence == "`f.<locals>.{x}` was called and never awaited, 1 time (/srv/shop/orders.py:88)."


def test_a_long_step_that_held_the_loop_is_told_once_and_among_tasks_as_well():
    rows = [
        blocked(10, "handle", 2.0, HANDLER),
        seen(10, "task.never_yielded", "handle", 2.0, frame=HANDLER),
        seen(10, "task.never_yielded", "other", 2.0, frame=HANDLER),
    ]
    reader = service(look(0), noticed(*rows, paths=[(HANDLER,)]))
    among_tasks = find(reader, "shop", WINDOW, subjects=TASKS).findings

    assert [each.kind for each in findings(reader)] == ["loop.blocked", "task.never_yielded"]
    assert [each.kind for each in among_tasks] == ["task.never_yielded"] * 2


def test_exceptions_and_reasons_are_evidence():
    rows = [
        seen(1, "task.exception_never_retrieved", "a", frame=HANDLER, attributes={"exception.type": "KeyError"}),
        seen(2, "task.stuck", "b", 70.0, frame=HANDLER, attributes={"reason": "a deadlock", "suspected": "true"}),
    ]
    lost, stuck = findings(service(look(0), noticed(*rows)))

    assert lost.evidence[-1].sentence == "Exceptions: KeyError."
    assert stuck.evidence[-1].sentence == "a deadlock (suspected: it may yet be meant so)."
    assert not stuck.evidence[-1].supports_leak
