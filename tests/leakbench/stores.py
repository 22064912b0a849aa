"""What the collector has stored of a case, kept so that the same questions can be asked again of a later verdict.

    build/leakbench/stores/S1/data/        the collector's directory, heap dump and all
    build/leakbench/stores/S1/run.json     when it was asked, what it answered then, and what is true

Asked again is what was asked while it ran: at each look of the window that ended then, without the heap dump, which was
not there yet, and at the end with it. One thing differs: a look then saw only what had arrived, and here all that was
read until then, which may be one reading more. The answers come from the collector's own code without the network
between.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from glassbottom.wire.v1 import query_pb2
from glassbottom_collector.api.heap_query import HeapAnswers
from glassbottom_collector.api.heapdump_cache import StoredDumps
from glassbottom_collector.captures import CaptureStore
from glassbottom_collector.config import CapturesConfig, StorageConfig
from glassbottom_collector.errors import NotFound
from glassbottom_collector.storage.embedded import EmbeddedStore

from tests.leakbench.answers import ANSWERS_AT_LOOK_MAX, ANSWERS_MAX, found_in, look_of
from tests.leakbench.score import NO_DUMP, Run
from tests.support.leak_questions import question

DATA, FACTS = "data", "run.json"
BYTES_MAX = 256 * 1024 * 1024
"""Of one case; a larger store is not kept."""
DAYS = 3650
"""A store that is looked at again next week must not be emptied for its age."""


@dataclass(frozen=True)
class Kept:
    """A case's runs by variant, the bytes that really stay per operation, and how it was run."""

    case: str
    runs: Mapping[str, Run]
    true_bytes: float
    options: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> Kept:
        """From a file of write()."""
        stored = json.loads(path.read_text(encoding="utf-8"))
        runs = {each["variant"]: Run.of(each) for each in stored["runs"]}
        return cls(stored["case"], runs, float(stored["true_bytes"]), stored["options"])

    def write(self, path: Path, **more: Any) -> None:
        """As JSON. more: for people to read."""
        stored = {
            "case": self.case,
            "true_bytes": self.true_bytes,
            "options": dict(self.options),
            **more,
            "runs": [asdict(run) for run in self.runs.values()],
        }
        # Somebody may read while it is written.
        part = path.with_suffix(".part")
        part.write_text(json.dumps(stored, indent=1), encoding="utf-8")
        part.replace(path)


def keep(data: Path, kept: Kept, directory: Path) -> str:
    """Moves what a collector that has ended has stored to a directory, in place of what was there; a sentence when it
    is too large."""
    size = sum(path.stat().st_size for path in data.rglob("*") if path.is_file())
    if size > BYTES_MAX:
        return f"its store of {size / 2**20:.0f} MiB is not kept; at most {BYTES_MAX / 2**20:.0f} MiB are"
    new, old = directory.with_name(f"{directory.name}.new"), directory.with_name(f"{directory.name}.old")
    for left in (new, old):
        shutil.rmtree(left, ignore_errors=True)
    new.mkdir(parents=True)
    kept.write(new / FACTS)
    shutil.move(data, new / DATA)
    if directory.exists():
        directory.rename(old)
    new.rename(directory)
    shutil.rmtree(old, ignore_errors=True)
    return ""


def again(directory: Path, looks: bool) -> Kept:
    """The runs of a kept case as the verdict of this tree answers now. looks: at each look too, and not only at the
    end. The store is copied first, so several may look at one at a time."""
    kept = Kept.read(directory / FACTS)
    with tempfile.TemporaryDirectory(prefix="leakbench-") as copy:
        data = Path(copy) / DATA
        shutil.copytree(directory / DATA, data)
        store = EmbeddedStore(StorageConfig(path=data, retention_days=DAYS))
        captures = CaptureStore(data / "captures", CapturesConfig(retention_days=DAYS))
        try:
            dumps = StoredDumps(captures)
            runs = {name: _again(run, store, dumps, looks) for name, run in kept.runs.items()}
        finally:
            captures.close()
            store.close()
    return replace(kept, runs=runs)


def _again(run: Run, store: EmbeddedStore, dumps: StoredDumps, looks: bool) -> Run:
    def ask(to_ns: int, known: StoredDumps | None, limit: int) -> query_pb2.LeakReport | None:
        answers = HeapAnswers(store.reader, lambda: to_ns, known)
        asked = question(run.service, run.began_ns, to_ns, limit)
        try:
            return answers.leaks(asked, lambda _stage, _done, _total: None)
        except NotFound:
            return None

    # The one at the end is asked without the dump as well only where that makes a difference, which it does not.
    last = ask(run.ended_ns, dumps, ANSWERS_MAX)
    seen = [
        look_of(
            last if look.to_ns == run.ended_ns else ask(look.to_ns, None, ANSWERS_AT_LOOK_MAX), look.at_s, look.to_ns
        )
        for look in run.looks
        if looks or look.to_ns == run.ended_ns
    ]
    return replace(
        run,
        findings=found_in(last) if last is not None else (),
        looks=tuple(seen),
        notes=(*(last.notes if last is not None else ()), *(note for note in run.notes if note.startswith(NO_DUMP))),
    )
