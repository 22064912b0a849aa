"""The screen of `glassbottom watch`.

Nothing here waits: each panel asks in a thread, and what it has shown stays while the collector is away. A panel whose
answers take long is asked less often, so that watching a busy collector does not make it busier.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

from rich.console import Group
from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Grid, VerticalScroll
from textual.events import Resize
from textual.screen import ModalScreen
from textual.widgets import Footer, Static

from ..exits import CliError
from ..formats.table import Report, fitted
from ..text import moment, safe
from . import feed, panels

# Of its time, a question that takes long may be asked this share at most.
BUSY_SHARE_MAX = 0.2

HELP = """\
q       quit
p       stop asking; again: go on
tab     next panel (shift+tab: the one before)
z       the panel alone on the screen (esc: back)
arrows  scroll in the panel
r       ask now
?       this help (esc: back)

Every panel asks the collector on its own. One that got no answer keeps
what it last had and says as of when; the line at the bottom says why.
Signs and words say whatever colours say: set NO_COLOR=1 for none.
"""


class Panel(VerticalScroll):
    """One question and its latest answer."""

    ALLOW_MAXIMIZE = True

    def __init__(self, kind: panels.Kind, args: argparse.Namespace) -> None:
        super().__init__(id=kind.name)
        self.kind = kind
        self.line: feed.Line[Any] = feed.Line(args, kind.question)
        self.busy = False
        self.due_s = 0.0
        self.error = ""
        self.answered_ns = 0
        self._answer: Any = None
        self._content = Static()
        self.border_title = kind.title

    def compose(self) -> ComposeResult:
        """One text that is as long as it must be."""
        yield self._content

    def show(self, answer: Any, now_ns: int) -> None:
        """A new answer."""
        self._answer, self.answered_ns, self.error = answer, now_ns, ""
        self.border_subtitle = ""
        self._draw()

    def fail(self, sentence: str) -> None:
        """No answer; what was there stays."""
        self.error = sentence
        if self._answer is None:
            self._draw()
        else:
            self.border_subtitle = f"as of {moment(self.answered_ns)[11:]}"

    def on_resize(self, event: Resize) -> None:  # noqa: ARG002
        """Fits what is there into the new width."""
        self._draw()

    def _draw(self) -> None:
        width = max(self.scrollable_content_region.width, 24)
        report = Report()
        if self._answer is not None:
            report = self.kind.report(self._answer, width)
        else:
            report.line(f"No answer yet: {self.error}" if self.error else "asking …")
        self._content.update(Group(*fitted(report, width)))


class HelpScreen(ModalScreen[None]):
    """The keys."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,question_mark,q", "dismiss_help", "back", show=False),
    ]

    def compose(self) -> ComposeResult:
        """The text."""
        yield Static(Text(HELP), id="help")

    def action_dismiss_help(self) -> None:
        """Back to the panels."""
        self.dismiss()


class WatchApp(App[None]):
    """One service, live."""

    ENABLE_COMMAND_PALETTE = False
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide")]  # noqa: RUF012 - typed by App
    CSS = """
    #title { height: 1; padding: 0 1; text-style: bold; }
    #status { height: auto; padding: 0 1; text-style: reverse; display: none; }
    Grid { grid-size: 2; grid-gutter: 0 1; grid-rows: 9 1fr 1fr; }
    .-narrow Grid { grid-size: 1; grid-rows: auto; overflow-y: auto; }
    Panel { border: round $surface-lighten-2; padding: 0 1; height: 1fr; scrollbar-size-vertical: 1;
      scrollbar-gutter: stable; }
    Panel:focus { border: heavy $accent; }
    .-narrow Panel { height: 12; }
    HelpScreen { align: center middle; }
    #help { width: 80; max-width: 100%; height: auto; border: round $accent; padding: 1 2; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q,ctrl+c", "quit", "quit", key_display="q"),
        Binding("p", "pause", "pause"),
        Binding("tab", "app.focus_next", "next panel", priority=True),
        Binding("shift+tab", "app.focus_previous", "panel before", show=False),
        Binding("z", "zoom", "zoom"),
        Binding("r", "ask_now", "ask now"),
        Binding("question_mark", "help", "help", key_display="?"),
    ]

    def __init__(
        self,
        args: argparse.Namespace,
        service: str,
        every_s: float,
        clock_ns: Callable[[], int] = time.time_ns,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._args = args
        self._service = service
        self._every_s = every_s
        self._clock_ns = clock_ns
        self._monotonic_s = monotonic_s
        self.paused = False
        self.panels = [Panel(kind, args) for kind in panels.KINDS]
        # One for each: in asyncio's own pool, a small machine has fewer, and one panel would wait for another.
        self._threads = ThreadPoolExecutor(len(self.panels), thread_name_prefix="watch")

    def compose(self) -> ComposeResult:
        """A title, the panels, what is wrong, the keys."""
        yield Static(id="title")
        with Grid():
            yield from self.panels
        yield Static(id="status")
        yield Footer()

    def on_mount(self) -> None:
        """Begins to ask."""
        self.panels[0].focus()
        self._tell()
        self._ask_those_due()
        self.set_interval(self._every_s, self._ask_those_due)

    def on_unmount(self) -> None:
        """However it ends: no thread is left waiting for an answer."""
        self._close()

    async def action_quit(self) -> None:
        """Ends questions under way first, or the program would wait for their answers."""
        self._close()
        self.exit()

    def action_pause(self) -> None:
        """Stops asking, or goes on."""
        self.paused = not self.paused
        self._tell()
        if not self.paused:
            self._ask_those_due()

    def action_ask_now(self) -> None:
        """Asks everything that is not being asked."""
        for panel in self.panels:
            panel.due_s = 0.0
        self._ask_those_due(even_if_paused=True)

    def action_zoom(self) -> None:
        """The panel with the focus alone, or all again."""
        focused = self.focused
        if self.screen.maximized is not None:
            self.screen.minimize()
        elif isinstance(focused, Panel):
            self.screen.maximize(focused)

    def action_help(self) -> None:
        """Shows the keys."""
        self.push_screen(HelpScreen())

    def _ask_those_due(self, even_if_paused: bool = False) -> None:
        if self.paused and not even_if_paused:
            return
        # A timer that is a little early must not cost a whole turn.
        now_s = self._monotonic_s() + self._every_s / 2
        for panel in self.panels:
            if not panel.busy and panel.due_s <= now_s:
                panel.busy = True
                self.run_worker(self._ask(panel), group=panel.kind.name)

    async def _ask(self, panel: Panel) -> None:
        now_ns, began_s = self._clock_ns(), self._monotonic_s()
        about = feed.About(self._service, self._args.instance, now_ns, self._args.timeout)
        try:
            answer = await asyncio.get_running_loop().run_in_executor(self._threads, panel.line.ask, about)
        except CliError as error:
            panel.fail(str(error))
        else:
            panel.show(answer, now_ns)
        finally:
            panel.busy = False
            took_s = self._monotonic_s() - began_s
            panel.due_s = began_s + max(self._every_s, took_s / BUSY_SHARE_MAX, panel.kind.every_s_min)
        self._tell()

    def _tell(self) -> None:
        """The title, and why panels have no answer: each reason once."""
        latest_ns = max(panel.answered_ns for panel in self.panels)
        state = "PAUSED, p goes on" if self.paused else f"every {self._every_s:g} s"
        answered = f", last answer {moment(latest_ns)}" if latest_ns else ""
        title = f"{safe(self._service)} at {safe(self._args.addr)}, {state}{answered}"
        self.query_one("#title", Static).update(Text(title, no_wrap=True, overflow="ellipsis"))
        reasons = list(dict.fromkeys(panel.error for panel in self.panels if panel.error))
        status = self.query_one("#status", Static)
        status.display = bool(reasons)
        status.update(Text("\n".join(f"{safe(reason)} Still trying." for reason in reasons[:2])))

    def _close(self) -> None:
        for panel in self.panels:
            panel.line.close()
        self._threads.shutdown(wait=False)
