"""DeepMIL: multiple-instance ranking of single snippets (Sultani et al., CVPR 2018).

B videos, T snippets, D feature width. Masks: True = valid snippet.

What is not the authors': features are taken as they are (they bring each segment to length 1); a video of less than 32 snippets is padded
and masked (they repeat rows); every snippet is tested (they test 32 segments); weight decay acts on biases, too, and is half of theirs,
which Keras doubles.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from utils import ranks
from utils.systems.base import Output, Settings, System

SMOOTH = SPARSE = 8e-5  # λ1, λ2 of the paper


@dataclass(kw_only=True)
class DeepMILSettings(Settings):
    """DeepMIL's hyperparameters; dropout acts behind the first two layers."""


class DeepMIL(nn.Module):
    """D -> 512 -> 32 -> 1 for each snippet by itself: ReLU after the first layer only, sigmoid after the last, dropout between, as in the
    authors' code.
    """

    def __init__(self, *, width: int, dropout: float, feature_scale: float = 1.0):
        super().__init__()
        self.feature_scale = feature_scale
        self.layers = nn.Sequential(
            nn.Linear(width, 512), nn.ReLU(), ranks.Dropout(dropout), nn.Linear(512, 32), ranks.Dropout(dropout), nn.Linear(32, 1)
        )
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_normal_(layer.weight)
                nn.init.zeros_(layer.bias)

    def text_features(self) -> None:
        """There is no text side."""

    def forward(self, features: Tensor, lengths: Tensor, text: Tensor | None = None) -> Output:
        """features (B, T, D) float, rows from `lengths` (B,) int on are padding -> Output with coarse and coarse_logits."""
        mask = torch.arange(features.shape[1], device=features.device) < lengths[:, None]  # (B, T)
        logits = self.layers(self.feature_scale * features.masked_fill(~mask[..., None], 0))[..., 0].float()
        return Output(coarse=logits.sigmoid(), coarse_logits=logits)


def losses(out: Output, labels: Tensor, lengths: Tensor, options) -> dict[str, Tensor]:
    """Hinge ranking of each abnormal against each normal bag by their largest scores; smoothness and sparsity of the abnormal bags' scores.

    Sums over the abnormal bags, the ranking averaged over the normal ones, as in the authors' code: the paper's loss of a pair of bags,
    averaged over all pairs, times the number of abnormal bags. Without bags of one kind the ranking is 0.
    """
    mask = torch.arange(out.coarse.shape[1], device=lengths.device) < lengths[:, None]  # (B, T)
    normal = labels[:, 0] > 0
    largest = out.coarse.masked_fill(~mask, 0).amax(1)  # scores are above 0
    mask, scores = mask & ~normal[:, None], out.coarse.masked_fill(normal[:, None], 0)
    largest, normal = ranks.gathered(largest), ranks.gathered(labels[:, 0]) > 0  # each bag against those of all ranks
    hinge = (1 - largest[:, None] + largest).clamp(min=0).masked_fill(normal[:, None] | ~normal, 0)  # (abnormal, normal)
    return {
        "rank": ranks.share(hinge.sum() / normal.sum().clamp(min=1)),
        "smooth": SMOOTH * scores.diff(dim=1).square().masked_fill(~mask[:, 1:], 0).sum(),
        "sparse": SPARSE * scores.masked_fill(~mask, 0).sum(),
    }


def build(class_names, clip_model, *, visual_width: int, dropout: float = 0.6, feature_scale: float = 1.0) -> DeepMIL:
    """DeepMIL from sizes; see model.build_model. Classes and text encoder are not used."""
    return DeepMIL(width=visual_width, dropout=dropout, feature_scale=feature_scale)


# 50 epochs of one crop of UCF-Crime are 1,350 steps; the authors' code takes 20,000.
SYSTEM = System(
    build,
    losses,
    DeepMILSettings,
    encoder="C3D",
    widths=(4096,),
    text=lambda options: False,
    whole=True,
    ranks=True,
    defaults=dict(
        visual_length=32, dropout=0.6, optimizer="adagrad", lr=0.01, weight_decay=1e-3, batch_size=60, max_epoch=50,
        scheduler="none", grad_clip=0,
    ),
)  # fmt: skip
