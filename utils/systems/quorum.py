"""Quorum-VAD, a system of our own: a few small networks that learn the same bags side by side, each from another start, and are asked
together. A member is TrCLIP-VAD's branch of captions on whatever the features are: a multi-scale temporal network under VadCLIP's two
heads, with ReFLIP-VAD's V-prompt. The anomaly score is the mean, over the members, of what their two heads say of it; the classes share it.

B videos, T snippets, D feature width, E text width, C+1 classes (class 0 = normal), M members. Masks: True = valid snippet.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from utils import ranks
from utils.losses import mil_align, mil_classification, text_separation
from utils.prompt import TextProjection, TextSide, cosine, position_prompts, within_range
from utils.systems.base import Output, PromptSettings, Settings, System, option
from utils.systems.trclip import MTN
from utils.systems.vadclip import SYSTEM as VADCLIP
from utils.temporal import FeedForward, QuickGELU, enter_autocast


@dataclass(kw_only=True)
class QuorumSettings(Settings, PromptSettings):
    """Quorum-VAD's hyperparameters; dropout acts behind each member's temporal network."""

    members: int = option(4, "networks that are trained side by side and averaged", low=1, high=100)


class Parts(NamedTuple):
    """What each member says, for the losses; a model in evaluation mode does not keep it."""

    logits: Tensor  # (M, B, T)
    alignment: Tensor  # (M, B, T, C+1)
    text: Tensor  # (M, C+1, D)


class Member(nn.Module):
    """One of the networks: MTN; a classifier; class embeddings that have seen the video, and their cosine with each snippet."""

    def __init__(self, width: int, text_width: int, *, temperature: float, dropout: float):
        super().__init__()
        self.temperature, self.dropout = temperature, ranks.Dropout(dropout)
        self.temporal = MTN(width)
        self.text = TextProjection(text_width, width)
        self.ffn_class, self.ffn_score = (FeedForward(width, 4 * width, QuickGELU()) for _ in range(2))
        self.classifier = nn.Linear(width, 1)

    def forward(self, x: Tensor, mask: Tensor, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, T, D), mask (B, T), text (C+1, E) -> logits (B, T), alignment map (B, T, C+1), class texts (C+1, D)."""
        x = self.dropout(self.temporal(x, mask))
        logits = self.classifier(x + self.ffn_score(x))[..., 0].float()
        text = self.text(text)
        prompt = F.normalize(within_range(logits.sigmoid() * mask)[:, None] @ x.float(), dim=-1)  # (B, 1, D), ReFLIP-VAD's eq. 9
        embeddings = text + prompt
        embeddings = embeddings + self.ffn_class(embeddings)
        return logits, cosine(x, embeddings).float() / self.temperature, text


class Quorum(nn.Module):
    """M members over one text side; `prompts` gives (C+1, E) text features."""

    def __init__(self, prompts: TextSide, *, width: int, members: int, temperature: float, feature_scale: float, dropout: float):
        super().__init__()
        self.feature_scale, self.prompt = feature_scale, prompts
        sizes = {"temperature": temperature, "dropout": dropout}
        self.members = nn.ModuleList(Member(width, prompts.output_width, **sizes) for _ in range(members))

    def text_features(self) -> Tensor:
        """(C+1, E), the same for every video: encode once, pass to `forward` when testing."""
        return self.prompt()

    def forward(self, features: Tensor, lengths: Tensor, text: Tensor | None = None) -> Output:
        """features (B, T, D) float, rows from `lengths` (B,) int on are padding and change nothing -> Output; in training with Parts."""
        mask = torch.arange(features.shape[1], device=features.device) < lengths[:, None]  # (B, T)
        x = enter_autocast(self.feature_scale * features.masked_fill(~mask[..., None], 0))
        text = self.text_features() if text is None else text
        said = Parts(*map(torch.stack, zip(*(member(x, mask, text) for member in self.members), strict=True)))
        normal, abnormal = said.alignment[..., 0], said.alignment[..., 1:]
        anomaly = ((said.logits + abnormal.logsumexp(-1) - normal) / 2).mean(0)  # both heads' log-odds
        coarse = anomaly.sigmoid()[..., None]
        share = abnormal.softmax(-1).mean(0)
        probs = torch.cat([1 - coarse, coarse * share], -1)
        out = Output(coarse[..., 0], said.alignment.mean(0), text=text, coarse_logits=anomaly, probs=probs)
        return out._replace(parts=said) if self.training else out


def losses(out: Output, labels: Tensor, lengths: Tensor, options) -> dict[str, Tensor]:
    """VadCLIP's three of each member by itself, averaged over the members."""
    logits, alignment, text = out.parts
    labels, lengths = labels.repeat(len(logits), 1), lengths.repeat(len(logits))
    return {
        "coarse": mil_classification(logits.flatten(0, 1), labels, lengths, logits=True),
        "align": options.lambda_align * mil_align(alignment.flatten(0, 1), labels, lengths),
        "text": options.lambda_text * torch.stack([text_separation(one) for one in text]).mean(),
    }


def build(
    class_names, clip_model, *, visual_width, prompt_prefix, prompt_postfix, members=4, temperature=0.07, feature_scale=1.0, dropout=0.5,
) -> Quorum:  # fmt: skip
    """Quorum-VAD from sizes; see model.build_model. Class text features in place of an encoder leave out its learnable prompt."""
    return Quorum(
        position_prompts(class_names, clip_model, prefix=prompt_prefix, postfix=prompt_postfix),
        width=visual_width,
        members=members,
        temperature=temperature,
        feature_scale=feature_scale,
        dropout=dropout,
    )


SYSTEM = System(
    build,
    losses,
    QuorumSettings,
    defaults=VADCLIP.defaults | dict(visual_length=128, dropout=0.5, max_epoch=8, lr=1e-3, seed=1),
    rule="no paper",
    ranks=True,
)
