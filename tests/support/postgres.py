"""A real PostgreSQL primary and its streaming replica, in about a second, for tests that must see the real thing.

The fixture `postgres` (tests/conftest.py) is one such pair for each process of the test run. A test makes itself a
database with `postgres.database()`. Connections of this module commit with `remote_apply`: what they wrote is visible
on the replica when they return, so nothing has to be waited for. Both nodes log every statement (`log_statement=all`)
with the application's name, and `Node.statements()` reads it back: what a server was asked is known from itself.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
from glassbottom_collector.database import programs
from psycopg import sql

BEGINS = re.compile(
    r"^gb\|(?P<application>[^|]*)\|(?P<user>[^|]*)\|(?P<database>[^|]*)\|(?P<level>[A-Z]+):  (?P<text>.*)"
)
TOLD = re.compile(r"(statement|execute [^:]*|fastpath function call): (?P<statement>.*)")
SETTINGS = """
listen_addresses = '127.0.0.1'
unix_socket_directories = '{directory}'
port = {port}
fsync = off
full_page_writes = off
shared_buffers = 16MB
max_connections = 40
max_wal_senders = 4
wal_retrieve_retry_interval = 50ms
synchronous_standby_names = '*'
synchronous_commit = local
log_statement = all
log_line_prefix = 'gb|%a|%u|%d|'
cluster_name = '{name}'
shared_preload_libraries = '{libraries}'
"""
# The first line: a role that is a member of `with_password` must give one; everybody else is who they say.
HBA = """
host all +with_password 127.0.0.1/32 scram-sha-256
local all all trust
host all all 127.0.0.1/32 trust
local replication all trust
host replication all 127.0.0.1/32 trust
"""


class Node:
    """One running server. `directory` holds its socket, `port` is on loopback as well, `role` is primary or standby."""

    def __init__(self, binaries: Path, directory: Path, data: Path, role: str) -> None:
        self.binaries, self.directory, self.data, self.role = binaries, directory, data, role
        self.port = 0
        self.log_path = directory / f"{role}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it on a free port and returns when it takes connections."""
        for _ in range(5):
            self.port = _free_port()
            libraries = "pg_stat_statements" if _has_library(self.binaries, "pg_stat_statements") else ""
            (self.data / "postgresql.auto.conf.glassbottom").write_text(
                SETTINGS.format(directory=self.directory, port=self.port, name=self.role, libraries=libraries)
            )
            with self.log_path.open("ab") as log:
                self._process = subprocess.Popen(
                    _as_user([str(self.binaries / "postgres"), "-D", str(self.data)]), stderr=log, stdout=log
                )
            if self._ready():
                return
        raise RuntimeError(f"PostgreSQL ({self.role}) did not start:\n{self.log()[-3000:]}")

    def stop(self, how: str = "quit") -> None:
        """`quit` at once, as at the end of the tests; `int` in order, with the connections closed."""
        if self._process is None:
            return
        self._process.send_signal({"quit": 3, "int": 2}[how])
        self._process.wait(30)
        self._process = None

    def conninfo(self, database: str = "postgres", user: str = "postgres", *, tcp: bool = False, **more: object) -> str:
        """As libpq reads it, over the unix socket or over loopback."""
        host = "127.0.0.1" if tcp else str(self.directory)
        return psycopg.conninfo.make_conninfo(host=host, port=self.port, dbname=database, user=user, **more)

    def connect(self, database: str = "postgres", user: str = "postgres", **more: Any) -> psycopg.Connection[Any]:
        """A connection that commits every statement on both nodes before it returns."""
        options = "" if self.role == "standby" else "-c synchronous_commit=remote_apply"
        return psycopg.connect(self.conninfo(database, user, options=options), autocommit=True, **more)

    def run(self, *statements: str, database: str = "postgres", user: str = "postgres") -> list[tuple[Any, ...]]:
        """Runs each; the rows of the last, if it has any. A statement may be a script without parameters."""
        with self.connect(database, user) as connection:
            cursor = connection.cursor()
            for statement in statements:
                cursor.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def log(self, since: int = 0) -> str:
        """What the server has logged, from a byte on: see log_bytes()."""
        with self.log_path.open("rb") as file:
            file.seek(since)
            return file.read().decode(errors="replace")

    def log_bytes(self) -> int:
        """How long the log is now."""
        return self.log_path.stat().st_size

    def statements(self, application: str, since: int = 0) -> list[str]:
        """What connections of this application_name made it do. A statement is in the log before it has an answer."""
        return [
            told["statement"]
            for found in map(BEGINS.match, self.log(since).splitlines())
            if found and found["application"] == application and found["level"] == "LOG"
            for told in [TOLD.match(found["text"])]
            if told
        ]

    def wait_until(self, question: str, timeout_s: float = 20.0) -> None:
        """Returns when a statement answers with true."""
        end = time.monotonic() + timeout_s
        with self.connect() as connection:
            while not connection.execute(question.encode()).fetchone()[0]:  # type: ignore[index]
                if time.monotonic() > end:
                    raise TimeoutError(f"{self.role}: {question} was not true within {timeout_s:g} s")
                time.sleep(0.01)

    def _ready(self) -> bool:
        """Whether it came up. postmaster.pid has the state in its eighth line as soon as the server can be asked."""
        assert self._process is not None
        end = time.monotonic() + 60
        while self._process.poll() is None and time.monotonic() < end:
            with contextlib.suppress(OSError):
                lines = (self.data / "postmaster.pid").read_text().splitlines()
                if len(lines) >= 8 and lines[7].strip() == "ready" and int(lines[0]) == self._process.pid:
                    return True
            time.sleep(0.005)
        return False


class Cluster:
    """A primary and the standby that follows it."""

    def __init__(self, primary: Node, standby: Node) -> None:
        self.primary, self.standby = primary, standby
        self._numbers = itertools.count(1)
        self.version = int(primary.run("SHOW server_version_num")[0][0]) // 10000

    @contextlib.contextmanager
    def database(self, *statements: str) -> Iterator[str]:
        """The name of a new database, on both nodes, after these statements; dropped at the end."""
        name = f"test_{next(self._numbers)}"
        self.primary.run(f"CREATE DATABASE {name} TEMPLATE template0")
        try:
            if statements:
                self.primary.run(*statements, database=name)
            yield name
        finally:
            self.primary.run(f"DROP DATABASE {name} WITH (FORCE)")

    @contextlib.contextmanager
    def role(self, options: str = "LOGIN", *then: str, database: str = "postgres") -> Iterator[str]:
        """The name of a new role. then: statements that grant it things in a database, `{role}` being its name.

        What it was granted goes with the database; make the role inside database(), so that it is dropped before it.
        """
        name = f"role_{next(self._numbers)}"
        self.primary.run(f"CREATE ROLE {name} {options}", *(text.format(role=name) for text in then), database=database)
        try:
            yield name
        finally:
            self.primary.run(f"DROP OWNED BY {name}", f"DROP ROLE {name}", database=database)

    @contextlib.contextmanager
    def reader(self, database: str, *then: str) -> Iterator[str]:
        """A role as the documentation asks for it: pg_monitor, and nothing that writes."""
        grants = f"REVOKE TEMPORARY ON DATABASE {database} FROM PUBLIC"
        with self.role("LOGIN IN ROLE pg_monitor", grants, *then, database=database) as name:
            yield name

    @contextlib.contextmanager
    def receiver_stopped(self) -> Iterator[None]:
        """The standby does not hear from the primary while this lasts."""
        [[followed]] = self.standby.run("SHOW primary_conninfo")
        self.standby.run("ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()")
        try:
            self.standby.wait_until("SELECT count(*) = 0 FROM pg_stat_wal_receiver")
            yield
        finally:
            text = sql.Literal(followed).as_string(None)
            self.standby.run(f"ALTER SYSTEM SET primary_conninfo = {text}", "SELECT pg_reload_conf()")
            self.standby.wait_until("SELECT count(*) = 1 FROM pg_stat_wal_receiver WHERE status = 'streaming'")

    @contextlib.contextmanager
    def replay_paused(self) -> Iterator[None]:
        """The standby receives and does not apply while this lasts: commit with `SET synchronous_commit = local`."""
        self.standby.run("SELECT pg_wal_replay_pause()")
        try:
            self.standby.wait_until("SELECT pg_get_wal_replay_pause_state() = 'paused'")
            yield
        finally:
            self.standby.run("SELECT pg_wal_replay_resume()")


@contextlib.contextmanager
def postgres_cluster() -> Iterator[Cluster]:
    """A primary and a standby that streams from it; gone at the end, and at the end of this process in any case."""
    binaries = programs.find("postgres", beside=("initdb", "pg_basebackup")).parent
    # Below /tmp: the path of a unix socket has at most 107 characters, and the server's user must reach it.
    directory = Path(tempfile.mkdtemp(prefix="gbpg-", dir="/tmp"))
    if os.geteuid() == 0:
        shutil.chown(directory, _server_user())
    primary = Node(binaries, directory, directory / "primary", "primary")
    standby = Node(binaries, directory, directory / "standby", "standby")
    try:
        setting = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"]
        _do([str(binaries / "initdb"), "-D", str(primary.data), *setting])
        with (primary.data / "postgresql.conf").open("a") as file:
            file.write("include 'postgresql.auto.conf.glassbottom'\n")
        (primary.data / "pg_hba.conf").write_text(HBA)
        primary.start()
        with psycopg.connect(primary.conninfo(), autocommit=True) as connection:
            connection.execute("CREATE ROLE with_password")
        source = primary.conninfo(application_name="standby")
        copy = ["-c", "fast", "-X", "stream", "--no-sync", "-R", "-C", "-S", "standby"]
        _do([str(binaries / "pg_basebackup"), "-D", str(standby.data), "-d", source, *copy])
        standby.start()
        yield Cluster(primary, standby)
    finally:
        standby.stop()
        primary.stop()
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def pooled(node: Node, user: str) -> Iterator[str]:
    """HOST and PORT, as libpq reads them, of a real PgBouncer in front of a node: transaction pooling, as it comes."""
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        raise RuntimeError("pgbouncer is not on this machine: install it with `apt-get install -y pgbouncer`.")
    port = _free_port()
    settings = node.directory / f"pgbouncer-{port}.ini"
    users = settings.with_suffix(".users")
    settings.write_text(
        f"[databases]\n* = host={node.directory} port={node.port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
        f"listen_port = {port}\nunix_socket_dir =\nauth_type = trust\nauth_file = {users}\npool_mode = transaction\n"
    )
    users.write_text(f'"{user}" ""\n')
    users.chmod(0o644)
    settings.chmod(0o644)
    with subprocess.Popen(_as_user([program, str(settings)]), stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            said = ""
            for line in process.stderr:
                said += line
                if "process up" in line:
                    break
            else:
                raise RuntimeError(f"pgbouncer did not start:\n{said}")
            yield f"host=127.0.0.1 port={port}"
        finally:
            process.kill()


def _as_user(command: list[str]) -> list[str]:
    """A command as the server's user where we are root, and interrupted when this process ends, however it ends."""
    if not shutil.which("setpriv"):
        raise RuntimeError("setpriv is not on this machine: install it with `apt-get install -y util-linux`.")
    drop: list[str] = []
    if os.geteuid() == 0:
        user = pwd.getpwnam(_server_user())
        drop = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--init-groups"]
    return ["setpriv", *drop, "--pdeathsig=INT", *command]


def _do(command: list[str]) -> None:
    done = subprocess.run(_as_user(command), capture_output=True, text=True, check=False, timeout=60)
    if done.returncode != 0:
        raise RuntimeError(f"{Path(command[0]).name} failed:\n{done.stdout}{done.stderr}")


def _server_user() -> str:
    """PostgreSQL does not run as root."""
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def _has_library(binaries: Path, name: str) -> bool:
    told = subprocess.run([binaries / "pg_config", "--pkglibdir"], capture_output=True, text=True, check=False)
    return told.returncode == 0 and (Path(told.stdout.strip()) / f"{name}.so").exists()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
