"""`uni-sign infer`: pose files in, text out, one JSON line a clip."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TextIO

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from tqdm import tqdm

from uni_sign.commands.checkpoints import CheckpointConfig, checkpoint_flag, stage_of
from uni_sign.config import at_least, flag
from uni_sign.data.signs import Key
from uni_sign.errors import InputError
from uni_sign.stages.base import to_device


@dataclass(frozen=True)
class InferConfig:
    """The flags of inference."""

    poses: Path = flag(Path("."), "a pose file, or a folder of them")
    descriptions: str = flag("", "folder of <clip>.json description files")
    videos: str = flag("", "folder of <clip>.mp4 files, for a model with hand crops")
    language: str = flag("", "language to write; default: the corpus's")
    output: str = flag("", "file for the JSON lines; default: standard output")
    batch_size: int = flag(16, "clips per batch", check=at_least(1))
    num_workers: int = flag(0, "data-loading processes", check=at_least(0))
    dtype: Literal["bf16", "fp16", "fp32"] = flag("fp32", "precision of the computation; default: the training run's")


def infer(argv: Sequence[str]) -> int:
    """Run the command; status 0, or 2 where no clip could be read."""
    path = checkpoint_flag(argv)
    stage_type, (_, config, stage_config) = stage_of(
        path, argv, CheckpointConfig, InferConfig, program="uni-sign infer"
    )
    stage = stage_type(stage_config, 0)
    done = 0
    rows = _rows(stage, config)
    first = next(rows)  # everything that can be wrong is known before an older output is overwritten
    with ExitStack() as stack:
        out = stack.enter_context(_open(config.output)) if config.output else sys.stdout
        for row in chain([first], rows):
            done += _write(out, row)
    if done == 0:
        raise InputError(f"No clip at {config.poses} could be read.")
    return 0


def _open(path: str) -> TextIO:
    try:
        return open(path, "w", encoding="utf-8")
    except OSError as error:
        raise InputError(f"--output {path} cannot be written: {error.strerror}.") from error


def _rows(stage: Any, config: InferConfig) -> Iterator[dict[str, Any]]:
    descriptions = Path(config.descriptions) if config.descriptions else None
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    videos = Path(config.videos) if config.videos else None
    dataset = stage.files_dataset(config.poses, descriptions, videos, config.language, accelerator)
    model = stage.build_model().to(accelerator.device).eval()
    keys = [Key(0, index) for index in range(len(dataset))]
    batches = [keys[i : i + config.batch_size] for i in range(0, len(keys), config.batch_size)]
    loader = DataLoader(dataset, batch_sampler=batches, collate_fn=stage.collate(), num_workers=config.num_workers)
    precision: AbstractContextManager[Any] = nullcontext()
    if config.dtype != "fp32":
        kind = torch.bfloat16 if config.dtype == "bf16" else torch.float16
        precision = torch.autocast(accelerator.device.type, kind)
    with stage.generation(model):
        for batch in tqdm(loader, desc="translating", unit="batch", disable=not config.output):
            for problem in batch["problems"]:
                yield {"error": problem}
            with precision:
                rows = stage.predict(model, to_device(batch, accelerator.device))
            yield from rows


def _write(out: TextIO, row: dict[str, Any]) -> int:
    """One line; counts those that are translations."""
    if "error" in row:
        print(f"left out: {row['error']}", file=sys.stderr)
        return 0
    out.write(json.dumps({"name": row["name"], "prediction": row["prediction"]}, ensure_ascii=False) + "\n")
    out.flush()
    return 1
