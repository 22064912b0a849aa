"""The schema of a database, by pg_dump from a replica, never rows.

pg_dump sets its own timeouts to none after it has connected: only `--lock-wait-timeout` binds it, and an end from
outside. Tables that are being changed (AccessExclusiveLock) are left out and named. When it is killed, the server
notices by itself (client_connection_check_interval).
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..incident.parts import CollectingError, Planned, Sink
from . import pack, programs
from .connection import Session, arguments, driver
from .postgres import Node, ask

LOCK_WAIT_MS = 2_000
TABLES_WITHOUT_MAX = 500
SCHEMA_BYTES_MAX = 16 * 2**20
Section = Literal["pre-data", "post-data"]


@dataclass
class Schema:
    """Implements Collector."""

    name: str
    path: str
    node: Node
    budget_s: float = 15.0

    @property
    def lane(self) -> str:
        """See Node.lane."""
        return self.node.lane

    def plan(self) -> Sequence[Planned]:
        """The command lines, as they are for a database without locked tables."""
        sections: tuple[Section, ...] = ("pre-data", "post-data")
        lines = [" ".join(command("pg_dump", section, ())) for section in sections]
        return [Planned(line, self.node.label, "standby", "medium", self.budget_s) for line in lines]

    def collect(self, sink: Sink, deadline_s: float) -> None:
        """See Collector. Writes the whole schema, and its two sections beside it, for loading rows in between."""
        deadline_s = min(deadline_s, time.monotonic() + self.budget_s)
        with self.node.use(self.name, deadline_s) as session:
            locked = self._tables(session, "sizes_locked", deadline_s)
            unreadable = [each for each in self._tables(session, "unreadable", deadline_s) if each not in locked]
            if len(unreadable) > TABLES_WITHOUT_MAX:
                raise CollectingError(
                    f"pg_dump needs SELECT on the tables of {session.node}, and the role has it on too few: "
                    "grant pg_read_all_data, or SELECT on the schema."
                )
            stem = self.path.removesuffix(".sql")
            without = [*locked, *unreadable]
            before = dump(self.node, session, "pre-data", without, deadline_s)
            after = dump(self.node, session, "post-data", without, deadline_s)
        for path, text in (
            (self.path, before + after),
            (f"{stem}-pre-data.sql", before),
            (f"{stem}-post-data.sql", after),
        ):
            sink.text(path, text, node=session.node, role=session.role)
        for schema, table in locked:
            sink.note(f"{schema}.{table} is locked exclusively; its definition is left out.")
        if unreadable:
            named = ", ".join(f"{schema}.{table}" for schema, table in unreadable[:10])
            sink.note(
                f"{len(unreadable)} tables are left out of the schema, because pg_dump needs SELECT on them: {named}. "
                "Grant it, or pg_read_all_data, to have them."
            )

    def _tables(self, session: Session, identity: str, deadline_s: float) -> list[tuple[str, str]]:
        query = pack.pick(pack.load("postgresql"), identity)
        assert query is not None
        rows = ask(session, query, deadline_s, lambda text, _: text, self.path)
        return [(row["schema"], row["table"]) for row in rows]


def dump(node: Node, session: Session, section: Section, without: Sequence[tuple[str, str]], deadline_s: float) -> str:
    """What pg_dump says of a replica's schema. Raises CollectingError."""
    program = suited(session.version)
    parameters = arguments(node.target, node.role, node.issue, node.guards)
    environment = dict(os.environ)
    if password := parameters.pop("password", None):
        environment["PGPASSWORD"] = str(password)  # a command line is for everybody's eyes
    options = "-c default_transaction_read_only=on"
    if session.version >= 14:
        options += " -c client_connection_check_interval=500"
    parameters["options"] = "" if session.pooled else options
    conninfo = driver().conninfo.make_conninfo(**parameters)
    line = [*command(str(program), section, without), f"--dbname={conninfo}"]
    try:
        done = subprocess.run(
            line,
            capture_output=True,
            check=False,
            env=environment,
            stdin=subprocess.DEVNULL,
            timeout=max(deadline_s - time.monotonic(), 0.1),
        )
    except subprocess.TimeoutExpired:
        raise CollectingError(
            f"pg_dump of {session.node} was not done within its time and was ended; give the capture more."
        ) from None
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason"]
        raise CollectingError(f"pg_dump of {session.node} failed: {said[0][:300]}.")
    if len(done.stdout) > SCHEMA_BYTES_MAX:
        raise CollectingError(f"The schema of {session.node} is larger than {SCHEMA_BYTES_MAX >> 20} MiB; left out.")
    # A random word against injection in psql, new in every dump of recent versions: the same schema is the same text.
    kept = [each for each in done.stdout.decode(errors="replace").splitlines() if not each.startswith(RESTRICTED)]
    return "\n".join(kept) + "\n"


RESTRICTED = ("\\restrict ", "\\unrestrict ")


def command(program: str, section: Section, without: Sequence[tuple[str, str]]) -> list[str]:
    """The command line, but for where to connect."""
    line = [program, "--schema-only", "--no-owner", "--no-privileges", "--no-password"]
    line.append(f"--lock-wait-timeout={LOCK_WAIT_MS}")
    line.append(f"--section={section}")
    return line + [f"--exclude-table={_quoted(schema)}.{_quoted(table)}" for schema, table in without]


def suited(version: int) -> Path:
    """A pg_dump that is at least as new as the server. Raises CollectingError, with what to install."""
    found = list(programs.versions("pg_dump"))
    for major, path in found:
        if major >= version:
            return path
    newest = max((major for major, _ in found), default=0)
    has = f"the newest here is {newest}" if newest else "there is none on this machine"
    raise CollectingError(
        f"pg_dump must be of PostgreSQL {version} or newer, and {has}: "
        f"`apt-get install -y postgresql-client-{version}`."
    )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
