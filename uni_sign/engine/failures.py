"""What torch and the communication libraries raise, as one sentence that says what to do."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from uni_sign.config import TrainConfig
from uni_sign.errors import PeerLostError, RunError, is_out_of_memory

# gloo, NCCL and torch's store word it differently.
_PEER_SIGNS = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Timed out waiting",
    "Broken pipe",
    "Connection refused",
    "NCCL",
    "Socket Timeout",
    "wait timeout",
    "Application timeout",
)


@contextmanager
def named_failures(config: TrainConfig, plain: Mapping[str, Any], last_checkpoint: Path) -> Iterator[None]:
    """Turn a lost peer into PeerLostError and exhausted memory into RunError; ``plain``: all flags of the run."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = str(error)
        if is_out_of_memory(error):
            raise RunError(f"Out of memory{_first_line(text)}: {memory_advice(config, plain)}.") from error
        if any(sign in text for sign in _PEER_SIGNS):
            raise PeerLostError(
                f"another process of the run has ended or is out of reach{_first_line(text)}: see what it said, and go "
                f"on from {last_checkpoint} with --resume auto."
            ) from error
        raise


def _first_line(text: str) -> str:
    lines = text.strip().splitlines()
    return f" ({lines[0][:160].rstrip('. ')})" if lines else ""


def memory_advice(config: TrainConfig, plain: Mapping[str, Any]) -> str:
    """What this run could still change, the cheapest first."""
    options = []
    if config.frames_per_batch > 1:
        options.append(
            f"--frames_per_batch {config.frames_per_batch // 2} with --gradient_accumulation_steps "
            f"{config.gradient_accumulation_steps * 2} (as many frames a step)"
        )
    elif config.batch_size > 1:
        options.append(
            f"--batch_size {config.batch_size // 2} with --gradient_accumulation_steps "
            f"{config.gradient_accumulation_steps * 2} (the same gradient)"
        )
    if not config.gradient_checkpointing:
        options.append("--gradient_checkpointing")
    if torch.cuda.is_available() and not config.offload and config.zero_stage >= 2 and config.opt != "adamw8bit":
        options.append("--offload")
    if plain.get("use_descriptions") and not plain.get("text_encoder_freeze"):
        options.append("--text_encoder_freeze")
    options.append("a smaller --max_length")
    if config.zero_stage < 3:
        options.append(f"--zero_stage {config.zero_stage + 1} on several processes")
    return f"try {' or '.join(options)}"
