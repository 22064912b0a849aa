"""The load of the servers, w2 and a2: wrk, closed loop, on the other core; and the latencies it saw.

While the pair is sliced, a wrk per server keeps its connections full, so that whichever server runs always has work:
its completed requests per second of its own slices are its speed, and it takes the latencies itself, in its own running
time (workloads.serve). What a client sees then carries the stops, so as a cross-check from outside the servers
afterwards take undisturbed turns of some seconds, A B B A, each under a fresh wrk while the other stands still; the
histograms of all turns of a side are added before the percentile is taken. That one is honest but coarse: turns of
seconds do not share the machine's moods, and a busy neighbour of wrk looks like a slow server.
"""

import collections
import contextlib
import dataclasses
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.bench.overhead.builds import BenchError
from tests.bench.overhead.pairs import Workload

CONNECTIONS = 32
SCRIPT = """
local paths = {}
for i = 0, 96 do
  paths[i] = wrk.format("GET", "/customers/" .. (i * 41) .. "/orders?limit=12")
end
local turn = 0
request = function()
  turn = (turn + 1) % 97
  return paths[turn]
end
done = function(summary, latency, requests)
  local errors = summary.errors
  print("errors " .. (errors.connect + errors.read + errors.write + errors.status + errors.timeout))
  for i = 1, #latency do
    local us, count = latency(i)
    print("latency_us " .. us .. " " .. count)
  end
end
"""
LATENCY = re.compile(r"^latency_us (\d+) (\d+)$", re.MULTILINE)
ERRORS = re.compile(r"^errors (\d+)$", re.MULTILINE)


def require_wrk() -> None:
    """Raises BenchError with the command that installs it."""
    if shutil.which("wrk") is None:
        raise BenchError("w2 needs wrk, which is not installed: apt-get update && apt-get install -y wrk")


def command(server: Workload, script: Path, seconds: int) -> list[str]:
    if not script.exists():
        script.write_text(SCRIPT)
    url = f"http://127.0.0.1:{server.page.port}/"
    return ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "10s", "-s", str(script), url]


@contextlib.contextmanager
def constant_load(servers: tuple[Workload, Workload], scratch: Path) -> Iterator[None]:
    """Keeps the connections of both servers full until it is left."""
    loads = [
        subprocess.Popen(command(server, scratch / "load.lua", 3600), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for server in servers
    ]
    try:
        yield
        for load in loads:
            if load.poll() is not None:
                assert load.stderr is not None
                raise BenchError(f"wrk ended early: {load.stderr.read().decode(errors='replace').strip()}")
    finally:
        for load in loads:
            load.kill()
            load.wait()
            assert load.stderr is not None
            load.stderr.close()


@dataclasses.dataclass(frozen=True)
class Latencies:
    """What wrk measured from outside: microseconds -> requests."""

    histogram: collections.Counter[int]

    @property
    def requests(self) -> int:
        return self.histogram.total()

    def percentile_us(self, share: float) -> int:
        """The smallest latency that at least this share of the requests did not exceed."""
        needed = share * self.requests
        seen = 0
        for us in sorted(self.histogram):
            seen += self.histogram[us]
            if seen >= needed:
                return us
        raise BenchError("wrk completed no request in a turn: make turns longer (--turn-seconds).")


def undisturbed_turns(
    plain: Workload, instrumented: Workload, turns: int, seconds: int, scratch: Path
) -> tuple[Latencies, Latencies]:
    """Latencies of both servers, which stand still before and after, over that many A B B A turns in all."""
    sides = (plain, instrumented)
    sums = (Latencies(collections.Counter()), Latencies(collections.Counter()))
    for turn in range(turns):
        i = (0, 1, 1, 0)[turn % 4]
        sides[i].resume()
        answer = subprocess.run(command(sides[i], scratch / "load.lua", seconds), capture_output=True, text=True)
        sides[i].stop()
        failed = ERRORS.search(answer.stdout)
        if answer.returncode or failed is None or int(failed[1]):
            raise BenchError(f"wrk met errors: {(answer.stdout + answer.stderr).strip()[-500:]}")
        for us, count in LATENCY.findall(answer.stdout):
            sums[i].histogram[int(us)] += int(count)
    return sums
