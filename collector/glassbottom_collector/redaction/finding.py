"""All finders together, over a text and over what it decodes to."""

from __future__ import annotations

from collections.abc import Iterator

from . import addresses, personal, structure
from .rules import gitleaks
from .spans import Span, matches, settled
from .tokens import OURS
from .views import DEPTH_MAX, views


def found(text: bytes, place: str = "", *, with_personal: bool = True, with_addresses: bool = True) -> list[Span]:
    """Everything that has to go, from left to right, without overlap. What we wrote ourselves is no find.

    place: the path the text comes from or goes to; a few rules look at files of one kind only.
    """
    spans = list(_all(text, place, with_personal, 0))
    if with_addresses:
        spans += addresses.find(text)
    ours = [match.span() for match in matches(OURS, text)] if b"<redacted:" in text else []
    return settled(span for span in spans if not ours or _is_new(text, span, ours))


def _all(text: bytes, place: str, with_personal: bool, depth: int) -> Iterator[Span]:
    yield from structure.find(text)
    yield from gitleaks().find(text, place)
    if with_personal:
        yield from personal.find(text)
    if depth < DEPTH_MAX:
        for view in views(text):
            for span in _all(view.text, place, with_personal, depth + 1):
                start, end = view.origin(span.start, span.end)
                yield Span(start, end, span.rule, span.personal)


def _is_new(text: bytes, span: Span, ours: list[tuple[int, int]]) -> bool:
    """Whether a find holds more than tokens of ours: letters or digits beside them."""
    rest = []
    at = span.start
    for start, end in ours:
        if end > span.start and start < span.end:
            rest.append(text[at : max(at, start)])
            at = max(at, end)
    if at == span.start:
        return True
    rest.append(text[at : span.end])
    return any(chr(byte).isalnum() for byte in b"".join(rest))
