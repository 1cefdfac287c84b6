"""`uni-sign infer temporal`: clips to vectors, and how alike these are."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from uni_sign.commands._inference import RunConfig, loaded_model, made_folder, on_device, precision, trained_stage
from uni_sign.config import flag
from uni_sign.data.representations import Representations, write_representations
from uni_sign.data.sequences import Sequences
from uni_sign.drawing import matrix
from uni_sign.metrics.similarity import cosine_similarities, distances, mean_similarity, retrieval_top1

_COLLAPSED = 0.99
_MOST_PAIRS = 5000  # clips whose pairs are all compared: 200 MB a matrix


@dataclass(frozen=True)
class TemporalInferConfig(RunConfig):
    """The flags of clips to vectors."""

    output_dir: Path = flag(Path("temporal_representations_all"), "folder of the vectors")


def infer_temporal(name: str, argv: Sequence[str]) -> int:
    """Write `all_representations.npz`, the two matrices, and a picture of each."""
    default = "checkpoints_temporal/best_model_stage1.pth"
    stage, config = trained_stage(name, argv, default, TemporalInferConfig, "uni-sign infer temporal")
    sequences: Sequences = stage.sequences
    longest = int(sequences.lengths.max())
    if longest > stage.config.seq_len:
        print(
            f"The longest clip has {longest} frames; the model was trained on windows of {stage.config.seq_len}: "
            "what it makes of longer clips is what it makes of them."
        )
    found = _represented(stage, config)
    folder = made_folder(config.output_dir)
    write_representations(folder / "all_representations.npz", found)
    print(f"{folder / 'all_representations.npz'}: {len(found)} clips of at most {longest} frames")
    _compare(found, folder)
    return 0


def _represented(stage: Any, config: RunConfig) -> Representations:
    sequences, model = stage.sequences, loaded_model(stage)
    lengths = sequences.lengths
    order = np.argsort(-lengths, kind="stable")
    sizes = (len(lengths), int(lengths.max()), stage.config.d_temporal)
    global_reprs = np.zeros((len(lengths), stage.config.d_final), np.float32)
    local_reprs = np.zeros((len(lengths), 2, stage.config.d_final), np.float32)
    temporal_reprs = np.zeros(sizes, np.float32)
    batches = [order[i : i + config.batch_size] for i in range(0, len(order), config.batch_size)]
    read = (_batch(stage.points, sequences, chosen) for chosen in tqdm(batches, desc="clips", unit="batch"))
    for chosen, batch in zip(batches, on_device(read), strict=True):
        with precision(config.dtype), torch.no_grad():
            vectors = model(batch["points"], batch["padding"], batch["present"])
        global_reprs[chosen] = vectors.global_vector.float().cpu()
        local_reprs[chosen] = vectors.local.float().cpu()
        temporal = vectors.temporal.float().masked_fill(batch["padding"][..., None], 0.0)
        temporal_reprs[chosen, : temporal.shape[1]] = temporal.cpu()
    return Representations(global_reprs, local_reprs, temporal_reprs, lengths, sequences.names)


def _batch(points: np.ndarray, sequences: Sequences, chosen: np.ndarray) -> dict[str, Any]:
    lengths = sequences.lengths[chosen]
    steps = np.arange(lengths.max())
    places = sequences.bounds[chosen][:, None] + np.minimum(steps, lengths[:, None] - 1)
    return {
        "points": torch.from_numpy(points[places]),
        "present": torch.from_numpy(sequences.present[places]),
        "padding": torch.from_numpy(steps >= lengths[:, None]),
    }


def _compare(found: Representations, folder: Path) -> None:
    """Matrices of all clips and their pictures; a warning where all have one vector."""
    vectors, names = found.global_reprs[:_MOST_PAIRS], found.names[:_MOST_PAIRS]
    if len(found) > _MOST_PAIRS:
        print(f"Of {len(found)} clips the first {_MOST_PAIRS} are compared.")
    similarities, apart = cosine_similarities(vectors), distances(vectors)
    labels = [name.rpartition("-")[0] or name for name in names]
    alike = np.argsort(np.array(labels), kind="stable")  # in the pictures, clips of one name lie together
    for name, values, scale in (
        ("similarity", similarities, "cosine similarity"),
        ("distance", apart, "Euclidean distance"),
    ):
        np.save(folder / f"{name}_matrix.npy", values.astype(np.float32))
        drawn = matrix([names[i] for i in alike], values[alike][:, alike], f"{name} of clips, by name", scale)
        drawn.savefig(folder / f"{name}_matrix.png", dpi=130)
    mean = mean_similarity(similarities)
    print(f"mean cosine similarity of different clips: {mean:.4f}")
    if mean > _COLLAPSED:
        print(
            f"Warning: the vectors have collapsed: their mean cosine similarity is above {_COLLAPSED}, so that one "
            "clip is as good as another; train longer, or with a trained frame encoder."
        )
    top1 = retrieval_top1(similarities, labels)
    if top1 is not None:
        print(f"nearest other clip of the same name: {top1[0]:.1%} (by chance {top1[1]:.1%})")
