"""What in a log line is a value by its form alone: numbers, addresses, paths, identifiers.

One configuration for every system. Words (what stands between spaces) are masked one by one and remembered, because
the words of a log repeat far more often than its lines do. Each kind of value becomes one character of a private
range of Unicode, so that a masked line is again a line; MARKS says what each is called when it is shown.

Where a number stands in a longer word, the delimiters of Khan et al. (Guidelines for assessing the accuracy of log
message template identification techniques, ICSE 2022) say what belongs to it: underscores join (`blk_123` is one
value), dots, hyphens, colons and the like separate (`core.2275` is `core.` and a value).
"""

from __future__ import annotations

import re

NUMBER = "\ue000"
HEX = "\ue001"
ADDRESS = "\ue002"
UUID = "\ue003"
PATH = "\ue004"
URL = "\ue005"
HOST = "\ue006"
IDENTIFIER = "\ue007"
BOOLEAN = "\ue008"
DATE = "\ue009"
ANY = "\ue00a"

MARKS = {
    NUMBER: "<num>",
    HEX: "<hex>",
    ADDRESS: "<ip>",
    UUID: "<uuid>",
    PATH: "<path>",
    URL: "<url>",
    HOST: "<host>",
    IDENTIFIER: "<id>",
    BOOLEAN: "<bool>",
    DATE: "<date>",
    ANY: "<*>",
}
# The words kept at most; when there are more, all are forgotten and learnt again.
WORDS_MAX = 65_536
# A longer word is a value whatever it says: a token, a document, a dump in base64.
WORD_CHARACTERS_MAX = 512

_FORMS = re.compile(
    r"""
    (?P<redacted><redacted:[\w-]+:)[0-9a-f]+>
  | (?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)[^\s"'<>\])},;|]*[^\s"'<>\])},;|.:]
  | (?P<uuid>(?<![0-9A-Za-z])[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}(?![0-9A-Za-z]))
  | (?P<mac>(?<![0-9A-Za-z:])(?:[0-9a-fA-F]{2}:){5,7}[0-9a-fA-F]{2}(?![0-9A-Za-z:]))
  | (?P<ip>(?:(?<![\w.])/)?(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.-]|\.\d))
  | (?P<ip6>(?<![\w:])(?:[0-9a-fA-F]{0,4}:){3,7}[0-9a-fA-F]{1,4}(?![\w:]))
  | (?P<path>(?<![\w/.)>\]])(?:~|\.{1,2})?/[\w.@%+~*$-]+(?:/[\w.@%+~*$:=-]*)*(?<![.:])|(?<!\w)[A-Za-z]:\\[^\s"'|,;]*)
  | (?P<host>(?<![\w.$-])(?![\w.$-]+\.(?:c|cc|cpp|go|h|java|js|php|py|rb|rs|ts):\d)
      (?:(?=[\w.-]*\d[\w-]*[./:])[A-Za-z][\w-]*(?:\.[\w-]+)*|[A-Za-z][\w-]*(?:\.[\w-]+)+)
      (?=:\d+\b|/\d{1,3}\.\d{1,3}\.)
      |(?<![\w.$-])(?=[\w.-]*[.-]\d|\d|\w*\d{3})[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*\.[a-z]{2,12}(?![\w.$-]))
  | (?P<hex>(?<![0-9A-Za-z])(?:0[xX][0-9a-fA-F]+|(?=[a-f]*\d)(?=\d*[a-f])[0-9a-f]{8,}
      |(?=[A-F]*\d)(?=\d*[A-F])[0-9A-F]{8,}|(?<=@)[0-9a-f]{4,})(?![0-9A-Za-z]))
  | (?P<id>(?<![A-Za-z0-9_$])(?:[A-Za-z_]\w*_-?\d+\w*|_\d\w*|[A-Za-z_]\w*\d{3}\w*|[A-Za-z]\w*\d[A-Za-z]+\d\w*))
  | (?P<number>(?<![A-Za-z0-9_])[-+]?\d+(?:[.,]\d+)*(?:[A-Za-z_]\w*)?%?)
  | (?P<bool>(?<![\w-])(?:[Tt]rue|[Ff]alse|TRUE|FALSE)(?![\w-]))
    """,
    re.VERBOSE,
)
_MARK_OF = {
    "uuid": UUID,
    "mac": ADDRESS,
    "ip": ADDRESS,
    "ip6": ADDRESS,
    "path": PATH,
    "hex": HEX,
    "host": HOST,
    "id": IDENTIFIER,
    "number": NUMBER,
    "bool": BOOLEAN,
}


def _mark(match: re.Match[str]) -> str:
    kind = match.lastgroup
    assert kind is not None
    if kind == "redacted":  # which secret it was makes no pattern; that there was one, and by which rule, is kept
        return f"{match[kind]}{HEX}>"
    return match[kind] + URL if kind == "scheme" else _MARK_OF[kind]


# The two forms that make most words of a log new, for which all others need not be tried.
_COMMON = re.compile(r"(?:[A-Za-z]+_-?\d+|/?\d{1,3}(?:\.\d{1,3}){3}(?P<port>:\d+)?)(?P<end>[.,;:]?)")


def masked_word(word: str) -> str:
    """A word with its values replaced by their marks."""
    if len(word) > WORD_CHARACTERS_MAX:
        return ANY
    common = _COMMON.fullmatch(word)
    if common:
        mark = IDENTIFIER if word[0].isalpha() else ADDRESS
        return f"{mark}:{NUMBER}{common['end']}" if common["port"] else mark + common["end"]
    return _FORMS.sub(_mark, word)


class Words(dict[str, str]):
    """Masked words by word; `words[word]` masks what is not known yet. At most WORDS_MAX are kept."""

    def __missing__(self, word: str) -> str:
        if word.isdigit():
            return NUMBER  # keeping every number would push out words worth keeping
        masked = masked_word(word)
        if len(self) >= WORDS_MAX:
            self.clear()
        self[word] = masked
        return masked


def shown(text: str) -> str:
    """A masked text with its marks written out."""
    return text.translate(_SHOWN)


_SHOWN = {ord(mark): name for mark, name in MARKS.items()}
