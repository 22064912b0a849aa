"""Lines that are accused for what another one does: the agent's own, and those whose blocks went through a free list.

* The agent keeps a record of a request as long as the application keeps the request's context: a task that stays keeps
  some of ours. Where the application leaks, that is part of its leak, and no line of its own to look at.
* CPython keeps freed dicts, lists, tuples and floats and hands them out again without asking an allocator. The sampler
  has seen them at the line that first allocated them; who keeps them now is another one. A line is thought innocent
  when all that it keeps is of such types, another leak grows faster in the same processes and for another operation,
  and that operation ended at least as often as this line gained objects: each that ended can have taken some.

Both are told as growing, with the reason, and are leaks of their own if they go on without the other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..model.code import Frame
from ..model.heap import HeapState
from ..model.leak import Evidence, LeakFinding, Verdict
from ..storage import Reader

# What CPython 3.11 to 3.14 keeps free lists of; blocks that are no objects are the tables of such.
FREE_LISTS = frozenset({"dict", "list", "tuple", "float", "frame", "method", "builtin_function_or_method", "slice"})
FREE_LISTS_SHARE = 0.9
# Objects that one operation may take from free lists and keep.
OBJECTS_EACH = 3.0
_OWN = re.compile(r"/(site-packages|agent)/glassbottom/")


def is_own(frame: Frame) -> bool:
    """Whether a line is the agent's."""
    return _OWN.search(frame.file) is not None


def judged(findings: Sequence[LeakFinding], reader: Reader, service: str, at_ns: int) -> list[LeakFinding]:
    """The findings, with those called growing that are accused for another's leak. at_ns: end of the evidence. Raises
    what the reader raises."""
    leaks = [each for each in findings if each.verdict is Verdict.LEAK and each.stacks]
    if len(leaks) < 2:
        return list(findings)
    held: _Held | None = None
    found = []
    for each in findings:
        if each in leaks and (guilty := _faster(each, [other for other in leaks if not is_own(other.frame)])):
            if is_own(each.frame):
                each = _excused(each, guilty[0], "own", _OWN_SENTENCE)
            elif apart := [other for other in guilty if _takes(other, each)]:
                held = held or _Held(reader, service, at_ns)
                if held.share_of_free_lists(each) >= FREE_LISTS_SHARE:
                    each = _excused(each, apart[0], "free lists", _FREE_LIST_SENTENCE)
        found.append(each)
    return found


_OWN_SENTENCE = (
    "It is the agent's own record, kept with the context of requests, tasks or threads that stay; "
    "{place} leaks meanwhile."
)
_FREE_LIST_SENTENCE = (
    "All that it keeps are objects that CPython reuses without allocating: they may be some that this line had freed "
    "and {place}, which grows faster and for another operation, keeps."
)


def _faster(finding: LeakFinding, leaks: Sequence[LeakFinding]) -> list[LeakFinding]:
    """Other leaks in the same processes; of those that grow faster, unless it is the agent's own."""
    own = is_own(finding.frame)
    return [
        other
        for other in leaks
        if other is not finding
        and set(other.instance_ids) & set(finding.instance_ids)
        and (own or _growth(other) > finding.bytes_rate.per_second)
    ]


def _growth(finding: LeakFinding) -> float:
    """Of its operation altogether, where that is known."""
    return finding.bytes_rate.per_second if finding.whole is None else finding.whole.bytes_rate.per_second


def _takes(other: LeakFinding, finding: LeakFinding) -> bool:
    """Whether another leak's operation is another one, and frequent enough."""
    if not other.per_operation or not finding.per_operation:
        return False
    theirs, ours = other.per_operation[0], finding.per_operation[0]
    gained = ours.objects * ours.operations
    return theirs.operation != ours.operation and gained <= OBJECTS_EACH * theirs.operations


class _Held:
    """Types of what is held at the end."""

    def __init__(self, reader: Reader, service: str, at_ns: int) -> None:
        states: Sequence[HeapState] = reader.heap_at(service, at_ns)
        kinds = {kind for state in states for kind in state.types.type.tolist()}
        self._names: Mapping[int, str] = reader.types(kinds)
        self._states = states

    def share_of_free_lists(self, finding: LeakFinding) -> float:
        """Of the live objects with a type, by their number; 0 when no type is known."""
        stacks, some, total = set(finding.stacks), 0.0, 0.0
        for state in self._states:
            types = state.types
            for stack, kind, objects in zip(
                types.stack.tolist(), types.type.tolist(), types.live_objects.tolist(), strict=True
            ):
                name = self._names.get(kind, "")
                if stack in stacks and name and not name.startswith("<"):
                    total += objects
                    some += objects if name in FREE_LISTS else 0.0
        return some / total if total else 0.0


def _excused(finding: LeakFinding, guilty: LeakFinding, name: str, sentence: str) -> LeakFinding:
    frame = guilty.application_frame or guilty.frame
    place = f"{frame.file.rpartition('/')[2]}:{frame.line}"
    return replace(
        finding,
        verdict=Verdict.GROWING,
        evidence=(*finding.evidence, Evidence(name, False, sentence.format(place=place))),
        would_change=f"A leak of its own if it goes on when {place} does not leak any more.",
    )
