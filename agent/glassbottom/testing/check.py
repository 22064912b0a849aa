"""`glassbottom check-leak -- python script.py`: runs a program once and says whether its memory only grew.

The program runs as always, in its own process, with its own input, output and arguments; it is watched from inside
(watch.py) by a `sitecustomize` that no other process sees. What is said goes to standard error, after the program's
own output; with `-o json` to standard output. Exit codes: 0 nothing found, 1 the program failed or could not be
watched, 2 usage, 3 it leaks.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .verdict import readable_bytes

BOOTSTRAP = Path(__file__).resolve().parent / "bootstrap"
EXIT_OK, EXIT_ERROR, EXIT_USAGE, EXIT_FINDING = 0, 1, 2, 3
END_S = 10.0
"""After --seconds, how long a program may take to end before it is made to."""
BYTES_ALLOWED = 16 << 10


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and tells the verdict; returns the exit code."""
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else EXIT_USAGE
    command: list[str] = arguments.command
    if command[:1] == ["--"]:
        command = command[1:]
    if not command:
        _say("nothing to run; give a command, such as: glassbottom check-leak -- python script.py")
        return EXIT_USAGE
    executable = shutil.which(command[0])
    if executable is None:
        _say(f"{command[0]} was not found or cannot be executed; give a program on PATH or a path.")
        return EXIT_ERROR
    with tempfile.TemporaryDirectory(prefix="glassbottom-") as directory:
        result = Path(directory) / "verdict.json"
        code = _run([executable, *command[1:]], result, arguments.bytes, arguments.seconds)
        if not result.exists():
            _say(
                f"{command[0]} was not watched to its end (exit code {code}). It must be a Python that has glassbottom "
                f"installed and heeds PYTHONPATH, and must not end by os._exit() or a signal."
            )
            return EXIT_ERROR
        answer = json.loads(result.read_text())
    if arguments.output == "json":
        sys.stdout.write(json.dumps(document(answer, code)) + "\n")
    else:
        sys.stderr.write(report(" ".join(command), answer) + "\n")
    if answer["outcome"] == "leak":
        return EXIT_FINDING
    if code != 0 and arguments.seconds is None:
        _say(f"{command[0]} ended with exit code {code}.")
        return EXIT_ERROR
    return EXIT_OK


def document(answer: dict[str, Any], code: int) -> dict[str, Any]:
    """The verdict as docs/schema/check-leak.schema.json describes it. code: the program's exit code."""
    sites = [
        {
            "place": site["place"],
            "called_from": site["called_from"] or None,
            "lines": [{"file": file, "line": line} for file, line in site["lines"]],
            "bytes_per_pass": site["bytes_per_pass"],
            "bytes_per_block": site["bytes_per_block"],
            "types": [{"name": name, "share": min(share, 1.0)} for name, share in site["types"]],
            "holder": site["holder"] or None,
        }
        for site in answer["sites"]
    ]
    return {
        "schema": "glassbottom.check-leak/1",
        "outcome": answer["outcome"],
        "kind": answer["kind"] or None,
        "bytes": answer["bytes"],
        "evidence": answer["evidence"],
        "sites": sites,
        "lines": answer["lines"],
        "seconds": answer["seconds"],
        "exit_code": code,
    }


def report(name: str, answer: dict[str, Any]) -> str:
    """The verdict as a person reads it."""
    took = f"{answer['lines']} lines of its own files, {answer['seconds']:.1f} s"
    if answer["outcome"] == "leak":
        head = f"{name} leaks: {readable_bytes(answer['bytes'])} in the last two thirds, {answer['kind']} ({took})"
    else:
        says = "does not leak" if answer["outcome"] == "healthy" else "cannot be judged"
        head = f"{name} {says} ({took})"
    lines = [head, *(f"  evidence  {sentence}" for sentence in answer["evidence"])]
    for site in answer["sites"]:
        price = [
            f"{readable_bytes(site[key])} per {what}"
            for key, what in (("bytes_per_pass", "pass"), ("bytes_per_block", "block"))
            if site[key] is not None
        ]
        lines.append(f"  site      {site['place']}: {', '.join(price)}")
        if site["called_from"]:
            lines.append(f"    from    {site['called_from']}")
        if site["types"]:
            lines.append("    types   " + ", ".join(f"{name} {min(share, 1):.0%}" for name, share in site["types"]))
        if site["holder"]:
            lines.append(f"    held by {site['holder']}")
    if answer["outcome"] == "leak":
        lines.append("  would change it: a longer run, if what grows has a bound; --bytes, if it may grow by so much")
    return "\n".join(lines)


def _run(command: list[str], result: Path, bytes_allowed: float, seconds: float | None) -> int:
    """Its exit code."""
    environment = dict(os.environ)
    path = environment.get("PYTHONPATH")
    environment["PYTHONPATH"] = os.pathsep.join([str(BOOTSTRAP), path] if path else [str(BOOTSTRAP)])
    environment["GLASSBOTTOM_CHECK_LEAK"] = json.dumps({"result": str(result), "bytes_allowed": bytes_allowed})
    sys.stdout.flush()
    sys.stderr.flush()
    with subprocess.Popen(command, env=environment) as process:
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
        except KeyboardInterrupt:
            pass  # the terminal has told the program as well
        for _ in range(2):
            try:
                return process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.terminate()
        process.kill()
        return process.wait()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="glassbottom check-leak",
        description="Run a Python program and say whether its memory only grows.",
        epilog="Exit codes: 0 nothing found, 1 the program failed or was not watched, 2 usage, 3 it leaks.",
    )
    parser.add_argument(
        "--seconds", type=float, metavar="S", help="interrupt the program (SIGINT) after that long, for one without end"
    )
    parser.add_argument(
        "--bytes",
        type=float,
        default=BYTES_ALLOWED,
        metavar="N",
        help=f"what it may grow by after its first third (default {BYTES_ALLOWED})",
    )
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text", help="how to tell (default text)")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND …", help="what to run")
    return parser


def _say(sentence: str) -> None:
    sys.stderr.write(f"glassbottom check-leak: {sentence}\n")


if __name__ == "__main__":
    raise SystemExit(main())
