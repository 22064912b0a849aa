"""Values as PostgreSQL writes them: arrays, and JSON whose numbers keep their digits.

A mask must see the parts of a value and put them together again exactly as the server would read them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

_BOUNDS = re.compile(r"(?:\[[+-]?\d+:[+-]?\d+\])+=")


class Number(str):
    """A number of JSON, as written."""

    __slots__ = ()


def map_array(literal: str, mask: Callable[[str], str], delimiter: str = ",") -> str:
    """The same array with every element that is not NULL through a mask. Raises ValueError for what is no array."""
    bounds = _BOUNDS.match(literal)
    prefix = bounds[0] if bounds else ""
    out, at = [prefix], len(prefix)
    if literal[at : at + 1] != "{":
        raise ValueError("An array begins with a brace.")
    while at < len(literal):
        sign = literal[at]
        if sign in "{}" or sign == delimiter:
            out.append(sign)
            at += 1
        elif sign == '"':
            element, at = _quoted(literal, at + 1)
            out.append(_as_element(mask(element)))
        else:
            end = at
            while end < len(literal) and literal[end] not in "{}" and literal[end] != delimiter:
                end += 1
            bare = literal[at:end]
            out.append(bare if bare.upper() == "NULL" else _as_element(mask(bare)))
            at = end
    return "".join(out)


def _quoted(literal: str, at: int) -> tuple[str, int]:
    """(element, where it ends) of one that begins after a quote."""
    signs = []
    while literal[at] != '"':
        if literal[at] == "\\":
            at += 1
        signs.append(literal[at])
        at += 1
    return "".join(signs), at + 1


def _as_element(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def parse_json(text: str) -> Any:
    """Objects, lists, str, Number, True, False, None. Raises ValueError, and RecursionError for what is too deep."""
    return json.loads(text, parse_int=Number, parse_float=Number, parse_constant=Number)


def write_json(value: Any) -> str:
    """As jsonb is written: a space after each comma and colon."""
    if isinstance(value, Number):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_string(key)}: {write_json(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(write_json, value)) + "]"
    return _string(value) if isinstance(value, str) else json.dumps(value)


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
