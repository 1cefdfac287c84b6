"""Speech to the motion of a face by rectified flow (FLOAT, arXiv 2412.01064)."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from uni_sign.data.feature_cache import digest_of
from uni_sign.data.safe_tensors import load_tensors
from uni_sign.data.signs import Key
from uni_sign.errors import InputError
from uni_sign.metrics.motion import pearson
from uni_sign.models.audio_encoder import EMOTIONS, emotion_label
from uni_sign.models.exact import exact_product
from uni_sign.models.flow_transformer import FlowBlock, FlowSizes, drop_conditions
from uni_sign.models.motion_autoencoder import MotionAutoencoder
from uni_sign.models.motion_models import (
    FLOW,
    load_speech_motion,
    model_config_of,
    motion_autoencoder,
    speech_motion,
)
from uni_sign.models.rectified_flow import (
    FlowLosses,
    Solver,
    estimated_data,
    float_guidance,
    flow_losses,
    interpolate,
    item_noise,
    lambda_errors,
    sample_clip,
    span_errors,
    stratified_times,
    velocity_target,
)
from uni_sign.models.speech_motion import SpeechMotion
from uni_sign.models.wav2vec2 import feature_width, read_wav2vec2_config
from uni_sign.models.weights import fingerprint, unwrap
from uni_sign.stages._cached import Extractor
from uni_sign.stages._faces import Faces
from uni_sign.stages._held_out_loss import on_any_rank
from uni_sign.stages._motion_windows import Draws, Features, MotionWindows
from uni_sign.stages._speech_features import Hearing, SpeechFeatures, clip_features
from uni_sign.stages.base import Batch, BestFile, Evaluation

_TIMES = 4  # of a validated window
_SAMPLED = 8  # windows whose motion is sampled
_SAME = 1e-3
_SCORES = ("loss", "loss_span", "lambda_mae")
_SPEECH_ADVICE = "put facebook/wav2vec2-base-960h there, or point --wav2vec_model_path elsewhere"


class SpeechFlow(Faces):
    """Noise to motion, as speech, a reference and an emotion have it."""

    name: ClassVar[str] = FLOW
    best_file: ClassVar[BestFile] = BestFile()

    def __init__(self, config: Any, seed: int) -> None:
        super().__init__(config, seed)
        self.evaluations = 0

    @cached_property
    def trained(self) -> dict[str, Any] | None:
        """The content of ``--finetune``."""
        return load_tensors(self.config.finetune) if self.config.finetune else None

    @cached_property
    def autoencoder(self) -> MotionAutoencoder:
        """The frozen model of faces; dropped when features are there."""
        path = self.config.autoencoder_path
        return motion_autoencoder(load_tensors(path), str(path))

    @cached_property
    def hearing(self) -> Hearing:
        """The frozen models of speech."""
        config = self.config
        emotions = Path(config.emotion_model_path) if config.emotion_model_path else None
        return Hearing(config.wav2vec_model_path, emotions, config.only_last_features)

    @cached_property
    def basis(self) -> Tensor:
        """Q (dim_w, dim_m) of the autoencoder; raises InputError where ``--finetune`` was trained on another."""
        basis = self.autoencoder.basis().detach().cpu()  # wherever the model is put to work
        known = self.trained.get("basis") if self.trained is not None else None
        if isinstance(known, Tensor) and (known.shape != basis.shape or not torch.allclose(known, basis, atol=_SAME)):
            raise InputError(
                f"{self.config.finetune} was trained on the motion of another autoencoder than --autoencoder_path "
                f"{self.config.autoencoder_path}: give that one."
            )
        return basis

    @cached_property
    def model_config(self) -> dict[str, Any]:
        """All that rebuilds the model: that of ``--finetune``, or what flags and frozen models tell."""
        config = self.config
        speech = read_wav2vec2_config(config.wav2vec_model_path, "wav2vec2 model", _SPEECH_ADVICE)
        width = feature_width(speech, config.only_last_features)
        told = {
            **{"sizes": asdict(config.speech_sizes(len(self.basis))), "audio_width": width, "fps": config.fps},
            "motion_scale": config.motion_scale,
        }
        known = model_config_of(self.trained, self.name, config.finetune) if self.trained is not None else None
        if known is None:
            return told
        self._check_known(known, told)
        if known != told:
            self.notes.append(f"Its sizes are those of --finetune, not of flags or defaults: {known['sizes']}.")
        return known

    def _check_known(self, known: Mapping[str, Any], told: Mapping[str, Any]) -> None:
        source = self.config.finetune
        try:
            with torch.device("meta"):
                sizes = speech_motion(known).sizes
        except (ValueError, TypeError) as error:
            raise InputError(f"{source} describes no model that can be built: {error}.") from None
        if sizes.dim_w != len(self.basis):
            raise InputError(
                f"{source} makes motion of {sizes.dim_w} values, --autoencoder_path {self.config.autoencoder_path} of "
                f"{len(self.basis)}: give the one that it was trained on."
            )
        scale = known.get("motion_scale")
        if not isinstance(scale, float) or not 0 < scale < float("inf"):
            raise InputError(f"{source} does not say how its motion is scaled: train it anew.")
        for name, what in (("audio_width", "features of another width"), ("fps", "another rate")):
            if known.get(name) != told[name]:
                raise InputError(
                    f"{source} was trained on {what}, {known.get(name)} and not {told[name]}: give its own "
                    "--wav2vec_model_path, --only_last_features and --fps."
                )

    @property
    def motion_basis(self) -> Tensor:
        """What makes motion, as the flow has it, of coordinates: (dim_w, dim_m)."""
        scaled: Tensor = self.basis * self.model_config["motion_scale"]
        return scaled

    @property
    def coordinate_basis(self) -> Tensor:
        """What gives the coordinates of such motion: (dim_w, dim_m)."""
        scaled: Tensor = self.basis / self.model_config["motion_scale"]
        return scaled

    @property
    def least_frames(self) -> int:
        """Those of a window."""
        return self.sizes.positions

    @property
    def sizes(self) -> FlowSizes:
        """Those of the network."""
        return FlowSizes(**self.model_config["sizes"])

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """What features of clips depend on."""
        seen = hashlib.blake2b(fingerprint(self.autoencoder.state_dict()), digest_size=8).hexdigest()
        return {"what": "speech and motion", "autoencoder": seen, "fps": self.config.fps, **self.hearing.settings()}

    @property
    def frozen_inputs(self) -> str:
        """Of other frozen models, and on another scale, motion is another; what is loaded is frozen."""
        own = {"motion_scale": self.model_config["motion_scale"], "loaded": self.trained is not None}
        return digest_of({**self.settings, **own})

    def check(self) -> None:
        """Read every input that can be known to be wrong before training; raises InputError."""
        _ = self.model_config
        super().check()

    def extractor(self, device: torch.device) -> Extractor:
        """The frozen models at work."""
        autoencoder, speech = self.autoencoder.to(device), SpeechFeatures(self.hearing, device)
        fps = self.config.fps
        return lambda clips: [dict(clip_features(clip, autoencoder, speech, fps)) for clip in clips]

    def prepare(self, accelerator: Any) -> None:
        """Collective: the features of all clips, once; then the frozen models go."""
        _ = self.settings, self.model_config
        super().prepare(accelerator)
        self.__dict__.pop("autoencoder", None)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @cached_property
    def splits(self) -> dict[str, MotionWindows]:
        """Windows of the clips that are long enough."""
        return {name: self._windows(name) for name in self.clips}

    def _windows(self, name: str) -> MotionWindows:
        sizes, config = self.sizes, self.config
        clips, lengths = [], []
        for clip in self.clips[name]:
            length = len(self.cache.load(clip)["coordinates"])
            if length >= sizes.positions:
                clips.append(clip)
                lengths.append(length)
            else:
                self.problems.append(f"{clip.video} has {length} frames, fewer than the {sizes.positions} of a window.")
        if not clips:
            raise InputError(f"{self.root}: no clip for {name} has the {sizes.positions} frames of a window.")
        rates = {
            **{"wa": config.audio_dropout_prob, "wr": config.ref_dropout_prob, "we": config.emotion_dropout_prob},
            **(dict.fromkeys(("prev_x", "prev_wa"), config.prev_dropout_prob) if sizes.num_prev_frames else {}),
        }
        draws = Draws(rates, config.t_sampling, config.reference_frame, self.seed) if name == "train" else None

        def read(number: int) -> Features:
            emotion = clips[number].emotion
            # Not told is as if it were lost.
            label = emotion_label(emotion)[0, 0].numpy() if emotion else np.zeros(len(EMOTIONS), np.float32)
            return {"emotion": label, **self.cache.load(clips[number])}

        names = [clip.name for clip in clips]
        return MotionWindows(read, names, lengths, self.motion_basis, sizes.frames, sizes.num_prev_frames, draws)

    def largest_batch(self, items: int, frames: int) -> Batch:  # noqa: ARG002 - all alike
        """Windows without a content: features need not be there yet."""
        _ = self.clips
        sizes, width = self.sizes, self.model_config["audio_width"]
        blank = {
            "coordinates": np.zeros((sizes.positions, self.basis.shape[1]), np.float32),
            "audio": np.zeros((sizes.positions, width), np.float16),
            "emotion": np.zeros(sizes.dim_e, np.float32),
        }
        shape = (self.motion_basis, sizes.frames, sizes.num_prev_frames, Draws(dict.fromkeys(("wa", "wr", "we"), 0.0)))
        windows = MotionWindows(lambda _: blank, [""], [sizes.positions], *shape)
        return self.collate([windows[Key(0, 0)] for _ in range(items)])

    def meta_model(self) -> nn.Module:
        """The model without its weights, with what is frozen frozen."""
        with torch.device("meta"):
            return self._frozen(speech_motion(self.model_config))

    def _frozen(self, model: SpeechMotion) -> SpeechMotion:
        """The projection of sound trains unless it is loaded, as the models behind it are."""
        model.audio_encoder.audio_projection.requires_grad_(self.trained is None)
        return model

    def build_model(self) -> nn.Module:
        """The model with its starting weights, and with what is frozen frozen."""
        model = self._frozen(speech_motion(self.model_config))
        if self.trained is not None:
            checkpoint = unwrap(self.trained, self.config.finetune)
            self.notes.append(load_speech_motion(model, checkpoint))
        return model

    def hot_modules(self, model: Any) -> list[nn.Module]:
        """The blocks."""
        return [module for module in model.modules() if isinstance(module, FlowBlock)]

    def conditions(self, model: Any, batch: Batch) -> dict[str, Tensor]:
        """What the network is told of each window, by its names; previous frames where there are any."""
        heard, before = model.audio(batch["audio"]), self.sizes.num_prev_frames
        told = {"wa": heard[:, before:], "wr": batch["reference"], "we": batch["emotion"]}
        past = {"prev_x": batch["motion"][:, :before], "prev_wa": heard[:, :before]} if before else {}
        return told | past

    def compute_loss(self, model: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of each window at its own time and noise, summed over those that count."""
        before = self.sizes.num_prev_frames
        past, x1 = batch["motion"][:, :before], batch["motion"][:, before:]
        x0, t = batch["noise"], batch["t"][:, 0]
        lost = {name.removeprefix("lost_"): value[:, 0] for name, value in batch.items() if name.startswith("lost_")}
        conditions = drop_conditions(self.conditions(model, batch), lost)
        velocity = model(t, interpolate(x0, x1, t), **conditions)
        losses = self._losses(velocity, velocity_target(x0, x1), past)
        logs = {"flow_loss": losses.flow.detach().mean(), "velocity_loss": losses.velocity.detach().mean()}
        return losses.total.sum() * float(batch["counted"]), logs

    def evaluate(self, model: Any, loader: Any, accelerator: Any) -> Evaluation:
        """Scores at fixed noise and times, and now and then motion that is sampled."""
        self.evaluations += 1
        return super().evaluate(model, loader, accelerator)

    @torch.no_grad()
    def predict(self, model: Any, batch: Batch) -> list[dict[str, Any]]:
        """Errors of each window, means over fixed times; of the first windows sampled motion, where it is due."""
        motion = batch["motion"]
        before, x1 = self.sizes.num_prev_frames, motion[:, self.sizes.num_prev_frames :]
        seeds = [max(0, index) for index in batch["indices"]]
        noise = item_noise(seeds, _TIMES, x1.shape[1], x1.shape[2]).to(x1)
        times = stratified_times(torch.tensor(seeds, device=x1.device), _TIMES)
        conditions, basis = self.conditions(model, batch), self.basis.to(x1)
        found: dict[str, Tensor] = {name: x1.new_zeros(len(x1)) for name in _SCORES}
        for number in range(_TIMES):
            x0, t = noise[:, number], times[:, number]
            x_t, target = interpolate(x0, x1, t), velocity_target(x0, x1)
            velocity = model(t, x_t, **conditions)
            now = velocity[:, before:] if velocity.shape[1] > x1.shape[1] else velocity
            errors = (
                self._losses(velocity, target, motion[:, :before]).total,
                span_errors(velocity, target, basis),
                lambda_errors(estimated_data(x_t, now, t), x1, self.coordinate_basis.to(x1)),
            )
            for name, error in zip(_SCORES, errors, strict=True):
                found[name] += error / _TIMES
        rows = [
            {"index": index, "name": name, **{score: float(values[place]) for score, values in found.items()}}
            for place, (index, name) in enumerate(zip(batch["indices"], batch["names"], strict=True))
        ]
        self._sample(model, noise[:, 0], conditions, x1, rows)
        return [row for row in rows if row["index"] >= 0]

    def _losses(self, velocity: Tensor, target: Tensor, past: Tensor) -> FlowLosses:
        """What training minimises, of each window."""
        config = self.config
        weights = {name: getattr(config, name) for name in ("lambda_flow", "lambda_velocity", "prev_weight")}
        return flow_losses(velocity, target, kind=config.loss_type, previous=past, **weights)

    def _sample(
        self, model: Any, noise: Tensor, conditions: Mapping[str, Tensor], x1: Tensor, rows: list[dict[str, Any]]
    ) -> None:
        """Put true and sampled coordinates into the rows of the first windows, where that is due."""
        step = self.config.sample_step
        chosen = [place for place, row in enumerate(rows) if 0 <= row["index"] < _SAMPLED]
        if not step or (self.evaluations - 1) % step or not on_any_rank(bool(chosen)):
            return
        asked = chosen or [0]
        told = {name: value[asked] for name, value in conditions.items()}
        motion = sample_clip(model, noise[asked], told, float_guidance(), Solver())
        basis = self.coordinate_basis.to(x1)
        for place, sampled in zip(chosen, motion, strict=False):
            rows[place]["true"] = exact_product(x1[place], basis).cpu().numpy()
            rows[place]["sampled"] = exact_product(sampled, basis).cpu().numpy()

    def scored(self, rows: list[dict[str, Any]]) -> Evaluation:
        """Means of the windows' errors, and how sampled motion goes with the true one."""
        scores = {name: float(np.mean([row[name] for row in rows])) for name in _SCORES}
        drawn = []
        for row in rows:
            del row["index"]
            if "sampled" in row:
                drawn.append((row["name"], row.pop("true"), row.pop("sampled")))
        strips: list[tuple[str, np.ndarray]] = []
        if drawn:
            alike = [pearson(*((side - side.mean(axis=0)).ravel() for side in pair)) for _, *pair in drawn]
            scores["sampled_correlation"] = float(np.mean(alike))
            strips = [strip for name, *pair in drawn for strip in _strips(name, *pair)]
        maps = {"motion": strips} if strips else {}
        return Evaluation({**scores, "n": len(rows)}, rows, heat_maps=maps)

    def checkpoint_extras(self) -> dict[str, Any]:
        """Stage, flags, sizes that rebuild the model, and the directions of its motion."""
        told = {"stage": self.name, "config": self.plain_flags(), "model_config": self.model_config}
        return {**told, "basis": self.basis}


def _strips(name: str, true: np.ndarray, sampled: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """The coordinate that moves most, true and sampled (L, M), in shares of the way that the true one goes."""
    most = true.std(axis=0).argmax()
    low, high = true[:, most].min(), true[:, most].max()
    sides = (("true", true), ("sampled", sampled))
    return [(f"{name} {what}", ((side[:, most] - low) / max(high - low, 1e-6)).clip(0, 1)) for what, side in sides]
