"""`uni-sign infer rectified_flow`: speech to the motion of a face, and to a video of it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from uni_sign.commands._inference import made_folder, precision
from uni_sign.commands.checkpoints import CheckpointConfig, checkpoint_flag, stage_of
from uni_sign.config import above, at_least, flag, parse_flags
from uni_sign.data.audio import RATE, loudness, read_audio
from uni_sign.data.demo.talking_faces import mouth_opening
from uni_sign.data.motion_clips import MotionClip, read_face, read_picture
from uni_sign.data.safe_tensors import load_tensors
from uni_sign.data.video_writer import write_video_with_sound
from uni_sign.errors import InputError
from uni_sign.metrics.motion import pearson, steps_at_borders
from uni_sign.models.audio_encoder import emotion_label
from uni_sign.models.motion_models import FLOW
from uni_sign.models.rectified_flow import Method, NfeMode, Solver, float_guidance, item_noise, sample
from uni_sign.stages._sign_flow import GUIDANCE
from uni_sign.stages._speech_features import SpeechFeatures, coordinates_of_pictures, picture_tensor
from uni_sign.stages.base import load_stage

_PICTURES = (".png", ".jpg", ".jpeg")
_BATCH = 32  # frames drawn at once


@dataclass(frozen=True)
class FlowInferConfig:
    """The flags of generated motion."""

    output_dir: Path = flag(Path("inference_rectified_flow"), "folder of the motion and the videos")
    text: str = flag("", "signing: the text")
    language: str = flag("", "signing: the text's language; default: the first that it was trained in")
    frames: int = flag(0, "signing: frames of the clip; 0: as many as the text is judged to need", check=at_least(0))
    translator: str = flag(
        "", "signing, with --split: best file of fine_tuning on poses alone, which translates the clips back"
    )
    audio: str = flag("", "the speech: a sound file, or a video with sound")
    reference: str = flag("", "the face: a picture, or a video, whose first frame it is")
    split: Literal["", "train", "dev", "test"] = flag(
        "", "instead of a text, or sound and face, the clips of this split; faces have train and test"
    )
    shuffle_audio: bool = flag(False, "give each clip of the split the sound of another one, to compare with")
    emotion: str = flag("", "angry, disgust, fear, happy, neutral, sad or surprise; default: the clip's, or neutral")
    r_cfg_scale: float = flag(1.0, "how far the reference is followed")
    a_cfg_scale: float = flag(2.0, "how far the sound is followed")
    text_cfg_scale: float = flag(GUIDANCE, "signing: how far the text is followed")
    e_cfg_scale: float = flag(1.0, "how far the emotion is followed")
    torchdiffeq_ode_method: Method = flag("euler", "how the flow is followed")
    nfe: int = flag(10, "how often a step method asks for the velocity", check=at_least(1))
    nfe_mode: NfeMode = flag("evaluations", "official: --nfe counts points, as the released code does: one step fewer")
    join_frames: int = flag(
        10,
        "frames over which each window of motion is led to where the last one ended; 0: as FLOAT",
        check=at_least(0),
    )
    ode_atol: float = flag(1e-5, "absolute tolerance of dopri5", check=above(0))
    ode_rtol: float = flag(1e-5, "relative tolerance of dopri5", check=above(0))
    seed: int = flag(15, "seed of the noise", check=at_least(0))
    dtype: Literal["bf16", "fp16", "fp32"] = flag("fp32", "precision of the computation")
    batch_size: int = flag(16, "signing: clips made at once, which changes nothing in them", check=at_least(1))
    videos: bool = flag(True, "draw the motion: a video with the sound, or a moving skeleton")

    def conflicts(self) -> str | None:
        """What does not go together, in one sentence."""
        if bool(self.audio) != bool(self.reference) or sum(map(bool, (self.audio, self.text, self.split))) != 1:
            return "Give --audio and --reference, or --text, or --split"
        for name in ("shuffle_audio", "translator"):
            if getattr(self, name) and not self.split:
                return f"--{name} needs --split"
        if (self.frames or self.language) and not self.text:
            return "--frames and --language need --text"
        try:
            self.solver()
        except ValueError as error:
            return str(error)
        return None

    def solver(self) -> Solver:
        """How the flow is followed; raises ValueError for what cannot be."""
        return Solver(self.torchdiffeq_ode_method, self.nfe, self.nfe_mode, self.ode_atol, self.ode_rtol)


@dataclass(frozen=True)
class _Job:
    """One video to make: the face, whose sound it has, and how it feels; ``own``: the sound of the face itself."""

    name: str
    face: Path
    sound: Path
    own: Path
    emotion: str


def infer_rectified_flow(name: str, argv: Sequence[str]) -> int:  # noqa: ARG001 - as the other inferences are called
    """Write a motion, and a video, of each job; over a split say how far mouths go with the sound."""
    stage, config = _stage(argv)
    if stage.config.motion == "signing":
        from uni_sign.commands.infer_signing import infer_signing

        return infer_signing(stage, config)
    if config.text or config.translator or config.split == "dev":
        raise InputError("The checkpoint makes faces talk: give --audio and --reference, or --split train or test.")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = _Generator(stage, config, device)
    folder = made_folder(config.output_dir)
    jobs, scores, problems = _jobs(stage, config), list[float](), list[str]()
    borders, inside = list[float](), list[float]()
    for job in tqdm(jobs, desc=FLOW, unit="clip", disable=len(jobs) == 1):
        try:
            made = generator.motion(job)
            own = read_audio(job.own, RATE) if config.split else made[1]
        except InputError as error:
            problems.append(str(error))
            continue
        for steps, found in zip((borders, inside), steps_at_borders(made[0], stage.sizes.frames), strict=True):
            steps += found.tolist()
        opening = _written(generator, job, made, folder)
        scores += [_mouth_and_sound(opening, own, stage.config.fps)] if config.split and len(opening) else []
    if len(problems) == len(jobs):
        raise InputError(problems[0])
    print("".join(f"Left out: {problem}\n" for problem in problems), end="")
    what, done = "motion and video" if config.videos else "motion", len(jobs) - len(problems)
    print(f"{folder}: {what} of {done} clip{'s' if done > 1 else ''}")
    if scores:
        heard = "; they heard another clip's" if config.shuffle_audio else ""
        told = f"Pearson {np.mean(scores):.3f} (mean of {len(scores)} clips{heard})"
        print(f"mouth opening and loudness of the clip's own sound: {told}")
    if config.split and borders:
        sides = [f"mean {np.mean(steps):.3f}, largest {np.max(steps):.3f}" for steps in (borders, inside)]
        print(f"step from frame to frame where a window begins: {sides[0]}; within windows: {sides[1]}")
    return 0


def _stage(argv: Sequence[str]) -> tuple[Any, FlowInferConfig]:
    """The stage of ``--checkpoint``, a best file or FLOAT's weights, and the parsed flags."""
    path, program = checkpoint_flag(argv), f"uni-sign infer {FLOW}"
    # How inference runs is its own: nothing of it comes from training.
    own = {name: getattr(FlowInferConfig, name) for name in ("dtype", "batch_size")}
    if "stage" in load_tensors(path):
        own_kinds = (CheckpointConfig, FlowInferConfig)
        stage_type, (_, config, stage_config) = stage_of(path, argv, *own_kinds, program=program, defaults=own)
        if stage_type.name != FLOW:
            raise InputError(f"{path} is of the stage {stage_type.name}: use `uni-sign infer {stage_type.name}`.")
    else:
        stage_type = load_stage(FLOW)
        kinds = (CheckpointConfig, FlowInferConfig, stage_type.Config)
        given = {**own, "finetune": str(path), "autoencoder_path": str(path)}
        _, config, stage_config = parse_flags(argv, *kinds, program=program, defaults=given)
    return stage_type(stage_config, config.seed), config


def _jobs(stage: Any, config: FlowInferConfig) -> list[_Job]:
    if not config.split:
        audio = Path(config.audio)
        return [_Job(audio.stem, Path(config.reference), audio, audio, config.emotion)]
    clips: list[MotionClip] = stage.clips["train" if config.split == "train" else "val"]
    # From the other end of the list: neighbours may say the same sentence.
    half = len(clips) // 2 if config.shuffle_audio else 0
    if config.shuffle_audio and not half:
        raise InputError(f"--shuffle_audio: --split {config.split} has but one clip, which would hear its own sound.")
    heard = [*clips[half:], *clips[:half]]
    sounds = [(other.audio or other.video, clip.audio or clip.video) for clip, other in zip(clips, heard, strict=True)]
    return [
        _Job(clip.name.replace("/", "_"), clip.video, sound, own, config.emotion or clip.emotion or "")
        for clip, (sound, own) in zip(clips, sounds, strict=True)
    ]


def _written(generator: "_Generator", job: _Job, made: tuple[np.ndarray, np.ndarray], folder: Path) -> np.ndarray:
    """Write a job's motion and video; returns how far the mouth is open (T,), of no frame where there is no video."""
    config, fps = generator.config, generator.fps
    coordinates, waveform = made
    motion = coordinates @ generator.basis.numpy().T
    _save(folder / f"{job.name}.npz", motion=motion, coordinates=coordinates, fps=fps)
    if not config.videos:
        return np.zeros(0)
    openings = list[np.ndarray]()

    def frames() -> Iterator[np.ndarray]:
        for pictures in generator.pictures(job.face, motion):
            openings.append(mouth_opening(pictures))
            yield from pictures

    write_video_with_sound(folder / f"{job.name}.mp4", frames(), fps, waveform, RATE)
    return np.concatenate(openings)


def _save(path: Path, **arrays: Any) -> None:
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            np.savez(file, **arrays)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InputError(f"{path} cannot be written ({error.strerror or error}): choose another folder.") from None


def _mouth_and_sound(opening: np.ndarray, waveform: np.ndarray, fps: float) -> float:
    """How far the mouth goes with the loudness of what that face says, whatever it heard."""
    frames = min(len(opening), max(1, round(len(waveform) * fps / RATE)))
    return pearson(opening[:frames], loudness(waveform, frames, fps))


class _Generator:
    """The trained flow between the frozen models."""

    def __init__(self, stage: Any, config: FlowInferConfig, device: torch.device) -> None:
        self._stage, self.config, self._device = stage, config, device
        self.fps: float = stage.config.fps
        self.basis: Tensor = stage.basis
        self._autoencoder = stage.autoencoder.to(device)
        self._model = stage.build_model().to(device).eval()
        self._speech = SpeechFeatures(stage.hearing, device)

    def motion(self, job: _Job) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates (T, dim_m) of a job's motion, and its sound (S,)."""
        config, sizes, fps = self.config, self._stage.sizes, self.fps
        waveform = read_audio(job.sound, RATE)
        frames = max(1, round(len(waveform) * fps / RATE))
        heard = self._speech(waveform, frames)
        face = coordinates_of_pictures(self._autoencoder, self._face(job.face)[None])
        reference = torch.from_numpy(face).to(self._device) @ self._stage.motion_basis.to(self._device).T
        with precision(config.dtype), torch.no_grad():
            audio = self._model.audio(torch.from_numpy(heard["audio"])[None].to(self._device))
            noise = item_noise([config.seed], -(-frames // sizes.frames), sizes.frames, sizes.dim_w)
            found = sample(
                self._model,
                noise.to(self._device),
                audio,
                reference[None],
                self._emotion(job, heard),
                num_prev_frames=sizes.num_prev_frames,
                guidance=float_guidance(config.r_cfg_scale, config.a_cfg_scale, config.e_cfg_scale),
                solver=config.solver(),
                join_frames=config.join_frames,
            )
        coordinates: np.ndarray = (found[0].float().cpu() @ self._stage.coordinate_basis).numpy()
        return coordinates, waveform

    def _emotion(self, job: _Job, heard: Mapping[str, np.ndarray]) -> Tensor:
        """That of the flag or the clip; else what the classifier hears, where the model was trained with one."""
        if "emotion" in heard and not self.config.emotion:
            return torch.from_numpy(heard["emotion"]).float()[None, None].to(self._device)
        return emotion_label(job.emotion or "neutral").to(self._device)

    def _face(self, path: Path) -> np.ndarray:
        size = self._autoencoder.sizes.input_size
        return (read_picture if path.suffix.lower() in _PICTURES else read_face)(path, size)

    @torch.no_grad()
    def pictures(self, face: Path, motion: np.ndarray) -> Iterator[np.ndarray]:
        """A face in motion (T, dim_w): (T, S, S, 3) uint8, in pieces."""
        source, features = self._autoencoder.encode(picture_tensor(self._face(face)[None], self._autoencoder))
        for first in range(0, len(motion), _BATCH):
            moved = torch.from_numpy(motion[first : first + _BATCH]).to(self._device)
            drawn = self._autoencoder.decode(source, moved, features).float().clamp(-1, 1)
            yield ((drawn + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
