"""Look into the archive of an incident, verify it, ask it.

  glassbottom archive inspect FILE             what is in it, from where, and what could not be captured
  glassbottom archive verify FILE              every file against the manifest, and a search for secrets
  glassbottom archive analyze FILE VERB ...    a verb that asks a collector, about what the archive has; now is
                                               when it was captured

No collector and no network is needed. An archive that is cut short, changed, made to hurt or newer than this program is
refused with exit code 4; verify ends with 3 when it finds what looks like a secret.

examples:
  glassbottom archive inspect debug_20261125_140500.tar.gz
  glassbottom archive analyze debug_20261125_140500.tar.gz leaks
  glassbottom archive analyze debug_20261125_140500.tar.gz slow --last 30m
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import output
from .exits import Exit, UsageError
from .formats.table import Cell, Column, Report
from .text import moment, plural, size

WORDS = ("inspect", "verify", "analyze")
ASKING = (
    "leaks",
    "top",
    "diff",
    "timeline",
    "slow",
    "tasks",
    "blocked",
    "findings",
    "flame",
    "services",
    "snapshot",
)
STYLES = {"done": "green", "late": "yellow", "refused": "yellow", "failed": "red", "broken": "red"}
HITS_SHOWN = 50


def delegate(line: Sequence[str]) -> int:
    """What follows FILE in `analyze` belongs to another verb."""
    if line[:1] == ["analyze"] and len(line) > 1 and not line[1].startswith("-"):
        return _analyze(Path(line[1]), list(line[2:]))
    from .parsing import parser_for

    parser = parser_for("archive", __doc__ or "")
    add_arguments(parser)
    return run(parser.read(line))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's options."""
    parser.add_argument("word", metavar="WORD", choices=WORDS, help=", ".join(WORDS))
    parser.add_argument("file", metavar="FILE", type=Path, help="debug_YYYYMMDD_HHMMSS.tar.gz")
    output.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Inspects or verifies."""
    if args.word == "analyze":
        return _analyze(args.file, [])
    return _verify(args) if args.word == "verify" else _inspect(args)


def _inspect(args: argparse.Namespace) -> int:
    from .archive_files import opened

    archive = opened(args.file)
    errors = archive.json("errors.json") if "errors.json" in archive.files else []
    manifest = dict(archive.manifest)
    output.answer(
        args,
        lambda: _overview(manifest, errors),
        lambda: {"schema": "glassbottom.archive/1", "manifest": manifest, "errors": errors},
    )
    return Exit.OK


def _verify(args: argparse.Namespace) -> int:
    from .archive_files import opened, scanned

    archive = opened(args.file)
    hits = scanned(archive)

    def report() -> Report:
        found = Report()
        found.line(f"{args.file}: {plural(len(archive.files), 'file')}, all as the manifest says.", "green")
        if not hits:
            found.line("Nothing in it looks like a secret.", "green")
            return found
        found.line(f"{plural(len(hits), 'place')} in it look like secrets:", "red")
        columns = [Column("FILE", flexible=True), Column("LINE", right=True), Column("RULE")]
        found.table(columns, [[path, str(line), rule] for path, line, rule in hits[:HITS_SHOWN]])
        return found

    output.answer(
        args,
        report,
        lambda: {
            "schema": "glassbottom.archive-verify/1",
            "files": len(archive.files),
            "hits": [{"path": path, "line": line, "rule": rule} for path, line, rule in hits],
        },
    )
    return Exit.FINDING if hits else Exit.OK


def _analyze(file: Path, line: list[str]) -> int:
    from . import _run
    from .archive_files import answering, opened

    verb, *rest = line or ["findings"]
    if verb not in ASKING:
        raise UsageError(f"archive analyze cannot {verb}; it can: {', '.join(ASKING)}.")
    with answering(opened(file)) as address:
        return _run(verb, [*rest, "--addr", address])


def _overview(manifest: dict[str, Any], errors: list[dict[str, Any]]) -> Report:
    found = Report()
    found.line(
        f"{manifest.get('issue')} of {manifest.get('service')}, captured {moment(int(manifest.get('to_ns', 0)))} by "
        f"{manifest.get('asked_by') or 'nobody'} with glassbottom {manifest.get('glassbottom')}"
    )
    rows: list[list[Cell | str]] = []
    told = {str(error.get("collector")): error for error in errors}
    for one in manifest.get("collectors", []):
        error = told.get(str(one.get("name")), {})
        words = [error.get("sentence", ""), *error.get("notes", [])]
        state = str(one.get("state"))
        rows.append(
            [
                str(one.get("name")),
                Cell(state, STYLES.get(state, "")),
                str(one.get("files")),
                size(float(one.get("bytes", 0))),
                " ".join(filter(None, map(str, words))),
            ]
        )
    columns = [
        Column("COLLECTOR"),
        Column("STATE"),
        Column("FILES", right=True),
        Column("SIZE", right=True),
        Column("WHAT TO KNOW", flexible=True),
    ]
    found.table(columns, rows)
    files: list[list[Cell | str]] = [
        [str(one.get("path")), size(float(one.get("bytes", 0))), str(one.get("role", "")), str(one.get("node", ""))]
        for one in manifest.get("files", [])
    ]
    found.table([Column("FILE", flexible=True), Column("SIZE", right=True), Column("ROLE"), Column("NODE")], files)
    return found
