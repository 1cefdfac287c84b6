"""Parameter groups, the optimizer, and the learning rate as a pure function of the step."""

import math
from dataclasses import dataclass

import torch
from torch import nn

from uni_sign.config import TrainConfig


@dataclass(frozen=True)
class Schedule:
    """Course of the learning rate over ``total`` optimizer steps, the first ``warmup`` of them rising."""

    kind: str
    lr: float
    min_lr: float
    warmup: int
    total: int

    def lr_at(self, step: int) -> float:
        """The learning rate of optimizer step ``step`` (counted from 0)."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = min(1.0, (step - self.warmup) / max(1, self.total - self.warmup))
        if self.kind in ("constant", "plateau"):
            return self.lr
        fall = 1 - done if self.kind == "linear" else 0.5 * (1 + math.cos(math.pi * done))
        return self.min_lr + (self.lr - self.min_lr) * fall


def make_schedule(config: TrainConfig, steps_per_epoch: int) -> Schedule:
    """The schedule of a run; ``--max_steps`` stops a run early without bending its schedule."""
    return Schedule(
        kind=config.sched,
        lr=config.lr,
        min_lr=config.min_lr,
        warmup=round(config.warmup_epochs * steps_per_epoch),
        total=config.epochs * steps_per_epoch,
    )


@dataclass(frozen=True)
class Plateau:
    """Where ``--sched plateau`` stands: what it multiplies the learning rate by, and evaluations without a gain."""

    scale: float = 1.0
    stale: int = 0

    def after(self, gained: bool, config: TrainConfig) -> "Plateau":
        """That after one more evaluation: more of them in a row without a gain than is allowed lower the rate."""
        if gained:
            return Plateau(self.scale)
        if self.stale < config.plateau_patience:
            return Plateau(self.scale, self.stale + 1)
        return Plateau(max(self.scale * config.plateau_factor, config.min_lr / config.lr))


def is_gain(score: float, best: float | None, higher_is_better: bool) -> bool:
    """Whether a score is better than the best so far by more than a ten-thousandth of it."""
    if best is None:
        return True
    return (score - best) * (1 if higher_is_better else -1) > 1e-4 * abs(best)


@dataclass(frozen=True)
class Patience:
    """Where ``--early_stopping_patience`` stands: the score to beat, and evaluations in a row that did not."""

    to_beat: float | None = None
    waited: int = 0

    def after(self, score: float, higher_is_better: bool, config: TrainConfig) -> "Patience":
        """That after one more evaluation; many small gains make a large one, as the score to beat stays the same."""
        gain = math.inf if self.to_beat is None else (score - self.to_beat) * (1 if higher_is_better else -1)
        return Patience(score) if gain > config.early_stopping_min_delta else Patience(self.to_beat, self.waited + 1)


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer of ``--opt`` over the trainable parameters; vectors (biases, norms, gates) are not decayed."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if config.opt == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=0.9)
    if config.opt == "adafactor":
        # Matrix by matrix: all at once would hold several copies of all gradients.
        return torch.optim.Adafactor(groups, lr=config.lr, foreach=False)
    if config.opt == "adamw8bit":
        from bitsandbytes.optim import AdamW8bit  # optional, and of use on CUDA alone

        eight_bit: torch.optim.Optimizer = AdamW8bit(groups, lr=config.lr, betas=config.opt_betas, eps=config.opt_eps)
        return eight_bit
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.opt_betas, eps=config.opt_eps, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every parameter group the same learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr
