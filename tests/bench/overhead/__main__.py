"""Runs the pairs, prints a table per workload and, as the last line, one JSON object.

python -m tests.bench.overhead             # everything, both builds; an hour and a half on a quiet machine
python -m tests.bench.overhead --quick     # under a minute: proves the path, its figures mean nothing
python -m tests.bench.overhead --workloads w2 --peers null,agent --build optimised --runs 15
"""

import argparse
import contextlib
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.bench.overhead import builds, load, pairs, peers, workloads
from tests.bench.overhead.builds import BenchError, Build
from tests.support.collector_process import collector_process

TARGETS = {"ratio": 1.01, "p99": 1.02}
CROSS_CHECKED = ("null", "agent")  # whose latencies wrk takes as well
SETTLE_S = {"agent": 4.0}  # sliced but not counted: the agent takes its first snapshot a second after its start
SETTLE_OTHERS_S = 1.5
ALONE_OTHERS_S = 3.0  # their threads have no interval as long as the agent's


def say(*words: object) -> None:
    print(*words, file=sys.stderr, flush=True)


def names(allowed: tuple[str, ...]) -> Any:
    def parse(text: str) -> list[str]:
        chosen = [name for name in text.split(",") if name]
        if unknown := sorted(set(chosen) - set(allowed)):
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: unknown; there are {', '.join(allowed)}")
        return chosen

    return parse


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.overhead", description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=9, help="pairs for null, floor and agent (default 9)")
    parser.add_argument("--peer-runs", type=int, default=3, help="pairs for the other tools, whose cost is larger (3)")
    parser.add_argument("--seconds", type=float, default=6.0, help="sliced time of a pair, both together (6)")
    parser.add_argument("--slice-ms", type=float, default=pairs.SLICE_MS, help="mean length of a slice (17.5)")
    parser.add_argument(
        "--alone-seconds",
        type=float,
        default=10.0,
        help="undisturbed time in which the agent's threads are clocked (10)",
    )
    parser.add_argument("--turns", type=int, default=4, help="undisturbed turns of w2, null and agent only (4)")
    parser.add_argument("--turn-seconds", type=int, default=3, help="length of such a turn (3)")
    parser.add_argument("--workloads", type=names(workloads.NAMES + workloads.ASYNC), default=list(workloads.NAMES))
    parser.add_argument(
        "--peers", type=names(peers.NAMES + peers.ASYNC), default=None, help=f"of {','.join(peers.NAMES)}"
    )
    parser.add_argument("--build", choices=("plain", "optimised", "both"), default=None, help="default both")
    parser.add_argument("--quick", action="store_true", help="one very short run of null, floor and agent, plain build")
    parser.add_argument("--details", type=Path, help="write every run, with the peers' own reports, to this JSON file")
    parser.add_argument("--endpoint", help="send to this running collector, HOST:PORT, instead of starting one")
    parser.add_argument(
        "--environment",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="for the instrumented process, to tune: GLASSBOTTOM_WINDOW_SHARE=0.1, GLASSBOTTOM_HEAP=0",
    )
    parser.add_argument("--seed", type=int, default=1, help="of the slice lengths and the order of the peers")
    chosen = parser.parse_args(argv)
    if chosen.quick:
        chosen.runs = chosen.peer_runs = 1
        chosen.seconds, chosen.alone_seconds, chosen.turns, chosen.turn_seconds = 1.0, 0.5, 2, 1
    chosen.peers = chosen.peers or list(peers.OURS if chosen.quick else peers.NAMES)
    chosen.build = chosen.build or ("plain" if chosen.quick else "both")
    return chosen


def evidence(peer: str, report: Mapping[str, Any]) -> None:
    """Raises BenchError when the agent was not doing its work: a figure for an idle agent would be a lie."""
    if peer != "agent":
        return
    numbers = report.get("statistics", {})
    acked, taken = numbers.get("batches_acked_total", 0), numbers.get("sampler_samples_total", 0)
    if not acked or (not taken and numbers.get("sampler_interval_bytes")):
        raise BenchError(
            f"The agent took {taken} samples and had {acked} batches acknowledged, so its cost was not measured; "
            f"its status was {json.dumps(report, default=str)[:2000]}"
        )


def measure(
    chosen: argparse.Namespace,
    build: Build,
    workload: str,
    peer: str,
    options: Mapping[str, Any],
    cores: pairs.Cores,
    dice: random.Random,
) -> dict[str, Any]:
    """One run: a fresh pair, sliced, and for w2 its undisturbed turns; everything about it as plain data."""
    with tempfile.TemporaryDirectory(prefix="glassbottom-overhead-") as directory:
        scratch = Path(directory)
        settle_s = 0.3 if chosen.quick else SETTLE_S.get(peer, SETTLE_OTHERS_S)
        alone_s = chosen.alone_seconds if peer == "agent" else min(chosen.alone_seconds, ALONE_OTHERS_S)
        with pairs.pair(build, workload, peer, options, cores, scratch) as (plain, instrumented):
            result: dict[str, Any] = {}
            constant = load.constant_load((plain, instrumented), scratch) if workload in workloads.SERVERS else None
            with constant or contextlib.nullcontext():
                pairs.slice_by_turns(plain, instrumented, settle_s, dice, chosen.slice_ms)
                sliced = pairs.slice_by_turns(plain, instrumented, chosen.seconds, dice, chosen.slice_ms)
                background = pairs.background_share(instrumented, alone_s)
            result |= {
                "ratio": sliced.ratio_steady(background),
                "background": background,
                "ratio_sliced": sliced.ratio,
                "ratio_cpu": sliced.ratio_cpu,
                "slices": sliced.slices,
                "operations": [sliced.plain.operations, sliced.instrumented.operations],
                "wall_ns": [sliced.plain.wall_ns, sliced.instrumented.wall_ns],
                "cpu_ns": [sliced.plain.cpu_ns, sliced.instrumented.cpu_ns],
                "main_thread_cpu_ns": [sliced.plain.main_thread_cpu_ns, sliced.instrumented.main_thread_cpu_ns],
            }
            if workload in workloads.SERVERS:
                result |= latency_ratios("", [sliced.plain, sliced.instrumented])
                if chosen.turns and peer in CROSS_CHECKED:
                    seen = load.undisturbed_turns(plain, instrumented, chosen.turns, chosen.turn_seconds, scratch)
                    result |= latency_ratios("_client", list(seen))
            plain.farewell()
            result["report"] = instrumented.farewell()
            evidence(peer, result["report"])
    return result


def latency_ratios(suffix: str, sides: Sequence[pairs.Side | load.Latencies]) -> dict[str, Any]:
    """Latencies of both sides and their ratio, with / without: 1.02 says 2 % longer."""
    result: dict[str, Any] = {}
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        plain, instrumented = (side.percentile_us(share) for side in sides)
        result |= {f"{name}_us{suffix}": [plain, instrumented], f"{name}{suffix}": instrumented / plain}
    return result


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.3f} [{min(values):.3f}-{max(values):.3f}]"


COLUMNS = {
    "ratio": "ops/s without / with",
    "ratio_sliced": "sliced, wall time",
    "ratio_cpu": "sliced, CPU time",
    "background": "own threads, cores",
    "p50": "p50 with / without",
    "p99": "p99 with / without",
    "p99_client": "p99 seen by wrk",
}


def table(
    title: str,
    runs: Mapping[str, list[dict[str, Any]]],
    unavailable: Mapping[str, str],
    targets: Mapping[str, float],
) -> str:
    """Lines for a reader: median [min-max] of each measure, by peer; then the agent against its targets."""
    columns = [key for key in COLUMNS if any(key in run for found in runs.values() for run in found)]
    lines = [title, f"  {'peer':<12} {'runs':>4}" + "".join(f"  {COLUMNS[key]:<22}" for key in columns)]
    for peer in peers.NAMES + peers.ASYNC:
        if found := runs.get(peer):
            cells = [spread([run[key] for run in found]) if key in found[0] else "-" for key in columns]
            lines.append(f"  {peer:<12} {len(found):>4}" + "".join(f"  {cell:<22}" for cell in cells))
        elif peer in unavailable:
            lines.append(f"  {peer:<12}    -  unavailable: {unavailable[peer]}")
    for key, target in targets.items():
        if (agent := runs.get("agent")) and key in agent[0]:
            median = statistics.median(run[key] for run in agent)
            lines.append(
                f"  target: {COLUMNS[key]} <= {target} for the agent: {'met' if median <= target else 'missed'}"
            )
    return "\n".join(line.rstrip() for line in lines)


def summary(runs: Mapping[str, list[dict[str, Any]]], unavailable: Mapping[str, str]) -> dict[str, Any]:
    """One workload of the result line: medians of ratios."""
    result: dict[str, Any] = {peer: None for peer in peers.OURS if peer in runs} | {"peers": {}}
    for peer, found in runs.items():
        into = result if peer in peers.OURS else result["peers"]
        for key, name in (
            ("ratio", peer),
            ("ratio_sliced", f"{peer}_sliced"),
            ("p99", f"{peer}_p99"),
            ("p99_client", f"{peer}_p99_client"),
        ):
            if key in found[0]:
                into[name] = round(statistics.median(run[key] for run in found), 4)
    result["peers"] |= {peer: {"unavailable": reason} for peer, reason in unavailable.items()}
    return result


def run(chosen: argparse.Namespace) -> dict[str, Any]:
    if set(workloads.SERVERS) & set(chosen.workloads):
        load.require_wrk()
    cores = pairs.Cores.choose()
    dice = random.Random(chosen.seed)
    ready = []
    for name in ("plain", "optimised") if chosen.build == "both" else (chosen.build,):
        say(f"preparing the {name} build …")
        ready.append(builds.prepare(name))
    # From here on everything we start inherits the other core, except what pairs.py pins to the measured one.
    os.sched_setaffinity(0, {cores.other})
    with contextlib.suppress(PermissionError):
        os.nice(-5)  # a late switch costs nothing, it is timed; but long slices are fewer slices
    results: dict[str, Any] = {}
    details: dict[str, Any] = {}
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="glassbottom-floor-")))
        endpoint = chosen.endpoint
        if endpoint is None and "agent" in chosen.peers:
            endpoint = stack.enter_context(collector_process()).address
        for build in ready:
            print(f"\n{build.name} build: {build.description}", flush=True)
            options = {
                "floor": str(builds.compile_floor(build.python, scratch)),
                "endpoint": endpoint,
                # A quick run is shorter than an interval, and still has to see the agent send.
                "environment": ({"GLASSBOTTOM_SNAPSHOT_INTERVAL_S": "0.5"} if chosen.quick else {})
                | dict(text.split("=", 1) for text in chosen.environment),
            }
            for workload in chosen.workloads:
                runs: dict[str, list[dict[str, Any]]] = {}
                unavailable = {p: why for p, why in build.unavailable.items() if p in chosen.peers}
                todo = [
                    peer
                    for peer in chosen.peers
                    if peer not in unavailable
                    for _ in range(chosen.runs if peer in peers.OURS else chosen.peer_runs)
                ]
                # In random order, so that an hour with a noisy neighbour is shared by all.
                dice.shuffle(todo)
                for done, peer in enumerate(todo):
                    if peer in unavailable:
                        continue
                    try:
                        result = measure(chosen, build, workload, peer, options, cores, dice)
                    except BenchError as error:
                        if peer in peers.OURS:
                            raise
                        unavailable[peer] = str(error)
                        runs.pop(peer, None)
                        say(f"{peer} is unavailable: {error}")
                        continue
                    runs.setdefault(peer, []).append(result)
                    say(
                        f"[{time.monotonic() - started:5.0f} s] {workload}{build.suffix} {done + 1}/{len(todo)} "
                        f"{peer}: "
                        f"{result['ratio']:.3f} (wall {result['ratio_sliced']:.3f} cpu {result['ratio_cpu']:.3f})"
                        + (f" p99 {result['p99']:.3f}" if "p99" in result else "")
                    )
                targets = {} if chosen.quick else TARGETS  # a quick run is too short to judge anything by
                print("\n" + table(f"{workload}{build.suffix}", runs, unavailable, targets), flush=True)
                results[workload + build.suffix] = summary(runs, unavailable)
                details[workload + build.suffix] = {"build": build.description, "runs": runs}
                if chosen.details:
                    chosen.details.write_text(json.dumps(details, indent=1, default=str))
    return results


def main() -> int:
    chosen = arguments()
    try:
        results = run(chosen)
    except BenchError as error:
        say(error)
        return 1
    print(json.dumps({"workloads": results}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
