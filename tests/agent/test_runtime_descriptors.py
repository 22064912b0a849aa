"""Descriptors are counted by type, connections by state, and those who open what stays open are found."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from glassbottom.probes import runtime_descriptors
from glassbottom.probes.observations import Observation
from glassbottom.probes.runtime_descriptors import Descriptors, type_of
from glassbottom.probes.runtime_openers import CALM_READINGS, GROWING_READINGS, Openers

Counts = dict[str, float]


def read(descriptors: Descriptors, now_s: float = 1e6) -> tuple[float, Counts, Counts]:
    """(all, by type, by state)"""
    total, types, states = 0.0, {}, {}
    for name, value, attributes in descriptors.read(now_s):
        if name == "glassbottom.fd.count":
            types[attributes["fd.type"]] = value
        elif name == "glassbottom.socket.count":
            states[attributes["network.connection.state"]] = value
        else:
            total = value
    return total, types, states


def test_links_say_what_a_descriptor_is() -> None:
    links = {
        "/var/log/x.log": "file",
        "/dev/null": "file",
        "/memfd:x (deleted)": "file",
        "socket:[123]": "socket",
        "pipe:[9]": "pipe",
        "anon_inode:[eventfd]": "eventfd",
        "anon_inode:[eventpoll]": "other",
        "": "other",
    }
    assert {link: type_of(link) for link in links} == links


def test_every_descriptor_is_counted_with_its_type() -> None:
    descriptors = Descriptors()
    total, before, _ = read(descriptors)
    assert total == sum(before.values())
    opened = [*os.pipe(), os.open(__file__, os.O_RDONLY), os.eventfd(0)]
    with socket.socket(), socket.socket(socket.AF_UNIX):
        total_after, after, _ = read(descriptors, 2e6)
    for number in opened:
        os.close(number)
    assert total_after == total + 6
    grown = {kind: after[kind] - before[kind] for kind in after}
    assert grown == {"socket": 2, "file": 1, "pipe": 2, "eventfd": 1, "other": 0}


def test_connections_of_this_process_are_counted_by_state() -> None:
    descriptors = Descriptors()
    _, _, before = read(descriptors)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_INET, socket.SOCK_DGRAM):
        with socket.create_connection(server.getsockname()):
            accepted, _ = server.accept()
            _, _, during = read(descriptors, 2e6)
        deadline_s = time.monotonic() + 30
        while time.monotonic() < deadline_s:
            _, _, closing = read(descriptors, time.monotonic() + 3e6)
            if closing.get("close_wait", 0) > before.get("close_wait", 0):
                break
        accepted.close()
    _, _, after = read(descriptors, 9e6)
    assert during["listen"] - before.get("listen", 0) == 1
    assert during["established"] - before.get("established", 0) == 2
    assert closing["close_wait"] - before.get("close_wait", 0) == 1
    # A state that was told is told until it is gone.
    assert after["established"] == before.get("established", 0)


def test_between_two_looks_types_are_told_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_descriptors, "LOOKED_AT_ALWAYS", 0)
    descriptors = Descriptors()
    _, before, _ = read(descriptors, 100.0)
    with socket.socket():
        descriptors._due_s = 200.0
        _, between, _ = read(descriptors, 150.0)
        assert not descriptors.looked
        assert between == before
        _, after, _ = read(descriptors, 250.0)
        assert descriptors.looked
    assert after["socket"] == before["socket"] + 1


def test_looking_at_many_takes_a_thousandth_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([10.0])
    monkeypatch.setattr(runtime_descriptors, "time", SimpleNamespace(perf_counter=lambda: next(times, 10.5)))
    descriptors = Descriptors()
    read(descriptors, 1000.0)
    assert descriptors._due_s == pytest.approx(1500.0)


def test_a_look_cut_short_takes_the_rest_to_be_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_descriptors, "COUNTED_MAX", 20)
    opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(100)]
    total, types, _ = read(Descriptors())
    for number in opened:
        os.close(number)
    assert sum(types.values()) == pytest.approx(total, rel=0.2)


def test_what_proc_does_not_tell_is_left_out(tmp_path: Path) -> None:
    assert read(Descriptors(tmp_path)) == (0, dict.fromkeys(["socket", "file", "pipe", "eventfd", "other"], 0), {})


# ---- who opens them -------------------------------------------------------------------------------------------------


class Rig:
    """Openers fed as the probe feeds them."""

    def __init__(self) -> None:
        self.openers = Openers()
        self.descriptors = Descriptors()
        self.now_s = 0.0

    def read(self) -> list[Observation]:
        self.now_s += 1e6
        list(self.descriptors.read(self.now_s))
        thread = threading.get_ident()
        self.openers.observe(self.descriptors.count)
        self.openers._agents_thread = 0 if self.openers._agents_thread == thread else thread
        return self.openers.read(self.now_s, self.descriptors.links) if self.openers.armed else []  # type: ignore[arg-type]


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setattr("glassbottom.probes.runtime_openers.LOOK_EVERY_NS", 0)
    rig = Rig()
    yield rig
    rig.openers.disarm()


def leaky_file() -> Any:
    return open("/dev/null")


def leaky_os_open() -> int:
    return os.open("/dev/null", os.O_RDONLY)


def leaky_socket() -> socket.socket:
    return socket.socket()


def grow(rig: Rig, leak: Callable[[], Any]) -> tuple[list[Any], list[Observation]]:
    held, told = [], []
    for _ in range(GROWING_READINGS + 4):
        held += [leak() for _ in range(5)]
        for _ in range(5):
            with open("/dev/null"), socket.socket():
                pass
        told = rig.read()
    return held, told


def close(held: list[Any]) -> None:
    for each in held:
        os.close(each) if isinstance(each, int) else each.close()


@pytest.mark.parametrize(("leak", "kind"), [(leaky_file, "file"), (leaky_os_open, "file"), (leaky_socket, "socket")])
def test_who_opens_what_stays_open_is_told_while_descriptors_grow(rig: Rig, leak: Any, kind: str) -> None:
    held, told = grow(rig, leak)
    try:
        most = told[0]
        assert (most.kind, most.attributes) == ("fd.opened", {"fd.type": kind})
        assert leak.__code__ in [code for code, _ in most.path]
        assert most.count >= 15
        assert len(told) == 1  # what was closed again is nobody's leak
    finally:
        close(held)


def test_the_hook_is_not_put_in_where_descriptors_do_not_grow() -> None:
    code = """if True:
        import sys
        from glassbottom.probes import runtime_openers
        openers = runtime_openers.Openers()
        for count in [10, 14, 9, 13, 10, 10, 10, 10, 11, 11, 12, 13]:
            openers.observe(count)
        assert not openers.armed and not runtime_openers._installed
        for count in [14, 15, 16, 20]:
            openers.observe(count)
        assert openers.armed and runtime_openers._installed
    """
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_it_stops_listening_when_they_have_not_grown_for_long(rig: Rig) -> None:
    rig.openers.arm()
    rig.openers.observe(50)
    for _ in range(CALM_READINGS - 1):
        rig.openers.observe(50)
    assert rig.openers.armed
    rig.openers.observe(49)
    assert not rig.openers.armed
    with open("/dev/null"):
        assert rig.openers._opened == {}


def test_the_agents_own_thread_and_descriptors_given_by_number_are_passed_over(rig: Rig) -> None:
    rig.openers.arm()
    rig.openers._agents_thread = threading.get_ident()
    open("/dev/null").close()
    assert rig.openers._opened == {}
    rig.openers._agents_thread = 0
    number = os.open("/dev/null", os.O_RDONLY)
    before = dict(rig.openers._opened)
    open(number).close()
    assert rig.openers._opened == before


def test_what_goes_wrong_in_the_hook_is_not_raised_into_the_application(rig: Rig) -> None:
    rig.openers.arm()
    rig.openers._spare, spare = 999_999, rig.openers._spare
    with open("/dev/null") as file:
        assert file.readable()
    rig.openers._spare = spare


def test_openings_remembered_are_bounded(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glassbottom.probes.runtime_openers.WATCHED_MAX", 10)
    rig.openers.arm()
    held = [leaky_socket() for _ in range(15)]
    assert len(rig.openers._opened) == 10
    assert rig.openers.overflowed == 5
    close(held)


def test_an_opening_is_looked_up_a_thousand_times_a_second_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glassbottom.probes.runtime_openers.LOOK_EVERY_NS", 10**15)
    openers = Openers()
    openers._looked_ns = time.perf_counter_ns()
    openers.arm()
    leaky_file().close()
    assert openers._opened == {}
    openers.disarm()


def test_one_inherited_by_a_fork_is_forgotten(rig: Rig) -> None:
    rig.openers.arm()
    child = Openers()
    child.start()
    assert not rig.openers.armed
    leaky_file().close()
    assert rig.openers._opened == {}
