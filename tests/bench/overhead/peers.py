"""What is switched on in the instrumented process of a pair, each as its own users would switch it on.

This side runs inside the measured process and therefore imports nothing that is not the peer's. Peers that send their
profiles somewhere get a port on which nobody listens: that saves them the upload, so their figures flatter them. Only
glassbottom is measured with everything it does: sampling, snapshots, and sending to a live collector.
"""

import dataclasses
import importlib.machinery
import importlib.util
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

OURS = ("null", "floor", "agent")
OTHERS = ("ddtrace", "pyroscope", "memray", "tracemalloc")
NAMES = OURS + OTHERS
ASYNC = ("asyncio_debug", "yappi", "ddtrace_stack", "pyinstrument")  # tools that see time; of the async benchmark
ALL = (*NAMES, *ASYNC, "grpc")  # grpc is for the footprint: what the transport alone weighs
CONNECT_TIMEOUT_S = 20.0
NOBODY_LISTENS = "http://127.0.0.1:9"  # the discard port


@dataclasses.dataclass(frozen=True)
class Peer:
    """A peer that is on. report() says what it did, in its own words, for the evidence file."""

    name: str
    report: Callable[[], dict[str, Any]]


def switch_on(name: str, options: dict[str, Any]) -> Peer:
    """Switches the peer on in this process. Raises whatever the peer raises: an absent peer is not a fast one."""
    return {
        "null": null,
        "floor": floor,
        "agent": agent,
        "grpc": grpc,
        "ddtrace": ddtrace,
        "pyroscope": pyroscope,
        "memray": memray,
        "tracemalloc": tracemalloc,
        "asyncio_debug": asyncio_debug,
        "yappi": yappi,
        "ddtrace_stack": ddtrace_stack,
        "pyinstrument": pyinstrument,
    }[name](options)


def null(options: dict[str, Any]) -> Peer:
    return Peer("null", dict)


def load_floor(path: str) -> Any:
    """Imports the hooks of floor.c from where harness compiled them for this interpreter."""
    loader = importlib.machinery.ExtensionFileLoader("_floor", path)
    spec = importlib.util.spec_from_loader("_floor", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def floor(options: dict[str, Any]) -> Peer:
    hooks = load_floor(options["floor"])
    hooks.install(True)
    return Peer("floor", lambda: {"installed": hooks.installed()})


def agent(options: dict[str, Any]) -> Peer:
    """The whole agent by its one line, all defaults, connected to the collector the harness started.

    Waits for the connection: what is measured is a running agent, not its thread importing gRPC while the workload
    builds its heap, which would then lie between gRPC's objects.
    """
    import glassbottom

    glassbottom.init(service="overhead-bench", endpoint=options["endpoint"])
    deadline = time.monotonic() + CONNECT_TIMEOUT_S
    while not glassbottom.status()["connected"] and time.monotonic() < deadline:
        time.sleep(0.01)
    return Peer("agent", lambda: dict(glassbottom.status()))


def grpc(options: dict[str, Any]) -> Peer:
    import grpc as library

    return Peer("grpc", lambda: {"version": library.__version__})


def ddtrace(options: dict[str, Any]) -> Peer:
    """Its profiler with the heap collector alone: no stack sampler, locks or exceptions."""
    start_ddtrace(memory=True, stack=False)
    from ddtrace.internal.settings.profiling import config

    return Peer("ddtrace", lambda: {"heap_sample_bytes": config.heap.sample_size})


def ddtrace_stack(options: dict[str, Any]) -> Peer:
    """Its profiler with the stack collector alone."""
    start_ddtrace(memory=False, stack=True)
    return Peer("ddtrace_stack", dict)


def start_ddtrace(*, memory: bool, stack: bool) -> None:
    os.environ.update(
        DD_TRACE_ENABLED="false",
        DD_INSTRUMENTATION_TELEMETRY_ENABLED="false",
        DD_REMOTE_CONFIGURATION_ENABLED="false",
        DD_TRACE_AGENT_URL=NOBODY_LISTENS,
    )
    from ddtrace.profiling.profiler import Profiler

    Profiler(
        service="overhead-bench",
        _memory_collector_enabled=memory,
        _stack_collector_enabled=stack,
        _lock_collector_enabled=False,
        _pytorch_collector_enabled=False,
        _exception_profiling_enabled=False,
    ).start()


def pyroscope(options: dict[str, Any]) -> Peer:
    import pyroscope as library

    started = library.configure(
        application_name="overhead-bench", server_address=NOBODY_LISTENS, mem_enabled=True, cpu_enabled=False
    )
    return Peer("pyroscope", lambda: {"started": started})


def memray(options: dict[str, Any]) -> Peer:
    """Its tracker as `memray run` starts it: to a file, pymalloc not traced, no native stacks."""
    import memray as library

    capture = Path(options["scratch"]) / f"memray-{os.getpid()}.bin"
    tracker = library.Tracker(capture)
    tracker.__enter__()  # for the life of the process
    # The file grows by tens of MB a second; without a name it goes when the process does, whatever ends it.
    capture.unlink()
    return Peer("memray", lambda: {"tracker": repr(tracker)})


def tracemalloc(options: dict[str, Any]) -> Peer:
    import tracemalloc as library

    library.start(1)
    return Peer("tracemalloc", lambda: {"tracing": library.is_tracing()})


def asyncio_debug(options: dict[str, Any]) -> Peer:
    """Python's own: every loop made from now on is in debug mode, and reports slow callbacks."""
    os.environ["PYTHONASYNCIODEBUG"] = "1"
    import asyncio

    return Peer("asyncio_debug", lambda: {"debug": asyncio.coroutines._is_debug_mode()})  # type: ignore[attr-defined]


def yappi(options: dict[str, Any]) -> Peer:
    """Deterministic, with coroutine awareness, by wall time as its documentation advises for asyncio."""
    import yappi as library

    library.set_clock_type("wall")
    library.start()
    return Peer("yappi", lambda: {"running": library.is_running()})


def pyinstrument(options: dict[str, Any]) -> Peer:
    """Its statistical profiler with its defaults: 1 ms, async mode."""
    import pyinstrument as library

    profiler = library.Profiler()
    profiler.start()
    return Peer("pyinstrument", lambda: {"running": profiler.is_running})
