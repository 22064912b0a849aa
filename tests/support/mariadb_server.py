"""A real MariaDB on a unix socket, for tests of what is read from MySQL and its relatives."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymysql

SCRIPTS = Path("/usr/share/mysql")
TABLES = ("mysql_system_tables.sql", "mysql_performance_tables.sql", "mysql_system_tables_data.sql")


@dataclass(frozen=True)
class MariadbServer:
    """A running server."""

    socket: Path

    def connect(self, user: str = "root", database: str | None = None) -> pymysql.Connection[Any]:
        return pymysql.connect(unix_socket=str(self.socket), user=user, database=database, autocommit=True)

    def run(self, *statements: str, database: str | None = None) -> None:
        """As root."""
        with contextlib.closing(self.connect(database=database)) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def url(self, user: str, database: str) -> str:
        return f"mysql://{user}@localhost/{database}?unix_socket={self.socket}"


@contextlib.contextmanager
def mariadb_server() -> Iterator[MariadbServer]:
    """With performance_schema; gone at the end and at the end of this process."""
    program = shutil.which("mariadbd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None or not SCRIPTS.is_dir():
        raise RuntimeError("mariadbd is not on this machine: install it with `apt-get install -y mariadb-server-core`.")
    directory = Path(tempfile.mkdtemp(prefix="gbmy-", dir="/tmp"))
    drop: list[str] = []
    if os.geteuid() == 0:
        user = pwd.getpwnam("nobody")
        os.chown(directory, user.pw_uid, user.pw_gid)
        drop = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    line = ["setpriv", *drop, "--pdeathsig=KILL", program, "--no-defaults", f"--datadir={directory}"]
    line += ["--innodb-buffer-pool-size=16M", "--innodb-log-file-size=4M", "--innodb-flush-method=nosync"]
    line += ["--aria-pagecache-buffer-size=8M", "--key-buffer-size=1M"]
    script = "CREATE DATABASE mysql;\nUSE mysql;\nSET @auth_root_socket = NULL;\n"
    script += "".join((SCRIPTS / name).read_text() for name in TABLES)
    try:
        made = subprocess.run([*line, "--bootstrap"], input=script, capture_output=True, text=True, check=False)
        if made.returncode != 0:
            raise RuntimeError(f"mariadbd could not make its tables:\n{made.stderr[-3000:]}")
        server = MariadbServer(directory / "socket")
        log = directory / "log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [*line, "--skip-networking", f"--socket={server.socket}", "--performance-schema"], stderr=file
            )
        try:
            end = time.monotonic() + 60
            while process.poll() is None and time.monotonic() < end:
                with contextlib.suppress(pymysql.OperationalError):
                    server.connect().close()
                    break
                time.sleep(0.01)
            else:
                raise RuntimeError(f"mariadbd did not start:\n{log.read_text()[-3000:]}")
            yield server
        finally:
            process.kill()
            process.wait()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
