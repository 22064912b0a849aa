"""What a service's processes say of their memory as a whole, put into the report on its sites: native growth and
fragmentation as findings of their own, the kind of each leak, what memory consists of, and when it will be full.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from ..model.heap import F64, I64
from ..model.leak import Evidence, LeakFinding, LeakKind, LeakReport, PerOperation, Rate, Verdict
from ..model.process import ProcessSeen, Span
from ..model.timing import OperationKind
from ..storage import Reader
from . import carried, forecast, garbage, innocent, native, operations, parts, readings
from .readings import Readings

WARM_UP_SHARE = 0.25
_ORDER = {Verdict.LEAK: 0, Verdict.GROWING: 1, Verdict.UNCLEAR: 2, Verdict.STABLE: 3}


def completed(
    report: LeakReport,
    reader: Reader,
    service: str,
    within: Span,
    instance_id: str | None,
    evidence_of: Callable[[LeakFinding], Span | None],
    limit: int,
) -> LeakReport:
    """The report with all that is known from process-wide numbers; unchanged where agents tell none.

    evidence_of: when the evidence for a finding was taken; None without. Raises what the reader raises.
    """
    processes = readings.read(reader, service, within, instance_id)
    if not processes:
        return report
    seen = {each.process.instance_id: each for each in reader.processes(service, within)}
    told = [each for process in processes.values() if (each := _parts(process, seen)) is not None]
    outside = native.judge(told, lambda instance, at_ns: _load(reader, service, within, processes, instance, at_ns))
    findings = [_with_kind(each, processes, evidence_of(each)) for each in report.findings]
    findings.extend(_finding(each, reader, service) for each in outside)
    end_ns = report.covered.to_ns if report.covered is not None else within.to_ns
    findings = carried.joined(findings, reader, service, end_ns)
    findings = innocent.judged(findings, reader, service, end_ns)
    findings.sort(key=lambda each: (_ORDER[each.verdict], -each.bytes_rate.per_second))
    note = native.kept_free(told)
    return replace(
        report,
        findings=tuple(findings[:limit]),
        notes=(*report.notes, *([note] if note else [])),
        forecast=forecast.forecast(findings, processes, {name: each.process for name, each in seen.items()}),
        memory=parts.summed(told),
    )


def _parts(process: Readings, seen: Mapping[str, ProcessSeen]) -> parts.Parts | None:
    """Behind the first quarter of the process's life, as with sites.

    Only at the moments at which malloc was asked too. The agent asks it seldom where that is dear, and what Python has
    from malloc meanwhile would stand as growth of the anonymous rest.
    """
    anonymous = process.get(readings.BEHIND, "anonymous")
    if anonymous is None:
        return None
    at_ns = anonymous.at_ns
    malloc = process.get(readings.MALLOC, "used")
    if malloc is not None:
        # With one answer of malloc's the parts can be shown, which two moments do, and nothing can be judged.
        at_ns = malloc.at_ns if len(malloc.at_ns) > 1 else at_ns[[0, -1]]
    known = seen.get(process.instance_id)
    born_ns = min(int(at_ns[0]), known.process.started_at_ns) if known is not None else int(at_ns[0])
    behind = at_ns[at_ns >= born_ns + WARM_UP_SHARE * (int(at_ns[-1]) - born_ns)]
    return parts.of(process, behind if len(behind) > 1 else at_ns[-2:])


def _load(
    reader: Reader, service: str, within: Span, processes: Mapping[str, Readings], instance: str, at_ns: I64
) -> F64 | None:
    """Requests per second at these moments; where none are counted, CPU time per second."""
    for kind in (OperationKind.SPAN, OperationKind.COROUTINE):
        ended = reader.ended(service, within, kind, instance).get(instance)
        if ended is None or not len(ended):
            continue
        seconds = (ended.to_ns - ended.from_ns) / 1e9
        if ended.count.sum() > 0 and (seconds > 0).all():
            middle = (ended.from_ns + ended.to_ns) / 2
            found: F64 = np.interp(at_ns.astype(float), middle, ended.count / seconds)
            return found
    used = [process.get(readings.CPU, mode) for process in [processes[instance]] for mode in ("user", "system")]
    told = [series for series in used if series is not None]
    if not told or len(told[0].at_ns) < 3:
        return None
    total = sum((series.at(told[0].at_ns) for series in told), np.zeros(len(told[0].at_ns)))
    rate = np.diff(total) / (np.diff(told[0].at_ns) / 1e9)
    middle = (told[0].at_ns[1:] + told[0].at_ns[:-1]) / 2
    busy: F64 = np.interp(at_ns.astype(float), middle, rate)
    return busy


def _with_kind(finding: LeakFinding, processes: Mapping[str, Readings], evidence: Span | None) -> LeakFinding:
    if evidence is None or finding.verdict is Verdict.STABLE:
        return finding
    kind, told = garbage.kind_of(processes, finding.instance_ids, evidence)
    if told is None:
        return finding
    change = finding.would_change
    if kind is LeakKind.GARBAGE:
        change += " Garbage in cycles if a full collection frees it, reachable if not."
    return replace(finding, kind=kind, evidence=(*finding.evidence, told), would_change=change)


def _finding(outside: native.Outside, reader: Reader, service: str) -> LeakFinding:
    priced: tuple[PerOperation, ...] = ()
    said: Evidence | None = None
    if outside.kind is LeakKind.NATIVE:
        counted = operations.count(reader, service, [outside.worst], outside.edges_ns)
        edges_s = (outside.edges_ns - outside.edges_ns[0]) / 1e9
        times_s = (edges_s[1:] + edges_s[:-1]) / 2
        found = operations.price(times_s, outside.floors, outside.rate, 0.0, 0.0, {}, counted)
        priced, said = found.operations, found.evidence
    return LeakFinding(
        verdict=outside.verdict,
        frame=outside.frame,
        stacks=(),
        bytes_rate=outside.rate,
        objects_rate=Rate(0.0, 0.0, 0.0),
        live_bytes=max(outside.live_bytes, 0.0),
        live_bytes_stderr=0.0,
        live_objects=0.0,
        samples=0,
        p_value=outside.p,
        evidence=(*outside.evidence, *([said] if said is not None else [])),
        would_change=outside.would_change,
        instance_ids=outside.instance_ids,
        application_frame=None,
        kind=outside.kind,
        per_operation=priced,
    )
