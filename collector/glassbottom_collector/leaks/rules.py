"""Threshold rules by name: what the specification asks for, shown beside the statistics and never instead of them.

They look at two neighbouring snapshots only, so they fire on every warm-up and burst, and their sampling error is
not small. A person may still want to know that they fired.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..model.heap import HeapSeries, SnapshotHeader
from ..model.leak import RuleHit
from ..model.process import Span
from .wording import rate_text, time_text

GROWTH_RULE = "growth-over-1MiB-per-second"
GROWTH_BYTES_PER_SECOND = 1024 * 1024
SHOWN_MAX = 5


def growth_rule(series: HeapSeries) -> list[RuleHit]:
    """Where the sampled heap of one process grew by more than 1 MiB/s between consecutive snapshots.

    Neighbouring intervals that all exceed it are one hit with their mean rate. Oldest first.
    """
    return growth_rule_of(series.headers)


def growth_rule_of(headers: Iterable[SnapshotHeader]) -> list[RuleHit]:
    """As growth_rule, over the snapshots of any processes and epochs, by instance and time."""
    hits: list[RuleHit] = []
    run: list[SnapshotHeader] = []
    for header in headers:
        if run and not _exceeds(run[-1], header):
            hits.extend(_hit(run))
            run = []
        run.append(header)
    hits.extend(_hit(run))
    return hits


def steepest(hits: Sequence[RuleHit]) -> list[RuleHit]:
    """The few that are worth showing: every restart and burst fires the rule."""
    return sorted(hits, key=lambda hit: -hit.bytes_per_second)[:SHOWN_MAX]


def _exceeds(before: SnapshotHeader, after: SnapshotHeader) -> bool:
    seconds = (after.at_ns - before.at_ns) / 1e9
    same = (before.instance_id, before.epoch) == (after.instance_id, after.epoch)
    return same and seconds > 0 and (after.live_bytes - before.live_bytes) / seconds > GROWTH_BYTES_PER_SECOND


def _hit(run: Sequence[SnapshotHeader]) -> list[RuleHit]:
    if len(run) < 2:
        return []
    first, last = run[0], run[-1]
    seconds = (last.at_ns - first.at_ns) / 1e9
    rate = (last.live_bytes - first.live_bytes) / seconds
    sentence = (
        f"The heap of {first.instance_id[:8]} grew by {rate_text(rate)}, more than 1 MiB/s, over "
        f"{len(run) - 1} interval{'s' if len(run) > 2 else ''} between consecutive snapshots ({time_text(seconds)})."
    )
    return [RuleHit(GROWTH_RULE, sentence, first.instance_id, Span(first.at_ns, last.at_ns), rate)]
