"""Children forked in the middle of a test, which must never come back into it."""

from __future__ import annotations

import contextlib
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def last_act() -> Iterator[None]:
    """For a child: the process ends with the block, with status 0, or with 1 and a traceback when it raises."""
    status = 1
    try:
        yield
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def in_child(check: Callable[[], object]) -> int:
    """Exit status of a forked child that runs `check`; a child that hangs is killed and fails."""
    pid = os.fork()
    if pid == 0:
        with last_act():
            check()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return -999
