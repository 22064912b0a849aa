"""Values of the model as plain JSON: fields by their names, places as function, file and line, no ids.

What is not a number (infinite, unknown) becomes null: JSON has no word for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

import numpy as np

from ..model.code import Frame


def plain(value: Any, without: Set[str] = frozenset()) -> Any:
    """without: fields that are left out, at every depth. Raises TypeError for what has no plain form."""
    match value:
        case None | bool() | str():
            return value
        case Enum():
            return value.name.lower()
        case Frame():
            return {"function": value.function, "file": value.file, "line": value.line}
        case int() | np.integer():
            return int(value)
        case float() | np.floating():
            return float(value) if math.isfinite(value) else None
        case Mapping():
            return {str(key): plain(each, without) for key, each in value.items() if key not in without}
        case list() | tuple() | np.ndarray():
            return [plain(each, without) for each in value]
        case set() | frozenset():
            return sorted(plain(each, without) for each in value)
    if is_dataclass(value) and not isinstance(value, type):
        names = (one.name for one in fields(value) if one.name not in without)
        return {name: plain(getattr(value, name), without) for name in names}
    raise TypeError(f"{type(value).__name__} has no plain form.")
