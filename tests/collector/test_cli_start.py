"""Before a verb does anything: help, what is imported, what is missing, and lines that make no sense."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest
from glassbottom_collector import __version__
from glassbottom_collector.cli import COMMANDS, main

from tests.support.collector_process import python_environment

HEAVY = ("argparse", "duckdb", "google.protobuf", "grpc", "numpy", "rich", "yaml")


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env=python_environment(), capture_output=True, text=True, timeout=60, check=False
    )


def test_help_lists_every_verb_and_imports_nothing_heavy() -> None:
    """A person who types --help waits for the interpreter, not for us."""
    done = python(
        f"""
import sys
from glassbottom_collector.cli import main
code = main(["--help"])
print([name for name in {HEAVY!r} if name in sys.modules], code, file=sys.stderr)
"""
    )

    assert done.stderr == "[] 0\n"
    assert [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")] == list(COMMANDS)


def test_the_list_of_verbs_fits_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])

    assert max(len(line) for line in capsys.readouterr().out.splitlines() if line.startswith("  ")) <= 80


@pytest.mark.parametrize("verb", COMMANDS)
def test_the_sentence_in_the_list_is_the_first_line_of_the_verbs_docstring(verb: str) -> None:
    docstring = import_module(f"glassbottom_collector.cli.{verb.replace('-', '_')}").__doc__

    assert docstring.splitlines()[0] == COMMANDS[verb]
    assert f"glassbottom {verb}" in docstring, "an example helps more than a description"


@pytest.mark.parametrize(
    "verb", sorted({*COMMANDS} - {"archive", "check-leak", "collector", "run", "demo", "flame", "watch"})
)
def test_each_question_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0

    out = capsys.readouterr().out
    assert COMMANDS[verb] in out
    assert "--addr HOST:PORT" in out
    assert "json" in out


def test_the_run_verb_hands_its_line_to_the_agent_and_imports_neither_grpc_nor_rich(tmp_path) -> None:
    """`glassbottom run` replaces the process of the application; what we import delays its start."""
    (tmp_path / "run.py").write_text("def main(argv):\n    print(argv)\n    return 7\n")
    done = python(
        f"""
import sys, types
import importlib.util
spec = importlib.util.spec_from_file_location("glassbottom.run", {str(tmp_path / "run.py")!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
sys.modules["glassbottom.run"] = module
from glassbottom_collector.cli import main
code = main(["run", "--service", "shop", "--", "python", "-m", "app", "--help"])
print(code, [name for name in ("grpc", "rich", "argparse", "numpy") if name in sys.modules])
"""
    )

    assert done.stdout == "['--service', 'shop', '--', 'python', '-m', 'app', '--help']\n7 []\n", done.stderr


@pytest.mark.parametrize(
    ("absent", "extra"),
    [("duckdb", "collector"), ("yaml", "collector"), ("fastapi", "demo"), ("rich.table", "collector")],
)
def test_a_missing_extra_is_one_sentence_with_the_command_that_helps(
    absent: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def needs_it(args: object) -> int:
        raise ModuleNotFoundError(f"No module named {absent!r}", name=absent)

    monkeypatch.setattr("glassbottom_collector.cli.services.run", needs_it)

    assert main(["services"]) == 1
    assert capsys.readouterr().err == (
        f"glassbottom services: {absent} is not installed; run: pip install 'glassbottom[{extra}]'\n"
    )


def test_a_module_that_no_extra_brings_is_a_bug_and_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(args: object) -> int:
        raise ModuleNotFoundError("No module named 'glassbottom.wier'", name="glassbottom.wier")

    monkeypatch.setattr("glassbottom_collector.cli.services.run", broken)

    with pytest.raises(ModuleNotFoundError):
        main(["services"])


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (["tpo"], "glassbottom: there is no verb 'tpo'; did you mean 'top'?\n"),
        (["xyzzy"], f"glassbottom: there is no verb 'xyzzy'; there are: {', '.join(COMMANDS)}.\n"),
        (
            ["top", "--servce", "x"],
            "glassbottom top: unrecognized arguments: --servce x; see glassbottom top --help.\n",
        ),
        (["top", "--serv", "x"], "glassbottom top: unrecognized arguments: --serv x; see glassbottom top --help.\n"),
        (
            ["top", "--addr", "localhost"],
            "glassbottom top: --addr localhost is not HOST:PORT, such as 127.0.0.1:7411.\n",
        ),
        (["top", "--timeout", "0"], "glassbottom top: --timeout must be more than 0 and at most 86400 seconds.\n"),
        (["top", "--timeout", "inf"], "glassbottom top: --timeout must be more than 0 and at most 86400 seconds.\n"),
        (["top", "--addr", "a:65536"], "glassbottom top: --addr a:65536 is not HOST:PORT, such as 127.0.0.1:7411.\n"),
        (["top", "--limit", "0"], "glassbottom top: --limit must be at least 1.\n"),
        *(
            ([verb, "--limit", "0"], f"glassbottom {verb}: --limit must be at least 1.\n")
            for verb in ("leaks", "slow", "tasks", "blocked", "findings")
        ),
        (["slow", "--span-ms", "0"], "glassbottom slow: --span-ms must be more than 0 milliseconds.\n"),
        (["slow", "--async-ms", "nan"], "glassbottom slow: --async-ms must be more than 0 milliseconds.\n"),
        (["watch", "--every", "0.1"], "glassbottom watch: --every must be between 0.5 and 3600 seconds.\n"),
        (
            ["watch"],
            (
                "glassbottom watch: watch draws on a whole terminal, and this is none; "
                "use `glassbottom findings` or `glassbottom timeline`, which write lines.\n"
            ),
        ),
        (
            ["flame", "--at", "10m"],
            "glassbottom flame: --at is for the heap; cpu is a sum over time: use --from and --to.\n",
        ),
        (
            ["flame", "--type", "inuse_space", "--from", "10m"],
            "glassbottom flame: --from and --to are for cpu and wall; inuse_space is the heap at a moment: use --at.\n",
        ),
        *(
            (
                ["flame", "--type", "alloc_space", *more],
                (
                    "glassbottom flame: memory belongs to no thread; --thread, --split thread and --split task "
                    "are for cpu and wall.\n"
                ),
            )
            for more in (["--thread", "x"], ["--split", "task"])
        ),
        (["timeline", "--points", "0"], "glassbottom timeline: --points must be between 1 and 10000.\n"),
        (["timeline", "--sites", "-1"], "glassbottom timeline: --sites must not be negative.\n"),
        (
            ["top", "-o", "html", "--limit", "3"],
            "glassbottom top: -o html has every call path; --by and --limit are for tables and JSON.\n",
        ),
        (
            ["diff", "-o", "folded", "--fail-on-growth"],
            "glassbottom diff: --fail-on-growth judges rows, which -o folded has not; use -o table or json.\n",
        ),
        (
            ["diff", "--fail-on-growth", "lots"],
            "glassbottom diff: --fail-on-growth lots is not a size; use bytes, or a unit as in 512KiB or 10MiB.\n",
        ),
        (
            ["timeline", "--from", "5m", "--to", "10m"],
            "glassbottom timeline: the range is empty: --to 10m is not after --from 5m.\n",
        ),
        (
            ["top", "--tls-cert", "a.pem"],
            "glassbottom top: --tls-cert and --tls-key belong together; give both or neither.\n",
        ),
        (
            ["top", "--tls-cert", "a.pem", "--tls-key", "a.key"],
            "glassbottom top: --tls-cert needs --tls-ca, the authority that signed the collector's certificate.\n",
        ),
    ],
)
def test_a_line_that_makes_no_sense_is_one_sentence_and_exit_code_2(
    line: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line) == 2

    out, err = capsys.readouterr()
    assert out == ""
    assert err == says


def test_no_verb_at_all_shows_the_help_as_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2

    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: glassbottom VERB")


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"glassbottom {__version__}\n"


def test_help_for_a_verb_works_both_ways_round(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "diff"]) == 0
    one = capsys.readouterr().out
    assert main(["diff", "--help"]) == 0

    assert one == capsys.readouterr().out
