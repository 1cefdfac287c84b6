"""Talking faces by their real commands, on clips so few and models so small that each run takes seconds."""

import json
import shlex
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from commands import launcher, logged, losses, shell
from processes import Training, losses_by_step

from uni_sign.cli import main
from uni_sign.data.demo.talking_faces import generate_talking_faces
from uni_sign.data.demo.wav2vec2 import write_wav2vec2
from uni_sign.data.motion_clips import read_motion_clips
from uni_sign.models.motion_models import motion_autoencoder, speech_motion

INFER = "infer rectified_flow"
COMMON = "--data_root clips.jsonl --num_workers 0 --log_steps 1 --epochs 2 --lr 1e-3 --sched constant --dtype fp32"
FACES = f"{COMMON} --input_size 16 --dim_w 8 --dim_m 4 --channels 8 --pairs_per_clip 2"
SPEECH = (
    f"{COMMON} --wav2vec_model_path wav2vec2 --autoencoder_path faces/best_checkpoint.pth --wav2vec_sec 0.8 "
    "--num_prev_frames 4 --dim_a 8 --dim_h 16 --fmt_depth 1 --num_heads 2 --warmup_epochs 0"
)


def train(clips: Path, stage: str, flags: str, out: Path, processes: int = 1) -> str:
    words = [*launcher("warm", processes), "-m", "uni_sign", "train", stage, *shlex.split(flags)]
    return shell([*words, "--output_dir", str(out)], cwd=clips).stdout


def here(
    clips: Path, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], status: int = 0
) -> str:
    """A command within this process: where nothing trains, starting would take most of the time."""
    monkeypatch.chdir(clips)
    assert main(shlex.split(words)) == status
    said = capsys.readouterr()
    return said.out + said.err


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clips, the last two held out, and a speech model."""
    root = tmp_path_factory.mktemp("faces")
    folder = generate_talking_faces(root, clips=6, size=16, progress=False)
    rows = [
        {"video": str(clip.video), "audio": str(clip.audio), "emotion": clip.emotion, "split": "train"}
        for clip in read_motion_clips(folder)
    ]
    for row in rows[4:]:
        row["split"] = "test"
    (root / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_wav2vec2(root / "wav2vec2", 0)
    return root


@pytest.fixture(scope="module")
def trained(clips: Path) -> Path:
    """Autoencoder, against a discriminator, and flow, one after the other."""
    train(clips, "motion_autoencoder", f"{FACES} --batch_size 4", clips / "faces")
    train(clips, "rectified_flow", f"{SPEECH} --batch_size 4 --sample_step 2", clips / "speech")
    return clips


def test_what_the_stages_leave_behind(trained: Path) -> None:
    faces = torch.load(trained / "faces" / "best_checkpoint.pth", weights_only=True)
    assert {name.split(".")[0] for name in faces["model"]} == {"motion_autoencoder"}
    autoencoder = motion_autoencoder(faces, "faces")
    speech = torch.load(trained / "speech" / "best_checkpoint.pth", weights_only=True)
    assert {name.split(".")[0] for name in speech["model"]} == {"audio_encoder", "fmt"}
    speech_motion(speech["model_config"]).load_state_dict(speech["model"])
    torch.testing.assert_close(speech["basis"], autoencoder.basis().detach())
    for stage in ("faces", "speech"):
        assert losses(trained / stage)[-1] < losses(trained / stage)[0]
        assert len(logged(trained / stage, "val/loss")) == 2
    assert len(logged(trained / "speech", "val/sampled_correlation")) == 1
    assert len(logged(trained / "speech", "val/lambda_mae")) == 2
    for picture in ("faces/pictures/val_faces.png", "speech/pictures/val_motion.png"):
        assert (trained / picture).stat().st_size > 1000


BOTH = {"rectified_flow": SPEECH, "motion_autoencoder": f"{FACES} --gan_weight 0"}


@pytest.fixture(scope="module")
def whole(trained: Path) -> Path:
    """Both stages in two steps of whole batches."""
    for stage, flags in BOTH.items():
        train(trained, stage, f"{flags} --max_steps 2 --batch_size 4", trained / "whole" / stage)
    return trained / "whole"


@pytest.mark.parametrize(
    "split", ["--batch_size 2", "--batch_size 1 --gradient_accumulation_steps 2", "--zero_stage 3"]
)
def test_a_split_batch_gives_the_numbers_of_the_whole(trained: Path, whole: Path, tmp_path: Path, split: str) -> None:
    for stage, flags in BOTH.items():
        train(trained, stage, f"{flags} --max_steps 2 --batch_size 2 {split}", tmp_path / stage, 2)
        np.testing.assert_allclose(losses(tmp_path / stage), losses(whole / stage), rtol=1e-4)
        scores = (logged(folder / stage, "val/loss") for folder in (tmp_path, whole))
        np.testing.assert_allclose(next(scores), next(scores), rtol=1e-4)


def test_a_rank_that_has_none_of_the_sampled_windows_samples_with_the_other(trained: Path, tmp_path: Path) -> None:
    flags = f"{SPEECH} --wav2vec_sec 0.4 --batch_size 8 --max_steps 1"
    train(trained, "rectified_flow", f"{flags} --gradient_accumulation_steps 2", tmp_path / "one")
    train(trained, "rectified_flow", f"{flags} --zero_stage 3", tmp_path / "two", 2)
    one, two = (logged(tmp_path / name, "val/sampled_correlation") for name in ("one", "two"))
    np.testing.assert_allclose(two, one, rtol=1e-3)
    assert len(one) == 1


@pytest.mark.parametrize(("processes", "zero_stage"), [(2, 2), (1, 0)])
def test_bf16(trained: Path, tmp_path: Path, processes: int, zero_stage: int) -> None:
    """By DeepSpeed, and by autocast, which reaches into scores and sampling."""
    flags = f"--dtype bf16 --zero_stage {zero_stage} --batch_size 2 --max_steps 2 --ema_decay 0.9"
    for stage, own in (("motion_autoencoder", FACES), ("rectified_flow", f"{SPEECH} --motion_scale 3")):
        train(trained, stage, f"{own} {flags} --gradient_checkpointing", tmp_path / stage, processes)
        assert np.isfinite(losses(tmp_path / stage)).all()
        assert np.isfinite(logged(tmp_path / stage, "val/loss")).all()
    assert np.isfinite(logged(tmp_path / "rectified_flow", "val/sampled_correlation")).all()


@pytest.mark.parametrize(("stage", "run", "own"), [
    ("motion_autoencoder", "faces", FACES), ("rectified_flow", "speech", f"{SPEECH} --sample_step 2")
])  # fmt: skip
def test_a_killed_run_goes_on_exactly(trained: Path, tmp_path: Path, stage: str, run: str, own: str) -> None:
    flags, killed = f"{own} --batch_size 4 --save_steps 1", tmp_path / run
    job = ("-m", "uni_sign", "train", stage, *shlex.split(flags))
    with Training(launcher("warm"), output_dir=killed, cwd=trained, job=job) as training:
        training.kill_at_checkpoint()
    train(trained, stage, f"{flags} --resume auto", killed)
    assert losses_by_step(killed) == losses_by_step(trained / run)
    assert logged(killed, "val/loss") == logged(trained / run, "val/loss")
    best = [torch.load(folder / "best_checkpoint.pth", weights_only=True) for folder in (killed, trained / run)]
    torch.testing.assert_close(best[0]["model"], best[1]["model"], rtol=0, atol=0)


def test_a_video_is_written_the_same_each_time(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = next(clip for clip in read_motion_clips(trained / "clips.jsonl") if clip.split == "test")
    flags = f"--checkpoint speech/best_checkpoint.pth --audio {clip.audio} --reference {clip.video} --nfe 2"
    for name in ("one", "two"):
        here(trained, f"{INFER} {flags} --output_dir {tmp_path / name}", monkeypatch, capsys)
    one, two = (np.load(tmp_path / name / f"{clip.video.stem}.npz") for name in ("one", "two"))
    np.testing.assert_array_equal(one["motion"], two["motion"])
    with av.open(str(tmp_path / "one" / f"{clip.video.stem}.mp4")) as container:
        assert {stream.type for stream in container.streams} == {"video", "audio"}
        assert sum(1 for _ in container.decode(video=0)) == len(one["motion"])
    with av.open(str(clip.video)) as container:
        assert sum(1 for _ in container.decode(video=0)) == len(one["motion"])
    other = f"{INFER} {flags} --output_dir {tmp_path / 'other'} --seed 16 --emotion angry --no-videos"
    here(trained, other, monkeypatch, capsys)
    differs = np.load(tmp_path / "other" / f"{clip.video.stem}.npz")
    assert not np.allclose(one["motion"], differs["motion"])
    assert not list((tmp_path / "other").glob("*.mp4"))


def test_exported_weights_are_those_of_the_published_form(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here(trained, f"export speech/best_checkpoint.pth {tmp_path / 'float.pth'}", monkeypatch, capsys)
    flat = torch.load(tmp_path / "float.pth", weights_only=True)
    assert {name.split(".")[0] for name in flat} == {"motion_autoencoder", "audio_encoder", "fmt"}
    sizes = SPEECH.removeprefix(COMMON).replace("faces/best_checkpoint.pth", str(tmp_path / "float.pth"))
    sizes = sizes.replace("--warmup_epochs 0", "")
    flags = f"--split test --data_root clips.jsonl --nfe 2 --no-videos --output_dir {tmp_path}"
    here(trained, f"{INFER} --checkpoint {tmp_path / 'float.pth'} {sizes} {flags}/flat", monkeypatch, capsys)
    here(trained, f"{INFER} --checkpoint speech/best_checkpoint.pth {flags}/best", monkeypatch, capsys)
    for path in sorted((tmp_path / "best").glob("*.npz")):
        np.testing.assert_array_equal(np.load(path)["motion"], np.load(tmp_path / "flat" / path.name)["motion"])
    assert motion_autoencoder(flat, "float.pth").sizes.input_size == 16


def test_a_split_is_scored_and_its_sound_shuffled(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = f"{INFER} --checkpoint speech/best_checkpoint.pth --split test --nfe 2 --output_dir {tmp_path}"
    said = here(trained, flags, monkeypatch, capsys)
    assert "(mean of 2 clips)" in said
    assert "where a window begins: mean" in said
    assert "they heard another clip's" in here(trained, f"{flags} --shuffle_audio", monkeypatch, capsys)
    assert len(list(tmp_path.glob("*.mp4"))) == 2


@pytest.mark.parametrize("more", ["", "--shuffle_audio"])
def test_a_clip_of_a_split_that_cannot_be_read_is_left_out_and_named(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], more: str
) -> None:
    rows = [json.loads(line) for line in (trained / "clips.jsonl").read_text().splitlines()]
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    for row in rows[3:4]:
        row |= {"audio": str(tmp_path / "broken.wav"), "split": "test"}
    (tmp_path / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = f"{INFER} --checkpoint speech/best_checkpoint.pth --split test --nfe 2 --data_root {tmp_path}/clips.jsonl"
    said = here(trained, f"{flags} --output_dir {tmp_path}/o {more}", monkeypatch, capsys)
    assert f"Left out: {tmp_path / 'broken.wav'}" in said
    # Shuffled, another clip hears it, too.
    assert len(list((tmp_path / "o").glob("*.mp4"))) == (1 if more else 2)


def test_the_cache_is_told_of_filled_in_parts_and_made_anew(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = f"{SPEECH} --cache_dir {tmp_path / 'cache'}"
    status = f"train rectified_flow {flags} --check_status --output_dir {tmp_path / 'o'}"
    assert "train: 0 of 4 are there" in here(trained, status, monkeypatch, capsys)
    assert "val: 2 of 2 are there" in train(trained, "rectified_flow", f"{flags} --test_only", tmp_path / "o")
    assert "train: 0 of 4 are there" in here(trained, status, monkeypatch, capsys)
    said = train(trained, "rectified_flow", f"{flags} --train_only --clear_cache_first", tmp_path / "o", 2)
    assert "train: 4 of 4 are there" in said
    assert "val: 0 of 2 are there" in here(trained, status, monkeypatch, capsys)
    assert not (tmp_path / "o" / "log.jsonl").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (f"rectified_flow {SPEECH} --autoencoder_path nowhere.pth", "nowhere.pth"),
        (f"rectified_flow {SPEECH} --autoencoder_path speech/best_checkpoint.pth", "of the stage rectified_flow"),
        (f"rectified_flow {SPEECH} --wav2vec_model_path nowhere", "No wav2vec2 model in nowhere"),
        (f"rectified_flow {SPEECH} --ckpt_path faces/best_checkpoint.pth", "of the stage motion_autoencoder"),
        (f"rectified_flow {SPEECH} --data_root nowhere", "nowhere"),
        (f"motion_autoencoder {FACES} --vgg_weights faces/best_checkpoint.pth", "is no VGG-19"),
    ],
)
def test_wrong_files_are_named(
    trained: Path, words: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in here(trained, f"train {words} --output_dir o", monkeypatch, capsys, 2)


def test_flags_that_say_too_little_or_too_much_are_refused(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = f"{INFER} --checkpoint speech/best_checkpoint.pth"
    for flags, said in (
        ("--audio a.wav", "Give --audio and --reference, or --text, or --split"),
        ("--text hello", "The checkpoint makes faces talk"),
        ("--split dev", "The checkpoint makes faces talk"),
    ):
        assert said in here(trained, f"{checkpoint} {flags}", monkeypatch, capsys, 2)


def test_clips_shorter_than_a_window_are_refused(trained: Path, tmp_path: Path) -> None:
    words = [*launcher("warm"), "-m", "uni_sign", "train", "rectified_flow", *shlex.split(f"{SPEECH} --wav2vec_sec 20")]
    said = shell([*words, "--output_dir", str(tmp_path / "o")], cwd=trained, status=2).stderr
    assert "no clip for train has the 504 frames" in said


def test_motion_on_another_scale_is_another_run(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "speech", tmp_path / "speech", symlinks=True)
    words = [*launcher("warm"), "-m", "uni_sign", "train", "rectified_flow", *shlex.split(SPEECH), "--batch_size", "4"]
    words += ["--motion_scale", "2", "--resume", "auto", "--output_dir", str(tmp_path / "speech")]
    assert "cannot be resumed: the digest of what frozen models make" in shell(words, cwd=trained, status=2).stderr


def test_from_given_weights_the_projection_of_sound_stays(trained: Path, tmp_path: Path) -> None:
    flags = f"{SPEECH} --batch_size 4 --max_steps 2 --finetune speech/best_checkpoint.pth"
    train(trained, "rectified_flow", flags, tmp_path / "tuned")
    before, after = (
        torch.load(folder / "best_checkpoint.pth", weights_only=True)["model"]
        for folder in (trained / "speech", tmp_path / "tuned")
    )
    same = {name for name, value in before.items() if torch.equal(value, after[name])}
    assert {name for name in before if name.startswith("audio_encoder.")} <= same
    assert any(name.startswith("fmt.") for name in before.keys() - same)
