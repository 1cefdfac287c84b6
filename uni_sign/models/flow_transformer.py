"""The velocity network of rectified-flow motion (FLOAT, arXiv 2412.01064), and dropout of its conditions.

Names of modules and buffers are those of the published weights, ``fmt.*``.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from uni_sign.models.hierarchical import sinusoidal_positions

DROPOUT_RATES = {"wa": 0.1, "wr": 0.1, "we": 0.1, "prev_x": 0.5, "prev_wa": 0.5}
_FREQUENCIES = 128
_EPS = 1e-6
_LARGEST = 1 << 16
_MOST_LAYERS = 200


@dataclass(frozen=True)
class FlowSizes:
    """Widths, depths and lengths of a velocity network; raises ValueError for impossible ones.

    ``frames`` of a clip and ``num_prev_frames`` before it (L and P of the paper); ``dim_w`` of the motion, ``dim_a``
    of the audio of a frame, ``dim_r`` of the reference, ``dim_e`` of the emotion, ``dim_text`` of a piece of text,
    0 where there is no such condition; ``languages``: how many there are, 0 where it is not told. A frame attends to
    ``attention_window`` frames before and after it, with 0 to all.
    """

    frames: int = 50
    num_prev_frames: int = 10
    dim_w: int = 512
    dim_a: int = 512
    dim_r: int = 512
    dim_e: int = 7
    dim_h: int = 1024
    fmt_depth: int = 8
    num_heads: int = 8
    mlp_ratio: float = 4.0
    attention_window: int = 2
    dim_text: int = 0
    languages: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            _check(field.name, getattr(self, field.name))
        if self.dim_h % self.num_heads:
            raise ValueError(f"dim_h {self.dim_h} is no multiple of num_heads {self.num_heads}")
        if self.num_prev_frames > self.frames:
            raise ValueError(f"num_prev_frames {self.num_prev_frames} is more than the {self.frames} frames of a clip")

    @property
    def positions(self) -> int:
        """Frames that the network sees at once, previous ones included (N of the paper)."""
        return self.num_prev_frames + self.frames


def _check(name: str, value: Any) -> None:
    if name == "mlp_ratio":
        good = type(value) in (int, float) and 0 < value <= 64
    else:
        least = 1 if name in ("frames", "dim_w", "dim_h", "fmt_depth", "num_heads") else 0
        good = type(value) is int and least <= value <= (_MOST_LAYERS if name == "fmt_depth" else _LARGEST)
    if not good:
        raise ValueError(f"{name} has an impossible value")


def flow_sizes(plain: Mapping[str, Any]) -> FlowSizes:
    """Sizes from plain values, as ``dataclasses.asdict`` gives them; raises ValueError for a wrong or missing one."""
    names = {field.name for field in fields(FlowSizes)}
    if set(plain) != names:
        raise ValueError(f"sizes of a flow transformer lack or add {', '.join(sorted(set(plain) ^ names, key=str))}")
    return FlowSizes(**plain)


class FlowTransformer(nn.Module):
    """Velocity v(t, x, conditions) of noised motion x (B, L, dim_w), behind that of previous frames: (B, P + L, dim_w).

    FLOAT's form has audio, reference and emotion, and a window of attention; the form for signing has text, read by
    cross-attention, a language, and none of the others. A condition that is given must be one of the sizes', and the
    other way round. What is left out on purpose is zero, a language -1: see `drop_conditions`.
    """

    pos_embed: Tensor
    alignment_mask: Tensor
    gradient_checkpointing: bool = False

    def __init__(self, sizes: FlowSizes) -> None:
        super().__init__()
        self.sizes = sizes
        width, length = sizes.dim_h, sizes.positions
        place = torch.arange(length)
        far = (place[:, None] - place).abs() > sizes.attention_window
        self.register_buffer("pos_embed", sinusoidal_positions(length, width, torch.zeros(()))[None])
        self.register_buffer("alignment_mask", far if sizes.attention_window else torch.zeros_like(far))
        self.x_embedder = _MotionEmbedding(sizes.dim_w, width)
        self.t_embedder = _TimeEmbedding(width)
        if of_frame := sizes.dim_r + sizes.dim_a + sizes.dim_e:
            self.c_embedder = nn.Linear(of_frame, width)
        if sizes.dim_text:
            self.text_embedder = nn.Sequential(nn.LayerNorm(sizes.dim_text), nn.Linear(sizes.dim_text, width))
        if sizes.languages:
            self.language_embedder = nn.Embedding(sizes.languages, width)
        self.blocks = nn.ModuleList(FlowBlock(sizes) for _ in range(sizes.fmt_depth))
        self.decoder = _Decoder(width, sizes.dim_w)
        self._start()

    def _start(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        still = [self.decoder.linear, self.decoder.adaLN_modulation[1]]
        for block in self.blocks:
            assert isinstance(block, FlowBlock)
            still.append(block.adaLN_modulation[1])
            still += [block.text_attn.proj] if block.text_attn is not None else []
        for linear in still:
            assert isinstance(linear, nn.Linear)
            nn.init.zeros_(linear.weight)
        if self.sizes.languages:
            nn.init.normal_(self.language_embedder.weight, std=0.02)

    def gradient_checkpointing_enable(self) -> None:
        """Training keeps the inputs of the blocks alone, and runs each again in the backward pass; same gradients."""
        self.gradient_checkpointing = True

    def forward(
        self,
        t: Tensor,
        x: Tensor,
        wa: Tensor | None = None,
        wr: Tensor | None = None,
        we: Tensor | None = None,
        prev_x: Tensor | None = None,
        prev_wa: Tensor | None = None,
        *,
        text: Tensor | None = None,
        text_mask: Tensor | None = None,
        language: Tensor | None = None,
        frame_mask: Tensor | None = None,
    ) -> Tensor:
        """Times t (B,) or () in [0, 1], motion x (B, L, dim_w) to (B, P + L, dim_w); L may be less than the sizes'.

        Audio wa (B, L, dim_a), reference wr (B, 1, dim_r), emotion we (B, 1, dim_e); previous frames prev_x
        (B, P, dim_w), prev_wa (B, P, dim_a); text (B, S, dim_text), language (B,) ids; text_mask (B, S) and frame_mask
        (B, L) are True where there is something, and nothing depends on the rest. Raises ValueError where conditions
        are not those of the sizes.
        """
        sizes = self.sizes
        previous = sizes.num_prev_frames > 0
        _expect("prev_x", prev_x, previous)
        _expect("text", text, sizes.dim_text > 0)
        hidden = x if prev_x is None else torch.cat([prev_x, x], dim=1)
        length = hidden.shape[1]
        if length > sizes.positions:
            raise ValueError(f"{length} frames are more than the {sizes.positions} of the sizes")
        dtype = self.x_embedder.proj.weight.dtype  # DeepSpeed casts weights, and neither batch nor buffers
        hidden = self.x_embedder(hidden.to(dtype)) + self.pos_embed[:, :length].to(dtype)
        _expect("prev_wa", prev_wa, previous and sizes.dim_a > 0)
        audio = wa if wa is None or prev_wa is None else torch.cat([prev_wa, wa], dim=1)
        condition = self._condition(t.expand(len(x)), wr, audio, we, language)
        read = None if text is None else self._read(text.to(dtype))
        seen = self._attended(length, frame_mask)
        read_mask = None if text_mask is None else _never_empty(text_mask)[:, None, None]
        recompute = self.gradient_checkpointing and self.training and torch.is_grad_enabled()
        for block in self.blocks:
            given = (hidden, condition, seen, read, read_mask)
            hidden = checkpoint(block, *given, use_reentrant=False) if recompute else block(*given)
        velocity: Tensor = self.decoder(hidden, condition)
        return velocity

    def _condition(
        self, t: Tensor, wr: Tensor | None, audio: Tensor | None, we: Tensor | None, language: Tensor | None
    ) -> Tensor:
        """c of the paper: (B, P + L, dim_h), or (B, 1, dim_h) where no frame has a condition of its own."""
        sizes = self.sizes
        condition: Tensor = self.t_embedder(t)[:, None]
        widths = {"wr": sizes.dim_r, "wa": sizes.dim_a, "we": sizes.dim_e}
        for (name, width), value in zip(widths.items(), (wr, audio, we), strict=True):
            _expect(name, value, width > 0)
        parts = [value for value in (wr, audio, we) if value is not None]
        if parts:
            length = max(part.shape[1] for part in parts)
            together = torch.cat([part.expand(-1, length, -1) for part in parts], dim=2)
            condition = condition + self.c_embedder(together.to(condition.dtype))
        _expect("language", language, sizes.languages > 0)
        if language is not None:
            known = (language >= 0)[:, None].to(condition.dtype)
            condition = condition + (self.language_embedder(language.clamp(min=0)) * known)[:, None]
        return condition

    def _read(self, text: Tensor) -> Tensor:
        """Pieces (B, S, h), each with its place: a text encoder whose places are relative does not tell it."""
        return self.text_embedder(text) + sinusoidal_positions(text.shape[1], self.sizes.dim_h, text)

    def _attended(self, length: int, frame_mask: Tensor | None) -> Tensor | None:
        """Where True, a frame (rows) attends to another: None for all, (N, N), or (B, 1, N, N) with padding."""
        if frame_mask is None and not self.sizes.attention_window:
            return None
        near = ~self.alignment_mask[:length, :length]
        if frame_mask is None:
            return near
        real = F.pad(frame_mask, (length - frame_mask.shape[1], 0), value=True)
        # Padding attends to itself: attention to nothing is no number.
        own = torch.eye(length, dtype=torch.bool, device=near.device)
        return ((near & real[:, None]) | own)[:, None]


def _expect(name: str, value: Tensor | None, wanted: bool) -> None:
    if (value is not None) != wanted:
        raise ValueError(f"{name} is {'missing' if wanted else 'given'}, and the sizes say otherwise")


def _never_empty(mask: Tensor) -> Tensor:
    return mask | ~mask.any(dim=1, keepdim=True)


def _modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=_EPS) * (1 + scale) + shift


class FlowBlock(nn.Module):
    """Attention and MLP, each shifted, scaled and gated frame by frame (adaLN-Zero, arXiv 2212.09748, section 3.2)."""

    def __init__(self, sizes: FlowSizes) -> None:
        super().__init__()
        width = sizes.dim_h
        self.attn = _SelfAttention(width, sizes.num_heads)
        self.text_attn = _TextAttention(width, sizes.num_heads) if sizes.dim_text else None
        self.mlp = _MLP(width, max(1, int(width * sizes.mlp_ratio)))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(
        self, x: Tensor, condition: Tensor, seen: Tensor | None, text: Tensor | None, text_mask: Tensor | None
    ) -> Tensor:
        """x (B, N, h), condition (B, N or 1, h), text (B, S, h) to (B, N, h)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(condition).chunk(6, dim=-1)
        x = x + gate1 * self.attn(_modulated(x, shift1, scale1), seen)
        if self.text_attn is not None:
            assert text is not None
            x = x + self.text_attn(x, text, text_mask)
        hidden: Tensor = x + gate2 * self.mlp(_modulated(x, shift2, scale2))
        return hidden


class _SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, seen: Tensor | None) -> Tensor:
        query, key, value = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        projected: Tensor = self.proj(attended.transpose(1, 2).flatten(2))
        return projected


class _TextAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, text: Tensor, mask: Tensor | None) -> Tensor:
        query = self.q(self.norm(x)).unflatten(2, (self.heads, -1)).transpose(1, 2)
        key, value = self.kv(text).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        projected: Tensor = self.proj(attended.transpose(1, 2).flatten(2))
        return projected


class _MLP(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.fc2(F.gelu(self.fc1(x), approximate="tanh"))
        return hidden


class _MotionEmbedding(nn.Module):
    def __init__(self, dim_w: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim_w, width)

    def forward(self, x: Tensor) -> Tensor:
        embedded: Tensor = self.proj(x)
        return embedded


class _TimeEmbedding(nn.Module):
    """Times (B,) in [0, 1], not scaled up, to (B, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2 * _FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        # bf16 has no room for times that lie close together.
        rate = torch.arange(_FREQUENCIES, device=t.device) * (-math.log(10000.0) / _FREQUENCIES)
        angle = t.float()[:, None] * rate.exp()
        waves = torch.cat([angle.cos(), angle.sin()], dim=1)
        embedded: Tensor = self.mlp(waves.to(next(self.mlp.parameters()).dtype))
        return embedded


class _Decoder(nn.Module):
    def __init__(self, width: int, dim_w: int) -> None:
        super().__init__()
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.linear = nn.Linear(width, dim_w)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(condition).chunk(2, dim=-1)
        velocity: Tensor = self.linear(_modulated(x, shift, scale))
        return velocity


def draw_masks(rates: Mapping[str, float], batch: int, generator: torch.Generator) -> dict[str, Tensor]:
    """By condition, the samples (B,) that lose it: independent draws, on the generator's device."""
    return {
        name: torch.rand(batch, generator=generator, device=generator.device) < rate for name, rate in rates.items()
    }


def drop_conditions(conditions: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Conditions (B, ...) with the samples of the masks (B,) at zero, ids at -1; those given are left as they are.

    For guidance without a classifier (arXiv 2207.12598, algorithm 1). Raises ValueError for a mask of no condition.
    """
    if unknown := sorted(set(masks) - set(conditions)):
        raise ValueError(f"there is no condition {unknown[0]} to drop")
    return {name: _dropped(value, masks[name]) if name in masks else value for name, value in conditions.items()}


def _dropped(value: Tensor, mask: Tensor) -> Tensor:
    absent = 0.0 if value.is_floating_point() else -1
    return value.masked_fill(mask.to(value.device).view(-1, *(1,) * (value.dim() - 1)), absent)
