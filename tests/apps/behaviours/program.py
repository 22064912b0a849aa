"""What every program here begins with: the agent, set up by the environment alone, and the loop that --loop names."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import glassbottom


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Watched as a service named after the program and its loop; says "ready" and runs until it is killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--loop", choices=["asyncio", "uvloop"], default="asyncio")
    loop = parser.parse_args().loop
    glassbottom.init(service=f"{Path(sys.argv[0]).stem}-{loop}")
    print("ready", flush=True)
    factory = asyncio.new_event_loop
    if loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())
