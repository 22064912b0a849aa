"""How much of a site's memory stays: what tells a leak from load, and the reason heap samples carry their birth.

Let M be the age mass of a site, the sum over its live objects of bytes times age. Objects that stay add their bytes to
M every second; an object that dies takes its mass with it. For objects replaced at a steady pace both cancel
(Little's law: bytes in flight = bytes arriving per second times mean lifetime), therefore

    dM/dt  =  live bytes − bytes in flight  =  bytes retained.

Over a block of time, the change of M divided by its length is the mean number of bytes retained in it. Requests in
flight contribute nothing whatever their number, and almost no noise, since their age is short against the block; a
leak contributes all of itself. So a load ramp has a flat retained series below a rising live series, and a leak
beneath a busy, wandering load is a straight line.

What it cannot see: memory that is replaced by a larger copy of itself (a string built by `s += chunk`, the table of a
growing dict) counts as in flight. And a block that grows in place by realloc keeps its birth, which counts its
growth up to twice. Then more is retained than lives, which cannot be, and verdict.py takes the live rate.
"""

from __future__ import annotations

import numpy as np

from ..model.heap import F64, I64


def age_mass(live: F64, birth_mean_ms: I64, at_ns: I64) -> F64:
    """Amount times seconds of age, shape (T, N): live amounts (T, N), mean births (T, N), times of reading (T,)."""
    age_s = at_ns[:, None] / 1e9 - birth_mean_ms / 1e3
    mass: F64 = live * np.maximum(age_s, 0.0)
    return mass


def retained(mass: F64, edges_s: F64) -> F64:
    """Mean amount retained in each block, (K, N), from the age mass at its edges, (K + 1, N)."""
    amount: F64 = np.diff(mass, axis=0) / np.diff(edges_s)[:, None]
    return amount
