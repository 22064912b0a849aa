"""What a step, the clock and the watchdog must not do to the program around them."""

from __future__ import annotations

import subprocess
import sys

import pytest


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


ASKING = """
import asyncio, ctypes
from glassbottom import _native

called = []
asyncio.events._get_running_loop = lambda: called.append(1)

async def nothing():
    pass

_native.steps_start()
coroutine, result = nothing(), ctypes.py_object()
ctypes.pythonapi.PyIter_Send(ctypes.py_object(coroutine), ctypes.py_object(None), ctypes.byref(result))
print(_native.steps_statistics()["steps"], len(called))
"""


def test_a_step_runs_no_python_to_ask_for_its_loop() -> None:
    """A signal handler could run in it, and what it raises, as KeyboardInterrupt, would be lost."""
    assert run(ASKING) == "1 0"


OTHER_INTERPRETER = """
import sys, threading, time
from glassbottom import _native

name = "_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters"
interpreters = __import__(name)
there = interpreters.create() if sys.version_info < (3, 13) else interpreters.create("legacy")
_native.set_clock(sample_hz=100.0)
clock = threading.Thread(target=_native.run_clock, args=(60.0,))
clock.start()
busy = "import time; end = time.monotonic() + 0.5\\nwhile time.monotonic() < end: pass"
other = threading.Thread(target=interpreters.run_string, args=(there, busy))
other.start()
other.join()

def burn(cpu_s):
    until = time.thread_time() + cpu_s
    while time.thread_time() < until:
        sum(range(200))

_native.threads_take()
seen = ticks = 0
while ticks < 100:
    for _ in range(100):
        burn(0.001)
        time.sleep(0.0005)
    rows, _, more, _ = _native.threads_take()
    ticks += more
    for node, _, _, samples, _, _ in rows:
        seen += samples * any(code.co_name == "burn" for code, _ in _native.threads_stack(node)[0])
_native.clock_interrupt()
clock.join()
print(seen)
"""


def test_the_main_thread_is_still_asked_after_another_interpreter_had_the_gil() -> None:
    """On 3.11 what was asked of the main thread while that one ran never got there, and nothing was asked again."""
    assert int(run(OTHER_INTERPRETER)) >= 25


FORKING = """
import os, threading, warnings
from glassbottom import _native

warnings.simplefilter("ignore")
run = _native.{function}

def run_in_parent():
    while True:
        try:
            return run(60.0)
        except RuntimeError:  # the main thread had a look just now
            pass

parents = threading.Thread(target=run_in_parent)
parents.start()
while True:
    try:
        run(0.0)
    except RuntimeError:
        break
child = os.fork()
if child == 0:
    status = 1
    try:
        run(0.0)
        status = 0
    finally:
        os._exit(status)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
_native.clock_interrupt()
parents.join()
"""


@pytest.mark.parametrize("function", ["run_clock", "run_watchdog"])
def test_a_child_can_run_them_though_its_parent_used_nothing_else_of_ours(function: str) -> None:
    assert run(FORKING.format(function=function)) == "0"
