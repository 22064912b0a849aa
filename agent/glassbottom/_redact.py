"""Secrets of a known shape are taken out of text before it leaves the process.

Only the plain cases, by the standard library: headers that authenticate, passwords in URLs, `name=value` where the name
says it is a secret, private keys, and tokens with a form of their own. The collector looks again, by many more rules;
this is for what should not even get that far. What stands in place of a secret is `<redacted:RULE:1a2b3c4d>`: the same
for the same secret as long as this process lives, and nothing can be reckoned back from it, for its key never leaves.

Every pattern is bounded, so that a text made for it takes no longer than any other of its length.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

OURS = "<redacted:"
DEPTH_MAX = 12
_key = os.urandom(32)

_WORDS = (
    r"password|passwd|passphrase|\bpwd|secret(?!s\b)|token(?!s\b|ize)|api[_-]?key|access[_-]?key|private[_-]?key|"
    r"signing[_-]?key|encryption[_-]?key|account[_-]?key|credential|auth[_-]?key|session[_-]?(?:id|key)\b|csrf|"
    r"authorization|\bcookie|set-cookie|\bdsn\b"
)
SECRET_NAME = re.compile(rf"(?i){_WORDS}|pass$|_pwd$")
"""Of a setting, a header or a key whose value is not told."""

_VALUE = r"""(?P<quote>["'])(?P<quoted>(?:[^"'\\\n]|\\.){1,4096})(?P=quote)|(?P<plain>[^\s,;&)\]}"'<>]{1,4096})"""
_RULES: tuple[tuple[str, tuple[str, ...], re.Pattern[str]], ...] = (
    # (rule, what a text in small letters must hold for it to be tried, pattern with a group `secret`). No
    # name of a rule may read like the name of a secret, or _PAIR would take what follows it in a token for one.
    (
        "pem",
        ("private key",),
        re.compile(
            r"(?P<secret>-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
            r"(?:[^-]|-(?!----)){0,20000}(?:-----END [A-Z0-9 ]{0,60}-----)?)"
        ),
    ),
    (
        "header",
        ("authorization", "cookie", "x-api-key", "x-auth-token", "x-amz-security-token"),
        re.compile(
            r"(?i)\b(?:(?:proxy-)?authorization|(?:set-)?cookie|x-api-key|x-auth-token|x-amz-security-token)\b"
            r"[\"']?\s{0,4}[:=,]\s{0,4}[\"']?(?P<secret>[^\r\n\"']{1,8192})"
        ),
    ),
    (
        "url",
        ("http://", "https://"),
        re.compile(r"(?i)\bhttps?://[^\s/@:\"'<>]{0,256}:(?P<secret>[^\s/?#@\"'<>]{1,256})@"),
    ),
    (
        "url",
        ("://",),
        re.compile(r"(?i)\b(?!https?:)[a-z][a-z0-9+.-]{1,30}://[^\s/@:\"'<>]{0,256}:(?P<secret>[^\s@\"'<>]{1,256})@"),
    ),
    ("url", ("://",), re.compile(r"(?i)\bhttps?://(?P<secret>[^\s/@:\"'<>]{16,256})@")),
    (
        "jwt",
        ("eyj",),
        re.compile(r"\b(?P<secret>eyJ[A-Za-z0-9_-]{8,4096}\.[A-Za-z0-9_-]{8,8192}\.[A-Za-z0-9_-]{0,4096})"),
    ),
    (
        "bearer",
        ("bearer",),
        re.compile(r"(?i)\bbearer\s{1,4}(?P<secret>(?=[^\s]{0,60}\d)[A-Za-z0-9._~+/=-]{8,8192})"),
    ),
    ("aws", ("akia", "asia"), re.compile(r"\b(?P<secret>(?:AKIA|ASIA)[A-Z0-9]{16})\b")),
    (
        "known",
        ("gh", "glpat-", "xox", "k_live_", "k_test_", "aiza", "sk-"),
        re.compile(
            r"\b(?P<secret>gh[pousr]_[A-Za-z0-9]{30,255}|github_pat_[A-Za-z0-9_]{30,255}|glpat-[A-Za-z0-9_-]{20,64}"
            r"|xox[abeprs]-[A-Za-z0-9-]{10,255}|[rs]k_(?:live|test)_[A-Za-z0-9]{10,255}|AIza[A-Za-z0-9_-]{35}"
            r"|sk-[A-Za-z0-9_-]{20,255})"
        ),
    ),
)
_PAIR_MARKS = ("pass", "pwd", "secret", "token", "key", "credential", "session", "csrf", "auth", "cookie", "dsn")
_MARKS = sorted({mark for _, marks, _ in _RULES for mark in marks} | set(_PAIR_MARKS))
_MARKS = [mark for mark in _MARKS if not any(other in mark for other in _MARKS if other != mark)]
"""A text without any of them is as it was: most lines of a log. One that holds another says nothing new."""
_PAIR = re.compile(rf"(?i)(?:{_WORDS})[\w.-]{{0,40}}[\"']?\s{{0,4}}(?:=>|[=:])\s{{0,4}}(?:{_VALUE})")
_NOTHING = {"none", "null", "true", "false", "nil", "undefined", "''", '""'}


def text(given: str) -> str:
    """The same without secrets of a known shape."""
    small = given.lower()
    for mark in _MARKS:
        if mark in small:
            break
    else:
        return given
    for rule, marks, pattern in _RULES:
        if any(mark in small for mark in marks):
            given = pattern.sub(partial(_replaced, rule=rule), given)
    return _PAIR.sub(_pair, given) if any(mark in small for mark in _PAIR_MARKS) else given


def value(given: Any, name: str = "") -> Any:
    """The same for what goes into JSON: whatever stands under a name that says so is a secret as a whole."""
    return _value(given, name, 0)


def token(rule: str, secret: str) -> str:
    """What stands in its place."""
    digest = hmac.new(_key, secret.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:8]
    return f"{OURS}{rule}:{digest}>"


def _value(given: Any, name: str, depth: int) -> Any:
    if depth > DEPTH_MAX:
        return "<too deep>"
    if isinstance(given, str):
        if name and given and SECRET_NAME.search(name) and not given.startswith(OURS):
            return token("name", given)
        return text(given)
    if isinstance(given, Mapping):
        return {text(str(key)): _value(each, str(key), depth + 1) for key, each in given.items()}
    if isinstance(given, (list, tuple, set, frozenset)):
        return [_value(each, name, depth + 1) for each in given]
    return given


def _replaced(match: re.Match[str], rule: str, group: str = "secret") -> str:
    secret = match[group]
    if secret.startswith(OURS):
        return match[0]
    start, end = match.start(group) - match.start(), match.end(group) - match.start()
    return f"{match[0][:start]}{token(rule, secret)}{match[0][end:]}"


def _pair(match: re.Match[str]) -> str:
    group = "quoted" if match["quoted"] is not None else "plain"
    if match[group].lower() in _NOTHING:
        return match[0]
    return _replaced(match, "pair", group)
