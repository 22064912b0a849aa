"""Which allocation sites of a service leak: reads snapshots, asks verdict.py, and writes the report.

Each process and epoch is analysed by itself, and those that lived through the whole window also as one, since eight
workers that leak an eighth each are one leak. Different epochs are never joined: a restart empties the heap, and the
step up after it is not growth. The first quarter of a process's life is left out as warm-up (plan.py).

Sites are judged one by one, and in the sums of what belongs together (groups.py, whole.py).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..model.leak import LeakFinding, LeakReport, Verdict
from ..model.process import Span
from ..storage import Reader
from . import looks, process_memory, report
from .gathering import Data, Progress, gather
from .judging import ORDER, judge_all, rank_of
from .plan import plan_of
from .rules import growth_rule_of, steepest
from .whole import Wholes


def find_leaks(
    reader: Reader,
    service: str,
    within: Span,
    *,
    instance_id: str | None = None,
    include_stable: bool = False,
    limit: int = 20,
    progress: Progress | None = None,
) -> LeakReport:
    """Judges every allocation site of a service over a window.

    progress(stage, done, total) is called between steps, from the calling thread; what it raises ends the analysis.
    Without data the report is empty and its notes say why. Raises what the reader raises.
    """
    tell = progress or (lambda _stage, _done, _total: None)
    tell("Reading which snapshots there are", 0, 0)
    plan = plan_of(reader, service, within, instance_id)
    if not plan.headers:
        missing = LeakReport((), 0, 0, None, 0.0, (), (f"No heap snapshot of {service} lies in the window.",))
        return process_memory.completed(missing, reader, service, within, instance_id, lambda _finding: None, limit)
    data = gather(reader, service, within, instance_id, plan, tell)
    tell("Judging sites", 0, len(data.sites))
    prices = report.Prices(reader, service, data)
    screens = [each.sites for each in data.analyses]
    sites = judge_all(screens, _largest(data, limit) if include_stable else None)
    sites = [each for each in sites if include_stable or each.judgement.verdict is not Verdict.STABLE]
    sites = looks.confirmed(sites, screens, prices.ended, prices.readings)
    sites.sort(key=rank_of)
    wholes = Wholes(data, prices, sites)
    if not data.analyses:
        sites = report.without_tests(data, plan, limit)
    tell("Writing the report", len(data.sites), len(data.sites))
    pairs: list[tuple[LeakFinding, int]] = wholes.findings()
    for each in sites[:limit]:
        pairs.append((wholes.completed(report.finding_of(each, data, prices.of(each)), each), each.analysis))
    pairs = sorted(pairs, key=lambda pair: (ORDER[pair[0].verdict], -pair[0].bytes_rate.per_second))[:limit]
    spans = {id(finding): _span_of(data, analysis) for finding, analysis in pairs}
    times = [header.at_ns for header in plan.headers]
    found = LeakReport(
        findings=tuple(finding for finding, _ in pairs),
        sites_examined=data.seen,
        snapshots=len(plan.headers),
        covered=Span(min(times), max(times) + 1),
        total_bytes_rate=report.total_rate(plan),
        rule_hits=tuple(steepest(growth_rule_of(plan.headers))),
        notes=report.notes_of(plan, data),
    )
    return process_memory.completed(
        found, reader, service, within, instance_id, lambda finding: spans.get(id(finding)), limit
    )


def _span_of(data: Data, analysis: int) -> Span | None:
    """When the evidence of an analysis was taken."""
    if analysis < 0:
        return None
    edges_ns = data.analyses[analysis].sites.blocks.edges_ns
    return Span(int(edges_ns[0]), int(edges_ns[-1]))


def _largest(data: Data, limit: int) -> NDArray[np.bool_]:
    """The sites that hold most, as many as could be listed."""
    live = np.zeros(len(data.sites))
    for site, end in data.ends.items():
        live[site] = end.live
    chosen = np.zeros(len(data.sites), dtype=bool)
    chosen[np.argsort(-live, kind="stable")[:limit]] = True
    return chosen
