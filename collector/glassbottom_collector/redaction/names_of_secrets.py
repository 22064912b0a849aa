"""Whether a name promises a secret: of a field, a header, a variable of the environment, a parameter.

The last words of a name decide: `ORDERS_DB_PASSWORD` holds one, `password_min_length` and `access_token_url` do not.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal

from .rules import entropy

Strength = Literal["sure", "likely"]
"""sure: whatever its value is, it is a secret. likely: unless it is plainly something else, such as a small number."""

_SURE = {
    "password": {
        "password",
        "passwd",
        "passwort",
        "passphrase",
        "passcode",
        "pwd",
        "pswd",
        "passw",
        "userpassword",
        "requirepass",
        "masterauth",
    },
    "header": {"authorization", "cookie", "cookies"},
}
_LIKELY = {
    "secret": {"secret", "secrets"},
    "token": {"token", "jwt", "bearer", "authtoken", "accesstoken", "refreshtoken", "apitoken", "csrf", "xsrf"},
    "api-key": {
        "apikey",
        "accesskey",
        "secretkey",
        "privatekey",
        "authkey",
        "creds",
        "credential",
        "credentials",
        "pat",
    },
    "session": {"session", "sessionid", "sid", "sessid", "phpsessid", "jsessionid", "otp", "totp"},
    "signature": {"signature", "sig"},
    "pin": {"pin", "cvv", "cvc", "cvv2"},
}
_ENDINGS: dict[str, tuple[str, Strength]] = {
    **dict.fromkeys(("password", "passwd", "passwort", "passphrase"), ("password", "sure")),
    **dict.fromkeys(("apikey", "accesskey", "secretkey", "privatekey"), ("api-key", "likely")),
    "token": ("token", "likely"),
    "secret": ("secret", "likely"),
    "sessionid": ("session", "likely"),
}
# Two words that make a secret together.
_PAIRS: dict[tuple[str, str], str] = {
    **dict.fromkeys(
        [
            (word, "key")
            for word in (
                "api", "access", "secret", "private", "auth", "encryption", "signing",
                "shared", "master", "hmac", "account", "session", "service", "deploy",
                "subscription", "license", "functions", "webhook", "aes",
            )
        ],
        "api-key",
    ),
    ("session", "id"): "session",
    ("secret", "id"): "secret",
    ("auth", "code"): "token",
    ("authorization", "code"): "token",
    ("access", "code"): "token",
    ("security", "code"): "pin",
    ("recovery", "code"): "token",
    ("verification", "code"): "token",
    ("one", "time"): "session",
    ("x", "auth"): "token",
    ("basic", "auth"): "password",
}  # fmt: skip
# What is a token for a machine that counts words or pages, or is meant to be seen.
_HARMLESS_BEFORE = frozenset(
    {"public", "pub", "next", "page", "pagination", "continuation", "continue", "cursor", "cancellation",
     "cancel", "max", "min", "num", "total", "prompt", "completion", "input", "output", "eos", "bos", "pad",
     "unk", "sync", "special"}
)  # fmt: skip
_NO_PASSWORD_BEFORE = frozenset(
    {"by", "to", "per", "first", "second", "each", "one", "two", "single", "low", "high", "band"}
)
# They say more of the value but not what it is.
_NEUTRAL = frozenset(
    {"value", "raw", "plain", "plaintext", "text", "str", "string", "enc", "encoded", "base64", "b64",
     "env", "var", "old", "new", "current", "confirm", "confirmation", "prod", "production", "dev",
     "staging"}
)  # fmt: skip
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


@lru_cache(maxsize=4096)
def promised(name: str) -> tuple[str, Strength] | None:
    """(rule, how surely) when a name promises a secret, else None."""
    words = [word.lower() for word in _WORD.findall(name[-120:])]
    while words and (words[-1] in _NEUTRAL or words[-1].isdigit()) and len(words) > 1:
        words.pop()
    if not words:
        return None
    last, before = words[-1], words[-2] if len(words) > 1 else ""
    if before in _HARMLESS_BEFORE:
        return None
    for rule, of_rule in _SURE.items():
        if last in of_rule or (last == "pass" and before and before not in _NO_PASSWORD_BEFORE):
            return (rule if last != "pass" else "password"), "sure"
    if pair := _PAIRS.get((before, last)):
        return pair, "likely"
    for rule, of_rule in _LIKELY.items():
        if last in of_rule:
            return rule, "likely"
    # Written in one: PGPASSWORD, csrfmiddlewaretoken, clientsecret.
    for ending, (rule, strength) in _ENDINGS.items():
        if last.endswith(ending):
            return rule, strength
    return (
        ("token", "likely") if last == "tokens" and before in ("auth", "access", "refresh", "api", "bearer") else None
    )


ENTROPY_MIN = (
    2.2  # bits per sign; `xoxp-XXXXXXXX-XXXXXXXX` in a manual has 1.2, the weakest random token of 12 signs 2.5
)

# What stands where a secret would: nothing was given, or a variable, or somebody has taken it out already.
_PLACEHOLDER = re.compile(
    rb"(?i)(?:|true|false|null|none|nil|undefined|yes|no|on|off|enabled?|disabled?|unset|empty|\(null\)|\(none\)|n/a"
    rb"|-+|\?+|\.{2,}|\*+|(?:[*x.#_-]|\xe2\x80\xa2){3,}|\[?(?:redacted|filtered|masked|hidden|removed)\]?"
    rb"|\[(?:secret|protected|password|token)\]|your[-_ ].*|<[^<>]{0,60}>"
    rb"|(?-i:\$[A-Z_][A-Z0-9_]*|%[A-Z_]+%)|\$\d|\$\{[^{}]*\}|\$\{\{.*\}\}|\{\{.*\}\}|\{[a-z_.]*\}|%s|%\(\w+\)s|\$\(.*|`[^`]*`)"
)
_SAME_SIGN = re.compile(rb"(.)\1{7}")  # `ghp_xxxxxxxxxxxx`; by chance in one of 10**11 random tokens
_SAID_OF = frozenset(
    b"required invalid missing incorrect wrong expired empty accepted rejected failed failure failing error unknown "
    b"denied valid changed updated reset set unset ok success successful authentication mismatch mismatched must "
    b"should cannot not is was the for a an and or string str bytes int bool optional any".split()
)
# Source code, as a traceback shows it: `password=password`, `token = request.headers.get("x")`, `secret=self.secret`.
_CALL = re.compile(
    rb"(?:[a-z_]+\.)*[A-Za-z_]+(?:\(\w*\)?|\[)|(?:self|os|settings|config|env|request|cfg|args|options|params)\.[A-Za-z_.]+"
)
_CODE = re.compile(
    rb"[A-Za-z_]+(?:\.[A-Za-z_]+)+|(?:[a-z_]+|(?:[A-Z][a-z]+)+)(?:\.[a-z_]+)*[(\[].*|[a-z_][a-z0-9_.]*\(\)[a-z.]*"
    rb"|[A-Z][a-z]+[A-Z][A-Za-z]*|(?:[A-Z][a-z]+)+\{.*|(?:[A-Za-z_$]+\.)*[A-Z][A-Za-z$]*@[0-9a-f]{1,8}",
    re.DOTALL,
)


def is_secret(value: bytes, rule: str, strength: Strength, name: bytes, *, quoted: bool) -> bool:
    """Whether a value that stands under a promising name is one, not a placeholder, a piece of code or a remark.

    When in doubt yes: a remark that is lost costs a sentence, a secret that is kept cannot be recalled.
    """
    bare = value.strip()
    if not bare.strip(b",:;{}[]() \t\r\n"):
        return False  # what stands between two strings of JSON
    if _PLACEHOLDER.fullmatch(bare) or bare.lower() in _SAID_OF:
        return False
    if not quoted and (bare == name or _CALL.fullmatch(bare)):
        return False
    if rule == "pin":
        return bare.isdigit() and 3 <= len(bare) <= 8
    if strength == "sure":
        return not (bare.isdigit() and len(bare) < 2)
    if bare.isdigit():
        return len(bare) >= 6
    if bare.startswith((b"http://", b"https://", b"file://", b"/")) and not quoted:
        return False
    if bare.startswith((b"http://", b"https://", b"file://")):
        return False
    if not quoted and _CODE.fullmatch(bare):
        return False
    if bare.isalpha() and len(bare) < 8 and not quoted:
        return False
    if rule in ("session", "signature"):
        # A short one, or one of digits alone, is a counter: `sessionid: 0x14ede63a5a70002` of ZooKeeper.
        mixed = any(chr(sign).isdigit() for sign in bare) and any(chr(sign).isalpha() for sign in bare)
        return len(bare) >= 16 and mixed and not bare.startswith(b"0x") and len(bare.split()) == 1
    return len(bare) >= 4 and not (len(bare) >= 12 and (entropy(bare) < ENTROPY_MIN or _SAME_SIGN.search(bare)))
