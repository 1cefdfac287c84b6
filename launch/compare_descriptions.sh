#!/usr/bin/env bash
# What descriptions are worth: the main job on the Demo corpus twice, alike but for --use_descriptions.
source "$(dirname "$0")/install.sh"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(( CORES / PROCESSES ))}
uni-sign demo-data
for KIND in with without; do
    FUSION=--use_descriptions; [ "$KIND" = with ] || FUSION=--no-use_descriptions
    deepspeed --num_gpus "$PROCESSES" fine_tuning.py --config configs/demo.yaml "$FUSION" \
        --batch_size $(( 16 / PROCESSES )) --output_dir "out/${KIND}_descriptions" --resume auto "$@"
done
python - <<'PYTHON'
import json
fused, poses = (json.load(open(f"out/{kind}_descriptions/results.json")) for kind in ("with", "without"))
for split in ("dev", "test"):
    a, b, clips = fused[f"{split}/bleu4"], poses[f"{split}/bleu4"], fused[f"{split}/n"]
    print(f"BLEU-4 {split} ({clips:.0f} clips): with descriptions {a:.2f}, without {b:.2f}, difference {a - b:+.2f}")
PYTHON
