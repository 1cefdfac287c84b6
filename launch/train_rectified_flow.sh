#!/usr/bin/env bash
# Speech to a talking face: motion autoencoder, rectified flow, videos of the held-out clips. A second run goes on.
# All flags are those of `uni-sign train rectified_flow`; without --data-root it is the embedded demo set, and without
# --config, or with --config small, a small model.
source "$(dirname "$0")/install.sh"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(( CORES / PROCESSES ))}
value() {  # of a flag among the words that follow its name, however it is spelled
    local name=$1 word next=
    for word in "${@:2}"; do
        if [ -n "$next" ]; then echo "$word"; return; fi
        local flag=${word%%=*}
        if [ "${flag//-/_}" = "__$name" ]; then
            if [[ "$word" = *=* ]]; then echo "${word#*=}"; return; fi
            next=1
        fi
    done
}
OUT=$(value output_dir "$@"); OUT=${OUT:-out/rectified_flow}
AUTOENCODER=$(value autoencoder_path "$@")
DATA=$(value data_root "$@"); FACES=(); SPEECH=()
if [ -z "$DATA" ] || [ "$(value config "$@")$(value config_file "$@")" = small ]; then
    uni-sign demo-data --talking_faces  # the faces, and the speech model that small flows hear with
    FACES=(--config small --batch_size $(( 8 / PROCESSES )))
    SPEECH=(--config small --batch_size $(( 16 / PROCESSES )))
fi
[ -z "$DATA" ] || FACES+=(--data_root "$DATA")
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
