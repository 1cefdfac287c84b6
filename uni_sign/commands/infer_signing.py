"""`uni-sign infer rectified_flow` with a model of signing: text in, pose files and moving skeletons out."""

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from tqdm import tqdm

from uni_sign import __version__
from uni_sign.canvas import write_gif
from uni_sign.commands._inference import made_folder, precision
from uni_sign.commands.checkpoints import CheckpointConfig, stage_of
from uni_sign.data.pose_vectors import POSE_VALUES, pose_of_vectors, pose_vectors
from uni_sign.data.samples import Sample, Samples
from uni_sign.data.signs import Clip, Key
from uni_sign.data.wholebody import write_npz
from uni_sign.errors import InputError
from uni_sign.models.rectified_flow import item_noise
from uni_sign.skeletons import clip_of, film
from uni_sign.stages._sign_flow import signing_scores

_FILMED = 4  # clips of a split that are drawn
_SAMPLED = 8  # frames of a film whose colours are those of all
_EXTRACTOR = {"name": "uni_sign", "version": __version__, "mode": "rectified_flow"}


def infer_signing(stage: Any, config: Any) -> int:
    """Write poses and a film of a text, or of the clips of a split, and how near those are to the true ones."""
    if config.audio or config.shuffle_audio or config.split == "train":
        raise InputError("The checkpoint signs texts: give --text, or --split dev or test.")
    signer = _Signer(stage, config)
    folder = made_folder(config.output_dir)
    try:
        return _sign_text(stage, config, signer, folder) if config.text else _sign_split(stage, config, signer, folder)
    except OSError as error:
        raise InputError(f"--output_dir {folder} cannot be written ({error.strerror or error}).") from error


class _Signer:
    """The trained flow behind the frozen text encoder."""

    def __init__(self, stage: Any, config: Any) -> None:
        self._stage, self._config = stage, config
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = stage.build_model().to(self._device).eval()
        self._read = stage.extractor(self._device)

    def sign(
        self, texts: Sequence[str], languages: Sequence[str], numbers: Sequence[int], frames: int = 0
    ) -> list[np.ndarray]:
        """Poses (T, values) of texts; noise depends on the seed and a text's number alone. Frames 0: predicted."""
        stage, config = self._stage, self._config
        strange = sorted(set(languages) - set(stage.languages))
        if strange:
            raise InputError(f"It does not sign in {strange[0]}: use --language {' or '.join(stage.languages)}.")
        longest = stage.sizes.frames
        if frames > longest:
            raise InputError(f"--frames {frames} are more than the {longest} of the model: give fewer.")
        read = [torch.from_numpy(row["text"].astype(np.float32)) for row in self._read(texts)]
        told = {
            "text": torch.nn.utils.rnn.pad_sequence(read, batch_first=True),
            "language": torch.tensor([stage.languages.index(language) for language in languages]),
        }
        told["text_mask"] = torch.arange(told["text"].shape[1]) < torch.tensor([len(row) for row in read])[:, None]
        seeds = [int(np.random.SeedSequence([config.seed, number]).generate_state(1)[0]) for number in numbers]
        noise = item_noise(seeds, 1, longest, POSE_VALUES)[:, 0].to(self._device)
        told = {name: value.to(self._device) for name, value in told.items()}
        given = [frames] * len(texts) if frames else None
        with precision(config.dtype):
            made: list[np.ndarray] = stage.sampled(
                self._model, noise, told, config.solver(), config.text_cfg_scale, given
            )
        return made


def _write(path: Path, poses: np.ndarray) -> None:
    pose, partial = pose_of_vectors(poses), path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            write_npz(file, pose.keypoints, pose.scores, _EXTRACTOR)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _film(path: Path, text: str, poses: np.ndarray, fps: float) -> None:
    pose = pose_of_vectors(poses)
    content = {"keypoints": pose.keypoints[:, None], "scores": pose.scores[:, None]}
    frames = film(replace(clip_of(text, content), origin="as generated"))
    sample = list(itertools.islice(frames, _SAMPLED))
    write_gif(path, itertools.chain(sample, frames), sample, 1 / fps)


def _sign_text(stage: Any, config: Any, signer: _Signer, folder: Path) -> int:
    [poses] = signer.sign([config.text], [config.language or stage.languages[0]], [0], config.frames)
    _write(folder / "signing.npz", poses)
    if config.videos:
        _film(folder / "signing.gif", config.text, poses, stage.config.fps)
    print(f"{folder}: {len(poses)} frames of poses{' and a film' if config.videos else ''}")
    return 0


def _sign_split(stage: Any, config: Any, signer: _Signer, folder: Path) -> int:
    """All clips of a split; DTW-MJE, way and time beside the true ones, and both sides' BLEU when translated back."""
    samples = stage.read_split(config.split).samples
    found, signed, clips = list[dict[str, float]](), list[Sample](), stage.dataset(samples)
    bar = tqdm(_signed(config, signer, samples), desc="signing", unit="clip", total=len(samples))
    for number, (sample, generated) in enumerate(bar):
        # Clips of several corpora may have one name.
        home = made_folder(folder / "poses" / (sample.corpus if len(stage.corpora) > 1 else ""))
        path = home / f"{sample.pose_path.stem}.npz"
        _write(path, generated)
        signed.append(replace(sample, pose_path=path, size=path.stat().st_size, mtime_ns=path.stat().st_mtime_ns))
        true = clips[Key(0, number)]
        found += [signing_scores(generated, pose_vectors(true.parts))] if isinstance(true, Clip) else []
        if config.videos and number < _FILMED:
            _film(folder / f"{sample.name}.gif", sample.target, generated, stage.config.fps)
    found = [one for one in found if one]
    scores = {name: float(np.mean([one[name] for one in found])) for name in (found[0] if found else ())}
    if config.translator:
        sides = {"signed": Samples(signed), "true": samples}
        scores |= _translated_back(Path(config.translator), stage.root, sides, config.batch_size)
    (folder / "scores.json").write_text(json.dumps({**scores, "n": len(signed)}, indent=1) + "\n", encoding="utf-8")
    lines = [f"  {name:<16} {value:.3f}" for name, value in scores.items()]
    print("\n".join([f"{folder}: poses of {len(signed)} clips", *lines]))
    return 0


def _signed(config: Any, signer: _Signer, samples: Samples) -> Iterator[tuple[Sample, np.ndarray]]:
    """Each clip with what is generated of its text."""
    for first in range(0, len(samples), config.batch_size):
        numbers = range(first, min(first + config.batch_size, len(samples)))
        chosen = [samples[number] for number in numbers]
        poses = signer.sign([one.target for one in chosen], [one.language for one in chosen], numbers)
        yield from zip(chosen, poses, strict=True)


def _translated_back(checkpoint: Path, root: Path, sides: dict[str, Samples], batch_size: int) -> dict[str, float]:
    """BLEU-4 of what a trained model of poses reads in the generated clips, and in the true ones: its ceiling."""
    program = "uni-sign infer rectified_flow"
    argv = ["--checkpoint", str(checkpoint), "--data_root", str(root)]
    stage_type, (_, stage_config) = stage_of(checkpoint, argv, CheckpointConfig, program=program)
    reads_poses = stage_type.name in ("fine_tuning", "pre_training") and stage_config.task == "SLT"
    if not reads_poses or stage_config.use_descriptions or stage_config.rgb_support:
        raise InputError(f"--translator {checkpoint} does not translate poses alone: train fine_tuning without more.")
    stage = stage_type(stage_config, 0)
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    model = stage.build_model().to(accelerator.device).eval()
    scores = {}
    for side, samples in sides.items():
        keys = [Key(0, index) for index in range(len(samples))]
        batches = [keys[first : first + batch_size] for first in range(0, len(keys), batch_size)]
        loader = DataLoader(stage.dataset(samples, False, None), batch_sampler=batches, collate_fn=stage.collate())
        found = stage.evaluate(model, loader, accelerator)
        scores[f"bleu4_{side}"] = found.scores["bleu4"]
    scores["bleu4_share"] = scores["bleu4_signed"] / max(scores["bleu4_true"], 1e-9)
    return scores
