"""Watches a whole program for memory that only grows, from its first line to its last.

Nobody says here what one call is, so progress is the measure: at first lines of the program's own files that were
run, which makes a script of a tenth of a second as good as one of an hour; when it runs longer, time. At points of
progress that get ever farther apart, memory in use is read as for `no_leak` (meters.py). When it has grown steadily for
a while, some stretches are looked at under tracemalloc, and then watching goes on without it. The verdict comes at the
end of the program, by readings to its end without the first third.

Does nothing in a child that the program forks.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import sys
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from .evidence import STRETCHES, Growth, Tracing
from .meters import Meters, collect, gc_is_on
from .native_lines import NativeLines
from .places import is_application
from .statistics import P_MAX, Trend, trend
from .verdict import CYCLES, NATIVE, REACHABLE, Outcome

POINTS_MAX = 96
"""Then every second is dropped, and they come half as often."""
POINTS_MIN = 24
"""Fewer say nothing."""
FIRST_SPACING_LINES = 4.0
FIRST_SPACING_S = 0.02
LINES_S = 2.0
"""Of the program's own time: watching lines costs it several times that, so it is not done for long."""
READING_SHARE_MAX = 0.2
"""Of the time, what readings may take."""
SUSPECT_P = 0.01
STRETCH_SHARE = 1 / 64
"""Of the progress made so far."""
EVIDENCE_AGAIN = 2.0
"""After so many times the progress, evidence is taken anew: what there was may have been warm-up."""
WINDOW_FROM = 1 / 3
ELSEWHERE_BYTES_MIN = 1 << 20


@dataclass(frozen=True)
class Order:
    """What the command wants. result: the file for the verdict. bytes_allowed: what the program may grow by."""

    result: str
    bytes_allowed: float


def start(order: str) -> None:
    """Begins to watch this process. order: an Order as JSON."""
    watch = Watch(Order(**json.loads(order)))
    atexit.register(watch.end)
    threading.settrace(watch.trace)
    sys.settrace(watch.trace)


class Watch:
    """The state of one watch. Points are taken by one thread at a time, whichever has made the progress."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._began_s = time.perf_counter()
        self._files: dict[str, bool] = {}
        self._by_line = Series(FIRST_SPACING_LINES)
        self._by_time = Series(FIRST_SPACING_S)
        self._read_s = 0.0
        self._lines = 0
        self._last_line = 0
        self._last_code: CodeType | None = None
        self._next_line = FIRST_SPACING_LINES
        self._watching_lines = True
        self._ending = threading.Event()

    # Progress by lines, in the program's threads

    def trace(self, frame: FrameType, _event: str, _arg: object) -> Any:
        """For sys.settrace: is asked at each call of a Python function."""
        if not self._watching_lines:
            sys.settrace(None)
            return None
        file = frame.f_code.co_filename
        known = self._files.get(file)
        if known is None:
            known = self._files[file] = file == "<string>" or (is_application(file) and not _is_ours(file))
        return self._trace_line if known else None

    def _trace_line(self, frame: FrameType, event: str, _arg: object) -> Any:
        if event == "return" and self._by_line.is_traced:
            self._by_line.native.at(self._line_before(frame.f_back))
        # A comprehension is one statement, however long it takes.
        if event == "line" and (frame.f_lineno != self._last_line or frame.f_code is not self._last_code):
            self._last_line, self._last_code = frame.f_lineno, frame.f_code
            self._lines += 1
            if self._by_line.is_traced:
                line = (frame.f_code.co_filename, frame.f_lineno)
                self._by_line.passes[line] += 1
                self._by_line.native.at(line)
            if self._lines >= self._next_line:
                self._by_line.native.pause()
                self._line_point()
        return self._trace_line if self._watching_lines else None

    def _line_before(self, frame: FrameType | None) -> tuple[str, int] | None:
        """Where a frame goes on, if that is the program's own."""
        if frame is None or not self._files.get(frame.f_code.co_filename):
            return None
        return frame.f_code.co_filename, frame.f_lineno

    def _line_point(self) -> None:
        if os.getpid() != self._pid or not self._lock.acquire(blocking=False):
            return
        began_s = time.perf_counter()
        # As long as anything is traced, every line of everybody costs time, ours as well.
        will_take_long = self._by_line.is_last_stretch
        try:
            if will_take_long:
                sys.settrace(None)
            self._next_line = self._lines + self._by_line.point(self._lines)
            if will_take_long:
                sys.settrace(self.trace)
            now_s = time.perf_counter()
            self._read_s += now_s - began_s
            if now_s - self._began_s - self._read_s > LINES_S and not self._by_line.is_traced:
                self._watching_lines = False
                threading.settrace(None)
                sys.settrace(None)
                threading.Thread(target=self._watch_time, name="glassbottom-check-leak", daemon=True).start()
        finally:
            self._lock.release()

    # Progress by time, in a thread of ours

    def _watch_time(self) -> None:
        spacing_s = FIRST_SPACING_S
        while not self._ending.wait(spacing_s):
            began_s = time.perf_counter()
            with self._lock:
                if self._ending.is_set():
                    return
                spacing_s = self._by_time.point(began_s - self._began_s)
            spacing_s = max(spacing_s, (time.perf_counter() - began_s) / READING_SHARE_MAX)

    # The end

    def end(self) -> None:
        """The program has ended, but for its interpreter: writes the verdict."""
        if os.getpid() != self._pid:
            return
        self._watching_lines = False
        self._ending.set()
        sys.settrace(None)
        with self._lock:
            seconds = time.perf_counter() - self._began_s
            # Time says more, if there was enough: its readings are of a program that nobody slows down.
            is_long = len(self._by_time.meters) >= POINTS_MIN
            series, other = (self._by_time, self._by_line) if is_long else (self._by_line, self._by_time)
            series.take_evidence_of(other)
            answer = {**series.answer(self._order.bytes_allowed), "seconds": seconds, "lines": self._lines}
        path = Path(self._order.result)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(answer))
        part.replace(path)


class Series:
    """Readings over one kind of progress, and the evidence taken on the way."""

    def __init__(self, spacing: float) -> None:
        self.meters = Meters(POINTS_MAX)
        self.passes: Counter[tuple[str, int]] = Counter()
        self.native = NativeLines()
        self._spacing = spacing
        self._tracing: Tracing | None = None
        self._growth: Growth | None = None
        self._units: dict[tuple[str, int], float] = {}
        self._rate = 0.0
        self._looked_at = 0.0

    @property
    def is_traced(self) -> bool:
        return self._tracing is not None

    @property
    def is_last_stretch(self) -> bool:
        """Whether the next point will look at everything there is."""
        return self._tracing is not None and len(self._tracing) == STRETCHES

    def point(self, progress: float) -> float:
        """Reads, or ends a stretch; how far it is to the next point."""
        if self._tracing is not None:
            return self._stretch(progress, self._tracing)
        collect()
        if len(self.meters) == POINTS_MAX:
            self._spacing *= 2
        self.meters.read(progress)
        if len(self.meters) >= POINTS_MIN and progress >= EVIDENCE_AGAIN * self._looked_at:
            found, _ = self._suspect(0.0, SUSPECT_P)
            if found is not None:
                self._rate, self._looked_at = found.per_call, progress
                self._tracing = Tracing()
                return self._stretch_length()
        return self._spacing

    def answer(self, bytes_allowed: float) -> dict[str, Any]:
        """The verdict, as JSON has it."""
        found, grown = self._suspect(bytes_allowed, P_MAX)
        if found is None:
            enough = len(self.meters) >= POINTS_MIN
            says = "memory in use does not grow steadily" if enough else "it ended before there was enough to see"
            return _answer(Outcome.HEALTHY if enough else Outcome.UNDECIDED, says)
        growth = self._growth
        says = (
            f"rose steadily (p = {found.p:.0e}) after a third of the run, at the end {found.tail:.0%} as fast as "
            f"before, its largest single step {found.jump:.0%} of it"
        )
        if growth is not None and growth.bounded:
            return _answer(Outcome.HEALTHY, f"what it keeps has a bound that is not reached yet: {growth.bounded}")
        if growth is not None and growth.pending:
            return _answer(Outcome.UNDECIDED, f"what it keeps is held by {growth.pending}", bytes=grown)
        kind = NATIVE if growth is not None and growth.is_native else REACHABLE
        more = list(growth.sentences) if growth is not None else []
        if self._is_freed_by_collecting(grown):
            kind = CYCLES
            more.append("a collection freed most of it: objects in cycles, and the garbage collector is off")
        return _answer(Outcome.LEAK, says, *more, bytes=grown, kind=kind, sites=self._sites())

    def take_evidence_of(self, other: Series) -> None:
        """Where there is none of its own."""
        if self._tracing is not None:
            self._conclude(self._tracing)
        if self._growth is None:
            self._growth, self._units = other._growth, other._units

    def _suspect(self, bytes_min: float, p_max: float) -> tuple[Trend | None, float]:
        """(what rose steadily by more than that, its growth) in what came after warm-up: the largest."""
        progress, columns = self.meters.since(self.meters.last_progress() * WINDOW_FROM)
        best: Trend | None = None
        for name, values in columns.items():
            found = trend(progress, values)
            least = max(bytes_min, ELSEWHERE_BYTES_MIN) if name == "elsewhere" else bytes_min
            if found is not None and found.is_steady_at(p_max) and found.growth > least:
                best = found if best is None or found.growth > best.growth else best
        return best, best.growth if best is not None else 0.0

    def _stretch_length(self) -> float:
        return max(self._spacing, self._looked_at * STRETCH_SHARE)

    def _stretch(self, progress: float, tracing: Tracing) -> float:
        tracing.read(progress)
        if len(tracing) == 1:
            self.passes.clear()
            self.native.begin()
        if len(tracing) <= STRETCHES:
            return self._stretch_length()
        self._conclude(tracing)
        return self._spacing

    def _conclude(self, tracing: Tracing) -> None:
        self._tracing = None
        try:
            if len(tracing) >= 3:
                length = tracing.length()
                self._growth = self._with_native_line(tracing.conclude(self._rate), length)
                self._units = {line: length / count for line, count in self.passes.items()}
        finally:
            tracing.stop()

    def _with_native_line(self, growth: Growth, length: float) -> Growth:
        site = self.native.site(self._rate, length) if growth.is_native else None
        return growth if site is None else replace(growth, sites=(site, *growth.sites))

    def _is_freed_by_collecting(self, grown: float) -> bool:
        if gc_is_on():
            return False
        self.meters.read(self.meters.last_progress())
        before = self.meters.in_use()
        gc.collect()
        self.meters.read(self.meters.last_progress())
        return before - self.meters.in_use() > grown / 2

    def _sites(self) -> list[dict[str, Any]]:
        """With bytes per pass of the line, or of the application's that led there; None where these are not known."""
        sites = []
        for site in self._growth.sites if self._growth is not None else ():
            units = next((self._units[line] for line in site.lines if line in self._units), None)
            size = site.bytes_per_call * units if units is not None else None
            block = site.bytes_per_call / site.blocks_per_call if site.blocks_per_call > 0 else None
            whole = sum(part for _, part in site.types)
            shares = [(name, part / whole) for name, part in site.types if whole > 0]
            told = {key: value for key, value in asdict(site).items() if not key.endswith("_per_call")}
            sites.append({**told, "types": shares, "bytes_per_pass": size, "bytes_per_block": block})
        return sites


def _answer(outcome: Outcome, *evidence: str, **more: Any) -> dict[str, Any]:
    return {"outcome": outcome.value, "evidence": evidence, "bytes": 0.0, "kind": "", "sites": [], **more}


def _is_ours(file: str) -> bool:
    return file.startswith(str(Path(__file__).parent))
