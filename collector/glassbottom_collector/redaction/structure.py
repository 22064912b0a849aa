"""Secrets that can be told by where they stand: in a URL, a DSN, a header, under a name, in a PEM block.

This comes first, and finds what no rule about the form of a secret can: a password is any string at all. A name is
looked for by RE2; what follows it is read by hand, since where a value ends depends on how it is quoted (`"a\\"b"`,
and inside JSON that is itself a string `\\"a b\\"`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from .names_of_secrets import is_secret, promised
from .rules import entropy
from .spans import Span, matches, pattern

VALUE_BYTES_MAX = (
    16_384  # a value without an end that is longer than this is cut there, and the rest is looked at again
)

_STEMS = (
    rb"passw|passphrase|passcode|pwd|pswd|_pass|[a-z]pass|secret|token|jwt|bearer|api[ _.-]?key|access[ _.-]?key"
    rb"|private[ _.-]?key|auth|cookie|cred|sess|sid|otp|sig|pin|cvv|cvc|csrf|xsrf"
    rb"|[_-]key|[a-z]key|requirepass|security[_ -]?code|[a-z]+[_-]code|\bpat"
)
_NAME = rb"([A-Za-z0-9_.-]{0,80}?(?:" + _STEMS + rb")[A-Za-z0-9_.-]{0,60}?)"
_QUOTE = rb"\\{0,16}[\"'`]"
# `name = `, `"name": `, `name => `, `[name]=`, `name%3D` and, for lists of names and values, `"name": X, "value": `.
_UNDER_A_NAME = pattern(
    rb"(?i)"
    + _NAME
    + rb"("
    + _QUOTE
    + rb")?[\])]?(?:[ \t]{0,16}(?:=>|:=|==|=|:)|%3[AD])[ \t]{0,16}(?:\r?\n[ \t]{1,32})?"
)
_PAIR = pattern(
    rb"(?i)"
    + _QUOTE
    + _NAME
    + _QUOTE
    + rb"\s{0,32},\s{0,32}(?:"
    + _QUOTE
    + rb"?value"
    + _QUOTE
    + rb"?\s{0,8}[:=]\s{0,8}|b?"
    + _QUOTE
    + rb")"
)
_NAMED_PAIR = pattern(
    rb"(?i)\bname"
    + _QUOTE
    + rb"?\s{0,8}[:=]\s{0,8}(?:"
    + _QUOTE
    + rb")?"
    + _NAME
    + _QUOTE
    + rb"?\s{0,4},?\s{1,64}"
    + _QUOTE
    + rb"?value"
    + _QUOTE
    + rb"?\s{0,8}[:=]\s{0,8}"
)
_FLAG = pattern(rb"(?i)(?:^|[\s'\",\[])--?" + _NAME + rb"(?:" + _QUOTE + rb",)?[ \t]{1,8}")
_ELEMENT = pattern(rb"(?i)<" + _NAME + rb"(?:\s[^<>]{0,200})?>([^<]+)</")
_STATEMENT = pattern(
    rb"(?i)\b(?:password|identified\s+by(?:\s+password)?|requirepass|masterauth)[\"']?\s{1,8}[\"']([^\"'\r\n]{1,512})[\"']"
)

# Programs whose flag for a password is one letter, and .netrc.
_PROGRAM = pattern(
    rb"(?:\bsshpass[ ]+-p[ ]*|\bredis-cli\b[^\n|;]{0,200}?[ ]-a[ ]+|\bmysql(?:dump|admin)?\b[^\n|;]{0,200}?[ ]-p"
    rb"|\blogin[ \t]+[^\s]{1,128}[ \t]+password[ \t]+)[\"']?([^\s\"']{1,512})"
)

# userinfo of RFC 3986, wider: any sign up to the last `@` before the path, for people forget to escape.
_USERINFO = pattern(rb"(?i)\b[a-z][a-z0-9+.-]{1,30}:(?:\\{0,8}/){2}([^\s/?#\"'<>@\\]{0,256}?)(:[^\s/\"'<>]*)?@")
_SCHEME = re.compile(
    rb"(?i)(basic|bearer|digest|token|negotiate|ntlm|api-?key|api-token|hawk|oauth|aws4-hmac-sha256)([ \t]+|%20|\+)"
)
_MANY_PARTS = frozenset({b"digest", b"hawk", b"oauth", b"aws4-hmac-sha256"})
_ALONE = pattern(rb"(?i)\b(?:bearer|basic)[ \t]+([A-Za-z0-9._~+/-]{12,}={0,2})")
_JWT = pattern(rb"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){0,3}")
# An unfinished block is one too: what follows in the alphabet of Base64 goes with it.
_PEM = pattern(
    rb"-----BEGIN ([A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?)-----((?:[A-Za-z0-9+/=\s,:>|\\-]|\\[nr])*?)"
    rb"(?:-----END [A-Z0-9 ]{0,40}-----|-----END|\z|[^A-Za-z0-9+/=\s,:>|\\-])"
)
# What PostgreSQL says of a row: `DETAIL:  Key (email)=(a@b.org) already exists.`
_DETAIL = pattern(rb"(?:\bKey|\bkey) \([^()\n]{1,400}\)=\(([^\n]+?)\)(?: |\.|$)")
_FAILING_ROW = pattern(rb"Failing row contains \(([^\n]+)\)")
# SQLAlchemy's errors: `[parameters: ('a', 'b')]`.
_PARAMETERS = pattern(rb"\[parameters: ([^\n]+)\]")

# RE2 as well, since a value may be long: Python's re takes fifty times as long for it.
_STOPS = pattern(rb"[\s\"'&<>`]|\\[nrt\"']")
_LINE_END = pattern(rb"[\r\n]|\\[rn]")
_NEXT_FIELD = re.compile(rb"[,;](?=\s*[\"']?[A-Za-z_][\w.-]{0,60}[\"']?\s{0,4}[=:])|[,;]\s*$|[})\]]{1,8}[,;.]{0,4}$")
_BEFORE_COLON = re.compile(rb"\\{0,16}[\"'`]\s{0,8}:")
_AFTER_A_STRING = re.compile(rb"\s*[,}\]]+[\s,]")
_BRACKETS = b"{}[]()<>,;"
_COOKIE = re.compile(rb"([^=;,\s\"']{1,256})=(\"[^\"]*\"|[^;\s\"']*)")
_COOKIE_ATTRIBUTES = frozenset(
    {b"path", b"domain", b"expires", b"max-age", b"samesite", b"secure", b"httponly", b"priority"}
)


def find(text: bytes) -> Iterator[Span]:
    """Secrets by their place; they may overlap, the surest first."""
    if b"-----BEGIN" in text:
        for match in matches(_PEM, text):
            if len(match.group(2).strip(b"\\nr \r\n\t-")) > 8:
                yield Span(match.start(), match.end() if text[match.end() - 1] == 0x2D else match.end(2), "private-key")
    if b"@" in text and b":" in text:
        yield from _userinfo(text)
    if b"eyJ" in text:
        for match in matches(_JWT, text):
            yield Span(match.start(), match.end(), "jwt")
    yield from _under_names(text)
    for match in matches(_ALONE, text):
        value = match.group(1)
        if not value.isalpha() or len(value) > 24:
            yield Span(match.start(1), match.end(1), "authorization")
    if b")=(" in text or b"Failing row" in text or b"[parameters: " in text:
        for known in (_DETAIL, _FAILING_ROW, _PARAMETERS):
            for match in matches(known, text):
                yield Span(match.start(1), match.end(1), "row-values")


def _userinfo(text: bytes) -> Iterator[Span]:
    """The password of a URL; without one the user, who then is a token (`https://TOKEN@host`)."""
    for match in matches(_USERINFO, text):
        if match.start(2) >= 0 and match.end(2) > match.start(2) + 1:
            if match.end(1) == match.start(1) or not _is_harmless(match.group(2)[1:]):
                yield Span(match.start(2) + 1, match.end(2), "url-password")
        elif match.start(2) < 0 and _is_token(match.group(1)):
            yield Span(match.start(1), match.end(1), "url-token")


def _is_token(user: bytes) -> bool:
    """Whether the user of a URL without a password is a token; the names of users are short or words."""
    return len(user) >= 16 and any(chr(sign).isdigit() for sign in user) and entropy(user) > 3


def _is_harmless(password: bytes) -> bool:
    return not is_secret(password, "password", "sure", b"", quoted=True)


def _under_names(text: bytes) -> Iterator[Span]:
    # A name within a value that was taken is not looked at again: the work would grow with the square of a text that is
    # made of names.
    taken = 0
    for match in matches(_UNDER_A_NAME, text):
        if match.end() < taken:
            continue
        for span in _value_of(text, match.group(1), match.end()):
            taken = max(taken, span.end)
            yield span
    for pair in (_PAIR, _NAMED_PAIR):
        for match in matches(pair, text):
            yield from _value_beside(text, match, surely=pair is _NAMED_PAIR or b"alue" in match.group())
    for match in matches(_FLAG, text):
        if text[match.end() : match.end() + 1] not in (b"-", b""):
            yield from _value_of(text, match.group(1), match.end())
    if b"</" in text:
        for match in matches(_ELEMENT, text):
            kind = promised(match.group(1).decode("latin-1"))
            if kind is not None and is_secret(match.group(2), *kind, match.group(1), quoted=True):
                yield Span(match.start(2), match.end(2), kind[0])
    for written in (_STATEMENT, _PROGRAM):
        for match in matches(written, text):
            if is_secret(match.group(1), "password", "sure", b"", quoted=True):
                yield Span(match.start(1), match.end(1), "password")


def _value_beside(text: bytes, match: Any, *, surely: bool) -> Iterator[Span]:
    """The value of a pair. Not surely one: any two strings in a row, such as names of columns; then only a header's, or
    what looks random. What a colon follows is the next name of an object."""
    kind = promised(match.group(1).decode("latin-1"))
    if kind is None:
        return
    at = match.end()
    while at > match.end(1) and text[at - 1 : at] in (b'"', b"'", b"`", b"\\"):
        at -= 1
    end = _extent(text, at)[1]
    if _BEFORE_COLON.match(text, end):
        return
    for span in _value_of(text, match.group(1), at):
        if surely or kind[0] == "header" or _looks_random(text[span.start : span.end]):
            yield span


def _looks_random(value: bytes) -> bool:
    return len(value) >= 8 and not value.isalpha() and b" " not in value


def _value_of(text: bytes, name: bytes, at: int) -> Iterator[Span]:
    """What stands under a name, from `at` on, as far as it is a secret."""
    kind = promised(name.decode("latin-1"))
    if kind is None or at >= len(text):
        return
    rule, strength = kind
    if text[at : at + 1] == b"[":
        yield from _list_of(text, name, at)
        return
    start, end, quoted = _extent(text, at)
    if quoted and _AFTER_A_STRING.match(text, start, end):
        return  # what was taken for its first quote ends a string: `"x": "password=",`
    if rule == "header":
        if not quoted and not is_secret(text[start:end].rstrip(_BRACKETS), rule, strength, name, quoted=False):
            return  # a number or nothing, in JSON
        yield from (
            _cookies(text, name, start, end, quoted)
            if b"ookie" in name.lower()
            else _authorization(text, start, end, quoted)
        )
        return
    if not quoted and (text[start:end].strip(_BRACKETS) == b"" or (text[start] in b"{(" and strength == "likely")):
        return  # what stands in them has names of its own
    if not quoted and strength == "likely" and text[start : start + 1] == b":":
        return  # a name of C++ or Rust: `token::Kind`
    if not quoted and text[end - 1 : end] == b":" and text[at - 1 : at].isspace():
        return  # the next name of a nested mapping in YAML
    if is_secret(text[start:end], rule, strength, name, quoted=quoted):
        yield Span(start, end, rule)


def _extent(text: bytes, at: int) -> tuple[int, int, bool]:
    """(start, end, quoted) of the value that begins at `at`: without its quotes, or up to what ends a bare one."""
    begin = at
    if text[at : at + 2].lower() in (b'b"', b"b'", b"u'", b'u"'):
        at += 1
    slashes = at
    while slashes < len(text) and text[slashes] == 0x5C and slashes - at < 16:
        slashes += 1
    quote = text[slashes : slashes + 1]
    limit = min(len(text), at + VALUE_BYTES_MAX)
    if quote in (b'"', b"'", b"`"):
        delimiter = text[at : slashes + 1]
        end = start = slashes + 1
        while True:
            end = text.find(delimiter, end, limit)
            if end < 0:
                line = text.find(b"\n", start, limit)
                return start, (limit if line < 0 else line), True
            # More backslashes before it than its own: it is a quote inside the value. A doubled one is one in a DSN.
            before = end
            while before > start and text[before - 1] == 0x5C:
                before -= 1
            if len(delimiter) == 1 and (end - before) % 2 == 0:
                return start, end, True
            if len(delimiter) > 1 and end == before:
                return start, end, True
            end += 1
    stop = _STOPS.search(text, begin, limit)
    end = stop.start() if stop else limit
    field = _NEXT_FIELD.search(text, begin, end) if end > begin else None
    while field is not None and field.start() == begin:  # a value that begins with a bracket
        field = _NEXT_FIELD.search(text, field.end(), end)
    if field is not None and not (text[field.start()] in b"})]" and _is_paired(text[begin : field.end()])):
        end = field.start()
    elif field is None and end < len(text) and text[end - 1 : end] in (b",", b";"):
        end -= 1
    return begin, end, False


def _is_paired(value: bytes) -> bool:
    return any(
        value.count(left) == value.count(right) > 0 for left, right in ((b"(", b")"), (b"{", b"}"), (b"[", b"]"))
    )


def _list_of(text: bytes, name: bytes, at: int) -> Iterator[Span]:
    """`["a", "b"]` under a name, or the header of several values that Node and Go print."""
    rule, strength = promised(name.decode("latin-1")) or ("", "likely")
    end = min(len(text), at + VALUE_BYTES_MAX)
    position = at + 1
    for _ in range(64):
        while position < end and text[position] in b" \t\r\n,":
            position += 1
        if position >= end or text[position : position + 1] == b"]":
            return
        start, stop, quoted = _extent(text, position)
        if rule == "header":
            yield from (
                _cookies(text, name, start, stop, quoted)
                if b"ookie" in name.lower()
                else _authorization(text, start, stop, quoted)
            )
        elif is_secret(text[start:stop], rule, strength, name, quoted=quoted):
            yield Span(start, stop, rule)
        position = stop + (quoted and len(text) > stop)
        while position < end and text[position] in b"\"'`\\ \t\r\n":
            position += 1
        if position <= start or text[position : position + 1] != b",":
            return


def _authorization(text: bytes, start: int, end: int, quoted: bool) -> Iterator[Span]:
    """Everything after the scheme. Bare, a value ends where its line does for the schemes of several parts, else with
    its word; a first word that is no known scheme goes with the second."""
    line = _line_end(text, start)
    if not quoted:
        end = line
    scheme = _SCHEME.match(text, start, end)
    begin = scheme.end() if scheme else start
    if not quoted and not (scheme and scheme.group(1).lower() in _MANY_PARTS):
        words = _STOPS.search(text, begin, end)
        end = words.start() if words else end
        if scheme is None and text[begin:end].replace(b"-", b"").isalpha() and text[end : end + 1] == b" ":
            more = _STOPS.search(text, end + 1, line)
            end = more.start() if more else line
        while end > begin and text[end - 1] in b",;)}]":
            end -= 1
    if end > begin and is_secret(text[begin:end], "authorization", "sure", b"authorization", quoted=True):
        yield Span(begin, end, "authorization")


def _cookies(text: bytes, name: bytes, start: int, end: int, quoted: bool) -> Iterator[Span]:
    """The values of cookies; their names tell who set them and stay."""
    if not quoted:
        end = _line_end(text, start)
    at = start
    setting = name.lower().replace(b"_", b"-").endswith(b"set-cookie")
    found = False
    while (cookie := _COOKIE.match(text, at, end)) is not None:
        if cookie.group(1).lower() not in _COOKIE_ATTRIBUTES and cookie.group(2) not in (b"", b'""'):
            yield Span(cookie.start(2), cookie.end(2), "cookie")
        found = True
        at = cookie.end()
        while at < end and text[at] in b"; \t":
            at += 1
        if setting:
            return
    if not found:
        word = text[start:end].split(b" ")[0].rstrip(_BRACKETS if not quoted else b"")
        if is_secret(word, "header", "sure", name, quoted=quoted):
            yield Span(start, start + len(word), "cookie")


def _line_end(text: bytes, at: int) -> int:
    """Where the line ends, an escaped end of line (a header within a string of JSON) included."""
    limit = min(len(text), at + VALUE_BYTES_MAX)
    end = _LINE_END.search(text, at, limit)
    return end.start() if end else limit
