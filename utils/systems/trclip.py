"""TrCLIP-VAD: a visual branch (LGM-Mamba) and a branch of captions, side by side, under VadCLIP's two heads (Neural Networks 2026, doi
10.1016/j.neunet.2026.108951). The scan is utils/systems/mamba.py.

B videos, T snippets, D feature width, E caption width, W = D + E fused width, C+1 classes. Masks: True = valid snippet.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from utils import ranks
from utils.errors import BadInput
from utils.prompt import TextProjection, TextSide, cosine, position_prompts
from utils.systems.base import (
    CaptionSettings,
    Output,
    PaddingSettings,
    PromptSettings,
    Published,
    Settings,
    System,
    WindowSettings,
    option,
)
from utils.systems.mamba import Mamba, scan_backend
from utils.systems.vadclip import SYSTEM as VADCLIP
from utils.systems.vadclip import losses  # the same three, the third on the fused width
from utils.temporal import FeedForward, LocalGraph, QuickGELU, enter_autocast

BRANCHES = ("both", "visual", "text")
STACKS = ("mamba", "none")


@dataclass(kw_only=True)
class TrCLIPSettings(Settings, WindowSettings, PromptSettings, PaddingSettings, CaptionSettings):
    """TrCLIP-VAD's hyperparameters; dropout acts behind each branch."""

    branches: str = option("both", "visual branch, branch of captions, or both", choices=BRANCHES)
    stack: str = option("mamba", "what follows the graphs of the visual branch", choices=STACKS)
    text_stack: str = option("none", "the same in the branch of captions, before its MTN (ours; the paper has none)", choices=STACKS)
    mtn: bool = option(True, "multi-scale temporal network at the end of either branch")
    d_state: int = option(256, "states a channel of the Mamba blocks", low=1)


def valid_only(x: Tensor, mask: Tensor | None) -> Tensor:
    """x (B, W, T) with zeros where `mask` (B, T) is False; mask None: as it is."""
    return x if mask is None else x * mask[:, None]


def normalise(norm: nn.BatchNorm1d, x: Tensor, mask: Tensor | None) -> Tensor:
    """Batch normalisation of x (B, W, T), with `mask` over its valid snippets only."""
    if mask is None:
        return ranks.batch_norm(norm, x)
    return ranks.masked_batch_norm(norm, x.transpose(1, 2), mask).transpose(1, 2)


class NonLocal(nn.Module):
    """x + BatchNorm(W · θ(x)ᵀφ(x) g(x) / T), no softmax; the normalisation starts at zero. Without a softmax the products can be taken
    from the right, so that no T × T is stored.
    """

    def __init__(self, width: int):
        super().__init__()
        inner = width // 2
        self.g, self.theta, self.phi = (nn.Conv1d(width, inner, 1) for _ in range(3))
        self.W = nn.Sequential(nn.Conv1d(inner, width, 1), nn.BatchNorm1d(width))
        nn.init.zeros_(self.W[1].weight)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, W, T) -> (B, W, T)."""
        count = x.shape[2] if mask is None else mask.sum(1)[:, None, None].clamp(min=1)
        keys = valid_only(self.phi(x), mask) @ self.g(x).transpose(1, 2) / count  # (B, inner, inner)
        y = (self.theta(x).transpose(1, 2) @ keys).transpose(1, 2)
        return x + normalise(self.W[1], self.W[0](y), mask)


class MTN(nn.Module):
    """Multi-scale temporal network (RTFM): convolutions of dilation 1, 2, 4 and a non-local block, W/4 channels each, joined by another
    convolution; + input. Parameters named as in the authors' `Aggregate`.
    """

    def __init__(self, width: int):
        super().__init__()
        if width % 8:
            raise BadInput(f"--mtn: a branch is {width} wide, expected a multiple of 8; change its features, or give --no-mtn")
        quarter = width // 4

        def scale(dilation: int) -> nn.Sequential:
            conv = nn.Conv1d(width, quarter, 3, padding=dilation, dilation=dilation)
            return nn.Sequential(conv, nn.ReLU(), nn.BatchNorm1d(quarter))  # this order, as published

        self.conv_1, self.conv_2, self.conv_3 = scale(1), scale(2), scale(4)
        self.conv_4 = nn.Sequential(nn.Conv1d(width, quarter, 1, bias=False), nn.ReLU())
        self.conv_5 = nn.Sequential(nn.Conv1d(width, width, 3, padding=1, bias=False), nn.ReLU(), nn.BatchNorm1d(width))
        self.non_local = NonLocal(quarter)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, T, W) -> (B, T, W); with `mask` (B, T) padding changes nothing."""
        x = valid_only(x.transpose(1, 2), mask)
        scales = [normalise(part[2], part[1](part[0](x)), mask) for part in (self.conv_1, self.conv_2, self.conv_3)]
        scales.append(self.non_local(self.conv_4(x), mask))
        y = self.conv_5[1](self.conv_5[0](valid_only(torch.cat(scales, 1), mask)))
        return (normalise(self.conv_5[2], y, mask) + x).transpose(1, 2)


class MambaStack(nn.Module):
    """Mamba blocks in pairs on two widths, W and W/2 (paper: 512 and 256); all scans run forward, so that padding behind a
    video's end reaches nothing.
    Parameters named as in the authors' checkpoints.
    """

    def __init__(self, width: int, *, d_state: int, d_conv: int = 2, expand: int = 1, dropout: float = 0.05):
        super().__init__()
        narrow = width // 2
        self.mamba1, self.mamba2 = (Mamba(narrow, d_state=d_state, d_conv=d_conv, expand=expand) for _ in range(2))
        self.mamba3, self.mamba4 = (Mamba(width, d_state=d_state, d_conv=d_conv, expand=expand) for _ in range(2))
        self.lin2, self.lin3 = nn.Linear(width, narrow), nn.Linear(narrow, width)
        self.lin4 = nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, T, W) -> (B, T, W)."""
        wide_in = self.dropout(x)
        wide = self.mamba3(wide_in) + self.mamba4(wide_in)
        narrow = self.lin2(wide_in)
        narrow_in = self.dropout(narrow)
        v = self.lin3(self.mamba1(narrow_in) + narrow + self.mamba2(narrow_in)) + x
        return self.lin4(torch.cat([v, wide], -1))


class TrCLIPVAD(Published, LocalGraph):
    """TrCLIP-VAD as published, parameters named as in the authors' checkpoints (those of VadCLIP's temporal part stand at the top there).

    `prompts` gives (C+1, any width) text features, which `word_linear` brings to W. A branch that is not in `branches` does not exist, nor
    does a `stack`, `text_stack` or `mtn` that is switched off. Without `mask_padding` a bag of fewer than `length` snippets is filled up
    with zeros, as the authors do, and that changes what its snippets get; with it nothing of it does, batch statistics included.
    """

    ignored = ("clipmodel.", "mlp3.", "mamba.lin1.", "disAdj.")  # in the authors' checkpoints, used nowhere

    def __init__(
        self,
        prompts: TextSide,
        *,
        width: int,
        caption_width: int,
        length: int,
        layers: int,
        heads: int,
        attn_window: int,
        branches: str,
        stack: str,
        text_stack: str,
        mtn: bool,
        d_state: int,
        temperature: float,
        feature_scale: float,
        caption_scale: float,
        dropout: float,
        mask_padding: bool,
    ):
        super().__init__(width, length=length, layers=layers, heads=heads, attn_window=attn_window, mask_padding=mask_padding)
        self.length, self.branches, self.temperature = length, branches, temperature
        self.feature_scale, self.caption_scale = feature_scale, caption_scale
        if branches == "text":  # of LocalGraph, whose layers stand at the top in the authors' checkpoints, nothing is left
            for name in [name for name, _ in self.named_children()]:
                delattr(self, name)
        else:
            self.mamba = MambaStack(width, d_state=d_state) if stack == "mamba" else None
            self.Aggregate = MTN(width) if mtn else None
        if branches != "visual":
            self.mamba_text = MambaStack(caption_width, d_state=d_state) if text_stack == "mamba" else None
            self.Aggregate_text = MTN(caption_width) if mtn else None
        fused = width * (branches != "text") + caption_width * (branches != "visual")
        self.dropout = nn.Dropout(dropout)
        self.text_prompt_embeddings = prompts
        self.word_linear = TextProjection(prompts.output_width, fused)
        self.mlp1, self.mlp2 = (FeedForward(fused, 4 * fused, QuickGELU()) for _ in range(2))
        self.classifier = nn.Linear(fused, 1)

    def text_features(self) -> Tensor:
        """(C+1, W), the same for every video: encode once, pass to `forward` when testing."""
        return self.word_linear(self.text_prompt_embeddings())

    def visual_branch(self, x: Tensor, mask: Tensor) -> Tensor:
        """LGM-Mamba: local transformer and graphs, Mamba stack, MTN: (B, T, D) -> F_v (B, T, D)."""
        x = self.encode(x, mask)
        return self.dropout(aggregate(self.mamba, self.Aggregate, x, mask if self.mask_padding else None))

    def text_branch(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, T, E) -> F_t (B, T, E)."""
        return self.dropout(aggregate(self.mamba_text, self.Aggregate_text, x, mask if self.mask_padding else None))

    def forward(self, features: Tensor | None, lengths: Tensor, captions: Tensor | None = None, text: Tensor | None = None) -> Output:
        """features (B, T, D), captions (B, T, E) float with T <= `length`; rows from `lengths` (B,) int on are padding and taken as zeros.
        Of an absent branch the input is not looked at -> Output, `visual` being F_vt (B, T, W).
        """
        given = {"features": features, "captions": captions}
        absent = {"text": "features", "visual": "captions"}.get(self.branches)
        given = {name: part for name, part in given.items() if name != absent}
        if missing := [name for name, part in given.items() if part is None]:
            raise ValueError(f"no {missing[0]}; branches {self.branches!r} expects {' and '.join(given)}")
        snippets = next(iter(given.values())).shape[1]
        if snippets > self.length:
            raise ValueError(f"{snippets} snippets, expected at most {self.length}, one per position; cut the video into chunks")
        mask = torch.arange(snippets, device=lengths.device) < lengths[:, None]  # (B, T), True = valid
        scales = {"features": self.feature_scale, "captions": self.caption_scale}
        given = {name: scales[name] * part.masked_fill(~mask[..., None], 0) for name, part in given.items()}
        if not self.mask_padding:
            given = {name: F.pad(part, (0, 0, 0, self.length - snippets)) for name, part in given.items()}
            mask = F.pad(mask, (0, self.length - snippets))
        run = {"features": self.visual_branch, "captions": self.text_branch}
        fused = torch.cat([run[name](enter_autocast(part), mask) for name, part in given.items()], -1)  # F_vt
        logits = self.classifier(fused + self.mlp2(fused))[..., 0].float()
        text = self.text_features() if text is None else text
        attention = logits * mask if self.mask_padding else logits
        prompt = F.normalize(attention[:, None] @ fused.float(), dim=-1)  # (B, 1, W), the V-prompt: raw logits, not their sigmoid
        embeddings = text + prompt
        embeddings = embeddings + self.mlp1(embeddings)
        fused, logits = fused[:, :snippets], logits[:, :snippets]
        return Output(logits.sigmoid(), cosine(fused, embeddings) / self.temperature, fused, embeddings, text, coarse_logits=logits)

    def parameter_groups(self, lr: float) -> list[dict]:
        """No weight decay on Mamba's A_log and D, as its authors mean it."""
        trained = [p for p in self.parameters() if p.requires_grad]
        free = [p for p in trained if getattr(p, "_no_weight_decay", False)]
        rest = [p for p in trained if not getattr(p, "_no_weight_decay", False)]
        return [{"params": rest, "lr": lr}, *([{"params": free, "lr": lr, "weight_decay": 0.0}] if free else [])]


def aggregate(stack: nn.Module | None, mtn: nn.Module | None, x: Tensor, mask: Tensor | None) -> Tensor:
    """Stack, then MTN, where they are there."""
    for part in (stack, mtn):
        x = x if part is None else part(x, mask)
    return x


def build(
    class_names, clip_model, *, visual_length, visual_width, visual_layers, visual_head, attn_window, prompt_prefix, prompt_postfix,
    caption_width=768, branches="both", stack="mamba", text_stack="none", mtn=True, d_state=256, temperature=0.07,
    feature_scale=1.0, caption_scale=1.0, dropout=0.7, mask_padding=False,
) -> TrCLIPVAD:  # fmt: skip
    """TrCLIP-VAD from sizes; see model.build_model. Class text features in place of an encoder leave out its learnable prompt."""
    return TrCLIPVAD(
        position_prompts(class_names, clip_model, prefix=prompt_prefix, postfix=prompt_postfix),
        width=visual_width,
        caption_width=caption_width,
        length=visual_length,
        layers=visual_layers,
        heads=visual_head,
        attn_window=attn_window,
        branches=branches,
        stack=stack,
        text_stack=text_stack,
        mtn=mtn,
        d_state=d_state,
        temperature=temperature,
        feature_scale=feature_scale,
        caption_scale=caption_scale,
        dropout=dropout,
        mask_padding=mask_padding,
    )


def uses_mamba(options) -> bool:
    """Whether a branch that there is has Mamba blocks."""
    stacks = {"visual": options.stack, "text": options.text_stack}
    return "mamba" in (stacks.values() if options.branches == "both" else [stacks[options.branches]])


SYSTEM = System(
    build,
    losses,
    TrCLIPSettings,
    defaults=VADCLIP.defaults | {"dropout": 0.7},
    rule="best on test",
    inputs=lambda options: {"both": ("features", "captions"), "visual": ("features",), "text": ("captions",)}[options.branches],
    note=lambda options, device: scan_backend(device) if uses_mamba(options) else None,
    ranks=True,
)
