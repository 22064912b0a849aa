"""Memory of the process, and the limits of its control group, from trees such as kernels and runtimes make."""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from glassbottom.probes.runtime_memory import ControlGroup, Pss, groups, memory, mounts


def put(root: Path, files: Mapping[str, object]) -> None:
    for name, content in files.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")


def readings(group: ControlGroup) -> dict[str, float]:
    return {name: value for name, value, _ in group.read()}


def proc(root: Path, cgroup: str, *mounted: str) -> Path:
    put(root, {"proc/cgroup": cgroup, "proc/mountinfo": "\n".join(mounted)})
    return root / "proc"


def unified(root: Path, shows: str = "/") -> str:
    at = str(root / "unified").replace(" ", "\\040")
    return f"41 31 0:38 {shows} {at} rw,relatime shared:9 - cgroup2 cgroup2 rw"


def old(root: Path, controllers: str, shows: str = "/") -> str:
    return f"35 31 0:32 {shows} {root / controllers} rw,relatime - cgroup cgroup rw,{controllers}"


def test_the_resident_memory_of_this_process_grows_with_what_it_touches() -> None:
    before = {name: value for name, value, _ in memory()}
    held = mmap.mmap(-1, 64 << 20)
    held.write(b"x" * len(held))
    after = {name: value for name, value, _ in memory()}
    assert after["process.memory.usage"] - before["process.memory.usage"] > 60 << 20
    assert after["process.memory.virtual"] - before["process.memory.virtual"] > 60 << 20
    held.close()


def test_what_proc_does_not_tell_is_left_out(tmp_path: Path) -> None:
    assert list(memory(tmp_path)) == []
    assert readings(ControlGroup(tmp_path)) == {}
    assert list(Pss(tmp_path).read(0.0, 1e6)) == []


def test_pss_is_at_most_the_resident_memory_and_read_once_a_minute() -> None:
    pss = Pss()
    resident = {name: value for name, value, _ in memory()}["process.memory.usage"]
    [(name, value, _)] = pss.read(100.0, resident)
    assert name == "glassbottom.memory.pss"
    assert 0 < value <= resident * 1.2
    assert list(pss.read(159.0, resident)) == []
    assert len(list(pss.read(100.0 + max(60.0, pss.seconds_max / 0.0005) + 1, resident))) == 1


def test_pss_of_a_huge_process_is_not_read() -> None:
    assert list(Pss().read(0.0, 5 << 30)) == []


def test_version_2_with_the_limits_of_every_group_above(tmp_path: Path) -> None:
    put(
        tmp_path / "unified",
        {
            "cpu.stat": "usage_usec 5",
            "system.slice/memory.current": 900_000,
            "system.slice/memory.max": 800_000,
            "system.slice/cpu.max": "150000 100000",
            "system.slice/cpu.stat": "usage_usec 9\nnr_periods 100\nnr_throttled 25\nthrottled_usec 3500000",
            "system.slice/shop.service/memory.current": 500_000,
            "system.slice/shop.service/memory.max": "max",
            "system.slice/shop.service/memory.stat": "anon 1\ninactive_file 120000\nactive_file 7",
            "system.slice/shop.service/cpu.max": "max 100000",
            "system.slice/shop.service/cpu.stat": "usage_usec 8\nnr_periods 0\nnr_throttled 0\nthrottled_usec 0",
        },
    )
    group = ControlGroup(proc(tmp_path, "0::/system.slice/shop.service", unified(tmp_path)))
    assert readings(group) == {
        "container.memory.usage": 500_000,
        "container.memory.working_set": 380_000,
        "container.memory.limit": 800_000,
        "container.cpu.limit": 1.5,
        "container.cpu.periods": 100,
        "container.cpu.throttled_periods": 25,
        "container.cpu.throttled_time": 3.5,
    }


@pytest.mark.parametrize(
    ("path", "shows"),
    [
        ("/", "/"),  # a namespace of its own
        ("/docker/abc", "/docker/abc"),  # the runtime mounts the container's part
        ("/../../other", "/"),  # moved out of the namespace it sees
    ],
)
def test_version_2_in_a_container_is_at_the_top_of_what_is_mounted(tmp_path: Path, path: str, shows: str) -> None:
    put(tmp_path / "unified", {"memory.current": 10, "memory.max": 20, "cpu.max": "50000 100000", "cpu.stat": "x 1"})
    group = ControlGroup(proc(tmp_path, f"0::{path}", unified(tmp_path, shows)))
    assert readings(group) == {
        "container.memory.usage": 10,
        "container.memory.limit": 20,
        "container.cpu.limit": 0.5,
    }


def test_version_1_with_a_hierarchy_for_each_controller(tmp_path: Path) -> None:
    put(
        tmp_path,
        {
            "memory/docker/abc/memory.usage_in_bytes": 700,
            "memory/docker/abc/memory.limit_in_bytes": 9223372036854771712,
            "memory/docker/abc/memory.stat": "cache 1\ntotal_inactive_file 100\nhierarchical_memory_limit 1000",
            "cpu,cpuacct/docker/abc/cpu.cfs_quota_us": 200_000,
            "cpu,cpuacct/docker/abc/cpu.cfs_period_us": 100_000,
            "cpu,cpuacct/docker/abc/cpu.stat": "nr_periods 10\nnr_throttled 4\nthrottled_time 2000000000",
        },
    )
    cgroup = "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc\n0::/"
    group = ControlGroup(proc(tmp_path, cgroup, old(tmp_path, "memory"), old(tmp_path, "cpu,cpuacct")))
    assert readings(group) == {
        "container.memory.usage": 700,
        "container.memory.working_set": 600,
        "container.memory.limit": 1000,
        "container.cpu.limit": 2.0,
        "container.cpu.periods": 10,
        "container.cpu.throttled_periods": 4,
        "container.cpu.throttled_time": 2.0,
    }


def test_a_hybrid_has_each_controller_in_one_of_the_two(tmp_path: Path) -> None:
    put(tmp_path, {"memory/memory.usage_in_bytes": 7, "memory/memory.limit_in_bytes": 9223372036854771712})
    put(tmp_path, {"unified/cgroup.procs": 1})
    mounted = unified(tmp_path), old(tmp_path, "memory")
    assert readings(ControlGroup(proc(tmp_path, "3:memory:/\n0::/", *mounted))) == {"container.memory.usage": 7}


def test_without_a_limit_none_is_told(tmp_path: Path) -> None:
    put(tmp_path / "unified" / "a", {"memory.current": 5, "memory.max": "max", "memory.stat": "not numbers\n"})
    put(tmp_path / "unified" / "a", {"cpu.max": "max 100000", "cpu.stat": ""})
    assert readings(ControlGroup(proc(tmp_path, "0::/a", unified(tmp_path)))) == {"container.memory.usage": 5}


def test_a_group_that_is_removed_or_unreadable_is_left_out(tmp_path: Path) -> None:
    put(tmp_path / "unified", {"a/memory.current": 5, "a/cpu.max": "1 2", "a/cpu.stat": "nr_periods 1"})
    group = ControlGroup(proc(tmp_path, "0::/a", unified(tmp_path)))
    for path in (tmp_path / "unified" / "a").iterdir():
        path.unlink()
    assert readings(group) == {}


def test_mounts_and_groups_are_parsed_as_the_kernel_writes_them() -> None:
    [mount] = mounts(
        "22 1 8:1 / / rw - ext4 /dev/sda1 rw\nnonsense\n"
        "35 31 0:32 /a:b /sys/fs/with\\040blank rw shared:3 master:1 - cgroup cgroup rw,cpu,cpuacct\n"
    )
    assert (mount.at, mount.root, mount.version) == (Path("/sys/fs/with blank"), "/a:b", 1)
    assert {"cpu", "cpuacct"} <= mount.controllers
    assert groups("4:cpu,cpuacct:/a:b\n0::/x\nnonsense") == {"cpu": "/a:b", "cpuacct": "/a:b", "": "/x"}


def test_the_machine_this_runs_on_can_be_read() -> None:
    found = readings(ControlGroup())
    assert all(value >= 0 for value in found.values())
    if "container.memory.limit" in found:
        assert found["container.memory.limit"] >= os.sysconf("SC_PAGE_SIZE")
