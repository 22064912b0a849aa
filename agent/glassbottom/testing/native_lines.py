"""During which line of a program C code allocates what stays: what tracemalloc cannot see, by what malloc says.

Memory in use is read at every line, and what it changed by goes to the line before: of the innermost function of the
program's own that runs. Lines that allocate and lines that free stand against each other in that, so a line is
believed only when it alone explains what the whole program grows by.
"""

from __future__ import annotations

from collections import Counter

from .meters import malloc_in_use
from .places import describe
from .verdict import Site

EXPLAINS_MIN, EXPLAINS_MAX = 0.5, 1.5
"""Of the growth of all memory, what a line must have grown by to be named."""
Line = tuple[str, int]


class NativeLines:
    """Sums by line. Costs a call of malloc's own statistics at each, so only some stretches are looked at."""

    def __init__(self) -> None:
        self._sizes: Counter[Line] = Counter()
        self._line: Line | None = None
        self._before = 0

    def at(self, line: Line | None) -> None:
        """The program is about to run that line; None: one of somebody else's."""
        now = malloc_in_use()
        if self._line is not None:
            self._sizes[self._line] += now - self._before
        self._line = line
        self._before = malloc_in_use()

    def pause(self) -> None:
        """What comes until the next line is not the program's."""
        self._line = None

    def begin(self) -> None:
        """Forgets what there was."""
        self._sizes.clear()
        self._line = None

    def site(self, rate: float, length: float) -> Site | None:
        """The line that explains it. rate: bytes by which memory grows in one unit of progress. length: of these."""
        if not self._sizes or length <= 0:
            return None
        line, size = max(self._sizes.items(), key=lambda item: item[1])
        share = size / length / rate if rate > 0 else 0.0
        if not EXPLAINS_MIN <= share <= EXPLAINS_MAX:
            return None
        return Site(describe(*line), size / length, 0.0, lines=(line,))
