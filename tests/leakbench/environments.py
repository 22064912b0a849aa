"""The environments cases run in: a version of a library apart from all others, made when first needed.

Each lies in .venv/leakbench/NAME with the agent's own dependencies beside the library. The agent is this tree's, found
by PYTHONPATH, so its C core must have been built for that version of Python. "plain" is the interpreter of the runner.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.leakbench.case import ROOT

AGENT_NEEDS = ("h2>=4.1", "protobuf>=5.27.2", "zstandard>=0.22")
PLAIN = "plain"


@dataclass(frozen=True)
class Environment:
    """python: version of the interpreter; the libraries of some cases are older than the newest ones."""

    python: str
    requirements: tuple[str, ...]


ENVIRONMENTS: dict[str, Environment] = {
    "aiohttp-3.10.10": Environment("3.11", ("aiohttp==3.10.10",)),
    "aiohttp-3.10.11": Environment("3.11", ("aiohttp==3.10.11",)),
    "opentelemetry-sdk-1.27.0": Environment("3.11", ("opentelemetry-sdk==1.27.0",)),
    "opentelemetry-sdk-1.28.0": Environment("3.11", ("opentelemetry-sdk==1.28.0",)),
    "pydantic-2.0.3": Environment("3.11", ("pydantic==2.0.3",)),
    "pydantic-2.1.1": Environment("3.11", ("pydantic==2.1.1",)),
    "pydantic-1.9.0": Environment("3.11", ("pydantic==1.9.0",)),
    "pydantic-1.10.17": Environment("3.11", ("pydantic==1.10.17",)),
    "hiredis-2.2.2": Environment("3.11", ("hiredis==2.2.2", "redis==4.5.4")),
    "hiredis-2.2.3": Environment("3.11", ("hiredis==2.2.3", "redis==4.5.4")),
    "pandas-2.2.0": Environment("3.11", ("pandas==2.2.0", "numpy<2")),
    "pandas-2.2.1": Environment("3.11", ("pandas==2.2.1", "numpy<2")),
    "sentry-sdk-2.60.0": Environment("3.11", ("sentry-sdk==2.60.0", "opentelemetry-sdk")),
    "sentry-sdk-2.61.0": Environment("3.11", ("sentry-sdk==2.61.0", "opentelemetry-sdk")),
    "ujson-5.10.0": Environment("3.11", ("ujson==5.10.0",)),
    "ujson-5.12.1": Environment("3.11", ("ujson==5.12.1",)),
    "multidict-6.3.0": Environment("3.11", ("multidict==6.3.0",)),
    "multidict-6.4.0": Environment("3.11", ("multidict==6.4.0",)),
    # Misuse and controls: what matters is the program, so one environment has them all.
    "misuse": Environment(
        "3.11",
        (
            "aiodataloader",
            "asgiref",
            "attrs",
            "boto3",
            "cattrs",
            "django",
            "fsspec",
            "jsonschema==4.21.1",
            "loguru",
            "marshmallow<4",
            "matplotlib",
            "numpy",
            "pandas",
            "prometheus-client",
            "pydantic==2.5.3",
            "requests",
            "sqlalchemy",
        ),
    ),
}


def python_of(name: str) -> Path:
    """Interpreter of an environment; makes it first where it is missing. Raises SystemExit when that fails."""
    if name == PLAIN:
        return Path(sys.executable)
    wanted = ENVIRONMENTS[name]
    directory = ROOT / ".venv" / "leakbench" / name
    ready = directory / ".ready"
    if not ready.exists() or ready.read_text(encoding="utf-8") != _text(wanted):
        shutil.rmtree(directory, ignore_errors=True)
        _make(directory, wanted)
        ready.write_text(_text(wanted), encoding="utf-8")
    return directory / "bin" / "python"


def _make(directory: Path, wanted: Environment) -> None:
    base = ROOT / ".venv" / wanted.python / "bin" / "python"
    if not base.exists():
        raise SystemExit(f"There is no {base}; run: make test-{wanted.python} PYTEST_ARGS=--collect-only")
    print(f"making {directory.relative_to(ROOT)}", file=sys.stderr, flush=True)
    subprocess.run([base, "-m", "venv", directory], check=True)
    command = [directory / "bin" / "pip", "install", "-qq", "--no-compile", "--disable-pip-version-check"]
    done = subprocess.run([*command, *AGENT_NEEDS, *wanted.requirements], check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"pip could not make {directory.name}: {done.stderr.strip()[-600:]}")


def _text(wanted: Environment) -> str:
    return "\n".join([wanted.python, *AGENT_NEEDS, *wanted.requirements])
