"""speedscope's file format: one "sampled" profile per value, to be dropped onto the viewer.

speedscope cannot show negative values, so a difference becomes four profiles: what grew, what shrank, and the two
moments themselves.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from operator import attrgetter

from ..profile import Profile, Values, whole

# An identifier of the format; nothing is fetched from there.
SCHEMA = "https://www.speedscope.app/file-format-schema.json"

# Its words for ours.
UNITS = {"bytes": "bytes", "count": "none", "nanoseconds": "nanoseconds"}

_Pick = Callable[[Values], float]


def encode(profile: Profile) -> str:
    """The profile as speedscope JSON."""
    profile = profile.unlabelled()
    views = _difference_views() if profile.is_difference else _views(profile)
    document = {
        "$schema": SCHEMA,
        "name": profile.title,
        "exporter": "glassbottom",
        "activeProfileIndex": 0,
        "shared": {
            "frames": [
                {
                    "name": code.function,
                    **({"file": code.file} if code.file else {}),
                    **({"line": code.line} if code.line else {}),
                }
                for code in profile.codes
            ]
        },
        "profiles": [_sampled(profile, name, unit, pick) for name, unit, pick in views],
    }
    return json.dumps(document, separators=(",", ":")) + "\n"


def _views(profile: Profile) -> list[tuple[str, str, _Pick]]:
    return [(measure.title, UNITS[measure.unit], attrgetter(measure.field)) for measure in profile.measures_shown_first]


def _difference_views() -> list[tuple[str, str, _Pick]]:
    return [
        ("grew, bytes", "bytes", lambda v: max(v.live_bytes - v.before_live_bytes, 0.0)),
        ("shrank, bytes", "bytes", lambda v: max(v.before_live_bytes - v.live_bytes, 0.0)),
        ("after, live bytes", "bytes", lambda v: v.live_bytes),
        ("before, live bytes", "bytes", lambda v: v.before_live_bytes),
    ]


def _sampled(profile: Profile, name: str, unit: str, pick: _Pick) -> dict[str, object]:
    weights = whole([pick(path.values) for path in profile.paths])
    kept = [(path, weight) for path, weight in zip(profile.paths, weights, strict=True) if weight]
    return {
        "type": "sampled",
        "name": name,
        "unit": unit,
        "startValue": 0,
        "endValue": sum(weight for _, weight in kept),
        "samples": [list(reversed(path.codes)) for path, _ in kept],
        "weights": [weight for _, weight in kept],
    }
