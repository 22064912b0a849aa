"""Frames as the command line shows them: one place, or a call path below the row it explains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .formats.table import Place, Report

if TYPE_CHECKING:
    from glassbottom.wire.v1 import common_pb2

# So many frames lead from what held the loop to the handler it ran for; --stacks shows the others.
FRAMES_SHOWN = 8


def place(frame: common_pb2.Frame) -> Place:
    """The frame as `file:line function`."""
    return Place(frame.function, frame.file, frame.line)


def known(frame: common_pb2.Frame) -> bool:
    """False for the frame that stands for a place nobody knows."""
    return bool(frame.file or frame.function)


def add_path(
    report: Report, path: Sequence[common_pb2.Frame], frames: int | None = FRAMES_SHOWN, indent: int = 4
) -> None:
    """Adds a call path, innermost first, one frame per line; `frames` at most, None for all."""
    shown = path if frames is None else path[:frames]
    for frame in shown:
        report.line(f"{' ' * indent}{place(frame).text()}", "dim", hanging=indent + 2)
    if len(path) > len(shown):
        report.line(f"{' ' * indent}and {len(path) - len(shown)} more", "dim")
