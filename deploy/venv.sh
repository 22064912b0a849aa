#!/usr/bin/env bash
# deploy/venv.sh X.Y EXTRAS: an environment .venv/X.Y for CPython X.Y with this tree installed in it, editable.
#
# The C extension lands beside the package in agent/glassbottom, one file per version of Python. What is missing on the
# machine is said with the command that installs it; nothing is skipped. CFLAGS are passed on to the compiler.
set -euo pipefail
cd "$(dirname "$0")/.."
version=$1 extras=$2

fail() { printf 'deploy/venv.sh: %s\n' "$*" >&2; exit 1; }

python=$(.ci/interpreters | sed -n "s/^$version //p")
[ -n "$python" ] || fail "CPython $version is not on this machine. Install it with
    apt-get install python$version python$version-dev python$version-venv
  or
    pyenv install $version
  or run 'make test' alone: it tests on every version that is present ($(.ci/interpreters | cut -d' ' -f1 | xargs))."
command -v "${CC:-cc}" >/dev/null || fail "no C compiler. Install one with: apt-get install gcc libc6-dev"
include=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')
[ -f "$include/Python.h" ] || fail "no headers for $python. Install them with: apt-get install python$version-dev"
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
  fail "$python cannot make environments. Let it with: apt-get install python$version-venv"

venv=.venv/$version
[ -x "$venv/bin/pip" ] || "$python" -m venv "$venv"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore
printf 'installing glassbottom[%s] for CPython %s into %s\n' "$extras" "$version" "$venv" >&2
# -qq leaves errors only; without isolation setuptools is fetched once; bytecode is made for what is imported, not for all.
"$venv/bin/pip" install -qq --no-compile 'setuptools>=77'
"$venv/bin/pip" install -qq --no-compile --no-build-isolation -e ".[$extras]"
