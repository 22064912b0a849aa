"""What a healthy service does beside the case: work in flight, sessions that come and go, a cache that gets full.

All of it must never be accused, whatever the case does.
"""

from __future__ import annotations

import collections
import json
import random

SESSIONS = 200
CACHED = 150


class Background:
    """State of the healthy part. seed: of sizes and order, the same in every run."""

    def __init__(self, seed: int = 7) -> None:
        self._random = random.Random(seed)
        self._sessions: collections.OrderedDict[int, dict[str, object]] = collections.OrderedDict()
        self._pages: dict[int, bytes] = {}

    def health(self, number: int) -> str:
        """One request that needs memory only while it runs, opens a session and ends the oldest."""
        self._sessions[number] = {"user": f"user {number}", "basket": [number] * self._random.randrange(5, 50)}
        if len(self._sessions) > SESSIONS:
            self._sessions.popitem(last=False)
        self._page(self._random.randrange(CACHED))
        answer = json.dumps([{"id": each, "text": "x" * self._random.randrange(20, 200)} for each in range(40)])
        return str(len(json.loads(answer)))

    def _page(self, number: int) -> bytes:
        if number not in self._pages:
            self._pages[number] = bytes(self._random.randrange(1000, 6000))
        return self._pages[number]
