"""Where answers go: standard output or a file, as a table or one of the other formats.

Progress is the one thing shown while waiting, on standard error, and only to a person.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from .exits import CliError, UsageError
from .text import safe

if TYPE_CHECKING:
    from .formats.table import Report

TABLE_OR_JSON = ("table", "json")
PROFILE_FORMATS = ("pprof", "folded", "speedscope", "html")


def add_arguments(parser: argparse.ArgumentParser, formats: Sequence[str] = TABLE_OR_JSON) -> None:
    """Declares `-o FORMAT` and `--output FILE`."""
    group = parser.add_argument_group("output")
    group.add_argument(
        "-o",
        "--format",
        choices=formats,
        metavar="FORMAT",
        default=formats[0],
        help=f"{', '.join(formats)} ({formats[0]})",
    )
    group.add_argument("--output", metavar="FILE", type=Path, help="write there instead of standard output")


def answer(
    args: argparse.Namespace, report: Callable[[], Report], document: Callable[[], Mapping[str, object]]
) -> None:
    """Writes the answer as a table or as JSON; only the one asked for is built."""
    from .formats import json, table

    with _text_stream(args) as stream:
        if args.format == "json":
            stream.write(json.dumps(document()))
        else:
            table.write(report(), stream)


def write_text(args: argparse.Namespace, text: str) -> None:
    """Writes text as it is."""
    with _text_stream(args) as stream:
        stream.write(text)


def write_bytes(args: argparse.Namespace, data: bytes) -> None:
    """Writes binary data."""
    if args.output is None:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    with _opening(args.output):
        args.output.write_bytes(data)


def refuse_binary_on_a_terminal(args: argparse.Namespace) -> None:
    """Raises UsageError before any work is done for an answer that would garble the terminal."""
    if args.format == "pprof" and args.output is None and sys.stdout.isatty():
        raise UsageError("pprof is binary and this is a terminal; add --output heap.pb.gz, or redirect with >.")


class Progress:
    """One line on standard error that is overwritten, and gone at the end; nothing unless that is a terminal."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._visible = self._stream.isatty()
        self._shown = ""

    def __enter__(self) -> Self:
        return self

    def show(self, stage: str, done: int = 0, total: int = 0) -> None:
        """Shows a stage and how far it is; `total` 0 means unknown."""
        far = f" {done}/{total}" if total else f" {done}" if done else ""
        line = f"{safe(stage)[:60]}{far} …"
        if self._visible and line != self._shown:
            self._stream.write(f"\r\x1b[2K{line}")
            self._stream.flush()
            self._shown = line

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shown:
            self._stream.write("\r\x1b[2K")
            self._stream.flush()


@contextmanager
def _text_stream(args: argparse.Namespace) -> Iterator[TextIO]:
    if args.output is None:
        yield sys.stdout
        return
    with _opening(args.output), args.output.open("w", encoding="utf-8") as stream:
        yield stream


@contextmanager
def _opening(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CliError(f"cannot write {path}: {error.strerror}.") from None
