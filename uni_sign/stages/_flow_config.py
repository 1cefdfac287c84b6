"""The flags of rectified flow: those that both kinds of motion share, and those of either."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from uni_sign.config import above, at_least, between, flag
from uni_sign.models.audio_encoder import EMOTIONS
from uni_sign.models.flow_transformer import FlowSizes
from uni_sign.models.rectified_flow import LossKind, TimeKind
from uni_sign.models.signing_flow import POSE_VALUES
from uni_sign.stages._faces import FacesConfig
from uni_sign.stages._motion_windows import ReferenceFrame

_NETWORK = ("dim_h", "fmt_depth", "num_heads", "mlp_ratio")
_FLOAT_WINDOW = 2


@dataclass(frozen=True)
class FlowConfig:
    """The flags of any motion: the network, the flow and its loss."""

    motion: Literal["face", "signing"] = flag("face", "speech to a talking face, or text to signing")
    finetune: str = flag(
        "",
        "start from the weights of this best file, with its sizes, or of float.pth; the projection of sound then stays",
        aliases=("ckpt_path",),
    )
    dim_h: int = flag(1024, "width of the network", check=at_least(1))
    fmt_depth: int = flag(8, "its blocks", check=between(1, 200))
    num_heads: int = flag(8, "its attention heads", check=at_least(1))
    mlp_ratio: float = flag(4.0, "width of its MLPs, as a multiple of the network's", check=between(0.01, 64))
    attention_window: int = flag(
        -1, "frames before and after it that a frame attends to; 0: all; -1: 2 for faces, all for signing",
        check=at_least(-1),
    )  # fmt: skip
    t_sampling: TimeKind = flag("uniform", "how times are drawn in training; logit_normal: more in the middle")
    loss_type: LossKind = flag("l1", "how far velocities are apart")
    lambda_flow: float = flag(1.0, "weight of the velocity's error", check=at_least(0))
    lambda_velocity: float = flag(1.0, "weight of the error of its change from frame to frame", check=at_least(0))
    sample_step: int = flag(
        1, "sample held-out motion at every so many evaluations, and draw it; 0: never", check=at_least(0)
    )


@dataclass(frozen=True)
class SpeechFlowConfig(FacesConfig):
    """The flags of speech to a talking face alone."""

    autoencoder_path: Path = flag(
        Path("out/motion_autoencoder/best_checkpoint.pth"), "best file of the motion_autoencoder stage, or float.pth"
    )
    wav2vec_model_path: Path = flag(Path("pretrained_weight/wav2vec2-base-960h"), "wav2vec2 folder")
    emotion_model_path: str = flag(
        "",
        "folder of a speech emotion classifier; default: the emotion is that of each clip's label",
        aliases=("audio2emotion_path",),
    )
    only_last_features: bool = flag(False, "hear the last layer of wav2vec2 alone, not all of them side by side")
    wav2vec_sec: float = flag(2.0, "seconds of a clip that are made at once", check=at_least(0.04))
    num_prev_frames: int = flag(10, "frames before them that are told", check=at_least(0))
    dim_a: int = flag(512, "width of a frame's sound", check=at_least(1))
    motion_scale: float = flag(
        1.0, "motion is multiplied by it, to be as large as the noise; 1: as FLOAT's autoencoder has it", check=above(0)
    )
    prev_weight: float = flag(0.0, "weight of giving back the previous frames", check=at_least(0))
    reference_frame: ReferenceFrame = flag("random", "which frame of a clip is its reference in training")
    audio_dropout_prob: float = flag(0.1, "share of items that lose the sound", check=between(0, 1))
    ref_dropout_prob: float = flag(0.1, "share of items that lose the reference", check=between(0, 1))
    emotion_dropout_prob: float = flag(0.1, "share of items that lose the emotion", check=between(0, 1))
    prev_dropout_prob: float = flag(0.5, "share of items that lose the previous motion, or sound", check=between(0, 1))


@dataclass(frozen=True)
class SignFlowConfig:
    """The flags of text to signing alone."""

    dataset: str = flag("", "corpus by name or YAML file, or several: A,B; default: CSL_Daily where it is, else Demo")
    task: Literal["SLT", "CSLR", "ISLR"] = flag("SLT", "what is signed: the sentence, the glosses or the word")
    mt5: str = flag("", "mT5 folder; default: pretrained_weight/mt5-base, for Demo pretrained_weight/mt5-demo")
    max_length: int = flag(0, "most frames of a clip; 0: as the corpus says", check=at_least(0))
    lambda_reconstruction: float = flag(1.0, "weight of the poses' error", check=at_least(0))
    lambda_bone: float = flag(1.0, "weight of the error of bones' lengths", check=at_least(0))
    lambda_length: float = flag(1.0, "weight of the error of the clip's predicted length", check=at_least(0))
    text_dropout_prob: float = flag(0.1, "share of items that lose the text", check=between(0, 1))


@dataclass(frozen=True)
class RectifiedFlowConfig(FlowConfig, SpeechFlowConfig, SignFlowConfig):
    """The flags of rectified flow."""

    data_root: str = flag(
        "",
        "faces: folder of train/ and test/ with Actor_*/*.mp4 and .wav beside, or a manifest of clips, default: "
        "talking_faces; signing: folder that holds data/, dataset/ and pretrained_weight/, default: the current one",
    )

    @property
    def frames(self) -> int:
        """Frames of a talking face that are made at once."""
        return round(self.wav2vec_sec * self.fps)

    def conflicts(self) -> str | None:
        """What does not go together, in one sentence."""
        for kind, others in (("face", SignFlowConfig), ("signing", SpeechFlowConfig)):
            known = {field.name for field in fields(FacesConfig)}
            for field in fields(others) if self.motion == kind else ():
                if field.name not in known and getattr(self, field.name) != field.default:
                    return f"--{field.name} says nothing with --motion {kind}: leave it out"
        try:
            self.speech_sizes(dim_w=1) if self.motion == "face" else self.signing_sizes(1, 1, 1)
        except ValueError as error:
            return f"Sizes of the network are impossible: {error}"
        return super().conflicts()

    def speech_sizes(self, dim_w: int) -> FlowSizes:
        """Those of a network of faces' motion of so many values; raises ValueError for impossible ones."""
        return FlowSizes(
            frames=self.frames,
            num_prev_frames=self.num_prev_frames,
            dim_w=dim_w,
            dim_r=dim_w,
            dim_a=self.dim_a,
            dim_e=len(EMOTIONS),
            attention_window=_FLOAT_WINDOW if self.attention_window < 0 else self.attention_window,
            **self._network(),
        )

    def signing_sizes(self, frames: int, dim_text: int, languages: int) -> FlowSizes:
        """Those of a network of signing, of clips of so many frames; raises ValueError for impossible ones."""
        return FlowSizes(
            frames=frames,
            num_prev_frames=0,
            dim_w=POSE_VALUES,
            dim_r=0,
            dim_a=0,
            dim_e=0,
            attention_window=max(0, self.attention_window),
            dim_text=dim_text,
            languages=languages,
            **self._network(),
        )

    def _network(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _NETWORK}
