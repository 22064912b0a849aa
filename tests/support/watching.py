"""The live view without a terminal: Textual's own pilot, and what a person would read."""

from __future__ import annotations

import argparse
import contextlib
import html
import re
from collections.abc import AsyncIterator
from typing import Any

from glassbottom_collector.cli import client
from glassbottom_collector.cli.live.app import Panel, WatchApp
from textual.pilot import Pilot

__all__ = ["PANELS", "Panel", "answered", "app_for", "running", "screen"]

# Width of a character in Textual's screenshots.
CELL = 12.2
PANELS = ["memory", "loops", "tasks", "slow", "leaks", "findings"]


def app_for(address: str, service: str = "checkout", every_s: float = 3600.0, **more: Any) -> WatchApp:
    """A view that asks once and then only when it is told to, unless every_s says otherwise."""
    parser = argparse.ArgumentParser()
    client.add_service_arguments(parser)
    client.add_arguments(parser)
    return WatchApp(parser.parse_args(["--addr", address]), service, every_s, **more)


@contextlib.asynccontextmanager
async def running(app: WatchApp, columns: int = 140, lines: int = 50) -> AsyncIterator[Pilot[None]]:
    """The app, with all answers to its first questions."""
    async with app.run_test(size=(columns, lines)) as pilot:
        await answered(pilot)
        yield pilot


async def answered(pilot: Pilot[None]) -> None:
    """Every question under way has its answer, and that is drawn."""
    await pilot.app.workers.wait_for_complete()
    await pilot.pause()


def screen(pilot: Pilot[None]) -> str:
    """What a person would read, line by line, with single blanks."""
    lines: dict[float, dict[int, str]] = {}
    for tag, text in re.findall(r"<text ([^>]*textLength[^>]*)>(.*?)</text>", pilot.app.export_screenshot()):
        at = {name: float(value) for name, value in re.findall(r'\b(x|y)="([\d.]+)"', tag)}
        lines.setdefault(at["y"], {})[round(at["x"] / CELL)] = html.unescape(text).replace("\xa0", " ")
    shown = []
    for _, pieces in sorted(lines.items()):
        line = ""
        for column, text in sorted(pieces.items()):
            line = line.ljust(column) + text
        shown.append(" ".join(line.split()))
    return "\n".join(shown)
