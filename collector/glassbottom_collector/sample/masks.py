"""What stands for a value: a function of the key of the bundle, the domain, and the value; of nothing else.

The domain is the column that is referred to, so a customer's number is the same in the table of customers and in that
of orders. A text keeps its form: an address of e-mail stays one (at example.com), a UUID stays one, letters stay
letters. Dates move by one number of weeks in a whole bundle: distances, week days and times of day stay.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Callable
from datetime import date, timedelta

from ..redaction import personal
from ..redaction.names_of_secrets import promised
from .permute import DIGITS, LOWER, Keyed
from .values import Number, map_array, parse_json, write_json

Mask = Callable[[str], str]

LOCAL_CHARACTERS_MIN = 10  # of 36 signs: 51 bits
DOMAIN = "@example.com"
PROSE_FROM = 64  # characters; the lengths of the words of a longer text would tell it
PROSE_MAX = 2048
BYTES_MAX = 1024
WALKS_MAX = 64
JSON_CHARACTERS_MAX = 65_536
DATE = re.compile(r"(?<!\d)(\d{4})-(\d\d)-(\d\d)(?!\d)")
EMAIL = re.compile(r"[^\s@<>\"(),:;]{1,64}@[^\s@<>\"(),:;]{1,253}\.[^\s@.<>\"(),:;]{2,63}")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d(?::?\d\d)?)?)?")
UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_HEX = re.compile(r"(?=.*[0-9])(?:[0-9a-f]{8,}|[0-9A-F]{8,})")
_URL = re.compile(r"(https?|ftp|s3|gs)://([^\s@]+)")
_FOUR = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}")
_INTEGER = re.compile(r"-?\d{1,38}")
_DECIMAL = re.compile(r"(-?)(\d+)(?:\.(\d+))?(?:e[+-]?\d+)?", re.IGNORECASE)
_SEVEN_DIGITS = re.compile(r"(?:\d\D{0,3}){6}\d")
# Of types whose values are not taken apart: one that says nothing. Two that differed are then the same.
NEUTRAL = {
    "point": "(0,0)", "line": "{1,0,0}", "lseg": "[(0,0),(0,0)]", "box": "(0,0),(0,0)", "path": "((0,0))",
    "polygon": "((0,0))", "circle": "<(0,0),0>", "tsquery": "'masked'", "jsonpath": "$",
}  # fmt: skip


def shift_of(key: bytes) -> int:
    """By how many days the dates of a bundle go back: 4 to 103 weeks."""
    return -7 * (4 + int.from_bytes(hmac.digest(key, b"shift of dates", hashlib.sha256)[:8], "big") % 100)


class Masks:
    """Makes the masks of one domain. limit: characters a text may have, 0 for any. attempt: another number gives
    entirely other masks, for when two values have met. days: see shift_of()."""

    def __init__(self, key: bytes, domain: str, days: int, *, limit: int = 0, attempt: int = 0) -> None:
        self._keyed = Keyed(key, f"{domain}#{attempt}" if attempt else domain)
        self._days = days
        self._limit = limit
        self.keys_kept: frozenset[str] = frozenset()

    def of(self, treatment: str, *, prose: bool = True, element: Mask | None = None, delimiter: str = ",") -> Mask:
        """The mask by its name. prose: whether a long text may become one of another length."""
        if treatment == "array":
            if element is None:
                raise ValueError("An array's mask needs one of its elements.")
            each = element
            return lambda literal: map_array(literal, each, delimiter)
        if treatment == "text":
            return self.prose if prose else self.text
        found: dict[str, Mask] = {
            "number": self.number,
            "email": self.email,
            "uuid": self.uuid,
            "date": self.date,
            "address": self.address,
            "hardware address": self.hardware_address,
            "json": self.json,
            "bytes": self.bytes,
            "bits": self.bits,
            "hash": self.token,
        }
        return found[treatment]

    # ---- texts ----

    def prose(self, text: str) -> str:
        """A long text becomes words of other lengths, altogether as long in steps of 32 characters."""
        if len(text) <= PROSE_FROM:
            return self.text(text)
        length = min(len(text) // 32 * 32, PROSE_MAX)
        stream, words, size = iter(self._keyed.stream(text, 3 * length)), [], 0
        while size < length:
            word = "".join([LOWER[next(stream) % 26] for _ in range(3 + next(stream) % 6)])
            words.append(word)
            size += len(word) + 1
        return " ".join(words)[:length].rstrip().ljust(length, "x")

    def text(self, text: str) -> str:
        """By what it looks like, else letter for letter."""
        if EMAIL.fullmatch(text):
            return self.email(text)
        if UUID.fullmatch(text):
            return self.uuid(text)
        if _MOMENT.fullmatch(text):
            return self.date(text)
        if _FOUR.fullmatch(text):
            masked = self.address(text)
            return self._shaped(text) if self._limit and len(masked) > self._limit else masked
        url = _URL.fullmatch(text)
        if url:
            return f"{url[1]}://{self._shaped(url[2]).replace(':', '.')}"
        return self._shaped(text)

    def _shaped(self, text: str) -> str:
        """Again as long as it could be taken for a card, an IBAN or somebody's number."""
        masked = text
        # A user and a password in an address would be taken for what they look like.
        text = text.replace("://", ".//") if "://" in text else text
        letters = "abcdef" if _HEX.fullmatch(text) else LOWER
        for walk in range(WALKS_MAX):
            masked = self._keyed.shaped(text if walk == 0 else masked, letters)
            if not _SEVEN_DIGITS.search(masked) or next(personal.find(masked.encode()), None) is None:
                break
        return masked

    def email(self, text: str) -> str:
        """At example.com, as long as it was or 22 characters; anything else letter for letter."""
        room = self._limit - len(DOMAIN) if self._limit else 64
        size = min(max(LOCAL_CHARACTERS_MIN, len(text) - len(DOMAIN)), room, 64)
        if "@" not in text or size < LOCAL_CHARACTERS_MIN:
            return self._shaped(text)
        number = int.from_bytes(self._keyed.digest(text.lower()), "big")
        signs = []
        for _ in range(min(size, 48)):
            number, place = divmod(number, 36)
            signs.append((LOWER + DIGITS)[place])
        # An address begins with a letter; of two that differ in case only, one must stay another.
        local = LOWER[number % 26] + "".join(signs[1:])
        return (local if text == text.lower() else self._as_written(local, text)) + DOMAIN

    @staticmethod
    def _as_written(local: str, text: str) -> str:
        return "".join([new.upper() if old.isupper() else new for new, old in zip(local, text.ljust(64), strict=False)])

    def uuid(self, text: str) -> str:
        """Version and variant stay."""
        digits = text.replace("-", "").lower()
        if len(digits) != 32:
            return self._shaped(text)
        new = self._keyed.digest(digits).hex()[:32]
        new = new[:12] + digits[12] + new[13:16] + digits[16] + new[17:]
        masked = "-".join((new[:8], new[8:12], new[12:16], new[16:20], new[20:]))
        return masked.upper() if text != text.lower() else masked

    def token(self, text: str) -> str:
        """Twelve letters and digits of a hash, for what has no form worth keeping."""
        return "h" + self._keyed.digest(text).hex()[:14]

    # ---- numbers and dates ----

    def number(self, text: str) -> str:
        """Integers of as many digits; of a decimal fraction all digits together. What is no number, as a text."""
        if _INTEGER.fullmatch(text):
            masked = int(text)
            for _ in range(WALKS_MAX):
                masked = self._keyed.integer(masked)
                digits = str(abs(masked)).encode()
                if not (13 <= len(digits) <= 19 and personal.luhn(digits)):
                    break
            return str(masked)
        parts = _DECIMAL.fullmatch(text)
        if parts is None:
            return text if text in ("NaN", "Infinity", "-Infinity") else self._shaped(text)
        digits_after = (parts[3] or "").rstrip("0")
        whole = int(parts[2] + digits_after)
        if whole == 0 or len(str(whole)) > 38:
            return text if whole == 0 else self._shaped(text)
        new = str(self._keyed.integer(whole)).rjust(len(digits_after) + 1, "0")
        at = len(new) - len(digits_after)
        return parts[1] + (f"{new[:at]}.{new[at:]}" if digits_after else new)

    def date(self, text: str) -> str:
        """Every date in it, so ranges too. Years of five digits, before Christ, and infinity stay."""
        return text if text.endswith("BC") else DATE.sub(self._moved, text)

    def _moved(self, found: re.Match[str]) -> str:
        try:
            day = date(int(found[1]), int(found[2]), int(found[3])) + timedelta(days=self._days)
        except (ValueError, OverflowError):
            return "2000-01-01"
        return day.isoformat()

    # ---- addresses ----

    def address(self, text: str) -> str:
        """Into blocks that nobody uses, as redaction.addresses; those of one /24, or one /64, stay together."""
        host, slash, bits = text.partition("/")
        try:
            old = ipaddress.ip_address(host)
        except ValueError:
            return self._shaped(text)
        if old.version == 4:
            net, last = divmod(int(old), 256)
            new = 240 << 24 | int.from_bytes(self._keyed.digest(f"net {net}")[:3], "big") >> 4 << 8
            number = new | (last if slash and int(bits) <= 24 else self._keyed.number(last, 256))
            made: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.IPv4Address(number)
        else:
            net_bytes = self._keyed.digest(f"net {int(old) >> 64}")[:4]
            low = self._keyed.digest(f"host {int(old)}")[:8]
            number = 0x20010DB8 << 96 | int.from_bytes(net_bytes, "big") << 64 | int.from_bytes(low, "big")
            made = ipaddress.IPv6Address(number)
        if slash and int(bits) < made.max_prefixlen and old == ipaddress.ip_network(text, strict=False).network_address:
            # A network: no bits behind its prefix, or a column of type cidr refuses it.
            made = ipaddress.ip_network(f"{made}/{bits}", strict=False).network_address
        return f"{made}{slash}{bits}"

    def hardware_address(self, text: str) -> str:
        """Locally administered, one machine's."""
        groups = text.count(":") + 1
        new = bytearray(self._keyed.digest(text)[:groups])
        new[0] = new[0] & 0xFC | 2
        return ":".join(f"{byte:02x}" for byte in new)

    # ---- what holds other values ----

    def json(self, text: str) -> str:
        """The same tree; strings, numbers, and keys that are not `keys_kept` are others."""
        if len(text) > JSON_CHARACTERS_MAX:
            return write_json({"masked": self.token(text)})
        try:
            return write_json(self._part(parse_json(text)))
        except (ValueError, RecursionError):
            return write_json({"masked": self.token(text)})

    def _part(self, part: object) -> object:
        if isinstance(part, Number):
            return Number(self.number(part)) if _DECIMAL.fullmatch(part) else Number("0")
        if isinstance(part, str):
            return self.prose(part)
        if isinstance(part, list):
            return [self._part(one) for one in part]
        if isinstance(part, dict):
            return {self._name(name): self._member(name, one) for name, one in part.items()}
        return part

    def _name(self, name: str) -> str:
        return name if name in self.keys_kept else self._keyed.shaped(name)

    def _member(self, name: str, part: object) -> object:
        secret = promised(name) if name in self.keys_kept and isinstance(part, (str, Number)) else None
        if secret is None:
            return self._part(part)
        # Whatever stood here would be taken for a secret again.
        return f"<redacted:{secret[0]}:{self._keyed.digest(str(part)).hex()[:8]}>"

    def bytes(self, text: str) -> str:
        """`\\x...` of as many bytes, at most 1 024."""
        size = max(len(text) // 2 - 1, 0)
        return "\\x" + self._keyed.stream(text, min(size, BYTES_MAX)).hex()

    def bits(self, text: str) -> str:
        """As many bits."""
        return "".join("01"[byte & 1] for byte in self._keyed.stream(text, len(text)))
