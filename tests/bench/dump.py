"""What a heap dump costs the service and the collector, beside the tools that look at a heap from within.

    make bench-dump                   1 M and 5 M objects and 1 GiB, about five minutes
    make bench-dump ARGS=--quick      proves the path

For each heap a fresh process (tests/bench/dump_heap.py) is dumped and a fresh one reads the dump:

* the pause of the parent, six clones each, beside what an empty os.fork takes in it; and how late a thread of it was
  that wants to run every millisecond,
* memory that became the copy's own, the size of the file, the time until it was complete,
* reading, dominators and suspects: time and peak memory. The answer must be the true one: as many sessions as were
  made, held by `HANDLERS`, which is the one suspect wherever it is a fifth of the heap.

guppy3, pympler and objgraph run within such a process, which stands still meanwhile. pyheap stops it through GDB; it is
on no package index, so its dumper is used where GLASSBOTTOM_BENCH_PYHEAP says it lies.

The pause is what the kernel takes to copy the tables of memory. On a busy machine others run in the middle of it, so
beside the time that passed stands the processor's time of the same calls; the limit is for the former, on a quiet one.

The last line is one JSON object; the exit code is 1 when a limit is not kept.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.overhead.builds import ROOT

TARGET = Path(__file__).with_name("dump_heap.py")
PEERS = {"guppy3": "guppy3==3.1.7", "pympler": "pympler==1.1", "objgraph": "objgraph==3.7.0"}
PYHEAP_TIMEOUT_S = 240.0
PAUSE_MS_PER_GIB_MAX = 15.0
TOTAL_S_5M_MAX = 30.0
RSS_MB_5M_MAX = 2000.0

READ = """
import json, sys, time
from pathlib import Path
begin = time.perf_counter()
from glassbottom_collector.heapdump import load
dump = load(Path(sys.argv[1]))
loaded = time.perf_counter()
suspects = dump.suspects()
ended = time.perf_counter()
with open("/proc/self/status") as status:
    peak = next(int(line.split()[1]) * 1024 / 1e6 for line in status if line.startswith("VmHWM"))
(path,) = dump.paths(type_name="Session")
summary = dump.summary()
print(json.dumps({
    "load_s": loaded - begin, "suspects_s": ended - loaded, "rss_mb": peak, "objects": summary.objects,
    "references": summary.references, "complete": summary.complete, "size_mib": summary.size / 2**20,
    "path": str(path), "sessions": path.objects, "retained_mib": path.retained / 2**20,
    "suspects": [str(each.path) for each in suspects],
}))
"""


def say(*words: object) -> None:
    print(*words, file=sys.stderr, flush=True)


def last_json(command: list[str], python_path: str = "") -> dict[str, object]:
    environment = {**os.environ, "PYTHONPATH": python_path, "PYTHONHASHSEED": "0"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(objects: int, rss_mib: int, folder: Path) -> dict[str, object]:
    """A dump and its reading; `problems` says what was not as it must be."""
    path = folder / "heap.dump"
    here = f"{ROOT / 'agent'}{os.pathsep}{ROOT / 'collector'}"
    dumped = last_json([sys.executable, str(TARGET), str(objects), str(rss_mib), "dump", str(path)], here)
    if "error" in dumped:
        return {"problems": [str(dumped["error"])]}
    read = last_json([sys.executable, "-c", READ, str(path)], here)
    path.unlink()
    if "error" in read:
        return {"problems": [str(read["error"])], "dump": dumped}
    problems = []
    if dumped["ended"] != 0 or not read["complete"] or dumped["faults"]:
        problems.append("the dump is not complete")
    held = "__main__.HANDLERS dict[1] -> "
    if read["sessions"] != dumped["sessions"] or not str(read["path"]).startswith(held):
        problems.append(f"{dumped['sessions']} sessions were made, and {read['sessions']} found: {read['path']}")
    large = float(str(read["retained_mib"])) >= 0.2 * float(str(read["size_mib"]))
    if large and not any(str(each).startswith(held) for each in read["suspects"]):  # type: ignore[attr-defined]
        problems.append(f"HANDLERS is no suspect, but: {read['suspects']}")
    total_s = sum(float(str(part)) for part in (dumped["dump_s"], read["load_s"], read["suspects_s"]))
    return {"dump": dumped, "read": read, "total_s": total_s, "problems": problems}


def peers(objects: int) -> dict[str, object]:
    """Each in a process with the same heap; what cannot be installed or run says why."""
    home = ROOT / ".venv" / "bench-dump"
    python = home / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    found: dict[str, object] = {}
    for name, pin in PEERS.items():
        pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", pin]
        done = subprocess.run(pip, capture_output=True, text=True, check=False)
        if done.returncode:
            found[name] = {"error": f"cannot be installed: {(done.stderr.strip().splitlines() or ['?'])[-1]}"}
        else:
            found[name] = last_json([str(python), str(TARGET), str(objects), "0", name])
        say(f"  {name}: {found[name]}")
    found["pyheap"] = pyheap(objects)
    say(f"  pyheap: {found['pyheap']}")
    return found


def pyheap(objects: int) -> dict[str, object]:
    """Its dumper from outside, through GDB."""
    dumper = os.environ.get("GLASSBOTTOM_BENCH_PYHEAP")
    if dumper is None:
        return {"error": "not run: on no package index; set GLASSBOTTOM_BENCH_PYHEAP to its pyheap_dump"}
    target = subprocess.Popen(
        [sys.executable, str(TARGET), str(objects), "0", "wait"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert target.stdout is not None
        pid = target.stdout.readline().strip()
        with tempfile.TemporaryDirectory() as folder:
            begin = time.perf_counter()
            command = [sys.executable, dumper, "--pid", pid, "--file", f"{folder}/heap.pyheap"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=PYHEAP_TIMEOUT_S, check=False)
            seconds = time.perf_counter() - begin
            if done.returncode:
                return {"error": (done.stderr.strip().splitlines() or ["?"])[-1], "seconds": seconds}
            return {"seconds": seconds}
    except subprocess.TimeoutExpired:
        return {"error": f"no result in {PYHEAP_TIMEOUT_S:.0f} s"}
    finally:
        target.kill()
        target.wait()


def table(heaps: dict[str, dict[str, object]]) -> str:
    """A row a heap."""
    lines = [
        "| heap | RSS | pause (longest) | per GiB | CPU, per GiB | fork, per GiB | dump | file | copied | read | MB |",
        "|---" * 11 + "|",
    ]
    for name, heap in heaps.items():
        dump, read = heap.get("dump"), heap.get("read")
        if not isinstance(dump, dict) or not isinstance(read, dict):
            continue
        pauses = dump["pause_ms"]
        middle = pauses[len(pauses) // 2]
        gib = dump["rss_mib"] / 1024
        lines.append(
            f"| {name} | {dump['rss_mib']:.0f} MiB | {middle:.1f} ms ({pauses[-1]:.1f}) | {middle / gib:.1f} ms "
            f"| {dump['pause_cpu_ms'][len(dump['pause_cpu_ms']) // 2] / gib:.1f} ms "
            f"| {dump['fork_ms'][len(dump['fork_ms']) // 2] / gib:.1f} ms "
            f"| {dump['dump_s']:.1f} s | {dump['file_mib']:.0f} MiB | {dump['dirtied_mib']:.0f} MiB "
            f"| {read['load_s'] + read['suspects_s']:.1f} s | {read['rss_mb']:.0f} MB |"
        )
    return "\n".join(lines)


def per_gib(heap: dict[str, object], what: str) -> float | None:
    """The median, by RSS."""
    dump = heap.get("dump")
    if not isinstance(dump, dict):
        return None
    pauses = dump[what]
    return float(pauses[len(pauses) // 2]) / (float(dump["rss_mib"]) / 1024)


def main() -> int:
    """Measures, and holds it against the limits."""
    parser = argparse.ArgumentParser(description=re.sub(r"\n.*", "", __doc__ or "", flags=re.DOTALL))
    parser.add_argument("--quick", action="store_true", help="small heaps, no limits")
    parser.add_argument("--no-peers", action="store_true", help="leave the other tools out")
    options = parser.parse_args()
    plan = {"1 M": (1_000_000, 0), "5 M": (5_000_000, 0), "1 GiB": (200_000, 1024)}
    if options.quick:
        plan = {"1 M": (50_000, 0), "5 M": (100_000, 0), "1 GiB": (20_000, 200)}
    heaps: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (objects, rss_mib) in plan.items():
            say(f"{name}: {objects} objects")
            heaps[name] = measure(objects, rss_mib, Path(folder))
            say(f"  {json.dumps(heaps[name])}")
    others = {} if options.no_peers else peers(plan["1 M"][0])
    print(table(heaps))
    five = heaps["5 M"].get("read")
    result = {
        "pause_ms_per_gib": per_gib(heaps["1 GiB"], "pause_ms"),
        "pause_cpu_ms_per_gib": per_gib(heaps["1 GiB"], "pause_cpu_ms"),
        "fork_ms_per_gib": per_gib(heaps["1 GiB"], "fork_ms"),
        "total_s_5m": heaps["5 M"].get("total_s"),
        "rss_mb_5m": five["rss_mb"] if isinstance(five, dict) else None,
        "peers": others,
        "problems": [problem for heap in heaps.values() for problem in heap["problems"]],  # type: ignore[attr-defined]
        "heaps": heaps,
    }
    limits = {
        "pause_ms_per_gib": PAUSE_MS_PER_GIB_MAX,
        "total_s_5m": TOTAL_S_5M_MAX,
        "rss_mb_5m": RSS_MB_5M_MAX,
    }
    kept = {
        name: value is not None and float(str(value)) <= limits[name]
        for name, value in result.items()
        if name in limits
    }
    result["kept"] = kept
    print(json.dumps(result))
    return 0 if not result["problems"] and (options.quick or all(kept.values())) else 1


if __name__ == "__main__":
    sys.exit(main())
