"""Messages that differ only in their values become one pattern, without being told what the values are.

After Drain (He, Zhu, Zheng and Lyu, Drain: an online log parsing approach with fixed depth tree, ICWS 2017): a message
is looked up by its length and its words, so that most lines cost one look-up. What differs from the paper:

* The similarity adapts. Drain compares the share of equal words with one threshold for all. Here every word has a
  number of different values it takes to call it a value: two after a word such as `user`, more for any other word,
  most for words in capitals, which name states. Until then the messages stay apart; nothing is tuned for a system.
* Words that are likely to be values (`eth1`, what follows `=`, a unit of bytes) are held as text until a second value
  is seen.
* Patterns with the same words in the same order, between which stand values only, are one pattern however many values
  there are: a list may be of any length.

Everything is bounded: Bounds says by what, and `forgotten_patterns` counts what was lost to it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from .masks import ANY, DATE, NUMBER, Words, shown

STATE_VERSION = 1
# Of a message this much is looked at.
MESSAGE_CHARACTERS_MAX = 4096
EXAMPLE_CHARACTERS_MAX = 1024
# Messages kept by their masked text, and pairs of a place and what surrounds it; forgotten together, and learnt again.
KNOWN_MAX = 65_536
SIDES_MAX = 65_536

# How many different words at one place make it a value.
VALUES_AFTER_A_NOUN = 2
VALUES_WITH_DIGITS = 2
VALUES = 6
VALUES_IN_CAPITALS = 10

# What follows one of these is most often a name.
_NOUNS_TEXT = (
    "user users username host hostname server client node file path dir directory account group role "
    "database table column index key queue topic channel job task container block device interface "
    "service process module package plugin image volume bucket session tenant customer worker thread"
)
_NOUNS = frozenset(_NOUNS_TEXT.split())
# Unless it is one of these, or ends like a verb: `task failed` and `task ended` are two messages.
_NO_NAMES_TEXT = (
    "is was are were be been has have had will can cannot could may must not no does did do to from for in on at with"
    " of by as and or up down off unknown invalid ok error failure success"
)
_NO_NAMES = frozenset(_NO_NAMES_TEXT.split())
_VERBS_END = ("ed", "ing", "s", "n't")
_PERSONS = frozenset(("user", "ruser", "username"))
_QUOTES = frozenset(("'", '"', "`"))
_UNITS_OF_SIZE_TEXT = "B kB KB MB GB TB PB KiB MiB GiB TiB"
_UNITS_OF_SIZE = frozenset(_UNITS_OF_SIZE_TEXT.split())
# Left out where patterns are compared by their words.
_UNITS_TEXT = "bytes byte s sec secs second seconds ms us ns min mins minutes h hours"
_UNITS = _UNITS_OF_SIZE.union(_UNITS_TEXT.split())
_DATES_TEXT = "Mon Tue Wed Thu Fri Sat Sun Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec"
_DATES = frozenset(_DATES_TEXT.split())
_SLOT = "\ue00b"
# In what a message is looked up by, a value known by its form; one known by its number is ANY.
VALUE = NUMBER
_WORDS_OF_A_SKELETON_MIN = 3
# What is tried for a message that has not been seen: combinations of places, for one length, and names one by one.
_WILD_PLACES_MAX = 64
_NAMES_TRIED_MAX = 8
_TOKEN = re.compile(r"[\ue000-\ue00a]|[^\W\d_]\w*(?:[.$-]\w+)*|\w+|[^\w\s]")
_DIGITS = re.compile(r"\d+")


@dataclass(eq=False)
class Mined:
    """Messages of one pattern.

    number: in the order of appearance. texts: its words, marks of masks.py where values stand; spaces: whether a space
    stands before each. first_ns, last_ns: times of the messages, 0 when none had one. example: the first of them.
    into: the pattern this one has become part of.
    """

    number: int
    shape: tuple[str, ...]
    texts: list[str]
    spaces: list[bool]
    example: str
    count: int = 0
    first_ns: int = 0
    last_ns: int = 0
    into: Mined | None = field(default=None, repr=False)

    @property
    def template(self) -> str:
        """The pattern as text, values as `<num>`, `<ip>` and so on, `<*>` where they have no form."""
        return shown(
            "".join(f" {text}" if space else text for text, space in zip(self.texts, self.spaces, strict=True))
        )

    def differs(self, texts: list[str]) -> None:
        """Takes in another message: where its words differ, there is a value."""
        for place, text in enumerate(texts):
            if self.texts[place] != text:
                self.texts[place] = ANY

    def takes(self, other: Mined) -> None:
        """Takes in the counts of another pattern."""
        self.count += other.count
        times = [time for time in (self.first_ns, other.first_ns) if time]
        self.first_ns = min(times, default=0)
        self.last_ns = max(self.last_ns, other.last_ns)
        if other.number < self.number:
            self.number, self.example = other.number, other.example
        other.into = self


class Miner:
    """Finds the patterns of messages, one message after another. The same messages give the same patterns.

    patterns_max: how many are kept. When there are more, the half with the fewest messages, the newest first, is
    forgotten; `forgotten_patterns` and `forgotten_messages` count them.
    """

    def __init__(self, patterns_max: int = 4096) -> None:
        if patterns_max < 16:
            raise ValueError("A miner needs room for at least 16 patterns; give a larger patterns_max.")
        self.patterns_max = patterns_max
        self.forgotten_patterns = 0
        self.forgotten_messages = 0
        self._words = Words()
        self._known: dict[str, Mined] = {}
        self._shapes: dict[tuple[str, ...], Mined] = {}
        # By length: places at which some pattern of that length has a value known by its number.
        self._wild: dict[int, dict[tuple[int, ...], None]] = {}
        self._sides: dict[tuple[int, tuple[str, ...]], dict[str, Mined]] = {}
        self._number = 0

    def add(self, message: str, time_ns: int = 0) -> Mined:
        """Counts a message under its pattern. Later messages may merge that pattern into another: see current()."""
        if len(message) > MESSAGE_CHARACTERS_MAX:
            message = message[:MESSAGE_CHARACTERS_MAX]
        key = " ".join(map(self._words.__getitem__, message.split()))
        pattern = self._known.get(key)
        if pattern is None:
            pattern = self._place(key, message)
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            self._known[key] = pattern
        elif pattern.into is not None:
            pattern = self._known[key] = current(pattern)
        pattern.count += 1
        if time_ns:
            if not pattern.first_ns or time_ns < pattern.first_ns:
                pattern.first_ns = time_ns
            if time_ns > pattern.last_ns:
                pattern.last_ns = time_ns
        return pattern

    def patterns(self) -> list[Mined]:
        """All patterns, in the order of their first message, those with the same words merged."""
        self._merge()
        return sorted(self._shapes.values(), key=lambda pattern: pattern.number)

    def holds(self, pattern: Mined) -> bool:
        """Whether a pattern is one of those that are kept: neither merged into another nor forgotten."""
        return self._shapes.get(pattern.shape) is pattern

    def state(self) -> dict[str, Any]:
        """What is needed to go on later, as plain JSON."""
        return {
            "version": STATE_VERSION,
            "patterns_max": self.patterns_max,
            "forgotten_patterns": self.forgotten_patterns,
            "forgotten_messages": self.forgotten_messages,
            "next_number": self._number,
            "patterns": [
                {
                    "number": pattern.number,
                    "shape": list(pattern.shape),
                    "texts": pattern.texts,
                    "spaces": [int(space) for space in pattern.spaces],
                    "example": pattern.example,
                    "count": pattern.count,
                    "first_ns": pattern.first_ns,
                    "last_ns": pattern.last_ns,
                }
                for pattern in self.patterns()
            ],
        }

    @classmethod
    def from_state(cls, state: Any) -> Miner:
        """A miner that goes on where another stopped. Raises ValueError when state is not one that state() made."""
        try:
            miner = cls(int(state["patterns_max"]))
            miner.forgotten_patterns = int(state["forgotten_patterns"])
            miner.forgotten_messages = int(state["forgotten_messages"])
            miner._number = int(state["next_number"])
            kept = [_of_state(one) for one in state["patterns"]]
            readable = state["version"] == STATE_VERSION
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
            readable = False
        if not readable:
            raise ValueError("This is no state of a log miner that can be read here. Mine the log again without it.")
        for pattern in kept:
            miner._keep(pattern)
        for pattern in kept:
            if pattern.into is None:
                miner._join_values(pattern)  # what has been seen at each place is not in the state
        return miner

    def _place(self, key: str, message: str) -> Mined:
        """The pattern of a message whose masked text has not been seen."""
        texts, spaces = _tokens(key)
        shape = _shape(texts, spaces)
        found = self._shapes.get(shape) or self._wildcard(shape)
        if found is not None:
            found.differs(texts)
            return found
        if len(self._shapes) >= self.patterns_max:
            self._forget()
        self._number += 1
        pattern = Mined(self._number, shape, texts, spaces, message[:EXAMPLE_CHARACTERS_MAX])
        self._keep(pattern)
        return self._join_values(pattern)

    def _keep(self, pattern: Mined) -> None:
        self._shapes[pattern.shape] = pattern
        if ANY in pattern.shape:
            places = tuple(place for place, text in enumerate(pattern.shape) if text == ANY)
            known = self._wild.setdefault(len(pattern.shape), {})
            if len(known) < _WILD_PLACES_MAX:
                known[places] = None

    def _wildcard(self, shape: tuple[str, ...]) -> Mined | None:
        """A pattern that has a value where shape may have one, and equals it everywhere else.

        A plain word is no number: `closed by peer` is not `closed by 10.0.0.1`. A name with dots or digits may be.
        """
        names = [place for place, text in enumerate(shape) if _is_word(text) and not text.isalpha()]
        forms = [shape]
        if names:
            forms.append(_with(shape, names, VALUE))
        if len(names) > 1:
            forms += [_with(shape, [place], VALUE) for place in names[:_NAMES_TRIED_MAX]]
        for form in forms:
            if form is not shape and form in self._shapes:
                return self._shapes[form]
            for places in self._wild.get(len(shape), ()):
                found = self._shapes.get(_with(form, places, ANY))
                if found is not None:
                    return found
        return None

    def _join_values(self, pattern: Mined) -> Mined:
        """Merges patterns that differ from this one at a single place, when that place has had enough values."""
        shape = pattern.shape
        for place, text in enumerate(shape):
            if not (_is_word(text) or text == VALUE):
                continue
            if len(self._sides) >= SIDES_MAX:
                self._sides.clear()
            side = self._sides.setdefault((place, shape[:place] + shape[place + 1 :]), {})
            side[text] = pattern
            if len(side) >= _values_needed(shape, place, side):
                return self._join(place, [current(one) for one in side.values()])
        return pattern

    def _join(self, place: int, parts: list[Mined]) -> Mined:
        """One pattern of those that differ only at a place."""
        first = parts[0]
        shape = (*first.shape[:place], ANY, *first.shape[place + 1 :])
        joined = self._shapes.get(shape)
        if joined is None:
            joined = Mined(first.number, shape, list(first.texts), first.spaces, first.example)
            self._keep(joined)
        for part in parts:
            if part is not joined and part.into is None:
                joined.differs(part.texts)
                joined.takes(part)
                self._shapes.pop(part.shape, None)
        # The value may be the only difference that was left to others: look again with it masked.
        return self._join_values(joined) if len(parts) > 1 else joined

    def _merge(self) -> None:
        """Merges patterns that others, found later, would have taken in, and those with the same words in order."""
        for pattern in sorted(self._shapes.values(), key=lambda one: one.number):
            del self._shapes[pattern.shape]
            wider = self._wildcard(pattern.shape)
            if wider is None:
                self._keep(pattern)
            else:
                wider.differs(pattern.texts)
                wider.takes(pattern)
        by_words: dict[tuple[str, ...], Mined] = {}
        for pattern in sorted(self._shapes.values(), key=lambda one: (-one.count, one.number)):
            words = _skeleton(pattern)
            if len(words) < _WORDS_OF_A_SKELETON_MIN or not any(map(_is_mark, pattern.shape)):
                continue
            other = by_words.setdefault(words, pattern)
            if other is not pattern:
                other.takes(pattern)
                del self._shapes[pattern.shape]

    def _forget(self) -> None:
        """Makes room: what few messages had, newest first."""
        ranked = sorted(self._shapes.values(), key=lambda one: (-one.count, one.number))
        kept, gone = ranked[: self.patterns_max // 2], ranked[self.patterns_max // 2 :]
        self.forgotten_patterns += len(gone)
        self.forgotten_messages += sum(one.count for one in gone)
        self._shapes, self._wild = {}, {}
        self._known.clear()
        self._sides.clear()
        for one in kept:
            self._keep(one)


def current(pattern: Mined) -> Mined:
    """The pattern that a pattern has become part of, or itself."""
    while pattern.into is not None:
        pattern = pattern.into
    return pattern


def _of_state(one: Any) -> Mined:
    """A pattern as state() wrote it. Raises KeyError, TypeError or ValueError when it is not one."""
    shape, texts = tuple(map(str, one["shape"])), list(map(str, one["texts"]))
    pattern = Mined(int(one["number"]), shape, texts, list(map(bool, one["spaces"])), str(one["example"]))
    # strict: lengths that differ are refused here rather than where the pattern is used; so are empty words.
    for place in zip(shape, texts, pattern.spaces, strict=True):
        if not (place[0] and place[1]):
            raise ValueError("empty word")
    pattern.count, pattern.first_ns, pattern.last_ns = int(one["count"]), int(one["first_ns"]), int(one["last_ns"])
    return pattern


def _tokens(key: str) -> tuple[list[str], list[bool]]:
    """(words, whether a space stands before each) of a masked message. Values side by side are one value."""
    texts: list[str] = []
    spaces: list[bool] = []
    end = 0
    for match in _TOKEN.finditer(key):
        text, space = match[0], match.start() > end and bool(texts)
        end = match.end()
        if _is_mark(text) and texts and _is_mark(texts[-1]):
            continue
        if text == ")" and not space and len(texts) > 1 and texts[-1] == "(" and spaces[-1]:
            texts.append(ANY)  # `from 10.0.0.1 ()`: a value that was empty; a call is written without the space
            spaces.append(False)
        if _is_person(text, space, texts):
            text = ANY
        texts.append(text)
        spaces.append(space)
    return _dated(texts, spaces)


def _is_person(text: str, space: bool, before: list[str]) -> bool:
    """Whether a word names somebody, even when nobody else is ever named: `for user ann`, `user=ann`."""
    if len(before) < 2 or not text[0].isalpha():
        return False
    if space:
        return before[-1] == "user" and before[-2] == "for"
    return before[-1] == "=" and before[-2] in _PERSONS


def _dated(texts: list[str], spaces: list[bool]) -> tuple[list[str], list[bool]]:
    """Names of days and months become part of the date they stand in: beside a number, or beside another of them."""
    if _DATES.isdisjoint(texts):
        return texts, spaces
    last = len(texts) - 1
    for place, text in enumerate(texts):
        beside = (texts[place - 1] if place else "", texts[place + 1] if place < last else "")
        if text in _DATES and any(one in _DATES or one in {NUMBER, DATE} for one in beside):
            texts[place] = DATE
    kept = [place for place, text in enumerate(texts) if not (place and _is_mark(text) and _is_mark(texts[place - 1]))]
    return [texts[place] for place in kept], [spaces[place] for place in kept]


def _shape(texts: list[str], spaces: list[bool]) -> tuple[str, ...]:
    """What a message is looked up by: values as ANY, words that are likely values as a slot, others as they are."""
    shape = []
    for place, text in enumerate(texts):
        before = texts[place - 1] if place else ""
        if _is_mark(text):
            shape.append(ANY if text == ANY else VALUE)
        elif not text[0].isalpha():
            shape.append(text)
        elif before == "=" and not spaces[place]:
            shape.append(f"{_SLOT}=")
        elif before in _QUOTES and texts[place + 1 : place + 2] == [before]:
            shape.append(f"{_SLOT}'")
        elif text in _UNITS_OF_SIZE and before and _is_mark(before):
            shape.append(f"{_SLOT}B")
        elif not text.isalpha() and _DIGITS.search(text):
            shape.append(_SLOT + _DIGITS.sub("#", text))
        else:
            shape.append(text)
    return tuple(shape)


def _with(shape: tuple[str, ...], places: Iterable[int], text: str) -> tuple[str, ...]:
    """A shape with something else at some places."""
    changed = list(shape)
    for place in places:
        changed[place] = text
    return tuple(changed)


def _values_needed(shape: tuple[str, ...], place: int, values: Collection[str]) -> int:
    """How many different words at a place make it a value."""
    before = shape[place - 1] if place else ""
    if before in {":", "="} and place > 1:
        before = shape[place - 2]
    if before.lower() in _NOUNS and not any(map(_is_no_name, values)):
        return VALUES_AFTER_A_NOUN
    if sum(value[0] == _SLOT for value in values) >= VALUES_WITH_DIGITS:
        return VALUES_WITH_DIGITS
    return VALUES_IN_CAPITALS if all(value.isupper() for value in values) else VALUES


def _is_no_name(word: str) -> bool:
    return word.lower() in _NO_NAMES or (word.islower() and word.endswith(_VERBS_END))


def _skeleton(pattern: Mined) -> tuple[str, ...]:
    """The words of a pattern that are neither values nor units, in order."""
    return tuple(text for text in pattern.texts if text[0].isalpha() and text not in _UNITS)


def _is_mark(text: str) -> bool:
    return "\ue000" <= text[0] <= "\ue00a"


def _is_word(text: str) -> bool:
    """A word that may yet turn out to be a value; one with digits may turn out to be one beside words without."""
    return text[0].isalpha() or (text[0] == _SLOT and len(text) > 2)
