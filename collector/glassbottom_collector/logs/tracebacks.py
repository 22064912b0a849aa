"""Which tracebacks are the same failure: by the types of the exceptions and the functions they went through.

Line numbers, messages and the frames of libraries are left out: they change with every release, every request and
every upgrade, while the failure stays the same. Functions are named with the last two parts of their file, so that two
machines with other directories agree.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

HEADER = "Traceback (most recent call last):"
# Of a traceback this much is read from its end, where the failure is; a recursion without end can print megabytes.
TRACEBACK_CHARACTERS_MAX = 262_144
FRAMES_MAX = 32
EXCEPTIONS_MAX = 64

_GROUP = re.compile(r"^\s*(?:\+-[+-]*|[|+])(?: |$)")
_RULE = re.compile(r"^\s*\+[-+]*-{8,}")
_FRAME = re.compile(r'^\s+File "(?P<file>[^"]*)", line \d+(?:, in (?P<function>.+))?\s*$')
# `module.Type: message` at the left edge; a line of a message can look alike, so only the first after frames counts.
_TYPE = re.compile(r"^(?P<type>[^\W\d][\w.]*(?:\.<locals>\.[\w.]+)*)(?:: (?P<message>.*)|:)?\s*$")
# What follows, after an empty line, is an exception even when it was never raised and has no frames.
_ABOVE = (
    "The above exception was the direct cause of the following exception:",
    "During handling of the above exception, another exception occurred:",
)
_ERROR_NAME = re.compile(r"(?:Error|Exception|Warning|Interrupt|Exit|Group)$")
_LIBRARY = re.compile(r"(?:^|/)(?:site-packages|dist-packages|lib/python\d[\d.]*)(?:/|$)|^<")


@dataclass(frozen=True)
class Raised:
    """One exception of a traceback: its type as printed, its message, and the frames it went through, outermost first,
    as `shop/orders.py:pay`. in_app: they are the application's own; False where there were none of those, and the last
    three of libraries stand instead."""

    type: str
    message: str
    frames: tuple[str, ...]
    in_app: bool


@dataclass(frozen=True)
class Fingerprint:
    """What a traceback has in common with others of the same failure.

    id: 16 hexadecimal digits, equal for equal failures. raised: all exceptions in the order printed: causes first, and
    those of a group after it.
    """

    id: str
    raised: tuple[Raised, ...]

    @property
    def title(self) -> str:
        """The failure in one line: `ValueError in shop/orders.py:pay, from KeyError in shop/cart.py:total`."""
        return ", from ".join(
            f"{one.type} in {one.frames[-1]}" if one.frames else one.type for one in reversed(self.raised)
        )


def fingerprint(traceback_text: str) -> Fingerprint | None:
    """What makes a traceback the same as another. None for a text in which no exception is found."""
    raised: list[Raised] = []
    frames: list[tuple[str, str]] = []
    # A cause that was only made, never raised, begins the text without a header.
    first = _TYPE.match(traceback_text.partition("\n")[0])
    expecting = first is not None and _ERROR_NAME.search(first["type"]) is not None
    # Only there: a line of source code may begin with these signs as well.
    grouped = "Exception Group Traceback" in traceback_text
    for line in traceback_text[-TRACEBACK_CHARACTERS_MAX:].splitlines():
        if grouped:
            if _RULE.match(line):
                continue
            line = _GROUP.sub("", line)
        if HEADER in line or line in _ABOVE:
            frames, expecting = [], True
            continue
        match = _FRAME.match(line)
        if match:
            # Without a function it is where the text of a SyntaxError stands, which is no call.
            frames.append((match["file"], match["function"] or ""))
            expecting = True
            continue
        found = _TYPE.match(line)
        if found and expecting and len(raised) < EXCEPTIONS_MAX:
            raised.append(_raised(found["type"], found["message"] or "", frames))
            frames, expecting = [], False
    if not raised:
        return None
    said = "\n".join(f"{one.type}|{'>'.join(one.frames)}" for one in raised)
    return Fingerprint(hashlib.sha256(said.encode()).hexdigest()[:16], tuple(raised))


def _raised(type_name: str, message: str, frames: list[tuple[str, str]]) -> Raised:
    own = [frame for frame in frames if not _LIBRARY.search(frame[0].replace("\\", "/"))]
    names: list[str] = []
    for file, function in own or frames[-3:]:
        name = "/".join(file.replace("\\", "/").split("/")[-2:]) + (f":{function}" if function else "")
        if name not in names[-2:]:  # a recursion, also one through two functions, is as deep as it happens to be
            names.append(name)
    return Raised(type_name, message, tuple(names[-FRAMES_MAX:]), bool(own))
