"""Whose code a place is: the application's own, or what it is built upon.

What a person can mend is a line of the application. A call path ends in the standard library or an installed package
more often than not, and then the nearest line of the application on it is the place to look at.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from .code import Frame

# What no application author wrote: the standard library and installed packages, wherever an interpreter keeps them.
_NOT_THE_APPLICATION = re.compile(r"/(site|dist)-packages/|/lib/python\d+(\.\d+)?/|/python\d+\.zip/|^<")


def is_application(frame: Frame) -> bool:
    """Whether the application's author wrote it, judged by its path."""
    return _NOT_THE_APPLICATION.search(frame.file) is None


def application_frame(path: Sequence[Frame]) -> Frame | None:
    """The innermost line of the application on a call path (innermost first); None when there is none."""
    return next((frame for frame in path if frame.file and is_application(frame)), None)
