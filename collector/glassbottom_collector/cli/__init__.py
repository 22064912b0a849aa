"""The command line: `glassbottom VERB …`.

Every answer comes from a collector over gRPC, so this works from a laptop that has no storage. It starts fast, and
with only the light install: nothing is imported before the verb is known, and each verb imports what it needs when it
runs. Data goes to standard output, everything else to standard error.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from .exits import CliError, Exit, UsageError

# What a person can type. Each is a module of this package with `add_arguments(parser)` and `run(args) -> int`, or
# `delegate(argv) -> int` when the whole line belongs to somebody else. The sentence is the first line of the module's
# docstring, which is its help; it stands here too so that the list can be shown without importing ten modules.
COMMANDS = {
    "leaks": "Name the lines that leak, how fast, and how sure we are.",
    "top": "Show who holds memory now, or did at an earlier moment.",
    "diff": "Show what grew between two moments.",
    "timeline": "Show how a service's memory moved.",
    "slow": "Show what takes long: spans, asynchronous operations and functions.",
    "tasks": "Show what asyncio tasks wait for, and what is wrong with them.",
    "blocked": "Show what held event loops, with the call path at that moment.",
    "findings": "Show everything that looks wrong with a service, in one list.",
    "flame": "Draw a flame graph of CPU time, wall time or memory.",
    "heap": "Read a heap dump: who holds memory, and by which path.",
    "dump": "Look deeply into one process: its heap, its threads, its allocator.",
    "capture": "Capture the state around an incident into one archive.",
    "doctor": "Check beforehand whether a capture would work.",
    "archive": "Look into the archive of an incident, verify it, ask it.",
    "captures": "List captures that were asked for, fetch a file, call one off.",
    "watch": "Watch one service live, on the whole screen.",
    "services": "List services, their processes and what they hold.",
    "status": "Show the collector's health, and what every agent costs and lost.",
    "snapshot": "Read the heap now, give the moment a name, compare such moments.",
    "read": "Read what memray or py-spy recorded: a capture, or a FILE.",
    "collector": "Run a collector here, which stores and answers.",
    "run": "Run a Python program with the agent in it.",
    "check-leak": "Run a Python program and say whether its memory only grows.",
    "demo": "Watch a leak being found, from load to verdict.",
}

HELP = """\
usage: glassbottom VERB [options]

Debug a production Python service without touching production.

verbs:
{verbs}

`glassbottom VERB --help` tells more about one, `glassbottom --version` which this is.
exit codes: 0 ok, 1 error, 2 usage, 3 something was found, 4 refused for safety
"""

# Which extra brings the modules that may be absent.
EXTRAS = {
    "collector": {"duckdb", "grpc_health", "numpy", "rich", "textual", "uvloop", "yaml", "zstandard"},
    "demo": {"fastapi", "httpx", "starlette", "uvicorn", "websockets"},
}

# As a shell reports a program that a signal ended.
INTERRUPTED = 130
PIPE_CLOSED = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code; messages have gone to standard error by then."""
    line = list(sys.argv[1:] if argv is None else argv)
    _write_what_the_terminal_can_show()
    said_by = f"glassbottom {line[0]}" if line and line[0] in COMMANDS else "glassbottom"
    try:
        code = _dispatch(line)
        sys.stdout.flush()
    except CliError as error:
        return _fail(said_by, str(error), error.exit)
    except ModuleNotFoundError as error:
        extra = _extra_with(error.name or "")
        if extra is None:
            raise
        return _fail(said_by, f"{error.name} is not installed; run: pip install 'glassbottom[{extra}]'", Exit.ERROR)
    except SystemExit as error:
        # argparse after --help.
        return error.code if isinstance(error.code, int) else Exit.OK
    except KeyboardInterrupt:
        return _fail(said_by, "interrupted.", INTERRUPTED)
    except BrokenPipeError:
        _forget_stdout()
        return PIPE_CLOSED
    return code


def _dispatch(line: list[str]) -> int:
    match line:
        case []:
            sys.stderr.write(_help())
            return Exit.USAGE
        case [("-h" | "--help" | "help")]:
            sys.stdout.write(_help())
            return Exit.OK
        case ["--version"]:
            from glassbottom_collector import __version__

            sys.stdout.write(f"glassbottom {__version__}\n")
            return Exit.OK
        case ["help", verb, *_] if verb in COMMANDS:
            return _run(verb, ["--help"])
        case [verb, *rest] if verb in COMMANDS:
            return _run(verb, rest)
        case [word, *_]:
            raise UsageError(f"there is no verb {word!r}; {_nearest(word)}")
    raise AssertionError(line)


def _run(name: str, line: list[str]) -> int:
    module = import_module(f"{__name__}.{name.replace('-', '_')}")
    if hasattr(module, "delegate"):
        return int(module.delegate(line))
    from .parsing import parser_for

    parser = parser_for(name, module.__doc__ or "")
    module.add_arguments(parser)
    return int(module.run(parser.read(line)))


def _help() -> str:
    return HELP.format(verbs="\n".join(f"  {name:<11}{sentence}" for name, sentence in COMMANDS.items()))


def _nearest(word: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(word, COMMANDS, n=1)
    return f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(COMMANDS)}."


def _extra_with(module: str) -> str | None:
    top = module.partition(".")[0]
    return next((extra for extra, modules in EXTRAS.items() if top in modules), None)


def _fail(said_by: str, sentence: str, code: int) -> int:
    from .text import safe

    # Data already written comes first on a terminal that shows both streams.
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _forget_stdout()
    print(f"{said_by}: {safe(sentence)}", file=sys.stderr)
    return int(code)


def _forget_stdout() -> None:
    """Whoever read our output has gone; without this Python would try once more as it exits, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _write_what_the_terminal_can_show() -> None:
    """A terminal with a small character set gets escapes instead of a UnicodeEncodeError."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
