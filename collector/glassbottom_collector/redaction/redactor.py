"""Takes secrets and personal data out of what a capture collects, before it is kept.

A text goes through the finders until they find nothing more: what one round takes out can lay open what stood beside
it. So redacting twice is redacting once, and the scan of the finished archive, which uses the same finders, finds
nothing.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from . import addresses, sql
from .finding import found, new_in
from .names import Names
from .names_of_secrets import is_secret, promised
from .spans import Span, literal, matches, pattern, settled
from .tokens import OURS, TOKEN, Tokens
from .views import without_colours

CHUNK_BYTES = 1 << 20  # a text is worked on in pieces of this size, cut between lines where there are any
ROUNDS_MAX = 6
LINES_AROUND = 4  # no finder but that of PEM blocks looks further than this from a name to its value
LEDGER_ENTRIES_MAX = 10_000
KNOWN_BYTES_MIN = 6  # a shorter value is found by its place or not at all: it would be taken out of the middle of words
KNOWN_VALUES_MAX = 10_000
# Where a number was, in JSON with one value a line.
_BARE_TOKEN = re.compile(rb'(?m)^(\s*(?:"(?:[^"\\]|\\.)*": )?)(%s)(,?)$' % TOKEN)
NESTED_MAX = 64  # levels of lists and objects; what is deeper is replaced as a whole


class Redactor:
    """Redacts under one key. Safe to use from several threads.

    key: at least 16 bytes; the same key gives the same tokens. It never belongs into an archive.
    personal: whether personal data goes as well. addresses: whether IP addresses are mapped.
    known: values that are known to be secret, such as the collector's own passwords; they go wherever they stand.
    names: finds names of people and places as well, see redaction.names. What a model finds it may not find again, so
    with it redacting twice can take out more.
    """

    def __init__(
        self,
        key: bytes,
        *,
        personal: bool = True,
        map_addresses: bool = True,
        known: Iterable[str] = (),
        names: Names | None = None,
    ) -> None:
        """Raises ValueError for a key that is too short."""
        self._tokens = Tokens(key)
        self._personal = personal
        self._addresses = map_addresses
        self._known = any_of(known)
        self._names = names
        self._lock = threading.Lock()
        self._ledger: dict[tuple[str, str, int], list[int]] = {}
        self._left_out: dict[str, list[int]] = {}

    def text(self, text: str, place: str) -> str:
        """The text without secrets and without colours of a terminal. place: where it stands in the archive, for the
        ledger. Never raises for a text, whatever is in it."""
        data = without_colours(text.encode("utf-8", "surrogatepass"))
        line = 1
        parts = []
        for chunk in chunks(data):
            parts.append(self._chunk(chunk, place, line))
            line += chunk.count(b"\n")
        return b"".join(parts).decode("utf-8", "surrogatepass")

    def json(self, value: Any, place: str) -> Any:
        """The same for a value of str, int, float, bool, None, list and dict. A name that promises a secret takes out
        whatever stands under it; every other string, names included, is read as a text."""
        redacted = self._json(value, place, None, 0)
        return redacted if isinstance(redacted, str) else self._as_written(redacted, place)

    def _as_written(self, value: Any, place: str) -> Any:
        """The value once more, as the text that it becomes in the archive (see incident.parts.as_json), since that is
        what the scan of the archive will read: a name may stand beside what is no value of its own."""
        written = json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, default=str)
        data = written.encode("utf-8", "surrogatepass")
        if not found(data, place, with_personal=self._personal, with_addresses=False):
            return value
        data = _BARE_TOKEN.sub(rb'\1"\2"\3', self._chunk(data, place, 1))
        try:
            return json.loads(data.decode("utf-8", "surrogatepass"))
        except ValueError:  # a token stands across the bounds of a value
            return {"redacted": self._whole("unreadable", written, place)}

    def sql(self, statement: str, place: str, dialect: sql.Dialect = "postgresql") -> str:
        """A statement without its literals (`?` in their place) and comments, then read as a text."""
        return self.text(sql.without_literals(statement, dialect), place)

    def ledger(self) -> list[dict[str, str | int]]:
        """What was taken out, without saying what it was: rule, place, line (from 1), how often there, characters in
        all. After 10 000 entries only sums by rule, with an empty place and line 0."""
        with self._lock:
            entries = sorted(self._ledger.items(), key=lambda entry: (entry[0][1], entry[0][2], entry[0][0]))
            beyond = sorted(self._left_out.items())
        rows = [(*at, sums[0], sums[1]) for at, sums in entries] + [
            (rule, "", 0, sums[0], sums[1]) for rule, sums in beyond
        ]
        return [
            {"rule": rule, "place": place, "line": line, "count": count, "characters": characters}
            for rule, place, line, count, characters in rows
        ]

    def _chunk(self, data: bytes, place: str, line: int) -> bytes:
        """The first round looks at all of it, those after it where the one before has changed something."""
        stretches = [(0, len(data))]
        for _ in range(ROUNDS_MAX):
            spans = [
                Span(start + span.start, start + span.end, span.rule, span.personal)
                for start, end in stretches
                for span in self._found(data[start:end], place)
            ]
            data, changed = self._replaced(data, spans, place, line)
            if not changed:
                break
            stretches = around(data, changed)
        return data

    def _found(self, data: bytes, place: str) -> list[Span]:
        spans = found(data, place, with_personal=self._personal, with_addresses=self._addresses)
        known = [] if self._known is None else [Span(m.start(), m.end(), "known") for m in matches(self._known, data)]
        names = [] if self._names is None else new_in(data, self._names.find(data))
        return settled([*known, *spans, *names]) if known or names else spans

    def _replaced(self, data: bytes, spans: list[Span], place: str, line: int) -> tuple[bytes, list[int]]:
        """The text without these, and where tokens now are: an address that was mapped leaves its line as it was."""
        parts: list[bytes] = []
        changed = []
        at = size = 0
        for span in spans:
            value = data[span.start : span.end]
            before = data[at : span.start]
            line += before.count(b"\n")
            token = self._instead(span.rule, value)
            parts += (before, token)
            size += len(before)
            if span.rule not in (addresses.RULE_4, addresses.RULE_6):
                changed.append(size)
            size += len(token)
            self._write_down(span.rule, place, line, len(value.decode("utf-8", "replace")))
            line += value.count(b"\n")
            at = span.end
        parts.append(data[at:])
        return b"".join(parts), changed

    def _instead(self, rule: str, value: bytes) -> bytes:
        if rule in (addresses.RULE_4, addresses.RULE_6):
            return addresses.mapped(self._tokens, rule, value)
        return self._tokens.token(rule, value)

    def _write_down(self, rule: str, place: str, line: int, characters: int) -> None:
        with self._lock:
            entry = self._ledger.get((rule, place, line))
            if entry is None and len(self._ledger) < LEDGER_ENTRIES_MAX:
                entry = self._ledger.setdefault((rule, place, line), [0, 0])
            if entry is None:
                entry = self._left_out.setdefault(rule, [0, 0])
            entry[0] += 1
            entry[1] += characters

    def _json(self, value: Any, place: str, kind: tuple[str, Any] | None, depth: int) -> Any:
        if depth > NESTED_MAX:
            return self._whole("too-deep", "", place)
        if isinstance(value, Mapping):
            return {self.text(str(name), place): item for name, item in self._fields(value, place, kind, depth)}
        if isinstance(value, list | tuple):
            return self._list(value, place, kind, depth)
        if value is None or isinstance(value, bool):
            return value
        if kind is not None:
            text = value if isinstance(value, str) else repr(value)
            data = text.encode("utf-8", "surrogatepass")
            if not OURS.search(data) and is_secret(data, *kind, b"", quoted=True):
                return self._whole(kind[0], text, place)
        if isinstance(value, str):
            return self.text(value, place)
        if isinstance(value, int | float):
            text = repr(value)
            redacted = self.text(text, place) if isinstance(value, int) and len(text) >= 9 else text
            return value if redacted == text else redacted
        return self.text(str(value), place)

    def _fields(
        self, value: Mapping[Any, Any], place: str, kind: tuple[str, Any] | None, depth: int
    ) -> Iterator[tuple[Any, Any]]:
        # {"name": "Authorization", "value": "..."}: headers of a HAR file, variables of a container.
        named = value.get("name", value.get("key"))
        of_value = promised(named) if isinstance(named, str) else None
        for name, item in value.items():
            inner = promised(str(name)) or kind
            if of_value is not None and str(name).lower() == "value":
                inner = of_value
            yield (
                name,
                self._under(str(name) if inner is not of_value or named is None else named, item, place, inner, depth),
            )

    def _list(
        self, value: list[Any] | tuple[Any, ...], place: str, kind: tuple[str, Any] | None, depth: int
    ) -> list[Any]:
        # ["authorization", "Bearer ..."]: a header of ASGI or of h2.
        if len(value) == 2 and isinstance(value[0], str) and not isinstance(value[1], Mapping) and kind is None:
            inner = promised(value[0])
            if inner is not None and len(value[0]) <= 64:
                return [self.text(value[0], place), self._under(value[0], value[1], place, inner, depth)]
        return [self._json(item, place, kind, depth + 1) for item in value]

    def _under(self, name: str, item: Any, place: str, kind: tuple[str, Any] | None, depth: int) -> Any:
        """What stands under a name. The scheme of an authorization and the names of cookies stay."""
        if kind is not None and kind[0] == "header" and isinstance(item, str):
            head = "set-cookie: " if "set" in name.lower() else "cookie: " if "ookie" in name else "authorization: "
            line = head + " ".join(item.splitlines())
            redacted = self.text(line, place)
            if redacted != line:
                return redacted[len(head) :]
            if OURS.search(line.encode("utf-8", "surrogatepass")):
                return item
            return self._json(item, place, ("authorization", "sure"), depth + 1) if item else item
        return self._json(item, place, kind, depth + 1)

    def _whole(self, rule: str, text: str, place: str) -> str:
        self._write_down(rule, place, 1, len(text))
        return self._tokens.token(rule, text.encode("utf-8", "surrogatepass")).decode()


def around(data: bytes, changed: list[int]) -> list[tuple[int, int]]:
    """Stretches of whole lines around these places: LINES_AROUND before and after, joined where they meet."""
    stretches: list[tuple[int, int]] = []
    for place in changed:
        start = end = place
        for _ in range(LINES_AROUND + 1):
            start = max(0, data.rfind(b"\n", 0, start))
            end = data.find(b"\n", end + 1) if 0 <= end < len(data) else -1
            end = len(data) if end < 0 else end
        start += data[start : start + 1] == b"\n"
        if stretches and start <= stretches[-1][1]:
            stretches[-1] = (stretches[-1][0], max(end, stretches[-1][1]))
        else:
            stretches.append((start, end))
    return stretches


def any_of(known: Iterable[str]) -> Any | None:
    """A pattern of these values, the longest first; None without one that is long enough to be told from a word."""
    values = {value.encode("utf-8", "surrogatepass") for value in known if len(value) >= KNOWN_BYTES_MIN}
    ordered = sorted(values, key=lambda value: (-len(value), value))[:KNOWN_VALUES_MAX]
    return pattern(b"|".join(literal(value) for value in ordered)) if ordered else None


def chunks(data: bytes) -> Iterator[bytes]:
    """Pieces of at most about CHUNK_BYTES: cut after a line, else at a space, so that no secret is cut in two, and not
    within a PEM block. A piece without either is cut all the same: nothing of that length is a secret."""
    at = 0
    while len(data) - at > CHUNK_BYTES:
        limit = at + CHUNK_BYTES
        end = data.rfind(b"\n", at, limit) + 1
        if end <= at:
            end = max(data.rfind(b" ", at, limit), data.rfind(b",", at, limit)) + 1
        if end <= at:
            end = limit
        begin = data.rfind(b"-----BEGIN", at + 1, end)
        if begin > at and data.find(b"-----END", begin, end) < 0 and end - begin < CHUNK_BYTES // 4:
            end = begin
        yield data[at:end]
        at = end
    if at < len(data):
        yield data[at:]
