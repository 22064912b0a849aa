"""A program that embeds Python may end it and begin another in its process, to which nothing of ours may be left."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HOST = """
#include <Python.h>
int main(int argc, char **argv)
{
    int status = argc == 2 ? 0 : 1;
    for (int life = 0; life < 3 && status == 0; life++) {
        Py_Initialize();
        status = PyRun_SimpleString(argv[1]);
        if (Py_FinalizeEx() < 0)
            status = 1;
    }
    return status == 0 ? 0 : 1;
}
"""
SETUP = f"""
import sys
sys.path[:0] = [{str(ROOT / "agent")!r}]
from glassbottom import _native
"""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that runs what it is given three times, each in a Python of its own."""
    config = sysconfig.get_config_var
    compiler = shutil.which("cc")
    assert compiler is not None, "no C compiler. Install one with: apt-get install gcc libc6-dev"
    directory = tmp_path_factory.mktemp("host")
    source, program = directory / "host.c", directory / "host"
    source.write_text(HOST)
    version = f"{config('VERSION')}{config('ABIFLAGS') or ''}"
    command = [compiler, str(source), "-o", str(program), f"-I{config('INCLUDEPY')}", f"-L{config('LIBDIR')}"]
    command += [f"-L{config('LIBPL')}", f"-Wl,-rpath,{config('LIBDIR')}", f"-lpython{version}"]
    command += f"{config('LIBS')} {config('SYSLIBS')} {config('LINKFORSHARED')}".split()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    advice = f"Python cannot be embedded here. Let it with: apt-get install libpython{config('VERSION')}-dev"
    assert done.returncode == 0, f"{advice}\n{done.stderr}"
    return program


def lives(host: Path, code: str) -> list[str]:
    """What each printed."""
    environ = {"PYTHONHOME": sys.base_prefix, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([host, SETUP + code], env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_samples_of_threads_are_those_of_the_python_that_runs(host: Path):
    code = """
def sampled():
    _native._threads_sample(1000)

for _ in range(2):
    sampled()
    rows = _native.threads_take()[0]
    print(len(rows), _native.threads_stack(rows[0][0])[0][0][0].co_name)
sampled()  # and is still there when Python ends
"""
    assert lives(host, code) == ["1 sampled"] * 6


def test_labels_begin_anew(host: Path):
    code = """
import contextvars, time

route = contextvars.ContextVar("route", default=0)
_native.set_label_variable(route)
name = f"GET /{time.monotonic_ns()}"
number = _native.label(name)
route.set(number)
print(number, _native.label_name(number) == name)
_native._threads_sample(1000)
print(_native.threads_stack(_native.threads_take()[0][0][0])[2] == number)
"""
    assert lives(host, code) == ["1 True", "True"] * 3


def test_the_clock_runs_in_each(host: Path):
    code = """
import threading

_native.set_clock(sample_hz=100.0)
clock = threading.Thread(target=_native.run_clock, args=(0.1,))
clock.start()
clock.join()
print(_native.threads_take()[2] > 0)
"""
    assert lives(host, code) == ["True"] * 3


if sys.version_info[:2] != (3, 12):  # there asyncio itself cannot be imported a second time

    def test_loops_run_in_each_also_where_steps_are_stopped_before_its_end(host: Path):
        code = """
import asyncio

async def main():
    for _ in range(10):
        await asyncio.sleep(0)

_native.steps_start()
asyncio.run(main())
print({row[0].co_name: row[1] for row in _native.steps_take()}["main"])
_native.steps_stop()
"""
        assert lives(host, code) == ["11"] * 3
