"""The flags of signs to text."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from uni_sign.config import at_least, between, flag
from uni_sign.models.batch_norm import BatchNormMode


@dataclass(frozen=True)
class TranslationConfig:
    """The flags of Uni-Sign."""

    dataset: str = flag(
        "",
        "corpus by name or YAML file, or several: A,B clip by clip, A:0.7,B:0.3 by weight; "
        "default: the stage's own where its files are, else Demo",
    )
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
    trim_vocab: bool = flag(
        False, "keep only the pieces of mT5's vocabulary that the corpus needs; `uni-sign export` gives all back"
    )
    constrain_vocab: bool = flag(False, "generate from these pieces alone, and keep all in the model")
    rgb_support: bool = flag(False, "crop the hands from the videos, and fuse their pixels with the poses")
    rgb_backbone: str = flag("", "ImageNet weights of EfficientNet-B0 to start from, by torchvision's names")
    fusion_only: bool = flag(False, "train mask embedding and gating fusion alone")
    fusion_checkpoint: str = flag("", "take gating_fusion.* and mask_embedding.* from this checkpoint")
    stream: str = flag("", "folder or fsspec URL of prepared shards, fetched while training; poses need not be here")
    stream_cache: str = flag("", "folder of fetched shards; default: .cache/stream under --data_root")
    stream_cache_gb: float = flag(50.0, "most gigabytes of that folder", check=at_least(0.001))
    stream_buffer: int = flag(8, "shards whose clips are shuffled with one another", check=at_least(1))

    def conflicts(self) -> str | None:
        """What does not go together, in one sentence."""
        if self.hidden_dim % 4:
            return f"--hidden_dim {self.hidden_dim} must be a multiple of 4"
        if self.trim_vocab and self.constrain_vocab:
            return "--constrain_vocab is part of --trim_vocab: leave out one"
        if self.rgb_backbone and not self.rgb_support:
            return "--rgb_backbone needs --rgb_support"
        if self.rgb_support and self.hidden_dim % 8:
            return f"--hidden_dim {self.hidden_dim} must be a multiple of 8 with --rgb_support: its heads are eight"
        if self.stream_cache and not self.stream:
            return "--stream_cache needs --stream"
        if not self.use_descriptions:
            for name in ("text_encoder_freeze", "fusion_only", "fusion_checkpoint", "text_dropout_p"):
                if getattr(self, name):
                    return f"--{name} needs --use_descriptions"
        return None
