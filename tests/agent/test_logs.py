"""The last log records: what is kept of them, and that logging is for the application what it was."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator

import pytest
from glassbottom import logs

from tests.agent.test_public_face import run


@pytest.fixture
def ring() -> Iterator[logs.Ring]:
    ring = logs.Ring(1000)
    logs.install(ring)
    yield ring
    logs.uninstall(ring)


@pytest.fixture
def log() -> logging.Logger:
    """A logger of its own, which nobody else can find: pytest puts handlers that format on all others."""
    log = logging.Logger("tested.logs", logging.INFO)
    log.addHandler(logging.NullHandler())
    return log


class Loud:
    """Counts how often somebody asks for its text."""

    def __init__(self) -> None:
        self.asked = 0

    def __str__(self) -> str:
        self.asked += 1
        return "secret of the application"


def messages(ring: logs.Ring) -> list[str]:
    return [each["message"] for each in ring.read()]


def test_a_record_is_kept_with_its_time_level_logger_thread_and_message(ring: logs.Ring, log: logging.Logger):
    log.info("order %d of %s took %.1f ms", 7, "shop", 1.25)
    (record,) = ring.read()
    assert abs(record["at_ns"] / 1e9 - logging.LogRecord("", 0, "", 0, "", (), None).created) < 60
    assert record["message"] == "order 7 of shop took 1.2 ms"
    assert (record["level"], record["logger"], record["thread"]) == ("INFO", "tested.logs", "MainThread")
    assert record["exception"] == ""


def test_below_the_level_and_behind_a_filter_nothing_is_kept(ring: logs.Ring, log: logging.Logger):
    log.debug("below")
    log.addFilter(lambda record: "no" not in record.msg)
    log.info("no")
    log.info("yes")
    assert messages(ring) == ["yes"]


def test_what_a_handler_has_formatted_is_taken_and_not_formatted_again(ring: logs.Ring, log: logging.Logger):
    handler = logging.StreamHandler(open(os.devnull, "w"))  # noqa: SIM115 - closed below
    log.addHandler(handler)
    loud = Loud()
    log.info("said %s", loud)
    assert (messages(ring), loud.asked) == (["said secret of the application"], 1)
    handler.stream.close()


def test_where_no_handler_formats_no_code_of_the_application_is_called(ring: logs.Ring, log: logging.Logger):
    loud = Loud()
    log.info("said %s and %5.2f to %d%%", loud, loud, 3)
    log.info("said %(what)s", {"what": loud})
    log.info(loud)
    assert messages(ring) == ["said <Loud> and <Loud> to 3%", "said <Loud>", "<Loud>"]
    assert loud.asked == 0


def test_nothing_of_the_application_lives_longer(ring: logs.Ring, log: logging.Logger):
    import weakref

    loud = Loud()
    gone = weakref.ref(loud)
    try:
        raise ValueError(loud)
    except ValueError:
        log.exception("with %s", loud)
    del loud
    assert gone() is None
    assert len(ring.read()) == 1


def test_an_exception_is_kept_with_places_and_causes_without_source_and_locals(ring: logs.Ring, log: logging.Logger):
    def fail(password: str) -> None:
        raise KeyError("missing")

    try:
        try:
            fail("hunter2")
        except KeyError as error:
            raise ValueError("wrong order") from error
    except ValueError:
        log.exception("failed")
    (record,) = ring.read()
    text = record["exception"]
    assert text.startswith("Traceback (most recent call last):\n")
    assert "hunter2" not in text
    assert "raise" not in text
    assert f'File "{__file__}"' in text
    assert "in fail\nKeyError: 'missing'\n\nThe above exception was the direct cause" in text
    assert text.endswith("ValueError: wrong order\n")


def test_an_exception_whose_text_the_application_makes_is_told_by_its_class_unless_it_was_asked_already(
    ring: logs.Ring, log: logging.Logger
):
    class Odd(Exception):
        def __str__(self) -> str:
            return "made"

    def fail() -> None:
        try:
            raise Odd
        except Odd:
            log.exception("failed")

    fail()
    log.addHandler(logging.StreamHandler(open(os.devnull, "w")))  # noqa: SIM115
    fail()
    unasked, asked = (each["exception"] for each in ring.read())
    assert unasked.endswith("Odd\n")
    assert asked.endswith("Odd: made\n")


def test_a_deep_traceback_keeps_its_beginning_and_its_end(ring: logs.Ring, log: logging.Logger):
    def deep(left: int) -> None:
        if left == 0:
            raise RecursionError
        deep(left - 1)

    try:
        deep(200)
    except RecursionError:
        log.exception("deep")
    (record,) = ring.read()
    assert "[162 frames left out]" in record["exception"]
    assert record["exception"].count("in deep") == 39


def test_only_so_many_records_and_so_many_bytes_are_kept_and_the_rest_is_counted(log: logging.Logger):
    ring = logs.Ring(10)
    logs.install(ring)
    try:
        for i in range(25):
            log.info("%d", i)
        assert messages(ring) == [str(i) for i in range(15, 25)]
        assert ring.statistics() == {
            "log_records": 10,
            "log_records_max": 10,
            "log_records_total": 25,
            "log_records_dropped_total": 15,
        }
        log.info("x" * 5000)
        assert messages(ring)[:-1] == [str(i) for i in range(20, 25)]
        log.info("y" * 1_000_000)
        assert ring.statistics()["log_records"] == 1
        assert sum(map(len, messages(ring))) < 10 * logs.SLOT_BYTES
    finally:
        logs.uninstall(ring)


def test_characters_of_many_bytes_count_as_such(log: logging.Logger):
    ring = logs.Ring(10)
    logs.install(ring)
    try:
        log.info("first")
        log.info("\N{SNOWMAN}" * 2400)
        assert len(ring.read()) == 1
    finally:
        logs.uninstall(ring)


def test_a_mistake_in_a_log_call_does_no_harm(ring: logs.Ring, log: logging.Logger):
    log.info("%d %d", 1)
    log.info("%d", "no number")
    log.info("%(missing)s", {"name": 1})
    assert messages(ring) == ["%d %d", "%d", "%(missing)s"]


def test_a_handler_that_raises_raises_as_before_and_the_record_is_kept(ring: logs.Ring, log: logging.Logger):
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError("the disk is full")

    log.addHandler(Broken())
    with pytest.raises(OSError, match="disk is full"):
        log.info("said")
    assert messages(ring) == ["said"]


def test_who_looks_for_the_caller_past_the_frames_of_logging_finds_it(ring: logs.Ring, log: logging.Logger):
    """As loguru's InterceptHandler and others do."""
    found: list[str] = []

    class Looking(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            frame = sys._getframe(1)
            while frame.f_back is not None and frame.f_code.co_filename == logging.__file__:
                frame = frame.f_back
            found.append(frame.f_code.co_name)

    log.addHandler(Looking())
    log.info("said")
    assert found == ["test_who_looks_for_the_caller_past_the_frames_of_logging_finds_it"]
    assert len(ring.read()) == 1


def test_many_threads_lose_nothing(ring: logs.Ring, log: logging.Logger):
    def work(number: int) -> None:
        for i in range(100):
            log.info("%d %d", number, i)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(messages(ring))) == 800


def test_a_signal_handler_may_log_in_the_middle_of_a_log_call(ring: logs.Ring, log: logging.Logger):
    before = signal.signal(signal.SIGALRM, lambda *_: log.info("from the handler"))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        for i in range(3000):
            log.info("%d", i)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert messages(ring).count("from the handler") + len({each for each in messages(ring) if each.isdigit()}) == 1000


def test_what_wraps_ours_later_stays_and_a_second_agent_is_not_put_twice(log: logging.Logger):
    original = logging.Logger.callHandlers
    first, second = logs.Ring(10), logs.Ring(10)
    logs.install(first)
    ours = logging.Logger.callHandlers

    def wrapping(self: logging.Logger, record: logging.LogRecord) -> None:
        ours(self, record)

    logging.Logger.callHandlers = wrapping  # type: ignore[method-assign]
    try:
        logs.uninstall(first)
        log.info("between")
        logs.install(second)
        log.info("again")
        assert (messages(first), messages(second)) == ([], ["again"])
        assert logging.Logger.callHandlers is wrapping
    finally:
        logging.Logger.callHandlers = ours  # type: ignore[method-assign]
        logs.uninstall(second)
    assert logging.Logger.callHandlers is original


def test_basic_config_and_the_last_resort_work_as_without_the_agent():
    code = """
import logging, sys, glassbottom
glassbottom.init(service="x", connect_delay_s=60)
from glassbottom import logs
assert not logging.getLogger().handlers and not logging.getLogger().hasHandlers()
logging.warning("first") if len(sys.argv) > 1 else logging.getLogger("a").warning("by the last resort")
logging.basicConfig(format="%(levelname)s|%(message)s|%(funcName)s")
logging.getLogger("a").warning("configured")
print([each["message"] for each in logs.current().read()])
glassbottom.shutdown()
assert "glassbottom" not in logging.Logger.callHandlers.__globals__["__name__"]
"""
    done = run(code)
    assert done.stderr == "by the last resort\nWARNING|configured|<module>\n"
    assert done.stdout == "['by the last resort', 'configured']\n"


@pytest.mark.parametrize("option", ["log_records=0", "commands='snapshot'"])
def test_with_no_records_to_keep_or_nobody_who_may_ask_logging_is_not_touched(option: str):
    code = f"""
import logging
before = logging.Logger.callHandlers
import glassbottom
glassbottom.init(service="x", connect_delay_s=60, {option})
assert logging.Logger.callHandlers is before
assert "log_records" not in glassbottom.status()["statistics"]
"""
    run(code)


def test_a_forked_child_keeps_its_own_records_though_another_thread_logs_at_the_fork():
    code = """
import logging, os, threading, glassbottom
glassbottom.init(service="x", connect_delay_s=60)
from glassbottom import logs
log = logging.getLogger("a")
log.addHandler(logging.NullHandler())
log.propagate = False
log.setLevel(logging.INFO)
done = threading.Event()
def busy():
    while not done.is_set():
        log.info("from the parent")
thread = threading.Thread(target=busy)
thread.start()
for _ in range(20):
    pid = os.fork()
    if pid == 0:
        log.info("from the child")
        os._exit(0 if [each["message"] for each in logs.current().read()] == ["from the child"] else 1)
    assert os.waitpid(pid, 0)[1] == 0
done.set()
thread.join()
"""
    run(code, PYTHONWARNINGS="ignore")
