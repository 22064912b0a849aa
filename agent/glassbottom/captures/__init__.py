"""Deep captures: what is too dear to do all the time, done once, because a person asked for it.

An order comes through the collector and names one of the kinds below; no code ever travels. The desk (desk.py) decides
whether it may be carried out, runs one at a time in a thread of its own, and hands the file to the upload (upload.py).
A kind is a class that satisfies Capture, in the module that KINDS names, imported when first asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from .. import _threads
from .._errors import CaptureError as CaptureError


@dataclass(frozen=True)
class Order:
    """What was asked for. Checked by the desk: numbers lie within its bounds, texts are short.

    id: 32 hexadecimal digits, chosen by the collector. kind: a key of KINDS. seconds: how long to watch, for kinds that
    watch; the longest it may take, for others. bytes_max: of the file. lease_until_ns: nanoseconds since the Unix
    epoch; by then the capture has ended and its file is gone. options: for the kind, such as {"native": "1"}.
    """

    id: str
    kind: str
    seconds: float
    bytes_max: int
    lease_until_ns: int
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Made:
    """What came of it.

    path: the file, within the directory that run() was given; None when the facts are all there is. facts: shown to
    the person who asked, and kept with the file: numbers with their unit in the name (`pause_ms`, `objects`), or short
    texts. They hold no value of the application's.
    """

    path: Path | None
    facts: Mapping[str, float | str] = field(default_factory=dict)


class Capture(Protocol):
    """One kind. Made without arguments, once for each order."""

    kind: str

    def refusal(self, order: Order) -> str | None:
        """Why this must not be done now, in one sentence that says what would have to change; None when it may.

        Only looks: it changes nothing and takes some milliseconds. Called in the sender's thread, for which a fork
        waits: what run() needs is imported here and not there, since a child forked while another thread imports a
        module would wait for that module for ever.
        """
        ...

    def run(self, order: Order, directory: Path, ending: _threads.Event) -> Made:
        """Does it, in the desk's thread, and leaves at most one file of at most order.bytes_max in directory.

        directory is empty, only this user can read it, and it goes when the capture is over. ending is set when it is
        to end early: the lease is over, or the agent stops; what there is by then may be returned. Waits only by
        ending.wait() and by what _threads offers. Raises CaptureError, with a sentence, when nothing came of it;
        another exception is a mistake of ours, and is reported as one.
        """
        ...


KINDS = {
    "dump_heap": ("heap", "HeapCapture"),
    "dump_memray": ("memray", "MemrayCapture"),
    "dump_stacks": ("pyspy", "StacksCapture"),
    "dump_cpu": ("pyspy", "CpuCapture"),
    "gc_collect": ("collect", "CollectCapture"),
    "malloc_trim": ("trim", "TrimCapture"),
    "state": ("state", "StateCapture"),
}
"""Every kind by its name in GLASSBOTTOM_COMMANDS: the module of this package and the class."""


def find(kind: str) -> Capture:
    """A capture of that kind. Raises CaptureError when there is none, or what it needs is not installed."""
    home = KINDS.get(kind)
    if home is None:
        raise CaptureError(f"This agent does not know captures of kind {kind!r}; it may be older than the collector.")
    module, name = home
    try:
        made = getattr(import_module(f"{__name__}.{module}"), name)()
    except (ImportError, AttributeError) as error:
        raise CaptureError(f"This agent cannot make captures of kind {kind!r}: {error}.") from error
    return cast(Capture, made)
