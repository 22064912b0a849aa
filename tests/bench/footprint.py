"""What glassbottom weighs: time and memory of its import, memory of the running agent, fixed tables of its C core.

    python -m tests.bench.footprint            # both builds, a few minutes
    python -m tests.bench.footprint --quick    # proves the path

Import: fresh interpreters, `import glassbottom` and `pass` in turn, wall time from spawn to exit, difference of the
medians; memory is RSS after minus before the import within one process. Running agent: the service of w2 (uvicorn,
starlette) three ways: bare, with `import grpc` alone, and with the agent connected to a live collector and at least two
of its batches acknowledged; after the same number of requests, RSS of each minus the bare one. Medians of fresh
processes.

Ends with a JSON line: each measure with its target and whether it was met, by build.
"""

import argparse
import contextlib
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.bench.overhead import builds, pairs
from tests.support.collector_process import collector_process

TARGETS = {"import_ms": 30.0, "import_mb": 5.0, "agent_mb_over_bare": 28.0, "tables_mib": 8.0}
MB = 1e6
CONNECTED_TIMEOUT_S = 60.0
REQUESTS = 2000

IMPORT_RSS = """
import os
page = os.sysconf("SC_PAGE_SIZE")
def rss():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * page
rss()
before = rss()
import {module}
print(rss() - before)
"""


def say(*words: object) -> None:
    print(*words, file=sys.stderr, flush=True)


def start_ms(python: Path, code: str) -> float:
    """Wall time of a fresh interpreter that runs the code, from spawn to exit."""
    begin = time.perf_counter_ns()
    done = os.posix_spawn(str(python), [str(python), "-c", code], clean_environment())
    _pid, status = os.waitpid(done, 0)
    if status:
        raise builds.BenchError(f"`{python} -c {code!r}` failed.")
    return (time.perf_counter_ns() - begin) / 1e6


def clean_environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "GLASSBOTTOM"))}


def import_ms(python: Path, module: str, repetitions: int) -> tuple[float, float]:
    """(import time, time of a bare interpreter): medians of that many pairs in turn, milliseconds."""
    with_import, bare = [], []
    for _ in range(3):  # byte code and page cache
        start_ms(python, f"import {module}")
    for _ in range(repetitions):
        bare.append(start_ms(python, "pass"))
        with_import.append(start_ms(python, f"import {module}"))
    return statistics.median(with_import) - statistics.median(bare), statistics.median(bare)


def import_mb(python: Path, module: str, repetitions: int) -> float:
    code = IMPORT_RSS.format(module=module)
    return statistics.median(
        int(subprocess.run([python, "-c", code], check=True, capture_output=True, env=clean_environment()).stdout) / MB
        for _ in range(repetitions)
    )


def rss_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / MB
    raise builds.BenchError(f"Process {pid} has no VmRSS: it has ended.")


def get(connection: http.client.HTTPConnection, path: str) -> Any:
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read()
    if answer.status != 200:
        raise builds.BenchError(f"The service answered {answer.status} to {path}.")
    return json.loads(body)


@contextlib.contextmanager
def service(build: builds.Build, peer: str, endpoint: str, core: int) -> Iterator[pairs.Workload]:
    """The service of w2 in a process of its own, ready."""
    with tempfile.TemporaryDirectory(prefix="glassbottom-footprint-") as scratch:
        options = {"endpoint": endpoint, "environment": {"GLASSBOTTOM_SNAPSHOT_INTERVAL_S": "2"}}
        workload = pairs.Workload(build, "w2", peer, options, core, Path(scratch))
        try:
            workload.wait_ready()
            yield workload
        finally:
            workload.close()


def running_mb(build: builds.Build, peer: str, endpoint: str, core: int) -> tuple[float, dict[str, Any]]:
    """(RSS of the service after its requests, last report of its peer). The agent has sent two batches by then."""
    with service(build, peer, endpoint, core) as workload:
        connection = http.client.HTTPConnection("127.0.0.1", workload.page.port, timeout=10)
        for i in range(REQUESTS):
            get(connection, f"/customers/{i}/orders?limit=12")
        report = get(connection, "/report")
        deadline = time.monotonic() + CONNECTED_TIMEOUT_S
        while peer == "agent" and find(report, "batches_acked_total") < 2:
            if time.monotonic() > deadline:
                raise builds.BenchError(f"The agent had no two batches acknowledged in a minute: {report}")
            time.sleep(0.1)
            for i in range(20):
                get(connection, f"/customers/{i}/orders?limit=12")
            report = get(connection, "/report")
        connection.close()
        return rss_mb(workload.pid), report


def find(report: Mapping[str, Any], name: str) -> float:
    """A number of the agent's status by its name; 0 where there is none."""
    return float(report.get("statistics", {}).get(name, 0))


def measure(build: builds.Build, endpoint: str, core: int, arguments: argparse.Namespace) -> dict[str, Any]:
    say(f"{build.name}: import")
    ms, bare_ms = import_ms(build.python, "glassbottom", arguments.imports)
    result: dict[str, Any] = {
        "python": build.description,
        "interpreter_ms": bare_ms,
        "import_ms": ms,
        "import_mb": import_mb(build.python, "glassbottom", arguments.repetitions),
        "import_grpc_ms": import_ms(build.python, "grpc", max(arguments.imports // 4, 3))[0],
        "import_grpc_mb": import_mb(build.python, "grpc", arguments.repetitions),
    }
    rss: dict[str, list[float]] = {"null": [], "grpc": [], "agent": []}
    report: dict[str, Any] = {}
    for i in range(arguments.repetitions):
        say(f"{build.name}: running service, {i + 1} of {arguments.repetitions}")
        for peer, values in rss.items():
            value, report = running_mb(build, peer, endpoint, core)
            values.append(value)
    bare, grpc, agent = (statistics.median(values) for values in rss.values())
    result |= {
        "bare_mb": bare,
        "grpc_mb_over_bare": grpc - bare,
        "agent_mb_over_bare": agent - bare,
        "agent_mb_over_grpc": agent - grpc,
        "tables_mib": find(report, "sampler_tables_bytes") / 2**20,
    }
    if not result["tables_mib"]:
        raise builds.BenchError(f"The agent's status does not tell sampler_tables_bytes: {report}")
    return {key: round(value, 2) if isinstance(value, float) else value for key, value in result.items()}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.footprint", description=__doc__.partition("\n")[0])
    parser.add_argument("--build", choices=("plain", "optimised", "both"), default="both")
    parser.add_argument("--imports", type=int, default=60, help="interpreter starts of each kind (60)")
    parser.add_argument("--repetitions", type=int, default=5, help="processes for each figure of memory (5)")
    parser.add_argument("--quick", action="store_true", help="two of each, plain build only")
    arguments = parser.parse_args()
    names = ("plain", "optimised") if arguments.build == "both" else (arguments.build,)
    if arguments.quick:
        arguments.imports, arguments.repetitions, names = 2, 1, ("plain",)
    results = {}
    try:
        cores = pairs.Cores.choose()
        ready = [builds.prepare(name) for name in names]
        os.sched_setaffinity(0, {cores.other})
        with collector_process() as collector:
            for build in ready:
                results[build.name] = measure(build, collector.address, cores.measured, arguments)
    except builds.BenchError as error:
        say(error)
        return 1
    for name, figures in results.items():
        print(f"\n{name} build: {figures['python']}")
        for key, value in figures.items():
            if key != "python":
                target = f"  target <= {TARGETS[key]:g}: {verdict(key, value)}" if key in TARGETS else ""
                print(f"  {key:<20} {value:8.2f}{target}")
    print(
        json.dumps(
            {
                "footprint": {
                    name: {
                        key: {"value": value, "target": TARGETS[key], "met": verdict(key, value) == "met"}
                        if key in TARGETS
                        else value
                        for key, value in figures.items()
                    }
                    for name, figures in results.items()
                }
            }
        )
    )
    return 0


def verdict(key: str, value: float) -> str:
    return "met" if value <= TARGETS[key] else "missed"


if __name__ == "__main__":
    sys.exit(main())
