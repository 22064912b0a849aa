"""What a user gets from `pip install`: complete, and light until it is asked to do something."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

# Enough to compile, to read, and to be told one's rights; the sources of the generated code as well.
IN_SDIST = {
    "LICENSE",
    "README.md",
    "pyproject.toml",
    "agent/glassbottom/_native.pyi",
    "agent/glassbottom/py.typed",
    "collector/glassbottom_collector/database/packs/postgresql.toml",
    "collector/glassbottom_collector/database/packs/sizes.sql",
    "collector/glassbottom_collector/storage/embedded/day.sql",
}
IN_WHEEL = {
    "glassbottom/__init__.py",
    "glassbottom/_native.pyi",
    "glassbottom/py.typed",
    "glassbottom/wire/v1/ingest_pb2.pyi",
    "glassbottom_collector/cli/__init__.py",
    "glassbottom_collector/demo/shop.py",
    "glassbottom_collector/pprof/v1/profile_pb2.py",
    "glassbottom_collector/database/packs/postgresql.toml",
    "glassbottom_collector/database/packs/sizes.sql",
    "glassbottom_collector/storage/embedded/day.sql",
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    """A directory with the source distribution, and the wheel that was built from it and nothing else."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(root)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_the_source_distribution_has_everything_it_takes_to_build(built: Path, root: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}

    native = ("agent/glassbottom/native", "collector/glassbottom_collector/native")
    c_files = {f"{folder}/{path.name}" for folder in native for path in (root / folder).glob("*.[ch]")}
    schemas = {str(path.relative_to(root)) for path in (root / "proto").rglob("*.proto")}
    assert c_files
    assert schemas
    assert (IN_SDIST | c_files | schemas) - names == set()


def test_the_wheel_has_code_types_and_data_and_nothing_of_the_tests(built: Path, root: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())

    data = {
        str(path.relative_to(source_root))
        for source_root in (root / "agent", root / "collector")
        for ending in ("py", "pyi", "sql", "html", "typed", "json", "yaml")
        for path in source_root.rglob(f"*.{ending}")
    }
    assert (IN_WHEEL | data) - names == set()
    assert any(name.startswith("glassbottom/_native.") and name.endswith(".so") for name in names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert [name for name in names if name.endswith((".c", ".h", ".proto"))] == []
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"glassbottom", "glassbottom_collector"}


def test_importing_the_agent_needs_nothing_but_itself(built: Path, tmp_path: Path) -> None:
    """In an environment without any dependency the import works, so it pulls in neither gRPC nor the collector."""
    (wheel,) = built.glob("*.whl")
    environment = tmp_path / "clean"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    python = environment / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "-qq", "--no-deps", "--no-index"]
    subprocess.run([*install, str(wheel)], check=True, stdin=subprocess.DEVNULL)

    program = (
        "import sys, glassbottom;"
        "print(sorted(m for m in ('grpc', 'h2', 'google', 'zstandard', 'glassbottom_collector') if m in sys.modules));"
        "print(sorted(m for m in sys.modules if m.startswith('glassbottom')), glassbottom.__file__)"
    )
    done = subprocess.run([python, "-I", "-c", program], capture_output=True, text=True, cwd=tmp_path, check=False)

    assert done.returncode == 0, done.stderr
    heavy, ours = done.stdout.splitlines()
    assert heavy == "[]"
    assert str(environment) in ours


def test_the_command_explains_which_extra_it_needs(built: Path, tmp_path: Path) -> None:
    """With the light install alone, a verb that needs more says what to install instead of a traceback."""
    (wheel,) = built.glob("*.whl")
    light = tmp_path / "light"
    install = [sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--no-index", "--target", str(light)]
    subprocess.run([*install, str(wheel)], check=True, stdin=subprocess.DEVNULL)
    for dependency in ("grpc", "google", "zstandard", "typing_extensions.py"):
        (light / dependency).symlink_to(Path(sysconfig.get_path("platlib")) / dependency)

    program = "import sys; from glassbottom_collector.cli import main; sys.exit(main(['collector']))"
    python = [sys.executable, "-S", "-c", program]
    done = subprocess.run(python, capture_output=True, text=True, env={"PYTHONPATH": str(light)}, check=False)

    assert done.returncode == 1
    assert "pip install 'glassbottom[collector]'" in done.stderr
    assert "Traceback" not in done.stderr
