#!/usr/bin/env bash
# Generates agent/glassbottom/wire/v1 and collector/glassbottom_collector/pprof/v1 from proto/ with the oldest tools we
# support (protobuf refuses the reverse). With a directory as argument, both trees are written below it instead.
set -euo pipefail
cd "$(dirname "$0")/.."
agent=${1:-agent}
collector=${1:-collector}
tools=.venv/proto
if [ ! -x "$tools/bin/protoc-gen-mypy" ]; then
  "$(.ci/interpreters | head -n 1 | cut -d' ' -f2)" -m venv "$tools"
  "$tools/bin/pip" install -qq --disable-pip-version-check -r proto/requirements.txt
fi
run() { PATH="$PWD/$tools/bin:$PATH" "$tools/bin/python" -m grpc_tools.protoc --proto_path=proto "$@" 2>/dev/null; }
run --python_out="$agent" --mypy_out="$agent" proto/glassbottom/wire/v1/*.proto
run --grpc_python_out="$agent" --mypy_grpc_out="$agent" $(grep -l '^service ' proto/glassbottom/wire/v1/*.proto)
run --python_out="$collector" --mypy_out="$collector" proto/glassbottom_collector/pprof/v1/*.proto
