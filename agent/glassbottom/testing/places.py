"""Names for lines: which function a line is in, and which of a call path's lines are the application's own."""

from __future__ import annotations

import ast
import linecache
import os
import sysconfig
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

_NOT_THE_APPLICATION = tuple(
    sorted({path + os.sep for name, path in sysconfig.get_paths().items() if name in ("stdlib", "platstdlib")})
)


def describe(file: str, line: int) -> str:
    """ "FILE:LINE function"; the file as seen from the current directory where it is below it."""
    function = _function(file, line)
    here = str(Path.cwd()) + os.sep
    shown = file.removeprefix(here)
    return f"{shown}:{line} {function}".rstrip()


def caller_in_application(frames: Iterable[tuple[str, int]], ours: str) -> tuple[str, int] | None:
    """The innermost line that is the application's; None if the very innermost is. frames: innermost first."""
    for depth, (file, line) in enumerate(frames):
        if file.startswith(ours):
            return None
        if is_application(file):
            return (file, line) if depth else None
    return None


def is_application(file: str) -> bool:
    """Whether a file belongs neither to the standard library nor to an installed package."""
    if file.startswith("<") or f"{os.sep}site-packages{os.sep}" in file or f"{os.sep}dist-packages{os.sep}" in file:
        return False
    return not file.startswith(_NOT_THE_APPLICATION)


@lru_cache(maxsize=64)
def _functions(file: str) -> list[tuple[int, int, str]]:
    """(first line, last line, qualified name) of every function in a file."""
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):
        return []
    found: list[tuple[int, int, str]] = []

    def walk(node: ast.AST, inside: str) -> None:
        for child in ast.iter_child_nodes(node):
            name = inside
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                name = f"{inside}.{child.name}" if inside else child.name
                if not isinstance(child, ast.ClassDef):
                    found.append((child.lineno, child.end_lineno or child.lineno, name))
            walk(child, name)

    walk(tree, "")
    return found


def _function(file: str, line: int) -> str:
    inside = [(last - first, name) for first, last, name in _functions(file) if first <= line <= last]
    return min(inside)[1] if inside else ""
