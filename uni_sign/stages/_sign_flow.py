"""Text to signing by rectified flow: noise to the poses of a clip, as its text and language have it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor, nn

from uni_sign.data.corpora import Corpus
from uni_sign.data.feature_cache import FeatureCache, digest_of
from uni_sign.data.mixed_corpora import read_mixed_split
from uni_sign.data.pose_vectors import joints, pose_vectors
from uni_sign.data.safe_tensors import load_tensors
from uni_sign.data.sampled_bytes import folder_digest
from uni_sign.data.samples import Samples
from uni_sign.data.shards import Shards, open_shards
from uni_sign.data.signs import MAX_TEXT_TOKENS, Clip, ClipSettings, Key, SignDataset, Unusable
from uni_sign.data.splits import Split
from uni_sign.data.tokenizer import Tokenizer
from uni_sign.errors import InputError
from uni_sign.metrics.motion import distance_ratio, dtw_mje, duration_ratio
from uni_sign.models.flow_transformer import FlowBlock, FlowSizes, drop_conditions
from uni_sign.models.motion_models import FLOW, model_config_of
from uni_sign.models.mt5 import load_text_stack, read_config
from uni_sign.models.rectified_flow import Solver, interpolate, item_noise, sample_clip, stratified_times
from uni_sign.models.signing_flow import (
    POSE_VALUES,
    PoseScale,
    SigningLosses,
    SigningMotion,
    length_losses,
    predicted_frames,
    signing_bones,
    signing_losses,
    signing_motion,
)
from uni_sign.models.weights import load_checkpoint, unwrap
from uni_sign.stages._cached import Extractor, fill_cache, status
from uni_sign.stages._corpora import check_task, corpora_of, mt5_folder_of
from uni_sign.stages._flow_config import RectifiedFlowConfig
from uni_sign.stages._frame_counts import frames_by_split
from uni_sign.stages._held_out_loss import HeldOutLoss, on_any_rank
from uni_sign.stages._sign_items import SignDraws, SignItems, blank_item, collate_signs
from uni_sign.stages.base import Batch, BestFile, Datasets, Evaluation, to_device

_TIMES = 4  # of a validated clip
_SAMPLED = 8  # clips whose signing is sampled
_MEASURED = 256  # clips whose poses tell the scale
_LEAST_DEVIATION = 1e-3
_TEXTS = 64  # that go through the text encoder at once
_SPLITS = {"train": "train", "val": "dev"}
_SCORES = ("loss", "flow_loss", "velocity_loss", "reconstruction", "bone", "length")
_SEEN = 0.3  # scores above count as seen, as everywhere
GUIDANCE = 1.5


class SignFlow(HeldOutLoss):
    """Noise to poses."""

    name: ClassVar[str] = FLOW
    best_file: ClassVar[BestFile] = BestFile()

    def __init__(self, config: RectifiedFlowConfig, seed: int) -> None:
        super().__init__(config, seed)
        self.evaluations, self.problems = 0, list[str]()

    @property
    def root(self) -> Path:
        """The folder of the corpora."""
        return Path(self.config.data_root or ".")

    @cached_property
    def corpora(self) -> list[Corpus]:
        """The corpora of ``--dataset``, or the default one, said aloud."""
        corpora, weights = corpora_of(self.config.dataset, self.root, "CSL_Daily", self.notes)
        if weights:
            raise InputError(f"--dataset {self.config.dataset}: signing takes no weights, every clip counts once.")
        return corpora

    @property
    def mt5_folder(self) -> Path:
        """The mT5 folder of ``--mt5``, or the corpus's default."""
        return mt5_folder_of(self.config.mt5, self.corpora, self.root)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the mT5 folder."""
        return Tokenizer(self.mt5_folder)

    @cached_property
    def parts(self) -> dict[str, Split]:
        """Usable clips of the training part and the held-out one."""
        return {name: self.read_split(split) for name, split in _SPLITS.items()}

    def read_split(self, split: str) -> Split:
        """Usable clips of one split of the corpora."""
        return read_mixed_split(self.corpora, self.config.task, split, videos=False)

    @cached_property
    def shards(self) -> Shards | None:
        """Prepared poses, where there are any."""
        return open_shards(*dict.fromkeys(corpus.shard_dir for corpus in self.corpora))

    @cached_property
    def cache(self) -> FeatureCache:
        """What the frozen text encoder makes of the texts."""
        return FeatureCache(Path(self.config.cache_dir or self.root / ".cache" / "texts"), self._settings)

    @property
    def frozen_inputs(self) -> str:
        """Of another encoder texts are others."""
        return digest_of(self._settings)

    @cached_property
    def _settings(self) -> dict[str, Any]:
        return {"what": "texts", "mt5": folder_digest(self.mt5_folder), "pieces": MAX_TEXT_TOKENS}

    @cached_property
    def trained(self) -> dict[str, Any] | None:
        """The content of ``--finetune``."""
        return load_tensors(self.config.finetune) if self.config.finetune else None

    @cached_property
    def model_config(self) -> dict[str, Any]:
        """All that rebuilds the model: that of ``--finetune``, or what flags and corpora tell."""
        config, known = self.config, None
        if self.trained is not None:
            known = model_config_of(self.trained, self.name, config.finetune)
            return self._known(known)
        languages = sorted(self.parts["train"].samples.languages.distinct)
        longest = config.max_length or max(corpus.max_length for corpus in self.corpora)
        sizes = config.signing_sizes(longest, read_config(self.mt5_folder).d_model, len(languages))
        return {"sizes": asdict(sizes), "languages": languages}

    def _known(self, known: dict[str, Any] | None) -> dict[str, Any]:
        source, width = self.config.finetune, read_config(self.mt5_folder).d_model
        try:
            with torch.device("meta"):
                sizes = signing_motion(known or {}).sizes
        except (ValueError, TypeError) as error:
            raise InputError(f"{source} is no text to signing: {error}.") from None
        if sizes.dim_text != width:
            raise InputError(
                f"{source} was trained on text of {sizes.dim_text} values, the mT5 in {self.mt5_folder} has {width}: "
                "give its own by --mt5."
            )
        assert known is not None
        told = self.config.signing_sizes(sizes.frames, width, len(known["languages"]))
        if self.config.max_length not in (0, sizes.frames) or told != sizes:
            self.notes.append(f"Its sizes are those of --finetune, not of flags or defaults: {known['sizes']}.")
        return known

    @property
    def sizes(self) -> FlowSizes:
        """Those of the network."""
        return FlowSizes(**self.model_config["sizes"])

    @property
    def languages(self) -> list[str]:
        """Those that it signs in, in the order of their numbers."""
        languages: list[str] = self.model_config["languages"]
        return languages

    def check(self) -> None:
        """Read every input that can be known to be wrong before training; raises InputError."""
        check_task(self.config.task, self.corpora)
        _ = self.tokenizer, self.model_config, self.cache, self.trained
        for name, part in self.parts.items():
            strange = set(part.samples.languages.distinct) - set(self.languages)
            if strange:
                raise InputError(f"{name} has clips in {min(strange)}, which no training clip is in: leave them out.")
        if self.config.check_status:
            raise status(self.cache, self.texts)

    def counted(self) -> str:
        """The clips of each part, for a person."""
        return ", ".join(f"{len(part.samples)} {name} clips" for name, part in self.parts.items())

    @property
    def texts(self) -> dict[str, list[str]]:
        """The distinct texts of each part."""
        return {
            name: list(dict.fromkeys(sample.target for sample in part.samples)) for name, part in self.parts.items()
        }

    @cached_property
    def scale(self) -> PoseScale:
        """That of ``--finetune``, or of training clips spread evenly."""
        if self.trained is not None:
            known = self.trained.get("pose_scale")
            if (
                not isinstance(known, Tensor)
                or known.shape != (2, POSE_VALUES)
                or not (known.isfinite().all() and (known[1] > 0).all())
            ):
                raise InputError(f"{self.config.finetune} does not say how its poses are scaled: train it anew.")
            return PoseScale(*known.float())
        dataset = self.dataset(self.parts["train"].samples)
        spread = np.unique(np.linspace(0, len(dataset) - 1, min(_MEASURED, len(dataset))).round().astype(int))
        read = [dataset[Key(0, int(index))] for index in spread]
        clips = [clip for clip in read if isinstance(clip, Clip)]
        if not clips:
            problem = next(clip.problem for clip in read if isinstance(clip, Unusable))
            raise InputError(f"None of {len(spread)} training clips can be read; the first: {problem}")
        values = np.concatenate([pose_vectors(clip.parts) for clip in clips])
        mean, deviation = values.mean(axis=0), np.maximum(values.std(axis=0), _LEAST_DEVIATION)
        return PoseScale(torch.from_numpy(mean), torch.from_numpy(deviation))

    def prepare(self, accelerator: Any) -> None:
        """Collective: the features of all texts, once."""
        self.problems = fill_cache(self, self.texts, accelerator, "texts to features", _TEXTS)

    def extractor(self, device: torch.device) -> Extractor:
        """The frozen text encoder at work: pieces (S, width) of texts, half the disk in float16."""
        encoder = load_text_stack(self.mt5_folder).to(device).eval()

        @torch.inference_mode()
        def extract(texts: Sequence[str]) -> list[dict[str, np.ndarray]]:
            ids = [torch.tensor(row) for row in self.tokenizer.encode_all(texts, MAX_TEXT_TOKENS)]
            padded = nn.utils.rnn.pad_sequence(ids, batch_first=True).to(device)
            real = torch.arange(padded.shape[1]) < torch.tensor([len(row) for row in ids])[:, None]
            states = encoder(input_ids=padded, attention_mask=real.to(device)).last_hidden_state.cpu()
            return [{"text": one[: len(row)].numpy().astype(np.float16)} for one, row in zip(states, ids, strict=True)]

        return extract

    def read_text(self, text: str) -> np.ndarray:
        """What the cache has of a text, (S, width) float32."""
        return self.cache.load(text)["text"].astype(np.float32)

    def dataset(self, samples: Samples) -> SignDataset:
        """The clips themselves; long ones are sped up evenly, in training too, as their text is that of the whole."""
        settings = ClipSettings(self.sizes.frames, MAX_TEXT_TOKENS, self.seed, training=False)
        return SignDataset(samples, self.tokenizer, settings, self.shards, kept_ids=self.corpora[0].cache_dir)

    @cached_property
    def splits(self) -> dict[str, SignItems]:
        """Clips of the training part, drawn, and of the held-out one."""
        return {name: self.items(part.samples, name == "train") for name, part in self.parts.items()}

    def items(self, samples: Samples, training: bool) -> SignItems:
        """Clips with their texts."""
        draws = SignDraws(self.config.text_dropout_prob, self.config.t_sampling, self.seed) if training else None
        return SignItems(self.dataset(samples), self.read_text, self.languages, self.scale, draws)

    def collate(self, items: Sequence[Any]) -> Batch:
        """Items to a batch."""
        return collate_signs(items, self.sizes.dim_text)

    def build_datasets(self) -> Datasets:
        """The training part and the held-out one."""
        problems = self.problems + [problem for part in self.parts.values() for problem in part.problems]
        collate = partial(collate_signs, dim_text=self.sizes.dim_text)
        return Datasets(dict(self.splits), collate, Key, problems=problems, notes=self.notes)

    def largest_batch(self, items: int, frames: int) -> Batch:
        """Clips of the most frames without a content: features need not be there yet."""
        text, longest = max(self.texts["train"], key=len), self.sizes.frames
        blank = blank_item(self.sizes.dim_text, longest, len(self.tokenizer.encode(text, MAX_TEXT_TOKENS)))
        count = min(items, max(1, frames // longest)) if frames else items
        return self.collate([blank | {"index": index} for index in range(count)])

    def frame_counts(self, accelerator: Any) -> Mapping[str, Sequence[int]]:
        """Frames of each clip, by part."""
        cache = self.root / ".cache" / "frame_counts.npz"
        samples = (sample for part in self.parts.values() for sample in part.samples)
        known = self.shards.known_frames(samples) if self.shards else {}
        counts, notes = frames_by_split(self.parts, self.sizes.frames, cache, accelerator, known)
        self.notes += notes
        return counts

    def meta_model(self) -> nn.Module:
        """The model without its weights."""
        with torch.device("meta"):
            return signing_motion(self.model_config)

    def build_model(self) -> SigningMotion:
        """The model with its starting weights."""
        model = signing_motion(self.model_config)
        if self.trained is not None:
            self.notes.append(load_checkpoint(model, unwrap(self.trained, self.config.finetune)))
        return model

    def hot_modules(self, model: Any) -> list[nn.Module]:
        """The blocks."""
        return [module for module in model.modules() if isinstance(module, FlowBlock)]

    def compute_loss(self, model: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of each clip at its own time and noise, summed over those that count."""
        conditions = drop_conditions(_conditions(batch), {"text": batch["lost_text"]})
        losses = self._losses(model, batch, batch["noise"], batch["t"], conditions)
        lengths = self._length_losses(model, batch)
        total = (losses.total + self.config.lambda_length * lengths).sum() * float(batch["counted"])
        parts = {"flow_loss": losses.flow, "velocity_loss": losses.velocity, "length_loss": lengths}
        return total, {name: part.detach().mean() for name, part in parts.items()}

    def _losses(
        self, model: Any, batch: Batch, x0: Tensor, t: Tensor, conditions: Mapping[str, Tensor]
    ) -> SigningLosses:
        x1, config = batch["poses"], self.config
        x_t = interpolate(x0, x1, t)
        names = ("lambda_flow", "lambda_reconstruction", "lambda_velocity", "lambda_bone")
        return signing_losses(
            model(t, x_t, **conditions),
            *(x0, x1, x_t, t, batch["frame_mask"], self.scale, signing_bones()),
            kind=config.loss_type,
            **{name: getattr(config, name) for name in names},
        )

    def _length_losses(self, model: Any, batch: Batch) -> Tensor:
        told = model.length(batch["text"], batch["text_mask"], batch["language"])
        return length_losses(told, batch["frame_mask"].sum(dim=1))

    def evaluate(self, model: Any, loader: Any, accelerator: Any) -> Evaluation:
        """Scores at fixed noise and times, and now and then signing that is sampled."""
        self.evaluations += 1
        mine, problems = list[dict[str, Any]](), list[str]()
        for batch in loader:
            problems += batch["problems"]
            mine += self.predict(model, to_device(batch, accelerator.device))
        everyone = {row["index"]: row for row in gather_object(mine)}
        problems = sorted(set(gather_object(problems)))
        if not everyone:
            raise InputError(f"No held-out clip could be read; the first: {problems[0]}")
        evaluation = self.scored([everyone[index] for index in sorted(everyone)])
        evaluation.problems.extend(problems)
        return evaluation

    @torch.no_grad()
    def predict(self, model: Any, batch: Batch) -> list[dict[str, Any]]:
        """Errors of each clip, means over fixed times; of the first clips sampled signing, where it is due."""
        x1, conditions = batch["poses"], _conditions(batch)
        seeds = [max(0, index) for index in batch["indices"]]
        # Drawn for the longest clip there can be, so that it depends on no other clip of the batch.
        noise = item_noise(seeds, _TIMES, self.sizes.frames, POSE_VALUES).to(x1)
        times = stratified_times(torch.tensor(seeds, device=x1.device), _TIMES)
        length = self._length_losses(model, batch)
        found = {name: torch.zeros_like(length) for name in _SCORES} | {"length": length}
        for number in range(_TIMES):
            losses = self._losses(model, batch, noise[:, number, : x1.shape[1]], times[:, number], conditions)
            parts = (losses.total, losses.flow, losses.velocity, losses.reconstruction, losses.bone)
            for name, part in zip(_SCORES, parts, strict=False):
                found[name] += part / _TIMES
        found["loss"] += self.config.lambda_length * length
        rows = [
            {"index": index, "name": name, **{score: float(values[place]) for score, values in found.items()}}
            for place, (index, name) in enumerate(zip(batch["indices"], batch["names"], strict=True))
        ]
        self._sample(model, batch, noise[:, 0], rows)
        return [row for row in rows if row["index"] >= 0]

    def _sample(self, model: Any, batch: Batch, noise: Tensor, rows: list[dict[str, Any]]) -> None:
        """Put true and sampled poses into the rows of the first clips, where that is due."""
        step = self.config.sample_step
        chosen = [place for place, row in enumerate(rows) if 0 <= row["index"] < _SAMPLED]
        if not step or (self.evaluations - 1) % step or not on_any_rank(bool(chosen)):
            return
        asked = chosen or [0]
        told = {name: value[asked] for name, value in _conditions(batch).items() if name != "frame_mask"}
        sampled = self.sampled(model, noise[asked], told, Solver(), GUIDANCE)
        for place, poses in zip(chosen, sampled, strict=False):
            true = self.scale.poses(batch["poses"][place][batch["frame_mask"][place]])
            rows[place] |= {"true": true.cpu().numpy(), "sampled": poses}

    @torch.no_grad()
    def sampled(
        self,
        model: Any,
        noise: Tensor,
        told: Mapping[str, Tensor],
        solver: Solver,
        guidance: float,
        frames: Sequence[int] | None = None,
    ) -> list[np.ndarray]:
        """Poses (T, values) of each item, from noise (B, longest, values); ``frames``: T, predicted unless given."""
        if frames is None:
            logarithms = model.length(told["text"], told["text_mask"], told["language"])
            frames = predicted_frames(logarithms, self.sizes.frames).tolist()
        lengths = torch.tensor(frames, device=noise.device)
        mask = torch.arange(max(frames), device=noise.device) < lengths[:, None]
        scales = [("text", guidance)]
        made = sample_clip(model, noise[:, : max(frames)], {**told, "frame_mask": mask}, scales, solver)
        poses = self.scale.poses(made).cpu().numpy()
        return [one[:length] for one, length in zip(poses, frames, strict=True)]

    def scored(self, rows: list[dict[str, Any]]) -> Evaluation:
        """Means of the clips' errors, and how near sampled signing is to the true one."""
        scores = {name: float(np.mean([row[name] for row in rows])) for name in _SCORES}
        pairs = []
        for row in rows:
            del row["index"]
            if "sampled" in row:
                pairs.append((row["name"], row.pop("true"), row.pop("sampled")))
        found = [one for _, true, sampled in pairs if (one := signing_scores(sampled, true))]
        if found:
            scores |= {name: float(np.mean([one[name] for one in found])) for name in found[0]}
        maps = {"signing": [strip for name, *pair in pairs for strip in _strips(name, *pair)]} if pairs else {}
        return Evaluation({**scores, "n": len(rows)}, rows, heat_maps=maps)

    def checkpoint_extras(self) -> dict[str, Any]:
        """Stage, flags, sizes that rebuild the model, and what poses are scaled by (2, values)."""
        told = {"stage": self.name, "config": self.plain_flags(), "model_config": self.model_config}
        return {**told, "pose_scale": torch.stack(list(self.scale))}


def _conditions(batch: Batch) -> dict[str, Tensor]:
    """What the network is told of each clip, by its names."""
    return {name: batch[name] for name in ("text", "text_mask", "language", "frame_mask")}


def signing_scores(sampled: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Generated poses (T', values) beside true ones (T, values): error after warping, way and time in all.

    Generated points are, while they are not seen, on the way between where they are. Empty where nothing was seen of
    the true ones.
    """
    (made, certain), (real, scores) = joints(sampled), joints(true)
    seen, frames = scores > _SEEN, np.arange(len(made))
    if not seen.any():
        return {}
    for joint, known in enumerate(certain.T > _SEEN):
        for axis in range(2) if known.any() else ():
            made[:, joint, axis] = np.interp(frames, frames[known], made[known, joint, axis])
    ratios = {"distance_ratio": distance_ratio(made, real, seen), "duration_ratio": duration_ratio(made, real)}
    return {"dtw_mje": dtw_mje(made, real, seen), **ratios}


def _strips(name: str, true: np.ndarray, sampled: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """How high the right hand is over time, true and sampled, in shares of the body's square."""
    wrist = 8
    sides = (("true", true), ("sampled", sampled))
    return [(f"{name} {what}", 1 - joints(side)[0][:, wrist, 1].clip(0, 1)) for what, side in sides]
