"""Does a real `go tool pprof` read what `-o pprof` writes, and see the same totals?

    make bench-pprof          needs Go: apt-get install -y golang-go

Three claims, each checked with pprof's own output: the totals of every sample type are those of `top -o json`, asked
of a real collector; Python's names survive, angle brackets included; and a difference shows what `-diff_base` makes of
the two moments. The last line is one JSON object; the exit code is 1 when a claim fails.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from glassbottom_collector.cli import main as glassbottom

from tests.support.leaking_service import leaking_service
from tests.support.query_double import Answers, serving
from tests.support.query_double_memory import AT, BEFORE

TOTAL = re.compile(r"^Showing nodes accounting for .* of (\d+)(?:B|) total$", re.MULTILINE)
ROW = re.compile(r"^\s*(-?\d+)B?\s+[\d.]+%\s+[\d.]+%\s+(-?\d+)B?\s+[\d.]+%\s+(.*)$", re.MULTILINE)


def main() -> int:
    """Checks the three claims."""
    go = shutil.which("go")
    if go is None:
        print("no go on PATH; run: apt-get install -y golang-go", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        result: dict[str, object] = {"go": subprocess.check_output([go, "version"], text=True).split()[2]}
        result |= against_a_collector(folder)
        result |= against_fixed_answers(folder)
    print(json.dumps(result))
    return 0 if all(value is not False for value in result.values()) else 1


def against_a_collector(folder: Path) -> dict[str, object]:
    """Totals as `top -o json` has them."""
    with leaking_service() as story:
        top = ("top", "--service", "checkout", "--addr", story.address, "--at", str(story.last_ns))
        totals = json.loads(answer(*top, "-o", "json"))["totals"]
        answer(*top, "-o", "pprof", "--output", str(folder / "heap.pb.gz"))
    space, objects = (pprof_total(folder / "heap.pb.gz", kind) for kind in ("inuse_space", "inuse_objects"))
    return {
        "inuse_space": space,
        "inuse_objects": objects,
        "totals_agree": (space, objects) == (round(totals["live_bytes"]), round(totals["live_objects"])),
        "default_is_inuse_space": "Type: inuse_space" in pprof("-top", str(folder / "heap.pb.gz")),
        "names_survive": "<module>" in pprof("-top", str(folder / "heap.pb.gz")),
    }


def against_fixed_answers(folder: Path) -> dict[str, object]:
    """Our difference beside the one pprof makes of the two moments."""
    names = {
        "after": ("top", "--at", AT),
        "before": ("top", "--at", BEFORE),
        "diff": ("diff", "--from", BEFORE, "--to", AT),
    }
    files = {name: str(folder / f"{name}.pb.gz") for name in names}
    with serving(Answers()) as address:
        for name, line in names.items():
            answer(*line, "--addr", address, "--service", "checkout", "-o", "pprof", "--output", files[name])
    flags = ("-top", "-unit=B", "-nodefraction=0")
    ours, theirs = pprof(*flags, files["diff"]), pprof(*flags, f"-diff_base={files['before']}", files["after"])
    return {
        "diff_rows": len(ROW.findall(ours)),
        "diff_agrees": bool(ROW.findall(ours)) and ROW.findall(ours) == ROW.findall(theirs),
        "diff_percentages_agree": TOTAL.findall(ours) == TOTAL.findall(theirs) != [],
    }


def answer(*line: str) -> str:
    """Standard output of a command line that has to succeed."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = glassbottom(line)
    if code:
        raise RuntimeError(f"glassbottom {' '.join(line)} ended with {code}")
    return out.getvalue()


def pprof(*arguments: str) -> str:
    """What `go tool pprof` says."""
    return subprocess.run(["go", "tool", "pprof", *arguments], capture_output=True, text=True, check=True).stdout


def pprof_total(path: Path, sample_type: str) -> int:
    """The total pprof shows for a sample type."""
    (total,) = TOTAL.findall(pprof("-top", "-unit=B", f"-sample_index={sample_type}", str(path)))
    return int(total)


if __name__ == "__main__":
    sys.exit(main())
