"""Uni-Sign: poses, and descriptions where there are any, to the input of an mT5 that writes text."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import MT5Config

from uni_sign.models.generation import beam_search
from uni_sign.models.mt5 import decoder_states, new_mt5, recompute_blocks
from uni_sign.models.pose_encoder import PoseEncoder
from uni_sign.models.rgb_fusion import add_rgb_fusion, fused_hands
from uni_sign.models.text_fusion import GatingFusion, LearnableMaskEmbedding, TextEncoder, text_per_frame


@dataclass(frozen=True)
class Encoded:
    """What the encoder side made of a batch: states (B, S, D), mask (B, S), and the gate (N, 1) where fused."""

    hidden_states: Tensor
    attention_mask: Tensor
    gate: Tensor | None


class UniSign(PoseEncoder):
    """The published model with description fusion.

    It *is* a pose encoder in the sense that the published checkpoints keep its weights at the root, beside
    ``mt5_model``: ``part_para``, ``gcn_modules.*`` and so on (Uni-Sign, ICLR 2025, arXiv 2501.15187).

    A batch is a dict of ``lengths``, the frames of each clip as a list, and tensors: ``parts.<part>`` (N, V, 3) packed
    frames; ``prefix_ids`` (P,) and ``prefix_position`` (P,), ``frame_position`` (N,): flat places in the (B, S) input;
    ``attention_mask`` (B, S); ``labels`` (B, L), -100 where there is no target, and ``target_position``: flat places of
    the targets in them. With descriptions also ``text_left``, ``text_right``, ``text_weight``, ``text_indicator`` (N,),
    and either ``text_groups`` (token ids) or ``text_features`` (U, D). With ``rgb_support`` also the hands' crops:
    see `fused_hands`.
    """

    def __init__(
        self,
        config: MT5Config,
        hidden_dim: int = 256,
        fusion: bool = False,
        text_encoder_config: MT5Config | None = None,
        text_pooling: str = "mean",
        rgb_support: bool = False,
    ) -> None:
        super().__init__(config.d_model, hidden_dim)
        self.rgb_support = rgb_support
        if rgb_support:
            add_rgb_fusion(self, hidden_dim)
        self.mt5_model = new_mt5(config)
        self.fusion = fusion
        if fusion:
            self.mask_embedding = LearnableMaskEmbedding(config.d_model)
            self.gating_fusion = GatingFusion(config.d_model)
        if text_encoder_config is not None:
            self.text_encoder = TextEncoder(text_encoder_config, text_pooling)
        self.trains_text = text_encoder_config is not None
        # Within `constrained_generation`: (K,) ids of the pieces that are generated, by their rows there.
        self.generated_ids: Tensor | None = None

    def transformer_blocks(self) -> list[nn.Module]:
        """All blocks of mT5, and of the text encoder where it trains."""
        stacks = [self.mt5_model.encoder, self.mt5_model.decoder]
        if self.trains_text:
            stacks.append(self.text_encoder.encoder.encoder)
        return [block for stack in stacks for block in stack.block]

    def gradient_checkpointing_enable(self) -> None:
        """Training keeps little more than the inputs of the layers, and computes the rest twice; same gradients."""
        self.gradient_checkpointing = True
        recompute_blocks(self.mt5_model)
        if self.trains_text:
            recompute_blocks(self.text_encoder.encoder)

    def forward(self, batch: Mapping[str, Any]) -> Encoded:
        """Encode a batch; everything that trains takes part in every call, on every rank."""
        inputs_embeds, gate = self.inputs_embeds(batch)
        mask = batch["attention_mask"]
        states = self.mt5_model.encoder(inputs_embeds=inputs_embeds, attention_mask=mask).last_hidden_state
        return Encoded(states, mask, gate)

    def inputs_embeds(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor | None]:
        """Prefix embeddings followed by the frames, each clip from the left: (B, S, D), and the gate (N, 1)."""
        parts = {part: batch[f"parts.{part}"] for part in self.proj_linear}
        refine = partial(self._with_crops, batch) if self.rgb_support else None
        frames = self.pose_features(parts, batch["lengths"], batch.get("counted", True), refine)
        gate = None
        if self.fusion:
            text = text_per_frame(
                self.mask_embedding(self._text_features(batch)),
                batch["text_left"],
                batch["text_right"],
                batch["text_weight"],
            )
            frames, gate = self.gating_fusion(frames, text, batch["text_indicator"])
        prefix = self.mt5_model.shared(batch["prefix_ids"]).to(frames.dtype)
        rows, columns = batch["attention_mask"].shape
        flat = frames.new_zeros(rows * columns, frames.shape[-1])
        flat = flat.index_copy(0, batch["prefix_position"], prefix)
        flat = flat.index_copy(0, batch["frame_position"], frames)
        return flat.view(rows, columns, -1), gate

    def _with_crops(self, batch: Mapping[str, Any], hands: Mapping[str, Tensor]) -> dict[str, Tensor]:
        recompute = self.gradient_checkpointing and self.training and torch.is_grad_enabled()
        return fused_hands(self, hands, batch, recompute)

    def _text_features(self, batch: Mapping[str, Any]) -> Tensor | None:
        if self.trains_text:
            return self.text_encoder(batch["text_groups"])
        return batch["text_features"] if len(batch["text_features"]) else None

    def summed_loss(self, encoded: Encoded, batch: Mapping[str, Any], label_smoothing: float) -> Tensor:
        """Cross-entropy summed over the targets of the batch."""
        labels, places = batch["labels"], batch["target_position"]
        states = decoder_states(self.mt5_model, encoded.hidden_states, encoded.attention_mask, labels)
        rows, targets = states.flatten(0, 1).index_select(0, places), labels.flatten().index_select(0, places)
        loss: Tensor = self.mt5_model.lm_head(rows, targets, label_smoothing)
        return loss

    def generate(self, encoded: Encoded, num_beams: int, max_new_tokens: int, synced: bool = False) -> Tensor:
        """Beam search from the encoder output already computed: token ids (B, <= max_new_tokens + 1)."""
        ids = beam_search(
            self.mt5_model, encoded.hidden_states, encoded.attention_mask, num_beams, max_new_tokens, synced
        )
        return ids if self.generated_ids is None else self.generated_ids[ids]
