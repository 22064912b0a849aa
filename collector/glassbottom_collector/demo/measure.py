"""The other half of the truth: what one session holds, measured by tracemalloc in a process that nobody watches.

    python measure.py DIRECTORY_OF_SHOP

Prints one JSON object: bytes per session, and the number of objects of each type in it. Run as a program, with the
agent switched off, so that neither the sampler nor any code of the collector's has a part in it.
"""

import gc
import importlib
import json
import sys
import tracemalloc
from collections import Counter

SESSIONS = 5


def main(directory: str) -> None:
    """Measures and prints."""
    sys.path.insert(0, directory)
    shop = importlib.import_module("shop")
    shop.Session(discount=0.0)  # whatever the first one creates for all
    gc.collect()
    tracemalloc.start(1)
    before, _ = tracemalloc.get_traced_memory()
    sessions = [shop.Session(discount=0.0) for _ in range(SESSIONS)]
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    types = Counter(type(value).__name__ for value in everything(sessions[0].products))
    print(json.dumps({"bytes": (after - before) / SESSIONS, "types": dict(types.most_common())}))


def everything(root: object) -> list[object]:
    """Every object below one, itself included, each once."""
    seen: dict[int, object] = {}
    waiting = [root]
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen[id(value)] = value
        if isinstance(value, dict):
            waiting.extend(value)
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
    return list(seen.values())


if __name__ == "__main__":
    main(sys.argv[1])
