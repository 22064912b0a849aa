"""Tables: fitted and coloured on a terminal, complete and plain elsewhere.

On a terminal everything fits the width: the one flexible column shortens its file names from the left, where they say
least, and columns marked `beneath` are folded below the column they explain. Elsewhere nothing is shortened or
folded, so that grep and awk see one line per row. All text passes through `safe` here, once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO

from ..text import safe

if TYPE_CHECKING:
    from rich.table import Table as RichTable
    from rich.text import Text as RichText

# Below this a place in code is unreadable, and wrapping is the lesser evil.
FLEXIBLE_WIDTH_MIN = 20
GAP = 2


@dataclass(frozen=True)
class Place:
    """A line of a function; line 0 and empty names are left out."""

    function: str
    file: str
    line: int = 0

    def text(self, width: int | None = None, measure: Callable[[str], int] = len) -> str:
        """`file:line function`, in at most `width` cells: the file loses its beginning first, then the function."""
        function, file = safe(self.function), safe(self.file)
        where = f"{file}:{self.line}" if self.line and file else file
        whole = f"{where} {function}".strip() or "?"
        if width is None or measure(whole) <= width:
            return whole
        room = width - (measure(function) + 1 if function else 0)
        name = where.rpartition("/")[2]
        if room > measure(name):
            return f"{_keep_end(where, room, measure)} {function}".rstrip()
        if function and width >= measure(name) + 4:
            return f"{name} {_keep_end(function, width - measure(name) - 1, measure)}"
        return _keep_end(where or function, width, measure)


@dataclass(frozen=True)
class Cell:
    """Something to show; `style` is for terminals only."""

    value: str | Place
    style: str = ""


@dataclass(frozen=True)
class Column:
    """One column. `flexible` takes what width remains; `beneath` names the column it is folded under on a terminal.
    There `label` stands before its values, in place of the title."""

    title: str
    right: bool = False
    flexible: bool = False
    beneath: str = ""
    label: str = ""


Row = Sequence[Cell | str | Place]


@dataclass(frozen=True)
class Table:
    """Rows of cells, as many as columns."""

    columns: Sequence[Column]
    rows: Sequence[Row]


@dataclass(frozen=True)
class Line:
    """A line of text; `hanging` is where it continues when it has to be wrapped on a terminal."""

    text: str = ""
    style: str = ""
    hanging: int = 0


@dataclass
class Report:
    """Tables and lines, from top to bottom."""

    parts: list[Table | Line] = field(default_factory=list)

    def line(self, text: str = "", style: str = "", hanging: int = 0) -> None:
        """Adds a line."""
        self.parts.append(Line(text, style, hanging))

    def table(self, columns: Sequence[Column], rows: Sequence[Row]) -> None:
        """Adds a table."""
        self.parts.append(Table(columns, rows))


def write(report: Report, stream: TextIO) -> None:
    """Writes a report in the way that suits the stream."""
    if stream.isatty():
        _write_rich(report, stream)
    else:
        stream.write(plain(report))


def plain(report: Report) -> str:
    """The report for files and pipes."""
    lines: list[str] = []
    for part in report.parts:
        lines.extend([safe(part.text)] if isinstance(part, Line) else _plain_table(part))
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _plain_table(table: Table) -> list[str]:
    # The flexible column and what explains it come last: they are long, and nothing after them is found again.
    order = sorted(range(len(table.columns)), key=lambda i: _distance_to_the_right(table, i))
    grid = [[table.columns[i].title for i in order]]
    grid += [[_plain_text(row[i]) for i in order] for row in table.rows]
    widths = [max(len(line[at]) for line in grid) for at in range(len(order))]
    return [
        "  ".join(
            text.rjust(width) if table.columns[i].right else text.ljust(width)
            for i, text, width in zip(order, line, widths, strict=True)
        )
        for line in grid
    ]


def _distance_to_the_right(table: Table, index: int) -> int:
    flexible = {column.title for column in table.columns if column.flexible}
    return 2 if table.columns[index].beneath in flexible else 1 if table.columns[index].flexible else 0


def _plain_text(cell: Cell | str | Place) -> str:
    value = cell.value if isinstance(cell, Cell) else cell
    return value.text() if isinstance(value, Place) else safe(value)


def _write_rich(report: Report, stream: TextIO) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(file=stream, highlight=False, markup=False, emoji=False)
    for part in fitted(report, console.width):
        console.print(part, soft_wrap=isinstance(part, Text))


def fitted(report: Report, width: int) -> Iterator[RichText | RichTable]:
    """The report as things that rich, and what is built on it, can draw within `width` cells."""
    from rich.text import Text

    for part in report.parts:
        if isinstance(part, Line):
            yield from (Text(text, style=part.style) for text in _wrapped(part, width))
        else:
            yield _fitted_table(part, width)


def _wrapped(line: Line, width: int) -> list[str]:
    import textwrap

    indent = len(line.text) - len(line.text.lstrip())
    return textwrap.wrap(
        safe(line.text.strip()),
        width,
        initial_indent=" " * indent,
        subsequent_indent=" " * (line.hanging or indent),
        break_on_hyphens=False,
    ) or [""]


def _fitted_table(table: Table, width: int) -> RichTable:
    from rich.cells import cell_len
    from rich.table import Table as RichTable
    from rich.text import Text

    own = [i for i, column in enumerate(table.columns) if not column.beneath]
    stacks = {
        i: [i, *(j for j, other in enumerate(table.columns) if other.beneath == table.columns[i].title)] for i in own
    }
    widths = {
        i: max(
            cell_len(text)
            for text in (
                table.columns[i].title,
                *(_plain_text(_labelled(r[j], table.columns[j])) for r in table.rows for j in stacks[i]),
            )
        )
        for i in own
    }
    flexible = next((i for i in own if table.columns[i].flexible), None)
    if flexible is not None:
        taken = sum(width for i, width in widths.items() if i != flexible) + GAP * (len(own) - 1)
        widths[flexible] = min(widths[flexible], max(width - taken, FLEXIBLE_WIDTH_MIN))
    rich = RichTable(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="bold")
    for i in own:
        column = table.columns[i]
        rich.add_column(Text(column.title), justify="right" if column.right else "left", width=widths[i], no_wrap=True)
    for row in table.rows:
        cells = []
        for i in own:
            text = Text()
            for j in stacks[i]:
                cell = _labelled(row[j], table.columns[j])
                value, style = (cell.value, cell.style) if isinstance(cell, Cell) else (cell, "" if j == i else "dim")
                line = _fitted(value, widths[i])
                if line or j == i:
                    text.append(line if j == i else f"\n{line}", style=style)
            cells.append(text)
        rich.add_row(*cells)
    return rich


def _labelled(cell: Cell | str | Place, column: Column) -> Cell | str | Place:
    """The cell as it reads where it is folded under another one; an empty one stays empty."""
    if isinstance(cell, str) and cell and column.beneath:
        return f"{column.label}{cell}"
    return cell


def _fitted(value: str | Place, width: int) -> str:
    from rich.cells import cell_len

    if isinstance(value, Place):
        return value.text(width, cell_len)
    return _keep_start(safe(value), width, cell_len)


def _keep_end(text: str, width: int, measure: Callable[[str], int]) -> str:
    if measure(text) <= width:
        return text
    start = 0
    while start < len(text) and measure(text[start:]) > width - 1:
        start += 1
    return "…" + text[start:]


def _keep_start(text: str, width: int, measure: Callable[[str], int]) -> str:
    if measure(text) <= width:
        return text
    end = len(text)
    while end and measure(text[:end]) > width - 1:
        end -= 1
    return text[:end] + "…"
