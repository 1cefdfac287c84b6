"""A clip's vectors to text: projected, and read by mBART's decoder."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import MBartForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.mbart.modeling_mbart import shift_tokens_right

from uni_sign.models.cross_entropy import output_matrix

UNUSED_MODULES = ("cross_attention.", "mbart.model.encoder.")  # of the published checkpoints


class VideoLanguageAlignment(nn.Module):
    """Global (B, d_final) and local (B, 2, d_final) vectors to the text of a clip, by mBART's decoder.

    With ``temporal_dim``, its temporal vectors (B, T, temporal_dim), too: one state each behind that of the clip.
    """

    def __init__(
        self,
        mbart: MBartForConditionalGeneration,
        video_repr_dim: int = 1536,
        cross_attention_heads: int = 16,
        dropout: float = 0.1,
        temporal_dim: int = 0,
    ) -> None:
        super().__init__()
        self.mbart = mbart
        mbart.lm_head = output_matrix(mbart.lm_head)
        width = mbart.config.d_model
        self.video_projection = nn.Sequential(
            nn.Linear(video_repr_dim, 2 * width),
            nn.LayerNorm(2 * width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(2 * width, width),
            nn.LayerNorm(width),
        )
        self.video_pos_encoding = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.cross_attention = nn.MultiheadAttention(width, cross_attention_heads, batch_first=True)
        if temporal_dim:
            self.temporal_projection = nn.Sequential(nn.Linear(temporal_dim, width), nn.LayerNorm(width))
        for name, parameter in self.named_parameters():
            # mBART's tied embedding belongs to the decoder, whichever name comes first.
            if name.startswith(UNUSED_MODULES) and "embed_tokens" not in name:
                parameter.requires_grad_(False)

    def freeze_mbart(self) -> None:
        """From now on mBART neither trains nor drops anything."""
        self.mbart.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "VideoLanguageAlignment":
        """Training or evaluation; a frozen mBART stays in evaluation."""
        super().train(mode)
        if not self.mbart.model.shared.weight.requires_grad:
            self.mbart.eval()
        return self

    def forward(
        self, global_vector: Tensor, local: Tensor, temporal: Tensor | None = None, padding: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """States (B, S, width) that the decoder attends to, and their attention mask (B, S); S: 1, or 1 + T."""
        dtype = self.video_pos_encoding.dtype  # DeepSpeed casts weights, and no batch
        video = self.video_projection(torch.cat([global_vector, local.flatten(1)], dim=1).to(dtype))[:, None]
        states = video + self.video_pos_encoding
        mask = torch.ones(states.shape[:2], dtype=torch.long, device=states.device)
        if temporal is None:
            return states, mask
        seen = torch.ones(temporal.shape[:2], dtype=torch.long, device=states.device)
        seen = seen if padding is None else seen.masked_fill(padding, 0)
        return torch.cat([states, self.temporal_projection(temporal.to(dtype))], dim=1), torch.cat([mask, seen], dim=1)

    def logits(self, states: Tensor, mask: Tensor, decoder_input_ids: Tensor) -> Tensor:
        """Logits (B, L, vocabulary) after each of the given pieces."""
        logits: Tensor = self.mbart.lm_head(self._decoded(states, mask, decoder_input_ids))
        return logits

    def _decoded(self, states: Tensor, mask: Tensor, decoder_input_ids: Tensor) -> Tensor:
        decoded = self.mbart.model.decoder(
            input_ids=decoder_input_ids, encoder_hidden_states=states, encoder_attention_mask=mask, use_cache=False
        )
        hidden: Tensor = decoded.last_hidden_state
        return hidden

    def summed_loss(self, states: Tensor, mask: Tensor, labels: Tensor, places: Tensor, smoothing: float) -> Tensor:
        """Cross-entropy summed over the ``places`` (N,) of real labels among all (B * L,) of ``labels`` (B, L).

        The others are -100; what the decoder is given begins with a text's last piece, as mBART has it.
        """
        given = shift_tokens_right(labels, self.mbart.config.pad_token_id)
        rows = self._decoded(states, mask, given).flatten(0, 1).index_select(0, places)
        loss: Tensor = self.mbart.lm_head(rows, labels.flatten().index_select(0, places), smoothing)
        return loss

    @torch.no_grad()
    def generate(self, states: Tensor, mask: Tensor, num_beams: int, max_length: int, **more: Any) -> Tensor:
        """Piece ids (B, at most ``max_length``) by beam search."""
        ids: Tensor = self.mbart.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=mask,
            num_beams=num_beams,
            max_length=max_length,
            **more,
        )
        return ids
