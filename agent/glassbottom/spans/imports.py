"""Does something after a module has been imported, whenever the application does that.

A finder at the head of sys.meta_path lets the others find the module and then, on the loader they have found and for
that one execution, puts a function before exec_module. The loader stays the object it is, with all it can do, and is as
it was afterwards. What goes wrong with us never keeps a module from being imported.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from .._guard import Guard

Callback = Callable[[ModuleType], None]

_waiting: dict[str, list[tuple[Guard, Callback]]] = {}
_looking = threading.local()


def when_imported(name: str, guard: Guard, callback: Callback) -> None:
    """Calls back with the module: now if it is there already, else right after it was executed. Errors stop here."""
    module = sys.modules.get(name)
    if module is not None:
        _call([(guard, callback)], module)
        return
    _waiting.setdefault(name, []).append((guard, callback))
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


def forget_all() -> None:
    """Waits for nothing any more."""
    _waiting.clear()
    _withdraw()


class _Finder:
    """Looks only at names that somebody waits for."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in _waiting or getattr(_looking, "name", None) == name:
            return None
        _looking.name = name
        try:
            spec = _found_by_others(name, path, target)
        finally:
            _looking.name = None
        if spec is not None and spec.loader is not None:
            _watch(spec.loader, name)
        return spec


_finder = _Finder()


def _found_by_others(name: str, path: Sequence[str] | None, target: ModuleType | None) -> ModuleSpec | None:
    for finder in list(sys.meta_path):
        if finder is _finder:
            continue
        find = getattr(finder, "find_spec", None)
        spec = find(name, path, target) if find is not None else None
        if spec is not None:
            return spec  # type: ignore[no-any-return]
    return None


def _watch(loader: Any, name: str) -> None:
    execute = getattr(loader, "exec_module", None)
    if execute is None:
        return

    def exec_module(module: ModuleType) -> None:
        if getattr(module, "__name__", None) != name:  # a loader of many modules, such as zipimport's
            execute(module)
            return
        _restore()
        execute(module)
        _call(_waiting.pop(name, []), sys.modules.get(name, module))
        if not _waiting:
            _withdraw()

    def _restore() -> None:
        if getattr(loader, "__dict__", {}).get("exec_module") is exec_module:
            del loader.exec_module

    try:
        loader.exec_module = exec_module
    except (AttributeError, TypeError):
        return  # a loader that takes no attributes: its module is imported unwatched


def _call(callbacks: list[tuple[Guard, Callback]], module: ModuleType) -> None:
    for guard, callback in callbacks:
        with guard.guarded("spans.imports"):
            callback(module)


def _withdraw() -> None:
    if _finder in sys.meta_path:
        sys.meta_path.remove(_finder)
