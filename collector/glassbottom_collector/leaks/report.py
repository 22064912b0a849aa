"""What is said of a site that was judged, and of the window as a whole."""

from __future__ import annotations

import numpy as np

from ..model.leak import Evidence, LeakFinding, Rate, Verdict
from ..storage import Reader
from . import operations, trend
from .blocks import BLOCKS_MIN, Blocks
from .gathering import Data, End
from .judging import Judged
from .plan import WARM_UP_SHARE, Plan, latest_lives
from .verdict import Judgement
from .wording import time_text

NOTES_MAX = 8


class Prices:
    """What stays per operation; operations of the processes of an analysis are counted once, and only if it accuses."""

    def __init__(self, reader: Reader, service: str, data: Data) -> None:
        self._reader = reader
        self._service = service
        self._data = data
        self._counted: dict[int, operations.Counted] = {}

    def of(self, judged: Judged) -> operations.Priced:
        """Nothing for what does not grow."""
        if judged.analysis < 0 or judged.judgement.verdict is Verdict.STABLE:
            return operations.Priced((), None)
        analysis = self._data.analyses[judged.analysis]
        blocks, site = analysis.sites.blocks, judged.column
        live = float(blocks.live_last[site])
        return operations.price(
            blocks.times_s,
            blocks.retained[:, site],
            judged.judgement.own_rate,
            float(blocks.objects_last[site]) / live if live > 0 else 0.0,
            float(blocks.weight_last[site]),
            analysis.routes.of(site),
            self.counted(judged.analysis),
        )

    def ended(self, analysis: int) -> float:
        """How many operations of the most frequent kind ended during an analysis; 0 where none are counted."""
        return max(self.counted(analysis).per_second.values(), default=0.0) * self._blocks(analysis).seconds

    def readings(self, analysis: int) -> float:
        """Snapshots of one process during an analysis."""
        return float(self._data.analyses[analysis].readings)

    def _blocks(self, analysis: int) -> Blocks:
        return self._data.analyses[analysis].sites.blocks

    def counted(self, analysis: int) -> operations.Counted:
        """The operations that ended in the processes of an analysis."""
        counted = self._counted.get(analysis)
        if counted is None:
            blocks = self._data.analyses[analysis].sites.blocks
            counted = operations.count(self._reader, self._service, blocks.instance_ids, blocks.edges_ns)
            self._counted[analysis] = counted
        return counted


def finding_of(judged: Judged, data: Data, priced: operations.Priced) -> LeakFinding:
    site = data.sites.sites[judged.column]
    end = data.ends.get(judged.column, End())
    held = data.stacks.get(judged.column, {})
    judgement = judged.judgement
    return LeakFinding(
        verdict=judgement.verdict,
        frame=site.frame,
        stacks=tuple(sorted(held, key=lambda stack: -held[stack])),
        bytes_rate=judgement.bytes_rate,
        objects_rate=judgement.objects_rate,
        live_bytes=end.live,
        live_bytes_stderr=end.variance**0.5,
        live_objects=end.objects,
        samples=round(end.samples),
        p_value=float(judgement.p),
        evidence=(*judgement.evidence, *([priced.evidence] if priced.evidence is not None else [])),
        would_change=judgement.would_change,
        instance_ids=judged.instance_ids,
        application_frame=site.application_frame,
        per_operation=priced.operations,
    )


def total_rate(plan: Plan) -> float:
    """Sum of the slopes of the processes alive at the end, over what is left after warm-up."""
    total = 0.0
    for life in latest_lives(plan):
        used = set(plan.used[life].tolist())
        headers = [header for header in plan.lives[life] if header.at_ns in used]
        if len(headers) < 3:
            continue
        picked = np.unique(np.linspace(0, len(headers) - 1, min(len(headers), 60)).round().astype(int))
        times = np.array([headers[index].at_ns / 1e9 for index in picked])
        live = np.array([[headers[index].live_bytes] for index in picked])
        total += float(trend.theil_sen(times - times[0], live)[0])
    return total


def missing(plan: Plan) -> str:
    """What is missing for a verdict, for the life that has most."""
    life = max(plan.used, key=lambda each: len(plan.used[each]))
    at_ns = [header.at_ns for header in plan.lives[life]]
    used = len(plan.used[life])
    interval = (at_ns[-1] - at_ns[0]) / 1e9 / (len(at_ns) - 1) if len(at_ns) > 1 else 0.0
    after = f"{used} snapshot{'' if used == 1 else 's'} after warm-up, {BLOCKS_MIN + 1} are needed"
    if not interval:
        return f"Only {after}."
    more = (BLOCKS_MIN + 1 - used) / (1 - WARM_UP_SHARE) * interval
    return f"Only {after}: about {time_text(max(more, interval))} more at one every {time_text(interval)}."


def notes_of(plan: Plan, data: Data) -> tuple[str, ...]:
    notes: list[str] = []
    if not data.analyses:
        notes.append(missing(plan))
    short = [life for life in plan.lives if life not in plan.edges]
    if data.analyses and short:
        notes.append(
            f"{len(short)} of {len(plan.lives)} process lives had too few snapshots after warm-up and are left out."
        )
    epochs: dict[str, int] = {}
    for instance, _epoch in plan.lives:
        epochs[instance] = epochs.get(instance, 0) + 1
    notes.extend(
        f"The sampler of {instance[:8]} started afresh {count - 1} time{'s' if count > 2 else ''} in the window; each "
        "stretch is judged by itself."
        for instance, count in epochs.items()
        if count > 1
    )
    left_out = sum(len(headers) for headers in plan.lives.values()) - sum(len(used) for used in plan.used.values())
    if data.analyses and left_out:
        notes.append(
            f"{left_out} of {len(plan.headers)} snapshots fall into the first quarter of a life: left out as warm-up."
        )
    return tuple(notes[:NOTES_MAX])


def without_tests(data: Data, plan: Plan, limit: int) -> list[Judged]:
    """What grew most, when no process has enough snapshots to say more."""
    grown = sorted((item for item in data.ends.items() if item[1].growth > 0), key=lambda item: -item[1].growth)
    said = missing(plan)
    judged = []
    for site, end in grown[:limit]:
        seconds = max(end.seconds, 1e-9)
        error = 1.96 * end.variance**0.5 / seconds
        rate = end.growth / seconds
        per_byte = end.objects / end.live if end.live else 0.0
        judgement = Judgement(
            Verdict.UNCLEAR,
            Rate(rate, rate - error, rate + error),
            Rate(rate * per_byte, (rate - error) * per_byte, (rate + error) * per_byte),
            1.0,
            (Evidence("data", False, said),),
            "Enough snapshots: see the evidence.",
            Rate(rate, rate - error, rate + error),
            Rate(rate, rate - error, rate + error),
            0.0,
        )
        judged.append(Judged(site, judgement, tuple(dict.fromkeys(life[0] for life in plan.lives))))
    return judged
