"""A healthy program with many allocation sites of its own, each of which follows a curve: the target of
tests/bench/false_alarms.py.

    python tests/bench/false_alarms_sites.py PROGRAM

PROGRAM is a file with one JSON object: service, endpoint, seconds, seed, and sites. A site has the bytes of one of its
objects, what they are (`payload`), and either `components`, each with the number of objects that live at every step,
the share of them that is replaced in a step, and who dies first; or a `control`, a few lines as services have them.

Every site is a function with a line of its own in a module that is written beside PROGRAM. Steps are served as requests
through the agent's ASGI door, a few sites in each. Says READY when the agent runs and one JSON object when the time is
over, at_ns (Unix epoch), and then stays as it is until stdin ends. It needs only the standard library and the agent.
"""

from __future__ import annotations

import asyncio
import collections
import importlib.util
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

STEP_S = 0.5
SITES_EACH = 4
"""Sites that one request moves on."""
PAYLOADS = {
    "bytes": "bytearray({size})",
    "list": "[None] * {words}",
    "dict": "dict.fromkeys(range({entries}))",
    "text": '"x" * (size + len(held) % 64)',
}
SITE = """
def {name}(held, count, size={size}):
    for _ in range(count):
        held.append({payload})
"""
CONTROLS = {
    "lru_cache": """
@functools.lru_cache(maxsize=100)
def {name}_cached(key):
    return bytearray({size})
def {name}(step, draw):
    for _ in range(20):
        {name}_cached(draw.randrange(300))
""",
    "recent": """
{name}_recent = collections.deque(maxlen=150)
def {name}(step, draw):
    for _ in range(20):
        {name}_recent.append(bytearray({size}))
""",
    "expiring": """
{name}_kept = {{}}
def {name}(step, draw):
    for number in range(10):
        {name}_kept[step, number] = bytearray({size})
    for key in [key for key in {name}_kept if key[0] < step - 8]:
        del {name}_kept[key]
""",
    "reloaded": """
{name}_table = {{}}
def {name}(step, draw):
    global {name}_table
    if step % 15 == 0:
        {name}_table = {{number: bytearray({size}) for number in range(draw.randrange(60, 90))}}
""",
    "rendered": """
{name}_last = ""
def {name}(step, draw):
    global {name}_last
    text = ""
    for number in range(draw.randrange(100, 300)):
        text += "<td>%d</td>" % number
    {name}_last = text * 20
""",
    "cycles": """
def {name}(step, draw):
    for _ in range(10):
        node = {{"data": bytearray({size})}}
        node["self"] = node
""",
    "pool": """
{name}_free, {name}_taken = [], []
def {name}(step, draw):
    for _ in range(draw.randrange(12)):
        {name}_taken.append({name}_free.pop() if {name}_free else bytearray({size}))
    while {name}_taken and draw.random() < 0.85:
        {name}_free.append({name}_taken.pop(draw.randrange(len({name}_taken))))
    del {name}_free[80:]
""",
}


def main() -> None:
    """Runs the program."""
    path = Path(sys.argv[1])
    program = json.loads(path.read_text(encoding="utf-8"))
    moves = _moves(program, path.with_suffix(".py"))
    asyncio.run(_serve(program, moves))
    sys.stdout.flush()
    os._exit(0)


def _moves(program: dict[str, Any], module: Path) -> list[Any]:
    """What moves each site on, by step: the functions are written to a module, so that each has a line of its own."""
    parts = ["import collections, functools"]
    for number, site in enumerate(program["sites"]):
        size = site["size"]
        facts = {"name": f"site_{number}", "size": size, "words": size // 8, "entries": max(size // 40, 1)}
        payload = PAYLOADS[site["payload"]].format(**facts)
        parts.append(
            CONTROLS[site["control"]].format(**facts) if site["control"] else SITE.format(payload=payload, **facts)
        )
    module.write_text("\n".join(parts), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(module.stem, module)
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    draw = random.Random(program["seed"])
    moves: list[Any] = []
    for number, site in enumerate(program["sites"]):
        function = getattr(loaded, f"site_{number}")
        moves.append(_Control(function, draw) if site["control"] else _Follower(function, site["components"], draw))
    return moves


class _Control:
    """A site that does what its lines say, and follows no curve."""

    def __init__(self, function: Any, draw: random.Random) -> None:
        self._function = function
        self._draw = draw

    def move(self, step: int) -> None:
        """One step on."""
        self._function(step, self._draw)


class _Follower:
    """A site that has as many objects as its curve says, and replaces as many of them."""

    def __init__(self, function: Any, components: list[dict[str, Any]], draw: random.Random) -> None:
        self._function = function
        self._components = components
        self._draw = draw
        self._held: list[Any] = [collections.deque() if each["oldest_first"] else [] for each in components]

    def move(self, step: int) -> None:
        """One step on; at the end of the curve it stays as it is."""
        for component, held in zip(self._components, self._held, strict=True):
            levels, replaced = component["levels"], component["replaced"]
            level = levels[min(step, len(levels) - 1)]
            share = replaced[min(step, len(replaced) - 1)]
            survivors = min(level, round(len(held) * (1 - share)))
            for _ in range(len(held) - survivors):
                if component["oldest_first"]:
                    held.popleft()
                else:
                    at = self._draw.randrange(len(held))
                    held[at] = held[-1]
                    held.pop()
            self._function(held, level - len(held))


async def _serve(program: dict[str, Any], moves: list[Any]) -> None:
    import glassbottom

    glassbottom.init(
        service=program["service"],
        endpoint=program["endpoint"],
        strict=True,
        snapshot_interval_s=STEP_S,
        interval_bytes=program["interval_bytes"],
        window_share=1.0,
        runtime_interval_s=STEP_S,
        spans_interval_s=STEP_S,
        asyncio_interval_s=STEP_S,
        connect_delay_s=0.0,
        heartbeat_interval_s=1.0,
    )
    if glassbottom.status()["state"] != "running":
        raise SystemExit(f"the agent does not run: {glassbottom.status()['reason']}")
    step, first = 0, 0

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        for move in moves[first : first + SITES_EACH]:
            move.move(step)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    app = glassbottom.AsgiMiddleware(serve)
    print("READY", flush=True)
    began = time.monotonic()
    requests = -(-len(moves) // SITES_EACH)
    number = 0
    while time.monotonic() - began < program["seconds"]:
        step, first = number // requests, number % requests * SITES_EACH
        scope = {"type": "http", "asgi": {"version": "3.0"}, "method": "GET", "path": "/", "headers": []}
        await app({**scope, "http_version": "1.1", "scheme": "http", "query_string": b""}, _receive, _send)
        number += 1
        await asyncio.sleep(max(0.0, began + number * STEP_S / requests - time.monotonic()))
    print(json.dumps({"at_ns": time.time_ns()}), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


async def _receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _send(message: dict[str, Any]) -> None:
    return None


if __name__ == "__main__":
    main()
