"""An incident of a real service with a real PostgreSQL, captured by the command line: what is in the archive, what is
not, and that nobody was hurt."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from glassbottom_collector.cli import main

from tests.support.collector_process import CollectorProcess, collector_process, python_environment
from tests.support.postgres import Cluster

pytestmark = pytest.mark.once

APP = Path(__file__).parents[1] / "apps" / "incident_service.py"
CANARIES = {
    "url": "Zx81-url-canary-9f3a",
    "bearer": "eyCanaryBearer.7c1d0a4455aa",
    "card": "4539 1488 0343 6467",
    "mail": "canary.person@mail.example-shop.com",
    "password": "canary-Passw0rd-44b1",
    "aws": "AKIA" + "J7QWCANARYXPLM4T",
    "token": "canaryTokenInAnException77",
    "row": "canary in a row of customers",
    "literal": "canary-literal-in-a-statement",
    "environment": "canary-in-the-environment",
}
SHOP = (
    "CREATE TABLE customers (id int PRIMARY KEY, name text, mail text, note jsonb)",
    "CREATE TABLE orders (id int PRIMARY KEY, customer int REFERENCES customers, total int)",
    "INSERT INTO customers SELECT n, '{row}' || n, 'c' || n || '{mail}', '{{\"k\": \"{row}\"}}' "
    "FROM generate_series(1, 30) n".replace("{row}", CANARIES["row"])
    .replace("{mail}", CANARIES["mail"])
    .replace("{{", "{")
    .replace("}}", "}"),
    "INSERT INTO orders SELECT n, 1 + n % 30, n FROM generate_series(1, 200) n",
    "CREATE EXTENSION pg_stat_statements",
    "ANALYZE",
)


@contextmanager
def service(address: str) -> Iterator[subprocess.Popen[str]]:
    """The service, connected and waiting."""
    environment = python_environment(
        {
            "GLASSBOTTOM_ENDPOINT": address,
            "CANARIES": json.dumps(CANARIES),
            "DATABASE_URL": f"postgresql://app:{CANARIES['environment']}@db/orders",
            "API_TOKEN": CANARIES["environment"],
            "TZ": "UTC",
        }
    )
    process = subprocess.Popen(
        [sys.executable, str(APP)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready"
        yield process
    finally:
        process.communicate("", timeout=60)


def wait_for(condition: Any, what: str) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.1)


def asked(*line: str) -> tuple[int, str, str]:
    """A command line's exit code and what it wrote."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(line)
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def running(
    postgres: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[CollectorProcess, subprocess.Popen[str], str]]:
    """A collector that knows the databases of a service that runs, and the name of its database."""
    with postgres.database(*SHOP) as name, postgres.reader(name, "GRANT SELECT ON orders, customers TO {role}") as role:
        configuration = tmp_path_factory.mktemp("collector") / "collector.yaml"
        configuration.write_text(
            json.dumps(
                {
                    "incidents": {"pause_s": 1},
                    "databases": [
                        {
                            "name": "orders",
                            "service": "checkout",
                            "replica": postgres.standby.conninfo(name, role),
                            "primary": postgres.primary.conninfo(name, role),
                        }
                    ],
                }
            )
        )
        with (
            collector_process(arguments=["--config", str(configuration)]) as collector,
            service(collector.address) as it,
        ):
            tasks = ("tasks", "--service", "checkout", "--addr", collector.address)
            wait_for(lambda: "waits" in asked(*tasks)[1], "nothing was stored of the service")
            yield collector, it, name


def files_of(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {
            member.name.partition("/")[2]: tar.extractfile(member).read()  # type: ignore[union-attr]
            for member in tar.getmembers()
        }


def captured(address: str, path: Path, *more: str) -> dict[str, Any]:
    line = ["capture", "OPS-1", "--service", "checkout", "--addr", address, "--output", str(path), "-o", "json", *more]
    began_s = time.monotonic()
    _, out, err = asked(*line)
    took_s = time.monotonic() - began_s
    assert out, err
    document: dict[str, Any] = json.loads(out)
    assert document["incident"]["state"] in ("stored", "partial"), document["incident"]
    assert took_s < 90  # 30 is what a capture may take; the machine may be busy with other tests
    return document


def test_the_archive_has_the_state_around_the_incident_no_canary_and_the_primary_was_not_asked(
    running: tuple[CollectorProcess, subprocess.Popen[str], str],
    postgres: Cluster,
    tmp_path: Path,
) -> None:
    collector, _, _ = running
    since = postgres.primary.log_bytes()
    path = tmp_path / "debug.tar.gz"

    document = captured(collector.address, path)

    states = {one["name"]: (one["state"], one["sentence"]) for one in document["collectors"]}
    files = files_of(path)
    assert {state for state, _ in states.values()} == {"done"}, states
    assert postgres.primary.statements("glassbottom:OPS-1", since) == []
    assert len(postgres.standby.statements("glassbottom:OPS-1")) > 10
    for wanted in (
        "db/orders/schema.sql",
        "db/orders/sizes.json",
        "db/orders/data/public.customers.csv",
        "db/orders/fk.json",
        "db/orders/locks.json",
        "logs/patterns.json",
        "metrics/metrics.json",
        "state/summary.json",
        "state/rows/texts.json",
        "manifest.json",
        "redactions.json",
        "errors.json",
    ):
        assert wanted in files
    (state,) = [
        json.loads(data) for path_, data in files.items() if path_.startswith("state/") and "waiter 3" in str(data)
    ][:1]
    assert state
    logged = b"".join(data for name, data in files.items() if name.startswith("logs/"))
    assert b"order 49 paid in 343 ms" in logged
    everything = b"\n".join(files.values())
    found = [kind for kind, canary in CANARIES.items() if canary.encode() in everything]
    assert found == []
    assert path.stat().st_size < 20 << 20
    assert asked("archive", "verify", str(path))[0] == 0


def test_with_activity_the_primary_tells_its_locks_without_literals(
    running: tuple[CollectorProcess, subprocess.Popen[str], str],
    postgres: Cluster,
    tmp_path: Path,
) -> None:
    collector, _, name = running
    path = tmp_path / "debug.tar.gz"
    with postgres.primary.connect(name) as holder, postgres.primary.connect(name) as waiter:
        holder.execute("BEGIN")
        holder.execute(f"UPDATE customers SET name = '{CANARIES['literal']}' WHERE id = 1".encode())
        pid = waiter.info.backend_pid
        statement = f"UPDATE customers SET name = '{CANARIES['literal']}' WHERE id = 1".encode()
        waiting = threading.Thread(target=waiter.execute, args=(statement,))
        waiting.start()
        postgres.primary.wait_until(f"SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = {pid}")

        captured(collector.address, path, "--activity", "--only", "postgres")
        holder.execute("ROLLBACK")
        waiting.join(60)

    locks = json.loads(files_of(path)["db/orders/locks.json"])
    assert str(pid) in json.dumps(locks)
    assert "UPDATE customers SET name" in json.dumps(locks)
    assert CANARIES["literal"].encode() not in b"".join(files_of(path).values())


def test_the_doctor_finds_the_databases_fit_before_anything_is_captured(
    running: tuple[CollectorProcess, subprocess.Popen[str], str],
) -> None:
    collector, _, _ = running
    code, out, err = asked("doctor", "--addr", collector.address, "-o", "json")

    assert code == 0, err
    checks = {(one["name"], one["state"]) for one in json.loads(out)["checks"]}
    assert ("replica", "ok") in checks
    assert ("lag", "ok") in checks
    assert {state for _, state in checks} <= {"ok", "warning"}


def test_sigusr2_at_the_process_captures_by_itself(
    running: tuple[CollectorProcess, subprocess.Popen[str], str],
) -> None:
    collector, process, _ = running
    os.kill(process.pid, signal.SIGUSR2)

    def signalled() -> list[dict[str, Any]]:
        _, out, _ = asked("capture", "--list", "--addr", collector.address, "-o", "json")
        return [one for one in json.loads(out)["incidents"] if one["trigger"] == "signal"]

    wait_for(signalled, "nothing was captured")
    assert len(signalled()) == 1
    assert process.poll() is None


def test_the_archive_analyses_offline(
    running: tuple[CollectorProcess, subprocess.Popen[str], str], tmp_path: Path
) -> None:
    collector, _, _ = running
    path = tmp_path / "debug.tar.gz"
    captured(collector.address, path, "--only", "collector")

    code, out, _ = asked("archive", "analyze", str(path), "tasks", "-o", "json")
    assert code in (0, 3)
    assert "waits" in out
