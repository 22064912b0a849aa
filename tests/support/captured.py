"""Deep captures as the desk runs them: in a thread of their own, in an empty directory, with an event to end them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from glassbottom import _threads
from glassbottom.captures import Capture, CaptureError, Made, Order, find


def order(kind: str, seconds: float = 0.2, bytes_max: int = 64 << 20, **options: str) -> Order:
    """An order that may take long."""
    return Order("0" * 32, kind, seconds, bytes_max, 2**62, options)


def captured(
    wanted: Order,
    directory: Path,
    meanwhile: Callable[[_threads.Event], None] | None = None,
    capture: Capture | None = None,
) -> Made:
    """What comes of an order that is accepted; raises what run() raises. meanwhile: called while it runs."""
    capture = capture or find(wanted.kind)
    assert capture.refusal(wanted) is None
    directory.mkdir(exist_ok=True)
    ending = _threads.Event()
    outcome: list[Made | CaptureError] = []

    def run() -> None:
        try:
            outcome.append(capture.run(wanted, directory, ending))
        except CaptureError as error:
            outcome.append(error)

    thread = _threads.Thread(run, "glassbottom-capture")
    thread.start()
    if meanwhile is not None:
        meanwhile(ending)
    assert thread.wait(60)
    (made,) = outcome
    if isinstance(made, CaptureError):
        raise made
    files = sorted(directory.iterdir())
    assert files == ([made.path] if made.path is not None else []), "one file at most"
    return made
