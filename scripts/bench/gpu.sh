#!/usr/bin/env bash
# Everything that waits for a GPU, in one run of at most 560 s: one H100 or H200, Python 3.12 with PyTorch and
# transformers, no network.
#
#   bash scripts/bench/gpu.sh --fetch-wheels    # before, where there is a network: fills wheels/, to be carried along
#   bash scripts/bench/gpu.sh --rehearse        # before, on a CPU: every part, made small
#   OUT=results bash scripts/bench/gpu.sh       # there; rows in $OUT/results.jsonl, the table in $OUT/table.md
#
# What found no time is run by itself: --only "tiny: prepare" "tiny: extract" "13B: base" "13B: zero2" asking
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PYTHONPATH="$here/../..${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python3}" "$here/gpu" "$@"
