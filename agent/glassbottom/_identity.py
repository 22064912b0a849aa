"""Who this process is, in OpenTelemetry's words. Reads no command line, no environment value and no user name."""

from __future__ import annotations

import os
import platform
import socket
import sys
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

TEXT_CHARACTERS_MAX = 1024


@dataclass(frozen=True)
class Identity:
    """One incarnation of a process; drawn anew after every fork.

    instance_id, session_id: 32 hexadecimal digits each. started_at_ns: nanoseconds since the Unix epoch.
    """

    service: str
    instance_id: str
    session_id: str
    pid: int
    started_at_ns: int
    attributes: Mapping[str, str] = field(default_factory=dict)


def identify(service: str, configured: Mapping[str, str]) -> Identity:
    """Draws an identity for the calling process; configured attributes win over what is found here."""
    attributes = {
        "host.name": socket.gethostname(),
        "os.type": sys.platform,
        "process.parent_pid": str(os.getppid()),
        "process.runtime.name": sys.implementation.name,
        "process.runtime.version": platform.python_version(),
        "telemetry.sdk.language": "python",
        "telemetry.sdk.name": "glassbottom",
    }
    attributes.update(configured)
    # These three are fields of their own, and a forked worker must not inherit the instance id of its parent.
    for name in ("service.name", "service.instance.id", "process.pid"):
        attributes.pop(name, None)
    return Identity(
        service=service,
        instance_id=uuid.uuid4().hex,
        session_id=uuid.uuid4().hex,
        pid=os.getpid(),
        started_at_ns=started_at_ns(),
        attributes={name: value[:TEXT_CHARACTERS_MAX] for name, value in attributes.items()},
    )


def started_at_ns() -> int:
    """When the kernel started this process, to 10 ms; the present where /proc does not tell."""
    now_ns = time.time_ns()
    try:
        # Field 22, counted behind the command name, which may itself contain spaces and parentheses.
        ticks = int(Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()[19])
        age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        return now_ns
    return now_ns - int(max(0.0, age_s) * 1e9)
