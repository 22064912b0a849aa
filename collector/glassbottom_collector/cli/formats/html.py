"""A flame graph in one file that needs nothing else and fetches nothing.

The page (flamegraph.html beside this file) has its own small script and style sheet. Its content security policy
allows exactly those two, by hash, and no connection to anywhere; names arrive as data and become text nodes, so
whatever a function is called, it cannot run.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Sequence
from hashlib import sha256
from importlib.resources import files

from ..profile import Profile, whole
from ..text import moment

_POLICY = "default-src 'none'; script-src {script}; style-src {style}; base-uri 'none'; form-action 'none'"


def encode(profile: Profile) -> str:
    """The page."""
    page = files(__package__).joinpath("flamegraph.html").read_text(encoding="utf-8")
    policy = _POLICY.format(script=_hash_of("script", page), style=_hash_of("style", page))
    parts = {"policy": policy, "title": html.escape(_title(profile)), "data": _inert(_data(profile))}
    # One pass, so that data cannot contain a placeholder that is filled afterwards.
    return re.sub(r"\{\{(policy|title|data)\}\}", lambda match: parts[match[1]], page)


def _title(profile: Profile) -> str:
    if profile.is_difference:
        return f"{profile.service}: heap from {moment(profile.before_ns)} to {moment(profile.at_ns)}"
    return f"{profile.service}: heap at {moment(profile.at_ns)}"


def _data(profile: Profile) -> dict[str, object]:
    """What the script draws: `columns` name the values of each path, `stacks` are indexes into `codes`, outermost
    first. In a difference the columns come in pairs, after and before."""
    live_bytes = whole([path.values.live_bytes for path in profile.paths], profile.totals.live_bytes)
    live_objects = whole([path.values.live_objects for path in profile.paths], profile.totals.live_objects)
    columns: list[tuple[str, str, Sequence[int]]]
    if profile.is_difference:
        bytes_before = whole([path.values.before_live_bytes for path in profile.paths], profile.before.live_bytes)
        objects_before = whole([path.values.before_live_objects for path in profile.paths], profile.before.live_objects)
        columns = [
            ("live bytes", "bytes", live_bytes),
            ("live bytes before", "bytes", bytes_before),
            ("live objects", "count", live_objects),
            ("live objects before", "count", objects_before),
        ]
    else:
        alloc_bytes = whole([path.values.alloc_bytes for path in profile.paths])
        alloc_objects = whole([path.values.alloc_objects for path in profile.paths])
        columns = [
            ("live bytes", "bytes", live_bytes),
            ("live objects", "count", live_objects),
            ("allocated bytes since sampling began", "bytes", alloc_bytes),
            ("allocated objects since sampling began", "count", alloc_objects),
        ]
    return {
        "title": _title(profile),
        "difference": profile.is_difference,
        "columns": [{"name": name, "unit": unit} for name, unit, _ in columns],
        "codes": [list(code) for code in profile.codes],
        "stacks": [list(reversed(path.codes)) for path in profile.paths],
        "values": [list(values) for _, _, values in columns],
    }


def _inert(data: dict[str, object]) -> str:
    """JSON that cannot end the script element it stands in, nor open a comment there."""
    text = json.dumps(data, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _hash_of(element: str, page: str) -> str:
    match = re.search(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
    assert match is not None, f"flamegraph.html has no <{element}>"
    digest = base64.b64encode(sha256(match[1].encode()).digest()).decode()
    return f"'sha256-{digest}'"
