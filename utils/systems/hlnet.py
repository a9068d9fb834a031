"""HL-Net: holistic, localized and score branches over the snippets of a video, and an online score distilled from them (Wu et al., "Not
only Look, but also Listen", ECCV 2020; code: XDVioDet).

B videos, T snippets, D feature width. Masks: True = valid snippet.

What is not the authors': a long training video is averaged over even segments (they pick rows), and one crop is tested (they average the
scores of five).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from utils import ranks
from utils.losses import top_k, top_k_mean
from utils.systems.base import Output, PaddingSettings, Published, Settings, System
from utils.temporal import GraphConvolution, distance_adjacency, similarity_adjacency

DISTIL = 5  # weight of the distillation, of the authors' code


@dataclass(kw_only=True)
class HLNetSettings(Settings, PaddingSettings):
    """HL-Net's hyperparameters; dropout acts behind every layer. Whole videos are tested, so that padding matters in training only."""


class HLNet(Published):
    """HL-Net with parameters named as in the authors' checkpoint.

    Without `mask_padding` as published: zero rows behind a video's end reach its offline scores through biases, five-wide convolutions and
    the distance adjacency, up to the longest video of the batch, where the authors cut it. With it they do not. The online score, which is
    the same either way, looks at four earlier rows of features and at no later one. What a row knows of later frames is up to what made it:
    an interpolated one, or one of a sentence, tells of its whole span.
    """

    ignored = ("conv1d3.", "conv1d4.", "simAdj.", "disAdj.")  # in the authors' checkpoint, used nowhere

    def __init__(self, *, width: int, dropout: float, mask_padding: bool, feature_scale: float = 1.0):
        super().__init__()
        self.mask_padding, self.feature_scale = mask_padding, feature_scale
        self.conv1d1, self.conv1d2 = nn.Conv1d(width, 512, 1), nn.Conv1d(512, 128, 1)
        self.gc1, self.gc2 = GraphConvolution(128, 32), GraphConvolution(32, 32)  # holistic: similarity
        self.gc3, self.gc4 = GraphConvolution(128, 32), GraphConvolution(32, 32)  # localized: distance
        self.gc5, self.gc6 = GraphConvolution(128, 32), GraphConvolution(32, 32)  # score
        self.classifier = nn.Linear(3 * 32, 1)
        self.approximator = nn.Sequential(nn.Conv1d(128, 64, 1), nn.ReLU(), nn.Conv1d(64, 32, 1), nn.ReLU())
        self.conv1d_approximator = nn.Conv1d(32, 1, 5)
        self.activate = nn.Sequential(nn.ReLU(), ranks.Dropout(dropout))
        for module in self.modules():
            if isinstance(module, nn.Conv1d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)

    def text_features(self) -> None:
        """There is no text side."""

    def parameter_groups(self, lr: float) -> list[dict]:
        """Groups for the optimizer: the approximator learns at half the rate."""
        groups = {1: [], 2: []}
        for name, parameter in self.named_parameters():
            groups[2 if "approximator" in name else 1].append(parameter)
        return [{"params": parameters, "lr": lr / divisor} for divisor, parameters in groups.items()]

    def forward(self, features: Tensor, lengths: Tensor, text: Tensor | None = None) -> Output:
        """features (B, T, D) float, rows from `lengths` (B,) int on are padding and taken as zeros -> Output with coarse (the offline
        score), online and the logits of both.
        """
        index = torch.arange(features.shape[1], device=features.device)
        mask = index < lengths[:, None]  # (B, T)
        inside = index < (ranks.largest(lengths) if self.training else lengths.max())  # (T,)
        features = self.feature_scale * features.masked_fill(~mask[..., None], 0)

        x = self.activate(self.conv1d2(self.activate(self.conv1d1(features.transpose(1, 2)))))  # (B, 128, T)
        online = self.conv1d_approximator(F.pad(self.approximator(x), (4, 0)))[:, 0].float()  # padded before the first snippet only

        def valid(y: Tensor) -> Tensor:  # zero rows add nothing to A·y·W, so that no adjacency needs a mask of its own
            return y * (mask if self.mask_padding else inside)[..., None]

        x = valid(x.transpose(1, 2))
        branches = []
        for first, second, adjacency in (
            (self.gc1, self.gc2, similarity_adjacency(features, mask)),
            (self.gc3, self.gc4, distance_adjacency(features.shape[1], features)),
            (self.gc5, self.gc6, score_adjacency(online.detach().sigmoid(), mask)),
        ):
            hidden = valid(self.activate(first(x, adjacency)))
            branches.append(self.activate(second(hidden, adjacency)))
        offline = self.classifier(torch.cat(branches, -1))[..., 0].float()

        offline, online = offline * inside, online * inside
        return Output(coarse=offline.sigmoid(), online=online.sigmoid(), coarse_logits=offline, online_logits=online)


def score_adjacency(scores: Tensor, mask: Tensor) -> Tensor:
    """σ((0.5 − |s_i − s_j|) / 0.1) of scores (B, T) in [0, 1], softmax over the valid j for each valid i; 0 outside: (B, T, T)."""
    closeness = ((0.5 - (scores[:, :, None] - scores[:, None]).abs()) / 0.1).sigmoid()
    return closeness.masked_fill(~mask[:, None], -torch.inf).softmax(2) * mask[:, :, None]


def losses(out: Output, labels: Tensor, lengths: Tensor, options) -> dict[str, Tensor]:
    """Binary cross entropy of either score's bags, σ(mean of the top-K logits), K = ⌊length/16 + 1⌋; and the distillation as published,
    −σ(offline)·log σ(online) without the term of the normal side, averaged over each video's snippets, then over videos.
    """
    k, abnormal = top_k(labels, lengths, False), (labels[:, 0] <= 0).float()
    mask = torch.arange(out.coarse.shape[1], device=lengths.device) < lengths[:, None]  # (B, T)
    cross = -out.coarse.detach() * F.logsigmoid(out.online_logits)

    def entropy(logits: Tensor) -> Tensor:
        mean = F.binary_cross_entropy_with_logits(top_k_mean(logits, lengths, k), abnormal)
        return ranks.share(mean, len(lengths))

    return {
        "offline": entropy(out.coarse_logits),
        "online": entropy(out.online_logits),
        "distil": DISTIL * ranks.share((cross.masked_fill(~mask, 0).sum(1) / lengths).mean(), len(lengths)),
    }


def build(
    class_names, clip_model, *, visual_width: int, dropout: float = 0.6, feature_scale: float = 1.0, mask_padding: bool = False
) -> HLNet:
    """HL-Net from sizes; see model.build_model. Classes and text encoder are not used."""
    return HLNet(width=visual_width, dropout=dropout, mask_padding=mask_padding, feature_scale=feature_scale)


SYSTEM = System(
    build,
    losses,
    HLNetSettings,
    encoder="I3D",
    widths=(1024, 1152),
    text=lambda options: False,
    whole=True,
    ranks=True,
    defaults=dict(
        visual_length=200, dropout=0.6, optimizer="adam", lr=1e-4, batch_size=128, sampling="shuffle", max_epoch=50,
        scheduler="multistep", milestones=(9,), grad_clip=0,  # × 0.1 from the 10th epoch on
    ),
)  # fmt: skip
