"""Archives of incidents, opened here: no collector is needed to look into one, or to ask it.

Reaches into the collector's code, late, as heap_files.py does: it needs the collector's extra.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from .exits import CliError, Exit
from .timespec import standing_at


class Archive(Protocol):
    """What is needed of one."""

    @property
    def id(self) -> str: ...

    @property
    def manifest(self) -> Mapping[str, Any]: ...

    @property
    def files(self) -> Mapping[str, bytes]: ...

    def json(self, path: str) -> Any: ...


class ArchiveRefused(CliError):  # noqa: N818 - as in exits.py
    """It is damaged, hostile or too new."""

    exit = Exit.REFUSED


def opened(path: Path) -> Archive:
    """An archive whose every file is what its manifest says. Raises CliError."""
    from ..archive.opened import open_archive
    from ..errors import ArchiveError

    try:
        return open_archive(path)
    except ArchiveError as error:
        raise ArchiveRefused(str(error)) from None


@contextmanager
def answering(archive: Archive) -> Iterator[str]:
    """The address of a collector that has its rows; inside, now is when it was captured. Raises CliError."""
    from ..archive.opened import Opened
    from ..archive.rows import last_moment_ns
    from ..archived import answering as collector
    from ..errors import ArchiveError

    assert isinstance(archive, Opened)
    try:
        with collector(archive) as address, standing_at(last_moment_ns(archive)):
            yield address
    except ArchiveError as error:
        raise ArchiveRefused(str(error)) from None


def scanned(archive: Archive) -> list[tuple[str, int, str]]:
    """What still looks like a secret in it: path, line and rule."""
    from ..redaction.scan import scan

    return [(hit.path, hit.line, hit.rule) for path, data in archive.files.items() for hit in scan(path, data)]
