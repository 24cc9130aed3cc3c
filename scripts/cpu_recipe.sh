#!/usr/bin/env bash
# The chain of paper_recipe.sh made small: simulated nights and the embedded `tiny` model, on a CPU, offline, in minutes.
# Six nights are prepared, learnt from and reported on; the seventh is staged, which no training has seen.
set -euo pipefail

OUT="${OUT:-try}"                       # everything goes in here
STEPS="${STEPS:-150}"                   # of finetune
TRAIN_EPOCHS="${TRAIN_EPOCHS:-4}"       # passes of the vision module's training
DEEPSPEED="${DEEPSPEED:-zero2}"         # 'none' where there is no C++ compiler
JOBS="${JOBS:-2}"
SEED="${SEED:-42}"

# Where `make demo` has set everything up and nothing else is installed, that is what runs.
command -v eegvlm >/dev/null || PATH="$(dirname "$0")/../.venv/bin:$PATH"

# Seven simulated nights, as a lab would have them on its disk: recordings, and hypnograms beside them.
eegvlm demo --nights-only --out "$OUT/simulated" --seed "$SEED"
mkdir -p "$OUT/new"
mv "$OUT"/simulated/recordings/SC4061E0-PSG.edf "$OUT/new/"
mv "$OUT"/simulated/recordings/SC4061E*-Hypnogram.edf "$OUT/simulated/"  # nobody looks at it

eegvlm prepare "$OUT/simulated/recordings" --workspace "$OUT/data" --size 64 --eval-subjects SC405 \
  --jobs "$JOBS" --seed "$SEED"
eegvlm extract --workspace "$OUT/data" --train-epochs "$TRAIN_EPOCHS" --seed "$SEED"
eegvlm finetune --workspace "$OUT/data" --model-name-or-path tiny --output-dir "$OUT/model" \
  --lora-r 16 --lora-alpha 32 --learning-rate 2e-3 --max-steps "$STEPS" --deepspeed "$DEEPSPEED" --seed "$SEED"
eegvlm evaluate --workspace "$OUT/data" --model-path "$OUT/model" --mode score
eegvlm report --workspace "$OUT/data"

eegvlm stage "$OUT/new" --model-path "$OUT/model" --smooth --out "$OUT/staged"
