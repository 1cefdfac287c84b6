#!/usr/bin/env bash
# The main job on the embedded Demo corpus, from nothing to scored translations. A second run resumes or re-scores.
source "$(dirname "$0")/install.sh"
OUT=${OUT:-out/quickstart}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(( CORES / PROCESSES ))}
uni-sign demo-data
deepspeed --num_gpus "$PROCESSES" fine_tuning.py --config configs/demo.yaml --use_descriptions \
    --batch_size $(( 16 / PROCESSES )) --output_dir "$OUT" --resume auto "$@"
uni-sign show "$OUT"
