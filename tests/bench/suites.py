"""Runs the test suites of anyio and starlette, from their source distributions, without and under `glassbottom run`.

The results must be the same, test by test: whatever we hook, a library that tests cancellation, task groups, worker
threads and middleware would notice. Needs the network, so it is no part of `make test`. The last line is one JSON
object; the exit code is 1 when a result differs, 2 when a suite cannot be run.

python -m tests.bench.suites --only anyio
"""

import argparse
import collections
import contextlib
import json
import os
import socket
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

from tests.bench.overhead.builds import ROOT
from tests.support.collector_process import collector_process

SUITES = {
    # What each needs beside itself, and how it is run. Slow or networked tests are left to the suites' own defaults.
    "anyio": (
        [
            "anyio[trio]",
            "pytest",
            "pytest-mock",
            "pytest-timeout",
            "hypothesis",
            "psutil",
            "trustme",
            "uvloop",
            "blockbuster",
            "truststore",
        ],
        ["tests", "-m", "not network", "-p", "no:cacheprovider"],
    ),
    "starlette": (
        [
            "starlette[full]",
            "pytest",
            "trio",
            "httpx2[zstd]",
            "blockbuster",
            "importlib-metadata",
            "opentelemetry-sdk",
            "typing_extensions",
        ],
        ["tests", "-p", "no:cacheprovider"],
    ),
}
PLAIN_RUNS = 2
"""Without us a suite runs twice: a test whose result differs between these says nothing about us."""


class SuiteError(Exception):
    """Why a suite cannot be run, in one sentence."""


def run(command: Sequence[str], **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload, no-any-return]


def prepare(name: str, home: Path) -> tuple[Path, Path]:
    """(python of an environment with the suite's needs and this checkout, unpacked source distribution)."""
    needs, _ = SUITES[name]
    environment = home / "venv"
    python = environment / "bin" / "python"
    steps = [
        [sys.executable, "-m", "venv", str(environment)],
        [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "setuptools>=77"],
        [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "--prefer-binary", *needs],
        [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-build-isolation", str(ROOT)],
    ]
    for step in steps:
        done = run(step)
        if done.returncode:
            raise SuiteError(f"`{' '.join(step)}` failed: {done.stderr.strip().splitlines()[-1:]}")
    version = run([str(python), "-c", f"import importlib.metadata as m; print(m.version({name!r}))"]).stdout.strip()
    fetch = [
        str(python),
        "-m",
        "pip",
        "download",
        "-q",
        "--disable-pip-version-check",
        "--no-deps",
        "--no-binary",
        name,
    ]
    done = run([*fetch, "-d", str(home), f"{name}=={version}"])
    archives = list(home.glob(f"{name}-*.tar.gz"))
    if not archives:
        raise SuiteError(f"The source distribution of {name} {version} cannot be had: {done.stderr.strip()[-300:]}")
    with tarfile.open(archives[0]) as archive:
        archive.extractall(home, filter="data")
    source = home / archives[0].name.removesuffix(".tar.gz")
    if not (source / "tests").is_dir():
        raise SuiteError(f"The source distribution of {name} {version} has no tests.")
    return python, source


def results(python: Path, source: Path, arguments: Sequence[str], endpoint: str | None) -> dict[str, str]:
    """Outcome by test."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        command = [str(python), "-m", "pytest", *arguments, "-q", f"--junitxml={report}", "-o", "junit_family=xunit1"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        if endpoint is not None:
            # Warnings are errors in both suites; what we would say to an operator must not become one of theirs.
            watch = [str(python), "-m", "glassbottom.run", "--service", "suite", "--endpoint", endpoint, "--"]
            command = [*watch, *command]
            environment |= {"GLASSBOTTOM_SNAPSHOT_INTERVAL_S": "1", "GLASSBOTTOM_ASYNCIO_INTERVAL_S": "1"}
        done = run(command, cwd=source, env=environment, timeout=1200)
        if not report.exists():
            raise SuiteError(f"pytest gave no report: {(done.stdout + done.stderr).strip()[-800:]}")
        found = {}
        for case in ElementTree.parse(report).iter("testcase"):
            kinds = {child.tag for child in case} & {"failure", "error", "skipped"}
            found[f"{case.get('classname')}::{case.get('name')}"] = min(kinds) if kinds else "passed"
        return found


def has_ipv6() -> bool:
    """Whether `localhost` has an address of version 6, which is what the suites connect to."""
    try:
        return bool(socket.getaddrinfo("localhost", 0, family=socket.AF_INET6))
    except OSError:
        return False


def compare(name: str, endpoint: str) -> dict[str, object]:
    with tempfile.TemporaryDirectory(prefix=f"glassbottom-{name}-") as home:
        python, source = prepare(name, Path(home))
        arguments = list(SUITES[name][1])
        if not has_ipv6():
            # What fails for want of IPv6 leaves sockets open, and their warnings fail whichever test a collection of
            # garbage falls into. That is chance: it changes with anything that allocates.
            print(f"{name}: localhost has no IPv6 address, tests of it are left out", file=sys.stderr)
            arguments += ["-k", "not ipv6"]
        plain = [results(python, source, arguments, None) for _ in range(PLAIN_RUNS)]
        watched = results(python, source, arguments, endpoint)
        steady = {test for test in plain[0] if all(run.get(test) == plain[0][test] for run in plain)}
        differs = {test for test in steady if watched.get(test) != plain[0][test]}
        if differs:
            # Once more: a test that fails by its own chance in one run of three is not ours.
            again = results(python, source, arguments, endpoint)
            differs = {test for test in differs if again.get(test) != plain[0][test]}
        for test in sorted(differs):
            print(f"{name}: {test}: {plain[0][test]} without, {watched.get(test)} with", file=sys.stderr)
        counts = collections.Counter(watched.values())
        return {
            "source": source.name,
            "tests": len(plain[0]),
            "unsteady": len(plain[0]) - len(steady),
            "differs": sorted(differs),
            **counts,
        }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.suites", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=tuple(SUITES))
    chosen = parser.parse_args()
    found: dict[str, dict[str, object]] = {}
    with contextlib.ExitStack() as stack:
        endpoint = stack.enter_context(collector_process()).address
        for name in [chosen.only] if chosen.only else SUITES:
            try:
                found[name] = compare(name, endpoint)
            except SuiteError as error:
                print(error, file=sys.stderr)
                return 2
            print(name, found[name], file=sys.stderr)
    print(json.dumps(found))
    return 1 if any(result["differs"] for result in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
