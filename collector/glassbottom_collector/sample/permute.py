"""Permutations under a key: of the numbers below a limit, of integers, of texts of one shape.

A hash of a short value is too short to be unique, and the values of a sample must stay unique: so what is short is
permuted within the set of values of its own shape, where no two can meet. The permutation is a Feistel network of
HMAC-SHA256 (eight rounds, as Luby and Rackoff's proof asks for at least four), walked until it falls into the set
(cycle walking: Black and Rogaway, Ciphers with arbitrary finite domains, 2002).

Of a set as small as the ten digits, a permutation hides little: whoever sees the rows of a table can count.
"""

from __future__ import annotations

import hashlib
import hmac
from functools import lru_cache

ROUNDS = 8
HALVES_MAX = 20_000  # remembered for each domain
HASHED_FROM = 1 << 64  # from this many values on a hash is unique enough: 10**5 values meet with 1 in 3 * 10**9
# Integers keep the number of their digits and the type they fit into, whichever column they are looked at in.
_EDGES = sorted({*(10**digits for digits in range(1, 39)), 1 << 15, 1 << 31, 1 << 63})
LOWER, DIGITS = "abcdefghijklmnopqrstuvwxyz", "0123456789"
# The lower-case letters of Latin-1 whose capitals are in it as well.
LATIN = "".join(chr(code) for code in range(0xE0, 0xFF) if code != 0xF7)
OTHER = "".join(chr(code) for code in range(0x101, 0x130, 2))


class Keyed:
    """Makes a value of a domain into another one. key: of the bundle; domain: the column that is referred to."""

    def __init__(self, key: bytes, domain: str) -> None:
        self._key = hmac.digest(key, domain.encode(), hashlib.sha256)
        self._halves: dict[bytes, int] = {}

    def digest(self, text: str) -> bytes:
        """32 bytes that depend on the key, the domain and the text."""
        return hmac.digest(self._key, b"v" + text.encode("utf-8", "surrogatepass"), hashlib.sha256)

    def stream(self, text: str, size_bytes: int) -> bytes:
        """As many bytes as are asked for, likewise."""
        return hashlib.shake_256(self.digest(text)).digest(size_bytes)

    def number(self, number: int, limit: int) -> int:
        """A permutation of range(limit)."""
        if limit <= 1:
            return number
        half_bits = ((limit - 1).bit_length() + 1) // 2
        mask, size = (1 << half_bits) - 1, (half_bits + 7) // 8
        tail = limit.to_bytes(33, "big") if limit.bit_length() <= 264 else str(limit).encode()
        while True:
            left, right = number >> half_bits, number & mask
            for round_ in range(ROUNDS):
                left, right = (
                    right,
                    left ^ (self._half(b"f%c" % round_ + right.to_bytes(size, "big") + tail, size) & mask),
                )
            number = left << half_bits | right
            if number < limit:
                return number

    def _half(self, asked: bytes, size: int) -> int:
        """What a round adds. Halves of short values come again and again."""
        found = self._halves.get(asked)
        if found is None:
            if len(self._halves) >= HALVES_MAX:
                self._halves.clear()
            found = int.from_bytes(hmac.digest(self._key, asked, hashlib.sha256)[:size], "big")
            self._halves[asked] = found
        return found

    def integer(self, number: int) -> int:
        """A permutation of the integers that keeps sign, digits, and whether it fits into 2, 4 or 8 bytes. 0 stays, and
        so do the smallest numbers of these types, which have no counterpart."""
        size = abs(number)
        if size == 0 or number in (-(1 << 15), -(1 << 31), -(1 << 63)):
            return number
        low, high = _class_of(size)
        # The three powers of two above are values of their class that must stay free for themselves when negative.
        if number < 0 and low in (1 << 15, 1 << 31, 1 << 63):
            low += 1
        masked = low + self.number(size - low, high - low)
        return masked if number > 0 else -masked

    def shaped(self, text: str, letters: str = LOWER) -> str:
        """Another text with the same signs in the same places: letters for letters, digits for digits.

        Capitals follow their small letters, so that two texts that differ only in case still do, and an index over
        lower(text) stays unique. letters: the beginning of the alphabet that letters are of and
        become, for hexadecimal digits.
        """
        lower = "".join([_LOWERED.get(sign, sign) for sign in text])
        shape = tuple([_ALPHABET_OF.get(sign) or _other(sign) for sign in lower])
        if letters != LOWER:
            shape = tuple([letters if alphabet is LOWER else alphabet for alphabet in shape])
        limit = _limit(shape)
        if limit <= 1:
            return text
        if limit >= HASHED_FROM or OTHER in shape:
            stream = self.stream(lower, 2 * len(lower))
            masked = [
                alphabet[int.from_bytes(stream[2 * at : 2 * at + 2], "big") % len(alphabet)]
                for at, alphabet in enumerate(shape)
            ]
        else:
            masked = _unrank(self.number(_rank(lower, shape), limit), shape)
        return "".join([new.upper() if old in _LOWERED else new for new, old in zip(masked, text, strict=True)])


def _class_of(size: int) -> tuple[int, int]:
    low = 1
    for edge in _EDGES:
        if size < edge:
            return low, edge
        low = edge
    return low, low * 10


def _other(sign: str) -> str:
    """What is neither a letter nor a digit of ASCII stays; letters of other scripts, and signs of none, become letters
    of Latin Extended."""
    return sign if sign.isascii() or sign.isspace() else OTHER


@lru_cache(maxsize=4096)
def _limit(shape: tuple[str, ...]) -> int:
    limit = 1
    for alphabet in shape:
        limit *= len(alphabet)
    return limit


def _unrank(rank: int, shape: tuple[str, ...]) -> list[str]:
    signs = []
    for alphabet in reversed(shape):
        rank, place = divmod(rank, len(alphabet))
        signs.append(alphabet[place])
    return signs[::-1]


def _rank(text: str, shape: tuple[str, ...]) -> int:
    rank = 0
    for sign, alphabet in zip(text, shape, strict=True):
        if len(alphabet) > 1:
            rank = rank * len(alphabet) + _PLACE[sign]
    return rank


_ALPHABET_OF = {sign: alphabet for alphabet in (LOWER, DIGITS, LATIN) for sign in alphabet}
_PLACE = {sign: place for alphabet in (LOWER, DIGITS, LATIN) for place, sign in enumerate(alphabet)}
_LOWERED = {sign.upper(): sign for sign in LOWER + LATIN}
