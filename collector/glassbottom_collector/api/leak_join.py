"""A verdict joined with what else is known of its site: who keeps what it allocates, and since when.

Who keeps it comes from the newest heap dump of a process in which the site grows; since when, and in which version,
from everything the store has kept. Either may be unknown, and a dump that cannot be read spoils no verdict.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..errors import CollectorError
from ..heapdump import HeapDump, diff
from ..leaks.holder import Held, Holder, constructed, container_of, holder_by_growth, holder_in
from ..model.capture import CaptureRow
from ..model.code import Frame
from ..model.heap import HeapState
from ..model.heapdump import Growth, HeapObject, HolderPath
from ..model.leak import Evidence, LeakFinding, LeakKind, LeakReport, Verdict
from ..model.process import Span
from ..storage import Reader
from .heap_views import Names, type_shares
from .heapdump_cache import StoredDumps
from .selection import SECOND_NS, moment

VERSION = "service.version"
FILE_BYTES_MAX = 64 * 1024 * 1024
"""Some four million objects. A larger dump takes longer to load and to ask than a person waits for a list of leaks; one
that is loaded already is asked all the same."""
APART_S_MIN = 30.0
"""Dumps closer together than that show what was in flight rather than what grew."""
GROWTH_ROWS = 200
CONTAINERS = ("dict", "list", "set", "bytearray", "collections.deque", "collections.OrderedDict")
"""What has a table of its own that grows."""
CANDIDATES = 50
"""Of each of these, those that retain most."""
FINDINGS_MAX = 10
"""So many of the worst are looked for: each takes some passes over the dump."""
HOLDERS = 10
"""Ways to the objects of a type that are compared with what a site holds."""

_log = logging.getLogger(__name__)


class LeakJoin:
    """dumps: None where captures are not stored. Blocks: for use in a thread."""

    def __init__(self, reader: Reader, dumps: StoredDumps | None) -> None:
        self._reader = reader
        self._dumps = dumps

    def joined(self, report: LeakReport, service: str) -> LeakReport:
        """The report with, for each finding, what is known of its holder and of its beginning. Raises what the reader
        raises."""
        findings = self._with_first_seen(report.findings, service)
        notes = report.notes
        if self._dumps is not None and any(map(_has_holder, findings)):
            try:
                findings, more = self._with_holders(findings, service, self._dumps)
            except (CollectorError, OSError) as error:
                _log.warning("who holds the leaks of %s could not be told: %s", service, error)
                more = (f"Who holds it could not be read from the newest heap dump: {error}",)
            notes = (*notes, *more)
        return replace(report, findings=tuple(findings), notes=notes)

    def _with_first_seen(self, findings: Sequence[LeakFinding], service: str) -> list[LeakFinding]:
        seen = self._reader.first_held(service, {stack for finding in findings for stack in finding.stacks})
        versions: dict[tuple[int, str], str] = {}
        found = []
        for finding in findings:
            firsts = [seen[stack] for stack in finding.stacks if stack in seen]
            if firsts:
                first = min(firsts)
                if first not in versions:
                    versions[first] = self._version(service, *first)
                finding = replace(finding, first_seen_ns=first[0], first_seen_version=versions[first])
            found.append(finding)
        return found

    def _version(self, service: str, at_ns: int, instance_id: str) -> str:
        for seen in self._reader.processes(service, Span(at_ns, at_ns + 1)):
            if seen.process.instance_id == instance_id:
                return seen.process.attributes.get(VERSION, "")
        return ""

    def _with_holders(
        self, findings: Sequence[LeakFinding], service: str, dumps: StoredDumps
    ) -> tuple[list[LeakFinding], tuple[str, ...]]:
        """The findings, and notes about dumps."""
        growing = {instance for finding in findings if _has_holder(finding) for instance in finding.instance_ids}
        # A dump of a process in which nothing grows would show other holders.
        captures = [row for row in dumps.of_service(service) if row.instance_id in growing]
        if not captures:
            return list(findings), ()
        newest = captures[0]
        if not dumps.is_quick(newest.id, FILE_BYTES_MAX):
            note = (
                f"The newest heap dump of {service} is too large to be read along the way; "
                f"ask `glassbottom heap suspects {newest.id[:8]}`."
            )
            return list(findings), (note,)
        look = self._look(captures, service, dumps)
        found = list(findings)
        for number in [number for number, each in enumerate(findings) if _has_holder(each)][:FINDINGS_MAX]:
            found[number] = look.at(found[number], self._path(found[number]))
        return found, ()

    def _path(self, finding: LeakFinding) -> list[Frame]:
        """The call path that holds most, innermost first."""
        stacks = self._reader.stacks(finding.stacks[:1])
        frames = [frame for stack in stacks.values() for frame in stack.frames]
        known = self._reader.frames(frames)
        return [known[frame] for frame in frames if frame in known]

    def _look(self, captures: Sequence[CaptureRow], service: str, dumps: StoredDumps) -> _Look:
        """captures: those that fit, newest first."""
        newest = captures[0]
        dump = dumps.find_by_id(newest.id).dump
        at_ns = dump.summary().at_ns
        states = self._reader.heap_at(service, at_ns, newest.instance_id)
        kinds = self._reader.types({kind for state in states for kind in state.types.type.tolist()})
        seconds, growth = 0.0, list[Growth]()
        for row in captures[1:]:
            apart_ns = newest.asked_at_ns - row.asked_at_ns
            if row.instance_id == newest.instance_id and apart_ns >= APART_S_MIN * SECOND_NS:
                if dumps.is_quick(row.id, FILE_BYTES_MAX):
                    earlier = dumps.find_by_id(row.id).dump
                    seconds = (at_ns - earlier.summary().at_ns) / SECOND_NS
                    growth = diff(earlier, dump, GROWTH_ROWS) if seconds > 0 else []
                break
        return _Look(newest, dump, states, kinds, seconds, growth)


@dataclass(frozen=True)
class _Look:
    """A dump, the sampled heap of the process when it was taken, and what grew in the seconds since the one before."""

    capture: CaptureRow
    dump: HeapDump
    states: Sequence[HeapState]
    kinds: Mapping[int, str]
    seconds: float
    growth: Sequence[Growth]
    _holders: dict[str, Sequence[HolderPath]] = field(default_factory=dict)

    def at(self, finding: LeakFinding, path: Sequence[Frame]) -> LeakFinding:
        """The finding with its holder, if one fits. path: the call path of its site, innermost first."""
        if self.capture.instance_id not in finding.instance_ids:
            return finding
        shares = type_shares(self.states, set(finding.stacks), Names({}, {}, self.kinds))
        held = [Held(share.type, share.live_bytes, share.live_objects) for share in shares]
        wanted = constructed(held, path)
        # The rate is that of all processes in which it grows.
        rate = finding.objects_rate.per_second / len(finding.instance_ids)
        holder = holder_by_growth(wanted, rate, self.growth, self.seconds) if self.growth else None
        # What did not grow between two dumps is no leak's holder, however many strings it keeps.
        holder = holder or holder_in(wanted, self._holders_of, plain=not self.growth)
        if holder is not None:
            return replace(finding, holder=holder.text, evidence=(*finding.evidence, self._evidence(holder)))
        return self._at_container(finding, held)

    def _holders_of(self, type_name: str) -> Sequence[HolderPath]:
        """Several sites hold the same types."""
        if type_name not in self._holders:
            self._holders[type_name] = self.dump.holders(type_name, HOLDERS)
        return self._holders[type_name]

    def _at_container(self, finding: LeakFinding, held: Sequence[Held]) -> LeakFinding:
        """The finding with the path to the container whose own table it is."""

        def largest() -> list[HeapObject]:
            return [each for name in CONTAINERS for each in self.dump.largest(CANDIDATES, name)]

        found = container_of(held, largest)
        paths = self.dump.paths(address=found[0].address, limit=1) if found is not None else []
        if found is None or not paths:
            return finding
        text = str(paths[0])
        sentence = f"The table of {text} is as large as the block that this line has allocated ({self._named()})."
        return replace(finding, holder=text, evidence=(*finding.evidence, Evidence("holder", True, sentence)))

    def _evidence(self, holder: Holder) -> Evidence:
        agree = "about as many" if holder.fit > 0.5 else "a like number"
        return Evidence(
            "holder",
            True,
            f"{holder.text} keeps {holder.objects} {holder.type_name}, and the sampler expects {agree} "
            f"({self._named()}).",
        )

    def _named(self) -> str:
        summary = self.dump.summary()
        cut = "" if summary.complete else ", which was cut short"
        return f"heap dump {self.capture.id[:8]} of {moment(summary.at_ns)}{cut}"


def _has_holder(finding: LeakFinding) -> bool:
    """Whether something that a dump shows keeps what it holds: not so of garbage and of native memory."""
    grows = finding.verdict in (Verdict.LEAK, Verdict.GROWING)
    return grows and finding.kind is LeakKind.REACHABLE and bool(finding.stacks)
