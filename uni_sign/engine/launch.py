"""One Accelerator for `deepspeed`, `accelerate launch`, `torchrun` and plain `python`, with the same flags."""

import dataclasses
import importlib.util
import ipaddress
import json
import os
import socket
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate import Accelerator, DeepSpeedPlugin
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, gather_object
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from uni_sign.config import TrainConfig
from uni_sign.engine.compiling import check_compiler
from uni_sign.engine.process_end import keep_group
from uni_sign.errors import InputError

_CONFIGS = Path(__file__).resolve().parents[2] / "configs"
# Processes start apart: importing on a busy machine takes its time.
_LEAST_TIMEOUT = 60.0
_PRECISION = {"bf16": "bf16", "fp16": "fp16", "fp32": "no"}


def process_count() -> int:
    """How many processes the launcher started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def with_accumulation(config: TrainConfig, processes: int) -> TrainConfig:
    """``config`` with the accumulation that makes --global_batch_size of the micro-batches of all processes."""
    if not config.global_batch_size:
        return config
    at_once = config.batch_size * processes
    steps, rest = divmod(config.global_batch_size, at_once)
    if rest or not steps:
        raise InputError(
            f"--global_batch_size {config.global_batch_size} is no multiple of {at_once} = --batch_size "
            f"{config.batch_size} x {processes} processes: change one of them."
        )
    return dataclasses.replace(config, gradient_accumulation_steps=steps, global_batch_size=0)


def check_launch(config: TrainConfig) -> None:
    """Raise InputError where flags and launcher contradict each other, before any process group starts."""
    accumulation = os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "")
    if accumulation.isdigit() and int(accumulation) not in (1, config.gradient_accumulation_steps):
        raise InputError(
            f"The launcher asks for {accumulation} accumulation steps and --gradient_accumulation_steps for "
            f"{config.gradient_accumulation_steps}: give one number."
        )
    if config.compile:
        check_compiler()
    if config.dtype == "fp16" and not torch.cuda.is_available():
        raise InputError("--dtype fp16 needs a GPU: use --dtype fp32 or bf16 here.")
    if config.opt == "adamw8bit" and not torch.cuda.is_available():
        raise InputError("--opt adamw8bit needs a GPU: use --opt adamw here.")
    if config.opt == "adamw8bit" and importlib.util.find_spec("bitsandbytes") is None:
        raise InputError("--opt adamw8bit needs bitsandbytes: pip install '.[cuda]' here, or use --opt adamw.")
    if config.dtype == "bf16" and torch.cuda.is_available() and not torch.cuda.is_bf16_supported():
        raise InputError("--dtype bf16 is not supported by this GPU: use --dtype fp16 or fp32.")


def make_accelerator(config: TrainConfig) -> Accelerator:
    """The run's Accelerator; flags decide, whatever the launcher's own configuration says of ZeRO or precision."""
    # Wrappers of torch still call each other by their older names, once a step.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed|accelerate")
    _fill_rendezvous()
    choose_interface()
    _take_over_from_launcher()
    cuda = torch.cuda.is_available()
    if config.deterministic:
        # Read when CUDA's matrix library starts.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    timeout = timedelta(seconds=max(_LEAST_TIMEOUT, config.ddp_timeout))
    common: dict[str, Any] = {
        "gradient_accumulation_steps": config.gradient_accumulation_steps,
        "mixed_precision": _PRECISION[config.dtype],
        "kwargs_handlers": [InitProcessGroupKwargs(backend="nccl" if cuda else "gloo", timeout=timeout)],
    }
    if config.zero_stage == 0:
        # Statistics are synchronised inside the model, so buffers need no broadcast of their own.
        common["kwargs_handlers"].append(DistributedDataParallelKwargs(broadcast_buffers=False))
        return Accelerator(cpu=not cuda, **common)
    if not cuda:
        # Saves a compilation of one to three minutes that needs a C++ compiler; gloo does the same work.
        import deepspeed.ops

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    plugin = DeepSpeedPlugin(
        hf_ds_config=deepspeed_config(config, cuda),
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        gradient_clipping=config.gradient_clipping,
    )
    accelerator = Accelerator(deepspeed_plugin=plugin, **common)
    # A ZeRO-3 plugin makes transformers build its models shared out over the ranks, and only its own: the stage's
    # model is built whole, on every launcher and ZeRO stage alike, and shared out when it is prepared.
    unset_hf_deepspeed_config()
    return accelerator


def deepspeed_config(config: TrainConfig, cuda: bool) -> dict[str, Any]:
    """The DeepSpeed configuration of the flags: configs/ds_zero*.json with the stage and offload set."""
    name = "ds_zero3" if config.zero_stage == 3 else "ds_zero2_offload" if config.offload else "ds_zero2"
    path = _CONFIGS / f"{name}.json"
    settings: dict[str, Any] = json.loads(path.read_text())
    zero = settings["zero_optimization"]
    zero["stage"] = config.zero_stage
    zero["overlap_comm"] = cuda
    if config.offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": cuda and config.pin_mem}
    settings["train_micro_batch_size_per_gpu"] = config.batch_size
    settings["gradient_accumulation_steps"] = config.gradient_accumulation_steps
    settings["gradient_clipping"] = config.gradient_clipping
    settings["bf16"]["enabled"] = config.dtype == "bf16"
    settings["fp16"]["enabled"] = config.dtype == "fp16"
    return settings


def leave_group() -> None:
    """End the communication of a run; its group is kept until the process ends.

    Gloo's threads are joined where the last reference to a group goes. Were that a wrapped model's, it would be with
    the interpreter locked, while such a thread may still want the interpreter to free a tensor that was gathered last:
    both would wait for ever, with all done.
    """
    if torch.distributed.is_initialized():
        keep_group(torch.distributed.group.WORLD)
        torch.distributed.destroy_process_group()


def _fill_rendezvous() -> None:
    """Plain `python` sets no rendezvous variables, and DeepSpeed would then look for MPI."""
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))


def _local_process_count() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or process_count())


def machine_count() -> int:
    """Collective: machines of the run; 1 where they have unlike numbers of processes."""
    local = set(gather_object([_local_process_count()]))
    return process_count() // local.pop() if len(local) == 1 else 1


def choose_interface() -> None:
    """Let several machines talk over the interface that reaches MASTER_ADDR, where the user names none.

    gloo would take the one that the host name resolves to, often the loopback, and the machines would wait forever.
    """
    local = _local_process_count()
    if local >= process_count():
        return
    chosen = os.environ.get("GLOO_SOCKET_IFNAME")
    if chosen:
        wrong = [name for name in chosen.split(",") if name not in network_interfaces()]
        if wrong:
            raise InputError(
                f"GLOO_SOCKET_IFNAME names {wrong[0]}, which leads to no other machine: "
                f"name one that does ({_listed(network_interfaces())})."
            )
        return
    first = int(os.environ["RANK"]) < local
    name = interface_to(os.environ["MASTER_ADDR"], first, network_interfaces())
    os.environ["GLOO_SOCKET_IFNAME"] = name
    os.environ.setdefault("NCCL_SOCKET_IFNAME", name)


def network_interfaces() -> dict[str, list[str]]:
    """Addresses of each interface that is up and leads out of this machine."""
    up = {name for name, stats in psutil.net_if_stats().items() if stats.isup}
    found: dict[str, list[str]] = {}
    for name, entries in psutil.net_if_addrs().items():
        texts = [entry.address for entry in entries if entry.family in (socket.AF_INET, socket.AF_INET6)]
        outward = [text for text in texts if not ipaddress.ip_address(text).is_loopback]
        if name in up and outward:
            found[name] = outward
    return found


def interface_to(address: str, first: bool, interfaces: dict[str, list[str]]) -> str:
    """The interface that routes to the first machine's ``address``; ``first``: this is that machine."""
    try:
        family, kind, _, _, target = socket.getaddrinfo(address, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(target)  # sends nothing: the kernel only looks up the route
            source = probe.getsockname()[0]
    except OSError as error:
        raise InputError(f"MASTER_ADDR {address} is not reached from this machine ({error}): give another.") from error
    for name, addresses in interfaces.items():
        if source in addresses:
            return name
    # The first machine's own name often means its loopback: one way out leaves no choice.
    if first and len(interfaces) == 1:
        return next(iter(interfaces))
    remedy = (
        f"set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME to the interface that they reach ({_listed(interfaces)})"
        if first
        else "give the first machine's address"
    )
    raise InputError(f"MASTER_ADDR {address} means {source} here, which no other machine reaches: {remedy}.")


def _listed(interfaces: dict[str, list[str]]) -> str:
    return ", ".join(f"{name} at {addresses[0]}" for name, addresses in interfaces.items()) or "none is up"


def _take_over_from_launcher() -> None:
    """Drop what `accelerate launch` says of DeepSpeed and precision: the flags say it."""
    for name in list(os.environ):
        if name.startswith("ACCELERATE_DEEPSPEED_") or name in (
            "ACCELERATE_USE_DEEPSPEED",
            "ACCELERATE_CONFIG_DS_FIELDS",
            "ACCELERATE_MIXED_PRECISION",
            "ACCELERATE_GRADIENT_ACCUMULATION_STEPS",
            "ACCELERATE_USE_FSDP",
        ):
            del os.environ[name]
