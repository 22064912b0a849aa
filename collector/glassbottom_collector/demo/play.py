"""Runs the demonstration from start to verdict, and ends everything it started."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from .. import cli
from ..errors import CollectorError
from . import load, processes, verdict

# The last snapshot of the driven time must have been sent and committed.
SETTLE_S = 2 * processes.SNAPSHOT_INTERVAL_S
ENDED_BY_A_PERSON = 130
HERE = Path(__file__).resolve().parent


class Ended(Exception):  # noqa: N818 - a person's wish, no error
    """Somebody pressed Ctrl-C, or sent SIGTERM."""


class Ending:
    """Ctrl-C and SIGTERM as a question that is asked between steps, and never in the middle of one.

    An exception raised wherever the interpreter happens to be would leave half-made objects behind. The second
    signal does that all the same: whoever presses twice wants it.
    """

    def __init__(self) -> None:
        self._asked = False

    def check(self) -> None:
        """Raises Ended when it is time."""
        if self._asked:
            raise Ended

    def sleep(self, seconds: float) -> None:
        """Waits that long, or until it is time."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.check()
            time.sleep(min(left, 0.2))

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        """Listens to both, and gives them back at the end."""
        before = {which: signal.signal(which, self._ask) for which in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for which, handler in before.items():
                signal.signal(which, handler)

    def _ask(self, _signal: int, _frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True


def play(seconds: float, *, keep: bool) -> int:
    """The whole demonstration; returns the exit code."""
    ending = Ending()
    try:
        with ending.on_signals(), contextlib.ExitStack() as ends:
            return _play(seconds, keep, ends, ending)
    except Ended:
        _say("ended; everything that was started is stopped.")
        return ENDED_BY_A_PERSON
    except CollectorError as error:
        _say(str(error))
        return 1


def _play(seconds: float, keep: bool, ends: contextlib.ExitStack, ending: Ending) -> int:
    directory = Path(tempfile.mkdtemp(prefix="glassbottom-demo-"))
    ends.callback(shutil.rmtree, directory, ignore_errors=True)
    # Where a user's own code lies: code in site-packages counts as a library, and would not be named first.
    source = Path(shutil.copy(HERE / "shop.py", directory)).read_text()

    _say('starting a collector, and a FastAPI shop with `glassbottom.init(service="shop")` in it')
    collector = processes.collector(directory / "data")
    ends.callback(collector.stop)
    address = collector.wait_until_ready(ending.check)[1]
    shop = processes.shop(directory, address)
    ends.callback(shop.stop)
    measured = _measure(directory, ending)
    shop_address = shop.wait_until_ready(ending.check)[1]
    _say(
        f"collector at {address}, shop at http://{shop_address}; "
        f"one session holds {measured['bytes'] / verdict.MIB:.2f} MiB"
    )

    def all_is_well() -> None:
        ending.check()
        collector.check()
        shop.check()

    def watch(elapsed_s: float, driven: load.Driven) -> None:
        all_is_well()
        if round(elapsed_s) % 10 == 0:
            _say(
                f"{elapsed_s:3.0f} s of {seconds:g}: {len(driven.sessions_at_ns)} WebSocket sessions opened, "
                f"{driven.pages} pages, {driven.orders} orders"
            )

    started_ns = time.time_ns()
    driven = _drive(shop_address, seconds, watch, all_is_well)
    stopped_ns = time.time_ns()
    ending.sleep(SETTLE_S)

    truth = verdict.Truth(
        leak=verdict.find_place(source, "json.loads("),
        cache=verdict.find_place(source, "page = ["),
        session_bytes=measured["bytes"],
        session_types=measured["types"],
        sessions_at_ns=driven.sessions_at_ns,
    )
    asked = ["leaks", "--addr", address, "--service", "shop"]
    asked += ["--from", _rfc3339(started_ns), "--to", _rfc3339(stopped_ns)]
    _say(f"the verdict, as `glassbottom {' '.join(asked[:5])}` gives it:")
    sys.stderr.flush()
    cli.main(asked)
    checks = verdict.compare(_answer([*asked, "--all", "-o", "json"]), truth)
    print("\nBeside the truth, which the collector does not know:")
    for check in checks:
        print(f"  {'right' if check.holds else 'WRONG'}  {check.sentence}")
    agrees = all(check.holds for check in checks)
    print(f"\n{'The verdict agrees with the truth.' if agrees else 'The verdict does not agree with the truth.'}")
    _tell_how_to_look_further(address, keep=keep)
    if keep:
        _stay(collector, ending)
    return 0 if agrees else 1


def _drive(
    address: str, seconds: float, watch: Callable[[float, load.Driven], None], all_is_well: Callable[[], None]
) -> load.Driven:
    async def open_and_drive() -> load.Driven:
        await load.wait_until_open(address, all_is_well)
        return await load.drive(address, seconds, watch)

    try:
        return asyncio.run(open_and_drive())
    except TimeoutError:
        all_is_well()
        raise CollectorError(f"The shop at {address} runs but does not answer.") from None
    except BaseExceptionGroup as group:
        # When a process has ended, its clients may have noticed first; then its own last words are told, not theirs.
        all_is_well()
        raise CollectorError(f"A client of the shop failed: {_first_of(group)!r}.") from group


def _first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    first = group.exceptions[0]
    return _first_of(first) if isinstance(first, BaseExceptionGroup) else first


def _measure(directory: Path, ending: Ending) -> dict[str, Any]:
    command = [sys.executable, str(HERE / "measure.py"), str(directory)]
    environment = {**processes.environment(), "GLASSBOTTOM_DISABLE": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL, check=False
    )
    ending.check()  # Ctrl-C at a terminal has ended it as well
    if done.returncode != 0:
        raise CollectorError(f"Measuring one session failed.\n{done.stderr}")
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


def _answer(command: list[str]) -> dict[str, Any]:
    written, told = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(written), contextlib.redirect_stderr(told):
        code = cli.main(command)
    if not written.getvalue():
        raise CollectorError(f"`glassbottom {command[0]}` gave no answer (exit code {code}).\n{told.getvalue()}")
    answer: dict[str, Any] = json.loads(written.getvalue())
    return answer


def _tell_how_to_look_further(address: str, *, keep: bool) -> None:
    print("\nTo look further" + (", from another terminal:" if keep else ", run `glassbottom demo --keep` and ask it:"))
    where = f"--addr {address}" if keep else "--addr HOST:PORT"
    for question, answer in (
        (f"glassbottom top {where} --service shop", "which lines hold memory now"),
        (f"glassbottom diff {where} --service shop --from 1m --to now", "what grew in the last minute"),
        (f"glassbottom timeline {where} --service shop", "how its memory moved"),
        (f"glassbottom top {where} --service shop -o html > heap.html", "a flame graph for the browser"),
        (f"glassbottom status {where}", "what watching costs the shop, and what was lost"),
    ):
        print(f"  {question:<68}  {answer}")


def _stay(collector: processes.Process, ending: Ending) -> None:
    _say("the collector and the shop stay until Ctrl-C.")
    with contextlib.suppress(Ended):
        while True:
            ending.sleep(1)
            collector.check()


def _rfc3339(at_ns: int) -> str:
    return datetime.fromtimestamp(at_ns / 1e9, UTC).isoformat().replace("+00:00", "Z")


def _say(sentence: str) -> None:
    print(f"glassbottom demo: {sentence}", file=sys.stderr, flush=True)
