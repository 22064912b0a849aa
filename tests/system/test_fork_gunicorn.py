"""gunicorn --preload: the agent starts in the master, before the workers are forked from it."""

from __future__ import annotations

import sys
import urllib.request

import pytest

from tests.support.ingest_double import IngestDouble
from tests.support.programs import environment, server

WORKERS = 4


@pytest.mark.parametrize("worker_class", ["sync", "gthread"])
def test_every_preforked_worker_reports_under_an_instance_id_of_its_own(double: IngestDouble, worker_class: str):
    command = [sys.executable, "-m", "gunicorn", "--preload", "--workers", str(WORKERS), "--bind", "127.0.0.1:0"]
    command += ["--worker-class", worker_class, "--threads", "2", "tests.apps.preloaded_wsgi:app"]
    with server(command, environment(double.endpoint)) as gunicorn:
        port = gunicorn.wait_for_line(r"Listening at: http://127\.0\.0\.1:(\d+)")[1]
        double.wait_for(lambda: len(double.pids()) == WORKERS + 1)
        for _ in range(20):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
                assert int(answer.read()) in double.pids()
        double.wait_for(
            lambda: len({s.hello.process.pid for s in double.sessions if len(s.batches) >= 3}) == WORKERS + 1
        )
        by_pid = {s.hello.process.pid: s.hello.process.instance_id for s in double.sessions}
        assert len(set(by_pid.values())) == WORKERS + 1
        assert len(double.instance_ids()) == WORKERS + 1
        states = {s.heartbeats[-1].sampler_state for s in double.sessions if s.heartbeats}
        assert states == {"running"}
        workers = [s for s in double.sessions if s.hello.process.pid != gunicorn.process.pid]
        assert {s.hello.process.attributes["process.parent_pid"] for s in workers} == {str(gunicorn.process.pid)}
    assert gunicorn.process.returncode == 0
