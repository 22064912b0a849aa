"""`glassbottom run [--service NAME] -- COMMAND …`: watches a program without a line of code in it.

It puts a directory with a sitecustomize.py before everything else on PYTHONPATH and becomes the command, by exec, so
process id, signals, terminal and exit code are the command's own. Interpreters that ignore PYTHONPATH (-I, -E, -S) run
as always, unwatched, which is said on stderr. Needs only the agent, not the collector.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

BOOTSTRAP = Path(__file__).resolve().parent / "bootstrap"
EXIT_USAGE = 2
EXIT_NOT_EXECUTABLE = 126  # as shells have it
EXIT_NOT_FOUND = 127


def main(argv: Sequence[str] | None = None) -> int:
    """Becomes the command; returns only when that is impossible, with the exit code to leave with."""
    arguments = _parser().parse_args(argv)
    command: list[str] = arguments.command
    if command[:1] == ["--"]:
        command = command[1:]
    if not command:
        _say("nothing to run; give a command, such as: glassbottom run -- uvicorn app:app")
        return EXIT_USAGE
    executable = shutil.which(command[0])
    if executable is None:
        found = Path(command[0]).exists()
        _say(f"{command[0]} {'cannot be executed' if found else 'was not found'}; give a program on PATH or a path.")
        return EXIT_NOT_EXECUTABLE if found else EXIT_NOT_FOUND
    flag = _ignores_path(executable, command[1:])
    if flag is not None:
        _say(f"Python with {flag} takes no notice of its surroundings, so this program runs unwatched.")
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execve(executable, command, environment(os.environ, arguments.service, arguments.endpoint))  # noqa: S606
    except OSError as error:
        _say(f"{executable} cannot be executed: {error.strerror}.")
    return EXIT_NOT_EXECUTABLE


def environment(
    environ: os._Environ[str] | dict[str, str], service: str | None, endpoint: str | None
) -> dict[str, str]:
    """The environment for the command."""
    changed = dict(environ)
    path = [entry for entry in changed.get("PYTHONPATH", "").split(os.pathsep) if entry and entry != str(BOOTSTRAP)]
    changed["PYTHONPATH"] = os.pathsep.join([str(BOOTSTRAP), *path])
    if service is not None:
        changed["GLASSBOTTOM_SERVICE"] = service
    if endpoint is not None:
        changed["GLASSBOTTOM_ENDPOINT"] = endpoint
    return changed


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="glassbottom run",
        description="Run a program and watch it, without a line of code in it.",
        epilog="All options of docs/agent.md may be given as GLASSBOTTOM_* variables.",
    )
    parser.add_argument("--service", metavar="NAME", help="name of the service, for OpenTelemetry's service.name")
    parser.add_argument("--endpoint", metavar="HOST:PORT", help="where the collector is (default 127.0.0.1:7411)")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND …", help="what to run")
    return parser


def _ignores_path(executable: str, arguments: Sequence[str]) -> str | None:
    """The flag, if any, that makes this Python ignore PYTHONPATH or site."""
    if "python" not in Path(executable).name:
        executable, arguments = _shebang(executable)
        if "python" not in executable:
            return None
    for argument in arguments:
        if not argument.startswith("-") or argument.startswith(("--", "-c", "-m")):
            return None
        for letter in argument[1:]:
            if letter in "IES":
                return f"-{letter}"
            if letter in "WX":
                break  # the rest is that flag's value
    return None


def _shebang(path: str) -> tuple[str, list[str]]:
    """The interpreter of a script and its arguments; empty for anything else."""
    with Path(path).open("rb") as file:
        first = file.readline(512)
    if not first.startswith(b"#!"):
        return "", []
    words = first[2:].decode("utf-8", "replace").split()
    if words and words[0].endswith("/env"):
        words = [word for word in words[1:] if word != "-S"]
    return (Path(words[0]).name, words[1:]) if words else ("", [])


def _say(sentence: str) -> None:
    sys.stderr.write(f"glassbottom: {sentence}\n")


if __name__ == "__main__":
    raise SystemExit(main())
