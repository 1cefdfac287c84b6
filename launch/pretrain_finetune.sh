#!/usr/bin/env bash
# Pre-training on poses, pre-training with hand crops, fine-tuning, each from the best weights of the one before, on
# the embedded Demo corpus, each of a few minutes. A second run goes on where the first one stopped. Flags go to all
# three (--max_steps 0: whole epochs).
source "$(dirname "$0")/install.sh"
OUT=${OUT:-out/pretrain_finetune}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(( CORES / PROCESSES ))}
uni-sign demo-data --videos
train() {
    deepspeed --num_gpus "$PROCESSES" --module uni_sign train "$1" --config configs/demo.yaml \
        --batch_size $(( 8 / PROCESSES )) --output_dir "$OUT/$2" --resume auto "${@:3}"
}
train pre_training stage1 --epochs 1 --eval_epochs 1 "$@"
train pre_training stage2 --max_steps 40 --rgb_support \
    --finetune "$OUT/stage1/best_checkpoint.pth" "$@"
train fine_tuning fine_tuning --max_steps 40 --rgb_support --use_descriptions \
    --finetune "$OUT/stage2/best_checkpoint.pth" "$@"
uni-sign show "$OUT/fine_tuning"
