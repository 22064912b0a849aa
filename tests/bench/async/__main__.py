"""What seeing time costs: a step of a task, a span, a request; beside the tools that see time too, in the same run.

python -m tests.bench.async           # half an hour on a quiet machine
python -m tests.bench.async --quick   # under two minutes: proves the path, its figures mean little

Pairs of processes are sliced as docs/benchmarks/README.md describes. A step and a span are too short for that: they are
timed within one process that switches our part on and off (micro.py). The last line is one JSON object.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from tests.bench.overhead import __main__ as overhead
from tests.bench.overhead import builds, pairs, peers, workloads
from tests.bench.overhead.builds import BenchError

TARGETS = {
    "ns_per_step": 60.0,
    "us_per_span": 3.0,
    "asgi_ratio": 1.01,
    "asgi_p99_ratio": 1.02,
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.async", description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=7, help="pairs for null and agent (default 7)")
    parser.add_argument("--peer-runs", type=int, default=2, help="pairs for the other tools (2)")
    parser.add_argument("--seconds", type=float, default=6.0, help="sliced time of a pair, both together (6)")
    parser.add_argument("--build", choices=("plain", "optimised"), default="plain")
    parser.add_argument("--rounds", type=int, default=150, help="of the micro benchmarks (150)")
    parser.add_argument("--quick", action="store_true", help="one short run of everything")
    parser.add_argument("--only-micro", action="store_true", help="leave the pairs of processes out")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.runs = chosen.peer_runs = 1
        chosen.seconds, chosen.rounds = 1.0, 20
    return chosen


def micro(build: builds.Build, rounds: int) -> dict[str, Any]:
    """The micro benchmarks, in an interpreter of the build, on the core that is measured."""
    core = pairs.Cores.choose().measured
    command = [str(build.python), "-m", "tests.bench.async.micro", "--rounds", str(rounds)]
    done = subprocess.run(
        command,
        cwd=builds.ROOT,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )
    if done.returncode:
        raise BenchError(f"`{' '.join(command)}` failed, see above.")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def sliced(chosen: argparse.Namespace) -> Mapping[str, Any]:
    """Results of the pairs by workload."""
    line = ["--workloads", ",".join(workloads.ASYNC), "--build", chosen.build, "--seconds", str(chosen.seconds)]
    line += ["--peers", ",".join(("null", "agent", *peers.ASYNC)), "--runs", str(chosen.runs)]
    line += ["--peer-runs", str(chosen.peer_runs)]
    if chosen.quick:
        line += ["--alone-seconds", "1", "--turns", "2", "--turn-seconds", "1"]
        line += ["--environment", "GLASSBOTTOM_SNAPSHOT_INTERVAL_S=0.5"]
    return overhead.run(overhead.arguments(line))


def main() -> int:
    chosen = arguments()
    try:
        overhead.say(f"preparing the {chosen.build} build …")
        build = builds.prepare(chosen.build)
        result: dict[str, Any] = micro(build, chosen.rounds)
        for name, value in result.items():
            print(f"{name:>42}  {value}")
        if not chosen.only_micro:
            # Back to all cores: the micro benchmarks pinned only themselves, the pairs pin this process.
            found = sliced(chosen)
            suffix = build.suffix
            steps, requests = found[f"a1{suffix}"], found[f"a2{suffix}"]
            result |= {
                "step_ratio": steps["agent"],
                "asgi_ratio": requests["agent"],
                "asgi_p99_ratio": requests["agent_p99"],
                "null": {"steps": steps["null"], "asgi": requests["null"], "asgi_p99": requests["null_p99"]},
                "peers": {"steps": steps["peers"], "asgi": requests["peers"]},
            }
    except BenchError as error:
        overhead.say(error)
        return 1
    for name, target in TARGETS.items():
        with contextlib.suppress(KeyError):
            print(f"target: {name} <= {target}: {'met' if result[name] <= target else 'missed'} ({result[name]})")
    print(json.dumps({"build": chosen.build, **result}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
