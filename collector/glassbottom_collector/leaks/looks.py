"""Asked all the time, a test that errs once in a thousand times errs every day: what an accusation needs besides.

Whoever has a page open asks every few seconds, and it is the worst of all answers that wakes somebody. Two demands,
both without memory, so that every asker at the same moment is told the same:

* It must have held a while ago: the same evidence, less its newest fifth, must accuse too. What was a leak by luck at
  one look was none at the look before; an error has to last as long as a fifth of the window, which makes looks in
  between worth no more than a few.
* It must not be early: a cache of some hundred entries fills for the first hundreds of operations, and where few
  samples show it nobody can tell that from a leak. Then it is growing, until there were operations enough, or samples
  enough to exclude a warm-up as long as the evidence (verdict.py, `straight`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ..model.leak import Evidence, Verdict
from . import trend, verdict
from .blocks import until
from .judging import Judged, Screen
from .wording import percent_text, time_text

# What an earlier asker saw.
EARLIER_SHARE = 0.8
# Tests that gain strength with the window's length; being not yet sure is no sign of a passing error.
NEED_THE_WHOLE = frozenset({"size", "noise", "confirmation"})
# Operations of the most frequent kind during the evidence. lru_cache has 128 entries unless told otherwise, pools and
# sessions seldom more than two hundred.
OPERATIONS_MIN = 500
# Where no operations are counted: readings. And where they are rare, so many readings, with fewer operations.
READINGS_MIN = 40
READINGS_MANY, OPERATIONS_RARE = 80, 300
# A warm-up with a time constant as long as the evidence has a last half 0.76 times as steep as the whole.
STRAIGHT = 0.76

Ended = Callable[[int], float]


def confirmed(judged: Sequence[Judged], screens: Sequence[Screen], ended: Ended, readings: Ended) -> list[Judged]:
    """The same, with the leaks among them that have not lasted, or come too early, called growing.

    ended, readings: operations of the most frequent kind, and snapshots, during the evidence of an analysis, given by
    its position.
    """
    return [_confirmed(each, screens, ended, readings) for each in judged]


def _confirmed(judged: Judged, screens: Sequence[Screen], ended: Ended, readings: Ended) -> Judged:
    judgement = judged.judgement
    if judgement.verdict is not Verdict.LEAK or judged.analysis < 0:
        return judged
    lasting = _lasting(judged, screens[judged.analysis])
    early = _not_early(judged, ended(judged.analysis), readings(judged.analysis))
    evidence = (*judgement.evidence, lasting, early)
    if lasting.supports_leak and early.supports_leak:
        return replace(judged, judgement=replace(judgement, evidence=evidence))
    seconds = screens[judged.analysis].blocks.seconds
    change = f"A leak if it still looks like this in about {time_text(seconds / 4)}."
    if not early.supports_leak:
        change = "A leak if it goes on as straight while many more operations come, or with denser sampling."
    return replace(
        judged, judgement=replace(judgement, verdict=Verdict.GROWING, evidence=evidence, would_change=change)
    )


def _lasting(judged: Judged, screen: Screen) -> Evidence:
    count = round(EARLIER_SHARE * len(screen.blocks.retained))
    earlier = until(screen.blocks, count)
    column = np.array([judged.column])
    raw = trend.mann_kendall(earlier.retained[:, column])[1]
    # As suspicious as what is looked at closely; the correction for many sites was made at the end.
    p = np.minimum(raw * (verdict.FALSE_DISCOVERY / verdict.SUSPICION_P), 1.0)
    found = verdict.judge(earlier, column, p, p, raw, 1, deviations=0.0)[0]
    against = ", ".join(
        each.name for each in found.evidence if not each.supports_leak and each.name not in NEED_THE_WHOLE
    )
    held = not against
    moment = time_text(screen.blocks.seconds - earlier.seconds)
    return Evidence(
        "looks",
        held,
        f"Asked {moment} ago, nothing would have spoken against it."
        if held
        else f"Asked {moment} ago, it would not have been called a leak ({against}).",
    )


def _not_early(judged: Judged, ended: float, readings: float) -> Evidence:
    straight = judged.judgement.straight
    seen = (
        f"{ended:.0f} operations of a kind ended meanwhile (a leak needs {OPERATIONS_MIN}, or "
        f"{OPERATIONS_RARE} in {READINGS_MANY} readings"
        if ended > 0
        else f"{readings:.0f} readings carry it (a leak needs {READINGS_MIN}"
    )
    many = ended >= OPERATIONS_MIN or (readings >= READINGS_MANY and ended >= OPERATIONS_RARE)
    enough = many if ended > 0 else readings >= READINGS_MIN
    return Evidence(
        "early",
        enough or straight > STRAIGHT,
        f"{seen}, or samples enough to exclude a warm-up as long as the evidence: its last half would be "
        f"{percent_text(STRAIGHT)} as steep as the whole, and here it is at least {percent_text(max(straight, 0.0))}).",
    )
