"""Secrets that can be told by their own form: the rules of gitleaks, taken as data.

`data/gitleaks.toml` is theirs, unchanged (see data/SOURCE.md). RE2 is the engine the rules were written for (Go's
regular expressions are the same language), so all of them compile and none can be made slow by a text. As in
gitleaks, a rule is tried only where one of its keywords stands in the text; all keywords are looked for in one pass.

What gitleaks would not report is not found here either: too little entropy, or allowed by its lists (examples,
variables of a template, words of a dictionary).
"""

from __future__ import annotations

import math
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from .spans import Span, literal, matches, pattern

# A rule that a path limits is tried on that path alone; a text without a path, such as a log, is spared it.
SOURCE = "data/gitleaks.toml"


@dataclass(frozen=True)
class Allowed:
    """What a rule leaves alone. regexes look at `target`: the secret, the whole match or its line."""

    regexes: tuple[Any, ...]
    stopwords: tuple[bytes, ...]
    target: str
    all_of: bool

    def covers(self, secret: bytes, match: bytes, line: bytes) -> bool:
        looked_at = {"match": match, "line": line}.get(self.target, secret)
        small = secret.lower()
        by_regex = any(regex.search(looked_at) for regex in self.regexes)
        by_word = any(word in small for word in self.stopwords)
        if self.all_of:
            return (by_regex or not self.regexes) and (by_word or not self.stopwords)
        return by_regex or by_word


@dataclass(frozen=True)
class Rule:
    """One rule of gitleaks. group: which group of the regex is the secret, 0 for the first that took part."""

    name: str
    regex: Any
    keywords: tuple[bytes, ...]
    entropy: float
    group: int
    path: Any | None
    allowed: tuple[Allowed, ...]


class Rules:
    """All rules, ready to use. Safe in several threads: nothing changes after it is built (about 0.1 s)."""

    def __init__(self, source: str) -> None:
        """source: TOML in the format of gitleaks. Raises tomllib.TOMLDecodeError, re2.error."""
        document = tomllib.loads(source)
        self.rules = [_rule(entry) for entry in document["rules"] if "regex" in entry]
        self._everywhere = _allowed(document.get("allowlist", {}))
        self._by_keyword: dict[bytes, list[int]] = {}
        for index, rule in enumerate(self.rules):
            for keyword in rule.keywords:
                self._by_keyword.setdefault(keyword, []).append(index)
        # The longest first: `sk-ant-api03` must not hide behind `sk`. What a longer one hides is added by _hidden.
        keywords = sorted(self._by_keyword, key=lambda word: (-len(word), word))
        self._any_keyword = pattern(b"(?i)" + b"|".join(literal(word) for word in keywords))
        self._hidden = {word: [other for other in keywords if other in word] for word in keywords}

    def find(self, text: bytes, place: str = "") -> Iterator[Span]:
        """Secrets in a text. place: a path, for the rules that look at files of one kind only.

        A keyword that begins inside another's match, and ends after it, is found by its own search: `_candidates`.
        """
        for index in self._candidates(text):
            rule = self.rules[index]
            if rule.path is not None and not rule.path.search(place.encode()):
                continue
            for match in matches(rule.regex, text):
                start, end = _secret(match, rule.group)
                secret = text[start:end]
                if rule.entropy and entropy(secret) <= rule.entropy:
                    continue
                if self._is_allowed(rule, secret, match, text):
                    continue
                yield Span(start, end, rule.name)

    def _candidates(self, text: bytes) -> Sequence[int]:
        """Indexes of the rules one of whose keywords is in the text, in their order."""
        seen: set[bytes] = set()
        at = 0
        search = self._any_keyword.search
        # One step past the beginning of each match, so that an overlapping keyword is not missed.
        while (match := search(text, at)) is not None:
            seen.add(match.group().lower())
            at = match.start() + 1
            if len(seen) == len(self._hidden):
                break
        words = {hidden for word in seen for hidden in self._hidden[word]}
        return sorted({index for word in words for index in self._by_keyword[word]})

    def _is_allowed(self, rule: Rule, secret: bytes, match: Any, text: bytes) -> bool:
        whole = match.group()
        line = text[text.rfind(b"\n", 0, match.start()) + 1 : _end_of_line(text, match.end())]
        return any(allowed.covers(secret, whole, line) for allowed in (self._everywhere, *rule.allowed))


@cache
def gitleaks() -> Rules:
    """The rules that come with this package."""
    return Rules(resources.files(__package__).joinpath(SOURCE).read_text(encoding="utf-8"))


def entropy(secret: bytes) -> float:
    """Shannon's entropy in bits per byte."""
    size = len(secret)
    return -sum(count / size * math.log2(count / size) for count in Counter(secret).values()) if size else 0.0


def _rule(entry: dict[str, Any]) -> Rule:
    return Rule(
        name=entry["id"],
        regex=pattern(entry["regex"]),
        keywords=tuple(word.lower().encode() for word in entry.get("keywords", ())),
        entropy=float(entry.get("entropy", 0.0)),
        group=int(entry.get("secretGroup", 0)),
        path=pattern(entry["path"]) if "path" in entry else None,
        allowed=tuple(_allowed(allowed) for allowed in entry.get("allowlists", ())),
    )


def _allowed(entry: dict[str, Any]) -> Allowed:
    return Allowed(
        regexes=tuple(pattern(regex) for regex in entry.get("regexes", ())),
        stopwords=tuple(word.lower().encode() for word in entry.get("stopwords", ())),
        target=entry.get("regexTarget", "secret"),
        all_of=entry.get("condition", "OR").upper() == "AND",
    )


def _secret(match: Any, group: int) -> tuple[int, int]:
    """Where the secret is in a match: the named group, else the first that took part, else all of it."""
    if group:
        return match.start(group), match.end(group)
    for index in range(1, len(match.groups()) + 1):
        if match.end(index) > match.start(index) >= 0:
            return match.start(index), match.end(index)
    return match.start(), match.end()


def _end_of_line(text: bytes, at: int) -> int:
    end = text.find(b"\n", at)
    return len(text) if end < 0 else end
