#!/usr/bin/env bash
# Speech to a talking face: motion autoencoder, rectified flow, videos of the held-out clips. A second run goes on.
# All flags are those of `uni-sign train rectified_flow`, of a --config too; without a data_root it is the embedded demo
# set, and there without --config, or anywhere with --config small, a small model. What it does first, training the
# autoencoder, takes data_root, cache_dir and force_preprocess from these flags.
source "$(dirname "$0")/install.sh"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(( CORES / PROCESSES ))}
flag() {  # the value of a flag among the words that follow its name, however it is spelled
    local name=$1 word next= found=
    for word in "${@:2}"; do
        if [ -n "$next" ]; then found=$word; next=; continue; fi
        local flag=${word%%=*}
        if [ "${flag//-/_}" = "__$name" ]; then
            if [[ "$word" = *=* ]]; then found=${word#*=}; else next=1; fi
        fi
    done
    echo "$found"
}
CONFIG=$(flag config "$@"); CONFIG=${CONFIG:-$(flag config_file "$@")}
value() {  # of a flag, or else of the file of --config
    local given; given=$(flag "$@")
    if [ -z "$given" ] && [ -n "$CONFIG" ] && [ "$CONFIG" != small ]; then
        given=$(python - "$1" "$CONFIG" <<'EOF'
import sys
from pathlib import Path
from uni_sign.config import find_config, section_of
from uni_sign.errors import InputError
from uni_sign.yaml_files import read_mapping
name = sys.argv[1]
try:
    path = find_config(Path(sys.argv[2]), "rectified_flow")
    flags = section_of(read_mapping(path), "rectified_flow", str(path))
except InputError as error:
    sys.exit(f"uni-sign: error: {error}")
print({word.replace("-", "_"): value for word, value in flags.items()}.get(name, ""))
EOF
) || exit 2
    fi
    echo "$given"
}
OUT=$(value output_dir "$@"); OUT=${OUT:-out/rectified_flow}
AUTOENCODER=$(value autoencoder_path "$@")
DATA=$(value data_root "$@"); FACES=(); SPEECH=()
if [ -z "$DATA" ] || [ "$CONFIG" = small ]; then
    uni-sign demo-data --talking_faces  # the faces, and the speech model that small flows hear with
fi
if [ "$CONFIG" = small ] || [ -z "$DATA" ]; then FACES=(--config small --batch_size $(( 8 / PROCESSES ))); fi
if [ "$CONFIG" = small ] || [ -z "$DATA$CONFIG" ]; then SPEECH=(--config small --batch_size $(( 16 / PROCESSES ))); fi
for name in data_root cache_dir; do
    GIVEN=$(value "$name" "$@")
    [ -z "$GIVEN" ] || FACES+=("--$name" "$GIVEN")
done
if [[ " ${*//-/_} " = *" __force_preprocess "* ]] || [ "$(value force_preprocess)" = True ]; then
    FACES+=(--force_preprocess)
fi
train() { deepspeed --num_gpus "$PROCESSES" --module uni_sign train "$@"; }
if [ -z "$AUTOENCODER" ]; then
    AUTOENCODER=$OUT/motion_autoencoder/best_checkpoint.pth
    # Who asks what there is waits for no training.
    if [[ " $* " != *" --check"[_-]"status "* ]]; then
        train motion_autoencoder "${FACES[@]}" --output_dir "$OUT/motion_autoencoder" --resume auto
    fi
fi
train rectified_flow "${SPEECH[@]}" --resume auto "$@" --autoencoder_path "$AUTOENCODER" --output_dir "$OUT"
if [ -e "$OUT/best_checkpoint.pth" ]; then
    uni-sign infer rectified_flow --checkpoint "$OUT/best_checkpoint.pth" --split test --output_dir "$OUT/videos"
fi
