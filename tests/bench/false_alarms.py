"""How often healthy sites of real processes are called leaks, per thousand site-hours.

    make bench-false_alarms              # 4 rounds of 80 sites in each of 11 families; about 6 minutes

A real process per family of benign curves (tests/support/heap_curves.py: flat but wandering, sawtooth, warm-up, filling
cache, step, and load that swings, steps and climbs), one of lines as services have them (caches, pools, tables loaded
again, garbage in cycles), and one whose sites do leak, so that silence means something. Each site is a line of its own
that really allocates, holds and frees (false_alarms_sites.py), served through the agent's ASGI door; all send to one
real collector. A minute stands for an hour, as in LeakBench: readings every 0.5 s for every 30 s, and a sample per
8 KiB for one per 512 KiB. So one site watched for a minute is a site-hour.

Every 10 s, and at the end of the minute, the verdict is asked for. An alarm is a site that is called a leak; it counts
once a round, however many looks accused it. What is called a leak and is no site of these, sums of lines and memory
outside Python, is counted beside it. With each rate stands the upper end of its exact one-sided 95 % interval (Garwood
1936), as if alarms were independent. Last line: one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from glassbottom.wire.v1 import query_pb2
from scipy.stats import chi2

from tests.bench.false_alarms_sites import CONTROLS, PAYLOADS, STEP_S
from tests.support.collector_process import ROOT, collector_process, python_environment
from tests.support.heap_curves import BENIGN, Curve, draw
from tests.support.leak_questions import ask, connected, question, settle

HOUR_S = 60.0
"""What stands for an hour."""
SCALE = 3600.0 / HOUR_S
INTERVAL_BYTES = 8192
BYTES_SCALE = 524_288 / INTERVAL_BYTES
LOOK_EVERY_S = 10.0
CONTROL, LEAK = "controls", "leak"
FAMILIES = (*BENIGN, CONTROL, LEAK)
SEED = 9001
SITES_FILE = Path(__file__).with_name("false_alarms_sites.py")
ANSWERS_MAX = 200


@dataclass
class Heard:
    """Sites called leaks of one family in one round, at the end and in the looks that called any; and how many other
    places were at the end."""

    at_end: frozenset[str]
    looks: list[tuple[float, frozenset[str]]]
    others: int
    why: list[str]

    @property
    def ever(self) -> frozenset[str]:
        """In any look, the last included."""
        return frozenset().union(self.at_end, *(places for _, places in self.looks))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the rounds, prints the table and the JSON; 1 when more than one alarm in a thousand site-hours was heard."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4, help="each a minute (4)")
    parser.add_argument("--sites", type=int, default=80, help="of each family (80)")
    parser.add_argument("--families", nargs="*", default=list(FAMILIES), help="only these")
    parser.add_argument("--seed", type=int, default=SEED, help=f"({SEED})")
    parser.add_argument("--data", type=Path, help="keep what the collector stores in this directory")
    args = parser.parse_args(argv)
    began = time.perf_counter()
    heard: dict[str, list[Heard]] = {family: [] for family in args.families}
    with (
        tempfile.TemporaryDirectory(prefix="false-alarms-") as directory,
        collector_process(args.data, arguments=["--max-bytes", "2GiB"]) as collector,
        ThreadPoolExecutor(len(args.families)) as pool,
    ):
        for number in range(args.rounds):

            def watch(family: str, number: int = number) -> tuple[str, Heard]:
                program = Path(directory) / f"sites_{_slug(family)}_{number}.json"
                return family, _watch(family, number, program, args.sites, args.seed, collector.address)

            for family, found in pool.map(watch, args.families):
                heard[family].append(found)
                for why in found.why:
                    print(f"  {family}, round {number + 1}: {why}", flush=True)
    summary = _summary(heard, args.sites)
    print(_table(heard, args.sites))
    print(json.dumps({**summary, "seed": args.seed, "seconds": round(time.perf_counter() - began, 1)}))
    return 0 if summary["per_1000_site_hours"] <= 1 else 1


# --- Programs ---


def _program(family: str, number: int, sites: int, seed: int) -> list[dict[str, Any]]:
    """The sites of one process, by the curves of its family made smaller and faster."""
    # The numbers of a family and round are its own whatever else is run.
    rng = np.random.default_rng([seed, number, *family.encode()])
    if family == CONTROL:
        names = list(CONTROLS)
        return [
            {"size": _size(rng), "payload": "bytes", "control": names[at % len(names)], "components": []}
            for at in range(sites)
        ]
    times = np.arange(0.0, HOUR_S + STEP_S, STEP_S) * SCALE
    payloads = list(PAYLOADS)
    return [
        {
            "size": (size := _size(rng)),
            "payload": payloads[int(rng.integers(len(payloads)))],
            "control": "",
            "components": _components(curve, size),
        }
        for curve in draw(family, sites, times, seed + 1000 * number)
    ]


def _size(rng: np.random.Generator) -> int:
    return int(np.exp(rng.uniform(np.log(1000), np.log(8000))))


def _components(curve: Curve, size: int) -> list[dict[str, Any]]:
    found = []
    for component in curve.components:
        levels = np.round(component.level / BYTES_SCALE / size).astype(int)
        lifetime = np.broadcast_to(component.lifetime_s, len(levels)) / SCALE
        found.append(
            {
                "levels": levels.tolist(),
                "replaced": np.round(-np.expm1(-STEP_S / lifetime), 4).tolist(),
                "oldest_first": component.oldest_first,
            }
        )
    return found


# --- Watching ---


def _watch(family: str, number: int, program: Path, sites: int, seed: int, address: str) -> Heard:
    """One process for one minute."""
    service = f"{_slug(family)}-{number}"
    facts = {"service": service, "endpoint": address, "seconds": HOUR_S, "seed": seed + number}
    written = {**facts, "interval_bytes": INTERVAL_BYTES, "sites": _program(family, number, sites, seed)}
    program.write_text(json.dumps(written), encoding="utf-8")
    began_ns = time.time_ns()
    process = subprocess.Popen(
        [sys.executable, str(SITES_FILE), str(program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=python_environment(),
        cwd=ROOT,
    )
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    try:
        if process.stdout.readline().strip() != "READY":
            raise RuntimeError(f"{service} did not start:\n{process.stderr.read()[-2000:]}")
        return _ask_until_done(process, service, began_ns, address)
    finally:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.wait(20)


def _ask_until_done(process: subprocess.Popen[str], service: str, began_ns: int, address: str) -> Heard:
    told: list[str] = []
    over = threading.Event()

    def read() -> None:
        assert process.stdout is not None
        told.append(process.stdout.readline())
        over.set()

    threading.Thread(target=read, daemon=True).start()
    looks: list[tuple[float, frozenset[str]]] = []
    ready = time.monotonic()
    with connected(address) as query:
        while not over.wait(LOOK_EVERY_S):
            at_s = time.monotonic() - ready
            places = _called(ask(query, question(service, began_ns, time.time_ns(), ANSWERS_MAX)))
            if places:
                looks.append((round(at_s, 1), frozenset(places)))
        if not told[0].startswith("{"):
            assert process.stderr is not None
            raise RuntimeError(f"{service} ended early:\n{process.stderr.read()[-2000:]}")
        settle(address, service)
        last = _called(ask(query, question(service, began_ns, int(json.loads(told[0])["at_ns"]), ANSWERS_MAX)))
    why = [f"at {at_s} s: {', '.join(sorted(places)[:6])}" for at_s, places in looks]
    why += [f"at the end: {place} ({said})" for place, said in sorted(last.items())]
    return Heard(
        _sites(last),
        [(at_s, _sites(places)) for at_s, places in looks],
        _others(last),
        [] if service.startswith(LEAK) else why,
    )


def _called(report: query_pb2.LeakReport | None) -> dict[str, str]:
    """Places that are called a leak, each with what is said of its size."""
    found = {}
    for each in report.findings if report is not None else ():
        if each.verdict == query_pb2.VERDICT_LEAK:
            frame = each.site.frame
            place = f"{frame.function} ({frame.file.rpartition('/')[2]}:{frame.line})"
            found[place] = next((one.sentence for one in each.evidence if one.name == "size"), "a sum or native")
    return found


def _sites(places: Iterable[str]) -> frozenset[str]:
    return frozenset(place for place in places if place.startswith("site_"))


def _others(places: Iterable[str]) -> int:
    return sum(not place.startswith("site_") for place in places)


# --- Reporting ---


def _summary(heard: dict[str, list[Heard]], sites: int) -> dict[str, Any]:
    benign = {family: rounds for family, rounds in heard.items() if family != LEAK}
    hours = sum(len(rounds) for rounds in benign.values()) * sites
    at_end = sum(len(each.at_end) for rounds in benign.values() for each in rounds)
    ever = sum(len(each.ever) for rounds in benign.values() for each in rounds)
    leaks = heard.get(LEAK, [])
    found = sum(len(each.at_end) for each in leaks)
    return {
        "site_hours": hours,
        "alarms": at_end,
        "per_1000_site_hours": round(1000 * at_end / hours, 3) if hours else 0.0,
        "upper_95": round(1000 * poisson_upper(at_end) / hours, 3) if hours else None,
        "alarms_any_look": ever,
        "any_look_per_1000_site_hours": round(1000 * ever / hours, 3) if hours else 0.0,
        "any_look_upper_95": round(1000 * poisson_upper(ever) / hours, 3) if hours else None,
        "sums_and_native": sum(each.others for rounds in benign.values() for each in rounds),
        "families": {
            family: {"at_end": sum(len(e.at_end) for e in rounds), "any_look": sum(len(e.ever) for e in rounds)}
            for family, rounds in benign.items()
        },
        "true_leaks_found": round(found / (len(leaks) * sites), 3) if leaks else None,
    }


def _table(heard: dict[str, list[Heard]], sites: int) -> str:
    lines = [
        "| family | site-hours | alarms at the end | per 1 000 at most (95 %) | in any look | per 1 000 | others |",
        "|---|---|---|---|---|---|---|",
    ]
    for family, rounds in heard.items():
        if family == LEAK:
            continue
        hours = len(rounds) * sites
        at_end, ever = sum(len(each.at_end) for each in rounds), sum(len(each.ever) for each in rounds)
        others = sum(each.others for each in rounds)
        lines.append(
            f"| {family} | {hours} | {at_end} | {1000 * poisson_upper(at_end) / hours:.1f} "
            f"| {ever} | {1000 * ever / hours:.1f} | {others} |"
        )
    return "\n".join(lines)


def poisson_upper(count: int, level: float = 0.95) -> float:
    """The mean of which at most `count` events would be seen with a chance of only 1 - level (Garwood 1936)."""
    return float(chi2.ppf(level, 2 * (count + 1)) / 2)


def _slug(family: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in family.lower())


if __name__ == "__main__":
    raise SystemExit(main())
