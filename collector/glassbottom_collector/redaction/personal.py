"""Personal data that can be validated: e-mail addresses, phone numbers, cards, IBAN, US social security numbers.

Each is found by its form and then checked by what makes it valid (Luhn, ISO 7064 mod 97, numbering plans), since a
log is full of numbers and an incident cannot be understood without them. Names and addresses of people have no form:
see redaction.names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from .spans import Span, matches, pattern

# ---- e-mail ---------------------------------------------------------------------------------------------------------

# Bytes from 0x80 on are letters of other scripts in UTF-8.
_EMAIL = pattern(
    rb"[A-Za-z0-9.!#$%&*+/?^_{|}~\x80-\xff-]{1,64}@((?:[A-Za-z0-9\x80-\xff](?:[A-Za-z0-9\x80-\xff-]{0,61}[A-Za-z0-9\x80-\xff])?\.){1,8}"
    rb"(?:[A-Za-z]{2,24}|xn--[a-z0-9-]{2,59}))"
)
# RFC 2606 and 6761: nobody's. The masks of a sample of rows write their addresses there.
_NOBODYS = re.compile(rb"(?:^|\.)(?:example\.(?:com|org|net)|example|invalid|test|localhost)$")
# `logo@2x.png` is a file; `name@host.service` a unit of systemd.
_FILES = frozenset(
    b"avif bmp cpp css gif gz html ico java jpeg jpg js json lock log map md mjs mount png pdf py service slice so "
    b"socket svg tar target timer toml ts tsx txt webp xml yaml yml zip".split()
)


def _emails(text: bytes) -> Iterator[Span]:
    for match in matches(_EMAIL, text):
        start, end = match.span()
        # The form allows signs that mostly belong to what stands around it: `to=<a@b.org>`, `?mail=a@b.org`.
        local = text[start : match.start(1) - 1]
        start += max(
            (local.rfind(sign) + 1 for sign in (b"/", b"?", b"&", b"|", b"{", b"}", b"!", b"#", b"*", b"$")), default=0
        )
        domain = match.group(1).lower()
        if start == match.start(1) - 1 or _NOBODYS.search(domain) or domain.rpartition(b".")[2] in _FILES:
            continue
        if text[start : match.start(1) - 1] == b"git" or text[start : match.start(1) - 1].strip(b".") == b"":
            continue
        yield Span(start, end, "email", personal=True)


# ---- cards ----------------------------------------------------------------------------------------------------------

_DIGITS = pattern(rb"\d(?:[ -]?\d){11,18}")
_GROUPED = re.compile(rb"\d{4}[ -]\d{4}[ -]\d{4}[ -]\d{1,7}|\d{4}[ -]\d{6}[ -]\d{4,5}|\d{12,19}")
# (first digits, lengths): numbering of the networks, ISO/IEC 7812 and the networks' own documents.
_NETWORKS = re.compile(
    rb"4(?:\d{15}|\d{12}|\d{18})"  # Visa
    rb"|(?:5[1-5]\d{2}|222[1-9]|22[3-9]\d|2[3-6]\d{2}|27[01]\d|2720)\d{12}"  # Mastercard
    rb"|3[47]\d{13}"  # American Express
    rb"|3(?:0[0-5]|[68]\d)\d{11}|3095\d{10}"  # Diners
    rb"|6(?:011|4[4-9]\d|5\d{2})\d{12}"  # Discover
    rb"|(?:2131|1800)\d{11}|35(?:2[89]|[3-8]\d)\d{12}"  # JCB
    rb"|62\d{14,17}"  # UnionPay
    rb"|(?:5018|5020|5038|5[68]\d{2}|6304|6759|676[1-3]|0604)\d{8,15}"  # Maestro
)
# Of these lengths there are many other numbers, times in ms or ns and identifiers: only where a card is spoken of.
_COMMON_LENGTHS = frozenset({14, 15, 16})
_CARD_WORDS = re.compile(rb"(?i)card|credit|debit|visa|master|amex|maestro|payment|\bcc\b|\bpan\b|charge|billing")
# After this word it need not even be one of the networks above: there are small ones, and their numbers change.
_CARD = re.compile(rb"(?i)card[^\n]{0,40}$")
_SIGNS_BEFORE = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.+#$@")
_SIGNS_AFTER = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-@")


def _cards(text: bytes) -> Iterator[Span]:
    for match in matches(_DIGITS, text):
        start, end = match.span()
        if not _apart(text, start, end, _SIGNS_BEFORE, _SIGNS_AFTER) or not _GROUPED.fullmatch(text[start:end]):
            continue
        digits = text[start:end].translate(None, b" -")
        if not luhn(digits) or len(set(digits)) < 2:
            continue
        before = text[max(0, start - 80) : start]
        of_a_network = _NETWORKS.fullmatch(digits)
        if (of_a_network and (len(digits) in _COMMON_LENGTHS or _CARD_WORDS.search(before))) or _CARD.search(before):
            yield Span(start, end, "card", personal=True)


def luhn(digits: bytes) -> bool:
    """Whether the last digit checks the others (ISO/IEC 7812-1)."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = (digit - 48) << (place & 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


# ---- IBAN -----------------------------------------------------------------------------------------------------------

_IBAN = pattern(rb"(?i)\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?\b")
# Country to length: SWIFT's IBAN registry.
_IBAN_LENGTHS = {
    country.encode(): length
    for length, countries in {
        15: "NO", 16: "BE", 18: "DK FK FI FO GL NL SD", 19: "MK SI", 20: "AT BA EE KZ LT LU MN XK", 21: "CH HR LI LV",
        22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM SO TL", 24: "AD CZ ES MD PK RO SA SE SK TN VG",
        25: "LY PT ST", 26: "IS TR", 27: "BI DJ FR GR IT MC MR SM", 28: "AL AZ BY CY DO GT HU LB NI PL SV",
        29: "BR EG PS QA UA", 30: "JO KW MU YE", 31: "MT SC", 32: "LC", 33: "RU",
    }.items()
    for country in countries.split()
}  # fmt: skip


def _ibans(text: bytes) -> Iterator[Span]:
    for match in matches(_IBAN, text):
        start = match.start()
        country = match.group()[:2].upper()
        length = _IBAN_LENGTHS.get(country)
        if length is None:
            continue
        # A word may follow after a space: as many signs as the country's have, and the check decides.
        end, signs = start, 0
        while end < match.end() and signs < length:
            signs += text[end] != 0x20
            end += 1
        value = text[start:end].replace(b" ", b"").upper()
        if len(value) == length and mod_97(value) and (end == len(text) or not chr(text[end]).isalnum()):
            yield Span(start, end, "iban", personal=True)


def mod_97(iban: bytes) -> bool:
    """Whether the check digits of an IBAN in capitals without spaces are right (ISO 13616, ISO 7064)."""
    moved = iban[4:] + iban[:4]
    return int("".join(str(int(chr(sign), 36)) for sign in moved)) % 97 == 1


# ---- US social security numbers -------------------------------------------------------------------------------------

_SSN = pattern(rb"\d{3}-\d{2}-\d{4}")
_AROUND = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./")


def _ssns(text: bytes) -> Iterator[Span]:
    for match in matches(_SSN, text):
        start, end = match.span()
        area, group, serial = match.group().split(b"-")
        issued = area not in (b"000", b"666") and area < b"900" and group != b"00" and serial != b"0000"
        after = _AROUND - {0x2E} if text[end + 1 : end + 2].isspace() or end + 1 >= len(text) else _AROUND
        if issued and _apart(text, start, end, _AROUND, after):
            yield Span(start, end, "us-ssn", personal=True)


# ---- phone numbers --------------------------------------------------------------------------------------------------

_PLUS = pattern(rb"(?:\+[1-9]\d{0,2}[ .()/-]{0,3}|\b00[1-9]\d{0,2}[ .()/-]{1,3}|\b00[1-9])(?:\d[ .()/-]{0,3}){5,13}\d")
_NORTH_AMERICA = pattern(rb"(?:\b1[ .-])?(?:\(\d{3}\) ?|\b\d{3}[.-])\d{3}[.-]\d{4}")
# Written as at home, so that nothing but the words around it tells what it is.
_NUMBER = rb"(?:\(\d{1,5}\)[ -]?)?\d{1,10}(?:(?:[ ./-]|-?\(|\)-?)?\d{2,8}){0,5}"
_PHONE_WORDS = pattern(
    rb"(?i)(?:\b(?:tele)?(?:phone|fone|fon)(?:[ _-]?(?:number|no|nr))?|\btel|\bmobile(?:[ _-]?(?:number|no|nr))?"
    rb"|\bcell(?:phone)?|\bfax|\bsms|\bwhats ?app|\bhotline|\bmsisdn"
    rb"|\bcall (?:me|us|him|her|them) (?:at|on|under))"
    rb"\b[^0-9\n(]{0,24}(" + _NUMBER + rb")"
)
# These words are said of much else: after them a number must be written in groups, as people write it.
_PERHAPS_WORDS = pattern(
    rb"(?i)(?:\bcall(?:s|ing|ed)?|\bdial(?:l?ed|l?ing)?|\b(?:messages?|texts?|texting) (?:to|on|at)|\bregistered"
    rb"|\b(?:reach|contact|ring|text)(?:ing)? (?:me|us|him|her|them)|\bcontact[ _-](?:no|number)|\bnumber(?: is)?)"
    rb"\b[^0-9\n(]{0,24}(" + _NUMBER + rb")"
)
_NAMED_AFTER = pattern(rb"(?i)(\(?\d" + _NUMBER + rb")[ \t,;]{0,3}\(?(?:office|fax|mobile|cell|home|work|phone|tel)\b")
# As it is dialled within a country: a leading zero, then groups.
_NATIONAL = pattern(rb"\b0[1-9]\d{0,3}(?: \d{2,4}){2,4}\b|\b0[1-9]\d{0,3}(?:-\d{3,4}){2}\b")
_WITH_A_LEADING_ZERO = ("GB", "DE", "FR", "BE", "NL", "CH", "AT", "SE", "AU", "JP", "ZA", "FI")
# Numbers of invented people (NANP 555-01xx); the masks of a sample of rows use them.
_INVENTED = re.compile(rb"55501\d\d$")
_NO_PHONE = re.compile(rb"\d{4}-\d{2}-\d{2}.*|\d{1,2}[./]\d{1,2}[./]\d{2,4}|\d{1,3}(?:\.\d{1,3}){3}|\d+\.\d+")


def _phones(text: bytes) -> Iterator[Span]:
    for kind, regions in ((_PLUS, (None,)), (_NORTH_AMERICA, ("US",)), (_NATIONAL, _WITH_A_LEADING_ZERO)):
        for match in matches(kind, text):
            start, end = match.span()
            if kind is _NATIONAL and _goes_on(text, start, end):
                continue
            if _apart(text, start, end, _SIGNS_BEFORE, _SIGNS_AFTER) and any(
                _is_valid(match.group(), region) for region in regions
            ):
                yield Span(start, end, "phone", personal=True)
    for kind in (_PHONE_WORDS, _PERHAPS_WORDS, _NAMED_AFTER):
        for match in matches(kind, text):
            start, end = match.span(1)
            value = match.group(1)
            digits = re.sub(rb"\D", b"", value)
            if (
                7 <= len(digits) <= 13
                and (kind is _PHONE_WORDS or len(value) > len(digits))
                and not _INVENTED.search(digits)
                and not _NO_PHONE.fullmatch(value)
                and _apart(text, start, end, _SIGNS_BEFORE, _SIGNS_AFTER)
            ):
                yield Span(start, end, "phone", personal=True)


def _goes_on(text: bytes, start: int, end: int) -> bool:
    """Whether other digits stand a space away: then it is a piece of a row of numbers."""
    return text[max(0, start - 2) : start - 1].isdigit() or (
        text[end : end + 1] == b" " and text[end + 1 : end + 2].isdigit()
    )


def _is_valid(value: bytes, region: str | None) -> bool:
    """region: None for a number with its country's code, `+46 (0)8 ...` or `0046 8 ...`."""
    digits = re.sub(rb"\D", b"", value.replace(b"(0)", b""))
    if _INVENTED.search(digits):
        return False
    number = digits.decode() if region else "+" + digits.removeprefix(b"00").decode()
    library = _phonenumbers()
    try:
        parsed = library.parse(number, region)
    except library.NumberParseException:
        return False
    # After a plus sign it need only be possible: a new range may be younger than the library.
    surely = region is not None or not value.startswith(b"+")
    return bool(library.is_valid_number(parsed) if surely else library.is_possible_number(parsed))


def _phonenumbers() -> Any:
    """Imported where the first number is found: it takes 50 ms, and most texts have none."""
    import phonenumbers

    return phonenumbers


# ---------------------------------------------------------------------------------------------------------------------


def find(text: bytes) -> Iterator[Span]:
    """All of them; they may overlap, the surest first."""
    if b"@" in text:
        yield from _emails(text)
    yield from _ibans(text)
    yield from _cards(text)
    yield from _ssns(text)
    yield from _phones(text)


def _apart(text: bytes, start: int, end: int, before: frozenset[int], after: frozenset[int]) -> bool:
    """Whether none of these signs touches [start, end)."""
    return not (start and text[start - 1] in before) and not (end < len(text) and text[end] in after)
