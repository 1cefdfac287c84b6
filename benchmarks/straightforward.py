"""The usual way of research code, to time ours against: the same arithmetic, padded, whole and in loops.

Weights have our names, so that both sides can hold the same ones and must give the same loss.
"""

from collections import OrderedDict
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import MT5Config
from transformers.modeling_outputs import BaseModelOutput

from uni_sign.models.mt5 import new_mt5
from uni_sign.models.pose_encoder import ANCHORS, GRAPHS, adjacency


class GraphConv(nn.Module):
    """(B, C, T, V) -> (B, C', T, V)."""

    def __init__(self, in_channels: int, out_channels: int, graph: Tensor) -> None:
        super().__init__()
        self.A = nn.Parameter(graph.clone())
        self.conv = nn.Conv2d(in_channels, out_channels * graph.shape[0], 1)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.conv(x)
        maps = maps.view(len(x), self.A.shape[0], -1, *maps.shape[2:])
        return self.bn(torch.einsum("nkctv,kvw->nctw", maps, self.A).contiguous())


class Block(nn.Module):
    """One layer of one part."""

    def __init__(self, in_channels: int, out_channels: int, graph: Tensor, temporal: bool) -> None:
        super().__init__()
        self.gcn = GraphConv(in_channels, out_channels, graph)
        self.tcn, self.residual = nn.Identity(), nn.Identity()
        if temporal:
            conv = nn.Conv2d(out_channels, out_channels, (5, 1), padding=(2, 0))
            self.tcn = nn.Sequential(conv, nn.BatchNorm2d(out_channels))  # type: ignore[assignment]
        if in_channels != out_channels:
            conv = nn.Conv2d(in_channels, out_channels, 1)
            self.residual = nn.Sequential(conv, nn.BatchNorm2d(out_channels))  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.tcn(F.relu(self.gcn(x))) + self.residual(x))


class PoseEncoder(nn.Module):
    """Padded parts (B, T, V, 3) to (B, T, d_model), one part after the other."""

    def __init__(self, d_model: int, hidden_dim: int) -> None:
        super().__init__()
        quarter, half = hidden_dim // 4, hidden_dim // 2
        widths = [(quarter, quarter), (quarter, half), (half, hidden_dim)]
        own = {part: adjacency(part) for part in GRAPHS if part != "left"}
        self.part_para = nn.Parameter(torch.zeros(hidden_dim * len(GRAPHS)))
        self.proj_linear = shared({part: nn.Linear(3, quarter) for part in own})
        self.gcn_modules = shared(
            {
                part: chain({f"layer{i}_0": Block(a, b, graph, False) for i, (a, b) in enumerate(widths)})
                for part, graph in own.items()
            }
        )
        self.fusion_gcn_modules = shared(
            {
                part: chain({f"layer0_{i}": Block(hidden_dim, hidden_dim, graph, True) for i in range(3)})
                for part, graph in own.items()
            }
        )
        self.pose_proj = nn.Linear(hidden_dim * len(GRAPHS), d_model)

    def pose_features(self, parts: Mapping[str, Tensor]) -> Tensor:
        features, body = [], torch.empty(0)
        for part in GRAPHS:
            x = self.proj_linear[part](parts[part]).permute(0, 3, 1, 2)
            x = self.gcn_modules[part](x)
            if part == "body":
                body = x
            else:
                x = x + body[..., ANCHORS[part], None].detach()
            x = self.fusion_gcn_modules[part](x)
            features.append(x.mean(-1).transpose(1, 2))
        return self.pose_proj(torch.cat(features, dim=-1) + self.part_para)


def chain(blocks: Mapping[str, nn.Module]) -> nn.Sequential:
    return nn.Sequential(OrderedDict(blocks))


def shared(modules: dict[str, nn.Module]) -> nn.ModuleDict:
    """By part, the left hand's being the right hand's own."""
    return nn.ModuleDict({part: modules["right" if part == "left" else part] for part in GRAPHS})


class UniSign(PoseEncoder):
    """Poses padded to the batch's longest clip, the prefix embedded anew each time, mT5's own loss beside ours."""

    def __init__(self, config: MT5Config, hidden_dim: int) -> None:
        super().__init__(config.d_model, hidden_dim)
        self.mt5_model = new_mt5(config)

    def encode(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        frames = self.pose_features(batch)
        prefix: Tensor = self.mt5_model.shared(batch["prefix_ids"])
        mask = torch.cat([torch.ones_like(batch["prefix_ids"]), batch["frame_mask"]], dim=1)
        return torch.cat([prefix, frames], dim=1), mask

    def loss(self, batch: Mapping[str, Tensor], smoothing: float) -> Tensor:
        """The mean loss: the model makes one inside, from all logits, and the caller another from the same."""
        inputs, mask = self.encode(batch)
        given = self.mt5_model(inputs_embeds=inputs, attention_mask=mask, labels=batch["labels"], return_dict=True)
        logits = given.logits.flatten(0, 1)
        return F.cross_entropy(logits, batch["labels"].flatten(), ignore_index=-100, label_smoothing=smoothing)

    @torch.no_grad()
    def generate(self, batch: Mapping[str, Tensor], num_beams: int, max_new_tokens: int) -> Tensor:
        """Encodes again what the loss has encoded already."""
        inputs, mask = self.encode(batch)
        states = self.mt5_model.encoder(inputs_embeds=inputs, attention_mask=mask).last_hidden_state
        found: Tensor = self.mt5_model.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=mask,
            num_beams=num_beams,
            max_new_tokens=max_new_tokens,
            do_sample=False,
        )
        return found
