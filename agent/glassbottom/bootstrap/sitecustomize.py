"""Runs in every interpreter started below `glassbottom run`: steps aside for the application's own, then starts us.

Python imports one module of this name, the first on its path. We are first, so we look for the next one and run it as
if we were not there. Nothing that goes wrong here may keep the interpreter from starting.
"""

import sys
from itertools import pairwise
from pathlib import Path


def _run_the_next_one() -> None:
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec

    here = Path(__file__).resolve().parent
    # Gone from this path, not from PYTHONPATH: programs started from here are watched as well.
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != here]
    spec = PathFinder.find_spec("sitecustomize", sys.path)
    if spec is not None and spec.loader is not None:
        module = module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


def _is_of_no_interest() -> bool:
    """A helper of the standard library's, or a `glassbottom run` that is about to become its command."""
    line = sys.orig_argv
    if any("multiprocessing.resource_tracker" in argument for argument in line):
        return True
    pairs = pairwise(line)
    return any(
        pair == ("-m", "glassbottom.run") or (Path(pair[0]).name, pair[1]) == ("glassbottom", "run") for pair in pairs
    )


def _start() -> None:
    if _is_of_no_interest():
        return
    try:
        from glassbottom import _switch

        if _switch.is_disabled():
            return
        from glassbottom import _process
    except ImportError as error:
        sys.stderr.write(f"glassbottom: {sys.executable} runs unwatched: {error}. Install glassbottom for it.\n")
        return
    try:
        _process.init(None, endpoint=None, config=None, strict=False, options={}, provisional=True)
    except Exception as error:  # noqa: BLE001 - an interpreter that does not start is worse than one unwatched
        sys.stderr.write(f"glassbottom: {sys.executable} runs unwatched: {error}\n")


try:
    _run_the_next_one()
finally:
    _start()
