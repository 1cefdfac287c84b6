"""Bad input: one clear sentence and status 2, before training wherever it can be known before."""

import gzip
import json
import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import ROOT, SMALL, Run, launcher, losses, shell

from uni_sign.cli import main

Corrupt = Callable[[Path], None]


@pytest.fixture
def root(corpus: Path, tmp_path: Path) -> Path:
    """A corpus of one's own to damage."""
    shutil.copytree(corpus, tmp_path / "root")
    return tmp_path / "root"


def refused(root: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    """The sentence with which training is refused in this process, before any process group starts."""
    words = ["train", "fine_tuning", *SMALL, "--data_root", str(root), "--output_dir", str(root / "out"), *flags]
    assert main(words) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("uni-sign: error: ")
    assert "Traceback" not in said
    assert len(said.splitlines()) == 1
    return said


def labels_path(root: Path, split: str = "train") -> Path:
    return root / "data" / "Demo" / f"labels.{split}"


def write_labels(root: Path, change: Callable[[dict[str, Any]], None], split: str = "train") -> None:
    path = labels_path(root, split)
    labels = pickle.loads(gzip.decompress(path.read_bytes()))
    change(labels)
    path.write_bytes(gzip.compress(pickle.dumps(labels)))


def first_pose(root: Path) -> Path:
    return root / "dataset" / "Demo" / "pose_format" / "train-00000.pkl"


class _Attack:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.witness}",)


def test_missing_label_file(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels_path(root).unlink()
    assert "No label file" in refused(root, capsys)


def test_label_pickle_that_would_run_code(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    witness = root / "witness"
    labels_path(root).write_bytes(gzip.compress(pickle.dumps(_Attack(witness))))
    assert "system" in refused(root, capsys)
    assert not witness.exists()


def test_truncated_labels(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = labels_path(root)
    path.write_bytes(path.read_bytes()[:100])
    assert str(path) in refused(root, capsys)


def test_every_target_empty(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_labels(root, lambda labels: [entry.update(text=" ") for entry in labels.values()])
    assert "its target for SLT is empty" in refused(root, capsys)


def test_pose_folder_missing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(root / "dataset")
    assert "pose folder" in refused(root, capsys)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--bach_size", "2"), "did you mean --batch_size?"),
        (("--batch_size", "0"), "--batch_size 0 must be at least 1"),
        (("--lr", "fast"), "invalid float value"),
        (("--dataset", "Nowhere"), "--dataset Nowhere is unknown"),
        (("--task", "ISLT"), "invalid choice"),
        (("--finetune", "nowhere.pth"), "nowhere.pth"),
        (("--mt5", "nowhere"), "No mT5 model in nowhere"),
        (("--offload", "--zero_stage", "1"), "--offload needs --zero_stage 2 or 3"),
        (("--fusion_only",), "--fusion_only needs --use_descriptions"),
        (("--dtype", "fp16"), "--dtype fp16 needs a GPU"),
        (("--resume", "nowhere"), "--resume nowhere is no complete checkpoint"),
        (("--output_dir", "/proc/nowhere"), "cannot be written"),
    ],
)
def test_impossible_flags(
    flags: tuple[str, ...], sentence: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if flags[:2] == ("--dtype", "fp16") and torch.cuda.is_available():
        pytest.skip("a GPU takes fp16")
    assert sentence in refused(root, capsys, *flags)


def test_finetune_file_that_would_run_code(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    witness = root / "witness"
    torch.save({"model": _Attack(witness)}, root / "evil.pth")
    assert "evil.pth" in refused(root, capsys, "--finetune", str(root / "evil.pth"))
    assert not witness.exists()


def test_finetune_file_of_another_model(run: Run, root: Path, tmp_path: Path) -> None:
    torch.save({"model": {"fc.weight": torch.zeros(3, 3)}}, root / "other.pth")
    flags = ("--data_root", str(root), "--finetune", str(root / "other.pth"), "--zero_stage", "0")
    done = run(launcher("warm"), *flags, output_dir=tmp_path / "run", status=2)
    assert "is of another model" in done.stderr


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:2000])


def _rewrite(change: Callable[[dict[str, Any]], None]) -> Corrupt:
    def corrupt(path: Path) -> None:
        content = pickle.loads(path.read_bytes())
        change(content)
        path.write_bytes(pickle.dumps(content))

    return corrupt


def _set_first(value: float) -> Corrupt:
    return _rewrite(lambda content: content["keypoints"][0].__setitem__((0, 5, 0), value))


CORRUPTIONS: dict[str, Corrupt] = {
    "truncated": _cut,
    "nan": _set_first(float("nan")),
    "infinite": _set_first(float("inf")),
    "no_frames": _rewrite(lambda content: content.update(keypoints=[], scores=[])),
    "point_count": _rewrite(lambda content: content.update(keypoints=[k[:, :100] for k in content["keypoints"]])),
    "attack": lambda path: path.write_bytes(pickle.dumps(_Attack(path.with_suffix(".witness")))),
}


def test_bad_clips_are_named_and_left_out(run: Run, root: Path, tmp_path: Path) -> None:
    poses = first_pose(root).parent
    for number, corrupt in enumerate(CORRUPTIONS.values()):
        corrupt(poses / f"train-{number:05d}.pkl")
    descriptions = root / "description" / "Demo" / "split_data" / "train"
    for number, content in enumerate([b"", b"{", b"5", b'{"0": "\xff"}'], start=len(CORRUPTIONS)):
        (descriptions / f"train-{number:05d}.json").write_bytes(content)
    (poses / "train-00011.pkl").unlink()
    flags = ("--use_descriptions", "--data_root", str(root), "--zero_stage", "2", "--batch_size", "1")
    done = run(launcher("warm", 2), *flags, "--epochs", "1", output_dir=tmp_path / "run")
    for number in range(len(CORRUPTIONS) + 4):
        assert f"train-{number:05d}" in done.stdout, number
    assert "no pose file train-00011.pkl" in done.stdout
    assert not list(poses.glob("*.witness"))
    assert all(np.isfinite(losses(tmp_path / "run")))


def test_bad_samples_stop_stops_every_rank(run: Run, root: Path, tmp_path: Path) -> None:
    _cut(first_pose(root))
    flags = ("--data_root", str(root), "--bad_samples", "stop", "--batch_size", "2")
    done = run(launcher("warm", 2), *flags, output_dir=tmp_path / "run", status=2)
    assert "train-00000.pkl" in done.stderr
    assert "Traceback" not in done.stderr


def test_several_people_and_nobody(run: Run, root: Path, tmp_path: Path) -> None:
    path = first_pose(root)
    content = pickle.loads(path.read_bytes())
    keypoints, scores = content["keypoints"], content["scores"]
    keypoints[1] = np.concatenate([keypoints[1] + 0.4, keypoints[1]])
    scores[1] = np.concatenate([scores[1] * 0.2, scores[1]])
    keypoints[2], scores[2] = np.zeros((0, 133, 2)), np.zeros((0, 133), np.float32)
    path.write_bytes(pickle.dumps(content))
    flags = ("--data_root", str(root), "--bad_samples", "stop", "--zero_stage", "0", "--epochs", "1")
    run(launcher("warm"), *flags, output_dir=tmp_path / "run")


def test_a_loss_that_is_not_finite_stops_all_ranks(run: Run, root: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    flags = ("--data_root", str(root), "--batch_size", "2", "--opt", "sgd", "--gradient_clipping", "0")
    run(launcher("warm", 2), *flags, "--max_steps", "1", output_dir=out)
    last = out / "checkpoints" / "last"
    before = {path: path.read_bytes() for path in last.resolve().rglob("*") if path.is_file()}
    diverging = (*flags, "--resume", "auto", "--sched", "constant", "--lr", "1e38")
    done = run(launcher("warm", 2), *diverging, output_dir=out, status=None)
    assert "The loss of step 2 is not finite, among clips train-" in done.stderr
    assert f"resume from {last}" in done.stderr
    assert "Traceback" not in done.stderr
    assert last.resolve().name == "step_00000001"
    assert {path: path.read_bytes() for path in last.resolve().rglob("*") if path.is_file()} == before


def test_a_full_disk_leaves_the_last_checkpoint(run: Run, root: Path, tmp_path: Path) -> None:
    """The largest file a process may write stands in for a full disk."""
    out = tmp_path / "run"
    flags = ("--data_root", str(root), "--zero_stage", "0", "--batch_size", "4")
    run(launcher("warm"), *flags, "--max_steps", "1", output_dir=out)
    words = [*launcher("python"), str(ROOT / "fine_tuning.py"), *SMALL, *flags, "--output_dir", str(out)]
    limited = ["bash", "-c", 'ulimit -f 2000; exec "$@"', "limited", *words, "--resume", "auto"]
    done = shell(limited, cwd=root, status=2)
    assert "earlier checkpoints are intact" in done.stderr
    assert (out / "checkpoints" / "last" / "manifest.json").is_file()
    run(launcher("warm"), *flags, "--resume", "auto", output_dir=out)
    assert len(losses(out)) == 6


def test_doctor_passes_on_demo_and_fails_on_missing_files(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--dataset", "Demo", "--data_root", str(root), "--dtype", "fp32", "--output_dir", str(root / "out")]
    assert main(["doctor", *flags]) == 0
    said = capsys.readouterr().out
    assert "effective batch" in said
    assert "memory" in said
    assert ", 0 fail" in said
    assert main(["doctor", *flags, "--use_descriptions"]) == 0
    assert "train descriptions" in capsys.readouterr().out
    labels_path(root, "dev").unlink()
    shutil.rmtree(root / "pretrained_weight")
    assert main(["doctor", *flags]) == 1
    said = capsys.readouterr().out
    assert "FAIL  dev labels" in said
    assert "FAIL  mT5 folder" in said


def test_default_dataset_is_said_aloud(root: Path) -> None:
    from uni_sign.stages.fine_tuning import FineTuning, FineTuningConfig

    stage = FineTuning(FineTuningConfig(data_root=root), seed=0)
    assert stage.corpora[0].name == "Demo"
    assert "using the embedded Demo corpus" in stage.notes[0]
    shutil.copytree(root / "data" / "Demo", root / "data" / "CSL_Daily")
    stage = FineTuning(FineTuningConfig(data_root=root), seed=0)
    assert stage.corpora[0].name == "CSL_Daily"
    assert "using CSL_Daily" in stage.notes[0]


def test_doctor_refuses_what_training_refuses(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--dataset", "Demo", "--data_root", str(root), "--dtype", "fp32", "--output_dir", str(root / "out")]
    torch.save({"model": {"fc.weight": torch.zeros(3, 3)}}, root / "other.pth")
    assert main(["doctor", *flags, "--finetune", str(root / "other.pth")]) == 1
    assert "is of another model" in capsys.readouterr().out
    assert main(["doctor", *flags, "--processes", "4", "--batch_size", "3"]) == 0
    assert "12 = 3 clips x 1 accumulation x 4 process(es)" in capsys.readouterr().out
    assert main(["doctor", *flags, "--processes", "4", "--batch_size", "3", "--frames_per_batch", "100"]) == 0
    said = "at most 400 frames and 12 clips = (100 frames, 3 clips) x 1 accumulation x 4 process(es)"
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("demo-data", "--vidoes"), "did you mean --videos?"),
        (("show", "out/run", "--output"), "Unknown flag --output"),
        (("export", "nowhere.pth", "/proc/x/y"), "nowhere.pth"),
    ],
)
def test_other_commands_refuse_in_a_sentence(
    words: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(list(words)) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert "Traceback" not in said


def test_a_text_cache_that_cannot_be_written(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--use_descriptions", "--text_encoder_freeze", "--text_cache", "/proc/nowhere")
    assert "--text_cache /proc/nowhere cannot be written" in refused(root, capsys, *flags)


def test_help_and_unknown_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "train STAGE" in capsys.readouterr().out
    assert main(["train", "fine_tuning", "--help"]) == 0
    assert "--use_descriptions" in capsys.readouterr().out
    assert main(["trane"]) == 2
    assert main(["train", "fine_tunning"]) == 2
    assert "fine_tuning" in capsys.readouterr().err


def test_labels_of_another_form_are_left_out(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def change(labels: dict[str, Any]) -> None:
        for entry in labels.values():
            entry["text"] = b"\xff\xfe"

    write_labels(root, change)
    assert "must be strings" in refused(root, capsys)


def test_misspelt_flags_in_a_config_file(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = root / "flags.json"
    path.write_text(json.dumps({"lr": "3e-4", "bach-size": 3}))
    assert "did you mean --batch_size?" in refused(root, capsys, "--config", str(path))


def test_a_fault_of_one_process_alone_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it may be of the second process of a machine, whose first finds nothing wrong and waits for it."""
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "1")
    assert main(["train", "fine_tuning", "--dataset", "Nowhere"]) == 2
    said = capsys.readouterr().err
    assert re.match(r"uni-sign: error of rank 1 on .*: --dataset Nowhere is unknown", said)
