"""What redaction finds and what it accuses wrongly, beside detect-secrets and Presidio on the same texts.

    make bench-redaction ARGS="--data ../shared/data"      a minute; builds .venv/bench-redaction for the others
    make bench-redaction ARGS="--data ... --no-peers"      ours alone
    make bench-redaction ARGS="--data ... --presidio"      Presidio as well (410 MB)

The data is not part of this repository. `--data` is a folder with

* `pii/sentences.json`: sentences with marked personal data (microsoft/presidio-research, MIT). Found is what is covered
  from its first to its last sign under its own class; a find that touches nothing of its class is a false alarm.
* `secrets/literals.jsonl.gz`: literals from the tests of gitleaks' rules, secret or near-miss (MIT). Our rules are
  those rules, so this favours us; what looking at structure adds is shown by the row of the rules alone.
* `logs/loghub_2k/*.log`: lines of real systems (LogHub, for research). Every line in which a secret or personal data is
  found counts as a false alarm, whether or not it is one. Mapped IP addresses do not: they are addresses.

Intervals are Wilson's, 95 %. Presidio runs its recognisers of patterns without a model, as by default for these
classes; its finds with a score of 0.4 and more count. The last line is one JSON object; the exit code is 1 when a limit
is not kept.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import json
import math
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from glassbottom_collector.redaction import Redactor
from glassbottom_collector.redaction.finding import found
from glassbottom_collector.redaction.rules import gitleaks

from tests.bench.overhead.builds import ROOT

CLASSES = {
    "EMAIL_ADDRESS": "email",
    "PHONE_NUMBER": "phone",
    "CREDIT_CARD": "card",
    "IBAN_CODE": "iban",
    "US_SSN": "us-ssn",
}
ALARMS_PER_32000_MAX = 4.0
SECONDS_PER_1000_LINES_MAX = 1.0
HOME = ROOT / ".venv" / "bench-redaction"
DETECT_SECRETS, PRESIDIO = "detect-secrets==1.5.0", "presidio-analyzer==2.2.366"

# Both read {"texts": [...]} and write one answer per text; `seconds` is for the texts alone.
RUN_DETECT_SECRETS = """
import json, os, sys, tempfile, time
from detect_secrets import SecretsCollection
from detect_secrets.core.scan import scan_line
from detect_secrets.settings import default_settings
asked = json.load(sys.stdin)
answers = {"file": [], "line": []}
with default_settings():
    for text in asked["texts"]:
        answers["line"].append(any(secret for line in text.splitlines() for secret in scan_line(line)))
    for text in asked["texts"]:
        with tempfile.NamedTemporaryFile("w", suffix=".txt", delete=False) as file:
            file.write(text)
        collection = SecretsCollection()
        collection.scan_file(file.name)
        answers["file"].append(bool(collection.json()))
        os.unlink(file.name)
    begin = time.perf_counter()
    flagged = [number for number, line in enumerate(asked["lines"]) if any(True for _ in scan_line(line))]
    seconds = time.perf_counter() - begin
    with tempfile.NamedTemporaryFile("w", suffix=".txt", delete=False) as file:
        file.write("\\n".join(asked["lines"]))
    begin = time.perf_counter()
    collection = SecretsCollection()
    collection.scan_file(file.name)
    file_seconds = time.perf_counter() - begin
    os.unlink(file.name)
    lines = {secret.line_number for _, secret in collection}
answers.update(line_seconds=seconds, lines_flagged=len(flagged))
answers.update(file_seconds=file_seconds, file_lines_flagged=len(lines))
print(json.dumps(answers))
"""
RUN_PRESIDIO = """
import json, sys, time
import tldextract
tldextract.extract = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)  # it would open a connection
from presidio_analyzer.predefined_recognizers import (
    CreditCardRecognizer, EmailRecognizer, IbanRecognizer, PhoneRecognizer, UsSsnRecognizer)
asked = json.load(sys.stdin)
tools = [tool() for tool in (EmailRecognizer, CreditCardRecognizer, IbanRecognizer, UsSsnRecognizer, PhoneRecognizer)]
begin = time.perf_counter()
answers = []
for text in asked["texts"]:
    results = [r for tool in tools for r in tool.analyze(text, tool.supported_entities, None) or []]
    answers.append([[r.start, r.end, r.entity_type] for r in results if r.score >= 0.4])
print(json.dumps({"found": answers, "seconds": time.perf_counter() - begin}))
"""

Finds = list[list[tuple[int, int, str]]]


def say(*words: object) -> None:
    print(*words, file=sys.stderr, flush=True)


def interval(hits: int, of: int) -> tuple[float, float]:
    """Wilson's for a share, 95 %."""
    if not of:
        return 0.0, 1.0
    z, share = 1.96, hits / of
    middle = (share + z * z / (2 * of)) / (1 + z * z / of)
    half = z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of)) / (1 + z * z / of)
    return max(0.0, middle - half), min(1.0, middle + half)


def share(hits: int, of: int) -> str:
    low, high = interval(hits, of)
    return f"{hits / of:.2f} ({low:.2f}-{high:.2f})" if of else "-"


def peer(script: str, requirement: str, asked: dict[str, Any], *, install: bool) -> dict[str, Any] | None:
    """The answers of another tool, from an environment of its own; None when it is not there."""
    python = HOME / "bin" / "python"
    if not python.exists():
        if not install:
            return None
        subprocess.run([sys.executable, "-m", "venv", str(HOME)], check=True)
    module = requirement.split("==")[0].replace("-", "_")
    if subprocess.run([python, "-c", f"import {module}"], capture_output=True, check=False).returncode:
        if not install:
            return None
        say(f"installing {requirement} into {HOME}")
        subprocess.run([python, "-m", "pip", "install", "-q", requirement], check=True)
    done = subprocess.run([python, "-c", script], input=json.dumps(asked), capture_output=True, text=True, check=False)
    if done.returncode:
        say(f"{requirement}: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
        return None
    return dict(json.loads(done.stdout.splitlines()[-1]))


def ours(texts: list[str]) -> Finds:
    """Our finds, in characters."""
    finds: Finds = []
    for text in texts:
        data = text.encode()
        spans = found(data, with_addresses=False)
        offset = {
            place: len(data[:place].decode(errors="ignore")) for span in spans for place in (span.start, span.end)
        }
        finds.append([(offset[span.start], offset[span.end], span.rule) for span in spans])
    return finds


def score_personal(sentences: list[dict[str, Any]], finds: Finds) -> dict[str, dict[str, int]]:
    """By class: how many there were, how many of them were covered, how many finds were of something else."""
    scores = {name: {"n": 0, "found": 0, "false": 0} for name in CLASSES.values()}
    for sentence, of_sentence in zip(sentences, finds, strict=True):
        marked = [
            (span["start_position"], span["end_position"], CLASSES[span["entity_type"]])
            for span in sentence["spans"]
            if span["entity_type"] in CLASSES
        ]
        for start, end, name in marked:
            scores[name]["n"] += 1
            scores[name]["found"] += any(a <= start and b >= end and kind == name for a, b, kind in of_sentence)
        for a, b, kind in of_sentence:
            touches = any(a < end and start < b and kind == name for start, end, name in marked)
            if not touches:
                scores.setdefault(kind, {"n": 0, "found": 0, "false": 0})["false"] += 1
    return scores


def personal(folder: Path, with_presidio: bool) -> dict[str, Any]:
    sentences = json.loads((folder / "sentences.json").read_text())
    texts = [sentence["full_text"] for sentence in sentences]
    tools = {"ours": score_personal(sentences, ours(texts))}
    answer = peer(RUN_PRESIDIO, PRESIDIO, {"texts": texts}, install=with_presidio)
    if answer is not None:
        finds = [[(a, b, CLASSES.get(kind, kind)) for a, b, kind in each] for each in answer["found"]]
        tools["presidio"] = score_personal(sentences, finds)
    print(f"\n{len(texts)} sentences\n")
    print("| class | n |" + "".join(f" {tool}: recall | {tool}: precision |" for tool in tools))
    print("|---|---|" + "---|---|" * len(tools))
    for name in sorted({name for scores in tools.values() for name in scores}):
        row = [scores.get(name, {"n": 0, "found": 0, "false": 0}) for scores in tools.values()]
        cells = "".join(
            f" {share(each['found'], each['n'])} | {share(each['found'], each['found'] + each['false'])} |"
            for each in row
        )
        print(f"| {name} | {row[0]['n']} |{cells}")
    return {"sentences": len(texts), **tools}


def secrets(path: Path, lines: list[str], with_peers: bool) -> dict[str, Any]:
    with gzip.open(path) as file:
        literals = [json.loads(line) for line in file]
    data = [base64.b64decode(literal["text_b64"]) for literal in literals]
    is_secret = [literal["label"] == "secret" for literal in literals]
    flagged = {
        "ours": [bool(found(text, with_personal=False, with_addresses=False)) for text in data],
        "gitleaks' rules alone": [any(True for _ in gitleaks().find(text)) for text in data],
    }
    result: dict[str, Any] = {}
    if with_peers:
        asked = {"texts": [text.decode(errors="replace") for text in data], "lines": lines}
        answer = peer(RUN_DETECT_SECRETS, DETECT_SECRETS, asked, install=True)
        if answer is not None:
            flagged["detect-secrets, file"] = answer["file"]
            flagged["detect-secrets, line"] = answer["line"]
            result["detect_secrets"] = {key: value for key, value in answer.items() if key not in ("file", "line")}
    print(f"\n{sum(is_secret)} secrets, {len(data) - sum(is_secret)} near-misses\n")
    print("| tool | recall | false alarms | precision |\n|---|---|---|---|")
    for tool, answers in flagged.items():
        hits = sum(answer and true for answer, true in zip(answers, is_secret, strict=True))
        alarms = sum(answer and not true for answer, true in zip(answers, is_secret, strict=True))
        of_near = len(data) - sum(is_secret)
        print(f"| {tool} | {share(hits, sum(is_secret))} | {share(alarms, of_near)} | {share(hits, hits + alarms)} |")
        result[tool] = {"found": hits, "n": sum(is_secret), "false": alarms, "near_misses": of_near}
    return result


def logs(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """False alarms in real logs and the time they take; and the lines, for the others."""
    files = sorted(folder.glob("*.log"))
    alarms: Counter[str] = Counter()
    all_lines: list[str] = []
    size = 0
    seconds = 0.0
    slowest = 0.0
    Redactor(bytes(32)).text("password=warm 8.8.8.8 +447700677662", "warm")  # loads the rules and phonenumbers
    redactor = Redactor(bytes(32))
    for path in files:
        text = path.read_text(errors="surrogateescape")
        lines = text.splitlines()
        all_lines += [line.encode(errors="replace").decode() for line in lines]
        begin = time.perf_counter()
        redactor.text(text, path.name)
        took = time.perf_counter() - begin
        size += len(text)
        seconds += took
        slowest = max(slowest, took / len(lines) * 1000)
    for entry in redactor.ledger():
        if not str(entry["rule"]).startswith("ipv"):
            alarms[f"{entry['place']}:{entry['line']} {entry['rule']}"] += 1
    flagged = len({key.split(" ")[0] for key in alarms})
    print(f"\n{len(all_lines)} lines of {len(files)} systems: {flagged} flagged, {dict(alarms)}")
    print(f"{size / seconds / 1e6:.1f} MB/s, the slowest system {slowest * 1000:.0f} ms for 1 000 lines")
    return {
        "lines": len(all_lines),
        "systems": len(files),
        "lines_flagged": flagged,
        "flagged": sorted(alarms),
        "alarms_per_32000": flagged * 32_000 / len(all_lines),
        "seconds": seconds,
        "mb_per_s": size / seconds / 1e6,
        "seconds_per_1000_lines_max": slowest,
    }, all_lines


def main() -> int:
    """Measures, and holds it against the limits."""
    parser = argparse.ArgumentParser(description=re.sub(r"\n.*", "", __doc__ or "", flags=re.DOTALL))
    parser.add_argument("--data", type=Path, required=True, help="a folder with pii, secrets and logs, see the module")
    parser.add_argument("--no-peers", action="store_true", help="leave the other tools out")
    parser.add_argument("--presidio", action="store_true", help="install Presidio as well, 410 MB")
    options = parser.parse_args()
    needed = ("pii/sentences.json", "secrets/literals.jsonl.gz", "logs/loghub_2k")
    missing = [name for name in needed if not (options.data / name).exists()]
    if missing:
        say(f"{options.data} has no {', '.join(missing)}: tests/bench/redaction.py says what they are")
        return 2
    of_logs, lines = logs(options.data / "logs" / "loghub_2k")
    result = {
        "logs": of_logs,
        "personal": personal(options.data / "pii", options.presidio and not options.no_peers),
        "secrets": secrets(options.data / "secrets" / "literals.jsonl.gz", lines, not options.no_peers),
    }
    beside = result["secrets"].get("detect_secrets")
    if beside:
        ratio = beside["file_seconds"] / of_logs["seconds"]
        result["times_as_fast_as_detect_secrets_file"] = ratio
        print(
            f"\ndetect-secrets on the same lines: {beside['file_lines_flagged']} flagged by file scan in "
            f"{beside['file_seconds']:.1f} s ({ratio:.0f} times ours), {beside['lines_flagged']} line by line in "
            f"{beside['line_seconds']:.1f} s"
        )
    result["kept"] = {
        "alarms_per_32000": of_logs["alarms_per_32000"] <= ALARMS_PER_32000_MAX,
        "seconds_per_1000_lines": of_logs["seconds_per_1000_lines_max"] <= SECONDS_PER_1000_LINES_MAX,
    }
    print(json.dumps(result))
    return 0 if all(result["kept"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
