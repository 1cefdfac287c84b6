"""Three launchers, one behaviour: the same files and the same losses however the global batch is split."""

import json
import shutil
from pathlib import Path

import pytest
from commands import Run, launcher, logged, losses

FILES = {
    "best_checkpoint.pth",
    "checkpoints",
    "config.yaml",
    "log.jsonl",
    "pictures",
    "predictions_dev.jsonl",
    "predictions_test.jsonl",
    "results.json",
    "train.log",
}
RECOMPUTES = ("--gradient_checkpointing",)
# Launcher, processes, ZeRO stage, further flags.
SET_UPS = [
    ("python", 1, 2, ()),
    ("torchrun", 2, 0, RECOMPUTES),
    ("deepspeed", 2, 2, ()),
    ("accelerate", 2, 2, RECOMPUTES),
    ("deepspeed", 1, 0, ()),
    ("warm", 2, 1, ()),
    ("warm", 2, 2, ("--offload",)),
    ("warm", 2, 3, ("--eval_epochs", "2")),
    ("warm", 2, 3, (*RECOMPUTES, "--eval_epochs", "2")),
]


def grad_norms(output_dir: Path) -> list[float]:
    return logged(output_dir, "train/grad_norm")


@pytest.fixture(scope="module")
def reference(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process, no ZeRO, the whole global batch at once."""
    out = tmp_path_factory.mktemp("reference") / "run"
    flags = ("--use_descriptions", "--zero_stage", "0", "--batch_size", "4")
    run(launcher("warm"), *flags, output_dir=out)
    return out


@pytest.mark.parametrize(("name", "processes", "stage", "flags"), SET_UPS)
def test_same_losses_and_files(
    name: str, processes: int, stage: int, flags: tuple[str, ...], run: Run, reference: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    size = str(4 // processes)
    run(
        launcher(name, processes),
        *("--use_descriptions", "--zero_stage", str(stage), "--batch_size", size, *flags),
        output_dir=out,
    )
    # AdamW hides a wrong scale of the gradient; the gradient norms show it.
    assert len(losses(out)) == 6
    assert losses(out) == pytest.approx(losses(reference), abs=1e-4)
    assert grad_norms(out)[0] == pytest.approx(grad_norms(reference)[0], rel=1e-5)
    assert grad_norms(out) == pytest.approx(grad_norms(reference), rel=1e-2)
    assert {path.name for path in out.iterdir()} == FILES
    results = [json.loads((folder / "results.json").read_text()) for folder in (out, reference)]
    assert results[0]["test/n"] == results[1]["test/n"] == 5


def test_accumulation_gives_the_same_steps(run: Run, tmp_path: Path) -> None:
    """12 clips, 5 a step: the last step of an epoch has 2; statistics frozen, as they cannot accumulate.

    SGD without clipping: a wrong scale of the gradient shows in the losses, too.
    """
    common = (
        "--use_descriptions",
        "--batch_norm",
        "frozen",
        "--opt",
        "sgd",
        "--lr",
        "0.03",
        "--gradient_clipping",
        "0",
    )
    runs = {
        "whole": (launcher("warm"), "--zero_stage", "0", "--batch_size", "5"),
        "split": (launcher("warm"), "--zero_stage", "0", "--batch_size", "1", "--gradient_accumulation_steps", "5"),
        "zero": (launcher("warm"), "--zero_stage", "2", "--batch_size", "1", "--gradient_accumulation_steps", "5"),
    }
    for name, (command, *flags) in runs.items():
        run(command, *common, *flags, output_dir=tmp_path / name)
    whole = losses(tmp_path / "whole")
    assert len(whole) == 6
    for name in ("split", "zero"):
        assert losses(tmp_path / name) == pytest.approx(whole, abs=1e-4)
        assert grad_norms(tmp_path / name) == pytest.approx(grad_norms(tmp_path / "whole"), rel=1e-3)


def test_accumulation_over_two_processes_gives_the_same_steps(run: Run, tmp_path: Path) -> None:
    """12 clips, 8 a step: the last step of an epoch has one micro-batch of 4 clips, not two."""
    common = ("--use_descriptions", "--batch_norm", "frozen", "--gradient_clipping", "0")
    run(launcher("warm"), *common, "--zero_stage", "0", "--batch_size", "8", output_dir=tmp_path / "whole")
    split = ("--batch_size", "2", "--gradient_accumulation_steps", "2")
    for name, command, stage in (("ddp", launcher("warm", 2), "0"), ("zero", launcher("warm", 2), "2")):
        run(command, *common, *split, "--zero_stage", stage, output_dir=tmp_path / name)
        assert losses(tmp_path / name) == pytest.approx(losses(tmp_path / "whole"), abs=1e-4)
        assert grad_norms(tmp_path / name) == pytest.approx(grad_norms(tmp_path / "whole"), rel=1e-3)
    assert len(losses(tmp_path / "whole")) == 4


def test_max_steps_stops_there(run: Run, tmp_path: Path) -> None:
    run(launcher("warm"), "--zero_stage", "0", "--batch_size", "3", "--max_steps", "3", output_dir=tmp_path / "run")
    assert len(losses(tmp_path / "run")) == 3
    assert (tmp_path / "run" / "checkpoints" / "last").resolve().name == "step_00000003"


@pytest.mark.parametrize("flags", [("--zero_stage", "2"), ("--zero_stage", "3", "--text_encoder_freeze")])
def test_bf16_runs_under_deepspeed(flags: tuple[str, ...], run: Run, tmp_path: Path) -> None:
    out = tmp_path / "run"
    cache = ("--text_cache", str(tmp_path / "cache")) if "--text_encoder_freeze" in flags else ()
    common = ("--use_descriptions", "--dtype", "bf16", "--batch_size", "4", "--lr", "1e-3")
    run(launcher("warm"), *common, *flags, *cache, output_dir=out)
    assert losses(out)[-1] < losses(out)[0] - 0.3


def test_zero_3_decays_the_same_weights(run: Run, tmp_path: Path) -> None:
    """A shared-out matrix looks like a vector of no length: groups are made before.

    Statistics frozen: those of a batch double a difference of rounding with each step.
    """
    common = ("--batch_size", "4", "--opt", "sgd", "--lr", "0.01", "--weight_decay", "1", "--batch_norm", "frozen")
    for stage in ("0", "3"):
        done = run(launcher("warm"), *common, "--zero_stage", stage, output_dir=tmp_path / stage)
        assert "mt5_model                    0" not in done.stdout
    assert losses(tmp_path / "3") == pytest.approx(losses(tmp_path / "0"), abs=1e-4)


def test_a_last_step_of_fewer_clips_than_processes(run: Run, corpus: Path, tmp_path: Path) -> None:
    """11 clips, 3 a step: one of three processes has none in the last step, and must not count what it shows."""
    root = tmp_path / "root"
    shutil.copytree(corpus, root)
    (root / "dataset" / "Demo" / "pose_format" / "train-00011.pkl").unlink()
    flags = ("--use_descriptions", "--zero_stage", "0", "--data_root", str(root), "--epochs", "1")
    run(launcher("warm"), *flags, "--batch_size", "3", output_dir=tmp_path / "one")
    run(launcher("warm", 3), *flags, "--batch_size", "1", output_dir=tmp_path / "three")
    assert len(losses(tmp_path / "one")) == 4
    assert losses(tmp_path / "three") == pytest.approx(losses(tmp_path / "one"), abs=1e-4)
    assert grad_norms(tmp_path / "three") == pytest.approx(grad_norms(tmp_path / "one"), rel=1e-3)
