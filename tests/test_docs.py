"""What the documents tell a reader to type works, and what they point at exists.

The convention (CONTRIBUTING.md): a fenced block whose info string ends in `run` is executed. ```` ```python run ````
as a program, in a process of its own without a collector; ```` ```console run ```` line by line: what follows `$ ` is
given to a shell in which `glassbottom` is this tree's, and what it prints must contain the lines below it, where `...`
stands for anything. Blocks without `run` are checked as far as that needs no environment: Python must compile, and
a `glassbottom` command line must be one that the parser takes.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^`\n]*)\n(?P<body>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")
# What stands for something of the reader's in an example.
PLACEHOLDERS = re.compile(r"\b(HOST:PORT|NAME|SERVICE|FILE|DIR|DIRECTORY|TIME|SIZE|PORT)\b|…|\.\.\.")


@dataclass(frozen=True)
class Block:
    """One fenced block. where: PATH:LINE of its first line."""

    where: str
    language: str
    run: bool
    body: str


def blocks() -> Iterator[Block]:
    for path in DOCUMENTS:
        text = path.read_text()
        for match in FENCE.finditer(text):
            language, *more = match["info"].split() or [""]
            line = text.count("\n", 0, match.start()) + 2
            yield Block(f"{path.relative_to(ROOT)}:{line}", language, "run" in more, match["body"])


def named(found: Iterator[Block]) -> list[object]:
    return [pytest.param(block, id=block.where) for block in found]


def commands() -> Iterator[tuple[str, list[str]]]:
    """(PATH:LINE, words) of each `glassbottom` command in a console block, without prompt, comment and shell syntax."""
    for block in blocks():
        if block.language not in {"console", "sh", "bash", "shell"}:
            continue
        for line in block.body.replace("\\\n", " ").splitlines():
            words = line.strip().removeprefix("$ ")
            if not words.startswith("glassbottom "):
                continue
            kept: list[str] = []
            for word in shlex.split(words, comments=True):
                if word in {"|", "&&", "||", ">", "&", ";", "2>"} or word.endswith(";"):
                    break
                kept.append(word)
            yield block.where, kept[1:]


@pytest.mark.parametrize("block", named(block for block in blocks() if block.language == "python"))
def test_python_in_documents_is_python(block: Block) -> None:
    compile(block.body, block.where, "exec")


@pytest.mark.parametrize("block", named(block for block in blocks() if block.run and block.language == "python"))
def test_python_marked_run_runs(block: Block, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", block.body], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr


@pytest.mark.parametrize("block", named(block for block in blocks() if block.run and block.language == "console"))
def test_commands_marked_run_print_what_is_shown(block: Block, tmp_path: Path) -> None:
    for command, shown in steps(block.body):
        shell = f'glassbottom() {{ "{sys.executable}" -m glassbottom_collector.cli "$@"; }}\n{command}'
        done = subprocess.run(["/bin/bash", "-c", shell], capture_output=True, text=True, cwd=tmp_path, check=False)
        wanted = ".*".join(re.escape(part.strip()) for part in shown.split("..."))
        assert re.search(wanted, done.stdout + done.stderr, re.DOTALL), f"{command}\n{done.stdout}{done.stderr}"


def steps(body: str) -> Iterator[tuple[str, str]]:
    """(command, what is shown below it) of each `$ ` line."""
    for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        yield command, shown


def test_every_command_line_in_documents_is_one_the_parser_takes(capsys: pytest.CaptureFixture[str]) -> None:
    """Options that were renamed, and verbs that do not exist, are found here rather than by a reader."""
    from glassbottom_collector import cli

    wrong = []
    for where, words in commands():
        if not words or words[0].startswith("-") or PLACEHOLDERS.search(words[0]):
            continue
        if words[0] not in cli.COMMANDS:
            wrong.append(f"{where}: there is no verb {words[0]}")
            continue
        if words[0] == "run":
            continue  # the rest of the line belongs to the program
        cli.main([words[0], "--help"])
        known = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", capsys.readouterr().out))
        own = words[1 : words.index("--")] if "--" in words else words[1:]  # the rest belongs to a program
        used = {word.partition("=")[0] for word in own if word.startswith("-")}
        wrong += [f"{where}: glassbottom {words[0]} has no {option}" for option in sorted(used - known)]
    assert wrong == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    dead = [
        target
        for target, _ in LINK.findall(FENCE.sub("", document.read_text()))
        if not (document.parent / target).exists()
    ]
    assert dead == []


def test_a_command_that_prints_something_else_is_noticed(tmp_path: Path) -> None:
    block = Block("here", "console", True, "$ echo one\none\n$ echo two\nthree\n")
    with pytest.raises(AssertionError, match="echo two"):
        test_commands_marked_run_print_what_is_shown(block, tmp_path)
