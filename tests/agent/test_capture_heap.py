"""A heap dump is made, refused or given up with a reason, and leaves nothing behind where it was."""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest
from glassbottom import _native, _threads
from glassbottom.captures import CaptureError, census, heap, room
from glassbottom.captures.heap import dump_heap

from tests.support import dump_reader
from tests.support.captured import captured, order

LIMITS = {"service": "shop", "instance_id": "ab" * 16, "bytes_max": 1 << 30, "seconds_max": 60.0}


def program(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A small process, whose heap takes no time to write."""
    start = f"import sys; sys.path[:0] = {sys.path!r}\n"
    return subprocess.run(
        [sys.executable, "-I", "-c", start + textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_an_order_becomes_a_file_and_facts(tmp_path: Path) -> None:
    done = program(
        """
        import json, os
        from pathlib import Path
        from tests.support.captured import captured, order
        made = captured(order("dump_heap", 60.0), Path(sys.argv[1]))
        print(json.dumps([os.getpid(), str(made.path), dict(made.facts)]))
        """,
        str(tmp_path / "d"),
    )
    pid, path, facts = json.loads(done.stdout)
    info, end = dump_reader.ends(Path(path))
    assert info["pid"] == pid
    assert info["rss_bytes"] > 0
    assert end is not None
    assert facts["end"] == "complete"
    assert (facts["objects"], facts["references"]) == (end[0], end[1])
    assert (facts["unreadable_objects"], facts["lost_objects"]) == (0, 0)
    assert facts["pause_ms"] > 0
    assert 0 < facts["dirtied_bytes"] < facts["resident_bytes"]
    assert Path(path).stat().st_mode & 0o777 == 0o600


def test_the_file_says_whose_it_is_and_when_it_was_made(tmp_path: Path) -> None:
    limits = {**LIMITS, "bytes_max": 10_000}
    made = dump_heap(tmp_path / "heap", clock=lambda: 1_700_000_000_000_000_000, **limits)  # type: ignore[arg-type]
    assert made.path is not None
    info, _ = dump_reader.ends(made.path)
    assert (info["service"], info["instance_id"], info["at_ns"]) == ("shop", "ab" * 16, 1_700_000_000_000_000_000)


def test_a_file_is_never_larger_than_allowed_and_says_that_it_was_cut_off(tmp_path: Path) -> None:
    made = dump_heap(tmp_path / "heap", **{**LIMITS, "bytes_max": 200_000})  # type: ignore[arg-type]
    assert made.path is not None
    assert 100_000 < made.path.stat().st_size <= 200_000
    dump = dump_reader.read(made.path)
    assert dump.end is not None
    assert dump.end[2] == 1
    assert str(made.facts["end"]).startswith("cut off: it would be larger")


def test_a_dump_that_takes_longer_than_allowed_is_cut_off(tmp_path: Path) -> None:
    made = dump_heap(tmp_path / "heap", **{**LIMITS, "seconds_max": 1e-6})  # type: ignore[arg-type]
    assert made.path is not None
    _, end = dump_reader.ends(made.path)
    assert end is not None
    assert end[2] == 2


def test_an_order_that_is_called_off_keeps_what_was_written(tmp_path: Path) -> None:
    ending = _threads.Event()
    ending.set()
    made = _slow(lambda: dump_heap(tmp_path / "heap", ending=ending, **LIMITS), lambda pid: None)  # type: ignore[arg-type]
    assert made.facts["end"] == "cut off: it was to end"
    assert dump_reader.ends(tmp_path / "heap")[1] is None


def test_a_copy_that_is_killed_is_told_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="ended by SIGKILL after"):
        _slow(lambda: dump_heap(tmp_path / "heap", **LIMITS), lambda pid: os.kill(pid, signal.SIGKILL))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
    again = dump_heap(tmp_path / "heap", **{**LIMITS, "bytes_max": 10_000})  # type: ignore[arg-type]
    assert again.path is not None


def test_it_is_given_up_when_memory_runs_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "left_ratio", lambda: 0.01)
    with pytest.raises(CaptureError, match="Memory ran short"):
        _slow(lambda: dump_heap(tmp_path / "heap", **LIMITS), lambda pid: None)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def _slow(make: Callable[[], object], meanwhile: Callable[[int], None]) -> object:
    """With the copy stopped as soon as there is one, so that it is certain to run still when it is looked at."""
    start = _native.dump_start

    def stopped(*arguments: object, **limits: object) -> tuple[int, int]:
        pid, pause_ns = start(*arguments, **limits)  # type: ignore[arg-type]
        os.kill(pid, signal.SIGSTOP)
        meanwhile(pid)
        return pid, pause_ns

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_native, "dump_start", stopped)
        return make()


def test_a_full_disk_is_told_and_leaves_no_file(tmp_path: Path) -> None:
    done = program(
        """
        import resource, signal
        from pathlib import Path
        from glassbottom.captures import CaptureError
        from glassbottom.captures.heap import dump_heap
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        path = Path(sys.argv[1])
        try:
            dump_heap(path, service="", instance_id="", bytes_max=1 << 30, seconds_max=60.0)
        except CaptureError as error:
            print(error, path.exists())
        """,
        str(tmp_path / "heap"),
    )
    assert done.stdout.startswith("The dump could not be written after "), done.stderr
    assert done.stdout.endswith("File too large. False\n")


def test_a_directory_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="cannot be written"):
        dump_heap(tmp_path / "nowhere" / "heap", **LIMITS)  # type: ignore[arg-type]


def test_a_system_without_room_for_another_process_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(_native, "dump_start", refuse)
    monkeypatch.setattr(heap, "BUSY_S_MAX", 0.05)
    with pytest.raises(CaptureError, match=r"ulimit -u or pids\.max"):
        dump_heap(tmp_path / "heap", **LIMITS)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


# ---- refusals -----------------------------------------------------------------------------------------------------


def proc(tmp_path: Path, *, resident_kib: int = 100_000, available_kib: int = 8 << 20, overcommit: int = 0) -> Path:
    """A /proc with these numbers, on a machine of 16 GiB, without control groups."""
    (tmp_path / "self").mkdir()
    (tmp_path / "sys/vm").mkdir(parents=True)
    pages = resident_kib * 1024 // os.sysconf("SC_PAGE_SIZE")
    (tmp_path / "self/statm").write_text(f"{2 * pages} {pages} 0 0 0 0 0\n")
    (tmp_path / "meminfo").write_text(f"MemTotal: {16 << 20} kB\nMemFree: 1 kB\nMemAvailable: {available_kib} kB\n")
    (tmp_path / "sys/vm/overcommit_memory").write_text(f"{overcommit}\n")
    return tmp_path


def test_a_process_with_room_is_not_refused(tmp_path: Path) -> None:
    assert heap.refusal(proc=proc(tmp_path)) is None


def test_it_is_refused_where_a_copy_must_be_promised_all_its_memory(tmp_path: Path) -> None:
    assert "vm.overcommit_memory is 2" in str(heap.refusal(proc=proc(tmp_path, overcommit=2)))


def test_it_is_refused_when_little_memory_is_free(tmp_path: Path) -> None:
    reason = str(heap.refusal(proc=proc(tmp_path, available_kib=1 << 20)))
    assert "1.00 GiB are free" in reason
    assert "2.40 GiB should be free" in reason


def test_it_is_refused_when_twice_what_may_be_written_to_is_not_free(tmp_path: Path) -> None:
    full = proc(tmp_path, resident_kib=10 << 20, available_kib=int(2.9 * (1 << 20)))
    assert "3.06 GiB should be free" in str(heap.refusal(large=True, proc=full))


def test_a_very_large_process_is_dumped_only_when_that_was_asked_for(tmp_path: Path) -> None:
    large = proc(tmp_path, resident_kib=20 << 20, available_kib=15 << 20)
    assert "stand still for about 400 ms" in str(heap.refusal(proc=large))
    assert heap.refusal(large=True, proc=large) is None


def test_the_control_groups_limit_counts_when_it_is_nearer(tmp_path: Path) -> None:
    group = tmp_path / "group"
    group.mkdir()
    (group / "memory.current").write_text(str(950 << 20))
    (group / "memory.max").write_text(str(1 << 30))
    (group / "memory.stat").write_text("inactive_file 0\n")
    inside = tmp_path / "proc"
    inside.mkdir()
    proc(inside)
    (inside / "self/cgroup").write_text("0::/\n")
    (inside / "self/mountinfo").write_text(f"30 25 0:26 / {group} rw - cgroup2 cgroup2 rw\n")
    free, total = room.left_bytes(inside)
    assert (free, total) == (74 << 20, 1 << 30)
    assert "Of the 1.0 GiB of memory" in str(heap.refusal(proc=inside))


# ---- the census ---------------------------------------------------------------------------------------------------


class Session:
    def __init__(self, number: int) -> None:
        self.texts = [f"text {number} {i}" for i in range(10)]


class Asks:
    """Whoever calls code of the application's finds out."""

    asked: ClassVar[list[str]] = []

    def __sizeof__(self) -> int:
        self.asked.append("size")
        return 10**9

    @property
    def __class__(self) -> type:  # type: ignore[override]
        self.asked.append("class")
        return int


def test_a_census_counts_objects_by_type_without_asking_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(census, "TYPES_SHOWN", 10_000)  # what other tests hold may be larger
    gc.collect()
    sessions = [Session(number) for number in range(3000)]
    asks = [Asks() for _ in range(100)]
    made = census.count(60.0, _threads.Event(), seed=1)
    assert made.path is None
    facts = made.facts
    assert facts["end"] == "complete"
    assert float(facts["listed_objects"]) >= 6000
    counts = {name.split(" ", 1)[1]: str(value) for name, value in facts.items() if name[:2].isdigit()}
    assert counts[f"{__name__}.Session"].startswith("3000 objects")
    texts = int(counts["str"].split()[0])
    assert texts > 25_000
    assert len(sessions) + len(asks) == 3100
    assert Asks.asked == []


def test_a_census_estimates_what_is_on_no_list_without_bias() -> None:
    """4000 lists that share texts by tens: 10 texts for every ten lists."""
    held = []
    for number in range(400):
        shared = [f"shared {number} {i}" for i in range(10)]
        held.extend([*shared] for _ in range(10))
    counts: census.Counts = {}
    draw = random.Random(1).random
    for _ in range(50):
        census.add(counts, held, draw)
    assert counts[str][0] / 50 == pytest.approx(4000, rel=0.05)
    assert counts[list][0] / 50 == 4000


def test_a_census_ends_early_when_told() -> None:
    ending = _threads.Event()
    ending.set()
    assert str(census.count(60.0, ending).facts["end"]).startswith("cut off")


@pytest.mark.once
def test_a_census_takes_the_place_of_a_dump_where_asked_for_or_where_none_can_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert captured(order("dump_heap", 60.0, census="1"), tmp_path / "a").path is None
    monkeypatch.setattr(_native, "dump_refusal", lambda: "This is another system.")
    assert captured(order("dump_heap", 60.0), tmp_path / "b").path is None
    with pytest.raises(CaptureError, match="another system"):
        dump_heap(tmp_path / "heap", **LIMITS)  # type: ignore[arg-type]
