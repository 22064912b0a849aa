"""Objects whose data lies outside Python: an array is a hundred bytes of Python that keep megabytes of C heap.

Where one site leaks such objects while memory outside Python grows, the two are one leak: what the site keeps outside
is counted with it, and what grows there is no leak of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..model.heap import HeapState
from ..model.leak import Evidence, LeakFinding, LeakKind, PerOperation, Rate, Verdict
from ..storage import Reader
from .wording import bytes_text, rate_text

# By the last part of their names: numpy's, torch's.
CARRIERS = frozenset({"ndarray", "memmap", "Tensor"})


def joined(findings: Sequence[LeakFinding], reader: Reader, service: str, at_ns: int) -> list[LeakFinding]:
    """The findings, with growth outside Python given to the one site that leaks what carries it; unchanged otherwise.

    at_ns: end of the evidence. Raises what the reader raises.
    """
    native = [each for each in findings if each.kind is LeakKind.NATIVE and each.verdict is Verdict.LEAK]
    leaks = [each for each in findings if each.stacks and each.verdict is Verdict.LEAK]
    if len(native) != 1 or not leaks:
        return list(findings)
    carriers = _carriers(leaks, reader.heap_at(service, at_ns), reader)
    outside = native[0]
    with_type = [(each, name) for each, name in carriers if set(each.instance_ids) >= set(outside.instance_ids)]
    if len(with_type) != 1:
        return list(findings)
    site, name = with_type[0]
    whole, explained = _together(site, name, outside), _explained(site, name, outside)
    return [whole if each is site else explained if each is outside else each for each in findings]


def _carriers(
    leaks: Sequence[LeakFinding], states: Sequence[HeapState], reader: Reader
) -> list[tuple[LeakFinding, str]]:
    held: dict[int, set[int]] = {}
    for state in states:
        for stack, kind in zip(state.types.stack.tolist(), state.types.type.tolist(), strict=True):
            held.setdefault(stack, set()).add(kind)
    names = reader.types({kind for kinds in held.values() for kind in kinds})
    found = []
    for leak in leaks:
        mine = {names.get(kind, "") for stack in leak.stacks for kind in held.get(stack, ())}
        carrying = sorted(name for name in mine if name.rpartition(".")[2] in CARRIERS)
        if carrying:
            found.append((leak, carrying[0]))
    return found


def _together(site: LeakFinding, name: str, outside: LeakFinding) -> LeakFinding:
    own, added = site.bytes_rate, outside.bytes_rate
    rate = Rate(
        own.per_second + added.per_second,
        own.per_second
        + added.per_second
        - ((own.per_second - own.low) ** 2 + (added.per_second - added.low) ** 2) ** 0.5,
        own.per_second
        + added.per_second
        + ((own.high - own.per_second) ** 2 + (added.high - added.per_second) ** 2) ** 0.5,
    )
    factor = rate.per_second / own.per_second if own.per_second > 0 else 1.0
    each = added.per_second / site.objects_rate.per_second if site.objects_rate.per_second > 0 else 0.0
    sentence = (
        f"It keeps objects of {name}, whose data lies outside Python, and memory there grows by "
        f"{rate_text(added.per_second)} meanwhile" + (f": {bytes_text(each)} for each object" if each else "")
    )
    return replace(
        site,
        bytes_rate=rate,
        evidence=(*site.evidence, Evidence("outside", True, f"{sentence}. Both are told as one growth.")),
        per_operation=tuple(_scaled(one, factor) for one in site.per_operation),
    )


def _scaled(one: PerOperation, factor: float) -> PerOperation:
    return replace(one, bytes=one.bytes * factor, bytes_low=one.bytes_low * factor, bytes_high=one.bytes_high * factor)


def _explained(site: LeakFinding, name: str, outside: LeakFinding) -> LeakFinding:
    frame = site.application_frame or site.frame
    sentence = (
        f"Objects of {name} leak meanwhile at {frame.file}:{frame.line}, and their data lies here; it is counted there."
    )
    return replace(
        outside,
        verdict=Verdict.GROWING,
        evidence=(*outside.evidence, Evidence("outside", False, sentence)),
        would_change="A leak of its own if it goes on when those objects are no longer kept.",
    )
