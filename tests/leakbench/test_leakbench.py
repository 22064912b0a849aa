"""LeakBench itself: its cases are what they say, and its scores count what they should.

How good the verdict is, is measured by `make bench-leaks`; here a few cases show that the measuring can be believed.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.leakbench import environments
from tests.leakbench.case import CYCLIC, FIXED, LEAKY, NATIVE, NONE, REACHABLE, ROOT, Case, Site, kept, load, names
from tests.leakbench.score import Found, Look, Place, Run, Whole, score
from tests.leakbench.stores import Kept, again, keep
from tests.leakbench.table import markdown, summary
from tests.leakbench.watch import Pace, measure, run_case

pytestmark = pytest.mark.once

CASE_FILE = "/srv/tests/leakbench/cases/x1_example.py"
HERE = Place(CASE_FILE, "operation", 12)
LIBRARY = Place("/lib/site-packages/shop/cache.py", "Cache.put", 40)
BACKGROUND = Place("/srv/tests/leakbench/background.py", "Background.health", 30)
EXAMPLE = Case(
    id="X1",
    title="example",
    sites=(Site("cases/x1_example.py", line=12), Site("shop/cache.py", function="put")),
    holder="ENTRIES",
)


def found(place: Place = HERE, verdict: str = "leak", **more: object) -> Found:
    return Found(verdict, place, **more)


def run(*findings: Found, variant: str = LEAKY, operations: int = 100, seconds: float = 10.0) -> Run:
    looks = (Look.of_findings(2.0, 2, ()), Look.of_findings(4.0, 4, findings))
    return Run(variant, findings, operations, seconds, looks)


# --- The cases ---


def test_every_case_says_what_is_true_of_it() -> None:
    cases = [load(name).case for name in names()]
    assert len({case.id for case in cases}) == len(cases) >= 55
    for case in cases:
        assert case.title
        assert case.sites or case.kinds[0] in (NATIVE, NONE), f"{case.id} leaks, but where?"
        assert case.holder or case.kinds[0] in (NATIVE, CYCLIC, NONE) or case.id in ("A11", "A13"), case.id
        assert (case.bytes_per_operation > 0) == case.leaks, case.id
        for variant in case.variants:
            assert case.environment(variant) in ("plain", *environments.ENVIRONMENTS), case.id


def test_a_case_is_found_by_its_name_and_an_unknown_one_refused() -> None:
    assert load("s9").case.id == load("S9").case.id == "S9"
    with pytest.raises(SystemExit, match="there is no case z9; there are: a1, "):
        load("z9")


def test_marked_lines_are_the_right_answers() -> None:
    path = ROOT / "tests" / "leakbench" / "cases" / "s7_process_long_exit_stack.py"
    text = path.read_text(encoding="utf-8").splitlines()
    sites = kept(str(path))
    assert [text[site.line - 1].split("#")[0].strip() for site in sites] == [
        "return forever.enter_context(transaction(number))"
    ]
    assert sites[0].is_at(str(path), "leaky", sites[0].line)
    assert not sites[0].is_at(str(path), "leaky", sites[0].line + 1)


def test_what_stays_is_measured_without_the_agent() -> None:
    loaded = load("s14")
    leaky, fixed = (float(measure(loaded, variant)["bytes_per_operation"]) for variant in (LEAKY, FIXED))
    assert leaky == pytest.approx(loaded.case.bytes_per_operation, rel=0.5)
    assert fixed < leaky / 20


def test_a_run_goes_through_agent_and_collector_and_what_is_kept_of_it_says_the_same_again(tmp_path: Path) -> None:
    loaded = load("s9")
    runs, true_bytes = run_case(loaded, Pace(seconds=6, snapshot_s=0.2, interval_bytes=4096), tmp_path / "data")
    assert true_bytes == pytest.approx(loaded.case.bytes_per_operation, rel=0.5)
    for variant in (LEAKY, FIXED):
        assert runs[variant].error == ""
        assert runs[variant].operations > 50
    kept_lines = {site.line for site in loaded.case.sites}
    listed = {each.place.line for each in runs[LEAKY].findings if each.place.file.endswith("s9_stored_exceptions.py")}
    assert listed & kept_lines, runs[LEAKY]
    assert keep(tmp_path / "data", Kept("S9", runs, true_bytes, {}), tmp_path / "S9") == ""
    assert not (tmp_path / "data").exists()
    for looks in (True, False):
        asked = again(tmp_path / "S9", looks)
        assert asked.true_bytes == true_bytes
        for variant, run_then in runs.items():
            assert asked.runs[variant].findings == run_then.findings
            wanted = run_then.looks if looks else run_then.looks[-1:]
            assert [look.to_ns for look in asked.runs[variant].looks] == [look.to_ns for look in wanted]
            assert asked.runs[variant].looks[-1] == run_then.looks[-1]


# --- The scores ---


def test_the_right_place_counts_at_its_rank_with_everything_that_is_said_about_it() -> None:
    other = found(Place("/srv/app.py", "main", 3), verdict="growing")
    leak = found(
        kind=REACHABLE, holder="app.ENTRIES dict -> list", routes=("POST", "GET"), bytes_per_operation={"POST": 900.0}
    )
    row = score(EXAMPLE, run(other, leak), run(variant=FIXED), true_bytes=1000.0, route="POST")
    assert (row.found, row.rank, row.kind, row.operation, row.holder, row.quiet) == (True, 2, True, True, True, True)
    assert row.ratio == pytest.approx(0.9)
    assert row.also_accused == ()


def test_a_line_of_a_library_is_right_by_its_function_and_an_application_line_above_it_by_its_number() -> None:
    for right in (found(LIBRARY), found(Place("/lib/json.py", "loads", 1), near=HERE)):
        assert score(EXAMPLE, run(right), None, 1000.0, "POST").found
    for wrong in (Place(CASE_FILE, "operation", 13), Place("/lib/site-packages/shop/cache.py", "Cache.get", 40)):
        assert not score(EXAMPLE, run(found(wrong)), None, 1000.0, "POST").found


def test_growing_is_not_found_and_the_reason_is_told() -> None:
    row = score(EXAMPLE, run(found(verdict="growing", against=("noise", "tail"))), None, 1000.0, "POST")
    assert not row.found
    assert row.growing == 1
    assert row.why.endswith("cases/x1_example.py:12 operation, against: noise, tail")


def test_the_rate_is_of_all_lines_of_the_case_and_of_no_other() -> None:
    leaks = [found(bytes_per_second=6000.0), found(LIBRARY, bytes_per_second=2000.0, path=(LIBRARY, HERE))]
    row = score(EXAMPLE, run(*leaks, found(BACKGROUND, bytes_per_second=5000.0)), None, 1000.0, "POST")
    assert row.ratio == pytest.approx(0.8)  # 8 kB/s at 10 operations a second
    assert row.also_accused == (str(BACKGROUND),)


def test_what_a_right_answer_states_of_its_whole_operation_is_what_is_stated() -> None:
    whole = Whole("POST", 9000.0, 950.0, share=0.4, largest=(LIBRARY,))
    leaks = [found(BACKGROUND, whole=replace(whole, bytes_per_operation=1.0)), found(whole=whole), found(LIBRARY)]
    assert score(EXAMPLE, run(*leaks), None, 1000.0, "POST").ratio == pytest.approx(0.95)
    uncounted = replace(whole, bytes_per_operation=None)
    assert score(EXAMPLE, run(found(whole=uncounted)), None, 1000.0, "POST").ratio == pytest.approx(0.9)


def test_an_answer_for_a_whole_operation_names_the_line_of_it_that_grows_most() -> None:
    elsewhere = Place("/srv/app.py", "main", 3)
    for largest, right in (((LIBRARY,), True), ((elsewhere, HERE), True), ((elsewhere,), False)):
        whole = Whole("POST", 9000.0, 950.0, share=1.0, largest=largest)
        assert score(EXAMPLE, run(found(HERE, whole=whole)), None, 1000.0, "POST").found is right


def test_a_native_leak_is_right_by_its_kind() -> None:
    native = Case(id="X2", title="native", kinds=(NATIVE,))
    answer = found(Place("", "<memory outside Python>", 0), kind=NATIVE, bytes_per_second=1000.0)
    assert score(native, run(answer), None, 100.0, "POST").found
    assert not score(native, run(found(LIBRARY, kind=REACHABLE)), None, 100.0, "POST").found


def test_a_leak_in_the_mended_version_is_a_false_alarm() -> None:
    row = score(EXAMPLE, run(found()), run(found(BACKGROUND), variant=FIXED), 1000.0, "POST")
    assert row.quiet is False
    assert row.false_alarms == (str(BACKGROUND),)
    assert row.wrong_looks == ("4 s: leakbench/background.py:30 Background.health ()",)
    assert (row.looks_wrong, row.looks) == (1, 2)
    assert score(EXAMPLE, run(), run(found(verdict="growing"), variant=FIXED), 1000.0, "POST").quiet


def test_a_leak_that_is_called_too_late_or_not_again_is_judged_by_the_end() -> None:
    """Whoever asks in the middle may be told more; what counts is the end, and looks are counted apart."""
    early = Run(FIXED, (), 100, 10.0, (Look.of_findings(2.0, 2, [found()]), Look.of_findings(4.0, 4, ())))
    row = score(EXAMPLE, replace(early, variant=LEAKY), early, 1000.0, "POST")
    assert (row.found, row.first_leak_s, row.first_leak_operations) == (False, 2.0, 100)
    assert (row.quiet, row.looks_wrong) == (True, 1)


def test_the_table_has_a_line_a_case_and_its_sums_count_what_applies() -> None:
    control = Case(id="C0", title="control", kinds=(NONE,))
    rows = [
        score(EXAMPLE, run(found(kind=REACHABLE)), run(variant=FIXED), 1000.0, "POST").as_dict(),
        score(control, None, run(found(BACKGROUND), variant=FIXED), 0.0, "POST").as_dict(),
    ]
    assert markdown(rows).splitlines()[2:] == [
        "| X1 | example | yes | 1 | 1000 | 0.00 | – | yes | none told | yes | 0/2 | 4 s |",
        "| C0 | control | – | – | – | – | – | – | – | **no** | 1/2 | – |",
    ]
    sums = summary(rows)
    assert (sums["leaks"], sums["found"], sums["fixed_and_controls"], sums["false_flags"]) == (1, 1, 2, 1)
    assert (sums["recall"], sums["site_top1"], sums["kind_right"]) == (1.0, 1.0, 1.0)
    assert (sums["looks_at_fixed_and_controls"], sums["looks_that_called_a_leak"]) == (4, 1)


def test_what_is_not_found_or_not_said_counts_as_wrong_in_every_share() -> None:
    """Otherwise a verdict that says less would look better."""
    right = found(kind=REACHABLE, holder="app.ENTRIES dict", bytes_per_operation={"POST": 1000.0})
    silent = score(EXAMPLE, run(found()), None, 1000.0, "POST").as_dict()
    rows = [
        score(EXAMPLE, run(right), None, 1000.0, "POST").as_dict(),
        score(EXAMPLE, run(), None, 1000.0, "POST").as_dict(),
        silent,
    ]
    sums = summary(rows)
    assert sums["recall"] == sums["site_top1"] == pytest.approx(2 / 3, abs=1e-3)
    assert sums["holder"] == sums["bytes_within_20pct"] == sums["kind_right"] == pytest.approx(1 / 3, abs=1e-3)
