"""The state of a process: all that is in it, what never is, and what happens where a part of it cannot be had."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import glassbottom
import pytest
from glassbottom import _describe, _threads
from glassbottom.captures import CaptureError, state

from tests.agent.test_public_face import run
from tests.support.captured import captured, order
from tests.support.tasks_rig import Run

PROGRAM = """
import asyncio, json, logging, os, sys, tempfile, threading
from pathlib import Path
import glassbottom
from tests.support.captured import captured, order

glassbottom.init(
    service="checkout", connect_delay_s=60, attributes={"cloud.region": "eu-1"}, state_env="TZ,SHOP_*,SHOP_KEY"
)
logging.getLogger("shop").warning("paid by %s with token=%s", "Ann", "hunter2hunter2")
glassbottom.describe("flags", lambda: {"new_basket": True, "basket_token": "hunter2hunter2"})
from opentelemetry.sdk.trace import TracerProvider
tracer = TracerProvider().get_tracer("shop")
with tracer.start_as_current_span("browse"):
    pass
paying = tracer.start_span("pay", attributes={"card": "hunter2hunter2"})
waiting, goes_on = threading.Event(), threading.Event()

def wait_for_the_test(password):
    waiting.set()
    goes_on.wait(60)

thread = threading.Thread(target=wait_for_the_test, args=("hunter2hunter2",), name="worker")
thread.start()
waiting.wait(60)
made = captured(order("state"), Path(tempfile.mkdtemp()))
print(made.path.read_text())
print(json.dumps(dict(made.facts)))
goes_on.set()
thread.join()
"""


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    """The document of a real process, its facts and its text."""
    path = os.pathsep.join(map(str, (Path(__file__).parents[2] / "agent", Path(__file__).parents[2])))
    environ = {
        "SHOP_MODE": "fast",
        "SHOP_KEY": "x",
        "TZ": "UTC",
        "AWS_SECRET": "hunter2hunter2",
        "SHOP_DB_PASSWORD": "hunter2hunter2",
    }
    done = run(PROGRAM, PYTHONPATH=path, **environ)
    document, _, facts = done.stdout.rstrip("\n").rpartition("\n")
    return {**json.loads(document), "facts": json.loads(facts), "text": document}


def test_it_holds_the_process_as_it_is(told: dict[str, Any]):
    found = told["state"]
    assert found["agent"]["status"]["service"] == "checkout"
    assert found["agent"]["config"]["captures"]["log_records"] == 1000
    assert found["agent"]["version"] == glassbottom.__version__
    assert found["resource"]["cloud.region"] == "eu-1"
    assert found["interpreter"]["version"] == ".".join(map(str, sys.version_info[:3]))
    assert found["packages"]["pytest"] == pytest.__version__
    assert found["garbage_collector"]["enabled"] is True
    assert len(found["garbage_collector"]["generations"]) == 3
    (span,) = found["spans"]["spans"]
    assert (span["name"], span["age_ms"] > 0, found["spans"]["total"]) == ("pay", True, 1)
    assert found["described"]["flags"]["new_basket"] is True
    assert told["facts"]["parts_failed"] == 0
    assert told["facts"]["log_records"] == len(told["logs"]) == 1


def test_threads_have_names_and_places(told: dict[str, Any]):
    threads = {each["name"]: each["stack"] for each in told["state"]["threads"]}
    assert {"MainThread", "worker"} <= set(threads)
    assert not [name for name in threads if name.startswith("glassbottom")]
    frame = next(each for each in threads["worker"] if each["function"] == "wait_for_the_test")
    assert (frame["file"], frame["line"] > 0) == ("<string>", True)


def test_log_lines_are_in_it(told: dict[str, Any]):
    (line,) = told["logs"]
    assert line["message"].startswith("paid by Ann with token=<redacted:")
    assert (line["logger"], line["level"], line["thread"]) == ("shop", "WARNING", "MainThread")


def test_of_the_environment_only_what_the_list_names_is_in_it(told: dict[str, Any]):
    environment = told["state"]["environment"]
    assert set(environment) == {"TZ", "SHOP_MODE", "SHOP_KEY", "SHOP_DB_PASSWORD"}
    assert environment["SHOP_MODE"] == "fast"
    assert re.fullmatch(r"<redacted:name:[0-9a-f]{8}>", environment["SHOP_DB_PASSWORD"])


def test_no_secret_is_in_it_wherever_it_stood(told: dict[str, Any]):
    """An argument, a log line, an allowed variable, one that is not, what was described, an attribute of a span."""
    assert "hunter2" not in told["text"]


def test_every_task_is_told_with_its_name_and_all_it_awaits(run: Run, tmp_path: Path):
    async def inner(secret: str) -> None:
        await asyncio.get_running_loop().create_future()

    async def outer() -> None:
        await inner("hunter2")

    async def main() -> dict[str, Any]:
        task = asyncio.create_task(outer(), name="the waiting one")
        await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        try:
            return await asyncio.to_thread(state.tasks, [loop])
        finally:
            task.cancel()

    found = run(main())
    assert found["total"] == len(found["tasks"]) == 2
    (task,) = (each for each in found["tasks"] if each["name"] == "the waiting one")
    assert (task["state"], task["awaits"]) == ("waiting", "Future")
    assert [frame["function"].rpartition(".")[2] for frame in task["stack"]] == ["inner", "outer"]
    assert [frame["line"] for frame in task["stack"]] == [
        inner.__code__.co_firstlineno + 1,
        outer.__code__.co_firstlineno + 1,
    ]
    assert task["coroutine"] == outer.__qualname__


def test_a_part_that_cannot_be_read_is_told_and_the_others_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fails() -> dict[str, str]:
        raise OSError("hunter2")

    monkeypatch.setattr(state, "packages", fails)
    made = captured(order("state"), tmp_path)
    assert made.path is not None
    document = json.loads(made.path.read_text())
    assert document["state"]["packages"] == {"error": "It could not be read: OSError."}
    assert document["state"]["threads"]
    assert made.facts["parts_failed"] == 1


def test_the_oldest_lines_go_when_there_is_no_room_and_without_room_for_the_rest_it_fails(tmp_path: Path):
    lines = [{"message": str(number) * 100} for number in range(10)]
    path = tmp_path / "x"
    left_out = state._write(path, {"a": 1}, lines, 600)
    assert left_out == 6
    assert [line["message"][0] for line in json.loads(path.read_text())["logs"]] == ["6", "7", "8", "9"]
    assert path.stat().st_size <= 600
    assert state._write(path, {"a": 1}, [], 600) == 0
    assert json.loads(path.read_text()) == {"state": {"a": 1}, "logs": []}
    with pytest.raises(CaptureError, match="allow more with --max-bytes"):
        state._write(path, {"a": "x" * 1000}, lines, 600)


def test_names_of_variables_are_whole_or_beginnings():
    environ = {"A": "1", "AB": "2", "PYTHONPATH": "3", "PY": "4"}
    assert state.allowed(environ, ("A", "PYTHON*")) == {"A": "1", "PYTHONPATH": "3"}
    assert state.allowed(environ, ("*",)) == {}
    assert state.allowed(environ, ()) == {}


def test_the_whole_environment_is_refused_as_a_setting():
    from glassbottom._options import from_env

    with pytest.raises(glassbottom.ConfigError, match="the whole environment"):
        from_env({}, options={"state_env": "*"})
    assert from_env({}, options={"incident_signal": "off"}).captures.incident_signal == ""
    with pytest.raises(glassbottom.ConfigError, match="SIGUSR1, SIGUSR2 or empty"):
        from_env({}, options={"incident_signal": "SIGKILL"})


# What the application describes


@pytest.fixture
def ending() -> Iterator[_threads.Event]:
    yield _threads.Event()
    _describe._functions.clear()
    _describe._hanging.clear()


def test_plain_values_and_mappings_of_them_are_told_and_the_rest_by_its_type(ending: _threads.Event):
    glassbottom.describe("one", lambda: 1)
    glassbottom.describe("text", lambda: "x" * 1000)
    glassbottom.describe("list", lambda: [1, 2])
    glassbottom.describe("many", lambda: {"f": 1.5, "n": None, "o": object(), "nan": float("nan"), 3: "no name"})
    assert _describe.descriptions(ending) == {
        "one": 1,
        "text": "x" * _describe.VALUE_CHARACTERS_MAX,
        "list": "<list>",
        "many": {"f": 1.5, "n": None, "o": "<object>", "nan": "nan"},
    }


def test_one_that_fails_is_told_by_its_class_and_not_by_its_text(ending: _threads.Event):
    def fails() -> None:
        raise LookupError("hunter2")

    glassbottom.describe("bad", fails)
    assert _describe.descriptions(ending) == {"bad": {"error": "It raised LookupError."}}


def test_one_that_hangs_is_not_waited_for_and_not_called_again_until_it_returns(ending: _threads.Event):
    goes_on, calls = threading.Event(), []

    def hangs() -> str:
        calls.append(1)
        goes_on.wait(60)
        return "late"

    glassbottom.describe("slow", hangs)
    glassbottom.describe("fast", lambda: 2)
    assert _describe.descriptions(ending) == {"slow": {"error": "It did not return within 0.5 s."}, "fast": 2}
    again = _describe.descriptions(ending)["slow"]
    assert again == {"error": "It has not returned since it was last asked."}
    assert len(calls) == 1
    goes_on.set()
    assert _describe._hanging["slow"].wait(60)
    assert _describe.descriptions(ending)["slow"] == "late"


def test_names_are_replaced_taken_back_and_bounded(ending: _threads.Event):
    glassbottom.describe("a", lambda: 1)
    glassbottom.describe("a", lambda: 2)
    assert _describe.descriptions(ending) == {"a": 2}
    glassbottom.describe("a", None)
    glassbottom.describe("never there", None)
    assert _describe.descriptions(ending) == {}
    for number in range(_describe.NAMES_MAX):
        glassbottom.describe(str(number), lambda: 1)
    with pytest.raises(ValueError, match="combine some"):
        glassbottom.describe("one too many", lambda: 1)
    with pytest.raises(ValueError, match="a name"):
        glassbottom.describe(" ", lambda: 1)
    with pytest.raises(TypeError, match="a function"):
        glassbottom.describe("x", 3)  # type: ignore[arg-type]
