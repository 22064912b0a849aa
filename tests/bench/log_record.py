"""What keeping the last log records costs the application, in microseconds of CPU time for one record.

    python -m tests.bench.log_record

Each way of logging takes turns within one process: plain, under the agent's ring, and with a handler more that keeps
text in a deque, which is how it is done without us. Time is CPU time of the process,
which foreign load enters little. Figures are medians of differences to the plain turn just before, with their range.

The last line is one JSON object: way -> {plain_us, ring_us, ring_us_min, ring_us_max, handler_us, ring_ratio}.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import statistics
import time
from collections import deque
from collections.abc import Callable

from glassbottom import logs


class Keeping(logging.Handler):
    """The peer: formats, as it must to keep no arguments, and keeps the text."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: deque[tuple[float, str, str]] = deque(maxlen=1000)

    def emit(self, record: logging.LogRecord) -> None:
        self.kept.append((record.created, record.levelname, self.format(record)))


def logger(name: str, handler: logging.Handler) -> logging.Logger:
    made = logging.Logger(name, logging.INFO)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    made.addHandler(handler)
    return made


def ways(null: str) -> dict[str, tuple[logging.Logger, Callable[[logging.Logger, int], None]]]:
    def line(log: logging.Logger, i: int) -> None:
        log.info("order %d of %s took %.1f ms", i, "shop", 1.5)

    def failure(log: logging.Logger, i: int) -> None:
        try:
            _ = 1 // (i - i)
        except ZeroDivisionError:
            log.exception("order %d failed", i)

    return {
        "to a file": (logger("file", logging.FileHandler(null)), line),
        "to no handler that formats": (logger("null", logging.NullHandler()), line),
        "with an exception": (logger("error", logging.FileHandler(null)), failure),
    }


def measure(log: logging.Logger, call: Callable[[logging.Logger, int], None], count: int) -> float:
    began = time.process_time_ns()
    for i in range(count):
        call(log, i)
    return (time.process_time_ns() - began) / count / 1000


def compare(log: logging.Logger, call: Callable[[logging.Logger, int], None], rounds: int) -> dict[str, float]:
    count = 2000
    plains, rings, handlers = [], [], []
    for _ in range(rounds):
        plain = measure(log, call, count)
        ring = logs.Ring(1000)
        logs.install(ring)
        try:
            rings.append(measure(log, call, count) - plain)
        finally:
            logs.uninstall(ring)
        assert ring.statistics()["log_records_total"] == count
        keeping = Keeping()
        log.addHandler(keeping)
        handlers.append(measure(log, call, count) - plain)
        log.removeHandler(keeping)
        plains.append(plain)
    found = {
        "plain_us": statistics.median(plains),
        "ring_us": statistics.median(rings),
        "ring_us_min": min(rings),
        "ring_us_max": max(rings),
        "handler_us": statistics.median(handlers),
    }
    found["ring_ratio"] = 1 + found["ring_us"] / found["plain_us"]
    return {name: round(value, 3) for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    print(f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} CPUs, {rounds} rounds")
    print(f"{'a record':28} {'plain':>9} {'ring':>9} {'(range)':>16} {'a handler':>10}")
    results = {}
    for name, (log, call) in ways(os.devnull).items():
        measure(log, call, 500)
        result = results[name] = compare(log, call, rounds)
        spread = f"({result['ring_us_min']:.1f} … {result['ring_us_max']:.1f})"
        print(
            f"{name:28} {result['plain_us']:6.1f} us {result['ring_us']:+6.1f} us {spread:>16} "
            f"{result['handler_us']:+7.1f} us"
        )
    print(json.dumps(results))


if __name__ == "__main__":
    main()
