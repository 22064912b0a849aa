"""`glassbottom run`: real programs, watched without a line of code, and otherwise just as they were."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

from tests.support.ingest_double import IngestDouble
from tests.support.programs import ROOT, environment, server

RUN = [sys.executable, "-m", "glassbottom.run"]


def run(endpoint: str, *arguments: str, cwd: Path | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*RUN, *arguments],
        env=environment(endpoint, **environ),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=cwd or ROOT,
    )


def test_a_real_uvicorn_is_watched_and_keeps_its_process_id_and_its_signals(double: IngestDouble):
    command = [*RUN, "--service", "shop", "--", sys.executable, "-m", "uvicorn", "--port", "0"]
    command += ["--host", "127.0.0.1", "tests.apps.watched_asgi:app"]
    with server(command, environment(double.endpoint)) as uvicorn:
        port = uvicorn.wait_for_line(r"running on http://127\.0\.0\.1:(\d+)")[1]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
            assert int(answer.read()) == uvicorn.process.pid
        double.wait_for(lambda: bool(double.batches()))
    assert double.pids() == {uvicorn.process.pid}
    assert double.sessions[0].hello.process.service == "shop"
    assert uvicorn.process.returncode in (0, -signal.SIGTERM), "".join(uvicorn.lines)
    assert any("Finished server process" in line for line in uvicorn.lines)


WAIT = "import glassbottom; glassbottom.snapshot(); assert glassbottom.flush(20), glassbottom.status()"


def test_the_exit_code_and_the_output_are_the_programs_own(double: IngestDouble):
    done = run(double.endpoint, "--", sys.executable, "-c", "print('out'); raise SystemExit(7)")
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "")


def test_a_program_that_dies_of_a_signal_dies_of_it(double: IngestDouble):
    done = run(double.endpoint, "--", sys.executable, "-c", "import os; os.kill(os.getpid(), 9)")
    assert done.returncode == -signal.SIGKILL


def test_a_sitecustomize_that_was_there_before_still_runs(double: IngestDouble, tmp_path: Path):
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.was_here = __file__\n")
    path = os.pathsep.join([str(ROOT / "agent"), str(tmp_path)])
    code = f"{WAIT}; import sys, sitecustomize; print(sys.was_here == sitecustomize.__file__)"
    done = run(double.endpoint, "--", sys.executable, "-c", code, PYTHONPATH=path)
    assert (done.stdout, done.stderr) == ("True\n", "")
    assert double.batches()


def test_a_sitecustomize_that_fails_fails_as_it_did_before_and_the_program_is_watched(
    double: IngestDouble, tmp_path: Path
):
    (tmp_path / "sitecustomize.py").write_text("1 / 0\n")
    path = os.pathsep.join([str(ROOT / "agent"), str(tmp_path)])
    done = run(double.endpoint, "--", sys.executable, "-c", WAIT, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    assert "ZeroDivisionError" in done.stderr
    assert double.batches()


def test_programs_started_by_the_program_are_watched_once_each(double: IngestDouble):
    code = f"{WAIT}; import subprocess, sys; subprocess.run([sys.executable, '-c', {WAIT!r}], check=True)"
    done = run(double.endpoint, "--service", "family", "--", *RUN, "--", sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    assert len(double.pids()) == len(double.instance_ids()) == 2
    assert {s.hello.process.service for s in double.sessions} == {"family"}


def test_a_run_on_its_way_to_its_command_is_not_watched(double: IngestDouble):
    """However long it takes: here the command it looks for comes late."""
    inner = f"import runpy, sys, time; time.sleep(0.6); sys.argv = ['run', '--', sys.executable, '-c', {WAIT!r}]; "
    inner += "runpy.run_module('glassbottom.run', run_name='__main__')"
    for line in (["-m", "glassbottom.run"], ["-c", inner, "-m", "glassbottom.run"]):
        rest = ["--", sys.executable, "-c", WAIT] if line[0] == "-m" else []
        done = run(double.endpoint, "--service", "late", "--", sys.executable, *line, *rest)
        assert done.returncode == 0, done.stderr
    assert len(double.pids()) == len(double.instance_ids()) == 2


def test_an_init_in_the_program_itself_wins(double: IngestDouble):
    code = f"import glassbottom; glassbottom.init(service='named-in-code'); {WAIT}"
    done = run(double.endpoint, "--", sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    assert double.sessions[-1].hello.process.service == "named-in-code"


def test_an_isolated_python_runs_unwatched_and_says_so(double: IngestDouble, tmp_path: Path):
    for flags in (["-I"], ["-S"], ["-sE"]):
        done = run(double.endpoint, "--", sys.executable, *flags, "-c", "print('ran')")
        assert (done.returncode, done.stdout) == (0, "ran\n")
        assert "unwatched" in done.stderr
    script = tmp_path / "tool"
    script.write_text(f"#!{sys.executable} -I\nprint('ran')\n")
    script.chmod(0o755)
    done = run(double.endpoint, "--", str(script))
    assert done.stdout == "ran\n"
    assert "unwatched" in done.stderr
    assert not double.sessions


def test_under_the_kill_switch_the_program_runs_as_if_alone(double: IngestDouble):
    code = "import sys; print('google.protobuf' in sys.modules)"
    done = run(double.endpoint, "--", sys.executable, "-c", code, GLASSBOTTOM_DISABLE="1")
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_a_program_that_does_not_exist_is_one_sentence(double: IngestDouble):
    done = run(double.endpoint, "--", "no-such-program")
    assert (done.returncode, done.stdout) == (127, "")
    assert "no-such-program was not found" in done.stderr
    assert run(double.endpoint).returncode == 2


def test_a_python_without_glassbottom_runs_unwatched_and_says_so(double: IngestDouble, tmp_path: Path):
    """As when a program below `run` starts the Python of another environment."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "other"], check=True)
    done = run(
        double.endpoint,
        "--",
        "env",
        f"PYTHONPATH={ROOT / 'agent' / 'glassbottom' / 'bootstrap'}",
        str(tmp_path / "other" / "bin" / "python"),
        "-c",
        "print('ran')",
    )
    assert (done.returncode, done.stdout) == (0, "ran\n")
    assert "runs unwatched" in done.stderr
