"""Small things for columns: everything goes into the engine as numpy arrays, which it takes fastest without pyarrow."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Columns = dict[str, NDArray[Any]]


def text(values: Iterable[str]) -> NDArray[Any]:
    """A column of text."""
    listed = list(values)
    column = np.empty(len(listed), dtype=object)
    column[:] = listed
    return column


def ids(values: Iterable[int]) -> NDArray[np.uint64]:
    """A column of content hashes."""
    return np.fromiter(values, dtype=np.uint64)


def packed_ids(values: Sequence[int]) -> str:
    """Hexadecimal little-endian 64-bit words: several ids in one value."""
    return np.array(values, dtype="<u8").tobytes().hex()


def unpacked_ids(packed: bytes) -> tuple[int, ...]:
    """The ids in one value."""
    return tuple(np.frombuffer(bytes(packed), dtype="<u8").tolist())
