"""A trained model of the keypoint pipeline over its data, as `uni-sign infer` runs it."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from uni_sign.commands.checkpoints import CheckpointConfig, checkpoint_flag, stage_of
from uni_sign.config import at_least, flag
from uni_sign.data.signs import Key
from uni_sign.errors import InputError
from uni_sign.stages.base import Batch, to_device


@dataclass(frozen=True)
class RunConfig:
    """The flags of running a trained model."""

    output_dir: Path = flag(Path("inference"), "folder of the results")
    batch_size: int = flag(16, "clips per batch", check=at_least(1))
    num_workers: int = flag(0, "data-loading processes", check=at_least(0))
    dtype: Literal["bf16", "fp16", "fp32"] = flag("fp32", "precision of the computation")


def checkpoint_of(argv: Sequence[str], default: str) -> tuple[Path, list[str]]:
    """The file of ``--checkpoint``, and the flags with it in any case; ``default`` may be empty: it must be given."""
    given = any(word == "--checkpoint" or word.startswith("--checkpoint=") for word in argv)
    words = [*argv] if given or not default else [*argv, "--checkpoint", default]
    return checkpoint_flag(words), words


def trained_stage(name: str, argv: Sequence[str], default: str, config: type, program: str) -> tuple[Any, Any]:
    """The stage of a best file, its ``--finetune`` being that file, and the parsed ``config``."""
    path, words = checkpoint_of(argv, default)
    # How inference runs is its own: nothing of it comes from training.
    own = {field: getattr(config(), field) for field in ("batch_size", "num_workers", "dtype")}
    stage_type, (_, parsed, stage_config) = stage_of(
        path, words, CheckpointConfig, config, program=program, defaults=own
    )
    if stage_type.name != name:
        raise InputError(f"{path} is of the stage {stage_type.name}: use `uni-sign infer {stage_type.name}`.")
    return stage_type(stage_config, 0), parsed


def loaded_model(stage: Any) -> Any:
    """The model of a stage, in evaluation, where it runs fastest."""
    return stage.build_model().to(_device()).eval()


def predicted(stage: Any, model: Any, dataset: Any, config: RunConfig) -> list[dict[str, Any]]:
    """The rows that the stage predicts of all items."""
    keys = [Key(0, index) for index in range(len(dataset))]
    batches = [keys[i : i + config.batch_size] for i in range(0, len(keys), config.batch_size)]
    loader = DataLoader(dataset, batch_sampler=batches, collate_fn=stage.collate, num_workers=config.num_workers)
    rows: list[dict[str, Any]] = []
    for batch in on_device(tqdm(loader, desc=stage.name, unit="batch")):
        with precision(config.dtype), torch.no_grad():
            rows += stage.predict(model, batch)
    return rows


def on_device(batches: Any) -> Iterator[Batch]:
    """Batches where the model is."""
    for batch in batches:
        yield to_device(batch, _device())


def precision(dtype: str) -> AbstractContextManager[Any]:
    """That of ``--dtype``."""
    if dtype == "fp32":
        return nullcontext()
    return torch.autocast(_device().type, torch.bfloat16 if dtype == "bf16" else torch.float16)


def made_folder(path: Path) -> Path:
    """The folder of the results; raises InputError where it cannot be made."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output_dir {path} cannot be written: {error.strerror}.") from error
    return path


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
