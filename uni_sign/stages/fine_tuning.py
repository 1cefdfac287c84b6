"""Fine-tuning of Uni-Sign: poses and descriptions to a sentence (SLT), glosses (CSLR) or a word (ISLR)."""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor
from transformers import MT5Config

from uni_sign.config import at_least, between, flag
from uni_sign.data.corpora import SPLITS, Corpus, Sample, Split, default_corpus, load_corpus, read_split
from uni_sign.data.safe_tensors import load_tensors
from uni_sign.data.signs import IGNORED, ClipSettings, Collate, Key, SignDataset
from uni_sign.data.tokenizer import Tokenizer
from uni_sign.errors import InputError
from uni_sign.metrics.translation import signature
from uni_sign.models.batch_norm import BatchNormMode, set_batch_norm_mode
from uni_sign.models.mt5 import load_mt5, load_text_stack, read_config
from uni_sign.models.uni_sign import UniSign
from uni_sign.models.weights import FUSION_MODULES, Checkpoint, load_checkpoint, load_fusion, unwrap
from uni_sign.stages._examination import examination
from uni_sign.stages._frozen_text import FrozenTextEncoder
from uni_sign.stages._scoring import scored
from uni_sign.stages.base import Batch, Datasets, Evaluation, Finding, to_device

_GATE_BINS = np.linspace(0, 1, 21)


@dataclass(frozen=True)
class FineTuningConfig:
    """The flags of fine-tuning."""

    dataset: str = flag("", "corpus by name or YAML file; default: CSL_Daily where its files are, else Demo")
    task: Literal["SLT", "CSLR", "ISLR"] = flag("SLT", "what to write: the sentence, the glosses or the word")
    data_root: Path = flag(Path("."), "folder that holds data/, dataset/, description/ and pretrained_weight/")
    mt5: str = flag("", "mT5 folder; default: pretrained_weight/mt5-base, for Demo pretrained_weight/mt5-demo")
    finetune: str = flag("", "start from the weights of this checkpoint (.pth or .safetensors)")
    hidden_dim: int = flag(256, "width of the pose encoder", check=at_least(4))
    batch_norm: BatchNormMode = flag(
        "sync",
        "statistics over all processes; pooled: also over both hands, as evaluation does; "
        "or frozen at their running values",
    )
    max_length: int = flag(0, "most frames of a clip; 0: as the corpus says (256, for ISLR 64)", check=at_least(0))
    max_target_length: int = flag(0, "most target tokens; 0: as the corpus says (50 or 128)", check=at_least(0))
    label_smoothing: float = flag(0.2, "label smoothing of the loss", check=between(0, 0.999))
    num_beams: int = flag(4, "beams of the search", check=at_least(1))
    max_new_tokens: int = flag(100, "most tokens to generate", check=at_least(1))
    use_descriptions: bool = flag(False, "read per-frame descriptions and fuse them with the poses")
    description_fill: Literal["nearest", "interpolate", "none"] = flag(
        "nearest",
        "what a frame without a description takes: the nearest one, a mix of both sides, or nothing",
    )
    text_pooling: Literal["mean", "first"] = flag("mean", "a description's feature: mean over tokens, or first token")
    text_dropout_p: float = flag(0.0, "share of described frames whose text is hidden in training", check=between(0, 1))
    text_encoder_freeze: bool = flag(False, "keep the text encoder fixed; its features are computed once, on disk")
    text_cache: str = flag("", "folder of those features; default: .cache/text_features under --data_root")
    fusion_only: bool = flag(False, "train mask embedding and gating fusion alone")
    fusion_checkpoint: str = flag("", "take gating_fusion.* and mask_embedding.* from this checkpoint")

    def conflicts(self) -> str | None:
        """What does not go together, in one sentence."""
        if self.hidden_dim % 4:
            return f"--hidden_dim {self.hidden_dim} must be a multiple of 4"
        if not self.use_descriptions:
            for name in ("text_encoder_freeze", "fusion_only", "fusion_checkpoint", "text_dropout_p"):
                if getattr(self, name):
                    return f"--{name} needs --use_descriptions"
        return None


class FineTuning:
    """The main job: see `uni_sign.stages.base.Stage` for when each method is called."""

    Config: ClassVar[type] = FineTuningConfig
    name: ClassVar[str] = "fine_tuning"
    checkpoint_name: ClassVar[str] = "best_checkpoint.pth"

    def __init__(self, config: FineTuningConfig, seed: int) -> None:
        self.config, self.seed, self.notes = config, seed, list[str]()

    def check(self) -> None:
        """Read every input that can be known to be wrong before training; raises InputError."""
        if self.config.task not in self.corpus.tasks:
            raise InputError(
                f"--task {self.config.task} is not one of {self.corpus.name}'s: {', '.join(self.corpus.tasks)}."
            )
        if self.mt5_config.vocab_size < len(self.tokenizer):
            raise InputError(
                f"{self.mt5_folder}: the tokenizer has {len(self.tokenizer)} pieces, the model only "
                f"{self.mt5_config.vocab_size}: they do not belong together."
            )
        self._check_pooling()
        _ = self.fusion_checkpoint, self.text_encoder
        train = self.splits["train"].samples
        if self.config.use_descriptions and not any(sample.description_path for sample in train):
            places = " or ".join(str(folder) for folder in self.corpus.description_dirs)
            raise InputError(
                f"--use_descriptions: none of the {len(train)} training clips has a description file in "
                f"{places or 'a folder, as the corpus names none'}: put <clip>.json files there, or leave the flag out."
            )

    def _check_pooling(self) -> None:
        """A model trained on other text features than these would be scored on what it never saw."""
        trained = self.finetune.extras.get("config") if self.finetune else None
        if not self.config.use_descriptions or not isinstance(trained, Mapping):
            return
        pooling = trained.get("text_pooling", self.config.text_pooling)
        if trained.get("use_descriptions") and pooling != self.config.text_pooling:
            raise InputError(
                f"--finetune {self.config.finetune} was trained with --text_pooling {pooling}, "
                f"not {self.config.text_pooling}: give the same."
            )

    @cached_property
    def corpus(self) -> Corpus:
        """The corpus of ``--dataset``, or the default one, said aloud."""
        if self.config.dataset:
            return load_corpus(self.config.dataset, self.config.data_root)
        corpus, said = default_corpus(self.config.data_root)
        self.notes.append(said)
        return corpus

    @property
    def mt5_folder(self) -> Path:
        """The mT5 folder of ``--mt5``, or the corpus's default."""
        if self.config.mt5:
            return Path(self.config.mt5)
        name = "mt5-demo" if self.corpus.name == "Demo" else "mt5-base"
        return self.config.data_root / "pretrained_weight" / name

    @cached_property
    def mt5_config(self) -> MT5Config:
        """The mT5's shape."""
        return read_config(self.mt5_folder)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The mT5's tokenizer."""
        return Tokenizer(self.mt5_folder)

    @cached_property
    def finetune(self) -> Checkpoint | None:
        """The checkpoint of ``--finetune``."""
        return _checkpoint("finetune", self.config.finetune)

    @cached_property
    def fusion_checkpoint(self) -> Checkpoint | None:
        """The checkpoint of ``--fusion_checkpoint``."""
        return _checkpoint("fusion_checkpoint", self.config.fusion_checkpoint)

    @cached_property
    def splits(self) -> dict[str, Split]:
        """Usable clips of train, dev and test."""
        return {split: read_split(self.corpus, self.config.task, split) for split in SPLITS}

    @cached_property
    def text_encoder(self) -> FrozenTextEncoder | None:
        """The frozen text encoder, where ``--text_encoder_freeze`` asks for one."""
        config = self.config
        if not config.text_encoder_freeze:
            return None
        folder = Path(config.text_cache or config.data_root / ".cache" / "text_features")
        _check_writable(folder)
        encoder = FrozenTextEncoder(
            self.mt5_folder, self.tokenizer, config.text_pooling, folder, self._trained_text_encoder()
        )
        wanted = self.finetune.extras.get("text_encoder_fingerprint") if self.finetune else None
        if wanted not in (None, encoder.fingerprint):
            raise InputError(
                f"--finetune {config.finetune} was trained with another frozen text encoder than the one of "
                f"{self.mt5_folder} with --text_pooling {config.text_pooling}: give that run's --mt5 and pooling."
            )
        return encoder

    def _trained_text_encoder(self) -> dict[str, Tensor]:
        """Text encoder weights of --finetune, where it was trained with them."""
        prefix = "text_encoder."
        weights = self.finetune.weights if self.finetune else {}
        return {key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)}

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

    def build_datasets(self) -> Datasets:
        """Train, dev and test of the corpus, and what is worth saying about them."""
        splits = {name: self._dataset(split.samples, name == "train") for name, split in self.splits.items()}
        for name, dataset in splits.items():
            if dataset.cut_targets:
                limit = dataset.settings.max_target_length
                self.notes.append(
                    f"{name}: {dataset.cut_targets} of {len(dataset)} targets are longer than {limit} tokens and cut."
                )
            if self.config.use_descriptions:
                described = sum(sample.description_path is not None for sample in dataset.samples)
                self.notes.append(f"{name}: {described} of {len(dataset)} clips have a description file.")
        return Datasets(
            splits=dict(splits),
            collate=self.collate(),
            make_key=Key,
            problems=[problem for split in self.splits.values() for problem in split.problems],
            notes=self.notes,
        )

    def collate(self) -> Collate:
        """The batcher, with the frozen encoder's features where there is one."""
        features = self.text_encoder.features if self.text_encoder else None
        return Collate(self.tokenizer, self.config.use_descriptions, features)

    def files_dataset(self, poses: Path, descriptions: Path | None, language: str, accelerator: Any) -> SignDataset:
        """Pose files (one, or all of a folder) as a held-out split without references, for `uni-sign infer`."""
        if descriptions is not None and not self.config.use_descriptions:
            raise InputError("--descriptions: this model was trained without --use_descriptions, so leave it out.")
        if descriptions is not None and not descriptions.is_dir():
            raise InputError(f"--descriptions {descriptions} is no folder: give the one that holds <clip>.json files.")
        files = [poses] if poses.is_file() else sorted(p for p in poses.glob("*") if p.suffix in (".pkl", ".npz"))
        if not files:
            raise InputError(f"No pose file (.pkl or .npz) at {poses}.")
        samples = []
        for file in files:
            text = descriptions / f"{file.stem}.json" if descriptions else None
            found = text if text is not None and text.is_file() else None
            samples.append(Sample(file.stem, file, found, "", language or self.corpus.language, file.stat().st_size))
        if self.text_encoder is not None:
            self.text_encoder.fill_cache([s.description_path for s in samples if s.description_path], accelerator)
        return self._dataset(samples, training=False)

    def _dataset(self, samples: Sequence[Sample], training: bool) -> SignDataset:
        config, corpus = self.config, self.corpus
        settings = ClipSettings(
            max_length=self.longest_clip,
            max_target_length=config.max_target_length or corpus.max_target_length,
            seed=self.seed,
            training=training,
            descriptions=config.use_descriptions,
            description_fill=config.description_fill,
            text_dropout_p=config.text_dropout_p,
        )
        return SignDataset(samples, self.tokenizer, settings)

    def build_model(self) -> UniSign:
        """The model with its starting weights, and with what is frozen frozen."""
        config = self.config
        trains_text = config.use_descriptions and not config.text_encoder_freeze
        model = UniSign(
            self.mt5_config,
            hidden_dim=config.hidden_dim,
            fusion=config.use_descriptions,
            text_encoder_config=self.mt5_config if trains_text else None,
            text_pooling=config.text_pooling,
        )
        if self.finetune is None:
            model.mt5_model = load_mt5(self.mt5_folder)
            if trains_text:
                model.text_encoder.encoder = load_text_stack(self.mt5_folder)
        else:
            self._load_finetune(model, trains_text)
        if self.fusion_checkpoint is not None:
            self.notes.append(load_fusion(model, self.fusion_checkpoint))
        self._freeze(model)
        return model

    def _load_finetune(self, model: UniSign, trains_text: bool) -> None:
        assert self.finetune is not None
        held = {key.split(".")[0] for key in self.finetune.weights}
        if trains_text and "text_encoder" not in held:
            model.text_encoder.encoder = load_text_stack(self.mt5_folder)
        self.notes.append(load_checkpoint(model, self.finetune))

    def largest_batch(self, items: int) -> Batch:
        """The longest training clips; features of a frozen text encoder are zeros, for they may not be there yet."""
        samples = sorted(self.splits["train"].samples, key=lambda sample: sample.size)[-items:]
        dataset = self._dataset(samples, training=True)
        collate = Collate(self.tokenizer, self.config.use_descriptions, features=None)
        batch = collate([dataset[Key(0, index)] for index in range(len(samples))])
        if self.config.text_encoder_freeze:
            texts = sum(len(group) for group in batch.pop("text_groups"))
            batch["text_features"] = torch.zeros(texts, self.mt5_config.d_model)
        return batch

    def meta_model(self) -> UniSign:
        """The model without its weights, with what is frozen frozen."""
        config = self.config
        trains_text = config.use_descriptions and not config.text_encoder_freeze
        with torch.device("meta"):
            model = UniSign(
                self.mt5_config, config.hidden_dim, config.use_descriptions, self.mt5_config if trains_text else None
            )
        self._freeze(model)
        return model

    def _freeze(self, model: UniSign) -> None:
        set_batch_norm_mode(model, "frozen" if self.config.fusion_only else self.config.batch_norm)
        freeze_all_but_fusion(model, self.config.fusion_only)

    @property
    def longest_clip(self) -> int:
        """The most frames a clip can have."""
        longest = min(self.corpus.max_length, 64) if self.config.task == "ISLR" else self.corpus.max_length
        return self.config.max_length or longest

    def count_targets(self, batch: Batch) -> int:
        """Target tokens of the batch."""
        return int((batch["labels"] != IGNORED).sum())

    def compute_loss(self, model: UniSign, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Smoothed cross-entropy summed over the target tokens; logs the mean gate."""
        encoded = model(batch)
        loss = model.summed_loss(encoded, batch["labels"], self.config.label_smoothing)
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
            gates = [g[:, 0].numpy() for g in encoded.gate.float().cpu().split(batch["lengths"].tolist())]
        rows = zip(batch["indices"], batch["names"], ids, gates, strict=True)
        return [
            {"index": index, "name": name, "prediction": self.tokenizer.decode(row), "gate": gate}
            for index, name, row, gate in rows
            if index >= 0
        ]

    def evaluate(self, model: UniSign, loader: Iterable[Batch], accelerator: Any) -> Evaluation:
        """Predict this rank's share, gather all ranks' rows, then score them once and alike everywhere."""
        mine: list[dict[str, Any]] = []
        problems: list[str] = []
        for batch in loader:
            problems += batch["problems"]
            mine += self.predict(model, to_device(batch, accelerator.device))
        everyone = {row["index"]: row for row in gather_object(mine)}
        rows = [everyone[index] for index in sorted(everyone)]
        samples = loader.dataset.samples  # type: ignore[attr-defined]
        return scored(rows, samples, sorted(set(gather_object(problems))), self.config.task, self.corpus)

    def checkpoint_extras(self) -> dict[str, Any]:
        """Stage, flags, score signature, and a frozen text encoder's weights where they are not the mT5 folder's."""
        plain = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self.config).items()}
        extras: dict[str, Any] = {"stage": self.name, "config": plain, "signature": signature()}
        if self.text_encoder is not None:
            extras["text_encoder_fingerprint"] = self.text_encoder.fingerprint
            extras["text_encoder"] = self._trained_text_encoder()
        return extras


def freeze_all_but_fusion(model: UniSign, fusion_only: bool) -> None:
    """With ``fusion_only``, nothing trains but mask embedding and gating fusion."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not fusion_only or name.split(".")[0] in FUSION_MODULES)


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(
            f"--text_cache {folder} cannot be written ({error.strerror}): choose another folder."
        ) from error


def _checkpoint(flag_name: str, path: str) -> Checkpoint | None:
    return unwrap(load_tensors(Path(path)), f"--{flag_name} {path}") if path else None


STAGE = FineTuning
