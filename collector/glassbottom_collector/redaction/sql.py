"""Statements of SQL without what was in them: literals become `?`, comments go, lists of literals become one.

A lexer, no parser: it must take statements that are cut off in the middle, of three dialects, at the rate of a log,
and never fail. Whether something is a literal can be told from its first sign. Where a dialect would be needed to
tell and is unknown, what could be a literal is one. (sqlglot parses 100 to 1 000 times slower, and refuses half a
statement.)
"""

from __future__ import annotations

import re
from typing import Literal

Dialect = Literal["postgresql", "mysql", "sqlite"]

# The order is the meaning: what stands earlier in this list wins at the same place. What is not closed goes to the end.
_COMMON = {
    "comment": r"--[^\n]*|/\*(?:[^*]|\*(?!/))*(?:\*/|\Z)",
    "dollar": r"\$([A-Za-z_\x80-\U0010ffff][\w\x80-\U0010ffff]*)?\$",
    "escaped": r"[eE]'(?:[^'\\]|\\.|'')*(?:'|\\?\Z)",
    "string": r"(?:\b[uU]&|\b[bBxXnN]|\b_[a-z0-9]+\s*)?'(?:[^']|'')*(?:'|\Z)",
    "parameter": r"\$\d+|:[A-Za-z_]\w*|%\(\w+\)s|%s|@\w+|\?",
    "quoted": r'"(?:[^"]|"")*(?:"|\Z)|`(?:[^`]|``)*(?:`|\Z)|\[[A-Za-z_][\w ]*\]',
    "cast": r"::\s*[A-Za-z_]\w*",
    "word": r"[A-Za-z_\x80-\U0010ffff][\w$\x80-\U0010ffff]*",
    "number": r"0[xXoObB][0-9a-fA-F_]+|(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?\w*",
    "rest": r"\s+|.",
}
_MYSQL = _COMMON | {
    "comment": r"#[^\n]*|" + _COMMON["comment"],
    "string": r"""(?:\b[bBxXnN]|\b_[a-z0-9]+\s*)?'(?:[^'\\]|\\.|'')*(?:'|\\?\Z)|"(?:[^"\\]|\\.|"")*(?:"|\\?\Z)""",
    "quoted": r"`(?:[^`]|``)*(?:`|\Z)",
    "dollar": r"(?!)",
}


def _lexer(kinds: dict[str, str]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?P<{kind}>{form})" for kind, form in kinds.items()), re.DOTALL)


_LEXERS: dict[str, re.Pattern[str]] = {
    "postgresql": _lexer(_COMMON),
    "sqlite": _lexer(_COMMON),
    "mysql": _lexer(_MYSQL),
}
_LIST = re.compile(r"\(\s*\?(?:\s*,\s*\?)+\s*\)")
_ROWS = re.compile(r"(\([?, A-Za-z0-9_$]{1,2000}\))(?:\s*,\s*\1)+")
_SIGNED = re.compile(r"(?<=[=(,<>+*/|-])(\s*)[+-]\s*\?")
_IDENTIFIER = re.compile(r'"[^"\s@]{1,63}"')


def without_literals(statement: str, dialect: Dialect = "postgresql") -> str:
    """The statement as every call of it looks. Raises nothing, whatever the text."""
    lexer = _LEXERS[dialect]
    parts: list[str] = []
    at = 0
    while at < len(statement):
        match = lexer.match(statement, at)
        assert match is not None  # `rest` takes any sign
        kind, token = match.lastgroup, match.group()
        at = match.end()
        if kind in ("string", "escaped", "number"):
            parts.append("?")
        elif kind == "comment":
            parts.append(" ")
        elif kind is not None and token.startswith("$") and token.endswith("$"):
            end = statement.find(token, at)
            at = len(statement) if end < 0 else end + len(token)
            parts.append("?")
        elif kind == "quoted" and token.startswith('"') and not _IDENTIFIER.fullmatch(token):
            parts.append("?")  # no name that anybody gives: MySQL's string, or one that is not closed
        else:
            parts.append(token)
    text = re.sub(r"[ \t\r\n]+", " ", "".join(parts)).strip()
    return _ROWS.sub(r"\1", _LIST.sub("(?)", _SIGNED.sub(r"\1?", text)))
