#!/bin/bash
# eegvlm finetune on several machines under Slurm, continuing by itself when its time is up.
#
#   sbatch scripts/slurm_finetune.sh finetune.yaml sleep_data/checkpoints/13b [further flags]
#
# The first argument is a file of flags (--config), the second the output folder, on a disk that all machines
# see; so must be this environment. DeepSpeed starts the ranks with pdsh, over ssh without a password.
#
#SBATCH --job-name=eegvlm
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --mem=0
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@600

set -euo pipefail
config=${1:?give a file of flags} out=${2:?give the output folder}
shift 2

# One line for each machine: what DeepSpeed calls slots are its GPUs.
hosts=$(mktemp -p "$SLURM_SUBMIT_DIR" ".hosts-$SLURM_JOB_ID-XXXXXX")
trap 'rm -f "$hosts"' EXIT
scontrol show hostnames "$SLURM_JOB_NODELIST" | sed "s/\$/ slots=$SLURM_GPUS_ON_NODE/" > "$hosts"

# --resume continues from the last whole checkpoint, and from the beginning where there is none.
eegvlm finetune --config "$config" --output-dir "$out" --hostfile "$hosts" --resume \
    --stop-patience 540 "$@" &
training=$!
# Ten minutes before the end Slurm sends SIGTERM here. Passed on, it makes eegvlm save a checkpoint.
trap 'kill -TERM "$training"' TERM
code=0
wait "$training" || code=$?
while kill -0 "$training" 2> /dev/null; do # the signal has ended the waiting, not the training
    code=0
    wait "$training" || code=$?
done

# Stopped with a checkpoint: queue again, and continue there. Without one it would queue for ever.
if [ "$code" -eq 143 ] && ls "$out"/checkpoint-*/whole.json > /dev/null 2>&1; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
