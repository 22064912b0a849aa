"""The same text as it reads when it is decoded: percent-encoding, escapes of JSON and of Python, Base64.

A secret in a query that is itself a parameter, in JSON inside a string of JSON, or in Base64 is still one. Each
encoded stretch is decoded and looked at like any text; what is found is carried back to the bytes it came from.
"""

from __future__ import annotations

import base64
import binascii
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator

from .spans import matches, pattern

DEPTH_MAX = 6  # an encoded text in an encoded text, and so on
_ANSI = re.compile(
    rb"\x1b(?:\[[0-9;:?<=>]{0,64}[ -/]{0,4}[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_=>])|\xc2\x9b[0-9;:?]{0,64}[@-~]"
)
_PERCENT = pattern(rb"(?i)[^\s\"'<>]*%[0-9a-f]{2}[^\s\"'<>]*")
_PERCENT_SIGN = re.compile(rb"%([0-9A-Fa-f]{2})")
_ESCAPED = pattern(rb"[^\n]*\\(?:[\"/]|u00[0-9a-f]{2}|x[0-9a-f]{2}|n)[^\n]*")
_ESCAPE = re.compile(rb"\\(?:u([0-9A-Fa-f]{4})|x([0-9A-Fa-f]{2})|([\"'\\/bfnrt]))")
_PLAIN = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b" ", b"f": b" "}
# ASCII has its highest bit clear, which leaves half of the signs in three of every four places. So what RE2 lets
# through is nearly always text: of 4 096 identifiers of 16 signs one. What follows may be UTF-8.
_BASE64 = pattern(
    rb"(?:^|[^A-Za-z0-9+/_-])((?:[A-Za-f][A-HQ-Xg-nw-z0-3][ABEFIJMNQRUVYZcdghklopstwx014589][A-Za-z0-9+/_-]){4}"
    rb"[A-Za-z0-9+/_-]*={0,2})"
)


class View:
    """A decoded stretch of a text. whole: only all of it can be taken out (Base64), not a part."""

    def __init__(self, text: bytes, start: int, end: int, steps: list[tuple[int, int]], *, whole: bool = False) -> None:
        """steps: (offset in the decoded, offset in the original) wherever the distance of the two changes."""
        self.text = text
        self._start, self._end, self._whole = start, end, whole
        self._decoded = [step[0] for step in steps]
        self._original = [step[1] for step in steps]

    def origin(self, start: int, end: int) -> tuple[int, int]:
        """Where bytes [start, end) of the decoded text came from."""
        if self._whole:
            return self._start, self._end
        return self._offset(start), max(self._offset(start) + 1, self._offset_after(end))

    def _offset(self, at: int) -> int:
        step = bisect_right(self._decoded, at) - 1
        return self._original[step] + at - self._decoded[step]

    def _offset_after(self, at: int) -> int:
        """The end of the sign before `at`, so that none is cut through."""
        if at >= len(self.text):
            return self._end
        return self._offset(at)


def without_colours(text: bytes) -> bytes:
    """Escape sequences of terminals taken out: they may stand in the middle of a secret."""
    return _ANSI.sub(b"", text) if b"\x1b" in text or b"\xc2\x9b" in text else text


def views(text: bytes) -> Iterator[View]:
    """Every stretch of a text that decodes to another one."""
    if b"%" in text:
        for match in matches(_PERCENT, text):
            yield _decoded(text, match.start(), match.end(), _PERCENT_SIGN, _percent)
    if b"\x1b" in text or b"\xc2\x9b" in text:  # a colour that was itself encoded
        yield _decoded(text, 0, len(text), _ANSI, _nothing)
    if b"\\" in text:
        for match in matches(_ESCAPED, text):
            yield _decoded(text, match.start(), match.end(), _ESCAPE, _unescape)
    for match in matches(_BASE64, text):
        plain = _from_base64(match.group(1))
        if plain is not None:
            yield View(plain, match.start(1), match.end(1), [(0, match.start(1))], whole=True)


def _decoded(
    text: bytes, start: int, end: int, sign: re.Pattern[bytes], decode: Callable[[re.Match[bytes]], bytes]
) -> View:
    parts: list[bytes] = []
    steps = [(0, start)]
    size, at = 0, start
    for match in sign.finditer(text, start, end):
        plain = decode(match)
        parts += (text[at : match.start()], plain)
        size += match.start() - at
        steps.append((size, match.start()))
        size += len(plain)
        steps.append((size, match.end()))
        at = match.end()
    parts.append(text[at:end])
    return View(b"".join(parts), start, end, steps)


def _nothing(match: re.Match[bytes]) -> bytes:  # noqa: ARG001 - a decoder like the others
    return b""


def _percent(match: re.Match[bytes]) -> bytes:
    return bytes((int(match.group(1), 16),))


def _unescape(match: re.Match[bytes]) -> bytes:
    if number := match.group(1) or match.group(2):
        return chr(int(number, 16)).encode("utf-8", "surrogatepass")
    return _PLAIN.get(match.group(3), match.group(3))


def _from_base64(value: bytes) -> bytes | None:
    """What it decodes to when that is text, else None: an identifier decodes to anything but text."""
    body = value.rstrip(b"=").replace(b"-", b"+").replace(b"_", b"/")
    if len(body) % 4 == 1:
        return None
    try:
        plain = base64.b64decode(body + b"=" * (-len(body) % 4))
    except (binascii.Error, ValueError):
        return None
    return None if plain.translate(None, _TEXT) or not _is_utf_8(plain) else plain


_TEXT = bytes(range(32, 127)) + bytes(range(128, 256)) + b"\t\r\n\x1b"


def _is_utf_8(plain: bytes) -> bool:
    try:
        plain.decode()
    except UnicodeDecodeError:
        return False
    return True
