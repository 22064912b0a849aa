"""From what a caller wrote to what exists: moments, ranges and processes, or one sentence that says what there is."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from glassbottom.wire.v1 import query_pb2

from ..errors import BadRequest, NotFound
from ..model.heap import HeapState
from ..model.process import ProcessSeen, Span
from ..storage import Reader

SECOND_NS = 10**9
RANGE_S = 3600
"""Taken when no range is given."""
KNOWN_S = 7 * 24 * 3600
"""How far back services and processes are looked up that an error names."""
NEAR_S = 600
"""A snapshot so long before a moment still stands for it (Reader.heap_at)."""
NAMED_MAX = 20
LIMIT_MAX = 10_000


def range_of(request: query_pb2.Range, given: bool, now_ns: int) -> Span:
    """The range asked for; the last hour when none is given. Raises BadRequest."""
    if not given:
        return Span(now_ns - RANGE_S * SECOND_NS, now_ns + 1)
    if request.to_ns <= request.from_ns:
        raise BadRequest(
            f"The range ends ({moment(request.to_ns)}) before it begins ({moment(request.from_ns)}); "
            "give it an end after its beginning."
        )
    return Span(request.from_ns, request.to_ns)


def instance_of(reader: Reader, selector: query_pb2.Selector, within: Span, now_ns: int) -> str | None:
    """The instance meant by a selector, or None for all of the service. Raises NotFound and BadRequest."""
    if not selector.service:
        raise BadRequest(f"No service is named; {_there_is(known_services(reader, now_ns), 'seen lately are')}.")
    if not selector.instance_id:
        return None
    processes = reader.processes(selector.service, within)
    wanted = selector.instance_id.lower()
    fitting = sorted({each.process.instance_id for each in processes if each.process.instance_id.startswith(wanted)})
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise BadRequest(
            f"{wanted} is the beginning of {len(fitting)} instance ids; use more of it: {_names(fitting)}."
        )
    if not processes:
        raise NotFound(no_service(reader, selector.service, within, now_ns))
    there_is = _names(sorted(each.process.instance_id for each in processes))
    raise NotFound(
        f"No process of {selector.service} has an instance id that begins with {wanted}; there are {there_is}."
    )


def heap_at(
    reader: Reader, selector: query_pb2.Selector, at_ns: int, now_ns: int
) -> tuple[Sequence[HeapState], str | None]:
    """The heaps at a moment, at least one, and the instance meant by the selector. Raises NotFound and BadRequest."""
    lately = Span(max(at_ns - RANGE_S * SECOND_NS, 0), at_ns + 1)
    instance_id = instance_of(reader, selector, lately, now_ns)
    states = reader.heap_at(selector.service, at_ns, instance_id)
    if states:
        return states, instance_id
    known = reader.processes(selector.service, Span(max(now_ns - KNOWN_S * SECOND_NS, 0), now_ns + 1))
    if instance_id is not None:
        known = [each for each in known if each.process.instance_id == instance_id]
    if not known:
        raise NotFound(no_service(reader, selector.service, lately, now_ns))
    raise NotFound(
        f"There is no heap snapshot of {selector.service} at {moment(at_ns)} or in the ten minutes before; its data "
        f"reaches from {moment(_first(known))} to {moment(_last(known))}."
    )


def no_service(reader: Reader, service: str, within: Span, now_ns: int) -> str:
    """Why there is nothing of a service, and what there is instead."""
    known = known_services(reader, now_ns)
    if service not in known:
        return f"No service named {service} has sent data; {_there_is(known, 'there are')}."
    processes = reader.processes(service, Span(max(now_ns - KNOWN_S * SECOND_NS, 0), now_ns + 1))
    return (
        f"{service} sent nothing between {moment(within.from_ns)} and {moment(within.to_ns)}; its data reaches from "
        f"{moment(_first(processes))} to {moment(_last(processes))}."
    )


def no_route(route: str, known: Sequence[str]) -> str:
    """Why there is nothing of a route, and which there are; known: sorted."""
    if not known:
        return f"Nothing is known of a route {route!r}: no memory or time of this range was told with a route."
    return f"There is no route {route!r} here; there are {_names(known)}."


def limit_of(limit: int, usual: int) -> int:
    """The limit asked for, or the usual one when it is 0. Raises BadRequest."""
    if limit > LIMIT_MAX:
        raise BadRequest(f"A limit of {limit} is too high; use at most {LIMIT_MAX}.")
    return limit or usual


def known_services(reader: Reader, now_ns: int) -> Sequence[str]:
    """Services that sent data within KNOWN_S."""
    return reader.services(Span(max(now_ns - KNOWN_S * SECOND_NS, 0), now_ns + 1))


def moment(at_ns: int) -> str:
    """As people and the command line write it, to the second."""
    seconds = min(at_ns // SECOND_NS, 253_402_300_799)  # the last second of the year 9999
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _there_is(names: Sequence[str], introduction: str) -> str:
    return f"{introduction} {_names(names)}" if names else "none has, start one with the agent"


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
    return ", ".join(names[:NAMED_MAX]) + more


def _first(processes: Sequence[ProcessSeen]) -> int:
    return min(each.first_seen_ns for each in processes)


def _last(processes: Sequence[ProcessSeen]) -> int:
    return max(each.last_seen_ns for each in processes)
