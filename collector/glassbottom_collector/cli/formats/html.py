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

from ..profile import Profile

_POLICY = "default-src 'none'; script-src {script}; style-src {style}; base-uri 'none'; form-action 'none'"


def encode(profile: Profile) -> str:
    """The page."""
    page = files(__package__).joinpath("flamegraph.html").read_text(encoding="utf-8")
    policy = _POLICY.format(script=_hash_of("script", page), style=_hash_of("style", page))
    parts = {"policy": policy, "title": html.escape(profile.title), "data": _inert(_data(profile))}
    # One pass, so that data cannot contain a placeholder that is filled afterwards.
    return re.sub(r"\{\{(policy|title|data)\}\}", lambda match: parts[match[1]], page)


def _data(profile: Profile) -> dict[str, object]:
    """What the script draws: `columns` name the values of each path, `stacks` are indexes into `codes`, outermost
    first. In a difference the columns come in pairs, after and before."""
    profile = profile.unlabelled()
    columns: list[tuple[str, str, Sequence[int]]] = []
    for measure in profile.measures_shown_first:
        columns.append((measure.title, measure.unit, profile.column(measure)))
        if profile.is_difference:
            columns.append((f"{measure.title} before", measure.unit, profile.column(measure, before=True)))
    return {
        "title": profile.title,
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
