"""A file of memray's window, read by memray in a process of its own.

`python -m glassbottom_collector.recordings.memray_file FILE` is that process: it bounds itself, reads, and writes JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from ..errors import BadRequest
from ..model.code import Frame
from ..model.recording import MEMRAY, RecordedPath, Recording

TIMEOUT_S = 120.0
MEMORY_BYTES_MAX = 4 << 30
ANSWER_BYTES_MAX = 64 << 20
PATHS_MAX = 20_000
FRAMES_MAX = 128
MISSING = 3
"""Exit code: memray is not installed."""


def read(path: Path, timeout_s: float = TIMEOUT_S) -> Recording:
    """Call paths by what they allocated and did not free in the window. Raises BadRequest."""
    command = [sys.executable, "-m", __name__, str(path)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        raise BadRequest(f"Reading {path.name} took more than {timeout_s:g} s; record a shorter window.") from None
    if done.returncode == MISSING:
        raise BadRequest("memray is not installed where the file is read; run: pip install 'glassbottom[captures]'.")
    if done.returncode != 0 or len(done.stdout) > ANSWER_BYTES_MAX:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        why = f" ({lines[-1][:200]})" if lines else ""
        raise BadRequest(f"memray cannot read {path.name}: it is damaged, or of another version of memray{why}.")
    told = json.loads(done.stdout)
    paths = tuple(
        RecordedPath(
            tuple(Frame(function, file, line) for function, file, line in frames),
            "",
            allocator,
            float(kept),
            float(count),
            float(peak),
        )
        for frames, allocator, kept, count, peak in told["paths"]
    )
    return Recording(MEMRAY, paths, float(told["kept"]), float(told["peak"]))


def main(name: str) -> int:
    """Writes what memray reads in a file."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
    try:
        import memray
    except ImportError:
        return MISSING
    reader = memray.FileReader(name)
    native = reader.metadata.has_native_traces
    # By path and allocator: bytes and calls that were not freed, and bytes at the peak.
    sums: dict[tuple[tuple[tuple[str, str, int], ...], str], list[float]] = {}
    kept = peak = 0.0
    for record in reader.get_leaked_allocation_records(merge_threads=True):
        row = sums.setdefault(_key(record, native), [0.0, 0.0, 0.0])
        row[0] += record.size
        row[1] += record.n_allocations
        kept += record.size
    for record in reader.get_high_watermark_allocation_records(merge_threads=True):
        sums.setdefault(_key(record, native), [0.0, 0.0, 0.0])[2] += record.size
        peak += record.size
    largest = sorted(sums.items(), key=lambda item: (-item[1][0], -item[1][2]))[:PATHS_MAX]
    paths = [[frames, allocator, *row] for (frames, allocator), row in largest]
    sys.stdout.write(json.dumps({"kept": kept, "peak": peak, "paths": paths}))
    return 0


def _key(record: object, native: bool) -> tuple[tuple[tuple[str, str, int], ...], str]:
    import memray

    trace = record.hybrid_stack_trace if native else record.stack_trace  # type: ignore[attr-defined]
    frames = tuple((str(function), str(file), int(line)) for function, file, line in trace(FRAMES_MAX))
    return frames, memray.AllocatorType(record.allocator).name.lower()  # type: ignore[attr-defined]


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
