"""What is wrong, asked of a reader as the collector asks it, and looks at tasks that pile up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from glassbottom_collector.findings.finder import find
from glassbottom_collector.model.finding import Finding

from tests.support.memory_reader import MemoryReader
from tests.support.told import ACQUIRE, HANDLER, WORKER, between, group, look, observations

WINDOW = between(0, 600)
TIMES = np.arange(60) * 10.0


def findings(reader: MemoryReader, within=WINDOW) -> Sequence[Finding]:
    return find(reader, "shop", within).findings


def the_finding(reader: MemoryReader, within=WINDOW) -> Finding:
    (finding,) = findings(reader, within)
    return finding


def evidence(finding: Finding) -> dict[str, bool]:
    return {each.name: each.supports_leak for each in finding.evidence}


def noticed(*rows, paths=()):
    return observations(590, *rows, paths=paths)


def looks_of(rows, *, path=(ACQUIRE, HANDLER), steps_of_wait=1.0, interval_s=10.0, benign=()):
    """Looks at tasks of one coroutine; rows: (count, age_mean, age_oldest)."""
    found = []
    for n, (count, mean_s, oldest_s) in enumerate(rows):
        groups = [group(WORKER, count=4, oldest_s=1000.0 + n * interval_s), *benign]
        if count:
            groups.append(
                group(
                    *path, count=round(count), oldest_s=oldest_s, mean_s=mean_s, awaits="asyncio.Lock",
                    wait_longest_s=oldest_s * steps_of_wait,
                )
            )  # fmt: skip
        found.append(look(n * interval_s, *groups))
    return found


def steady_leak(count: int = 60, per_look: float = 5.0, interval_s: float = 10.0):
    return [(n * per_look + 3, n * interval_s / 2, n * interval_s + 1) for n in range(count)]
