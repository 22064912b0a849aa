"""The price of one allocation, in nanoseconds, with the sampler's settings in turn: for tuning the C core.

    python -m tests.bench.alloc_micro                                    # both builds, the usual variants
    python -m tests.bench.alloc_micro --build optimised --kernels loop32,python --rounds 20
    python -m tests.bench.alloc_micro --variants off,floor,share=1,share=0.1:interval=65536:window=5

It finds differences of a few percent of an allocation, not of a service: that is tests/bench/overhead. All variants
take short turns in random order within one process pinned to one core, so they share its memory layout and the
machine's moods; time is CPU time of the process, which foreign load does not enter. A variant is compared with the mean
of the two `off` turns around it.

Variants: off; floor (bare call-through hooks on all four functions of OBJ and MEM); floor-malloc (malloc and calloc
only); or a sampler: share=S[:interval=BYTES][:window=MS], with a thread in run_windows() as in the agent.

Kernels: loop32, loop512, loop1024 (C, one block at a time of that size; above 512 bytes pymalloc passes it on),
batch64 (C, 1024 blocks held), python (lists, tuples, dicts from bytecode), deep (the same below 80 frames). One
operation is one malloc and its free for the C kernels, one turn of the loop (4 objects) for the others.

The last line is one JSON object: build -> kernel -> variant -> {ns, ratio, ratio_min, ratio_max, samples}.
"""

import argparse
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.bench.overhead import builds, peers

USUAL_VARIANTS = "floor,floor-malloc,share=0.1,share=1,share=0.1:interval=65536,share=1:interval=65536"
KERNELS = ("loop32", "loop512", "loop1024", "batch64", "python", "deep")
DEPTH = 80


def python_objects(count: int) -> float:
    start = time.process_time_ns()
    for i in range(count):
        row = [i, (i, start)]
        kept = {"row": row, "value": i * 0.5}
    del kept
    return (time.process_time_ns() - start) / count


def below(depth: int, kernel: Callable[[int], float], count: int) -> float:
    return kernel(count) if depth == 0 else below(depth - 1, kernel, count)


def kernel_of(name: str, floor: Any) -> tuple[Callable[[int], float], int]:
    """(function of a count that returns ns per operation, count that takes about half a millisecond).

    Short calls, because a C loop holds the GIL and the window thread has to get it between two of them.
    """
    if name.startswith("loop"):
        return (lambda count: floor.loop(count, int(name[4:]))), 20_000
    if name.startswith("batch"):
        return (lambda count: floor.batch(count, int(name[5:]))), 20_480
    if name == "python":
        return python_objects, 2_000
    return (lambda count: below(DEPTH, python_objects, count)), 2_000


@contextlib.contextmanager
def variant(text: str, floor: Any) -> Iterator[Callable[[], int]]:
    """Switches a variant on for the time of the context; gives a function that says how many samples it took."""
    if text == "off":
        yield lambda: 0
    elif text.startswith("floor"):
        floor.install(text == "floor")
        try:
            yield lambda: 0
        finally:
            floor.remove()
    else:
        from glassbottom import _native

        settings = dict(part.split("=") for part in text.split(":"))
        _native.start(
            interval_bytes=float(settings.get("interval", 524288)),
            window_share=float(settings.get("share", 0.1)),
            window_ms=float(settings.get("window", 20)),
        )

        def windows() -> None:
            _native.exclude_thread()
            _native.run_windows(3600)

        thread = threading.Thread(target=windows)
        thread.start()
        try:
            yield lambda: _native.statistics()["samples"]
        finally:
            # In this order: a stop without interrupt leaves the thread asleep until its window ends.
            _native.interrupt()
            _native.stop()
            thread.join()


def child(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures in this process; kernel -> variant -> figures."""
    floor = peers.load_floor(arguments.floor)
    dice = random.Random(1)
    result: dict[str, Any] = {}
    for name in arguments.kernels:
        kernel, count = kernel_of(name, floor)
        turns: dict[str, list[float]] = {text: [] for text in ["off", *arguments.variants]}
        ratios: dict[str, list[float]] = {text: [] for text in arguments.variants}
        samples = dict.fromkeys(arguments.variants, 0)
        for _ in range(arguments.rounds):
            # Every variant between two turns without anything, which are its yardstick.
            dice.shuffle(arguments.variants)
            before = turn(kernel, count, "off", floor, arguments.turn_seconds)[0]
            for text in arguments.variants:
                ns, taken = turn(kernel, count, text, floor, arguments.turn_seconds)
                after = turn(kernel, count, "off", floor, arguments.turn_seconds)[0]
                turns["off"].append(after)
                turns[text].append(ns)
                ratios[text].append(2 * ns / (before + after))
                samples[text] += taken
                before = after
        result[name] = {"off": {"ns": round(statistics.median(turns["off"]), 3)}} | {
            text: {
                "ns": round(statistics.median(turns[text]), 3),
                "ratio": round(statistics.median(ratios[text]), 4),
                "ratio_min": round(min(ratios[text]), 4),
                "ratio_max": round(max(ratios[text]), 4),
                "samples": samples[text],
            }
            for text in sorted(arguments.variants)
        }
    return result


def turn(kernel: Callable[[int], float], count: int, text: str, floor: Any, seconds: float) -> tuple[float, int]:
    """(mean ns per operation over a turn, samples taken). The mean: windows are a mixture, a median would hide them."""
    with variant(text, floor) as samples:
        kernel(count)
        total, calls = 0.0, 0
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            total += kernel(count)
            calls += 1
        return total / calls, samples()


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.alloc_micro",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=__doc__,
    )
    parser.add_argument("--build", choices=("plain", "optimised", "both"), default="both")
    parser.add_argument(
        "--variants", default=USUAL_VARIANTS, type=lambda text: [v for v in text.split(",") if v != "off"]
    )
    parser.add_argument("--kernels", default=list(KERNELS), type=lambda text: text.split(","))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--turn-seconds", type=float, default=0.5, help="several windows long, about 0.2 s apart (0.5)")
    parser.add_argument("--quick", action="store_true", help="two short rounds: proves the path")
    parser.add_argument("--floor", help=argparse.SUPPRESS)  # only in the child: path of the compiled hooks
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.kernels) - set(KERNELS)):
        parser.error(f"unknown kernel {', '.join(unknown)}; there are {', '.join(KERNELS)}")
    if arguments.quick:
        arguments.rounds, arguments.turn_seconds = 2, 0.05
    if arguments.floor:
        print(json.dumps(child(arguments)))
        return 0
    core = max(os.sched_getaffinity(0))
    result = {}
    with tempfile.TemporaryDirectory(prefix="glassbottom-micro-") as scratch:
        for name in ("plain", "optimised") if arguments.build == "both" else (arguments.build,):
            try:
                build = builds.prepare(name)
                floor = builds.compile_floor(build.python, Path(scratch))
            except builds.BenchError as error:
                print(error, file=sys.stderr)
                return 1
            command = [str(build.python), "-m", "tests.bench.alloc_micro", "--floor", str(floor)]
            command += ["--variants", ",".join(arguments.variants), "--kernels", ",".join(arguments.kernels)]
            command += ["--rounds", str(arguments.rounds), "--turn-seconds", str(arguments.turn_seconds)]
            done = subprocess.run(
                command,
                cwd=builds.ROOT,
                stdout=subprocess.PIPE,
                text=True,
                env={k: v for k, v in os.environ.items() if not k.startswith("PYTHON")} | {"PYTHONHASHSEED": "0"},
                preexec_fn=lambda: os.sched_setaffinity(0, {core}),
            )
            if done.returncode:
                print(f"The measuring process of the {name} build failed, see above.", file=sys.stderr)
                return 1
            result[name] = json.loads(done.stdout.splitlines()[-1])
            print(f"\n{name} build: {build.description}")
            for kernel, figures in result[name].items():
                print(f"  {kernel}: off {figures['off']['ns']:.2f} ns")
                for text, f in figures.items():
                    if text != "off":
                        print(
                            f"    {text:<28} {f['ns']:8.2f} ns  {f['ratio']:.3f} "
                            f"[{f['ratio_min']:.3f}-{f['ratio_max']:.3f}]  {f['samples']} samples"
                        )
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
