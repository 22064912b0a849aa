"""The scores of `make bench-logs` are what they are called, and the miner does well on the log of a made-up shop."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import pytest

from tests.bench import logs as bench

pytestmark = pytest.mark.once

# What a service might say; `<*>` is filled with a value of a kind that a service might name.
TEMPLATES = [
    "order <*> paid in <*> ms",
    "order <*> failed after <*> tries",
    "user <*> signed in from <*>",
    "cannot connect to <*>:<*> within <*> s",
    "evicted <*> keys from cache, <*> left",
    "state changed from OPEN to CLOSED",
    "state changed from CLOSED to OPEN",
    "worker <*> started",
    "worker <*> stopped",
    "shutting down",
]
VALUES = ["17", "0.25", "8f14e45fceea167a", "10.1.2.3", "ord_5512", "3", "db-1.shop.example", "1048576"]
NAMES = ["ann", "bob", "eve", "joe"]


def labelled(folder: Path, lines: int) -> None:
    """A labelled file as LogHub has them."""
    chance = random.Random(5)
    folder.mkdir(parents=True)
    with (folder / "Shop_2k.log_structured_corrected.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["LineId", "Content", "EventId", "EventTemplate"])
        for line in range(lines):
            number = chance.randrange(len(TEMPLATES))
            words = TEMPLATES[number].split("<*>")
            kinds = NAMES if "user" in words[0] else VALUES
            content = words[0] + "".join(
                chance.choice(kinds if n == 0 else VALUES) + w for n, w in enumerate(words[1:])
            )
            writer.writerow([line, content, f"E{number}", TEMPLATES[number]])


def test_a_log_of_a_service_is_grouped_as_it_was_labelled(tmp_path: Path) -> None:
    labelled(tmp_path / "loghub_2k_corrected", 500)
    systems = bench.read(tmp_path / "loghub_2k_corrected")
    score = bench.ours(systems, runs=1)["Shop"]
    assert (score.ga, score.fga, score.groups, score.labelled) == (1, 1, 10, 10)
    assert score.pa > 0.95


def test_scores_are_what_they_are_called() -> None:
    """Four messages in two labelled groups, of which one is found; three templates are as labelled."""
    truth = bench.Labelled(list("abcd"), ["1", "1", "2", "2"], ["a <*> <*>", "a <*> <*>", "b", "b"])
    score = bench.scored(truth, ["x", "x", "y", "z"], ["a<num>", "a <ip> <*><*>", "b", "c"], seconds=2.0)
    assert (score.ga, score.pa, score.lines_per_s) == (0.5, 0.75, 2.0)
    assert score.fga == pytest.approx(2 / 5)


def test_without_data_it_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["logs", "--data", str(tmp_path)])
    assert bench.main() == 2
    assert "has no loghub_2k_corrected" in capsys.readouterr().err
