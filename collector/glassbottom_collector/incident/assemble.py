"""Runs collectors side by side within a budget, whatever becomes of each, and makes one archive of what they found.

Fail forward: what a collector could not do is a sentence in errors.json. Only one thing makes the whole fail: when the
finished archive is looked through once more, and something in it still looks like a secret. Then there is no archive.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from ..errors import CollectorError
from .bundle import Bundle, Redactor, pack
from .parts import CollectingError, Collector, Planned, RefusedError, as_json

FORMAT_VERSION = 1
BUDGET_S = 30.0
GRACE_S = 0.5
"""How much longer than its budget a collector may take before it is left behind."""
LEAKS_NAMED_MAX = 20

_log = logging.getLogger(__name__)


class LeakingError(CollectorError):
    """The finished archive held what looks like a secret. The text says where, never what."""


class Hit(Protocol):
    """Something that looks like a secret in a finished file; see redaction.scan."""

    @property
    def rule(self) -> str: ...

    @property
    def path(self) -> str: ...

    @property
    def line(self) -> int: ...


Scan = Callable[[str, bytes], Sequence[Hit]]


@dataclass(frozen=True)
class Outcome:
    """What became of one collector. state: done, failed, refused, late (its time was over) or broken (our mistake)."""

    name: str
    state: str
    sentence: str
    ms: float
    files: int = 0
    bytes: int = 0
    notes: tuple[str, ...] = ()
    notes_dropped: int = 0


@dataclass(frozen=True)
class Subject:
    """What is captured, for whom and why. Times in nanoseconds since the Unix epoch."""

    issue: str
    service: str
    from_ns: int
    to_ns: int
    asked_by: str = ""
    trigger: str = "command"
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Archive:
    """A finished archive."""

    id: str
    data: bytes
    outcomes: tuple[Outcome, ...]
    files: int

    @property
    def file_name(self) -> str:
        return f"{self.id}.tar.gz"

    @property
    def complete(self) -> bool:
        """Every collector did its work."""
        return all(outcome.state == "done" for outcome in self.outcomes)


def plan(collectors: Sequence[Collector]) -> list[tuple[str, list[Planned]]]:
    """Everything that would be read, by collector, without reading it. One that cannot say is said so."""
    found: list[tuple[str, list[Planned]]] = []
    for collector in collectors:
        try:
            found.append((collector.name, list(collector.plan())))
        except CollectingError as error:
            found.append((collector.name, [Planned(f"not possible: {error}", "", "collector")]))
    return found


def assemble(
    subject: Subject,
    collectors: Sequence[Collector],
    redactor: Redactor,
    scan: Scan,
    *,
    version: str,
    budget_s: float = BUDGET_S,
    tell: Callable[[Outcome], None] = lambda _outcome: None,
    monotonic_s: Callable[[], float] = time.monotonic,
) -> Archive:
    """Captures a subject. Collectors with the same `lane` (their name, when they have none) run one after the other,
    the others side by side. tell(outcome) is called from their threads as each ends.

    Raises LeakingError.
    """
    bundle = Bundle(redactor)
    outcomes = _run_all(collectors, bundle, monotonic_s, monotonic_s() + budget_s, tell)
    files = {path: file.data for path, file in bundle.files().items()}
    at_s = subject.to_ns // 1_000_000_000
    identity = time.strftime("debug_%Y%m%d_%H%M%S", time.gmtime(at_s))
    files["errors.json"] = as_json(redactor.json(_errors(outcomes), "errors.json")).encode()
    files["redactions.json"] = as_json(_ledger(redactor.ledger())).encode()
    manifest = {
        "format_version": FORMAT_VERSION,
        "glassbottom": version,
        "id": identity,
        "issue": subject.issue,
        "service": subject.service,
        "from_ns": subject.from_ns,
        "to_ns": subject.to_ns,
        "asked_by": subject.asked_by,
        "trigger": subject.trigger,
        "attributes": dict(subject.attributes),
        "collectors": [_short(outcome) for outcome in outcomes],
    }
    manifest = redactor.json(manifest, "manifest.json")
    sources = bundle.files()
    manifest["files"] = [
        {
            "path": path,
            "sha256": hashlib.sha256(data).hexdigest(),
            "bytes": len(data),
            **({"node": sources[path].node, "role": sources[path].role} if path in sources else {}),
            "collector": sources[path].collector if path in sources else "collector",
        }
        for path, data in sorted(files.items())
    ]
    files["manifest.json"] = as_json(manifest).encode()
    _refuse_leaks(files, scan)
    return Archive(identity, pack(files, at_s=at_s, top=identity), tuple(outcomes), len(files))


def _run_all(
    collectors: Sequence[Collector],
    bundle: Bundle,
    monotonic_s: Callable[[], float],
    end_s: float,
    tell: Callable[[Outcome], None],
) -> list[Outcome]:
    lanes: dict[str, list[Collector]] = {}
    for collector in collectors:
        lanes.setdefault(getattr(collector, "lane", collector.name), []).append(collector)
    done: dict[str, Outcome] = {}

    def run_lane(lane: list[Collector]) -> None:
        for collector in lane:
            outcome = done[collector.name] = _run(collector, bundle, monotonic_s, end_s)
            tell(outcome)

    threads = [threading.Thread(target=run_lane, args=(lane,), daemon=True) for lane in lanes.values()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end_s - monotonic_s()) + 2 * GRACE_S)
    late = Outcome("", "late", "The time of the whole capture was over before its turn came.", 0.0)
    return [done.get(one.name) or Outcome(**{**asdict(late), "name": one.name}) for one in collectors]


def _run(collector: Collector, bundle: Bundle, monotonic_s: Callable[[], float], end_s: float) -> Outcome:
    """One collector in a thread of its own: one that hangs in a system call must not hold up the others."""
    sink = bundle.sink(collector.name)
    began_s = monotonic_s()
    deadline_s = min(began_s + collector.budget_s, end_s)
    if deadline_s <= began_s:
        return Outcome(collector.name, "late", "The time of the whole capture was over before its turn came.", 0.0)
    result: list[tuple[str, str]] = []

    def work() -> None:
        try:
            collector.collect(sink, deadline_s)
            result.append(("done", ""))
        except RefusedError as error:
            result.append(("refused", str(error)))
        except CollectingError as error:
            result.append(("failed", str(error)))
        except Exception as error:  # noqa: BLE001 - a mistake of ours costs one collector, not the capture
            _log.exception("the collector %s of a capture failed", collector.name)
            result.append(("broken", f"A mistake of glassbottom's: {type(error).__name__}: {error}"))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(max(0.0, deadline_s - monotonic_s()) + GRACE_S)
    sink.close()
    state, sentence = result[0] if result else ("late", f"It took longer than {deadline_s - began_s:.1f} s.")
    mine = [file for file in bundle.files().values() if file.collector == collector.name]
    return Outcome(
        name=collector.name,
        state=state,
        sentence=bundle.harmless(sentence),
        ms=round((monotonic_s() - began_s) * 1000, 1),
        files=len(mine),
        bytes=sum(len(file.data) for file in mine),
        notes=tuple(sink.notes),
        notes_dropped=sink.notes_dropped,
    )


def _errors(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """What could not be done, and what a reader must know of the rest."""
    return [
        {"collector": one.name, "state": one.state, "sentence": one.sentence, "notes": list(one.notes)}
        for one in outcomes
        if one.state != "done" or one.notes
    ]


def _short(outcome: Outcome) -> dict[str, Any]:
    return {name: value for name, value in asdict(outcome).items() if name not in ("notes", "sentence")}


def _ledger(ledger: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return sorted((dict(entry) for entry in ledger), key=lambda entry: sorted((k, str(v)) for k, v in entry.items()))


def _refuse_leaks(files: Mapping[str, bytes], scan: Scan) -> None:
    hits = [hit for path, data in files.items() for hit in scan(path, data)]
    if not hits:
        return
    named = "; ".join(f"{hit.path} line {hit.line} ({hit.rule})" for hit in hits[:LEAKS_NAMED_MAX])
    raise LeakingError(
        f"The archive was thrown away: {len(hits)} places in it still look like secrets after redaction: {named}. "
        "Leave out the source that brings them, or report the format that was missed."
    )
