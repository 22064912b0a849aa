"""Coroutines and threads that are not Python's own: compiled by Cython, or replaced by gevent. What they do is the same
with the agent and without it, and what the agent cannot see of them it says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from glassbottom.wire.v1 import operations_pb2

from tests.support.ingest_double import IngestDouble
from tests.support.programs import environment

pytestmark = pytest.mark.once

# Cython

COMPILED = """
# cython: language_level=3
import asyncio
import time


class Odd(Exception):
    pass


async def add(a, b):
    await asyncio.sleep(0)
    return a + b


async def rest(seconds, log):
    log.append("begun")
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        log.append("cancelled")
        raise
    finally:
        log.append("ended")


async def stubborn():
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        return "stayed"


async def fail(text):
    await asyncio.sleep(0)
    raise Odd(text)


async def through(awaitable):
    return "through", await awaitable


async def numbers(count):
    try:
        for i in range(count):
            await asyncio.sleep(0)
            yield i
    finally:
        await asyncio.sleep(0)


async def total(count):
    found = 0
    async for i in numbers(count):
        found += i
    return found


async def hold(seconds):
    await asyncio.sleep(0)
    time.sleep(seconds)
"""

BUILD = """
from Cython.Build import cythonize
from setuptools import Distribution, Extension

extension = Extension("compiled", ["compiled.pyx"], extra_compile_args=["-O0", "-w"])
command = Distribution({"ext_modules": cythonize([extension], quiet=True)}).get_command_obj("build_ext")
command.inplace = True
command.ensure_finalized()
command.run()
"""

# Prints what came of everything, and nothing that differs between two runs.
PROGRAM = """
import asyncio, sys, traceback
import glassbottom

glassbottom.init(service="foreign")
import compiled, uvloop


async def python_add(a, b):
    return await compiled.add(a, b)


async def python_rest():
    while True:
        await asyncio.sleep(0.01)


async def outcome(awaitable):
    try:
        return await awaitable
    except (Exception, asyncio.CancelledError) as error:
        names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
        return type(error).__name__, str(error), names


async def cancelled(task):
    await asyncio.sleep(0.01)
    task.cancel("enough")
    return await outcome(task)


async def grouped(log):
    async with asyncio.TaskGroup() as group:
        group.create_task(compiled.rest(60, log))
        group.create_task(compiled.fail("in a group"))


async def some_numbers():
    found = []
    async for number in compiled.numbers(100):
        found.append(number)
        if number == 3:
            break
    return found


def look():
    glassbottom.snapshot()
    glassbottom.flush(20)


@glassbottom.profile
async def profiled(a, b):
    return await compiled.add(a, b)


async def main():
    loop = asyncio.get_running_loop()
    task, log = asyncio.create_task, []
    print("awaited", await compiled.add(1, 2), await python_add(3, 4), await profiled(5, 6))
    print("task", await task(compiled.add(1, 2)), await task(compiled.through(python_add(3, 4))))
    print("gathered", sum(await asyncio.gather(*(compiled.add(i, i) for i in range(200)))))
    print("generator", await compiled.total(10), await task(compiled.total(10)), await some_numbers())
    print("raising", await outcome(compiled.fail("awaited")), await outcome(task(compiled.fail("task"))))
    print("through", await outcome(task(compiled.through(compiled.fail("deep")))))
    print("cancelled", await cancelled(task(compiled.rest(60, log))), log)
    print("cancelled within", await cancelled(task(compiled.through(asyncio.sleep(60)))))
    print("cancelled before its first step", task(compiled.rest(60, log)).cancel(), log)
    print("stubborn", await cancelled(task(compiled.stubborn())))
    print("in time", await outcome(asyncio.wait_for(compiled.rest(60, log), 0.01)), log)
    print("group", await outcome(grouped(log)), log)
    compiled.rest(60, log).close()
    begun = compiled.rest(60, log)
    begun.send(None)
    begun.close()
    print("closed", log)
    print("from a thread", await asyncio.to_thread(
        lambda: asyncio.run_coroutine_threadsafe(compiled.add(7, 8), loop).result()))
    if sys.version_info >= (3, 12):
        eager = lambda coroutine: asyncio.eager_task_factory(loop, coroutine)
        print("eager", await eager(compiled.add(1, 2)), await outcome(eager(compiled.fail("eager"))))
    resting = [task(compiled.rest(60, log)) for _ in range(3)] + [task(compiled.through(python_rest()))]
    await asyncio.sleep(0)
    await asyncio.to_thread(look)
    await asyncio.sleep(0.3)  # heartbeats come four times a second
    await compiled.hold(0.6)
    await asyncio.sleep(0.3)
    await asyncio.to_thread(look)
    for each in resting:
        each.cancel()
    print("at last", await asyncio.gather(*resting, return_exceptions=True), log)


with asyncio.Runner(loop_factory={"asyncio": asyncio, "uvloop": uvloop}[sys.argv[1]].new_event_loop) as runner:
    runner.run(main())
glassbottom.flush(20)
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the module `compiled` is."""
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    assert shutil.which(compiler) is not None, "no C compiler. Install one with: apt-get install gcc libc6-dev"
    directory = tmp_path_factory.mktemp("compiled")
    (directory / "compiled.pyx").write_text(COMPILED)
    done = subprocess.run([sys.executable, "-c", BUILD], cwd=directory, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return directory


def run(command: list[str], endpoint: str, *paths: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """A process that ended well."""
    variables = environment(endpoint, **environ)
    variables["PYTHONPATH"] = os.pathsep.join([variables["PYTHONPATH"], *map(str, paths)])
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_coroutines_of_cython_do_the_same_with_the_agent_and_are_seen_as_what_they_are(
    loop: str, compiled: Path, double: IngestDouble
):
    command = [sys.executable, "-c", PROGRAM, loop]
    without = run(command, double.endpoint, compiled, GLASSBOTTOM_DISABLE="1").stdout
    assert "at last" in without
    assert run(command, double.endpoint, compiled).stdout == without

    names: dict[int, str] = {}
    for snapshot in double.tasks():
        names.update({frame.id: frame.function for frame in snapshot.definitions.frames})
    looks = [
        {
            tuple(names[frame] for frame in group.path): (group.state, group.count, group.steps)
            for group in snapshot.groups
        }
        for snapshot in double.tasks()
        if snapshot.tasks == 5
    ]
    assert looks
    for look in looks:
        # They have a name and no line; what they await is theirs, and is neither another task nor steps.
        assert look["rest",] == ("waiting", 3, 0)
        assert look["through",] == (look["through",][0], 1, 0)
        assert look.keys() == {("rest",), ("through",), ("main",)}

    operations = [
        (each.kind, each.name, each.status)
        for snapshot in double.operations()
        for each in snapshot.operations
        if not each.name.startswith("BaseEventLoop.shutdown_")
    ]
    assert set(operations) - {(operations_pb2.OPERATION_KIND_COROUTINE, "profiled", "ok")} == {
        (operations_pb2.OPERATION_KIND_STEP, "main", "ok"),
        (operations_pb2.OPERATION_KIND_COROUTINE, "main", "ok"),
        (operations_pb2.OPERATION_KIND_FUNCTION, "profiled", "ok"),
    }

    # A loop is held by the step of the coroutine that awaits them.
    observed = [each for snapshot in double.observations() for each in snapshot.observations]
    assert {(each.kind, each.name) for each in observed if each.kind != "gc.pause"} == {("loop.blocked", "main")}
    assert max(loop.lag.max_s for snapshot in double.tasks() for loop in snapshot.loops) > 0.25
    beat = double.sessions[0].heartbeats[-1]
    assert (beat.sampler_state, beat.sampler_reason, beat.statistics["errors_total"]) == ("running", "", 0)


# gevent

GREENLETS = """
import json, os, sys

if "init first" in sys.argv:
    import glassbottom

    glassbottom.init(service="greenlets")

from gevent import monkey

monkey.patch_all(thread="threads" in sys.argv)

import glassbottom

glassbottom.init(service="greenlets")

import gevent, queue, select, socket, subprocess, threading, time
from gevent.pool import Pool


def answer(connection):
    with connection:
        time.sleep(0.01)
        connection.sendall(connection.recv(100)[::-1])


def serve(listener, count):
    for _ in range(count):
        gevent.spawn(answer, listener.accept()[0])


def ask(text):
    with socket.create_connection(listener.getsockname()) as connection:
        connection.sendall(text.encode())
        return connection.recv(100).decode()


listener = socket.create_server(("127.0.0.1", 0))
server = gevent.spawn(serve, listener, 20)
print("answers", Pool(20).map(ask, [f"question {i}" for i in range(20)]))
thread = threading.Thread(target=print, args=("from a thread",))
thread.start()
thread.join()
events, done = queue.SimpleQueue(), threading.Event()
threading.Thread(target=lambda: (events.put("put"), time.sleep(0.01), done.set())).start()
print("event", done.wait(10), events.get())
print("child", subprocess.run([sys.executable, "-S", "-c", "print('child')"], capture_output=True, text=True).stdout)
for code in (3, 4):
    child = os.fork()
    if child == 0:
        os._exit(code)
    print("forked", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
with gevent.Timeout(0.02, False):
    gevent.sleep(60)
print("nothing to read", select.select([listener], [], [], 0.01)[0])
broken = gevent.spawn(int, "no number")
broken.join()
print("raised", type(broken.exception).__name__)
kept = [bytearray(100_000) for _ in range(300)]


def ours():
    names = {each.name for each in threading.enumerate()}
    return any(name.startswith("glassbottom") for name in names) and "threads" in sys.argv


until = time.monotonic() + 30
while ours() and time.monotonic() < until:
    time.sleep(0.02)
print("threads left", ours())
glassbottom.snapshot(), glassbottom.flush(20)
print(json.dumps(glassbottom.status()), file=sys.stderr)
print("end")
"""


def test_gevent_that_replaces_threads_is_left_alone_whoever_came_first(double: IngestDouble):
    command = [sys.executable, "-c", GREENLETS, "threads"]
    without = run(command, double.endpoint, GLASSBOTTOM_DISABLE="1")
    assert without.stdout.endswith("end\n")
    watched = [sys.executable, "-m", "glassbottom.run", "--", *command]
    for each in (command, [*command, "init first"], watched):
        done = run(each, double.endpoint)
        assert done.stdout == without.stdout
        status = json.loads(done.stderr.splitlines()[-1])
        assert status["state"] == "refused"
        assert status["reason"].startswith("gevent has replaced threading; the agent needs real threads.")
        assert done.stderr.count("glassbottom is off: gevent has replaced threading") == 1
        assert "Exception ignored in thread" not in done.stderr


def test_gevent_without_threads_turns_off_only_what_watches_event_loops(double: IngestDouble):
    command = [sys.executable, "-c", GREENLETS]
    without = run(command, double.endpoint, GLASSBOTTOM_DISABLE="1")
    assert without.stdout.endswith("end\n")
    watched = [sys.executable, "-m", "glassbottom.run", "--", *command]
    for each in (command, [*command, "init first"], watched):
        told = len(double.sessions)
        done = run(each, double.endpoint)
        assert done.stdout == without.stdout
        status = json.loads(done.stderr.splitlines()[-1])
        assert (status["state"], status["connected"]) == ("running", True)
        assert status["reason"].startswith("Event loops and tasks are not watched: gevent has replaced parts")
        assert (status["statistics"]["errors_total"], status["probes_disabled"]) == (0, {})
        assert status["statistics"]["sampler_samples_live"] > 0
        assert status["statistics"]["profile_ticks_total"] > 0
        assert "async_steps_total" not in status["statistics"]
        (session,) = [one for one in double.sessions[told:] if one.hello.process.instance_id == status["instance_id"]]
        assert session.batches
        if each is command:  # else it was found out later, perhaps after the last heartbeat
            assert session.heartbeats[-1].sampler_reason == status["reason"]


# Greenlets in one step: so SQLAlchemy awaits what its synchronous code asks for.

BRIDGE = """
import asyncio
import glassbottom

glassbottom.init(service="bridge")
from greenlet import getcurrent, greenlet


def wait(awaitable):
    return getcurrent().parent.switch(awaitable)


async def bridged(function, *arguments):
    runner = greenlet(function)
    result = runner.switch(*arguments)
    while not runner.dead:
        try:
            value = await result
        except BaseException as error:
            result = runner.throw(error)
        else:
            result = runner.switch(value)
    return result


async def fetch(i):
    await asyncio.sleep(0)
    return i


def query(count):
    try:
        return sum(wait(fetch(i)) for i in range(count))
    finally:
        wait(asyncio.sleep(0))


def endless():
    try:
        wait(asyncio.sleep(60))
    except asyncio.CancelledError:
        return "cancelled", wait(fetch(1))


async def main():
    print(await asyncio.gather(*(bridged(query, i) for i in range(50))))
    tasks = [asyncio.create_task(bridged(endless)) for _ in range(3)]
    await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    print(await asyncio.gather(*tasks))


asyncio.run(main())
glassbottom.snapshot(), glassbottom.flush(20)
print("end")
"""


def test_greenlets_between_a_coroutine_and_what_it_awaits_change_nothing(double: IngestDouble):
    command = [sys.executable, "-c", BRIDGE]
    without = run(command, double.endpoint, GLASSBOTTOM_DISABLE="1").stdout
    assert without.endswith("end\n")
    assert run(command, double.endpoint).stdout == without
    ended = {
        (each.name, each.status): sum(each.duration.counts)
        for snapshot in double.operations()
        for each in snapshot.operations
        if each.kind == operations_pb2.OPERATION_KIND_COROUTINE
    }
    assert (ended["bridged", "ok"], ended["main", "ok"]) == (53, 1)
    assert double.sessions[0].heartbeats[-1].statistics["errors_total"] == 0
