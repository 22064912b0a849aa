"""Where something was found in a text, and what becomes of finds that overlap.

Everything here works on bytes: RE2 does, offsets stay comparable between the finders, and a text that is no UTF-8
needs no case of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, cast

import re2  # type: ignore[import-untyped]


class Span(NamedTuple):
    """One find: bytes [start, end) of a text. rule: what found it, `[a-z0-9-]+`. personal: of a person, no secret."""

    start: int
    end: int
    rule: str
    personal: bool = False


def pattern(source: bytes | str) -> Any:
    """Compiles for RE2, whose work is linear in the text whatever the pattern. Bytes count as Latin-1, so that no
    sequence of them is invalid. Raises re2.error."""
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.log_errors = False
    options.max_mem = 64 << 20
    return re2.compile(source if isinstance(source, bytes) else source.encode(), options=options)


def literal(value: bytes) -> bytes:
    """The source of a pattern that matches these bytes and no others."""
    return b"".join(b"\\x%02x" % byte for byte in value)


def matches(compiled: Any, text: bytes) -> Iterator[Any]:
    """Matches of a pattern() from left to right, with the interface of re.Match."""
    return cast("Iterator[Any]", compiled.finditer(text))


def settled(spans: Iterable[Span]) -> list[Span]:
    """Finds without overlap, from left to right. Earlier in `spans` is stronger: it names the union of secrets that
    overlap. A find of something personal gives way to any secret it touches: half an e-mail address is none."""
    ranked = [(span, rank) for rank, span in enumerate(spans) if span.end > span.start]
    secrets = union(sorted((span.start, span.end, rank, span) for span, rank in ranked if not span.personal))
    personal = union(sorted((span.start, span.end, rank, span) for span, rank in ranked if span.personal))
    if not secrets:
        return personal
    free = []
    at = 0
    for span in personal:
        while at < len(secrets) and secrets[at].end <= span.start:
            at += 1
        if at == len(secrets) or secrets[at].start >= span.end:
            free.append(span)
    return sorted(secrets + free)


def union(found: list[tuple[int, int, int, Span]]) -> list[Span]:
    """Overlapping finds joined; the strongest of them gives its name."""
    joined: list[Span] = []
    strongest = 0
    for start, end, rank, span in found:
        if joined and start < joined[-1].end:
            last = joined[-1]
            rule = span.rule if rank < strongest else last.rule
            strongest = min(rank, strongest)
            joined[-1] = Span(last.start, max(last.end, end), rule, span.personal)
        else:
            joined.append(span)
            strongest = rank
    return joined
