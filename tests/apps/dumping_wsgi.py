"""A WSGI service that dumps the process which answers: /dump/PATH; and its master, when the file TRIGGER appears."""

import json
import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from glassbottom.captures.heap import dump_heap

kept = [[str(number)] for number in range(100_000)]


def dump(path: str) -> bytes:
    made = dump_heap(Path(path), service="wsgi", instance_id="", bytes_max=1 << 30, seconds_max=60.0)
    return json.dumps([os.getpid(), str(made.facts["end"])]).encode()


def dump_the_master(trigger: Path) -> None:
    while not trigger.exists():
        time.sleep(0.01)
    answer = dump(f"{trigger}.heap")
    Path(f"{trigger}.part").write_bytes(answer)
    Path(f"{trigger}.part").rename(f"{trigger}.done")


# Imported in the master, by --preload: this thread is the master's alone.
threading.Thread(target=dump_the_master, args=(Path(os.environ["TRIGGER"]),), daemon=True).start()


def app(environ: dict[str, object], start_response: Callable[..., object]) -> Iterable[bytes]:
    path = str(environ["PATH_INFO"])
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [dump(path.removeprefix("/dump")) if path.startswith("/dump") else str(os.getpid()).encode()]
