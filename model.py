"""ReFLIP-VAD (IEEE TCSVT 2024, doi 10.1109/TCSVT.2024.3482007), whole, and `build_model`, which makes any system by its name.

B videos, T snippets, D feature width, C+1 classes (class 0 = normal), N prompt tokens. In the paper's words: Feature Intensify Module (eq.
1-2), Glimpse (3-5), Emphasize (6-7), classification block (8), V-prompt (9-10), alignment map (11), losses (12-18); the prompts are
utils/prompt.py. Every temporal module takes x (B, T, D) and mask (B, T), True = valid snippet; what it gives at valid snippets does not
depend on the padding, nor on how much of it there is. The other systems are utils/systems/, one file each.
"""

import inspect
import pkgutil
from dataclasses import dataclass
from importlib import import_module

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from utils import ranks, systems
from utils.errors import BadInput
from utils.losses import magnitude_separability, mil_align, mil_classification, text_separation
from utils.prompt import PROMPTS, PromptEncoder, bring, cosine, fixed_features, text_encoder, within_range
from utils.systems.base import Output, ProjectionSettings, PromptSettings, Settings, System, WindowSettings, option
from utils.temporal import GCN, FeedForward, QuickGELU, TemporalTransformer, enter_autocast, from_windows, to_windows

BLOCKS = ("both", "cls", "vta")
CHANNEL_ATTENTION = ("residual", "plain", "mean")
TEMPORAL = ("none", "global", "local", "gcn", "local+global", "global+gcn", "local+gcn", "eg", "ee", "ge-fusion", "ge")


@dataclass(kw_only=True)
class ReFLIPSettings(Settings, WindowSettings, PromptSettings, ProjectionSettings):
    """ReFLIP-VAD's hyperparameters; dropout (ours) acts in the feed-forward networks and before the CLS block."""

    temporal: str = option("ge", "temporal network (table V)", choices=TEMPORAL, tried="all of them")
    window_length: int = option(64, "window of Emphasize's convolution, in snippets", low=1, tried="16 32 64 128 256")
    ge_skip: bool = option(True, "residual connection round the whole GE block (ours)")
    channel_attention: str = option(
        "residual",
        "Emphasize's eq. 7 with a residual connection, x + x·Σx (ours), plain as printed, x·Σx, or by the mean, x + x·Σx/width (ours)",
        choices=CHANNEL_ATTENTION,
    )
    stage_norm: bool = option(False, "LayerNorm where GE changes its width behind a stage, and behind the last one, as in MGFN")
    shortcut_conv: bool = option(False, "MGFN's shortcut convolution, kernel 3, at the start of every block of GE")
    blocks: str = option(
        "both", "classification block, video-text alignment block, or both (table VI)", choices=BLOCKS, tried="all of them"
    )
    v_prompt: bool = option(True, "multimodal prompt: class embeddings see the video (eq. 9-10)", tried="on, off")
    prompt: str = option("reparameterized", "what stands round the class name (table X)", choices=PROMPTS, tried="all of them")
    template: str = option("a video of", "words before the class name with --prompt template", tried='"a video of", "a long video of"')
    normal_top1: bool = option(True, "K = 1 for normal bags, in the coarse loss and MIL-Align (eq. 12)", group="training")
    lambda_magnitude: float = option(0.001, "λ2, weight of feature-magnitude separability", group="training", low=0)
    margin: float = option(10.0, "margin between normal and abnormal ‖G_visual‖₂ (ours; the paper prints none)", group="training", low=0)
    magnitude_push: float = option(1.0, "weight of that push beside the pull of a kind's own (MGFN: 0.001)", group="training", low=0)


class FeatureIntensify(nn.Module):
    """Feature Intensify Module, eq. 1–2: g + α·Conv1d(‖g‖₂), the convolution running over time and mapping 1 -> D channels (MGFN: kernel
    3, α = 0.1).
    """

    def __init__(self, width: int, alpha: float = 0.1):
        super().__init__()
        self.alpha, self.conv = alpha, nn.Conv1d(1, width, 3, padding=1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        norm = x.norm(dim=-1).masked_fill(~mask, 0)
        return x + self.alpha * self.conv(norm[:, None]).transpose(1, 2)


class Glimpse(nn.Module):
    """Global, eq. 3–5: attention over all T snippets with 1-D convolutions for Q, K, V, no 1/√d, one head, no positions; then a feed-
    forward network.

    Padding is masked (ours); normalisation before and a residual connection round either sub-block as in MGFN.
    """

    def __init__(self, width: int, dropout: float = 0.0):
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Conv1d(width, 3 * width, 1)
        self.ffn = FeedForward(width, 4 * width, nn.GELU(), dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        qkv = self.qkv(self.norm_1(x).transpose(1, 2)).transpose(1, 2)
        q, k, v = qkv[:, None].chunk(3, dim=-1)  # (B, 1, T, D): with four dimensions torch takes its kernel that never stores T × T
        x = x + F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None], scale=1.0)[:, 0]
        return x + self.ffn(self.norm_2(x))


class Emphasize(nn.Module):
    """Local, eq. 6–7: batch normalisation and a convolution inside windows; then (eq. 7) attention over channels without parameters,
    out_l = Σ_m g_l·g_m at each snippet; then a feed-forward network.

    Batch statistics are taken over valid snippets only, the convolution does not cross windows (ours), a residual connection goes round
    each sub-block as in MGFN; round eq. 7 as `attention` says, one of CHANNEL_ATTENTION.
    """

    def __init__(self, width: int, window: int, kernel: int = 5, dropout: float = 0.0, attention: str = "residual"):
        super().__init__()
        self.window, self.attention = window, attention
        self.norm = nn.BatchNorm1d(width)
        self.conv = nn.Conv1d(width, width, kernel, padding=kernel // 2)
        self.norm_ffn = nn.LayerNorm(width)
        self.ffn = FeedForward(width, 4 * width, nn.GELU(), dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y = ranks.masked_batch_norm(self.norm, x, mask)
        y = self.conv(to_windows(y, self.window).transpose(1, 2)).transpose(1, 2)
        x = x + from_windows(y, *x.shape[:2])
        total = x.mean(-1, keepdim=True) if self.attention == "mean" else x.sum(-1, keepdim=True)
        x = x * total if self.attention == "plain" else x + x * total  # eq. 7: Σ_m x_l·x_m
        return x + self.ffn(self.norm_ffn(x))


class ShortcutConvolution(nn.Conv1d):
    """MGFN's: x + Conv1d(x), kernel 3 over time, across windows; padding counts as rows of zeros."""

    def __init__(self, width: int):
        super().__init__(width, width, 3, padding=1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return x + super().forward(x.masked_fill(~mask[..., None], 0).transpose(1, 2)).transpose(1, 2)


def linear_behind(norm: bool, width: int, out: int) -> nn.Module:
    """A linear layer, a LayerNorm before it where `norm` asks for one."""
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, out)) if norm else nn.Linear(width, out)


class GlimpseEmphasize(nn.Module):
    """The GE network: squeeze D -> width of the first stage, the stages one after the other, widen back to D.

    order "ge", "eg", "ee" (two Emphasize) or "ge-fusion" (the two side by side, concatenated). Glimpse works at D/32, Emphasize at D/16.
    The other arguments are options of the same names (ReFLIPSettings).
    """

    def __init__(
        self,
        width: int,
        *,
        order: str,
        layers: int,
        window_length: int,
        ge_skip: bool,
        dropout: float = 0.0,
        channel_attention: str = "residual",
        stage_norm: bool = False,
        shortcut_conv: bool = False,
    ):
        super().__init__()
        self.skip, self.parallel = ge_skip, order == "ge-fusion"
        sizes = {"g": max(width // 32, 8), "e": max(width // 16, 16)}  # a floor for small D: fewer channels cannot be normalised
        stages = [letter for letter in order[:2] for _ in range(layers)]
        self.squeeze, self.shortcuts, self.stages = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        previous = width
        for index, letter in enumerate(stages):
            size = sizes[letter]
            start = self.parallel and index == layers  # the second stack starts from D, too
            previous = width if start else previous
            norm = stage_norm and index > 0 and not start  # between stages
            self.squeeze.append(nn.Identity() if previous == size else linear_behind(norm, previous, size))
            if shortcut_conv:
                self.shortcuts.append(ShortcutConvolution(size))
            emphasize = {"dropout": dropout, "attention": channel_attention}
            self.stages.append(Glimpse(size, dropout) if letter == "g" else Emphasize(size, window_length, **emphasize))
            previous = size
        self.layers = layers
        self.widen = linear_behind(stage_norm, sizes["g"] + sizes["e"] if self.parallel else previous, width)

    def run(self, x: Tensor, mask: Tensor, stages) -> Tensor:
        for index in stages:
            x = self.squeeze[index](x)
            x = self.shortcuts[index](x, mask) if self.shortcuts else x
            x = self.stages[index](x, mask)
        return x

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        if self.parallel:
            y = torch.cat([self.run(x, mask, range(self.layers)), self.run(x, mask, range(self.layers, len(self.stages)))], -1)
        else:
            y = self.run(x, mask, range(len(self.stages)))
        y = self.widen(y)
        return x + y if self.skip else y


class TemporalNetwork(nn.Module):
    """Feature Intensify Module, one of the temporal networks of table V by name, and the linear layer that gives G_visual (for GE it is
    the widening one). `ge` are the arguments of GlimpseEmphasize that only it has.
    """

    def __init__(
        self, name: str, width: int, *, length: int, layers: int, heads: int, attn_window: int, dropout: float = 0.0, **ge
    ):  # fmt: skip
        super().__init__()
        if name not in TEMPORAL:
            raise BadInput(f"--temporal {name}: no such network; expected one of {', '.join(TEMPORAL)}")
        self.fim = FeatureIntensify(width)
        self.parts = nn.ModuleList()
        for part in name.split("+"):
            if part in ("ge", "eg", "ee", "ge-fusion"):
                self.parts.append(GlimpseEmphasize(width, order=part, layers=layers, dropout=dropout, **ge))
            elif part in ("local", "global"):
                window = attn_window if part == "local" else None
                self.parts.append(TemporalTransformer(width, layers=layers, heads=heads, length=length, window=window, dropout=dropout))
            elif part == "gcn":
                self.parts.append(GCN(width))
        self.linear = nn.Identity() if isinstance(self.parts[-1] if self.parts else None, GlimpseEmphasize) else nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.fim(x, mask)
        for part in self.parts:
            x = part(x, mask)
        return self.linear(x)


class ReFLIPVAD(nn.Module):
    """ReFLIP-VAD: temporal network, classification block (CLS), video-text alignment block (VTA) with prompts and V-prompt.

    `text` is a PromptEncoder or FixedFeatures giving (C+1, D), or None with blocks="cls".
    """

    def __init__(
        self,
        text: nn.Module | None,
        *,
        width: int,
        temporal: nn.Module,
        blocks: str,
        v_prompt: bool,
        feature_scale: float,
        temperature: float,
        dropout: float,
    ):
        super().__init__()
        self.blocks, self.feature_scale, self.temperature = blocks, feature_scale, temperature
        self.temporal = temporal
        self.dropout = nn.Dropout(dropout)
        if blocks != "vta":
            self.ffn_cls = FeedForward(width, 4 * width, QuickGELU(), dropout)
            self.classifier = nn.Linear(width, 1)
        if blocks != "cls":
            self.prompt = text
            self.ffn_text = FeedForward(width, 4 * width, QuickGELU(), dropout) if v_prompt else None

    def text_features(self) -> Tensor | None:
        """(C+1, D), the same for every video: encode once, pass to `forward` when testing."""
        return self.prompt() if self.blocks != "cls" else None

    def forward(self, features: Tensor, lengths: Tensor, text: Tensor | None = None) -> Output:
        """features (B, T, D) float, rows from `lengths` (B,) int on are padding and change nothing -> Output."""
        mask = torch.arange(features.shape[1], device=features.device) < lengths[:, None]  # (B, T), True = valid
        x = self.feature_scale * features.masked_fill(~mask[..., None], 0)
        visual = self.temporal(enter_autocast(x), mask)
        logits = coarse = alignment = embeddings = None
        if self.blocks != "vta":
            x = self.dropout(visual)
            logits = self.classifier(self.ffn_cls(x) + x)[..., 0].float()
            coarse = logits.sigmoid()  # eq. 8
        if self.blocks != "cls":
            text = self.text_features() if text is None else text
            embeddings = text
            if self.ffn_text is not None:
                prompt = within_range(coarse * mask)[:, None] @ visual.float()  # eq. 9: (B, 1, D), attention A over the valid snippets
                embeddings = self.ffn_text(F.normalize(prompt, dim=-1) + text) + text  # eq. 10: (B, C+1, D)
            alignment = cosine(visual, embeddings) / self.temperature  # eq. 11
        return Output(coarse, alignment, visual, embeddings, text, coarse_logits=logits)


def losses(out: Output, labels: Tensor, lengths: Tensor, options) -> dict[str, Tensor]:
    """Eq. 18, each term with its weight: L_cga + λ1·L_fga + λ2·L_fms + class-embedding separation. Terms of an absent block are absent."""
    terms = {}
    if out.coarse is not None:
        terms["coarse"] = mil_classification(out.coarse_logits, labels, lengths, normal_top1=options.normal_top1, logits=True)
    if out.alignment is not None:
        # With the alignment block alone MIL-Align is the whole loss, so its weight is 1.
        weight = options.lambda_align if out.coarse is not None else 1.0
        terms["align"] = weight * mil_align(out.alignment, labels, lengths, normal_top1=options.normal_top1)
        terms["text"] = options.lambda_text * text_separation(out.text)
    magnitude = magnitude_separability(out.visual, labels, lengths, margin=options.margin, push=options.magnitude_push)
    terms["magnitude"] = options.lambda_magnitude * magnitude
    return terms


def build(
    class_names, clip_model, *, visual_length, visual_width, visual_layers, visual_head, attn_window, prompt_prefix, prompt_postfix,
    temporal="ge", blocks="both", prompt="reparameterized", template="a video of", distilbert=None, v_prompt=True, feature_scale=1.0,
    temperature=0.07, window_length=64, ge_skip=True, channel_attention="residual", stage_norm=False, shortcut_conv=False, dropout=0.0,
    text_projection=None,
) -> ReFLIPVAD:  # fmt: skip
    """ReFLIP-VAD from sizes; see `build_model`."""
    if v_prompt and blocks != "both":
        raise BadInput(f"--blocks {blocks}: the V-prompt needs both blocks; add --no-v-prompt")
    prompts = None
    if isinstance(clip_model, Tensor) and blocks != "cls":
        prompts = fixed_features(clip_model, class_names)
    elif blocks != "cls":
        prompts = PromptEncoder(
            class_names,
            text_encoder(clip_model),
            prompt=prompt,
            template=template,
            prefix=prompt_prefix,
            postfix=prompt_postfix,
            reparameterizer=distilbert,
        )
    if prompts is not None:
        prompts = bring(prompts, visual_width, text_projection)
    network = TemporalNetwork(
        temporal,
        visual_width,
        length=visual_length,
        layers=visual_layers,
        heads=visual_head,
        attn_window=attn_window,
        dropout=dropout,
        window_length=window_length,
        ge_skip=ge_skip,
        channel_attention=channel_attention,
        stage_norm=stage_norm,
        shortcut_conv=shortcut_conv,
    )
    scales = {"feature_scale": feature_scale, "temperature": temperature, "dropout": dropout}
    return ReFLIPVAD(prompts, width=visual_width, temporal=network, blocks=blocks, v_prompt=v_prompt, **scales)


PAPER = dict(  # as it prints them, on UCF-Crime; what it sets on another data set stands in that one's file (list/)
    visual_length=512, temporal="ge", visual_layers=1, visual_head=1, window_length=64, ge_skip=False, channel_attention="plain",
    stage_norm=False, shortcut_conv=False, blocks="both", v_prompt=True, prompt="reparameterized", prompt_prefix=12, prompt_postfix=12,
    temperature=0.07, dropout=0.0,
    lambda_align=1.28,  # λ1: 0.01 times a sum over the 128 bags, not their mean
    lambda_text=0.128,  # beside MIL-Align as in VadCLIP; the paper names the loss, not its weight
    lambda_magnitude=0.001,  # of MGFN's form: the printed one is unbounded
    normal_top1=True, magnitude_push=1.0, max_epoch=50, batch_size=128, sampling="balanced", lr=3e-4, optimizer="adam", weight_decay=0.0,
    scheduler="none", grad_clip=0.0,
)  # fmt: skip


SYSTEM = System(
    build,
    losses,
    ReFLIPSettings,
    rule="best epoch on test",
    text=lambda options: options.blocks != "cls",
    transformers=lambda options: {"distilbert": options.distilbert if options.prompt == "reparameterized" else None},
    budget=(("temporal", "ffn_cls", "classifier"), "paper, GE: 1.14 M, 0.36 GFLOPs"),
    presets={"paper": PAPER},
    ranks=True,
)


def find_systems() -> dict[str, System]:
    """Every system by name: ReFLIP-VAD, and each file of utils/systems/ that ends in SYSTEM = System(…)."""
    modules = {module.name: import_module(f"{systems.__name__}.{module.name}") for module in pkgutil.iter_modules(systems.__path__)}
    return {"reflip": SYSTEM} | {name: module.SYSTEM for name, module in modules.items() if hasattr(module, "SYSTEM")}


SYSTEMS = find_systems()


def options_of(name: str) -> set[str]:
    """The keyword parameters of a system's `build`: the model options that it has."""
    return {key for key, p in inspect.signature(SYSTEMS[name].build).parameters.items() if p.kind is p.KEYWORD_ONLY}


def build_model(
    name: str,
    class_names: list[str],
    clip_model: nn.Module | None,
    *,
    visual_length: int = 512,
    visual_width: int = 512,
    visual_layers: int = 1,
    visual_head: int = 1,
    attn_window: int = 64,
    prompt_prefix: int = 12,
    prompt_postfix: int = 12,
    **more,
) -> nn.Module:
    """Build a model by name, one of SYSTEMS. Of the sizes a system takes those it has.

    clip_model: an OpenAI CLIP, a text encoder of utils/text.py, class text features (C+1, D) as a tensor, or None where no text is used.
    more: what else the system has, `options_of(name)` (utils/options.py describes each); for "reflip" also distilbert, a `transformers`
    encoder for the reparameterized prompt. Raises BadInput for an unknown name and for widths that do not fit.
    """
    if name not in SYSTEMS:
        raise BadInput(f"--model {name}: no such model; available models: {', '.join(SYSTEMS)}")
    sizes = {
        "visual_length": visual_length,
        "visual_width": visual_width,
        "visual_layers": visual_layers,
        "visual_head": visual_head,
        "attn_window": attn_window,
        "prompt_prefix": prompt_prefix,
        "prompt_postfix": prompt_postfix,
    }
    sizes = {size: value for size, value in sizes.items() if size in options_of(name)}
    return SYSTEMS[name].build(class_names, clip_model, **sizes, **more)
