"""Losses as pure functions of (scores, labels, lengths), masked and vectorised, on any device (ReFLIP-VAD eq. 12–18, VadCLIP).

B bags, T snippets, C+1 classes. `labels` is multi-hot (B, C+1) float, class 0 = normal; `lengths` (B,) int, the valid snippets of each bag.
Each returns a float32 scalar: of several ranks (utils/ranks.py) the share of this one.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from utils import ranks


def top_k(labels: Tensor, lengths: Tensor, normal_top1: bool) -> Tensor:
    """(B,) K = ⌊length/16 + 1⌋; with `normal_top1` K = 1 for a normal bag (ReFLIP-VAD eq. 12; VadCLIP: the same for every bag)."""
    k = lengths // 16 + 1
    return torch.where(labels[:, 0] > 0, 1, k) if normal_top1 else k


def top_k_mean(scores: Tensor, lengths: Tensor, k: Tensor) -> Tensor:
    """Mean of the k largest valid scores over time: (B, T) -> (B,), or (B, T, C) -> (B, C) for each class by itself."""
    if scores.dim() == 2:
        return top_k_mean(scores[..., None], lengths, k)[:, 0]
    largest, chosen = top_k_scores(scores, lengths, k)
    return largest.masked_fill(~chosen[..., None], 0).sum(1) / k[:, None]


def top_k_scores(scores: Tensor, lengths: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """The largest valid scores over time, (B, T, C) -> (B, ⌊T/16 + 1⌋, C) float32, and which of them are a bag's k (B, ⌊T/16 + 1⌋)."""
    index = torch.arange(scores.shape[1], device=scores.device)
    valid = index < lengths[:, None]
    largest = scores.float().masked_fill(~valid[..., None], -torch.inf).topk(scores.shape[1] // 16 + 1, dim=1).values
    return largest, index[: largest.shape[1]] < k[:, None]


def mil_classification(scores: Tensor, labels: Tensor, lengths: Tensor, *, normal_top1: bool = False, logits: bool = False) -> Tensor:
    """L_cga: binary cross entropy of each bag's top-K mean of coarse scores (B, T) in [0, 1] against "abnormal".

    logits: `scores` are those before the sigmoid. Then the mean is taken in log space, log Σ σ(x) − log K, and 1 − mean as the mean of
    σ(−x): where the scores are saturated the loss has a gradient still.
    """
    k = top_k(labels, lengths, normal_top1)
    if not logits:
        bag = top_k_mean(scores, lengths, k).clamp(1e-7, 1 - 1e-7)  # F.binary_cross_entropy raises on NaN before the engine names the batch
        return ranks.share(-torch.where(labels[:, 0] > 0, (1 - bag).log(), bag.log()).mean(), len(bag))
    largest, chosen = top_k_scores(scores[..., None], lengths, k)
    sign = torch.where(labels[:, 0] > 0, -1, 1)[:, None]
    log = F.logsigmoid(sign * largest[..., 0]).masked_fill(~chosen, -torch.inf)
    return ranks.share((k.log() - log.logsumexp(1)).mean(), len(k))


def mil_align(alignment: Tensor, labels: Tensor, lengths: Tensor, *, normal_top1: bool = False) -> Tensor:
    """L_fga: MIL-Align, −Σ q̂ · log softmax of the top-K means of the alignment map (B, T, C+1), q̂ = multi-hot / its sum.

    (Eq. 12 as printed is infinite for a multi-hot label; this is the form that works, and VadCLIP's.)
    """
    bag = top_k_mean(alignment, lengths, top_k(labels, lengths, normal_top1))
    target = labels / labels.sum(1, keepdim=True)
    return ranks.share(-(target * F.log_softmax(bag, 1)).sum(1).mean(), len(bag))


def magnitude_separability(visual: Tensor, labels: Tensor, lengths: Tensor, *, margin: float, push: float = 1.0) -> Tensor:
    """L_fms over G_visual (B, T, D): each bag's mean of its top-K snippet magnitudes ‖·‖₂ is pulled to the nearest bag of its own kind and
    pushed `margin` away from the farthest bag of the other kind (MGFN's squared form, averaged; eq. 14–16), `push` being
    the weight of the latter.

    A kind with one bag pulls nothing.
    """
    k = top_k(labels, lengths, False)
    index = torch.arange(visual.shape[1], device=visual.device)
    with torch.no_grad():  # only the top-K rows have a gradient: choose them first, so that the backward pass does not run over all T
        size = visual.float().norm(dim=-1).masked_fill(index >= lengths[:, None], -torch.inf)
        rows = size.topk(visual.shape[1] // 16 + 1, dim=1).indices
    largest = visual.gather(1, rows[..., None].expand(-1, -1, visual.shape[2])).float().norm(dim=-1)
    magnitude = ranks.gathered(largest.masked_fill(index[: rows.shape[1]] >= k[:, None], 0).sum(1) / k)
    distance = (magnitude[:, None] - magnitude).abs()
    normal = ranks.gathered(labels[:, 0]) > 0
    same = normal[:, None] == normal
    partner = same & ~torch.eye(len(normal), dtype=torch.bool, device=normal.device)
    paired, opposed = partner.any(1), ~same.all(1)
    nearest = distance.masked_fill(~partner, torch.inf).amin(1).masked_fill(~paired, 0)
    farthest = distance.masked_fill(same, -torch.inf).amax(1).masked_fill(~opposed, margin)
    missing = (margin - farthest).clamp(min=0)
    return ranks.share(nearest.square().sum() / paired.sum().clamp(min=1) + push * missing.square().sum() / opposed.sum().clamp(min=1))


def text_separation(text_features: Tensor) -> Tensor:
    """Mean over the anomaly classes of |cos(normal, class)|, on class embeddings (C+1, D) (VadCLIP's third loss)."""
    text = F.normalize(text_features.float(), dim=-1)
    return ranks.share((text[1:] @ text[0]).abs().mean())
