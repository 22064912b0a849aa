"""Everything the collector can raise on purpose.

* CollectorError
  + ConfigError        the configuration is wrong; the message says which key and what would be right
  + StorageError       the store cannot do it now; the caller may retry
    - StorageFull      no space, or the byte cap is reached
  + NotFound           no such service or instance; the message lists what there is
  + BadRequest         the question cannot be answered as asked
  + HeapDumpError      a heap dump cannot be read; the message says where it goes wrong
  + ArchiveError       an archive of an incident is damaged, hostile, or newer than this program
"""

from __future__ import annotations


class CollectorError(Exception):
    """Base of all errors of the collector. The message is one sentence for a person."""


class ConfigError(CollectorError):
    """The configuration is wrong."""


class StorageError(CollectorError):
    """The store cannot do it now."""


class StorageFull(StorageError):  # noqa: N818 - a state, not an error class name
    """The store has no room."""


class NotFound(CollectorError):  # noqa: N818
    """What was asked for does not exist."""


class BadRequest(CollectorError):  # noqa: N818
    """The question cannot be answered as asked."""


class HeapDumpError(CollectorError):
    """A heap dump cannot be read."""


class ArchiveError(CollectorError):
    """An archive cannot be used."""
