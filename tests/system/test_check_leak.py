"""`glassbottom check-leak` on whole programs, which are run once each and have no idea of it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.support.schemas import validate_strictly

HEAD = "import asyncio, ctypes, functools, gc, os, subprocess, sys, time\n"
LEAKS = {
    # name: (program, kind, line of the site, who keeps it, bytes per pass)
    "a dict": (
        """
CACHE = {}
def handle(n):
    CACHE[n] = bytearray(1000)
for n in range(1500): handle(n)
""",
        ("reachable growth", ":5 handle", "__main__.CACHE (dict of", 1057),
    ),
    "a local of a coroutine": (
        """
async def step(seen, n):
    await asyncio.sleep(0)
    seen.append({"n": str(n)})
async def main():
    seen = []
    for n in range(1500): await step(seen, n)
    assert [each["n"] for each in seen] == [str(n) for n in range(1500)]
asyncio.run(main())
""",
        ("reachable growth", ":5 step", "list of", 235),
    ),
    "cycles without a collector": (
        """
gc.disable()
class Node: pass
def make():
    node = Node()
    node.me, node.load = node, bytearray(300)
for _ in range(1500): make()
""",
        ("cyclic garbage", ":7 make", "", 437),
    ),
    "malloc": (
        """
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
def handle():
    libc.malloc(4000)
    return bytes(50_000).count(0)
for _ in range(1500): handle()
""",
        ("native", ":6 handle", "", 4016),
    ),
}
HEALTHY = {
    "a full lru_cache": """
@functools.lru_cache(300)
def page(n): return bytearray(1000)
for n in range(1500):
    page(n)
""",
    "an lru_cache that fills": """
@functools.lru_cache(10**6)
def page(n): return bytearray(1000)
for n in range(1500):
    page(n)
""",
    "cycles": """
class Node: pass
def make():
    node = Node()
    node.me = node
for _ in range(1500): make()
""",
    "timers": """
async def main():
    for n in range(1500):
        asyncio.get_running_loop().call_later(60, print).cancel()
        await asyncio.sleep(0)
asyncio.run(main())
""",
    "interning": """
for n in range(1500):
    sys.intern("a_name_%d" % (n % 200))
""",
    "a table at the start": """
TABLE = [str(n) for n in range(100_000)]
for n in range(1500):
    len(str(n))
""",
}


def on_one_version_but(programs: Iterable[str], everywhere: str) -> list[Any]:
    """Parameters: programs that are run once, and one that is run on every version."""
    return [pytest.param(name, marks=[] if name == everywhere else [pytest.mark.once]) for name in programs]


def check(tmp_path: Path, program: str, *options: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "program.py").write_text(HEAD + program)
    command = [sys.executable, "-m", "glassbottom_collector.cli", "check-leak", *options, "--", sys.executable]
    return subprocess.run([*command, "program.py"], cwd=tmp_path, capture_output=True, text=True, check=False)


# One of each kind on every version, for the path from the command to the core; the verdicts themselves, and what they
# rest on, are judged on every version by tests/agent/test_testing_cases.py.
@pytest.mark.parametrize("name", on_one_version_but(LEAKS, "a dict"))
def test_a_program_that_leaks_is_told_with_its_evidence(name: str, tmp_path: Path) -> None:
    program, (kind, place, holder, size) = LEAKS[name]
    done = check(tmp_path, program)

    assert done.returncode == 3, done.stderr
    assert f"in the last two thirds, {kind} (" in done.stderr, done.stderr
    if place:
        site = re.search(r"site +program\.py(\S+ \w+): (\d+) B per pass", done.stderr)
        assert site is not None, done.stderr
        assert site[1] == place, done.stderr
        assert int(site[2]) == pytest.approx(size, rel=0.2), done.stderr
        assert holder in done.stderr, done.stderr


@pytest.mark.parametrize("name", on_one_version_but(HEALTHY, "cycles"))
def test_a_program_that_only_looks_like_it_is_left_alone(name: str, tmp_path: Path) -> None:
    done = check(tmp_path, HEALTHY[name])

    assert done.returncode == 0, done.stderr
    assert "program.py does not leak (" in done.stderr, done.stderr


@pytest.mark.once
def test_json_is_what_the_schema_says_of_a_leak_and_of_what_is_none(tmp_path: Path) -> None:
    leak = json.loads(check(tmp_path, LEAKS["malloc"][0], "-o", "json").stdout)
    short = json.loads(check(tmp_path, "print('done', file=sys.stderr)\n", "-o", "json").stdout)
    for answer in (leak, short):
        validate_strictly(answer, "check-leak")
    assert (leak["kind"], leak["sites"][0]["lines"][0]["line"], leak["sites"][0]["holder"]) == ("native", 6, None)
    assert (short["outcome"], short["kind"], short["sites"]) == ("undecided", None, [])


@pytest.mark.once
def test_a_long_program_is_watched_by_time_until_it_is_interrupted(tmp_path: Path) -> None:
    program = (
        "KEPT = []\ndef handle():\n    KEPT.append(bytearray(2000))\n"
        "try:\n    while True:\n        handle(); sum(range(3000)); time.sleep(0.002)\n"
        "except KeyboardInterrupt:\n    sys.exit(5)\n"
    )
    done = check(tmp_path, program, "--seconds", "8", "-o", "json")

    assert done.returncode == 3, done.stderr
    answer = json.loads(done.stdout)
    validate_strictly(answer, "check-leak")
    assert (answer["outcome"], answer["exit_code"]) == ("leak", 5)
    assert answer["sites"][0]["place"].endswith(":4 handle")


@pytest.mark.once
def test_a_program_keeps_its_output_its_arguments_and_its_children(tmp_path: Path) -> None:
    """What it starts is not watched, and finds nothing of ours in its surroundings."""
    program = (
        "print(input(), sys.argv[1:])\n"
        'line = \'import os; print(os.environ.get("PYTHONPATH", "").count("bootstrap"))\'\n'
        "print(subprocess.check_output([sys.executable, '-c', line], text=True).strip())\n"
        "print(sorted(name for name in os.environ if 'CHECK_LEAK' in name))\n"
        "if os.fork() == 0: sys.exit(0)\n"
        "os.wait()\nsys.exit(4)\n"
    )
    (tmp_path / "program.py").write_text(HEAD + program)
    command = [
        sys.executable,
        "-m",
        "glassbottom_collector.cli",
        "check-leak",
        "--",
        sys.executable,
        "program.py",
        "-x",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, input="hello\n", check=False)

    assert done.stdout.splitlines() == ["hello ['-x']", "0", "[]"], done.stderr
    assert done.returncode == 1
    assert "cannot be judged" in done.stderr
    assert "ended with exit code 4." in done.stderr


@pytest.mark.once
@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        ([], 2, "nothing to run; give a command"),
        (["--", "no-such-program"], 1, "no-such-program was not found"),
        (["--", "true"], 1, "true was not watched to its end (exit code 0)"),
        (["--", sys.executable, "-c", "import os; os._exit(0)"], 1, "must not end by os._exit()"),
        (["--frequency", "3"], 2, "usage: glassbottom check-leak"),
    ],
)
def test_what_cannot_be_watched_is_a_sentence(command: list[str], code: int, says: str) -> None:
    line = [sys.executable, "-m", "glassbottom_collector.cli", "check-leak", *command]
    done = subprocess.run(line, capture_output=True, text=True, check=False)

    assert done.returncode == code
    assert says in done.stderr
