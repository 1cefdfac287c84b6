"""`uni-sign infer skeleton`, `hierarchical_image` and `hierarchical_keypoint`: true beside generated."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from uni_sign.commands._inference import RunConfig, loaded_model, made_folder, predicted, trained_stage
from uni_sign.config import at_least, flag
from uni_sign.drawing import picture_grid


@dataclass(frozen=True)
class PicturesConfig(RunConfig):
    """The flags of drawing true beside generated."""

    output_dir: Path = flag(Path("inference_pictures"), "folder of the pictures")
    samples: int = flag(8, "frames to draw, the first ones held out", check=at_least(1))


def infer_pictures(name: str, argv: Sequence[str]) -> int:
    """Draw held-out frames true and generated, and say how far apart they are."""
    default = "checkpoints_skeleton_hierarchical/best_model.pth" if name == "skeleton" else ""
    stage, config = trained_stage(name, argv, default, PicturesConfig, f"uni-sign infer {name}")
    stage.check()
    stage.drawn = config.samples
    rows = predicted(stage, loaded_model(stage), stage.splits["val"], config)
    result = stage.scored(rows)
    folder = made_folder(config.output_dir)
    for title, grid in result.grids.items():
        path = folder / f"{name}_{title}.png"
        picture_grid(grid, f"{title}, held out").savefig(path, dpi=130)
        print(f"{path}: {len(grid[0][1])} of {len(rows)} held-out frames")
    print(", ".join(f"{score} {value:.5g}" for score, value in result.scores.items()))
    return 0
