"""All finders together, over a text and over what it decodes to."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import chain

from . import addresses, personal, structure
from .rules import gitleaks
from .spans import Span, matches, settled
from .tokens import OURS
from .views import DEPTH_MAX, views

# What is decoded of one text, in multiples of its size: texts that unfold to ever more are not followed for ever.
DECODED_RATIO_MAX = 16
DECODED_BYTES_MIN = 1 << 16


def found(text: bytes, place: str = "", *, with_personal: bool = True, with_addresses: bool = True) -> list[Span]:
    """Everything that has to go, from left to right, without overlap. What we wrote ourselves is no find.

    place: the path the text comes from or goes to; a few rules look at files of one kind only.
    """
    looking = _Looking(place, with_personal, max(DECODED_BYTES_MIN, DECODED_RATIO_MAX * len(text)))
    spans = list(looking.at(text, 0))
    if with_addresses:
        spans += addresses.find(text)
    return settled(spans)


class _Looking:
    """One call. Counts what it has decoded."""

    def __init__(self, place: str, with_personal: bool, decoded_bytes_max: int) -> None:
        self._place, self._with_personal = place, with_personal
        self._bytes_left = decoded_bytes_max

    def at(self, text: bytes, depth: int) -> Iterator[Span]:
        """At a text, and at every text that is encoded in it."""
        spans = [structure.find(text), gitleaks().find(text, self._place)]
        if self._with_personal:
            spans.append(personal.find(text))
        yield from new_in(text, chain.from_iterable(spans))
        if depth < DEPTH_MAX:
            for view in views(text):
                self._bytes_left -= len(view.text)
                if self._bytes_left < 0:
                    return
                carried = (
                    Span(*view.origin(span.start, span.end), span.rule, span.personal)
                    for span in self.at(view.text, depth + 1)
                )
                yield from new_in(text, carried)


def new_in(text: bytes, spans: Iterable[Span]) -> list[Span]:
    """Those of the finds that hold more than tokens of ours."""
    ours = [match.span() for match in matches(OURS, text)] if b"<redacted:" in text else []
    if not ours:
        return list(spans)
    ends = [end for _, end in ours]
    return [span for span in spans if _is_new(text, span, ours, bisect_right(ends, span.start))]


def _is_new(text: bytes, span: Span, ours: list[tuple[int, int]], first: int) -> bool:
    """Whether a find holds more than tokens of ours, of which `first` is the first that ends behind its beginning:
    letters or digits beside them."""
    rest = []
    at = span.start
    for index in range(first, len(ours)):
        start, end = ours[index]
        if start >= span.end:
            break
        rest.append(text[at : max(at, start)])
        at = max(at, end)
    if at == span.start:
        return True
    rest.append(text[at : span.end])
    return any(chr(byte).isalnum() for byte in b"".join(rest))
