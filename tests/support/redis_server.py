"""A real Redis on a free port of loopback, for tests of what is read from one."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import redis


@dataclass(frozen=True)
class RedisServer:
    """A running server, and a client of it."""

    host: str
    port: int
    client: redis.Redis

    @property
    def url(self) -> str:
        """Without a password."""
        return f"redis://{self.host}:{self.port}/0"


@contextlib.contextmanager
def redis_server(*arguments: str, password: str | None = None) -> Iterator[RedisServer]:
    """Keeps nothing, gone at the end and at the end of this process. arguments: more of its command line."""
    program = shutil.which("redis-server")
    if program is None:
        raise RuntimeError("redis-server is not on this machine: install it with `apt-get install -y redis-server`.")
    with tempfile.TemporaryDirectory(prefix="gbredis-") as directory:
        for _ in range(5):
            port = _free_port()
            line = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", directory, *arguments]
            line += ["--requirepass", password] if password else []
            process = subprocess.Popen(_until_we_end(line), stdout=subprocess.PIPE, text=True)
            client = redis.Redis("127.0.0.1", port, password=password, decode_responses=True)
            try:
                if _ready(process, client):
                    yield RedisServer("127.0.0.1", port, client)
                    return
            finally:
                client.close()
                process.kill()
                process.communicate()
        raise RuntimeError("redis-server did not start on any of five free ports.")


def _ready(process: subprocess.Popen[str], client: redis.Redis) -> bool:
    end = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(redis.ConnectionError):
            if client.ping():
                return True
        time.sleep(0.005)
    return False


def _until_we_end(line: Sequence[str]) -> list[str]:
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig=KILL", *line] if setpriv else list(line)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
