"""VadCLIP (Wu et al., AAAI 2024), the baseline that everyone compares with.

B videos, T snippets, D feature width, C+1 classes (class 0 = normal). Masks: True = valid snippet. Dropout (ours) acts in the feed-forward
networks. The authors go back to the best weights on test after each epoch, without the optimizer: left out; `--select test` only keeps
the best epoch.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from utils.losses import mil_align, mil_classification, text_separation
from utils.prompt import bring, cosine, position_prompts
from utils.systems.base import (
    Output,
    PaddingSettings,
    ProjectionSettings,
    PromptSettings,
    Published,
    Settings,
    System,
    WindowSettings,
)
from utils.temporal import FeedForward, LocalGraph, QuickGELU, enter_autocast


@dataclass(kw_only=True)
class VadCLIPSettings(Settings, WindowSettings, PromptSettings, ProjectionSettings, PaddingSettings):
    """VadCLIP's hyperparameters."""


class VadCLIP(Published, LocalGraph):
    """VadCLIP as published, parameters named as in the authors' checkpoints.

    `prompts` gives (C+1, D) text features. Without `mask_padding` a bag of fewer than `length` snippets is filled up with zeros, as the
    authors do, and that changes what its snippets get, in the V-prompt too.
    """

    ignored = ("clipmodel.",)
    text_side = "text_prompt_embeddings"  # under which name `prompts` stand in the authors' checkpoints

    def __init__(
        self,
        prompts: nn.Module,
        *,
        width: int,
        length: int,
        layers: int,
        heads: int,
        attn_window: int,
        temperature: float,
        feature_scale: float,
        dropout: float,
        mask_padding: bool,
    ):
        super().__init__(
            width, length=length, layers=layers, heads=heads, attn_window=attn_window, dropout=dropout, mask_padding=mask_padding
        )
        self.length, self.temperature, self.feature_scale = length, temperature, feature_scale
        setattr(self, self.text_side, prompts)
        self.mlp1, self.mlp2 = (FeedForward(width, 4 * width, QuickGELU(), dropout) for _ in range(2))
        self.classifier = nn.Linear(width, 1)
        self.disAdj = nn.ParameterDict({"sigma": torch.full((1,), 0.1)})  # in the authors' checkpoints, used nowhere

    def text_features(self) -> Tensor:
        """(C+1, D), the same for every video: encode once, pass to `forward` when testing."""
        return self.get_submodule(self.text_side)()

    def forward(self, features: Tensor, lengths: Tensor, text: Tensor | None = None) -> Output:
        """features (B, T, D) float with T <= `length`, rows from `lengths` (B,) int on are padding and taken as zeros -> Output."""
        return self.look(features, lengths, text)[0]

    def look(self, features: Tensor, lengths: Tensor, text: Tensor | None) -> tuple[Output, Tensor, Tensor, Tensor]:
        """As `forward`, and with the rows that the bags are filled up with: visual (B, L, D), logits (B, L), mask (B, L), L = T with
        `mask_padding`, else `length`.
        """
        snippets = features.shape[1]
        if snippets > self.length:
            raise ValueError(f"{snippets} snippets, expected at most {self.length}, one per position; cut the video into chunks")
        mask = torch.arange(snippets, device=features.device) < lengths[:, None]  # (B, T), True = valid
        x = self.feature_scale * features.masked_fill(~mask[..., None], 0)
        if not self.mask_padding:
            x, mask = (F.pad(part, (*[0] * (2 * part.dim() - 4), 0, self.length - snippets)) for part in (x, mask))
        visual = self.encode(enter_autocast(x), mask)
        logits = self.classifier(visual + self.mlp2(visual))[..., 0].float()
        text = self.text_features() if text is None else text
        attention = logits * mask if self.mask_padding else logits
        prompt = F.normalize(attention[:, None] @ visual.float(), dim=-1)  # (B, 1, D), the V-prompt: raw logits, not their sigmoid
        embeddings = text + prompt
        embeddings = embeddings + self.mlp1(embeddings)
        alignment = cosine(visual[:, :snippets], embeddings) / self.temperature
        shown = logits[:, :snippets]
        out = Output(shown.sigmoid(), alignment, visual[:, :snippets], embeddings, text, coarse_logits=shown)
        return out, visual, logits, mask


def losses(out: Output, labels: Tensor, lengths: Tensor, options) -> dict[str, Tensor]:
    """BCE of the mean of the top-K scores, MIL-Align, text separation; K = ⌊length/16 + 1⌋ for every bag, normal ones too."""
    return {
        "coarse": mil_classification(out.coarse_logits, labels, lengths, logits=True),
        "align": options.lambda_align * mil_align(out.alignment, labels, lengths),
        "text": options.lambda_text * text_separation(out.text),
    }


def build(
    class_names, clip_model, *, visual_length, visual_width, visual_layers, visual_head, attn_window, prompt_prefix, prompt_postfix,
    feature_scale=1.0, temperature=0.07, dropout=0.0, mask_padding=False, text_projection=None,
) -> VadCLIP:  # fmt: skip
    """VadCLIP from sizes; see model.build_model. Class text features in place of an encoder leave out its learnable prompt."""
    prompts = position_prompts(class_names, clip_model, prefix=prompt_prefix, postfix=prompt_postfix)
    return VadCLIP(
        bring(prompts, visual_width, text_projection),
        width=visual_width,
        length=visual_length,
        layers=visual_layers,
        heads=visual_head,
        attn_window=attn_window,
        temperature=temperature,
        feature_scale=feature_scale,
        dropout=dropout,
        mask_padding=mask_padding,
    )


SYSTEM = System(
    build,
    losses,
    VadCLIPSettings,
    defaults=dict(
        visual_length=256, prompt_prefix=10, prompt_postfix=10, optimizer="adamw", weight_decay=0.01, max_epoch=10,
        scheduler="multistep", grad_clip=0, lambda_align=1, seed=234,
    ),
    rule="best on test",
    ranks=True,
)  # fmt: skip
