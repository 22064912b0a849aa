"""Something is done after a module was imported, and the import is what it would have been."""

from __future__ import annotations

import importlib
import importlib.resources
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from glassbottom._guard import Guard
from glassbottom.spans import imports


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory to import from; what was imported from it is forgotten again."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]
    imports.forget_all()
    assert imports._finder not in sys.meta_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_callback_gets_the_module_after_its_last_line(modules: Path):
    write(modules / "late.py", "first = 1\nlast = 2\n")
    seen: list[int] = []
    imports.when_imported("late", Guard(), lambda module: seen.append(module.last))
    assert seen == []
    importlib.import_module("late")
    assert seen == [2]


def test_a_module_that_is_there_already_is_called_back_at_once(modules: Path):
    write(modules / "early.py", "")
    importlib.import_module("early")
    seen: list[ModuleType] = []
    imports.when_imported("early", Guard(), seen.append)
    assert seen == [sys.modules["early"]]
    assert imports._finder not in sys.meta_path


def test_the_finder_leaves_when_nothing_is_waited_for(modules: Path):
    write(modules / "late.py", "")
    imports.when_imported("late", Guard(), lambda _module: None)
    assert imports._finder in sys.meta_path
    importlib.import_module("late")
    assert imports._finder not in sys.meta_path


def test_the_module_and_its_loader_are_those_of_an_ordinary_import(modules: Path):
    write(modules / "package" / "__init__.py", "from . import inner\n")
    write(modules / "package" / "inner.py", "value = 1\n")
    write(modules / "package" / "data.txt", "text")
    write(modules / "twin.py", "")
    for name in ("package", "package.inner"):
        imports.when_imported(name, Guard(), lambda _module: None)
    package = importlib.import_module("package")
    assert package.inner.value == 1
    loader, plain = package.__spec__.loader, importlib.import_module("twin").__spec__.loader
    assert type(loader) is type(plain)
    assert type(package.__loader__).__name__ == "SourceFileLoader"
    assert "exec_module" not in vars(loader)
    assert importlib.resources.files("package").joinpath("data.txt").read_text() == "text"
    assert importlib.reload(package) is package


def test_a_module_out_of_a_zip_file_is_called_back(modules: Path, monkeypatch: pytest.MonkeyPatch):
    archive = modules / "library.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("zipped.py", "import beside\nvalue = 1\n")
        file.writestr("beside.py", "value = 2\n")
    monkeypatch.syspath_prepend(str(archive))
    seen: list[int] = []
    imports.when_imported("zipped", Guard(), lambda module: seen.append(module.value))
    importlib.import_module("zipped")
    assert seen == [1]


def test_an_import_that_fails_fails_as_it_would_and_is_waited_for_again(modules: Path):
    write(modules / "broken.py", "raise ValueError('first')\n")
    seen: list[ModuleType] = []
    imports.when_imported("broken", Guard(), seen.append)
    with pytest.raises(ValueError, match="first"):
        importlib.import_module("broken")
    assert seen == []
    write(modules / "broken.py", "whole = True\n")
    importlib.invalidate_caches()
    importlib.import_module("broken")
    assert len(seen) == 1


def test_a_callback_that_fails_keeps_nothing_from_being_imported(modules: Path):
    write(modules / "late.py", "value = 1\n")
    guard = Guard()
    imports.when_imported("late", guard, lambda _module: 1 / 0)
    assert importlib.import_module("late").value == 1
    assert guard.errors == 1


def test_a_module_that_does_not_exist_raises_as_always(modules: Path):
    imports.when_imported("absent", Guard(), lambda _module: None)
    with pytest.raises(ModuleNotFoundError, match="No module named 'absent'"):
        importlib.import_module("absent")


def test_two_threads_that_import_at_once_call_back_once(modules: Path):
    write(modules / "late.py", "import threading\nvalue = 1\n")
    seen: list[ModuleType] = []
    imports.when_imported("late", Guard(), seen.append)
    threads = [threading.Thread(target=importlib.import_module, args=("late",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 1
