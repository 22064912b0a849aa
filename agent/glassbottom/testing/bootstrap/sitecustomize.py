"""Runs in the program that `glassbottom check-leak` starts: steps aside for its own sitecustomize, then watches it.

Only in that one process: what it starts in turn finds neither this directory nor the order. Nothing that goes wrong
here may keep the interpreter from starting; then the command says that the program was not watched.
"""

import os
import sys
from pathlib import Path


def _run_the_next_one() -> None:
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec

    here = str(Path(__file__).resolve().parent)
    sys.path[:] = [entry for entry in sys.path if str(Path(entry).resolve()) != here]
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    os.environ["PYTHONPATH"] = os.pathsep.join(entry for entry in inherited if entry != here)
    if not os.environ["PYTHONPATH"]:
        del os.environ["PYTHONPATH"]
    spec = PathFinder.find_spec("sitecustomize", sys.path)
    if spec is not None and spec.loader is not None:
        module = module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


try:
    order = os.environ.pop("GLASSBOTTOM_CHECK_LEAK", "")
    _run_the_next_one()
finally:
    if order:
        try:
            from glassbottom.testing.watch import start

            start(order)
        except Exception as error:  # noqa: BLE001 - an interpreter that does not start is worse than one unwatched
            sys.stderr.write(f"glassbottom: {sys.executable} runs unwatched: {error}\n")
