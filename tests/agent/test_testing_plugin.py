"""`@pytest.mark.no_leak` in a pytest of its own: what fails, what passes, and what pytest keeps is not blamed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

TESTS = """
import asyncio, logging, sys, unittest, warnings
import pytest

KEPT = []
calls = 0

@pytest.fixture
def payload():
    return b"x" * 300

@pytest.mark.no_leak(bytes_per_call=100)
def test_leaky(payload):
    KEPT.append(bytearray(payload))

@pytest.mark.no_leak(bytes_per_call=1000)
def test_below_its_limit(payload):
    KEPT.append(bytearray(payload))

@pytest.mark.no_leak
def test_fixed(payload):
    KEPT[:] = [bytearray(payload)]

@pytest.mark.no_leak
async def test_leaky_coroutine():
    await asyncio.sleep(0)
    KEPT.append({"a": object()})

@pytest.mark.no_leak(100)
async def test_fixed_coroutine():
    await asyncio.sleep(0)

@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.fixture
async def loop_of_the_fixture(anyio_backend):
    return asyncio.get_running_loop()

@pytest.mark.anyio
@pytest.mark.no_leak
async def test_under_anyio(loop_of_the_fixture):
    assert asyncio.get_running_loop() is loop_of_the_fixture

@pytest.mark.no_leak
def test_that_talks(caplog, capsys):
    print("a line that pytest captures" * 10)
    print("and another", file=sys.stderr)
    logging.getLogger("shop").warning("a record that pytest keeps %s", "x" * 100)
    warnings.warn("old", DeprecationWarning)

@pytest.mark.no_leak
class TestInAClass:
    def test_method(self):
        list(range(10))

@pytest.mark.no_leak
def test_that_fails_itself():
    global calls
    calls += 1
    assert calls < 5, "not the fifth time"

@pytest.mark.no_leak(bytes=100)
def test_with_a_wrong_option():
    pass

@pytest.mark.no_leak(bytes_per_call=-1)
def test_with_a_wrong_limit():
    pass

@pytest.mark.no_leak
class TestOfUnittest(unittest.TestCase):
    def test_cannot_be_repeated(self):
        pass

@pytest.mark.no_leak
@pytest.mark.skip(reason="not here")
def test_skipped():
    raise AssertionError

def test_unmarked():
    global once
    assert "once" not in globals()
    once = True
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], str]:
    """(outcome by test, all that pytest said)."""
    directory = tmp_path_factory.mktemp("no_leak")
    (directory / "test_shop.py").write_text(TESTS)
    (directory / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers -p no:cacheprovider\n")
    command = [sys.executable, "-m", "pytest", "-v", "-rA", "-p", "no:xdist", "test_shop.py"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    outcomes = re.findall(r"^test_shop\.py::(\S+) (PASSED|FAILED|SKIPPED|ERROR)", done.stdout, re.MULTILINE)
    return dict(outcomes), done.stdout + done.stderr


def test_a_test_passes_or_fails_by_what_its_calls_leave_behind(ran: tuple[dict[str, str], str]) -> None:
    outcomes, said = ran
    assert outcomes == {
        "test_leaky": "FAILED",
        "test_below_its_limit": "PASSED",
        "test_fixed": "PASSED",
        "test_leaky_coroutine": "FAILED",
        "test_fixed_coroutine": "PASSED",
        "test_under_anyio": "PASSED",
        "test_that_talks": "PASSED",
        "TestInAClass::test_method": "PASSED",
        "test_that_fails_itself": "FAILED",
        "test_with_a_wrong_option": "FAILED",
        "test_with_a_wrong_limit": "FAILED",
        "TestOfUnittest::test_cannot_be_repeated": "FAILED",
        "test_skipped": "SKIPPED",
        "test_unmarked": "PASSED",
    }, said


def test_the_failure_carries_the_evidence(ran: tuple[dict[str, str], str]) -> None:
    """Bytes per call, the line, the type, who keeps it, and what would change the verdict."""
    _, said = ran
    leaky = said.partition(" test_leaky ")[2].partition("_____ ")[0]
    assert re.search(r"test_leaky leaks 3\d\d B per call \(.*; 100 B are allowed\), reachable growth", leaky), said
    assert re.search(r"site +test_shop\.py:\d+ test_leaky: 3\d\d B in", leaky)
    assert "bytearray" in leaky
    assert "held by test_shop.KEPT (list of" in leaky
    assert "would change it" in leaky


def test_what_is_wrong_with_a_mark_is_a_sentence(ran: tuple[dict[str, str], str]) -> None:
    _, said = ran
    assert "no_leak has no option bytes; there are: bytes_per_call, seconds, warm_up_calls." in said
    assert "no_leak: bytes_per_call is -1; give a number of bytes, 0 or more." in said
    assert "not on TestCaseFunction; write the test as one of these." in said


def test_an_error_of_the_test_itself_is_shown_as_always(ran: tuple[dict[str, str], str]) -> None:
    assert "AssertionError: not the fifth time" in ran[1]


def test_loading_the_plugin_costs_a_run_without_marks_nothing() -> None:
    program = (
        "import sys, pytest; before = set(sys.modules); import glassbottom.testing.plugin;"
        "print(sorted(name for name in set(sys.modules) - before if 'glassbottom' in name))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (
        done.stdout.strip()
        == "['glassbottom', 'glassbottom._errors', 'glassbottom.testing', 'glassbottom.testing.plugin']"
    )


def test_the_example_of_the_documents_fails_as_they_say(tmp_path: Path, root: Path) -> None:
    text = (root / "docs" / "testing.md").read_text()
    example = re.search(r"```python\n(# test_cart.py\n.*?)```", text, re.DOTALL)
    shown = re.search(r"```\n(test_price leaks .*?)```", text, re.DOTALL)
    assert example is not None
    assert shown is not None
    (tmp_path / "test_cart.py").write_text(example[1])
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", "test_cart.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.returncode == 1, done.stdout
    without_numbers = re.sub(r"\d[\d.e+-]*", "#", done.stdout)
    for line in shown[1].splitlines():
        for part in line.split("…"):
            assert re.sub(r"\d[\d.e+-]*", "#", part.strip()) in without_numbers, done.stdout
