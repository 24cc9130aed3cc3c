#!/usr/bin/env bash
# Everything that waits for a GPU, in one run of at most 560 s: one H100 or H200, Python 3.12 with PyTorch and
# transformers, no network.
#
#   bash scripts/bench/gpu.sh --fetch-wheels    # before, where there is a network: fills wheels/, to be carried along
#   bash scripts/bench/gpu.sh --rehearse        # before, on a CPU: every part, made small
#   OUT=results bash scripts/bench/gpu.sh       # there; rows in $OUT/results.jsonl, the table in $OUT/table.md
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exec "${PYTHON:-python3}" "$here/gpu" "$@"
