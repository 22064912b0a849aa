"""Runs cases of LeakBench through the real agent, collector and verdict, one at a time, and scores them.

    python -m tests.leakbench.run                       # all cases
    python -m tests.leakbench.run --cases s1 a8 --seconds 60
    python -m tests.leakbench.run --table               # of what the last runs have left in build/leakbench

A minute stands for an hour: readings every 0.5 s for every 30 s, and a sample per 8 KiB for one per 512 KiB, so that as
many readings and as many samples carry the verdict as there would be in an hour of the same operations. The leaky and
the fixed version run side by side in processes of their own, each under a service's name of its own. How much really
stays per operation is measured beforehand, without the agent.

`--only-truth` measures and checks the cases themselves, without agent and collector. Last line: one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import grpc
from glassbottom.wire.v1 import control_pb2, control_pb2_grpc, ingest_pb2, query_pb2, query_pb2_grpc

from tests.leakbench import environments
from tests.leakbench.case import CYCLIC, FIXED, FRAGMENTATION, LEAKY, NATIVE, REACHABLE, ROOT, Loaded, load, names
from tests.leakbench.drive import LEAKING_ROUTE, READY
from tests.leakbench.score import LEAK, Found, Place, Run, Score, is_right, score
from tests.leakbench.table import markdown, summary
from tests.support.collector_process import collector_process, python_environment

LOOK_EVERY_S = 5.0
ANSWERS_MAX = 60
VERDICTS = {
    query_pb2.VERDICT_LEAK: "leak",
    query_pb2.VERDICT_GROWING: "growing",
    query_pb2.VERDICT_STABLE: "stable",
    query_pb2.VERDICT_UNCLEAR: "unclear",
}
KINDS = {
    query_pb2.LEAK_KIND_REACHABLE: REACHABLE,
    query_pb2.LEAK_KIND_GARBAGE: CYCLIC,
    query_pb2.LEAK_KIND_NATIVE: NATIVE,
    query_pb2.LEAK_KIND_FRAGMENTATION: FRAGMENTATION,
}
RESULTS = ROOT / "build" / "leakbench"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs what is asked for and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="*", default=[], help="only these, by id such as s1 (all)")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long each runs (60)")
    parser.add_argument("--snapshot-s", type=float, default=0.5, help="seconds between readings (0.5)")
    parser.add_argument("--interval-bytes", type=int, default=8192, help="bytes per sample (8192)")
    parser.add_argument("--jobs", type=int, default=1, help="cases at a time (1)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="directory of one JSON file a case")
    parser.add_argument("--only-truth", action="store_true", help="measure the cases, without agent and collector")
    parser.add_argument("--table", action="store_true", help="print the table of the stored results and end")
    args = parser.parse_args(argv)
    loaded = [load(name) for name in (args.cases or names())]
    args.results.mkdir(parents=True, exist_ok=True)
    if args.only_truth:
        for each in loaded:
            _print_truth(each)
        return 0
    if not args.table:
        for each in loaded:
            # Made first: two cases that run at a time may want the same one.
            for variant in each.case.variants:
                environments.python_of(each.case.environment(variant))
        with ThreadPoolExecutor(args.jobs) as pool:
            for row in pool.map(lambda each: _run_case(each, args), loaded):
                print(f"{row.case:4} {_line(row)}", flush=True)
    rows = [row.as_dict() for each in loaded if (row := _stored(each, args.results)) is not None]
    print(markdown(rows))
    print(json.dumps(summary(rows)))
    return 0


def _stored(loaded: Loaded, results: Path) -> Score | None:
    """The score of what the last run of a case has left, by today's rules."""
    path = results / f"{loaded.case.id}.json"
    if not path.exists():
        return None
    stored = json.loads(path.read_text())
    runs = {each["variant"]: Run.of(each) for each in stored["runs"]}
    return score(loaded.case, runs.get(LEAKY), runs.get(FIXED), stored["score"]["true_bytes"], LEAKING_ROUTE)


def run_case(
    loaded: Loaded, *, seconds: float, snapshot_s: float = 0.5, interval_bytes: int = 8192, dump: bool = False
) -> tuple[dict[str, Run], float]:
    """Runs all variants of a case side by side; its runs by variant, and the bytes that really stay per operation.

    dump: at the end, have the heap of the leaky one dumped, so that the verdict knows the holder.
    """
    truth = measure(loaded, LEAKY) if loaded.case.leaks else {}
    with collector_process() as collector:
        runs: dict[str, Run] = {}

        def one(variant: str) -> None:
            runs[variant] = _watch(loaded, variant, collector.address, seconds, snapshot_s, interval_bytes, dump)

        threads = [threading.Thread(target=one, args=(variant,)) for variant in loaded.case.variants]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    name = "rss_bytes_per_operation" if loaded.case.kinds[0] == NATIVE else "bytes_per_operation"
    return runs, float(truth.get(name, 0.0))


def measure(loaded: Loaded, variant: str, *more: str) -> dict[str, Any]:
    """What stays per operation, by the driver's `measure`. more: of its options."""
    command = _command(loaded, variant, "measure", *more)
    done = subprocess.run(
        command, capture_output=True, text=True, env=_environment(), timeout=600, check=False, cwd=ROOT
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"what"')]
    if not lines:
        raise SystemExit(f"{loaded.case.id} {variant} could not be measured:\n{done.stderr[-2000:]}")
    return dict(lines[-1])


def _run_case(loaded: Loaded, args: argparse.Namespace) -> Score:
    runs, true_bytes = run_case(
        loaded, seconds=args.seconds, snapshot_s=args.snapshot_s, interval_bytes=args.interval_bytes, dump=True
    )
    row = score(loaded.case, runs.get(LEAKY), runs.get(FIXED), true_bytes, LEAKING_ROUTE)
    stored = {"score": row.as_dict(), "runs": [asdict(run) for run in runs.values()], "options": _options(args)}
    (args.results / f"{loaded.case.id}.json").write_text(json.dumps(stored, indent=1))
    return row


def _options(args: argparse.Namespace) -> dict[str, Any]:
    return {"seconds": args.seconds, "snapshot_s": args.snapshot_s, "interval_bytes": args.interval_bytes}


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
    more = [row.place, row.why, *(f"false alarm: {each}" for each in row.false_alarms[:3])]
    more += [f"also accused: {each}" for each in row.also_accused[:3]]
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


# --- One variant ---


def _command(loaded: Loaded, variant: str, mode: str, *more: str) -> list[str]:
    python = environments.python_of(loaded.case.environment(variant))
    return [str(python), "-m", "tests.leakbench.drive", mode, loaded.module, "--variant", variant, *more]


def _environment() -> dict[str, str]:
    return python_environment({"PYTHONDONTWRITEBYTECODE": "1", "MPLBACKEND": "Agg"})


class _Driven:
    """The driver's process: its last report, and its stderr for when it fails."""

    def __init__(self, command: Sequence[str]) -> None:
        self.ready = threading.Event()
        self.over = threading.Event()
        self.last: dict[str, Any] = {}
        self.errors: list[str] = []
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=_environment(),
            cwd=ROOT,
        )
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._read, self._read_errors)]
        for thread in self._threads:
            thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith('{"what"'):
                told = json.loads(line)
                self.last = {**self.last, **told}
                if told["what"] == READY:
                    self.ready.set()
                elif told["what"] == "done":
                    self.over.set()
        self.ready.set()
        self.over.set()

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.errors = [*self.errors[-40:], line.rstrip()]

    @property
    def failed(self) -> str:
        """Why it ended before its time, or ""."""
        if self.last.get("what") == "done":
            return ""
        return f"the driver ended early: {' | '.join(self.errors[-3:])}"

    def end(self) -> None:
        """Lets it go."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(20)


def _watch(
    loaded: Loaded, variant: str, address: str, seconds: float, snapshot_s: float, interval_bytes: int, dump: bool
) -> Run:
    case = loaded.case
    service = f"{case.id.lower()}-{variant}"
    options = ["--service", service, "--endpoint", address, "--seconds", str(seconds)]
    options += ["--snapshot-s", str(snapshot_s), "--interval-bytes", str(interval_bytes)]
    driven = _Driven(_command(loaded, variant, "watch", *options))
    began_ns = time.time_ns()
    first, ever, looks = None, 0, 0
    report = None
    try:
        driven.ready.wait(120)
        started = time.monotonic()
        with _query(address) as query:
            while not driven.over.wait(LOOK_EVERY_S):
                asked = time.monotonic() - started
                report = _ask(query, service, began_ns)
                looks += 1
                leaks = [each for each in report[0] if each.verdict == LEAK]
                ever += bool(leaks)
                if first is None and any(is_right(each, case.sites) or each.kind in case.kinds for each in leaks):
                    first = round(asked, 1)
            if not driven.failed:
                # What comes later is a process at rest, and would look as if its growth had ended.
                ended_ns = int(driven.last["at_ns"])
                report = _ask(query, service, began_ns, ended_ns)
                looks += 1
                if first is None and any(each.verdict == LEAK and is_right(each, case.sites) for each in report[0]):
                    first = round(seconds, 1)
                if dump and case.holder and variant == LEAKY:
                    dumped = _dump(address, service)
                    findings, notes = _ask(query, service, began_ns, ended_ns)
                    report = findings, (*notes, dumped) if dumped else notes
    finally:
        driven.end()
    findings, notes = report if report is not None else ((), ())
    return Run(
        variant=variant,
        findings=findings,
        operations=int(driven.last.get("operations", 0)),
        seconds=float(driven.last.get("seconds", 0.0)),
        first_leak_s=first,
        ever=ever,
        looks=looks,
        notes=notes,
        error=driven.failed,
    )


# --- The collector's answers ---


@contextlib.contextmanager
def _query(address: str) -> Iterator[query_pb2_grpc.QueryServiceStub]:
    with grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", 64 << 20)]) as channel:
        yield query_pb2_grpc.QueryServiceStub(channel)


def _ask(
    query: query_pb2_grpc.QueryServiceStub, service: str, from_ns: int, to_ns: int = 0
) -> tuple[tuple[Found, ...], tuple[str, ...]]:
    request = query_pb2.LeaksRequest(
        selector=query_pb2.Selector(service=service),
        range=query_pb2.Range(from_ns=from_ns, to_ns=to_ns or time.time_ns()),
        limit=ANSWERS_MAX,
    )
    for message in query.Leaks(request, timeout=60):
        if message.HasField("report"):
            report = message.report
            return tuple(_found(each) for each in report.findings), tuple(report.notes)
    raise RuntimeError("the collector ended its answer without a report")


def _dump(address: str, service: str) -> str:
    """Has the process's heap dumped, so that holders are known; a sentence when that was not possible."""
    request = control_pb2.CaptureRequest(service=service, kind=ingest_pb2.COMMAND_KIND_DUMP_HEAP, lease_seconds=60)
    record = None
    with grpc.insecure_channel(address) as channel:
        try:
            for response in control_pb2_grpc.ControlServiceStub(channel).Capture(request, timeout=90):
                record = response.record
        except grpc.RpcError as error:
            return f"no heap dump: {error.details()}"
    if record is None or record.state != control_pb2.CAPTURE_STATE_STORED:
        return f"no heap dump: {record.reason if record is not None else 'no answer'}"
    return ""


def _found(finding: query_pb2.LeakFinding) -> Found:
    site = finding.site
    return Found(
        verdict=VERDICTS[finding.verdict],
        place=_place(site.frame),
        near=_place(finding.application_frame) if finding.HasField("application_frame") else None,
        path=tuple(_place(frame) for frame in site.path[:12]),
        bytes_per_second=finding.bytes_per_second,
        kind=KINDS.get(finding.kind, ""),
        holder=finding.holder,
        routes=tuple(share.route for share in site.routes),
        bytes_per_operation={each.operation: each.bytes for each in finding.per_operation},
        against=tuple(each.name for each in finding.evidence if not each.supports_leak),
    )


def _place(frame: Any) -> Place:
    return Place(frame.file, frame.function, frame.line)


if __name__ == "__main__":
    sys.exit(main())
