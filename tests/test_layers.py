"""Who may import whom: the picture of ARCHITECTURE.md, kept true over the syntax tree of every module.

Imports inside functions count as well: late is not the same as allowed. A package that is in no table fails, so that
the picture stays complete.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
AGENT = ROOT / "agent" / "glassbottom"
COLLECTOR = ROOT / "collector" / "glassbottom_collector"
OURS = {"glassbottom", "glassbottom_collector", "tests"}

# A part is a package or module directly below the top-level package; what each may import of our own code.
PLAIN = {"errors", "model"}
COLLECTOR_ARROWS: dict[str, set[str]] = {
    "__init__": set(),
    "errors": set(),
    "model": set(),
    "config": {"errors"},
    "storage": PLAIN,
    "storage.embedded": PLAIN | {"storage", "config"},
    "leaks": PLAIN | {"storage"},
    "timing": PLAIN | {"storage"},
    "heapdump": PLAIN | {"_graph", "leaks"},
    "findings": PLAIN | {"storage", "leaks", "timing"},
    "pprof": set(),
    "recordings": PLAIN,
    "captures": PLAIN | {"config"},
    # An incident: what is read by whom, made harmless, and put into an archive that can be read like a store.
    "redaction": {"errors"},
    "logs": PLAIN,
    "incident.parts": set(),
    "incident.history": set(),
    # What it brings of its own it asks as the API does: of a Reader, judged by leaks, timing and findings.
    "incident": PLAIN | {"incident.parts", "incident.history", "storage", "leaks", "timing", "findings", "logs"},
    "database": PLAIN | {"incident.parts", "incident.history", "redaction"},
    "sample": PLAIN | {"incident.parts", "database", "redaction"},
    "archive": PLAIN | {"config", "storage", "incident.parts"},
    "ingest": PLAIN | {"wire", "storage", "captures", "config", "__init__"},
    "api": PLAIN
    | {"wire", "storage", "captures", "leaks", "timing", "findings", "heapdump", "recordings", "incident", "__init__"},
    # With server, the composition: which sources an incident has.
    "archived": PLAIN | {"archive", "config", "server", "storage.embedded"},
    "sources": PLAIN
    | {
        "config",
        "storage",
        "captures",
        "redaction",
        "incident",
        "incident.parts",
        "incident.history",
        "archive",
        "database",
        "sample",
    },
    "cli": {"wire", "pprof", "__init__"},
    "demo": {"cli", "wire", "errors", "__init__"},
    "server": PLAIN
    | {"wire", "config", "storage", "storage.embedded", "captures", "ingest", "api", "__init__"}
    | {"incident", "incident.history", "redaction", "sources"},
}
AGENT_PLAIN = {"_clock", "_config", "_errors", "_greenlets", "_guard", "_log", "_threads", "_identity", "_redact"}
AGENT_ARROWS: dict[str, set[str]] = {
    "wire": set(),
    "_errors": set(),
    "_greenlets": set(),
    "_log": set(),
    "_clock": set(),
    "_switch": set(),
    "bootstrap": {"__init__", "_process", "_switch", "_log"},
    "_threads": AGENT_PLAIN,
    "_identity": AGENT_PLAIN,
    "_redact": set(),
    # The state of a process: lines it has logged, what it tells of itself, and who asks for it from outside.
    "logs": set(),
    "_describe": AGENT_PLAIN,
    "_signal": AGENT_PLAIN | {"wire"},
    "_guard": AGENT_PLAIN,
    "_fork": AGENT_PLAIN | {"_agent", "_process", "transport"},
    "_config": {"_errors"},
    "_options": {"_config", "_errors", "_log"},
    "control": AGENT_PLAIN | {"wire", "captures"},
    "captures": AGENT_PLAIN | {"wire", "_native", "probes", "logs", "_describe", "__init__"},
    "probes": AGENT_PLAIN | {"wire", "_native", "_profile", "spans", "transport.queue", "transport.encode"},
    "transport": AGENT_PLAIN | {"wire", "control", "transport.queue", "transport.encode"},
    "transport.queue": AGENT_PLAIN | {"transport.encode"},
    "transport.encode": AGENT_PLAIN | {"wire"},
    "_labels": {"_native"},
    # What is wrapped around frameworks and OpenTelemetry; asgi and wsgi are public.
    "spans": AGENT_PLAIN | {"_labels", "_native", "probes"},
    "testing": AGENT_PLAIN | {"wire", "transport", "transport.queue", "_native"},
    "_profile": AGENT_PLAIN | {"_switch", "_native", "probes"},
    "run": {"__init__", "_config", "_errors", "_log", "_switch"},
    "_agent": AGENT_PLAIN
    | {
        "__init__",
        "_options",
        "_profile",
        "wire",
        "_native",
        "probes",
        "transport",
        "transport.queue",
        "transport.encode",
        "control",
        "captures",
        "logs",
        "_describe",
        "_signal",
    },
    "_process": AGENT_PLAIN | {"_agent", "_describe", "_fork", "_options", "_switch", "probes"},
    "__init__": {"_process", "_config", "_describe", "_errors", "_profile", "_switch", "spans"},
}
# One module may do what its package may not; each with its reason.
EXCEPTIONS = {
    ("cli.collector", "server"): "the verb that starts a collector hands over to it",
    ("cli.demo", "demo"): "the verb that starts the demonstration hands over to it",
    ("cli.check_leak", "glassbottom.testing"): "the verb that watches a program hands over to what tests use",
    ("cli.run", "glassbottom.run"): "the verb that starts an application under the agent hands over to it",
    **{("cli.heap_files", to): "reads a dump where no collector is" for to in ("api", "errors", "heapdump")},
    **{
        ("cli.archive_files", to): "opens an archive where no collector is"
        for to in ("archive", "archived", "errors", "redaction")
    },
    **{("cli.recorded_files", to): "reads a recording where no collector is" for to in ("api", "errors", "recordings")},
    ("demo.shop", "glassbottom"): "the watched application of the demonstration, as a user would write it",
}
# Third-party modules with one home each, as prefixes of our module names.
HOMES = {
    "agent": {"grpc": set(), "h2": {"transport.grpc_stream"}, "pytest": {"testing.plugin"}},
    "collector": {
        "grpc": {"ingest", "api", "server", "cli"},
        "grpc_health": {"server", "cli"},
        "duckdb": {"storage.embedded"},
        "yaml": {"config"},
        "re2": {"redaction"},
        "phonenumbers": {"redaction"},
        "presidio_analyzer": {"redaction.names"},
        "tldextract": {"redaction.names"},
        "spacy": {"redaction.names"},
        "rich": {"cli", "demo"},
        "textual": {"cli.live"},
        "uvloop": {"server"},
        "psycopg": {"database", "sample"},
        "redis": {"database"},
        "pymysql": {"database"},
        "fastapi": {"demo"},
        "uvicorn": {"demo"},
        "websockets": {"demo"},
    },
}


def modules(package: Path) -> Iterator[tuple[str, ast.Module]]:
    """Every module by its name below the package (`probes.heap`), a package by its own; none that is generated."""
    for path in sorted(package.rglob("*.py")):
        if path.name.endswith(("_pb2.py", "_pb2_grpc.py")):
            continue
        parts = path.relative_to(package).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        yield name, ast.parse(path.read_text(), str(path))


def imports(top: str, name: str, tree: ast.Module, is_package: bool) -> set[str]:
    """Absolute names of what a module imports, wherever in it."""
    here = [top, *([] if name == "__init__" else name.split("."))]
    base = here if is_package else here[:-1]
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            stem = base[: len(base) - node.level + 1] if node.level else []
            source = ".".join([*stem, *([node.module] if node.module else [])])
            found.update(f"{source}.{alias.name}" for alias in node.names)
    return found


def all_imports(package: Path) -> Iterator[tuple[str, str]]:
    """(module, absolute name it imports) for a whole package."""
    for name, tree in modules(package):
        is_package = (package / Path(*name.split("."))).is_dir() or name == "__init__"
        for target in sorted(imports(package.name, name, tree, is_package)):
            yield name, target


def part_of(name: str, arrows: dict[str, set[str]]) -> str:
    """The part a module, or a name in one, belongs to.

    The longest name of a part, or of what a part may import, that begins it. A dunder name of the top-level package
    (`__version__`, say) belongs to `__init__`.
    """
    parts = {*arrows, *(part for allowed in arrows.values() for part in allowed)}
    known = [part for part in parts if name == part or name.startswith(f"{part}.")]
    return max(known, key=len) if known else "__init__" if name.startswith("__") else name.split(".")[0]


def wrong_arrows(package: Path, arrows: dict[str, set[str]]) -> list[str]:
    """One sentence for each import among our own code that the table does not allow."""
    wrong = []
    for name, target in all_imports(package):
        part = part_of(name, arrows)
        top, _, rest = target.partition(".")
        if part not in arrows:
            wrong.append(f"{package.name}.{name} is in no table of tests/test_layers.py")
        elif top in OURS:
            to = part_of(rest, arrows) if top == package.name else seen_from_outside(top, rest)
            if to != part and to not in arrows[part] and (name, to) not in EXCEPTIONS:
                wrong.append(f"{package.name}.{name} must not import {target}")
    return wrong


def seen_from_outside(top: str, rest: str) -> str:
    """What the other side calls a module: `wire`, or its first two words."""
    first = rest.partition(".")[0]
    return "wire" if (top, first) == ("glassbottom", "wire") else f"{top}.{first}".rstrip(".")


def test_the_collector_follows_the_picture() -> None:
    """Of the agent's package it sees only the wire; only server.py names a concrete store; model knows nobody."""
    assert wrong_arrows(COLLECTOR, COLLECTOR_ARROWS) == []


def test_the_agent_follows_the_picture() -> None:
    """It never sees the collector, and probes know of the transport only how to fill its queue."""
    assert wrong_arrows(AGENT, AGENT_ARROWS) == []


@pytest.mark.parametrize(("side", "package"), [("agent", AGENT), ("collector", COLLECTOR)])
def test_a_third_party_library_stays_in_its_home(side: str, package: Path) -> None:
    strays = [
        f"{package.name}.{name} must not import {target}"
        for name, target in all_imports(package)
        for library, homes in HOMES[side].items()
        if target.split(".")[0] == library and not any(name == home or name.startswith(f"{home}.") for home in homes)
    ]
    assert strays == []


def test_the_wire_imports_nothing_of_ours_but_itself() -> None:
    for path in (AGENT / "wire" / "v1").glob("*.py"):
        for target in imports("glassbottom", f"wire.v1.{path.stem}", ast.parse(path.read_text()), False):
            assert not target.startswith("glassbottom") or target.startswith("glassbottom.wire"), f"{path}: {target}"


@pytest.mark.parametrize(
    ("where", "line", "caught"),
    [
        ("model/heap.py", "from ..storage import Reader", True),
        ("model/heap.py", "from ..model.code import Frame", False),
        ("leaks/growth.py", "from ..storage import Reader", False),
        ("leaks/growth.py", "from ..storage.embedded.reader import EmbeddedReader", True),
        ("leaks/growth.py", "from ..storage import embedded", True),
        ("leaks/growth.py", "def f():\n    from glassbottom.wire.v1 import heap_pb2", True),
        ("cli/top.py", "from glassbottom.wire.v1 import query_pb2", False),
        ("cli/top.py", "import glassbottom", True),
        ("cli/top.py", "import glassbottom_collector.leaks", True),
        ("ingest/service.py", "from glassbottom._native import start", True),
        ("novelty/core.py", "import json", True),
    ],
)
def test_a_wrong_arrow_is_noticed(where: str, line: str, caught: bool, tmp_path: Path) -> None:
    package = tmp_path / "glassbottom_collector"
    for part in ("model", "leaks", "cli", "ingest", "storage/embedded", "novelty"):
        (package / part).mkdir(parents=True)
    (package / where).write_text(line)
    assert bool(wrong_arrows(package, COLLECTOR_ARROWS)) == caught
