"""Are messages grouped as people grouped them, and how fast: our miner and drain3 on labelled logs, in the same run.

    make bench-logs ARGS='--data ../shared/data/logs'
    make bench-logs ARGS='--data ../shared/data/logs --cross-validate'

The data are LogHub's 2,000-line samples (Zhu et al., ISSRE 2023) with the corrected labels of LogHub-2.0 (Jiang et al.,
ISSTA 2024): directories `loghub_2k` and `loghub_2k_corrected` with SYSTEM_2k.log_structured*.csv. They are not part of
this tree; every system that lies there is scored, with one configuration for all.

* GA, grouping accuracy: the share of messages whose group is exactly a labelled one.
* PA, parsing accuracy: the share of messages whose template equals the labelled one, without spaces and with adjacent
  wildcards merged.
* FGA: the F1 of groups that are exactly a labelled one.
* lines/s by CPU time of one process, from nothing, median of five.

drain3 runs in an environment of its own, .venv/bench-logs, which is made on demand: it pins old versions of what others
need. It gets depth 4, similarity 0.4 and five generic masks. `--cross-validate` chooses the three numbers of our miner
on all systems but one and scores the one. The last line is one JSON object; the exit code is 1 when a bar is missed on
corrected labels.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import re
import statistics
import subprocess
import sys
import time
import venv
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from glassbottom_collector.logs import Miner, miner

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = ROOT / ".venv" / "bench-logs"
LABELS = {"corrected": "loghub_2k_corrected", "original": "loghub_2k"}
GA_MIN, PA_MIN, LINES_PER_S_MIN = 0.85, 0.55, 50_000
RUNS = 5
WILDCARD = re.compile(r"<[a-z*]+>")
GRID = {"VALUES": (3, 4, 6, 8, 12), "VALUES_AFTER_A_NOUN": (2, 3, 6), "VALUES_IN_CAPITALS": (6, 10, 20)}
# Reads {system: messages} on standard input, writes {system: [seconds, clusters, templates]}.
DRAIN3 = r"""
import json, sys, time
from drain3 import TemplateMiner
from drain3.masking import MaskingInstruction
from drain3.template_miner_config import TemplateMinerConfig
MASKS = [
    (r"(?<![0-9A-Za-z])[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}(?![0-9A-Za-z])", "*"),
    (r"(?<![\w.])/?\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?(?![\w.])", "*"),
    (r"(?<!\w)(?:/[\w.-]+)+/?", "*"),
    (r"(?<![0-9A-Za-z])(?:0x[0-9a-fA-F]+|(?=[a-f]*\d)[0-9a-f]{8,})(?![0-9A-Za-z])", "*"),
    (r"(?<![0-9A-Za-z])[-+]?\d+(?:\.\d+)?(?![0-9A-Za-z])", "*"),
]
answer = {}
for system, messages in json.load(sys.stdin).items():
    times = []
    for _ in range(RUNS):
        config = TemplateMinerConfig()
        config.drain_depth, config.drain_sim_th, config.profiling_enabled = 4, 0.4, False
        config.masking_instructions = [MaskingInstruction(pattern, mask) for pattern, mask in MASKS]
        miner = TemplateMiner(config=config)
        start = time.process_time()
        ids = [miner.add_log_message(message)["cluster_id"] for message in messages]
        times.append(time.process_time() - start)
    templates = {cluster.cluster_id: cluster.get_template() for cluster in miner.drain.clusters}
    answer[system] = [sorted(times)[len(times) // 2], ids, [templates[one] for one in ids]]
json.dump(answer, sys.stdout)
"""


@dataclass(frozen=True)
class Labelled:
    """The messages of one system with their labels."""

    messages: list[str]
    groups: list[str]
    templates: list[str]


@dataclass(frozen=True)
class Score:
    """As the module says. groups: found; labelled: there are."""

    ga: float
    pa: float
    fga: float
    lines_per_s: float
    groups: int
    labelled: int


def main() -> int:
    """Scores both miners on every set of labels there is."""
    arguments = argparse.ArgumentParser(description="How well and how fast messages are grouped.")
    arguments.add_argument("--data", type=Path, required=True, help="directory with loghub_2k_corrected and loghub_2k")
    arguments.add_argument("--cross-validate", action="store_true", help="choose our numbers without the system scored")
    options = arguments.parse_args()
    sets = {name: read(options.data / folder) for name, folder in LABELS.items() if (options.data / folder).is_dir()}
    if not sets.get("corrected"):
        print(
            f"{options.data} has no loghub_2k_corrected/*_2k.log_structured_corrected.csv; give the directory that"
            " holds it, as from github.com/logpai/loghub-2.0, with --data DIR",
            file=sys.stderr,
        )
        return 2
    result: dict[str, object] = {}
    passed = True
    for name, systems in sets.items():
        scores = {"ours": ours(systems), "drain3": drain3(systems)}
        show(name, scores)
        result[name] = {who: summary(of.values()) for who, of in scores.items()}
        if name == "corrected":
            mean = summary(scores["ours"].values())
            passed = mean["ga"] >= GA_MIN and mean["pa"] >= PA_MIN and mean["lines_per_s"] >= LINES_PER_S_MIN
            result["systems"] = {system: vars(score) for system, score in scores["ours"].items()}
    if options.cross_validate:
        result["cross_validated"] = cross_validated(sets["corrected"])
    print(json.dumps(result | {"passed": passed}))
    return 0 if passed else 1


def read(folder: Path) -> dict[str, Labelled]:
    """Systems by name, from the labelled files of a directory."""
    found = {}
    for path in sorted(folder.glob("*_2k.log_structured*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        columns = [[row[name] for row in rows] for name in ("Content", "EventId", "EventTemplate")]
        found[path.name.partition("_")[0]] = Labelled(*columns)
    return found


def ours(systems: dict[str, Labelled], runs: int = RUNS) -> dict[str, Score]:
    """Scores of our miner. Its time includes the merge at the end."""
    scores = {}
    for system, labelled in systems.items():
        times = []
        for _ in range(runs):
            one = Miner()
            start = time.process_time()
            found = [one.add(message) for message in labelled.messages]
            one.patterns()
            times.append(time.process_time() - start)
        patterns = [miner.current(pattern) for pattern in found]
        groups = [str(pattern.number) for pattern in patterns]
        scores[system] = scored(labelled, groups, [pattern.template for pattern in patterns], statistics.median(times))
    return scores


def drain3(systems: dict[str, Labelled]) -> dict[str, Score]:
    """Scores of drain3 0.9.11, in an environment of its own."""
    python = ENVIRONMENT / "bin" / "python"
    if not python.exists():
        venv.create(ENVIRONMENT, with_pip=True)
    if subprocess.run([python, "-c", "import drain3"], capture_output=True, check=False).returncode:
        subprocess.run([python, "-m", "pip", "install", "-qq", "drain3==0.9.11"], check=True)
    messages = json.dumps({system: labelled.messages for system, labelled in systems.items()})
    program = DRAIN3.replace("RUNS", str(RUNS))
    done = subprocess.run([python, "-c", program], input=messages, capture_output=True, text=True, check=True)
    return {
        system: scored(systems[system], list(map(str, groups)), templates, seconds)
        for system, (seconds, groups, templates) in json.loads(done.stdout).items()
    }


def scored(labelled: Labelled, groups: list[str], templates: list[str], seconds: float) -> Score:
    """What the groups and templates of a miner are worth."""
    found, truth = members(groups), members(labelled.groups)
    exact = set(found.values()) & set(truth.values())
    equal = sum(
        comparable(template) == comparable(label) for template, label in zip(templates, labelled.templates, strict=True)
    )
    lines = len(groups)
    return Score(
        sum(map(len, exact)) / lines,
        equal / lines,
        2 * len(exact) / (len(found) + len(truth)),
        lines / max(seconds, 1e-9),
        len(found),
        len(truth),
    )


def members(groups: list[str]) -> dict[str, frozenset[int]]:
    """Places of the messages of each group."""
    places: dict[str, set[int]] = defaultdict(set)
    for place, group in enumerate(groups):
        places[group].add(place)
    return {group: frozenset(members) for group, members in places.items()}


def comparable(template: str) -> str:
    """A template without spaces, every wildcard as `<*>`, adjacent ones merged."""
    text = WILDCARD.sub("<*>", re.sub(r"\s+", "", template))
    return re.sub(r"(?:<\*>)+", "<*>", text)


def cross_validated(systems: dict[str, Labelled]) -> dict[str, object]:
    """For each system: its score with the numbers that were best on all others together."""
    settings = [dict(zip(GRID, values, strict=True)) for values in itertools.product(*GRID.values())]
    kept = {name: getattr(miner, name) for name in GRID}
    scores: list[dict[str, Score]] = []
    for setting in settings:
        for name, value in setting.items():
            setattr(miner, name, value)
        scores.append(ours(systems, runs=1))
    for name, value in kept.items():
        setattr(miner, name, value)
    held_out = {}
    chosen = {}
    for system in systems:
        value: Callable[[int], float] = lambda n, out=system: statistics.fmean(  # noqa: E731
            score.ga + score.pa for other, score in scores[n].items() if other != out
        )
        best = max(range(len(settings)), key=value)
        held_out[system], chosen[system] = scores[best][system], settings[best]
        print(f"  without {system:12} GA {held_out[system].ga:.3f} PA {held_out[system].pa:.3f} {settings[best]}")
    spread = [(summary(of.values())["ga"], summary(of.values())["pa"]) for of in scores]
    return {
        "ga": statistics.fmean(score.ga for score in held_out.values()),
        "pa": statistics.fmean(score.pa for score in held_out.values()),
        "ga_over_the_grid": [min(ga for ga, _ in spread), max(ga for ga, _ in spread)],
        "pa_over_the_grid": [min(pa for _, pa in spread), max(pa for _, pa in spread)],
    }


def summary(scores: Iterable[Score]) -> dict[str, float]:
    """Means over systems; lines per second over all lines together, as all samples are of one length."""
    scores = list(scores)
    means = {name: statistics.fmean(getattr(score, name) for score in scores) for name in ("ga", "pa", "fga")}
    return means | {"lines_per_s": statistics.harmonic_mean(score.lines_per_s for score in scores)}


def show(name: str, scores: dict[str, dict[str, Score]]) -> None:
    """A table of both miners."""
    print(f"{name:14}" + "".join(f"{who:>8} GA     PA    FGA  lines/s  groups" for who in scores))
    for system in scores["ours"]:
        cells = (of[system] for of in scores.values())
        row = "".join(
            f"{s.ga:11.3f}{s.pa:7.3f}{s.fga:7.3f}{s.lines_per_s:9,.0f}{s.groups:4}/{s.labelled:<4}" for s in cells
        )
        print(f"{system:14}{row}")
    for who, of in scores.items():
        mean = summary(of.values())
        print(f"  {who:12} " + "  ".join(f"{key} {value:,.3f}" for key, value in mean.items()))


if __name__ == "__main__":
    sys.exit(main())
