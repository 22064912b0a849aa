"""What a case of LeakBench is, and the truth to hold against the verdict.

A case is a module of cases/: its docstring says what leaks, `CASE` is the truth, and `setup(fixed)` returns the
operation, which the driver calls with 0, 1, 2, … in a process of its own, as it is or as a coroutine. `fixed` asks for
the same program with the mistake mended; where the mistake is a library's, another environment has its mended version
and the operation is the same. Modules import nothing but the standard library until `setup` is called, since the runner
reads them too.

Nothing here is known to the agent or the collector, and nothing may be tuned to it.
"""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

Operation = Callable[[int], Awaitable[object] | object]

LEAKY, FIXED = "leaky", "fixed"
HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
MARK = "# kept"
"""Ends every line of a case at which memory is allocated that stays."""

REACHABLE, CYCLIC, NATIVE, FRAGMENTATION, NONE = "reachable", "cyclic", "native", "fragmentation", "none"


@dataclass(frozen=True)
class Site:
    """A right answer. file: the end of its path. line: 0 for any line of the function, which may be "" for any."""

    file: str
    function: str = ""
    line: int = 0

    def is_at(self, file: str, function: str, line: int) -> bool:
        """Whether a frame is this place."""
        return (
            file.endswith(self.file)
            and self.function in ("", function, function.rpartition(".")[2])
            and self.line in (0, line)
        )


def kept(file: str) -> tuple[Site, ...]:
    """The lines of a case that end in MARK."""
    path = Path(file).resolve()
    lines = enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
    return tuple(Site(str(path.relative_to(ROOT)), line=number) for number, line in lines if line.endswith(MARK))


@dataclass(frozen=True)
class Case:
    """One case. A control has nothing that leaks: `kinds` is (NONE,), and it runs as it is.

    id: as in the design. title: one line. kinds: right answers to "of what kind", best first.
    sites: right answers to "where"; empty where no line of Python allocates what stays.
    holder: a word that the path to what holds it must contain; "" where nothing does.
    bytes_per_operation: published, or measured when the case was written; the score uses a measurement of its own.
    per_second: operations a second. environments: by variant, a key of environments.py.
    has_fix: False where there is no mended version to compare with.
    """

    id: str
    title: str
    kinds: tuple[str, ...] = (REACHABLE,)
    sites: tuple[Site, ...] = ()
    holder: str = ""
    bytes_per_operation: float = 0.0
    per_second: float = 50.0
    environments: Mapping[str, str] = field(default_factory=dict)
    has_fix: bool = True

    @property
    def leaks(self) -> bool:
        """False for a control."""
        return self.kinds != (NONE,)

    @property
    def variants(self) -> tuple[str, ...]:
        """What to run: a control only as it is."""
        if not self.leaks:
            return (FIXED,)
        return (LEAKY, FIXED) if self.has_fix else (LEAKY,)

    def environment(self, variant: str) -> str:
        """Key of the environment it runs in."""
        return self.environments.get(variant, self.environments.get("both", "plain"))


@dataclass(frozen=True)
class Loaded:
    """A case with its module's two functions."""

    case: Case
    module: str
    setup: Callable[[bool], Operation]


def names() -> list[str]:
    """Modules of all cases, in the order of the design: libraries, misuse, patterns, controls."""
    found = [path.stem for path in (HERE / "cases").glob("[a-z]*_*.py")]
    return sorted(found, key=_order)


def _order(name: str) -> tuple[int, int, str]:
    first = name.partition("_")[0]
    group = first.rstrip("0123456789")
    return "abstc".index(group), int(first.removeprefix(group)), name


def load(name: str) -> Loaded:
    """A case by its module's name or its id ("s1"). Raises SystemExit with a sentence when there is none."""
    wanted = name.lower()
    for each in names():
        if wanted in (each, each.partition("_")[0]):
            module = importlib.import_module(f"tests.leakbench.cases.{each}")
            return Loaded(module.CASE, each, module.setup)
    raise SystemExit(f"there is no case {name}; there are: {', '.join(each.partition('_')[0] for each in names())}")
