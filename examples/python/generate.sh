#!/usr/bin/env bash
# Generates messages with their types, and the client of every service, into `gen`.
set -euo pipefail
cd "$(dirname "$0")"
rm -rf gen
mkdir gen
${PYTHON:-python3} -m grpc_tools.protoc --proto_path=../../proto \
  --python_out=gen --grpc_python_out=gen --mypy_out=gen --mypy_grpc_out=gen ../../proto/plexus/v1/*.proto
