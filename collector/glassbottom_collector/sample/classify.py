"""Which columns hold what nobody else may see: by their names, types, comments, labels, and some of their values.

Nothing here can make a text known as harmless: a text that no rule knows is masked all the same. The rules say how it
is masked, and which numbers and dates are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..redaction import personal
from ..redaction.names_of_secrets import promised
from .masks import EMAIL, UUID
from .schema import Column

WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
# A word of a column's name to what it then is about.
WORDS = {
    word: kind
    for kind, words in {
        "e-mail": "email mail emails",
        "phone": "phone telephone tel mobile cell fax msisdn phonenumber",
        "identity number": "ssn sin nin cpf cnpj curp tin vat passport nif dni pesel licence license taxid bsn nino "
        "personnummer aadhaar",
        "account": "iban bic swift account card cc pan creditcard cvv cvc routing sort bank",
        "person": "name firstname lastname surname forename fullname username user nickname nick login alias author "
        "contact gender sex race ethnicity religion nationality marital maiden",
        "birth": "dob birth birthday birthdate born age",
        "address": "addr address street city zip zipcode postcode postal lat latitude lon lng longitude geo gps "
        "location",
        "network": "ip ipaddr ipaddress host hostname mac imei imsi useragent agent device fingerprint",
        "secret": "token secret password passwd pwd session cookie hash salt otp pin key signature credential auth",
        "health": "diagnosis patient medical blood disease allergy",
        "pay": "salary wage income",
    }.items()
    for word in words.split()
}
_PRIVATE = re.compile(r"\b(pii|personal|private|confidential|sensitive|gdpr|dsgvo|secret|hipaa|phi)\b", re.IGNORECASE)
_JWT = re.compile(r"eyJ[\w-]+\.eyJ[\w-]+\.[\w-]*")
_FOUR = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}")
SHARE_MIN = 0.5  # of the values that are not empty
VALUES_MIN = 50  # before a number is called unique
DIGITS_MIN = 7
UNIQUE_SHARE_MIN = 0.9

INTEGERS = frozenset({"int2", "int4", "int8"})
NUMBERS = INTEGERS | {"numeric", "float4", "float8"}
DATES = frozenset({"date", "timestamp", "timestamptz"})
TEXTS = frozenset({"text", "varchar", "bpchar", "citext", "name"})
# Small numbers, amounts, times of day: they say what happened, not to whom.
HARMLESS = NUMBERS | {"bool", "money", "time", "timetz", "interval", "oid", "pg_lsn", "xid", "xid8"}


def words(name: str) -> list[str]:
    """`billingAddress_2` is billing, address, 2."""
    return [word.lower() for word in WORD.findall(name)]


def kind_by_name(column: Column) -> str:
    """What its name or its owners say it is about, or ""."""
    if column.label:
        return "" if "NOT MASKED" in column.label else "labelled for PostgreSQL Anonymizer"
    if promised(column.name):
        return "secret"
    for word in reversed(words(column.name)):
        if word in WORDS:
            return WORDS[word]
    return "spoken of as private in its comment" if _PRIVATE.search(column.comment) else ""


def kind_by_values(values: Sequence[str]) -> str:
    """What most of its values are by their form, or ""."""
    filled = [value for value in values if value][:200]
    if not filled:
        return ""
    for kind, test in _VALIDATORS:
        if sum(map(test, filled)) >= SHARE_MIN * len(filled):
            return kind
    return ""


def is_unique_number(values: Sequence[str]) -> bool:
    """Whether these numbers are rather somebody's: long, and almost none twice."""
    if len(values) < VALUES_MIN or len(set(values)) < UNIQUE_SHARE_MIN * len(values):
        return False
    digits = sorted(len(value.lstrip("-")) for value in values if value.lstrip("-").isdigit())
    return len(digits) > len(values) // 2 and digits[len(digits) // 2] >= DIGITS_MIN


def _is_card(value: str) -> bool:
    digits = re.sub(r"[ -]", "", value)
    return 13 <= len(digits) <= 19 and digits.isascii() and digits.isdigit() and personal.luhn(digits.encode())


def _is_iban(value: str) -> bool:
    signs = value.replace(" ", "").upper()
    return bool(re.fullmatch(r"[A-Z]{2}\d{2}[A-Z0-9]{11,30}", signs)) and personal.mod_97(signs.encode())


_VALIDATORS = (
    ("e-mail", lambda value: bool(EMAIL.fullmatch(value))),
    ("uuid", lambda value: bool(UUID.fullmatch(value))),
    ("card", _is_card),
    ("iban", _is_iban),
    ("jwt", lambda value: bool(_JWT.fullmatch(value))),
    ("ip", lambda value: bool(_FOUR.fullmatch(value))),
)
