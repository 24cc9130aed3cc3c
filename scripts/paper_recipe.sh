#!/usr/bin/env bash
# The paper's run (EEG-VLM, arXiv 2511.19155): Sleep-EDF and LLaVA-1.5-13B, from download to report, then a new night.
#
# Needs GPUs (`eegvlm finetune ... --dry-run` says how much memory), the folder of LLaVA-v1.5-13b, and a network for
# Sleep-EDF and CLIP. What is done already is not done again: after an interruption, start the script again.
# Everything that differs from lab to lab stands here and can be set in the environment:
set -euo pipefail

MODEL="${MODEL:-your_checkpoints_path/LLaVA-v1.5-13b}"           # or a llava-1.5-13b-hf
VISION_TOWER="${VISION_TOWER:-openai/clip-vit-large-patch14-336}"  # a folder or a name on the hub
WORKSPACE="${WORKSPACE:-sleep_data}"
RECORDINGS="${RECORDINGS:-sleep-edf}"                            # where Sleep-EDF is, or is fetched to
SUBJECTS="${SUBJECTS:-0-19}"                                     # Sleep-EDF-20; 0-82 for all of the cassette study
EVAL_FRACTION="${EVAL_FRACTION:-0.25}"                           # the paper does not say its split
CHANNEL="${CHANNEL:-EEG Fpz-Cz}"                                 # nor its channel
STYLE="${STYLE:-waveform}"                                       # nor how it draws; 'wrapped' shows spindles
BACKBONE="${BACKBONE:-resnet18}"                                 # the paper's; its second choice is convnext_base
OUTPUT_DIR="${OUTPUT_DIR:-$WORKSPACE/checkpoints/13b}"
BATCH_SIZE="${BATCH_SIZE:-16}"                                   # samples per GPU
REPORT_TO="${REPORT_TO:-none}"                                   # the paper's: wandb (pip install 'eegvlm[track]')
JOBS="${JOBS:-$(nproc)}"
SEED="${SEED:-42}"
NEW_NIGHT="${NEW_NIGHT:-}"                                       # a recording to stage in the end

# Step 2 of the recipe first: pictures, questions and the split, which the vision module needs, too.
eegvlm prepare "$RECORDINGS" --download sleep-edf --subjects "$SUBJECTS" --workspace "$WORKSPACE" \
  --channel "$CHANNEL" --style "$STYLE" --size 336 --eval-fraction "$EVAL_FRACTION" --jobs "$JOBS" --seed "$SEED"

# Step 1: the specialized vision module and its [N, 1, 1024] features.
eegvlm extract --workspace "$WORKSPACE" --backbone "$BACKBONE" --workers 8 --seed "$SEED"

# Step 3: LoRA on the 13B model under ZeRO-3, with the recipe's flags.
if [ ! -e "$OUTPUT_DIR/eegvlm.json" ]; then
  eegvlm finetune --workspace "$WORKSPACE" \
    --lora_enable True --lora_r 128 --lora_alpha 256 --mm_projector_lr 2e-5 \
    --deepspeed zero3 \
    --model_name_or_path "$MODEL" \
    --version v1 \
    --vision_tower "$VISION_TOWER" \
    --mm_projector_type mlp2x_gelu \
    --mm_vision_select_layer -2 \
    --mm_use_im_start_end False \
    --mm_use_im_patch_token False \
    --image_aspect_ratio pad \
    --group_by_modality_length True \
    --bf16 True \
    --output_dir "$OUTPUT_DIR" \
    --num_train_epochs 2 \
    --per_device_train_batch_size "$BATCH_SIZE" \
    --per_device_eval_batch_size 4 \
    --gradient_accumulation_steps 1 \
    --evaluation_strategy "no" \
    --save_strategy "steps" \
    --save_steps 200 \
    --save_total_limit 1 \
    --learning_rate 3e-4 \
    --weight_decay 0. \
    --warmup_ratio 0.03 \
    --lr_scheduler_type "cosine" \
    --logging_steps 1 \
    --tf32 True \
    --model_max_length 4096 \
    --gradient_checkpointing True \
    --dataloader_num_workers 1 \
    --lazy_preprocess True \
    --report_to "$REPORT_TO" \
    --seed "$SEED" --resume True
fi

# Step 4: every epoch of the evaluation subjects, in words; then the figures.
eegvlm evaluate --workspace "$WORKSPACE" --model-path "$OUTPUT_DIR" --seed "$SEED"
eegvlm report --workspace "$WORKSPACE"

# And what it is all for.
if [ -n "$NEW_NIGHT" ]; then
  eegvlm stage "$NEW_NIGHT" --model-path "$OUTPUT_DIR" --smooth --out "$WORKSPACE/staged"
fi
