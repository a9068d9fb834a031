"""DSANet (Yin et al., AAAI 2026, arXiv 2511.10334), as its released code computes it: VadCLIP's network with adapters in CLIP's text side,
and two things that help it train. DCSA contrasts what a video's score calls event and background with the class texts; SG-NM, the
"refiner", learns what normal snippets of a video look like and rebuilds all of them from that. Testing needs neither.

B videos, T snippets, D feature width, C+1 classes (class 0 = normal), K queries. Masks: True = valid snippet. Dropout (ours, 0 by default)
acts in the feed-forward networks with QuickGELU. The authors go back to the best weights on test after each epoch, without the
optimizers: left out; `--select test` only keeps the best epoch.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from utils import ranks
from utils.errors import BadInput
from utils.prompt import ClassPrompts, FixedFeatures, PromptEncoder, TextSide, bring, cosine, fixed_features, text_encoder
from utils.systems.base import AlignmentSettings, Output, PaddingSettings, ProjectionSettings, Settings, System, WindowSettings, option
from utils.systems.stable_adamw import StableAdamW, warm_cosine
from utils.systems.vadclip import SYSTEM as VADCLIP
from utils.systems.vadclip import VadCLIP
from utils.temporal import FeedForward, QuickGELU
from utils.text import CLIPText

HEADS = 8  # of the refiner, as the authors have it
SCALE = 10  # of a score in the exponent of the event's and background's weights
SMOOTHING = 0.1  # of the labels that event and background are held to


@dataclass(kw_only=True)
class DSANetSettings(Settings, WindowSettings, AlignmentSettings, ProjectionSettings, PaddingSettings):
    """DSANet's hyperparameters."""

    text_adapt_until: int = option(3, "CLIP's first text blocks behind which an adapter stands (UCF: 3, XD: 1)", low=0, high=100)
    t_w: float = option(0.1, "weight of an adapter beside what it adapts (UCF: 0.1, XD: 0.6)", low=0, high=1)
    num_prototypes: int = option(16, "K, queries that normal snippets are gathered in", low=1)
    decoder_depth: int = option(8, "blocks that rebuild the snippets from the K", low=1, high=100)
    normal_selection_ratio: float = option(0.8, "share of a bag's snippets, of lowest score, that are taken for normal", above=0, high=1)
    temp: float = option(1.0, "temperature of score and classes in the fine score (UCF: 5, XD: 1)", above=0)
    lambda_event: float = option(1.0, "weight of the event against its classes", group="training", low=0)
    lambda_background: float = option(1.0, "weight of the background against the normal class", group="training", low=0)
    lambda_consistency: float = option(1.0, "weight of score against reconstruction error", group="training", low=0)
    lambda_gather: float = option(1.0, "weight of normal snippets against the nearest of the K", group="training", low=0)


class Parts(NamedTuple):
    """What DSANet's losses read beside the common outputs; a model in evaluation mode does not make it."""

    event: Tensor  # (B, C+1) logits
    background: Tensor  # (B, C+1) logits
    rebuilt: Tensor  # (B, T, D)
    normal: Tensor  # (B, n, D) rows of lowest score, no gradient
    chosen: Tensor  # (B, n) which of them count
    prototypes: Tensor  # (B, K, D)


class Adapter(nn.Module):
    """A linear map without bias and LeakyReLU, named as in the authors' checkpoints."""

    def __init__(self, width: int, out: int):
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(width, out, bias=False), nn.LeakyReLU())
        nn.init.xavier_uniform_(self.fc[0].weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)

    def mixed(self, x: Tensor, weight: float) -> Tensor:
        """x (…, W) and what this makes of it, brought to the norm of x: weight · a‖x‖/‖a‖ + (1 − weight) · x."""
        a = self(x)
        return weight * a * x.norm(dim=-1, keepdim=True) / (a.norm(dim=-1, keepdim=True) + 1e-6) + (1 - weight) * x


class AdaptedCLIP(ClassPrompts):
    """The bare class names through a frozen CLIP with an adapter behind each of its first `blocks` text blocks (of all, if it has fewer),
    and one more in place of its projection: (C+1, E).
    """

    def __init__(self, class_names, text: CLIPText, *, blocks: int, weight: float):
        super().__init__(class_names, text, around=lambda size: (range(0), range(0)))
        self.weight = weight
        blocks = min(blocks, len(text.module.transformer.resblocks))
        widths = [text.width] * (blocks + 1) + [text.output_width]
        self.text_adapter = nn.ModuleList(map(Adapter, widths[:-1], widths[1:]))

    def behind(self, block: int, x: Tensor) -> Tensor:
        return self.text_adapter[block].mixed(x, self.weight) if block < len(self.text_adapter) - 1 else x

    def encoded(self) -> Tensor:
        return self.text_adapter[-1](self.text.last(*self.prompts(self.names[:0]), self.behind))


class AdaptedWords(PromptEncoder):
    """Ours, for a text encoder that has no CLIP blocks: one adapter on the frozen vector of each bare class name: (C+1, E)."""

    def __init__(self, class_names, text: nn.Module, *, weight: float):
        super().__init__(class_names, text, prompt="class", template="", prefix=0, postfix=0)
        self.weight, self.text_adapter = weight, nn.ModuleList([Adapter(self.output_width, self.output_width)])

    def encoded(self) -> Tensor:
        return self.text_adapter[0].mixed(super().encoded(), self.weight)


class AdaptedFeatures(FixedFeatures):
    """Ours, the same for class text features computed elsewhere."""

    def __init__(self, features: Tensor, *, weight: float):
        super().__init__(features)
        self.weight, self.text_adapter = weight, nn.ModuleList([Adapter(self.output_width, self.output_width)])

    def encoded(self) -> Tensor:
        return self.text_adapter[0].mixed(super().encoded(), self.weight)


def adapted(class_names, clip_model, *, blocks: int, weight: float) -> TextSide:
    """The text side for a CLIP, another text encoder, or class text features (C+1, E)."""
    if isinstance(clip_model, Tensor):
        return AdaptedFeatures(fixed_features(clip_model, class_names).features, weight=weight)
    text = text_encoder(clip_model)
    if isinstance(text, CLIPText):
        return AdaptedCLIP(class_names, text, blocks=blocks, weight=weight)
    return AdaptedWords(class_names, text, weight=weight)


class Attention(nn.Module):
    """Attention of x (B, T, D) to y (B, n, D)."""

    def __init__(self, width: int):
        super().__init__()
        self.q, self.kv, self.proj = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)

    def heads(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, HEADS, T, D / HEADS), keys and values (B, HEADS, n, D / HEADS)."""
        k, v = self.kv(y).unflatten(-1, (2, HEADS, -1)).permute(2, 0, 3, 1, 4)
        return self.q(x).unflatten(-1, (HEADS, -1)).transpose(1, 2), k, v

    def forward(self, x: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:
        """mask (B, n): which of y are looked at; None: all."""
        mask = None if mask is None else mask[:, None, None]
        return self.proj(F.scaled_dot_product_attention(*self.heads(x, y), attn_mask=mask).transpose(1, 2).flatten(2))


class CosineAttention(Attention):
    """The same with ReLU(scale · cosine) in place of the softmax, one learned scale a head."""

    def __init__(self, width: int):
        super().__init__(width)
        self.learn_scale = nn.Parameter(torch.ones(HEADS, 1, 1))

    def forward(self, x: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = self.heads(x, y)
        weights = F.relu(self.learn_scale * (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-1, -2)))
        return self.proj((weights @ v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A pre-LN block of x (B, T, D) that looks at y (B, n, D); one norm for both. `skip`: whether the attention has a residual connection;
    the authors' decoder has none.
    """

    def __init__(self, width: int, attention: Attention, skip: bool):
        super().__init__()
        self.skip = skip
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=1e-8) for _ in range(2))
        self.attn = attention
        self.mlp = nn.Sequential(OrderedDict(fc1=nn.Linear(width, 4 * width), act=nn.GELU(), fc2=nn.Linear(4 * width, width)))

    def forward(self, x: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
        """mask (B, n): which of y are looked at; None: all."""
        seen = self.attn(self.norm1(x), self.norm1(y), mask)
        x = x + seen if self.skip else seen
        return x + self.mlp(self.norm2(x))


class Refiner(nn.Module):
    """SG-NM: the rows of lowest score, gathered in K queries, from which all rows are rebuilt. Raises BadInput where HEADS heads do not
    divide the width.
    """

    def __init__(self, width: int, *, prototypes: int, depth: int, ratio: float, dropout: float):
        super().__init__()
        if width % HEADS:
            raise BadInput(f"--visual-width {width}: expected a multiple of {HEADS}, the heads of DSANet's refiner; name another --model")
        self.ratio = ratio
        self.video_prototypes = nn.Parameter(torch.randn(prototypes, width))
        self.dnp_extractor = nn.ModuleList([Block(width, Attention(width), skip=True)])
        self.bottleneck = FeedForward(width, 4 * width, QuickGELU(), dropout)
        self.decoder = nn.ModuleList(Block(width, CosineAttention(width), skip=False) for _ in range(depth))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.01, a=-0.03, b=0.03)
                nn.init.zeros_(module.bias)

    def forward(self, visual: Tensor, logits: Tensor, mask: Tensor | None, snippets: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """visual (B, L, D), logits (B, L), mask (B, L), None: all rows count -> the fields of Parts from `rebuilt` on, of which that has
        the first `snippets` rows.
        """
        with torch.no_grad():
            scores = logits if mask is None else logits.masked_fill(~mask, torch.inf)
            rows = scores.topk(max(int(self.ratio * visual.shape[1]), 1), dim=1, largest=False).indices
            normal = visual.gather(1, rows[..., None].expand(-1, -1, visual.shape[2]))
            chosen = torch.ones_like(rows, dtype=torch.bool)
            if mask is not None:
                chosen = torch.arange(rows.shape[1], device=rows.device) < (self.ratio * mask.sum(1, keepdim=True)).int().clamp(min=1)
        prototypes = self.video_prototypes.expand(len(visual), -1, -1)
        for block in self.dnp_extractor:
            prototypes = block(prototypes, normal, None if mask is None else chosen)
        rebuilt = self.bottleneck(visual[:, :snippets])
        for block in self.decoder:
            rebuilt = block(rebuilt, prototypes)
        return rebuilt, normal, chosen, prototypes


class DSANet(VadCLIP):
    """DSANet as published, parameters named as in the authors' checkpoints, of which each holds its CLIP twice.

    Without `mask_padding` a bag of fewer than `length` snippets is filled up with zeros, as the authors do, and what stands there changes
    what its snippets get, and counts as event, background and normal rows. With it padding reaches nothing.
    """

    ignored = ("clipmodel.", "clip_adapter.clipmodel.")
    text_side = "clip_adapter"

    def __init__(self, prompts: TextSide, refiner: Refiner, *, temp: float, **sizes):
        super().__init__(prompts, **sizes)
        self.temp, self.video_anomaly_refiner = temp, refiner

    def text_features(self) -> Tensor:
        """(C+1, D) of unit norm, the same for every video: encode once, pass to `forward` when testing."""
        return F.normalize(super().text_features().float(), dim=-1)

    def parameter_groups(self, lr: float) -> list[dict]:
        """All but the refiner, which has an optimizer of its own (`second`)."""
        named = self.named_parameters()
        return [{"params": [p for name, p in named if p.requires_grad and not name.startswith("video_anomaly_refiner.")], "lr": lr}]

    def forward(self, features: Tensor, lengths: Tensor, text: Tensor | None = None) -> Output:
        """features (B, T, D) float with T <= `length`, rows from `lengths` (B,) int on are padding and taken as zeros -> Output: in
        training mode with Parts, in evaluation mode with the class probabilities.
        """
        out, visual, logits, mask = self.look(features, lengths, text)
        if not self.training:
            return out._replace(probs=beliefs(out.coarse_logits, out.alignment, self.temp))
        mask = mask if self.mask_padding else None
        sides = torch.stack([logits.sigmoid(), (-logits).sigmoid()], 1)  # (B, 2, L)
        weights = torch.expm1(SCALE * sides)
        weights = F.normalize(weights if mask is None else weights * mask[:, None], p=1, dim=-1)
        event, background = (cosine(weights @ visual.float(), out.text) / self.temperature).unbind(1)
        return out._replace(parts=Parts(event, background, *self.video_anomaly_refiner(visual, logits, mask, features.shape[1])))


def beliefs(logits: Tensor, alignment: Tensor, temp: float) -> Tensor:
    """The authors' "Hierarchical Belief Modulation": the class probabilities (B, T, C+1) that their mAP is of. p_0 = 1 − σ(s/β), and the
    anomaly classes share the rest as in softmax(alignment/β). The anomaly score 1 − p_0 is monotone in s, so that by frames it has the AUC
    and AP of the coarse one.
    """
    anomaly = (logits / temp).sigmoid()[..., None]
    share = (alignment.float() / temp).softmax(-1)[..., 1:]
    return torch.cat([1 - anomaly, anomaly * share / (share.sum(-1, keepdim=True) + 1e-12)], -1)


def losses(out: Output, labels: Tensor, lengths: Tensor, options) -> dict[str, Tensor]:
    """VadCLIP's three; event and background against their classes, smoothed; score against reconstruction error of valid snippets; distance
    of the normal rows from the nearest of the K.
    """
    parts = out.parts
    background = torch.full_like(labels, 0.01)
    background[:, 0].fill_(1)

    def contrast(logits: Tensor, target: Tensor) -> Tensor:
        mean = F.cross_entropy(logits.float(), target / target.sum(1, keepdim=True), label_smoothing=SMOOTHING)
        return ranks.share(mean, len(target))

    mask = torch.arange(out.coarse.shape[1], device=lengths.device) < lengths[:, None]  # (B, T)
    error = (1 - F.cosine_similarity(out.visual.float(), parts.rebuilt.float(), dim=-1)) / 2
    gather = 1 - cosine(parts.normal, parts.prototypes).amax(2)
    return VADCLIP.losses(out, labels, lengths, options) | {
        "event": options.lambda_event * contrast(parts.event, labels),
        "background": options.lambda_background * contrast(parts.background, background),
        "consistency": options.lambda_consistency * ranks.masked_mean((out.coarse - error).square(), mask),
        "gather": options.lambda_gather * ranks.masked_mean(gather, parts.chosen),
    }


def second(model: DSANet, options, steps: int) -> tuple:
    """The refiner's optimizer and its rate by step. Of balanced batches the authors count the normal and the abnormal half as a step each,
    so that on UCF-Crime training ends half-way down the cosine; kept.
    """
    parameters = [p for p in model.video_anomaly_refiner.parameters() if p.requires_grad]
    if not parameters:  # --freeze
        return ()
    total = options.max_epoch * steps * (2 if options.sampling == "balanced" else 1)
    optimizer = StableAdamW(parameters, lr=options.lr)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warm_cosine(step, total))


def build(
    class_names, clip_model, *, visual_length, visual_width, visual_layers, visual_head, attn_window, text_adapt_until=3, t_w=0.1,
    num_prototypes=16, decoder_depth=8, normal_selection_ratio=0.8, temp=1.0, feature_scale=1.0, temperature=0.07, dropout=0.0,
    mask_padding=False, text_projection=None,
) -> DSANet:  # fmt: skip
    """DSANet from sizes; see model.build_model."""
    prompts = adapted(class_names, clip_model, blocks=text_adapt_until, weight=t_w)
    sizes = {"prototypes": num_prototypes, "depth": decoder_depth, "ratio": normal_selection_ratio}
    return DSANet(
        bring(prompts, visual_width, text_projection),
        Refiner(visual_width, **sizes, dropout=dropout),
        width=visual_width,
        length=visual_length,
        layers=visual_layers,
        heads=visual_head,
        attn_window=attn_window,
        temp=temp,
        temperature=temperature,
        feature_scale=feature_scale,
        dropout=dropout,
        mask_padding=mask_padding,
    )


SYSTEM = System(
    build,
    losses,
    DSANetSettings,
    defaults=dict(
        visual_length=256, optimizer="adamw", weight_decay=0.01, max_epoch=10, scheduler="cosine", grad_clip=0, lambda_text=1, seed=234,
    ),
    rule="best on test",
    second=second,
    ranks=True,
)  # fmt: skip
