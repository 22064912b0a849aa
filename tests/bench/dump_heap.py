"""A program with a known heap that is measured from outside: the target of tests/bench/dump.py.

    python tests/bench/dump_heap.py OBJECTS RSS_MIB VERB [ARGUMENT]

Builds about OBJECTS objects below `HANDLERS`, one in five a Session, and enough bytes that RSS reaches RSS_MIB. Then
does what VERB says, prints one JSON object and ends. Needs nothing but the standard library and, by VERB, one peer.

    dump FILE   pauses of five forks and of five clones that are ended at once; then one dump, while a thread ticks
    guppy3, pympler, objgraph   the total by type that this peer gives
    wait        prints its process id and sleeps, to be looked at from outside
"""

import gc
import json
import os
import sys
import threading
import time

PAUSES = 5
MIB = 1 << 20


class Session:
    """Five objects: itself, its list, a tuple, a name and bytes."""

    def __init__(self, number):
        self.items = [(number, "shared")]
        self.name = f"session-{number}"
        self.data = b"%d" % number


HANDLERS = {"connect": []}
BALLAST = []


def memory_mib(field="VmRSS"):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith(field))


def build(objects, rss_mib):
    gc.disable()
    HANDLERS["connect"].extend(Session(number) for number in range(objects // 5))
    gc.enable()
    gc.collect()
    while memory_mib() < rss_mib:
        BALLAST.append(b"\xff" * MIB)


class Ticks(threading.Thread):
    """Stands for the service: a thread that wants to run every millisecond. gaps_ms: how late it was, sorted."""

    def __init__(self):
        super().__init__(daemon=True)
        self.late_s, self.ending = [], threading.Event()

    def run(self):
        before = time.perf_counter()
        while not self.ending.is_set():
            time.sleep(0.001)
            now = time.perf_counter()
            self.late_s.append(now - before - 0.001)
            before = now

    def stop(self):
        self.ending.set()
        self.join()
        late = sorted(self.late_s)
        return {"p99_ms": 1000 * late[int(0.99 * (len(late) - 1))], "max_ms": 1000 * late[-1]}


def dump(path):
    from glassbottom import _native

    info = json.dumps({"format": 1, "service": "bench", "python": sys.version.split()[0], "at_ns": time.time_ns()})

    def start(name):
        fd = os.open(name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        try:
            return _native.dump_start(fd, info.encode(), bytes_max=1 << 34, seconds_max=300.0)
        finally:
            os.close(fd)

    forks = []
    for _ in range(PAUSES):
        begin = time.perf_counter()
        child = os.fork()
        if child == 0:
            os._exit(0)
        forks.append(1000 * (time.perf_counter() - begin))
        os.waitpid(child, 0)
    pauses, pauses_cpu = [], []
    for _ in range(PAUSES):
        begin = time.thread_time()
        pid, pause_ns = start(os.devnull)
        pauses_cpu.append(1000 * (time.thread_time() - begin))
        pauses.append(pause_ns / 1e6)
        _native.dump_kill(pid)
        _native.dump_wait(pid, 10.0)
    calm = Ticks()
    calm.start()
    time.sleep(1.0)
    before = calm.stop()
    ticks = Ticks()
    ticks.start()
    begin = time.perf_counter()
    pid, pause_ns = start(path)
    pauses.append(pause_ns / 1e6)
    ended = _native.dump_wait(pid, 300.0)
    seconds = time.perf_counter() - begin
    progress = _native.dump_progress()
    return {
        "pause_ms": sorted(pauses),
        "pause_cpu_ms": sorted(pauses_cpu),
        "fork_ms": sorted(forks),
        "dump_s": seconds,
        "ended": ended,
        "late_before": before,
        "late_during": ticks.stop(),
        "dirtied_mib": progress["dirtied_kib"] / 1024,
        "file_mib": os.path.getsize(path) / MIB,
        "objects": progress["objects"],
        "faults": progress["faults"],
    }


def guppy3():
    import guppy

    heap = guppy.hpy().heap()
    return {"objects": heap.count, "size_mib": heap.size / MIB}


def pympler():
    from pympler import muppy, summary

    rows = summary.summarize(muppy.get_objects())
    return {"objects": sum(row[1] for row in rows), "size_mib": sum(row[2] for row in rows) / MIB}


def objgraph():
    import objgraph as peer

    return {"objects": sum(peer.typestats().values())}


def main():
    objects, rss_mib, verb, *arguments = sys.argv[1:]
    build(int(objects), float(rss_mib))
    if verb == "wait":
        print(os.getpid(), flush=True)
        time.sleep(600)
        return
    before = memory_mib()
    begin = time.perf_counter()
    result = {"dump": dump, "guppy3": guppy3, "pympler": pympler, "objgraph": objgraph}[verb](*arguments)
    seconds = time.perf_counter() - begin
    more = memory_mib("VmHWM") - before
    print(
        json.dumps({"rss_mib": before, "seconds": seconds, "more_mib": more, "sessions": int(objects) // 5, **result})
    )


if __name__ == "__main__":
    main()
