#!/usr/bin/env bash
# The main job on several machines: start it on each, with NODE_RANK 0, 1, ... and the address of machine 0.
# NODES=2 NODE_RANK=0 MAIN_ADDRESS=10.0.0.1 GPUS=8 bash launch/multi_node.sh --dataset CSL_Daily --use_descriptions
: "${NODES:?how many machines}" "${NODE_RANK:?which one this is, from 0}" "${MAIN_ADDRESS:?address of machine 0}"
# A machine that takes its own loopback for machine 0 would wait forever; machine 0 may know its own name so.
ADDRESS=$(getent ahosts "$MAIN_ADDRESS" | head -n 1 | cut -d ' ' -f 1 || true)
if [ -z "$ADDRESS" ] || { [ "$NODE_RANK" != 0 ] && [[ "$ADDRESS" =~ ^(127\.|::1$) ]]; }; then
    echo "MAIN_ADDRESS $MAIN_ADDRESS is ${ADDRESS:-unknown} on machine $NODE_RANK: give the address of machine 0." >&2
    exit 2
fi
source "$(dirname "$0")/install.sh"
GPUS=${GPUS:-$(python -c 'import torch; print(max(1, torch.cuda.device_count()))')}
# Slurm's warning is for the training processes, which heed it; it would end the launcher before they have saved.
trap '' USR1
# They talk over the interface that routes to MAIN_ADDRESS; GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME name another.
accelerate launch --use_deepspeed --deepspeed_config_file configs/ds_zero2.json \
    --deepspeed_multinode_launcher standard --num_machines "$NODES" --machine_rank "$NODE_RANK" \
    --num_processes $(( NODES * GPUS )) --main_process_ip "$MAIN_ADDRESS" --main_process_port "${MAIN_PORT:-29500}" \
    fine_tuning.py "$@"
