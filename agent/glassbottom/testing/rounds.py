"""Repeats an operation until the readings decide whether it leaks; knows nothing of how it is called.

`decide()` is a generator that asks for calls and pauses and ends with a verdict, so that functions, coroutines and
tests of this file are driven by the same code (run.py). It goes on for as long as something could still explain the
growth: a first call, a cache that fills, objects that a timer lets go of. What stays flat is over in a fraction of a
second; what grows takes a second or two, and then shows where (evidence.py).
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator
from dataclasses import dataclass

from .evidence import Growth, find
from .meters import COLUMNS, Meters, collect, gc_is_on
from .statistics import Trend, trend
from .verdict import CYCLES, NATIVE, REACHABLE, Outcome, Verdict

ROUND_S = 0.02
LATER_ROUND_S = 0.1
LATER_AFTER_ROUNDS = 24
CALLS_PER_ROUND_MIN = 64
CALLS_PER_ROUND_MAX = 100_000
"""Rounds grow slowly, so that what leaks much has not leaked too much by the time that is clear."""
FLAT_CALLS_MIN = 200
FLAT_S_MIN = 1.0
"""An operation that takes that long need not be called so often."""
LEAK_CALLS_MIN = 2000
LEAK_S_MIN = 0.5
"""Before that, a cache of usual size that fills looks the same."""
LEAK_CALLS_ENOUGH = 20_000
LEAK_BYTES_ENOUGH = 32 << 20
"""Then no more seconds are needed."""
LATE_CALLS_MIN = 400
"""When time is up, less than that says nothing about caches."""
WINDOW_FROM = 1 / 3
"""What came before is warm-up."""
RESOLUTION_BYTES = 1.0
"""Per call; a table that grows by one entry in many calls is below."""
GROWTH_BYTES_MIN = 2048.0
ELSEWHERE_NOISE_BYTES = 128 << 10
ELSEWHERE_BYTES_MIN = 512 << 10
ELSEWHERE_PER_CALL_MIN = 64.0
"""Resident memory moves by pages, and others move it as well."""
GROWTH_BYTES_MAX = 512 << 20
"""Enough has been seen; the machine is not to suffer."""
SETTLE_S = 2.0


@dataclass(frozen=True)
class Limits:
    """bytes_per_call: what a call may keep. seconds: when to stop; finding where it stays takes a little longer.

    warm_up_calls: calls that are not looked at. Raises ValueError where that makes no sense.
    """

    bytes_per_call: float = 16.0
    seconds: float = 30.0
    warm_up_calls: int = 1

    def __post_init__(self) -> None:
        if not self.bytes_per_call >= 0:
            raise ValueError(f"bytes_per_call is {self.bytes_per_call!r}; give a number of bytes, 0 or more.")
        if not self.seconds > 0:
            raise ValueError(f"seconds is {self.seconds!r}; give how long it may take, more than 0.")
        if self.warm_up_calls < 0:
            raise ValueError(f"warm_up_calls is {self.warm_up_calls!r}; give a number of calls, 0 or more.")


@dataclass(frozen=True)
class Calls:
    """Asks for so many calls of the operation."""

    count: int


@dataclass(frozen=True)
class Pause:
    """Asks to let time pass, in which timers and other threads do what is due; where there are none, not to."""

    seconds: float


Plan = Generator[Calls | Pause, None, Verdict]


def decide(limits: Limits, clock_s: Callable[[], float]) -> Plan:
    """Asks for calls until it is clear whether they leave memory behind."""
    return (yield from _Decision(limits, clock_s).run())


class _Decision:
    """One run of decide()."""

    def __init__(self, limits: Limits, clock_s: Callable[[], float]) -> None:
        self._limits = limits
        self._clock_s = clock_s
        self._began_s = clock_s()
        self._calls = 0
        self._meters = Meters()
        self._frozen_before = gc.get_freeze_count()

    def run(self) -> Plan:
        yield from self._call(max(1, self._limits.warm_up_calls))
        count = 1
        while True:
            began_s = self._clock_s()
            yield from self._call(count)
            took_s = self._clock_s() - began_s
            collect()
            self._meters.read(self._calls)
            rounds = len(self._meters)
            goal_s = ROUND_S if rounds < LATER_AFTER_ROUNDS else LATER_ROUND_S
            if took_s < goal_s / 2 and count < max(CALLS_PER_ROUND_MIN, self._calls / 16):
                count = min(CALLS_PER_ROUND_MAX, count * 2)
            verdict = yield from self._judge()
            if verdict is not None:
                return verdict

    def _call(self, count: int) -> Generator[Calls | Pause, None, None]:
        yield Calls(count)
        self._calls += count

    def _judge(self) -> Generator[Calls | Pause, None, Verdict | None]:
        """The verdict, if there is one."""
        seen = self._trends()
        elapsed_s = self._clock_s() - self._began_s
        is_late = elapsed_s >= self._limits.seconds
        if self._is_flat(seen):
            return self._healthy("memory in use does not grow from round to round")
        suspect = self._suspect(seen)
        grown = self._meters.grown()
        if suspect is not None and (
            grown >= GROWTH_BYTES_MAX
            or (self._calls >= LEAK_CALLS_MIN and self._is_enough(elapsed_s, grown))
            or (is_late and self._calls >= LATE_CALLS_MIN)
        ):
            return (yield from self._accuse(suspect))
        if not is_late:
            return None
        if suspect is None:
            return self._healthy("memory in use moves, but does not grow steadily")
        return self._undecided(
            suspect,
            f"it grew with every call, but only {self._calls} calls were made in {self._limits.seconds:g} s: a cache "
            f"that holds more than that looks the same",
            "more time: seconds=…, or fewer things done in one call",
        )

    def _is_enough(self, elapsed_s: float, grown: float) -> bool:
        return elapsed_s >= LEAK_S_MIN or self._calls >= LEAK_CALLS_ENOUGH or grown >= LEAK_BYTES_ENOUGH

    # What the readings say

    def _trends(self) -> dict[str, Trend]:
        """By column and for the sum of both allocators, of what came after warm-up; {} where there is too little."""
        calls, columns = self._meters.since(self._calls * WINDOW_FROM)
        found = {name: trend(calls, values) for name, values in columns.items()}
        return {name: each for name, each in found.items() if each is not None}

    def _is_flat(self, seen: dict[str, Trend]) -> bool:
        if not seen or (self._calls < FLAT_CALLS_MIN and self._clock_s() - self._began_s < FLAT_S_MIN):
            return False
        return all(self._is_flat_in(seen[name], name) for name in (*COLUMNS, "both"))

    def _is_flat_in(self, found: Trend, name: str) -> bool:
        if name == "elsewhere":
            return found.growth < ELSEWHERE_NOISE_BYTES or found.p > 0.05
        return max(found.per_call, found.high) <= self._allowed() or found.p > 0.05

    def _suspect(self, seen: dict[str, Trend]) -> Trend | None:
        """What grew steadily by more than is allowed, the largest of: each part, and the sum of both allocators."""
        suspects = [
            found
            for name, found in seen.items()
            if found.is_steady
            and found.low > (max(ELSEWHERE_PER_CALL_MIN, self._allowed()) if name == "elsewhere" else self._allowed())
            and found.growth >= (ELSEWHERE_BYTES_MIN if name == "elsewhere" else GROWTH_BYTES_MIN)
        ]
        return max(suspects, key=lambda found: found.per_call, default=None)

    def _allowed(self) -> float:
        return max(self._limits.bytes_per_call, RESOLUTION_BYTES)

    # Where it stays

    def _accuse(self, suspect: Trend) -> Generator[Calls | Pause, None, Verdict]:
        before, grown = self._meters.in_use(), self._meters.grown()
        yield Pause(SETTLE_S)
        collect()
        self._meters.read(self._calls)
        released = before - self._meters.in_use()
        if grown > 0 and released > grown / 2:
            return self._healthy(
                f"{released / grown:.0%} of what was kept was let go of within {SETTLE_S:g} s, by timers or threads"
            )
        took_s = self._clock_s() - self._began_s
        growth: Growth = yield from find(suspect.per_call, took_s / max(1, self._calls), self._call)
        if growth.bounded:
            return self._healthy(f"what it keeps has a bound that is not reached yet: {growth.bounded}")
        if growth.pending:
            return self._undecided(
                suspect, f"what it keeps is held by {growth.pending}", "timers that are over within 2 s", growth
            )
        kind = NATIVE if growth.is_native else REACHABLE
        more = self._released_by_collecting(grown)
        if more is not None:
            kind = CYCLES
        evidence = [self._how(suspect), *growth.sentences, *([more] if more else [])]
        return Verdict(
            Outcome.LEAK,
            suspect.per_call,
            suspect.low,
            suspect.high,
            self._limits.bytes_per_call,
            self._calls,
            self._clock_s() - self._began_s,
            kind=kind,
            sites=growth.sites,
            evidence=tuple(evidence),
            would_change=(
                f"a higher limit (bytes_per_call={suspect.high:.0f}), or more calls that are not looked at "
                f"(warm_up_calls=…) if it fills something that has a bound above {self._calls} calls"
            ),
        )

    def _released_by_collecting(self, grown: float) -> str | None:
        """Whether a collection that the program does not do frees it, as a sentence."""
        frozen = gc.get_freeze_count() > self._frozen_before
        if gc_is_on() and not frozen:
            return None
        before = self._meters.in_use()
        if frozen:
            gc.unfreeze()
        gc.collect()
        self._meters.read(self._calls)
        released = before - self._meters.in_use()
        if released < grown / 2:
            return None
        why = "gc.freeze() keeps it from the garbage collector" if frozen else "the garbage collector is off"
        return f"{released / grown:.0%} of it was freed by a collection: objects in cycles, and {why}"

    def _how(self, suspect: Trend) -> str:
        return (
            f"rose steadily (p = {suspect.p:.0e}) after {self._calls * WINDOW_FROM:.0f} calls of warm-up, at the end "
            f"{suspect.tail:.0%} as fast as before, its largest single step {suspect.jump:.0%} of it"
        )

    def _healthy(self, sentence: str) -> Verdict:
        return Verdict(
            Outcome.HEALTHY,
            0.0,
            0.0,
            0.0,
            self._limits.bytes_per_call,
            self._calls,
            self._clock_s() - self._began_s,
            evidence=(sentence,),
        )

    def _undecided(self, suspect: Trend, sentence: str, would_change: str, growth: Growth | None = None) -> Verdict:
        return Verdict(
            Outcome.UNDECIDED,
            suspect.per_call,
            suspect.low,
            suspect.high,
            self._limits.bytes_per_call,
            self._calls,
            self._clock_s() - self._began_s,
            kind=REACHABLE,
            sites=growth.sites if growth is not None else (),
            evidence=(sentence,),
            would_change=would_change,
        )
