"""Parts of the talking-face stages whose answer is known by hand: draws, windows, and whose gradient is whose."""

from pathlib import Path

import numpy as np
import pytest
import torch

from uni_sign.config import parse_flags
from uni_sign.data.demo.talking_faces import generate_talking_faces
from uni_sign.data.motion_clips import read_motion_clips
from uni_sign.data.signs import Key
from uni_sign.errors import InputError
from uni_sign.models.motion_autoencoder import AutoencoderSizes
from uni_sign.models.stylegan_discriminator import discriminator_losses, generator_losses
from uni_sign.stages._face_findings import face_findings
from uni_sign.stages._motion_windows import Draws, MotionWindows
from uni_sign.stages.motion_autoencoder import AutoencoderTraining, MotionAutoencoderConfig, MotionAutoencoderStage
from uni_sign.stages.rectified_flow import RectifiedFlow, RectifiedFlowConfig

RATES = {"wa": 0.1, "wr": 0.1, "we": 0.1, "prev_x": 0.5, "prev_wa": 0.5}
FRAMES, PREVIOUS, WIDE, COORDINATES = 6, 2, 5, 3


def windows(lengths: list[int], draws: Draws | None) -> MotionWindows:
    """Clips whose coordinates are the number of the frame, and 100 times that of the clip."""
    basis = torch.linalg.qr(torch.randn(WIDE, COORDINATES, generator=torch.Generator().manual_seed(0)))[0]

    def read(clip: int) -> dict[str, np.ndarray]:
        frame = np.arange(lengths[clip], dtype=np.float32)[:, None] + 100 * clip
        return {"coordinates": np.repeat(frame, COORDINATES, 1), "audio": frame, "emotion": np.eye(7)[clip]}

    return MotionWindows(read, [f"clip{n}" for n in range(len(lengths))], lengths, basis, FRAMES, PREVIOUS, draws)


def test_held_out_windows_lie_side_by_side_behind_their_previous_frames() -> None:
    held_out = windows([8, 13, 14], None)
    assert held_out.places == [(0, 2), (1, 2), (2, 2), (2, 8)]
    item = held_out[Key(0, 3)]
    np.testing.assert_array_equal(item["audio"][:, 0], 200 + np.arange(6, 14))
    coordinates = item["motion"] @ held_out.basis.numpy()
    np.testing.assert_allclose(coordinates, np.repeat(200 + np.arange(6.0, 14.0)[:, None], COORDINATES, 1), rtol=1e-5)
    np.testing.assert_allclose(item["reference"] @ held_out.basis.numpy(), np.full((1, COORDINATES), 200), rtol=1e-5)
    assert "noise" not in item


def test_draws_depend_on_seed_epoch_and_number_alone() -> None:
    one, again, other = (windows([40, 40], Draws(RATES, seed=seed)) for seed in (1, 1, 2))
    first, same = one[Key(3, 5)], again[Key(3, 5, counted=False)]
    assert same.pop("index") == -1
    assert first.pop("index") == 5
    for name, value in first.items():
        np.testing.assert_array_equal(value, same[name])
    for different in (one[Key(4, 5)], one[Key(3, 6)], other[Key(3, 5)]):
        assert not np.array_equal(different["noise"], first["noise"])


def test_training_windows_lie_anywhere_and_lose_conditions_at_their_rates() -> None:
    train = windows([30], Draws(RATES))
    items = [train[Key(epoch, index)] for epoch in range(400) for index in range(len(train))]
    starts = {int(item["audio"][0, 0]) for item in items}
    assert starts == set(range(30 - FRAMES - PREVIOUS + 1))
    references = {round(float((item["reference"] @ train.basis.numpy())[0, 0])) for item in items}
    assert references == set(range(30))
    for name, rate in RATES.items():
        share = np.mean([item[f"lost_{name}"][0] for item in items])
        assert share == pytest.approx(rate, abs=0.04)
    times = np.array([item["t"][0] for item in items])
    np.testing.assert_allclose(np.quantile(times, [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.04)


def test_a_first_reference_is_the_first_frame() -> None:
    train = windows([30], Draws(RATES, reference="first"))
    item = train[Key(2, 1)]
    np.testing.assert_allclose(item["reference"], 0.0, atol=1e-6)


def autoencoder_stage(*flags: str) -> MotionAutoencoderStage:
    (config,) = parse_flags(["--input_size", "16", "--channels", "4", *flags], MotionAutoencoderConfig)
    return MotionAutoencoderStage(config, 0)


def test_each_side_has_the_gradient_of_its_own_loss() -> None:
    torch.manual_seed(0)
    stage, model = autoencoder_stage("--l1_weight", "0"), AutoencoderTraining(AutoencoderSizes(16, 6, 3, 4), True)
    pictures = torch.randint(0, 256, (2, 2, 16, 16, 3), dtype=torch.uint8)
    stage.compute_loss(model, {"source": pictures[0], "driving": pictures[1], "counted": True})[0].backward()
    together = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    model.zero_grad()
    source, driving = (side.permute(0, 3, 1, 2).float() / 127.5 - 1 for side in pictures)
    generated, judge = model(source, driving), model.discriminator
    assert judge is not None
    discriminator_losses(judge(driving), judge(generated.detach())).sum().backward()
    alone = {name: p.grad.clone() for name, p in judge.named_parameters() if p.grad is not None}
    model.zero_grad()
    generator_losses(judge(generated)).sum().backward()
    drawing = {n: p.grad.clone() for n, p in model.motion_autoencoder.named_parameters() if p.grad is not None}
    assert any(value.abs().max() > 0 for value in drawing.values())
    for part, expected in (("discriminator", alone), ("motion_autoencoder", drawing)):
        for name, value in expected.items():
            torch.testing.assert_close(together[f"{part}.{name}"], value, rtol=1e-4, atol=1e-6)


def test_an_item_that_fills_a_place_costs_nothing() -> None:
    stage, model = autoencoder_stage("--gan_weight", "0"), AutoencoderTraining(AutoencoderSizes(16, 6, 3, 4), False)
    pictures = torch.randint(0, 256, (2, 1, 16, 16, 3), dtype=torch.uint8)
    loss, _ = stage.compute_loss(model, {"source": pictures[0], "driving": pictures[1], "counted": False})
    assert float(loss.detach()) == 0.0


def test_sizes_that_do_not_go_together_are_refused() -> None:
    for kind, flags, said in (
        (RectifiedFlowConfig, ["--dim_h", "30", "--num_heads", "4"], "no multiple of num_heads"),
        (RectifiedFlowConfig, ["--wav2vec_sec", "0.2"], "num_prev_frames 10 is more than the 5"),
        (RectifiedFlowConfig, ["--train_only", "--test_only"], "exclude each other"),
        (MotionAutoencoderConfig, ["--dim_m", "600"], "never orthogonal"),
        (MotionAutoencoderConfig, ["--input_size", "100"], "power of two"),
    ):
        with pytest.raises(InputError, match=said):
            parse_flags(flags, kind)


def test_the_published_sizes_are_the_defaults() -> None:
    (config,) = parse_flags([], RectifiedFlowConfig)
    sizes = config.speech_sizes(512)
    assert (sizes.frames, sizes.positions, sizes.dim_h, sizes.fmt_depth, sizes.num_heads) == (50, 60, 1024, 8, 8)
    assert (sizes.dim_a, sizes.dim_r, sizes.dim_e, sizes.attention_window, sizes.mlp_ratio) == (512, 512, 7, 2, 4.0)
    assert RectifiedFlow.defaults["lr"] == 1e-4


def test_scaled_motion_gives_its_coordinates_back() -> None:
    (config,) = parse_flags([], RectifiedFlowConfig)
    stage = RectifiedFlow(config, 0)
    basis = torch.linalg.qr(torch.randn(WIDE, COORDINATES))[0]
    vars(stage).update(basis=basis, model_config={"motion_scale": 4.0})
    coordinates = torch.randn(7, COORDINATES)
    motion = coordinates @ stage.motion_basis.T
    assert float(motion.norm()) == pytest.approx(4 * float(coordinates.norm()), rel=1e-5)
    torch.testing.assert_close(motion @ stage.coordinate_basis, coordinates)


def test_doctor_tells_what_is_in_the_clips(tmp_path: Path) -> None:
    folder = generate_talking_faces(tmp_path, clips=6, size=16, progress=False)
    clips = sorted(folder.glob("*/*/*.mp4"))
    held_out = folder / "test" / clips[5].parent.name
    held_out.parent.mkdir(exist_ok=True)
    clips[5].parent.rename(held_out)
    clips[0].with_suffix(".wav").write_bytes(b"no sound")
    clips[1].write_bytes(clips[1].read_bytes()[:300])
    stage = autoencoder_stage("--data_root", str(folder), "--fps", "30")
    counted, told, broken, *odd = stage.examine()
    assert (counted.level, told.level, broken.level) == ("pass", "pass", "warn")
    assert "5 of 6 looked at: 25 frames a second" in told.detail
    assert "16000 Hz (4)" in told.detail
    assert "after the picture by +0 frames" in told.detail
    assert clips[1].name in broken.detail
    assert sorted(finding.level for finding in odd) == ["warn"] * len(odd)
    assert any("5 of 6" in finding.detail and "25.00 frames a second, not 30" in finding.detail for finding in odd)
    assert any("1 of 6" in finding.detail and clips[0].stem in finding.detail for finding in odd)


def test_doctor_counts_clips_shorter_than_a_window(tmp_path: Path) -> None:
    folder = generate_talking_faces(tmp_path, clips=6, size=16, progress=False)
    clips = read_motion_clips(folder)
    assert [finding.level for finding in face_findings(clips, 60, 25.0)] == ["pass"]
    short = face_findings(clips, 500, 25.0)[1:]
    assert [finding.detail.split(":")[0] for finding in short] == ["6 of 6"]
    assert "(and 3 more)" in short[0].detail
