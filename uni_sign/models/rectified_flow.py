"""Rectified flow (arXiv 2209.14577) as FLOAT uses it (arXiv 2412.01064): the path, its loss, guidance and sampling.

x0 is noise, x1 data; motion is (B, L, D): items, frames, values. All of it is float32, whatever the network's dtype.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchdiffeq import odeint

from uni_sign.models.exact import exact_product
from uni_sign.models.flow_transformer import drop_conditions

TimeKind = Literal["uniform", "logit_normal"]
LossKind = Literal["l1", "mse", "huber"]
Method = Literal["euler", "midpoint", "rk4", "dopri5"]
NfeMode = Literal["evaluations", "official"]
Velocity = Callable[..., Tensor]
Guidance = Sequence[tuple[str, float]]

_EVALUATIONS = {"euler": 1, "midpoint": 2, "rk4": 4}  # of one step
_GOLDEN_RATIO = 0.6180339887498949


def interpolate(x0: Tensor, x1: Tensor, t: Tensor) -> Tensor:
    """x_t = (1 - t) x0 + t x1 (arXiv 2209.14577, equation 1): times t (B,) to (B, L, D)."""
    at = _per_item(t, x1)
    return (1 - at) * x0.float() + at * x1.float()


def velocity_target(x0: Tensor, x1: Tensor) -> Tensor:
    """u = x1 - x0, which the velocity is to be at every point of the path: (B, L, D)."""
    return x1.float() - x0.float()


def estimated_data(x_t: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
    """x1 as a velocity at time t (B,) would have it: x_t + (1 - t) v, (B, L, D)."""
    return x_t.float() + (1 - _per_item(t, x_t)) * velocity.float()


def _per_item(t: Tensor, like: Tensor) -> Tensor:
    return t.float().view(-1, *(1,) * (like.dim() - 1))


def sample_time(batch: int, generator: torch.Generator, kind: TimeKind = "uniform") -> Tensor:
    """Times (B,) in [0, 1) of a training step, on the generator's device.

    Uniform, or the logistic of a normal number, which has more of the middle (arXiv 2403.03206, section 3.1).
    """
    if kind == "uniform":
        return torch.rand(batch, generator=generator, device=generator.device)
    return torch.randn(batch, generator=generator, device=generator.device).sigmoid()


def stratified_times(items: Tensor, count: int) -> Tensor:
    """Times (B, count) at which items (B,), by number, are validated: the same ones always, one in each stratum.

    Items differ in where in the strata of [0, 1) they are, so that together they cover them evenly.
    """
    offset = (items.double() * _GOLDEN_RATIO + 0.5) % 1
    return ((torch.arange(count, device=items.device) + offset[:, None]) / count).float()


def item_noise(seeds: Sequence[int], draws: int, frames: int, width: int) -> Tensor:
    """N(0, I) on the CPU, (B, draws, frames, width): of an item's seed alone, and the first ones of however many."""
    return torch.stack([_noise_of(seed, draws, frames, width) for seed in seeds])


def _noise_of(seed: int, draws: int, frames: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randn(frames, width, generator=generator) for _ in range(draws)])


class FlowLosses(NamedTuple):
    """Of each item (B,), float32: the weighted sum, and its parts before weighting."""

    total: Tensor
    flow: Tensor
    velocity: Tensor
    previous: Tensor


def flow_losses(
    predicted: Tensor,
    target: Tensor,
    *,
    kind: LossKind = "l1",
    lambda_flow: float = 1.0,
    lambda_velocity: float = 1.0,
    prev_weight: float = 0.0,
    previous: Tensor | None = None,
    mask: Tensor | None = None,
) -> FlowLosses:
    """|v - u| + |dv - du| over the current frames (FLOAT): predicted (B, P + L, D), target u (B, L, D).

    d is the difference from one frame to the next; each part is a mean over an item's values, of frames where ``mask``
    (B, L) is True. With ``prev_weight`` the output at previous frames is to be ``previous`` (B, P, D), the motion that
    the network was given there. Raises ValueError where that is missing.
    """
    length = target.shape[1]
    before, current = predicted.float().split([predicted.shape[1] - length, length], dim=1)
    target, steady = target.float(), None
    if mask is not None:
        # Not a product, and not after the difference: what lies behind the mask may be anything.
        current, target = (motion.masked_fill(~mask[:, :, None], 0.0) for motion in (current, target))
        steady = mask[:, 1:] & mask[:, :-1]
    flow = mean_of_frames(distance(current, target, kind), mask)
    velocity = mean_of_frames(distance(current.diff(dim=1), target.diff(dim=1), kind), steady)
    past = torch.zeros_like(flow)
    if prev_weight:
        if previous is None or previous.shape != before.shape:
            raise ValueError("prev_weight needs the previous motion")
        past = mean_of_frames(distance(before, previous.float(), kind), None)
    total = lambda_flow * flow + lambda_velocity * velocity + prev_weight * past
    return FlowLosses(total, flow, velocity, past)


def distance(one: Tensor, other: Tensor, kind: LossKind) -> Tensor:
    """How far values are apart, one by one."""
    if kind == "l1":
        return (one - other).abs()
    return (one - other).square() if kind == "mse" else F.huber_loss(one, other, reduction="none")


def mean_of_frames(values: Tensor, mask: Tensor | None) -> Tensor:
    """(B, L, D) to (B,), frames outside the mask (B, L) left out; 0 where none is left."""
    if mask is None:
        mask = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
    per_frame = values.mean(dim=2).masked_fill(~mask, 0.0)
    return per_frame.sum(dim=1) / mask.sum(dim=1).clamp(min=1)


def span_errors(predicted: Tensor, target: Tensor, basis: Tensor) -> Tensor:
    """Mean absolute error (B,) of velocities (B, L, D) within the span of Q (D, M): what a decoder can show of it."""
    error = predicted[:, predicted.shape[1] - target.shape[1] :].float() - target.float()
    within = exact_product(exact_product(error, basis), basis.T)
    return within.abs().mean(dim=(1, 2))


def lambda_errors(estimated: Tensor, motion: Tensor, basis: Tensor) -> Tensor:
    """Mean absolute error (B,) of the coordinates on Q (D, M) of motion (B, L, D), see `estimated_data`."""
    return exact_product(estimated.float() - motion.float(), basis).abs().mean(dim=(1, 2))


def float_guidance(r_cfg_scale: float = 1.0, a_cfg_scale: float = 2.0, e_cfg_scale: float = 1.0) -> Guidance:
    """Scales of reference, audio and emotion, in the order in which guidance adds them."""
    return ("wr", r_cfg_scale), ("wa", a_cfg_scale), ("we", e_cfg_scale)


def guided_velocity(
    velocity: Velocity, t: Tensor, x: Tensor, conditions: Mapping[str, Tensor], guidance: Guidance
) -> Tensor:
    """g = v(none) + sum of s_k [v(first k conditions) - v(first k - 1)], in one batched call: (B, P + L, D).

    ``guidance`` names conditions and their scales s_k; the others of ``conditions`` are always there. With r = 1 this
    is FLOAT's, which never leaves the reference out. Where all scales are 1 this is v(all), and costs no more.
    """
    scales = [1.0, *(scale for _, scale in guidance), 0.0]
    weights = [(level, scales[level] - scales[level + 1]) for level in range(len(guidance) + 1)]
    wanted = [(level, weight) for level, weight in weights if weight] or [(len(guidance), 0.0)]
    batch = len(x)
    every = torch.ones(batch, dtype=torch.bool, device=x.device)
    views = [drop_conditions(conditions, {name: every for name, _ in guidance[level:]}) for level, _ in wanted]
    given = {name: torch.cat([view[name] for view in views]) for name in conditions}
    times = t if t.dim() == 0 else t.repeat(len(views))
    found = velocity(times, x.repeat(len(views), 1, 1), **given).float().unflatten(0, (len(views), batch))
    return torch.stack([weight * one for (_, weight), one in zip(wanted, found, strict=True)]).sum(dim=0)


@dataclass(frozen=True)
class Solver:
    """How the flow is followed from t = 0 to t = 1; raises ValueError for what cannot be.

    ``nfe``: how often a step method may ask for the velocity. The released code makes a grid of so many points
    instead, ``nfe_mode`` official: one step fewer. ``atol`` and ``rtol`` are of dopri5, which takes the steps it needs.
    """

    method: Method = "euler"
    nfe: int = 10
    nfe_mode: NfeMode = "evaluations"
    atol: float = 1e-5
    rtol: float = 1e-5

    def __post_init__(self) -> None:
        if self.method == "dopri5":
            if not (self.atol > 0 and self.rtol > 0):
                raise ValueError("atol and rtol must be above 0")
            return
        if self.method not in _EVALUATIONS:
            raise ValueError(f"{self.method} is no method: use one of {', '.join(_EVALUATIONS)}, dopri5")
        if self.nfe_mode not in ("evaluations", "official"):
            raise ValueError(f"nfe_mode is evaluations or official, not {self.nfe_mode}")
        if self.steps < 1:
            least = 2 if self.nfe_mode == "official" else _EVALUATIONS[self.method]
            raise ValueError(f"nfe {self.nfe} is not enough for one step of {self.method}: give at least {least}")

    @property
    def steps(self) -> int:
        """Steps of a step method, as many as ``nfe`` allows."""
        return self.nfe - 1 if self.nfe_mode == "official" else self.nfe // _EVALUATIONS[self.method]

    def grid(self) -> Tensor:
        """Times from 0 to 1 between which steps are made; of dopri5 the ends alone."""
        return torch.linspace(0.0, 1.0, 2 if self.method == "dopri5" else self.steps + 1)


def integrate(
    velocity: Callable[[Tensor, Tensor], Tensor], x0: Tensor, solver: Solver, mask: Tensor | None = None
) -> Tensor:
    """x1 of dx/dt = velocity(t, x), t (), from x0 (B, L, D).

    dopri5 chooses its steps by the frames where ``mask`` (B, L) is True. Raises ValueError where it finds no way.
    """
    start = x0.float()
    options: dict[str, Any] = {}
    if solver.method == "dopri5":
        options |= {"atol": solver.atol, "rtol": solver.rtol}
    if options and mask is not None:
        options["options"] = {"norm": lambda error: error.reshape(start.shape)[mask].square().mean().sqrt()}
    try:
        path = odeint(
            lambda t, x: velocity(t, x).float(), start, solver.grid().to(start), method=solver.method, **options
        )
    except AssertionError as error:  # torchdiffeq's, of a step that became too small, or of a state that is no number
        raise ValueError(f"{solver.method} cannot follow this velocity ({error})") from None
    end: Tensor = path[-1]
    return end


@torch.no_grad()
def sample_clip(
    velocity: Velocity, noise: Tensor, conditions: Mapping[str, Tensor], guidance: Guidance, solver: Solver
) -> Tensor:
    """Motion (B, L, D) from noise (B, L, D) under conditions (B, ...), such as `guided_velocity` takes.

    Nothing depends on how many items are sampled together: dopri5, whose steps would, takes one at a time.
    """
    if solver.method == "dopri5" and len(noise) > 1:
        alone = [{name: value[i : i + 1] for name, value in conditions.items()} for i in range(len(noise))]
        rows = [sample_clip(velocity, noise[i : i + 1], one, guidance, solver) for i, one in enumerate(alone)]
        return torch.cat(rows)
    length = noise.shape[1]

    def field(t: Tensor, x: Tensor) -> Tensor:
        guided = guided_velocity(velocity, t, x, conditions, guidance)
        return guided[:, guided.shape[1] - length :]

    return integrate(field, noise, solver, conditions.get("frame_mask"))


@torch.no_grad()
def sample(
    velocity: Velocity,
    noise: Tensor,
    audio: Tensor,
    reference: Tensor | None,
    emotion: Tensor | None,
    *,
    num_prev_frames: int,
    guidance: Guidance,
    solver: Solver,
    lengths: Sequence[int] | None = None,
    join_frames: int = 0,
) -> Tensor:
    """Motion (B, T, D) of audio (B, T, A), clip by clip (FLOAT), each begun from its noise.

    noise (B, clips, L, D), see `item_noise`; reference (B, 1, D) and emotion (B, 1, E), None where the network has no
    such condition: then ``guidance`` leaves it out. The frames before the first clip
    are zero, before the others the last ``num_prev_frames`` generated; the last clip is filled up by an item's last
    audio frame. ``lengths``: the frames of each item, all T if not given; motion behind them is zero.
    ``join_frames``: see `joined`; FLOAT's is 0. Raises ValueError for noise of fewer clips than there are.
    """
    clips, frames = noise.shape[1:3]
    length = audio.shape[1]
    if clips * frames < length:
        raise ValueError(f"{length} frames of audio are more than the noise's {clips} clips of {frames}")
    lasts = torch.tensor(lengths or [length] * len(audio), device=audio.device)[:, None] - 1
    place = torch.arange(-(-length // frames) * frames, device=audio.device).minimum(lasts)
    heard = audio.gather(1, place[:, :, None].expand(-1, -1, audio.shape[2])).split(frames, dim=1)
    given = {"wr": reference, "we": emotion}
    conditions = {name: value for name, value in given.items() if value is not None}
    scales = [(name, scale) for name, scale in guidance if name not in given or name in conditions]
    past = {
        "prev_x": noise.new_zeros(len(audio), num_prev_frames, noise.shape[3], device=audio.device),
        "prev_wa": audio.new_zeros(len(audio), num_prev_frames, audio.shape[2]),
    }
    kept = frames - num_prev_frames
    motion = list[Tensor]()
    for number, clip in enumerate(heard):
        told = {**conditions, "wa": clip, **(past if num_prev_frames else {})}
        generated = sample_clip(velocity, noise[:, number].to(audio.device), told, scales, solver)
        if number and join_frames:
            generated = joined(motion[-1], generated, join_frames)
        motion.append(generated)
        past = {"prev_x": generated[:, kept:], "prev_wa": clip[:, kept:]}
    whole = torch.cat(motion, dim=1)[:, :length]
    return whole.masked_fill((torch.arange(length, device=audio.device) > lasts)[:, :, None], 0.0)


def joined(before: Tensor, motion: Tensor, frames: int) -> Tensor:
    """Motion (B, L, D) led, over its first ``frames``, to where the clip ``before`` (B, L', D) ended.

    Each clip errs by itself, and where one begins that shows as a step: there it becomes the mean of those on either
    side. Clips of one frame stay as they are.
    """
    if min(before.shape[1], motion.shape[1]) < 2:
        return motion
    step = (before[:, -1] - before[:, -2] + motion[:, 1] - motion[:, 0]) / 2
    shift = before[:, -1] + step - motion[:, 0]
    share = torch.arange(motion.shape[1], device=motion.device) / frames
    fading = (1 + torch.cos(torch.pi * share.clamp(max=1))) / 2
    return motion + shift[:, None] * fading[:, None]
