"""Faces to how they move, and back: pairs of frames of one clip, of which the second is drawn from the first."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from uni_sign.config import at_least, flag
from uni_sign.data.motion_clips import MotionClip, read_faces
from uni_sign.data.safe_tensors import load_tensors
from uni_sign.data.signs import Key
from uni_sign.errors import InputError
from uni_sign.models.motion_autoencoder import AutoencoderSizes, MotionAutoencoder
from uni_sign.models.motion_models import AUTOENCODER, motion_autoencoder
from uni_sign.models.stylegan_discriminator import (
    StyleGANDiscriminator,
    discriminator_losses,
    generator_losses,
    r1_penalties,
)
from uni_sign.models.vgg_features import VGG19Features, component_mask, perceptual_losses, vgg19_features
from uni_sign.stages._cached import Extractor
from uni_sign.stages._faces import Faces, FacesConfig, drawn_seed
from uni_sign.stages.base import Batch, BestFile, Evaluation

# Of an upright, cropped face, as shares of the picture: both eyes, and the lower face.
_COMPONENTS = ((0.2, 0.3, 0.8, 0.52), (0.25, 0.58, 0.75, 0.9))
_DRAWN = 8


def _power_of_two(value: int) -> str | None:
    return None if value in (16, 32, 64, 128, 256, 512, 1024) else "must be a power of two from 16 to 1024"


@dataclass(frozen=True)
class MotionAutoencoderConfig(FacesConfig):
    """The flags of faces to their motion."""

    finetune: str = flag("", "start from the weights of this best file, with its sizes, or of float.pth")
    input_size: int = flag(512, "height and width of the pictures", check=_power_of_two)
    dim_w: int = flag(512, "width of a face's latent and of its motion", check=at_least(1))
    dim_m: int = flag(20, "directions of motion", check=at_least(1))
    channels: int = flag(512, "width of the smallest maps", check=at_least(1))
    pairs_per_clip: int = flag(10, "pairs of frames that an epoch draws of each clip", check=at_least(1))
    vgg_weights: str = flag("", "VGG-19 with ImageNet's weights, by torchvision's names; default: no perceptual loss")
    l1_weight: float = flag(1.0, "weight of the absolute difference of pictures", check=at_least(0))
    l1_component_weight: float = flag(
        0.0, "further weight of it within eyes and lower face: what stands in for VGG-19 there", check=at_least(0)
    )
    vgg_weight: float = flag(10.0, "weight of the perceptual loss", check=at_least(0))
    component_weight: float = flag(100.0, "weight of the perceptual loss of eyes and lower face", check=at_least(0))
    gan_weight: float = flag(1.0, "weight of the adversarial loss; 0: no discriminator", check=at_least(0))
    r1_weight: float = flag(0.0, "weight of the gradient penalty of the discriminator", check=at_least(0))

    def conflicts(self) -> str | None:
        """What does not go together, in one sentence."""
        if self.dim_m > self.dim_w:
            return f"--dim_m {self.dim_m} is more than --dim_w {self.dim_w}: so many directions are never orthogonal"
        if self.r1_weight and not self.gan_weight:
            return "--r1_weight needs --gan_weight above 0"
        return super().conflicts()


class AutoencoderTraining(nn.Module):
    """The autoencoder and, where it trains against one, the discriminator; of them the first alone is kept.

    Both in one module, because the loop has one optimizer and one loss: so ZeRO, accumulation and resuming treat both
    alike.
    """

    def __init__(self, sizes: AutoencoderSizes, adversarial: bool) -> None:
        super().__init__()
        self.motion_autoencoder = MotionAutoencoder(sizes)
        self.discriminator = StyleGANDiscriminator(sizes.input_size, sizes.channels) if adversarial else None

    def gradient_checkpointing_enable(self) -> None:
        """Training keeps the inputs of blocks alone, and runs each again in the backward pass; same gradients."""
        self.motion_autoencoder.gradient_checkpointing_enable()
        if self.discriminator is not None:
            self.discriminator.gradient_checkpointing_enable()

    def forward(self, source: Tensor, driving: Tensor) -> Tensor:
        """Pictures (B, 3, S, S) of sources moving as in the driving ones."""
        generated: Tensor = self.motion_autoencoder(source, driving)
        return generated


@dataclass(frozen=True, eq=False)
class PairItems:
    """Pairs of frames of clips, ``pairs`` of each; those held out are the first frame and others spread evenly."""

    stage: "MotionAutoencoderStage"
    clips: Sequence[MotionClip]
    pairs: int
    trains: bool

    @cached_property
    def sizes(self) -> list[int]:
        """All alike."""
        return [1] * len(self)

    def __len__(self) -> int:
        return len(self.clips) * self.pairs

    def __getitem__(self, key: Key) -> dict[str, Any]:
        clip, number = self.clips[key.index // self.pairs], key.index % self.pairs
        frames = self.stage.cache.load(clip)["frames"]
        if self.trains:
            source, driving = drawn_seed(self.stage.seed, key).integers(len(frames), size=2)
        else:
            source, driving = 0, (number + 1) * (len(frames) - 1) // self.pairs
        return {
            **{"index": key.index if key.counted else -1, "name": f"{clip.name} {driving}"},
            **{"source": np.asarray(frames[source]), "driving": np.asarray(frames[driving])},
        }


class MotionAutoencoderStage(Faces):
    """A face and the motion of another frame to that frame."""

    Config: ClassVar[type] = MotionAutoencoderConfig
    name: ClassVar[str] = AUTOENCODER
    best_file: ClassVar[BestFile] = BestFile(part=AUTOENCODER)
    defaults: ClassVar[Mapping[str, Any]] = {
        **{"epochs": 100, "batch_size": 8, "lr": 2e-4, "opt_eps": 1e-8, "weight_decay": 0.0, "sched": "constant"},
        # The weights of the losses make gradients large, which does no harm to Adam.
        **{"dtype": "fp32", "zero_stage": 0, "gradient_clipping": 0.0},
    }

    @cached_property
    def trained(self) -> MotionAutoencoder | None:
        """The model of ``--finetune``."""
        path = self.config.finetune
        return motion_autoencoder(load_tensors(path), path) if path else None

    @cached_property
    def sizes(self) -> AutoencoderSizes:
        """Those of ``--finetune``, or of the flags."""
        config = self.config
        told = AutoencoderSizes(config.input_size, config.dim_w, config.dim_m, config.channels)
        if self.trained is None:
            return told
        if self.trained.sizes != told:
            self.notes.append(
                f"Its sizes are those of --finetune, not of flags or defaults: {asdict(self.trained.sizes)}."
            )
        return self.trained.sizes

    @property
    def hears(self) -> bool:
        """It sees, no more."""
        return False

    @property
    def settings(self) -> Mapping[str, Any]:
        """Frames depend on size and rate alone."""
        return {"what": "faces", "size": self.sizes.input_size, "fps": self.config.fps}

    @cached_property
    def vgg(self) -> VGG19Features | None:
        """What measures perceptual losses; it stands beside the model, which neither trains nor saves it."""
        path = self.config.vgg_weights
        return vgg19_features(load_tensors(path), path).eval() if path else None

    def check(self) -> None:
        """Read every input that can be known to be wrong before training; raises InputError."""
        _ = self.vgg
        super().check()

    def extractor(self, device: torch.device) -> Extractor:  # noqa: ARG002 - frames come from a decoder
        """The frames of a clip."""
        size, fps = self.sizes.input_size, self.config.fps
        return lambda clips: [{"frames": read_faces(clip.video, size, fps)} for clip in clips]

    @cached_property
    def splits(self) -> dict[str, PairItems]:
        """Pairs of the training clips, and fixed ones of the others."""
        pairs = self.config.pairs_per_clip
        return {name: PairItems(self, clips, pairs, name == "train") for name, clips in self.clips.items()}

    def largest_batch(self, items: int, frames: int) -> Batch:  # noqa: ARG002 - all alike
        """Pictures without a content: they need not be decoded yet."""
        _ = self.clips
        picture = np.zeros((self.sizes.input_size, self.sizes.input_size, 3), np.uint8)
        return self.collate([{"index": i, "name": "", "source": picture, "driving": picture} for i in range(items)])

    def meta_model(self) -> nn.Module:
        """The model without its weights."""
        with torch.device("meta"):
            return AutoencoderTraining(self.sizes, self.config.gan_weight > 0)

    def build_model(self) -> nn.Module:
        """The model with its starting weights; a discriminator is always new."""
        model = AutoencoderTraining(self.sizes, self.config.gan_weight > 0)
        if self.trained is not None:
            model.motion_autoencoder.load_state_dict(self.trained.state_dict())
            self.notes.append(f"Loaded the weights of {self.config.finetune}.")
        return model

    def hot_modules(self, model: Any) -> list[nn.Module]:  # noqa: ARG002 - warping and modulation gain nothing
        """None."""
        return []

    def compute_loss(self, model: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """What differs between drawn and true pictures, summed over those that count."""
        config, driving = self.config, _unit(batch["driving"])
        generated = model(_unit(batch["source"]), driving).float()
        l1 = _differences(generated, driving)
        losses, logs = config.l1_weight * l1, {"l1": l1.detach().mean()}
        if config.l1_component_weight:
            mask = _components(driving)
            losses = losses + config.l1_component_weight * _differences(generated * mask, driving * mask)
        if self.vgg is not None:
            perceptual = self._perceptual(generated, driving)
            losses = losses + config.vgg_weight * perceptual[0] + config.component_weight * perceptual[1]
            logs["perceptual"] = perceptual[0].detach().mean()
        if model.discriminator is not None:
            drawn, judged = self._adversarial(model.discriminator, generated, driving)
            losses = losses + config.gan_weight * drawn + judged
            logs |= {"generator": drawn.detach().mean(), "discriminator": judged.detach().mean()}
        return losses.sum() * float(batch["counted"]), logs

    def _perceptual(self, generated: Tensor, driving: Tensor) -> tuple[Tensor, Tensor]:
        assert self.vgg is not None
        vgg = self.vgg.to(driving.device)
        with torch.autocast(driving.device.type, enabled=False):
            losses = perceptual_losses(vgg, generated, driving, _components(driving))
        return losses.whole, losses.component

    def _adversarial(self, discriminator: Any, generated: Tensor, driving: Tensor) -> tuple[Tensor, Tensor]:
        """The losses of both sides, each item's, in one backward pass.

        The drawing side's gradient goes through the discriminator without reaching its parameters, which stand in
        detached; the discriminator's own loss sees drawn pictures detached. So each side has the gradient of its own
        loss alone, as with two optimizers, and Adam, which scales every parameter by itself, steps as two would.
        """
        parameters = dict(discriminator.named_parameters())
        if any(hasattr(parameter, "ds_id") for parameter in parameters.values()):
            raise InputError(
                "--gan_weight does not go with --zero_stage 3, whose shards cannot stand in: use 2 or less."
            )
        still = {name: parameter.detach() for name, parameter in parameters.items()}
        drawn = generator_losses(functional_call(discriminator, still, (generated,)))
        real = driving.requires_grad_(self.config.r1_weight > 0 and torch.is_grad_enabled())
        scores = discriminator(real)
        judged = discriminator_losses(scores, discriminator(generated.detach()))
        if real.requires_grad:
            judged = judged + self.config.r1_weight / 2 * r1_penalties(scores, real)
        return drawn, judged

    @torch.no_grad()
    def predict(self, model: Any, batch: Batch) -> list[dict[str, Any]]:
        """The difference of each picture, and the first pictures themselves."""
        generated = model(_unit(batch["source"]), _unit(batch["driving"])).float()
        l1 = _differences(generated, _unit(batch["driving"])).tolist()
        still = _differences(_unit(batch["source"]), _unit(batch["driving"])).tolist()
        drawn = ((generated.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        pairs = self.splits["val"].pairs
        rows = []
        for place, (index, name) in enumerate(zip(batch["indices"], batch["names"], strict=True)):
            if index < 0:
                continue
            row: dict[str, Any] = {"index": index, "name": name, "loss": l1[place], "of_source": still[place]}
            clip, number = divmod(index, pairs)
            if clip < _DRAWN and number == pairs // 2:
                row["source"], row["driving"] = (batch[side][place].cpu().numpy() for side in ("source", "driving"))
                row["generated"] = drawn[place]
            rows.append(row)
        return rows

    def scored(self, rows: list[dict[str, Any]]) -> Evaluation:
        """Mean absolute difference of pictures in [-1, 1], and how many times below that of leaving the source be."""
        shown = [row for row in rows if "generated" in row]
        names = ("source", "driving", "generated")
        grid = [(name, np.stack([row.pop(name) for row in shown])) for name in names]
        loss, still = (float(np.mean([row[name] for row in rows])) for name in ("loss", "of_source"))
        for row in rows:
            del row["index"]
        scores = {"loss": loss, "below_source": still / max(loss, 1e-12), "n": len(rows)}
        return Evaluation(scores, rows, grids={"faces": grid})

    def checkpoint_extras(self) -> dict[str, Any]:
        """Stage, flags, and the sizes that rebuild the model."""
        return {"stage": self.name, "config": self.plain_flags(), "model_config": asdict(self.sizes)}


def _unit(pictures: Tensor) -> Tensor:
    """Bytes (B, S, S, 3) to (B, 3, S, S) in [-1, 1]."""
    return pictures.permute(0, 3, 1, 2).float() / 127.5 - 1


def _components(pictures: Tensor) -> Tensor:
    """Where eyes and lower face are in pictures (B, 3, S, S): (B, 1, S, S) of 0 and 1."""
    boxes = torch.tensor(_COMPONENTS, device=pictures.device).expand(len(pictures), -1, -1)
    return component_mask(boxes, pictures.shape[-1])


def _differences(one: Tensor, other: Tensor) -> Tensor:
    return (one - other).abs().mean(dim=(1, 2, 3))


STAGE = MotionAutoencoderStage
