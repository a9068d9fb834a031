"""The systems, composed from utils/: SYSTEMS is the only place where a name becomes a model.

B videos, T snippets, D feature width, C+1 classes (class 0 = normal), N prompt tokens.
"""

import inspect
from importlib import import_module

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from utils import trclip
from utils.errors import BadInput
from utils.losses import magnitude_separability, mil_align, mil_classification, text_separation
from utils.prompt import PositionPrompt, PromptEncoder, check_features, cosine, text_encoder
from utils.system import Output, Published, System
from utils.temporal import FeedForward, LocalGraph, QuickGELU, TemporalNetwork, enter_autocast

BLOCKS = ("both", "cls", "vta")


class ReFLIPVAD(nn.Module):
    """ReFLIP-VAD (systems.md §1): temporal network, classification block (CLS), video-text alignment block (VTA) with prompts and V-prompt.

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
        coarse = alignment = embeddings = None
        if self.blocks != "vta":
            x = self.dropout(visual)
            coarse = self.classifier(self.ffn_cls(x) + x)[..., 0].float().sigmoid()  # eq. 8
        if self.blocks != "cls":
            text = self.text_features() if text is None else text
            embeddings = text
            if self.ffn_text is not None:
                prompt = (coarse * mask)[:, None] @ visual.float()  # eq. 9: (B, 1, D), attention A over the valid snippets
                embeddings = self.ffn_text(F.normalize(prompt, dim=-1) + text) + text  # eq. 10: (B, C+1, D)
            alignment = cosine(visual, embeddings) / self.temperature  # eq. 11
        return Output(coarse, alignment, visual, embeddings, text)


def reflip_losses(out: Output, labels: Tensor, lengths: Tensor, options) -> dict[str, Tensor]:
    """Eq. 18, each term with its weight: L_cga + λ1·L_fga + λ2·L_fms + class-embedding separation. Terms of an absent block are absent."""
    losses = {}
    if out.coarse is not None:
        losses["coarse"] = mil_classification(out.coarse, labels, lengths, normal_top1=True)
    if out.alignment is not None:
        # With the alignment block alone MIL-Align is the whole loss, so its weight is 1.
        weight = options.lambda_align if out.coarse is not None else 1.0
        losses["align"] = weight * mil_align(out.alignment, labels, lengths, normal_top1=True)
        losses["text"] = options.lambda_text * text_separation(out.text)
    losses["magnitude"] = options.lambda_magnitude * magnitude_separability(out.visual, labels, lengths, margin=options.margin)
    return losses


class VadCLIP(Published, LocalGraph):
    """VadCLIP (AAAI 2024; systems.md §3) as published, parameters named as in the authors' checkpoints.

    `prompts` gives (C+1, D) text features. Without `mask_padding` a bag of fewer than `length` snippets is filled up with zeros, as the
    authors do, and that changes what its snippets get, in the V-prompt too.
    """

    ignored = ("clipmodel.",)

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
        self.text_prompt_embeddings = prompts
        self.mlp1, self.mlp2 = (FeedForward(width, 4 * width, QuickGELU(), dropout) for _ in range(2))
        self.classifier = nn.Linear(width, 1)
        self.disAdj = nn.ParameterDict({"sigma": torch.full((1,), 0.1)})  # in the authors' checkpoints, used nowhere

    def text_features(self) -> Tensor:
        """(C+1, D), the same for every video: encode once, pass to `forward` when testing."""
        return self.text_prompt_embeddings()

    def forward(self, features: Tensor, lengths: Tensor, text: Tensor | None = None) -> Output:
        """features (B, T, D) float with T <= `length`, rows from `lengths` (B,) int on are padding and taken as zeros -> Output."""
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
        logits = logits[:, :snippets]
        return Output(logits.sigmoid(), alignment, visual[:, :snippets], embeddings, text, coarse_logits=logits)


def vadclip_losses(out: Output, labels: Tensor, lengths: Tensor, options) -> dict[str, Tensor]:
    """BCE of the mean of the top-K scores, MIL-Align, text separation; K = ⌊length/16 + 1⌋ for every bag, normal ones too."""
    return {
        "coarse": mil_classification(out.coarse, labels, lengths),
        "align": options.lambda_align * mil_align(out.alignment, labels, lengths),
        "text": options.lambda_text * text_separation(out.text),
    }


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


def options_of(name: str) -> set[str]:
    """The keyword parameters of a system's `build`: the model options that it has."""
    return {key for key, p in inspect.signature(SYSTEMS[name].build).parameters.items() if p.kind is p.KEYWORD_ONLY}


def reflip(
    class_names, clip_model, *, visual_length, visual_width, visual_layers, visual_head, attn_window, prompt_prefix, prompt_postfix,
    temporal="ge", blocks="both", prompt="reparameterized", template="a video of", distilbert=None, v_prompt=True, feature_scale=1.0,
    temperature=0.07, window_length=64, ge_skip=True, dropout=0.0,
) -> ReFLIPVAD:  # fmt: skip
    """ReFLIP-VAD from sizes; see `build_model`."""
    if v_prompt and blocks != "both":
        raise BadInput(f"--blocks {blocks}: the V-prompt needs both blocks; add --no-v-prompt")
    prompts = None
    if isinstance(clip_model, Tensor) and blocks != "cls":
        prompts = check_features(clip_model, class_names, visual_width)
    elif blocks != "cls":
        prompts = PromptEncoder(
            class_names,
            text_encoder(clip_model, visual_width),
            prompt=prompt,
            template=template,
            prefix=prompt_prefix,
            postfix=prompt_postfix,
            reparameterizer=distilbert,
        )
    network = TemporalNetwork(
        temporal,
        visual_width,
        length=visual_length,
        layers=visual_layers,
        heads=visual_head,
        attn_window=attn_window,
        window_length=window_length,
        skip=ge_skip,
        dropout=dropout,
    )
    scales = {"feature_scale": feature_scale, "temperature": temperature, "dropout": dropout}
    return ReFLIPVAD(prompts, width=visual_width, temporal=network, blocks=blocks, v_prompt=v_prompt, **scales)


def vadclip(
    class_names, clip_model, *, visual_length, visual_width, visual_layers, visual_head, attn_window, prompt_prefix, prompt_postfix,
    feature_scale=1.0, temperature=0.07, dropout=0.0, mask_padding=False,
) -> VadCLIP:  # fmt: skip
    """VadCLIP from sizes; see `build_model`. Class text features in place of an encoder leave out its learnable prompt."""
    if isinstance(clip_model, Tensor):
        prompts = check_features(clip_model, class_names, visual_width)
    else:
        encoder = text_encoder(clip_model, visual_width)
        prompts = PositionPrompt(class_names, encoder, prefix=prompt_prefix, postfix=prompt_postfix)
    return VadCLIP(
        prompts,
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


# Systems in a file of their own, utils/NAME.py, that ends in SYSTEM = System(…).
FILES = ("deepmil", "hlnet")
SYSTEMS = {
    "reflip": System(reflip, reflip_losses, weights=("lambda_align", "lambda_magnitude", "lambda_text", "margin")),
    "vadclip": System(
        vadclip,
        vadclip_losses,
        weights=("lambda_align", "lambda_text"),
        defaults=dict(
            visual_length=256, prompt_prefix=10, prompt_postfix=10, optimizer="adamw", weight_decay=0.01, max_epoch=10,
            scheduler="multistep", grad_clip=0, lambda_align=1, seed=234,
        ),
    ),
    "trclip": System(
        trclip.build,
        vadclip_losses,
        weights=("lambda_align", "lambda_text"),
        defaults=dict(
            visual_length=256, prompt_prefix=10, prompt_postfix=10, dropout=0.7, optimizer="adamw", weight_decay=0.01, max_epoch=10,
            scheduler="multistep", grad_clip=0, lambda_align=1, seed=234,
        ),
        captions=True,
    ),
}  # fmt: skip
SYSTEMS |= {name: import_module(f"utils.{name}").SYSTEM for name in FILES}
