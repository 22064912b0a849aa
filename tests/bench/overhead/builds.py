"""The interpreters that are measured, and what is installed into them: pinned peers and glassbottom from this checkout.

A plain build and an optimised one (PGO and LTO), because the answer differs: an optimised interpreter inlines pymalloc
behind a pointer check that any allocation hook defeats. Environments live in .venv/bench-* and are reused while their
inputs stay the same; nothing here measures anything.
"""

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
PEER_REQUIREMENTS = {"ddtrace": "ddtrace", "memray": "memray", "pyroscope": "pyroscope-io"}
PACKAGED = ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in", "setup.py", "agent", "collector", "proto")


class BenchError(Exception):
    """Why the benchmark cannot run, in one sentence, with what to do."""


@dataclasses.dataclass(frozen=True)
class Build:
    """An interpreter to measure on. unavailable: peer name -> why it could not be installed."""

    name: str  # "plain" or "optimised"
    python: Path
    description: str
    unavailable: dict[str, str]

    @property
    def suffix(self) -> str:
        """What the workload's name gets in the result: "w1", "w1-optimised"."""
        return "" if self.name == "plain" else f"-{self.name}"


DESCRIBE = """
import os, platform, sys, sysconfig
flags = " ".join(str(sysconfig.get_config_var(v)) for v in ("CONFIG_ARGS", "PY_CFLAGS", "PY_CORE_CFLAGS"))
try:
    packaged_by = platform.freedesktop_os_release()["ID"] if sys.base_prefix == "/usr" else ""
except OSError:
    packaged_by = ""
if packaged_by in ("debian", "ubuntu"):
    # Their sysconfig describes the shared library's build; the rules of the package build the program with PGO and LTO.
    optimised, how = True, f"{packaged_by}'s package (PGO, LTO)"
else:
    optimised = "--enable-optimizations" in flags or "-fprofile-use" in flags
    how = ("PGO" if optimised else "no PGO") + (", LTO" if "lto" in flags else ", no LTO")
print("optimised" if optimised else "plain")
print(f"CPython {platform.python_version()}, {platform.python_compiler()}, {how}")
"""


def base_interpreter(name: str) -> str:
    """Path of the interpreter of a build: from the environment, else where it usually is. Raises BenchError."""
    variable = f"GLASSBOTTOM_BENCH_{name.upper()}"
    usual = {
        "plain": [*sorted(map(str, Path.home().glob(".pyenv/versions/3.12.*/bin/python"))), "python3.12"],
        "optimised": ["/usr/bin/python3"],
    }[name]
    candidates = [os.environ[variable]] if variable in os.environ else usual
    for candidate in candidates:
        found = shutil.which(candidate)
        if found is not None and describe(found)[0] == name:
            return found
    raise BenchError(f"No {name} Python build among {', '.join(candidates)}: set {variable} to the path of one.")


def describe(python: str | Path) -> tuple[str, str]:
    """("plain" or "optimised", one line about the build)."""
    lines = subprocess.run([python, "-c", DESCRIBE], check=True, capture_output=True, text=True).stdout.splitlines()
    return lines[0], lines[1]


def prepare(name: str, *, directory: Path | None = None) -> Build:
    """Makes the environment of a build, or brings it up to date. Raises BenchError when that cannot be done."""
    base = base_interpreter(name)
    home = directory or ROOT / ".venv" / ("bench-3.12" if name == "plain" else f"bench-{name}")
    python = home / "bin" / "python"
    if not python.exists():
        run([base, "-m", "venv", str(home)], f"cannot create {home} (Debian: apt-get install -y python3-venv)")
    stamp = home / "bench-stamp.json"
    known = json.loads(stamp.read_text()) if stamp.exists() else {}
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    if known.get("requirements") != wanted:
        known = {"requirements": wanted, "unavailable": install_requirements(python)}
        stamp.write_text(json.dumps(known))
    sources = digest_of_checkout()
    if known.get("glassbottom") != sources:
        install_checkout(python)
        stamp.write_text(json.dumps({**known, "glassbottom": sources}))
    return Build(name, python, describe(python)[1], known["unavailable"])


def install_requirements(python: Path) -> dict[str, str]:
    """Installs what is pinned; returns the peers that have no wheel for this interpreter, with pip's reason."""
    lines = [line for line in REQUIREMENTS.read_text().splitlines() if line and not line.startswith("#")]
    pins = {line.partition("==")[0]: line for line in lines}
    peers = {peer: pins.pop(package) for peer, package in PEER_REQUIREMENTS.items()}
    pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "--only-binary", ":all:"]
    run([*pip, *pins.values()], "cannot install what the benchmark needs")
    unavailable = {}
    for peer, pin in peers.items():
        attempt = subprocess.run([*pip, pin], capture_output=True, text=True)
        if attempt.returncode:
            errors = [line for line in attempt.stderr.splitlines() if line.startswith("ERROR")]
            unavailable[peer] = f"{pin} cannot be installed: {errors[-1] if errors else 'pip failed'}"
    return unavailable


def checkout_files() -> list[Path]:
    found = []
    for name in PACKAGED:
        path = ROOT / name
        members = sorted(path.rglob("*")) if path.is_dir() else [path] if path.exists() else []
        found += [m for m in members if m.is_file() and m.suffix not in {".so", ".pyc"} and ".egg-info" not in str(m)]
    return found


def digest_of_checkout() -> str:
    digest = hashlib.sha256()
    for path in checkout_files():
        digest.update(f"{path.relative_to(ROOT)}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def install_checkout(python: Path) -> None:
    """Builds and installs glassbottom from a copy, so that the checkout gets no build leftovers."""
    with tempfile.TemporaryDirectory(prefix="glassbottom-bench-") as scratch:
        copy = Path(scratch)
        for path in checkout_files():
            target = copy / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        run(
            [*pip, "--no-build-isolation", "--no-deps", "--force-reinstall", str(copy)],
            "cannot build glassbottom from this checkout (needs a C compiler and the headers of this interpreter)",
        )
    check = subprocess.run([python, "-m", "pip", "check"], capture_output=True, text=True)
    if missing := [line for line in check.stdout.splitlines() if line.startswith("glassbottom ")]:
        raise BenchError(f"{missing[0]} Pin it in {REQUIREMENTS.relative_to(ROOT)}.")


def compile_floor(python: Path, directory: Path) -> Path:
    """Compiles floor.c for an interpreter into the directory; the path of the extension."""
    ask = "import sysconfig; print(sysconfig.get_path('include'))"
    include = subprocess.run([python, "-c", ask], check=True, capture_output=True, text=True).stdout.strip()
    target = directory / f"_floor-{hashlib.sha256(str(python).encode()).hexdigest()[:8]}.so"
    source = Path(__file__).with_name("floor.c")
    command = [os.environ.get("CC", "cc"), "-std=c11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-shared", "-fPIC"]
    run([*command, f"-I{include}", "-o", str(target), str(source)], "cannot compile the call-through hooks")
    return target


def run(command: list[str], failure: str) -> None:
    """Runs a command that must succeed; its output is shown only when it does not. Raises BenchError."""
    try:
        attempt = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise BenchError(f"{failure}: {error}") from error
    if attempt.returncode:
        print(attempt.stdout, attempt.stderr, sep="\n", file=sys.stderr)
        raise BenchError(f"{failure}: `{' '.join(command)}` failed, see above.")
