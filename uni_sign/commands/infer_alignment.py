"""`uni-sign infer alignment`: clips in vectors to text, and its scores."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from uni_sign.commands._inference import RunConfig, loaded_model, made_folder, predicted, trained_stage
from uni_sign.config import flag


@dataclass(frozen=True)
class AlignmentInferConfig(RunConfig):
    """The flags of vectors to text."""

    output_dir: Path = flag(Path("."), "folder of generation_results.json")
    split: Literal["val", "train", "all"] = flag("val", "which clips: those held out, those that trained, or both")
    shuffle_representations: bool = flag(
        False, "give each clip the vectors of another one: what a model that does not look would score"
    )


def infer_alignment(name: str, argv: Sequence[str]) -> int:
    """Write `generation_results.json` and print its scores."""
    default = "checkpoints_alignment/best_model.pth"
    stage, config = trained_stage(name, argv, default, AlignmentInferConfig, "uni-sign infer alignment")
    stage.check()
    clips = np.arange(len(stage.texts)) if config.split == "all" else stage.splits[config.split].chosen
    if config.shuffle_representations:
        stage.representations = _shuffled(stage.representations, clips)
    stage.splits = {"val": replace(stage.splits["val"], representations=stage.representations, chosen=clips)}
    rows = predicted(stage, loaded_model(stage), stage.splits["val"], config)
    result = stage.scored(rows)
    path = made_folder(config.output_dir) / "generation_results.json"
    content = [
        {"sample_id": row["name"], "generated_text": row["prediction"], "ground_truth": row["reference"]}
        for row in result.rows
    ]
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
    partial.replace(path)
    print(f"{path}: {len(content)} clips")
    print(", ".join(f"{score} {value:.2f}" for score, value in result.scores.items()))
    return 0


def _shuffled(held: Any, clips: np.ndarray) -> Any:
    """The same vectors, each of ``clips`` having those of another of them."""
    order = np.arange(len(held))
    dealt = clips[np.random.default_rng(0).permutation(len(clips))]
    # A circle: nobody keeps their own.
    order[dealt] = np.roll(dealt, 1)
    return replace(
        held,
        **{name: getattr(held, name)[order] for name in ("global_reprs", "local_reprs", "temporal_reprs", "lengths")},
    )
