"""Runs cases of LeakBench through the real agent, collector and verdict, and scores them.

    python -m tests.leakbench.run                       # all cases
    python -m tests.leakbench.run --cases s1 a8 --seconds 60
    python -m tests.leakbench.run --table               # of what the last runs have left in build/leakbench
    python -m tests.leakbench.run --again               # of the stores they have left, by the verdict as it is now

A minute stands for an hour: readings every 0.5 s for every 30 s, and a sample per 8 KiB for one per 512 KiB, so that as
many readings and as many samples carry the verdict as there would be in an hour of the same operations. The leaky and
the fixed version run side by side in processes of their own, each under a service's name of its own. How much really
stays per operation is measured beforehand, without the agent.

What the collector has stored stays in build/leakbench/stores. `--again` asks it the same questions as the live run did,
at the end and at every look (with `--end` at the end only), and runs nothing; so whoever changes the statistics sees in
a minute what becomes of every case. `--only-truth` measures and checks the cases themselves, without agent and
collector. Last line: one JSON object.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import traceback
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.leakbench import environments, stores
from tests.leakbench.case import FIXED, LEAKY, ROOT, Loaded, load, names
from tests.leakbench.drive import LEAKING_ROUTE
from tests.leakbench.score import Found, Place, Score, is_right, score
from tests.leakbench.stores import Kept
from tests.leakbench.table import markdown, summary
from tests.leakbench.watch import Pace, measure, run_case

RESULTS = ROOT / "build" / "leakbench"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs what is asked for and prints the table; 1 when a case could not be run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="*", default=[], help="only these, by id such as s1 (all)")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long each runs (60)")
    parser.add_argument("--snapshot-s", type=float, default=0.5, help="seconds between readings (0.5)")
    parser.add_argument("--interval-bytes", type=int, default=8192, help="bytes per sample (8192)")
    parser.add_argument("--jobs", type=int, default=0, help="cases at a time (1; with --again one a CPU)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="directory of results and stores")
    parser.add_argument("--only-truth", action="store_true", help="measure the cases, without agent and collector")
    parser.add_argument("--table", action="store_true", help="print the table of the stored results and end")
    parser.add_argument("--again", action="store_true", help="ask the kept stores again, and run nothing")
    parser.add_argument("--end", action="store_true", help="with --again: only what is said at the end")
    args = parser.parse_args(argv)
    loaded = [load(name) for name in (args.cases or names())]
    args.results.mkdir(parents=True, exist_ok=True)
    if args.only_truth:
        for each in loaded:
            _print_truth(each)
        return 0
    results = args.results / "again" if args.again else args.results
    failed: list[str] = []
    if args.again:
        results.mkdir(exist_ok=True)
        loaded = [each for each in loaded if _store(args.results, each.case.id).exists()]
        _print_rows(_ask_all_again(loaded, args, results), failed)
    elif not args.table:
        _make_environments(loaded)
        _print_rows(_run_all(loaded, args), failed)
    rows = [row.as_dict() for each in loaded if (row := _stored(each, results)) is not None]
    print(markdown(rows))
    print(json.dumps({**summary(rows), "cases": len(rows), "not_run": failed}))
    return 1 if failed else 0


def _print_rows(rows: Iterable[tuple[str, Score | str]], failed: list[str]) -> None:
    """Prints each case as it comes; adds to failed those that could not be run."""
    for case, row in rows:
        if isinstance(row, str):
            failed.append(case)
        print(f"{case:4} {row if isinstance(row, str) else _line(row)}", flush=True)


def _stored(loaded: Loaded, results: Path) -> Score | None:
    """The score of what the last run of a case has left, by today's rules."""
    path = results / f"{loaded.case.id}.json"
    return _scored(loaded, Kept.read(path)) if path.exists() else None


def _scored(loaded: Loaded, kept: Kept) -> Score:
    return score(loaded.case, kept.runs.get(LEAKY), kept.runs.get(FIXED), kept.true_bytes, LEAKING_ROUTE)


def _store(results: Path, case: str) -> Path:
    return results / "stores" / case


# --- Live ---


def _make_environments(loaded: Sequence[Loaded]) -> None:
    """First of all: two cases that run at a time may want the same one."""
    for each in loaded:
        for variant in each.case.variants:
            environments.python_of(each.case.environment(variant))


def _run_all(loaded: Sequence[Loaded], args: argparse.Namespace) -> Iterator[tuple[str, Score | str]]:
    def one(each: Loaded) -> tuple[str, Score | str]:
        try:
            return each.case.id, _run(each, args)
        except Exception:
            return each.case.id, f"could not be run:\n{traceback.format_exc()}"

    with ThreadPoolExecutor(args.jobs or 1) as pool:
        yield from pool.map(one, loaded)


def _run(loaded: Loaded, args: argparse.Namespace) -> Score:
    case = loaded.case.id
    with tempfile.TemporaryDirectory(prefix="leakbench-", dir=args.results) as directory:
        data = Path(directory) / "data"
        pace = Pace(args.seconds, args.snapshot_s, args.interval_bytes, dump=True)
        runs, true_bytes = run_case(loaded, pace, data)
        kept = Kept(case, runs, true_bytes, _options(args))
        unkept = stores.keep(data, kept, _store(args.results, case))
    row = _scored(loaded, kept)
    kept.write(args.results / f"{case}.json", score=row.as_dict(), store=unkept)
    return row


def _options(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "seconds": args.seconds,
        "snapshot_s": args.snapshot_s,
        "interval_bytes": args.interval_bytes,
        "jobs": args.jobs or 1,
        "load_average": round(os.getloadavg()[0], 1),
    }


# --- Again ---


def _ask_all_again(
    loaded: Sequence[Loaded], args: argparse.Namespace, results: Path
) -> Iterator[tuple[str, Score | str]]:
    jobs = args.jobs or os.cpu_count() or 1
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        asked = [(each, pool.submit(stores.again, _store(args.results, each.case.id), not args.end)) for each in loaded]
        for each, answer in asked:
            try:
                kept = answer.result()
            except Exception as error:
                yield each.case.id, f"could not be asked again: {type(error).__name__}: {error}"
                continue
            row = _scored(each, kept)
            kept.write(results / f"{each.case.id}.json", score=row.as_dict())
            yield each.case.id, row


# --- For people ---


def _line(row: Score) -> str:
    facts = {
        "found": row.found,
        "rank": row.rank,
        "ratio": None if row.ratio is None else round(row.ratio, 2),
        "kind": row.kind,
        "operation": row.operation,
        "holder": row.holder,
        "quiet": row.quiet,
        "after_s": row.first_leak_s,
    }
    told = " ".join(f"{name}={value}" for name, value in facts.items() if value is not None)
    more = [row.place, row.held, row.why, *(f"false alarm: {each}" for each in row.false_alarms[:3])]
    more += [f"also accused: {each}" for each in row.also_accused[:3]]
    more += [f"wrong at {each}" for each in row.wrong_looks]
    return f"{told}  {'; '.join(part for part in more if part)}"


def _print_truth(loaded: Loaded) -> None:
    for variant in loaded.case.variants:
        truth = measure(loaded, variant, "--lines")
        print(
            f"{loaded.case.id:4} {variant:6} {truth['bytes_per_operation']:10.1f} B "
            f"{truth['objects_per_operation']:7.2f} objects {truth['rss_bytes_per_operation']:10.1f} B RSS "
            f"(stated {loaded.case.bytes_per_operation:.0f} B)",
            flush=True,
        )
        for line in truth["lines"][:6] if variant == LEAKY else ():
            place = Found("", Place(line["file"], "", line["line"]), Place(_file(loaded), "", line["case_line"]))
            right = is_right(place, loaded.case.sites)
            print(f"       {line['bytes']:9.1f} B {'*' if right else ' '} {line['file'][-60:]}:{line['line']}")


def _file(loaded: Loaded) -> str:
    return str(ROOT / "tests" / "leakbench" / "cases" / f"{loaded.module}.py")


if __name__ == "__main__":
    sys.exit(main())
