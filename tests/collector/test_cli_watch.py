"""The live view, driven without a terminal by Textual's own pilot, against the double and against a real collector."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
import threading
import time
from collections.abc import Coroutine
from typing import Any

import grpc
import pytest
from glassbottom.wire.v1 import query_pb2
from glassbottom_collector.cli import main
from textual.pilot import Pilot

from tests.support.leaking_service import leaking_service
from tests.support.query_double import Answers, serving
from tests.support.terminal import become_terminal
from tests.support.watching import PANELS, Panel, answered, app_for, running, screen

pytestmark = pytest.mark.once  # Textual's pilot waits for screens, and what they show does not depend on the version


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(story, 60))


def panel(pilot: Pilot[None], name: str) -> Panel:
    return pilot.app.query_one(f"#{name}", Panel)


def test_one_screen_has_memory_loops_tasks_routes_leaks_and_findings(address: str) -> None:
    async def story() -> None:
        async with running(app_for(address)) as pilot:
            text = screen(pilot)
            for word in (
                "checkout at",
                "live heap 156 MiB",
                "resident 200 MiB",
                "▇",
                "34.0 ms 2.10 s MainThread",
                "orders/service.py:88 Orders.fetch",
                "133 tasks in 1 process, 1 finding",
                "120 waiting 3m56s",
                "! 1.25 s 12.3 k 41 GET /orders/{id}",
                "leak +110 KiB/s",
                "handlers.py:42 Manager.on_connect",
                "critical: 1 task of Stock.reserve",
                "notice: Collecting garbage",
            ):
                assert word in text
            assert [each.kind.name for each in pilot.app.query(Panel)] == PANELS

    run(story())


def test_a_narrow_terminal_has_the_panels_below_each_other(address: str) -> None:
    async def story() -> None:
        async with running(app_for(address), columns=80, lines=24) as pilot:
            lefts = {each.region.x for each in pilot.app.query(Panel)}
            assert len(lefts) == 1
            for name in PANELS[1:]:
                await pilot.press("tab")
                assert pilot.app.focused is panel(pilot, name), "and the one with the focus is in view"
            await pilot.pause()
            assert "critical: 1 task of Stock.reserve" in screen(pilot)

    run(story())


def test_keys_zoom_help_and_quit(address: str) -> None:
    async def story() -> None:
        async with running(app_for(address)) as pilot:
            await pilot.press("tab", "tab", "z")
            assert pilot.app.screen.maximized is panel(pilot, "tasks")
            assert "findings, last hour" not in screen(pilot)
            await pilot.press("escape")
            assert pilot.app.screen.maximized is None

            await pilot.press("question_mark")
            await pilot.pause()
            assert "the panel alone on the screen" in screen(pilot)
            await pilot.press("question_mark")
            await pilot.pause()
            assert "the panel alone on the screen" not in screen(pilot)

            await pilot.press("q")
        assert pilot.app.return_code == 0

    run(story())


def test_it_asks_again_by_itself_and_not_while_paused(address: str, answers: Answers) -> None:
    asked_again = threading.Event()

    class Counted(list):
        def append(self, request: object) -> None:
            super().append(request)
            if sum(isinstance(each, query_pb2.TimelineRequest) for each in self) >= 3:
                asked_again.set()

    answers.requests = Counted()

    async def story() -> None:
        async with running(app_for(address, every_s=0.5)) as pilot:
            assert await asyncio.to_thread(asked_again.wait, 30)
            await pilot.press("p")
            assert "PAUSED" in screen(pilot)
            await answered(pilot)

            before = len(answers.requests)
            pilot.app._ask_those_due()
            await answered(pilot)
            assert len(answers.requests) == before

            await pilot.press("p")
            await answered(pilot)
            assert "every 0.5 s" in screen(pilot)

    run(story())


def test_r_asks_everything_at_once_even_while_paused(address: str, answers: Answers) -> None:
    async def story() -> None:
        async with running(app_for(address)) as pilot:
            await pilot.press("p")
            before = len(answers.requests)
            answers.findings = query_pb2.FindingsResponse()
            await pilot.press("r")
            await answered(pilot)
            assert len(answers.requests) == before + len(PANELS)
            assert "Nothing found." in screen(pilot)

    run(story())


def test_a_question_that_takes_long_is_asked_less_often(address: str) -> None:
    now, takes = [1000.0], [4.0]

    class Line:
        def ask(self, about: object) -> query_pb2.FindingsResponse:
            now[0] += takes[0]
            return query_pb2.FindingsResponse()

        def close(self) -> None:
            pass

    async def story() -> None:
        app = app_for(address, every_s=2.0, monotonic_s=lambda: now[0])
        findings = app.panels[PANELS.index("findings")]
        findings.line = Line()
        async with running(app) as pilot:
            assert findings.due_s >= 1020.0, "four seconds are a fifth of twenty"

            takes[0] = 0.0
            now[0] = 2000.0
            await pilot.press("r")
            await answered(pilot)
            assert findings.due_s == 2002.0

    run(story())


def test_a_collector_that_restarts_is_told_and_found_again(answers: Answers) -> None:
    async def story() -> None:
        with contextlib.ExitStack() as first:
            address = first.enter_context(serving(answers))
            app = app_for(address)
            async with running(app) as pilot:
                await asyncio.to_thread(first.close)
                await pilot.press("r")
                await answered(pilot)
                text = screen(pilot).replace("\n", " ")
                assert f"no collector listens on {address}" in text
                assert text.count("Still trying.") == 1, "one reason is told once"
                assert "live heap 156 MiB" in text, "and what was known stays"
                assert "as of" in str(panel(pilot, "memory").border_subtitle)

                with serving(answers, address=address):
                    answers.findings = query_pb2.FindingsResponse()
                    await pilot.press("r")
                    await answered(pilot)
                    text = screen(pilot)
                    assert "Still trying." not in text
                    assert "Nothing found." in text
                    assert not panel(pilot, "memory").border_subtitle

    run(story())


def test_an_older_collector_fails_only_the_panels_it_does_not_know(address: str, answers: Answers) -> None:
    async def story() -> None:
        answers.error = (grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        async with running(app_for(address)) as pilot:
            text = screen(pilot)
            assert "No answer yet: what listens on" in text
            answers.error = None
            await pilot.press("r")
            await answered(pilot)
            assert "No answer yet" not in screen(pilot)

    run(story())


def test_the_screen_answers_keys_while_the_collector_does_not_answer_questions(address: str, answers: Answers) -> None:
    answers.hangs = True

    async def story() -> None:
        app = app_for(address)
        async with app.run_test(size=(140, 50)) as pilot:
            assert await asyncio.to_thread(answers.hanging.wait, 30)
            await pilot.press("p")
            assert "PAUSED" in screen(pilot)
            assert "asking …" in screen(pilot)
            await pilot.press("q")

    began = time.monotonic()
    # asyncio.run waits for threads at its end: that they end is what is tested.
    run(story())
    assert time.monotonic() - began < 25, "the timeout of a question is 30 s"


def test_hostile_names_are_text(address: str, answers: Answers) -> None:
    answers.services = ("checkout", "[bold red]x[/]\x1b[2J")

    async def story() -> None:
        async with running(app_for(address, service=answers.services[1])) as pilot:
            text = screen(pilot)
            assert "[bold red]x[/]\\x1b[2J at" in text
            assert "evil\\x1b[31m[bold red]x[/]\\x0a\\u202e" in text
            assert "\x1b" not in text
            assert "\u202e" not in text

    run(story())


def test_a_service_without_event_loops_spans_or_leaks_reads_well(address: str, answers: Answers) -> None:
    answers.tasks = query_pb2.TasksResponse()
    answers.blocked = query_pb2.BlockedResponse()
    answers.findings = query_pb2.FindingsResponse()
    answers.leaks = query_pb2.LeakReport(sites_examined=12)

    async def story() -> None:
        async with running(app_for(address)) as pilot:
            text = screen(pilot)
            assert text.count("No event loop runs here.") == 2
            assert "No leak in 12 sites." in text
            assert "Nothing found." in text

    run(story())


def test_it_can_be_read_without_colours(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")

    async def story() -> None:
        async with running(app_for(address)) as pilot:
            # Of cells; the first is what a screenshot calls no colour at all.
            styles = set(re.findall(r"-r\d+ \{ fill: #(\w{6})", pilot.app.export_screenshot())) - {"c5c8c6"}
            assert styles
            assert all(style[:2] == style[2:4] == style[4:] for style in styles)
            assert "! 1.25 s" in screen(pilot)

    run(story())


@pytest.mark.once
def test_a_real_collector_fills_the_panels() -> None:
    """What its agent did not send is said, and is no error."""

    async def story(address: str) -> None:
        async with running(app_for(address)) as pilot:
            errors = {each.kind.name: each.error for each in pilot.app.query(Panel)}
            assert errors == dict.fromkeys(PANELS, "")
            text = screen(pilot)
            assert "live heap" in text
            assert "No event loop runs here." in text
            assert "handlers.py:42 Manager.on_connect" in text

    with leaking_service() as service:
        run(story(service.address))


def test_without_a_terminal_it_refuses_with_a_sentence(capsys: pytest.CaptureFixture[str], address: str) -> None:
    assert main(["watch", "--addr", address]) == 2

    assert "watch draws on a whole terminal, and this is none" in capsys.readouterr().err


def test_a_line_that_makes_no_sense_is_said_before_the_screen_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = become_terminal(monkeypatch)
    monkeypatch.setattr(sys, "stdin", out)

    assert main(["watch", "--addr", "nowhere"]) == 2
    assert "--addr nowhere is not HOST:PORT" in err.text
    assert out.getvalue() == ""
