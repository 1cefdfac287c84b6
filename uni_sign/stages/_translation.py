"""Signs to text, as fine-tuning and pre-training share it: a sentence (SLT), glosses (CSLR) or a word (ISLR)."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from transformers import MT5Config

from uni_sign.data.corpora import SPLITS, Corpus, shard_dir_beside
from uni_sign.data.crop_shards import CropShards, open_crop_shards, told_crops
from uni_sign.data.mixed_corpora import corpus_numbers, read_mixed_split
from uni_sign.data.safe_tensors import load_tensors
from uni_sign.data.samples import Sample
from uni_sign.data.shards import Shards, open_shards, told_shares
from uni_sign.data.signs import IGNORED, Clip, ClipSettings, Collate, Key, SignDataset
from uni_sign.data.splits import Split
from uni_sign.data.streaming import Stream
from uni_sign.data.tokenizer import Tokenizer
from uni_sign.data.vocabulary import Kept, kept_tokenizer
from uni_sign.errors import InputError
from uni_sign.models.batch_norm import set_batch_norm_mode
from uni_sign.models.mt5 import load_mt5, load_text_stack, read_config
from uni_sign.models.rgb_fusion import UNUSED_MODULE
from uni_sign.models.uni_sign import UniSign
from uni_sign.models.vocabulary import constrained_generation
from uni_sign.models.weights import FUSION_MODULES, Checkpoint, load_checkpoint, load_fusion, unwrap
from uni_sign.stages._config import TranslationConfig
from uni_sign.stages._corpora import check_task, corpora_of, mt5_folder_of
from uni_sign.stages._examination import examination
from uni_sign.stages._extractor import extractor_note, extractor_of_clips
from uni_sign.stages._files import samples_of_files
from uni_sign.stages._frame_counts import frames_by_split
from uni_sign.stages._frozen_text import FrozenTextEncoder, check_pooling, frozen_text_encoder, trained_text_encoder
from uni_sign.stages._rgb import load_rgb_backbone, rgb_notes
from uni_sign.stages._scoring import scored
from uni_sign.stages._streaming import check_stream, nearby, opened_stream, streamed_split
from uni_sign.stages._vocabulary import (
    fitted,
    generated_pieces,
    kept_pieces,
    starting_weights,
    vocabulary_extras,
    vocabulary_notes,
)
from uni_sign.stages.base import Batch, BestFile, Datasets, Evaluation, Finding, Mixture, to_device

_GATE_BINS = np.linspace(0, 1, 21)


class Translation:
    """Poses and descriptions to text: see `uni_sign.stages.base.Stage` for when each method is called."""

    Config: ClassVar[type]
    name: ClassVar[str]
    best_file: ClassVar[BestFile] = BestFile()
    defaults: ClassVar[Mapping[str, Any]] = {}
    default_corpus: ClassVar[str] = "CSL_Daily"

    def __init__(self, config: TranslationConfig, seed: int) -> None:
        self.config, self.seed, self.notes = config, seed, list[str]()

    def check(self) -> None:
        """Read every input that can be known to be wrong before training; raises InputError."""
        check_task(self.config.task, self.corpora)
        if self.folder_config.vocab_size < len(self.folder_tokenizer):
            raise InputError(
                f"{self.mt5_folder}: the tokenizer has {len(self.folder_tokenizer)} pieces, the model only "
                f"{self.folder_config.vocab_size}: they do not belong together."
            )
        check_pooling(self)
        check_stream(self)
        _ = self.kept, self.generated, self.text_encoder, self.shards, self.crop_shards
        _ = self.fusion_checkpoint, self.rgb_backbone
        train = self.splits["train"].samples
        if self.config.use_descriptions and not train.described.any():
            places = " or ".join(str(folder) for corpus in self.corpora for folder in corpus.description_dirs)
            raise InputError(
                f"--use_descriptions: none of the {len(train)} training clips has a description file in "
                f"{places or 'a folder, as the corpus names none'}: put <clip>.json files there, or leave the flag out."
            )

    @cached_property
    def _mixed(self) -> tuple[list[Corpus], tuple[float, ...]]:
        return corpora_of(self.config.dataset, self.config.data_root, self.default_corpus, self.notes)

    @property
    def corpora(self) -> list[Corpus]:
        """The corpora of ``--dataset``, or the default one, said aloud."""
        return self._mixed[0]

    @property
    def mt5_folder(self) -> Path:
        """The mT5 folder of ``--mt5``, or the corpus's default."""
        return mt5_folder_of(self.config.mt5, self.corpora, self.config.data_root)

    @cached_property
    def folder_config(self) -> MT5Config:
        """The shape of the mT5 in its folder."""
        return read_config(self.mt5_folder)

    @cached_property
    def folder_tokenizer(self) -> Tokenizer:
        """The tokenizer of the mT5 folder."""
        return Tokenizer(self.mt5_folder)

    @cached_property
    def kept(self) -> Kept | None:
        """The part of a full vocabulary that the model has, by ``--trim_vocab`` or a trimmed folder."""
        return kept_pieces(self)

    @cached_property
    def generated(self) -> Kept | None:
        """The part of its vocabulary that the model generates from, by ``--constrain_vocab``."""
        return generated_pieces(self)

    @cached_property
    def mt5_config(self) -> MT5Config:
        """The model's mT5: the folder's, with the vocabulary that is kept."""
        config = copy.deepcopy(self.folder_config)
        config.vocab_size = len(self.kept.ids) if self.kept else config.vocab_size
        return config

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        if self.kept is None or len(self.kept.ids) == len(self.folder_tokenizer):
            return self.folder_tokenizer
        return kept_tokenizer(self.folder_tokenizer, self.kept.ids)

    @property
    def vocabulary(self) -> str:
        """The pieces that a trimmed model keeps, by number and digest."""
        return str(self.kept or "")

    @property
    def frozen_inputs(self) -> str:
        """The items are what the model reads."""
        return ""

    @cached_property
    def finetune(self) -> Checkpoint | None:
        """The checkpoint of ``--finetune``."""
        return _checkpoint("finetune", self.config.finetune)

    @cached_property
    def fusion_checkpoint(self) -> Checkpoint | None:
        """The checkpoint of ``--fusion_checkpoint``."""
        return _checkpoint("fusion_checkpoint", self.config.fusion_checkpoint)

    @cached_property
    def rgb_backbone(self) -> dict[str, Any] | None:
        """The tensors of ``--rgb_backbone``."""
        return load_tensors(Path(self.config.rgb_backbone)) if self.config.rgb_backbone else None

    @cached_property
    def splits(self) -> dict[str, Split]:
        """Usable clips of train, dev and test."""
        return {split: self.read_split(split) for split in SPLITS}

    def read_split(self, split: str, videos: bool | None = None) -> Split:
        """Usable clips of one split, by default with a video where ``--rgb_support`` needs one."""
        videos = self.config.rgb_support if videos is None else videos
        if self.stream is not None and self.shards is not None:
            return streamed_split(self, self.shards, split, videos)
        return read_mixed_split(self.corpora, self.config.task, split, videos)

    @cached_property
    def extractor(self) -> dict[str, str] | None:
        """What the training clips' poses were extracted by, where their files are here and say it."""
        return None if self.stream is not None else extractor_of_clips(self.splits["train"].samples)

    @cached_property
    def stream(self) -> Stream | None:
        """Where shards come from by ``--stream``."""
        return opened_stream(self)

    @cached_property
    def shards(self) -> Shards | None:
        """Prepared poses, where there are any."""
        if self.stream is not None:
            return Shards(source=self.stream)
        return open_shards(*dict.fromkeys(corpus.shard_dir for corpus in self.corpora))

    @cached_property
    def crop_shards(self) -> CropShards | None:
        """Prepared hand crops, where there are any and they are used."""
        folders = [corpus.crop_dir for corpus in self.corpora if self.config.rgb_support]
        return open_crop_shards(*dict.fromkeys(folders))

    @cached_property
    def text_encoder(self) -> FrozenTextEncoder | None:
        """The frozen text encoder, where ``--text_encoder_freeze`` asks for one."""
        return frozen_text_encoder(self)

    @property
    def trains_text(self) -> bool:
        """Whether a text encoder is part of the model and trains."""
        return self.config.use_descriptions and not self.config.text_encoder_freeze

    @property
    def monitor(self) -> str:
        """BLEU-4, WER or top-1, by task."""
        return {"SLT": "dev/bleu4", "CSLR": "dev/wer", "ISLR": "dev/top1_instance"}[self.config.task]

    @property
    def higher_is_better(self) -> bool:
        """All but the word error rate."""
        return self.config.task != "CSLR"

    def examine(self) -> list[Finding]:
        """Corpus, labels, poses, descriptions, mT5 and checkpoints: each pass, warn or fail."""
        return examination(self)

    def prepare(self, accelerator: Any) -> None:
        """With a frozen text encoder: encode every description that no cache holds yet, shared over ranks."""
        if self.text_encoder is not None:
            paths = [s.description_path for split in self.splits.values() for s in split.samples]
            self.text_encoder.fill_cache([path for path in paths if path], accelerator)

    def frame_counts(self, accelerator: Any) -> dict[str, list[int]]:
        """Frames of each clip in a batch, by split: pose files are counted once, and the counts kept on disk."""
        cache = self.config.data_root / ".cache" / "frame_counts.npz"
        known = (
            self.shards.known_frames(s for split in self.splits.values() for s in split.samples) if self.shards else {}
        )
        counts, notes = frames_by_split(self.splits, self.longest_clip, cache, accelerator, known)
        self.notes += notes
        return counts

    def build_datasets(self) -> Datasets:
        """Train, dev and test of the corpus, and what is worth saying about them."""
        self.notes += vocabulary_notes(self)
        if self.finetune is not None:
            note = extractor_note(self.finetune.extras, self.config.finetune, self.extractor)
            self.notes += [note] if note else []
        splits = {
            name: self.dataset(split.samples, name == "train", self.shards) for name, split in self.splits.items()
        }
        if self.shards is not None:
            self.notes.append(told_shares(self.shards.folder, {name: data.rows for name, data in splits.items()}))
        if self.crop_shards is not None:
            rows = {name: data.crop_rows for name, data in splits.items()}
            self.notes.append(told_crops(self.crop_shards.folder, rows))
        for name, dataset in splits.items():
            if dataset.cut_targets:
                limit = dataset.settings.max_target_length
                self.notes.append(
                    f"{name}: {dataset.cut_targets} of {len(dataset)} targets are longer than {limit} tokens and cut."
                )
            if self.config.use_descriptions:
                described = int(dataset.samples.described.sum())
                self.notes.append(f"{name}: {described} of {len(dataset)} clips have a description file.")
        return Datasets(
            splits=dict(splits),
            collate=self.collate(),
            make_key=Key,
            problems=[problem for split in self.splits.values() for problem in split.problems],
            notes=self.notes,
            nearby=nearby(self, splits["train"]),
            mixture=self._mixture(),
        )

    def _mixture(self) -> Mixture | None:
        """How often the training clips of each corpus are shown, said aloud; None where each is once an epoch."""
        corpora, weights = self._mixed
        numbers = corpus_numbers(corpora, self.splits["train"].samples)
        if len(corpora) > 1:
            counts = np.bincount(numbers, minlength=len(corpora)).tolist()
            shares = np.array(weights or counts) / sum(weights or counts)
            said = (f"{c.name} {s:.1%} ({n} clips)" for c, s, n in zip(corpora, shares, counts, strict=True))
            self.notes.append(f"Training clips by corpus: {', '.join(said)}.")
        return Mixture(numbers, weights) if weights else None

    def collate(self) -> Collate:
        """The batcher, with the frozen encoder's features where there is one."""
        features = self.text_encoder.features if self.text_encoder else None
        return Collate(self.tokenizer, self.config.use_descriptions, features, self.config.rgb_support)

    def files_dataset(
        self, poses: Path, descriptions: Path | None, videos: Path | None, language: str, accelerator: Any
    ) -> SignDataset:
        """Pose files (one, or all of a folder) as a held-out split without references, for `uni-sign infer`."""
        samples = samples_of_files(self, poses, descriptions, videos, language)
        if self.text_encoder is not None:
            self.text_encoder.fill_cache([s.description_path for s in samples if s.description_path], accelerator)
        folder = poses.parent if poses.is_file() else poses
        known = folder.resolve() in [corpus.pose_dir.resolve() for corpus in self.corpora]
        shards = self.shards if known else open_shards(shard_dir_beside(folder))
        return self.dataset(samples, False, shards)

    def dataset(self, samples: Sequence[Sample], training: bool, shards: Shards | None) -> SignDataset:
        """Clips as the model reads them."""
        config = self.config
        settings = ClipSettings(
            max_length=self.longest_clip,
            max_target_length=config.max_target_length or max(corpus.max_target_length for corpus in self.corpora),
            seed=self.seed,
            training=training,
            descriptions=config.use_descriptions,
            description_fill=config.description_fill,
            text_dropout_p=config.text_dropout_p,
            rgb_support=config.rgb_support,
        )
        return SignDataset(samples, self.tokenizer, settings, shards, self.crop_shards, self.corpora[0].cache_dir)

    def build_model(self) -> UniSign:
        """The model with its starting weights, and with what is frozen frozen."""
        config = self.config
        model = UniSign(
            self.mt5_config,
            hidden_dim=config.hidden_dim,
            fusion=config.use_descriptions,
            text_encoder_config=self.mt5_config if self.trains_text else None,
            text_pooling=config.text_pooling,
            rgb_support=config.rgb_support,
        )
        self.notes += load_rgb_backbone(self, model)
        if self.finetune is None:
            model.mt5_model = fitted(self, model.mt5_model, load_mt5(self.mt5_folder))
        if self.trains_text and not trained_text_encoder(self):
            model.text_encoder.encoder = fitted(self, model.text_encoder.encoder, load_text_stack(self.mt5_folder))
        if self.finetune is not None:
            self.notes.append(load_checkpoint(model, starting_weights(self)))
        if self.fusion_checkpoint is not None:
            self.notes.append(load_fusion(model, self.fusion_checkpoint))
        self.notes += rgb_notes(self, model)
        self._freeze(model)
        return model

    def hot_modules(self, model: UniSign) -> list[nn.Module]:
        """The blocks of the transformers; the pose encoder's work lies in functions of its own already."""
        return model.transformer_blocks()

    def largest_batch(self, items: int, frames: int) -> Batch:
        """The longest training clips; features of a frozen text encoder are zeros, for they may not be there yet."""
        samples = sorted(self.splits["train"].samples, key=lambda sample: sample.size)[-items:]
        dataset = self.dataset(samples, True, self.shards)
        collate = Collate(self.tokenizer, self.config.use_descriptions, None, self.config.rgb_support)
        clips = [dataset[Key(0, index)] for index in reversed(range(len(samples)))]
        ends = np.cumsum([len(clip.parts["body"]) if isinstance(clip, Clip) else 0 for clip in clips])
        batch = collate(clips[: max(1, int((ends <= frames).sum()))] if frames else clips)
        if self.config.text_encoder_freeze:
            texts = sum(len(group) for group in batch.pop("text_groups"))
            batch["text_features"] = torch.zeros(texts, self.mt5_config.d_model)
        return batch

    def meta_model(self) -> UniSign:
        """The model without its weights, with what is frozen frozen."""
        config, text_encoder = self.config, self.mt5_config if self.trains_text else None
        with torch.device("meta"):
            model = UniSign(
                self.mt5_config,
                config.hidden_dim,
                config.use_descriptions,
                text_encoder,
                rgb_support=config.rgb_support,
            )
        self._freeze(model)
        return model

    def _freeze(self, model: UniSign) -> None:
        set_batch_norm_mode(model, "frozen" if self.config.fusion_only else self.config.batch_norm)
        freeze_all_but_fusion(model, self.config.fusion_only)

    @property
    def longest_clip(self) -> int:
        """The most frames a clip can have."""
        longest = max(corpus.max_length for corpus in self.corpora)
        return self.config.max_length or (min(longest, 64) if self.config.task == "ISLR" else longest)

    def count_targets(self, batch: Batch) -> int:
        """Target tokens of the batch."""
        return int((batch["labels"] != IGNORED).sum())

    def compute_loss(self, model: UniSign, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Smoothed cross-entropy summed over the target tokens; logs the mean gate."""
        encoded = model(batch)
        loss = model.summed_loss(encoded, batch, self.config.label_smoothing)
        logs = {} if encoded.gate is None else {"gate": encoded.gate.detach().float().mean()}
        return loss, logs

    @torch.no_grad()
    def predict(self, model: UniSign, batch: Batch) -> list[dict[str, Any]]:
        """One row a counted clip: index, name, prediction, and the gate of each frame where fused."""
        config = self.config
        encoded = model(batch)
        synced = any(hasattr(parameter, "ds_id") for parameter in model.parameters())
        ids = model.generate(encoded, config.num_beams, config.max_new_tokens, synced).cpu().tolist()
        gates: list[Any] = [None] * len(ids)
        if encoded.gate is not None:
            gates = [g[:, 0].numpy() for g in encoded.gate.float().cpu().split(batch["lengths"])]
        rows = zip(batch["indices"], batch["names"], ids, gates, strict=True)
        return [
            {"index": index, "name": name, "prediction": self.tokenizer.decode(row), "gate": gate}
            for index, name, row, gate in rows
            if index >= 0
        ]

    def generation(self, model: UniSign) -> AbstractContextManager[None]:
        """Collective: inside, `predict` generates within the pieces of ``--constrain_vocab``."""
        return constrained_generation(model, self.generated.ids if self.generated else None)

    def evaluate(self, model: UniSign, loader: Iterable[Batch], accelerator: Any) -> Evaluation:
        """Predict this rank's share, gather all ranks' rows, then score them once and alike everywhere."""
        mine: list[dict[str, Any]] = []
        problems: list[str] = []
        with self.generation(model):
            for batch in loader:
                problems += batch["problems"]
                mine += self.predict(model, to_device(batch, accelerator.device))
        everyone = {row["index"]: row for row in gather_object(mine)}
        rows = [everyone[index] for index in sorted(everyone)]
        samples = loader.dataset.samples  # type: ignore[attr-defined]
        return scored(rows, samples, sorted(set(gather_object(problems))), self.config.task, self.corpora)

    def checkpoint_extras(self) -> dict[str, Any]:
        """Stage, flags, score signature, parts of the vocabulary, and a frozen text encoder's trained weights."""
        from uni_sign.metrics.translation import signature  # see `scored`

        plain = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self.config).items()}
        extras: dict[str, Any] = {"stage": self.name, "config": plain, "signature": signature()}
        extras |= vocabulary_extras(self)
        if self.extractor is not None:
            extras["extractor"] = self.extractor
        if self.text_encoder is not None:
            extras["text_encoder_fingerprint"] = self.text_encoder.fingerprint
            extras["text_encoder"] = trained_text_encoder(self)
        return extras


def freeze_all_but_fusion(model: UniSign, fusion_only: bool) -> None:
    """With ``fusion_only``, nothing trains but mask embedding and gating fusion; what nothing uses never does."""
    for name, parameter in model.named_parameters():
        module = name.split(".")[0]
        parameter.requires_grad_(module != UNUSED_MODULE and (not fusion_only or module in FUSION_MODULES))


def _checkpoint(flag_name: str, path: str) -> Checkpoint | None:
    return unwrap(load_tensors(Path(path)), f"--{flag_name} {path}") if path else None
