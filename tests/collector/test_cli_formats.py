"""Whole profiles: what pprof, folded, speedscope and the flame graph say must be what `top -o json` says."""

from __future__ import annotations

import base64
import gzip
import html
import json
import math
import re
from hashlib import sha256
from pathlib import Path

import pytest
from glassbottom.wire.v1 import common_pb2, query_pb2
from glassbottom_collector.cli.formats import folded, pprof, speedscope
from glassbottom_collector.cli.formats import html as flame
from glassbottom_collector.cli.profile import Profile, assemble, whole
from glassbottom_collector.pprof.v1 import profile_pb2
from hypothesis import given
from hypothesis import strategies as st

from tests.support.cli import Cli
from tests.support.query_double_memory import AT, AT_NS, BEFORE, BEFORE_NS, HEAP

TOP = ("top", "--service", "checkout", "--at", AT)
DIFF = ("diff", "--service", "checkout", "--from", BEFORE, "--to", AT)
FORMATS = ("pprof", "folded", "speedscope", "html")


@pytest.fixture
def totals(cli: Cli) -> dict[str, float]:
    cli(*TOP, "-o", "json")
    return json.loads(cli.out)["totals"]


def read_pprof(cli: Cli, path: Path, *line: str) -> profile_pb2.Profile:
    assert cli(*line, "-o", "pprof", "--output", str(path)) == 0
    return profile_pb2.Profile.FromString(gzip.decompress(path.read_bytes()))


def check(profile: profile_pb2.Profile) -> None:
    """What every pprof file must keep to."""
    text = profile.string_table
    assert text[0] == ""
    assert len(set(text)) == len(text)
    functions = {function.id: function for function in profile.function}
    locations = {location.id: location for location in profile.location}
    mappings = {mapping.id for mapping in profile.mapping}
    assert 0 not in {*functions, *locations, *mappings}
    assert (len(functions), len(locations)) == (len(profile.function), len(profile.location))
    for function in profile.function:
        assert 0 < function.name < len(text)
        assert function.system_name == 0, "or pprof takes the name for C++ and strips what stands in <>"
        assert function.filename < len(text)
    for location in profile.location:
        assert location.mapping_id in mappings
        assert [line.function_id in functions for line in location.line] == [True]
    for sample in profile.sample:
        assert len(sample.value) == len(profile.sample_type)
        assert any(sample.value)
        assert sample.location_id
        assert set(sample.location_id) <= set(locations)


def types(profile: profile_pb2.Profile) -> list[tuple[str, str]]:
    return [(profile.string_table[each.type], profile.string_table[each.unit]) for each in profile.sample_type]


def sums(profile: profile_pb2.Profile) -> list[int]:
    return [sum(column) for column in zip(*(sample.value for sample in profile.sample), strict=True)]


def test_pprof_has_gos_sample_types_in_gos_order(cli: Cli, tmp_path: Path) -> None:
    profile = read_pprof(cli, tmp_path / "heap.pb.gz", *TOP)

    check(profile)
    assert types(profile) == [
        ("alloc_objects", "count"),
        ("alloc_space", "bytes"),
        ("inuse_objects", "count"),
        ("inuse_space", "bytes"),
    ]
    assert profile.string_table[profile.default_sample_type] == "inuse_space"
    period = profile.period_type
    assert (profile.string_table[period.type], profile.string_table[period.unit]) == ("space", "bytes")
    assert profile.period == 524288
    assert profile.time_nanos == AT_NS
    assert profile.mapping[0].has_functions


def test_pprof_totals_are_those_of_top_to_the_byte(cli: Cli, tmp_path: Path, totals: dict[str, float]) -> None:
    profile = read_pprof(cli, tmp_path / "heap.pb.gz", *TOP)

    _, alloc_space, inuse_objects, inuse_space = sums(profile)
    assert inuse_space == round(totals["live_bytes"])
    assert inuse_objects == round(totals["live_objects"])
    assert alloc_space == round(math.fsum(path.live_bytes * 2.5 for path in HEAP))


def test_pprof_names_every_frame_innermost_first(cli: Cli, tmp_path: Path) -> None:
    profile = read_pprof(cli, tmp_path / "heap.pb.gz", *TOP)
    text = profile.string_table
    functions = {function.id: (text[function.name], text[function.filename]) for function in profile.function}
    lines = {
        location.id: (*functions[location.line[0].function_id], location.line[0].line) for location in profile.location
    }

    assert [lines[each] for each in profile.sample[0].location_id] == [
        ("Manager.on_connect", "/srv/checkout/app/realtime/connections/handlers.py", 42),
        (
            "RequestResponseCycle.run_asgi",
            "/opt/venv/lib/python3.12/site-packages/uvicorn/protocols/http/h11_impl.py",
            403,
        ),
        ("<module>", "/srv/checkout/app/main.py", 9),
    ]


def test_a_pprof_difference_has_the_earlier_values_as_negative_base_samples(
    cli: Cli, tmp_path: Path, totals: dict[str, float]
) -> None:
    """As `go tool pprof -diff_base` would make it: any reader's sum is the change, and pprof's percentages are of the
    earlier total."""
    profile = read_pprof(cli, tmp_path / "diff.pb.gz", *DIFF)

    check(profile)
    assert types(profile) == [("inuse_objects", "count"), ("inuse_space", "bytes")]
    text = profile.string_table
    labels = [{text[label.key]: text[label.str] for label in sample.label} for sample in profile.sample]
    base = [sample for sample, has in zip(profile.sample, labels, strict=True) if has.get("pprof::base") == "true"]
    before = round(math.fsum(path.before_live_bytes for path in HEAP))
    assert sum(sample.value[1] for sample in base) == -before
    assert sums(profile)[1] == round(totals["live_bytes"]) - before
    assert profile.duration_nanos == AT_NS - BEFORE_NS


def test_equal_profiles_give_equal_bytes(cli: Cli, tmp_path: Path) -> None:
    """So that files can be compared and cached."""
    read_pprof(cli, tmp_path / "one.pb.gz", *TOP)
    read_pprof(cli, tmp_path / "two.pb.gz", *TOP)

    assert (tmp_path / "one.pb.gz").read_bytes() == (tmp_path / "two.pb.gz").read_bytes()


def test_folded_lines_are_outermost_first_and_add_up(cli: Cli, totals: dict[str, float]) -> None:
    assert cli(*TOP, "-o", "folded") == 0

    lines = cli.out.splitlines()
    assert lines[0] == (
        "<module> (/srv/checkout/app/main.py:9);"
        "RequestResponseCycle.run_asgi (/opt/venv/lib/python3.12/site-packages/uvicorn/protocols/http/h11_impl.py:403);"
        "Manager.on_connect (/srv/checkout/app/realtime/connections/handlers.py:42) 92694119"
    )
    assert sum(int(line.rpartition(" ")[2]) for line in lines) == round(totals["live_bytes"])
    assert all(line.count(";") == len(path.frames) - 1 for line, path in zip(lines[:1], HEAP[:1], strict=True))


def test_a_semicolon_in_a_name_does_not_split_its_frame(cli: Cli) -> None:
    cli(*TOP, "-o", "folded")

    (evil,) = [line for line in cli.out.splitlines() if "evil" in line]
    assert evil.count(";") == 2


def test_a_folded_difference_has_before_and_after(cli: Cli, totals: dict[str, float]) -> None:
    cli(*DIFF, "-o", "folded")

    pairs = [line.rsplit(" ", 2)[1:] for line in cli.out.splitlines()]
    assert sum(int(after) for _, after in pairs) == round(totals["live_bytes"])
    assert sum(int(before) for before, _ in pairs) == round(math.fsum(path.before_live_bytes for path in HEAP))
    assert ["1572865", "0"] in pairs, "what has gone is listed too"


def test_speedscope_profiles_are_consistent(cli: Cli, totals: dict[str, float]) -> None:
    for line in (TOP, DIFF):
        assert cli(*line, "-o", "speedscope") == 0
        document = json.loads(cli.out)
        for profile in document["profiles"]:
            assert profile["type"] == "sampled"
            assert len(profile["samples"]) == len(profile["weights"])
            assert profile["endValue"] == sum(profile["weights"])
            assert all(weight > 0 for weight in profile["weights"])
            assert all(
                0 <= frame < len(document["shared"]["frames"]) for stack in profile["samples"] for frame in stack
            )

    after, before = document["profiles"][2:]
    grew, shrank = document["profiles"][:2]
    assert after["endValue"] == round(totals["live_bytes"])
    assert abs((grew["endValue"] - shrank["endValue"]) - (after["endValue"] - before["endValue"])) <= 2
    names = [document["shared"]["frames"][frame]["name"] for frame in after["samples"][0]]
    assert names == ["<module>", "RequestResponseCycle.run_asgi", "Manager.on_connect"]


# ---- the flame graph ------------------------------------------------------------------------------------------------


def page_data(page: str) -> dict:
    match = re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)
    assert match is not None
    return json.loads(match[1])


@pytest.mark.parametrize("line", [TOP, DIFF], ids=["top", "diff"])
def test_the_flame_graph_allows_its_own_script_and_style_and_nothing_else(line: tuple[str, ...], cli: Cli) -> None:
    cli(*line, "-o", "html")

    policy = re.search(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', cli.out)
    assert policy is not None
    directives = dict(each.strip().split(" ", 1) for each in policy[1].split(";"))
    assert directives["default-src"] == "'none'"
    for element in ("script", "style"):
        (body,) = re.findall(rf"<{element}>(.*?)</{element}>", cli.out, re.DOTALL)
        digest = base64.b64encode(sha256(body.encode()).digest()).decode()
        assert directives[f"{element}-src"] == f"'sha256-{digest}'"
    assert "unsafe" not in policy[1]


def test_the_flame_graph_fetches_nothing(cli: Cli) -> None:
    cli(*TOP, "-o", "html")

    assert "://" not in cli.out
    assert not re.search(r"\b(src|href|srcset|action)\s*=", cli.out)
    assert not re.search(
        r"fetch\(|XMLHttpRequest|WebSocket|import\(|innerHTML|outerHTML|document\.write|eval\(", cli.out
    )


def test_hostile_names_are_data_in_the_flame_graph(cli: Cli) -> None:
    cli(*TOP, "-o", "html")

    assert cli.out.count("<script") == 2
    assert cli.out.count("</script>") == 2
    assert "alert(1)</script>" not in cli.out
    names = [code[0] for code in page_data(cli.out)["codes"]]
    assert any("</script><script>alert(1)" in name for name in names), "complete, once decoded"


@pytest.mark.parametrize("name", ["</title><script>x</script>", "{{data}}", "{{policy}}", "a&b\"'"])
def test_a_hostile_service_name_is_text_in_the_flame_graph(name: str) -> None:
    page = flame.encode(profile_of([((1,), 10.0)], service=name))

    assert page.count("<script") == 2
    assert f"<h1>{html.escape(name)}: heap at" in page
    assert page_data(page)["title"].startswith(name)


def test_the_flame_graph_holds_the_totals_of_top(cli: Cli, totals: dict[str, float]) -> None:
    cli(*TOP, "-o", "html")
    data = page_data(cli.out)

    assert [column["name"] for column in data["columns"]][:2] == ["live bytes", "live objects"]
    assert sum(data["values"][0]) == round(totals["live_bytes"])
    assert sum(data["values"][1]) == round(totals["live_objects"])
    assert {len(values) for values in data["values"]} == {len(data["stacks"])}


def test_a_difference_in_the_flame_graph_has_after_and_before(cli: Cli, totals: dict[str, float]) -> None:
    cli(*DIFF, "-o", "html")
    data = page_data(cli.out)

    assert data["difference"] is True
    assert sum(data["values"][0]) == round(totals["live_bytes"])
    assert sum(data["values"][1]) == round(math.fsum(path.before_live_bytes for path in HEAP))


# ---- putting a profile together, and rounding it --------------------------------------------------------------------


def profile_of(paths: list[tuple[tuple[int, ...], float]], service: str = "s", live_bytes: float = 0.0) -> Profile:
    frames = {frame for path, _ in paths for frame in path}
    piece = query_pb2.ProfileResponse(
        totals=query_pb2.Totals(live_bytes=live_bytes),
        frames=[common_pb2.Frame(id=each, function=f"f{each}", file=f"{each}.py", line=each) for each in frames],
        stacks=[query_pb2.ProfileStack(frames=path, live_bytes=value) for path, value in paths],
        interval_bytes=524288,
    )
    return assemble([piece], service, AT_NS)


def test_equal_paths_of_several_processes_become_one() -> None:
    profile = profile_of([((1, 2), 10.0), ((2,), 5.0), ((1, 2), 7.5)])

    assert [path.values.live_bytes for path in profile.paths] == [17.5, 5.0]


def test_a_frame_that_was_never_defined_is_shown_as_unknown_rather_than_lost() -> None:
    piece = query_pb2.ProfileResponse(stacks=[query_pb2.ProfileStack(frames=[99], live_bytes=10.0)])
    profile = assemble([piece], "s", AT_NS)

    assert folded.encode(profile) == "<unknown> 10\n"
    check(pprof.build(profile))


@pytest.mark.parametrize("encode", [pprof.encode, folded.encode, speedscope.encode, flame.encode])
def test_an_empty_heap_is_a_valid_file(encode) -> None:
    assert encode(assemble([], "s", AT_NS)) is not None
    check(pprof.build(assemble([], "s", AT_NS)))


VALUES = st.lists(st.floats(min_value=0, max_value=1e12), max_size=50)


@given(VALUES)
def test_rounding_keeps_the_total_and_moves_no_value_by_one_or_more(values: list[float]) -> None:
    rounded = whole(values)

    assert sum(rounded) == round(math.fsum(values))
    assert all(abs(number - value) < 1 for number, value in zip(rounded, values, strict=True))
    assert all(number >= 0 for number in rounded)


@given(VALUES, st.randoms())
def test_a_total_summed_in_another_order_is_met_exactly(values: list[float], random) -> None:
    """The collector adds by site, the profile by call path; half a byte must not depend on that."""
    shuffled = values[:]
    random.shuffle(shuffled)
    stated = sum(shuffled)

    assert sum(whole(values, stated)) == round(stated)


def test_a_stated_total_that_cannot_be_right_is_not_forced_upon_the_values() -> None:
    assert whole([1.0, 2.0], stated_total=1000.0) == [1, 2]
