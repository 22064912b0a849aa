#!/usr/bin/env bash
# Generates agent/glassbottom/wire/v1 from proto/ with the oldest tools we support (protobuf refuses the reverse).
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-agent}
tools=.venv/proto
if [ ! -x "$tools/bin/protoc-gen-mypy" ]; then
  "$(.ci/interpreters | head -n 1 | cut -d' ' -f2)" -m venv "$tools"
  "$tools/bin/pip" install -q -r proto/requirements.txt
fi
run() { PATH="$PWD/$tools/bin:$PATH" "$tools/bin/python" -m grpc_tools.protoc --proto_path=proto "$@" 2>/dev/null; }
run --python_out="$out" --mypy_out="$out" proto/glassbottom/wire/v1/*.proto
run --grpc_python_out="$out" --mypy_grpc_out="$out" $(grep -l '^service ' proto/glassbottom/wire/v1/*.proto)
