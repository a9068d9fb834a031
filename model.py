"""The systems, composed from utils/: `build_model` is the only place where a name becomes a model.

B videos, T snippets, D feature width, C+1 classes (class 0 = normal), N prompt tokens.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from utils.errors import BadInput
from utils.prompt import FixedFeatures, PromptEncoder
from utils.temporal import QuickGELU, TemporalNetwork, feed_forward
from utils.text import CLIPText

BLOCKS = ("both", "cls", "vta")


class Output(NamedTuple):
    """What a model gives for features (B, T, D). A block that the model does not have is None."""

    coarse: Tensor | None  # (B, T) in [0, 1], from the classification block
    alignment: Tensor | None  # (B, T, C+1) logits, from the video-text alignment block
    visual: Tensor  # (B, T, D) G_visual
    class_embeddings: Tensor | None  # (B, C+1, D) with the V-prompt, else (C+1, D)
    text: Tensor | None  # (C+1, D) text features before the V-prompt


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
            self.ffn_cls = feed_forward(width, 4 * width, QuickGELU(), dropout)
            self.classifier = nn.Linear(width, 1)
        if blocks != "cls":
            self.prompt = text
            self.ffn_text = feed_forward(width, 4 * width, QuickGELU(), dropout) if v_prompt else None

    def text_features(self) -> Tensor | None:
        """(C+1, D), the same for every video: encode once, pass to `forward` when testing."""
        return self.prompt() if self.blocks != "cls" else None

    def forward(self, features: Tensor, lengths: Tensor, text: Tensor | None = None) -> Output:
        """features (B, T, D) float, rows from `lengths` (B,) int on are padding and change nothing -> Output."""
        mask = torch.arange(features.shape[1], device=features.device) < lengths[:, None]  # (B, T), True = valid
        x = self.feature_scale * features.masked_fill(~mask[..., None], 0)
        if torch.is_autocast_enabled(x.device.type):  # once here, not at each layer and back again
            x = x.to(torch.get_autocast_dtype(x.device.type))
        visual = self.temporal(x, mask)
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


def cosine(visual: Tensor, embeddings: Tensor) -> Tensor:
    """Cosine similarity of each snippet (B, T, D) and class ((C+1, D) or (B, C+1, D)): (B, T, C+1), in float32."""
    visual = visual.float()
    products = visual @ F.normalize(embeddings.float(), dim=-1).transpose(-1, -2)
    return products / visual.norm(dim=-1, keepdim=True).clamp(min=1e-12)  # C+1 columns are divided instead of D


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
    """Build a model by name ("reflip").

    clip_model: an OpenAI CLIP, a text encoder of utils/text.py, class text features (C+1, D) as a tensor, or None where no text is used.
    more, for "reflip": temporal, blocks, prompt, template, distilbert (a `transformers` encoder for the reparameterized prompt), v_prompt,
    feature_scale, temperature, window_length, ge_skip, dropout (utils/options.py describes each). Raises BadInput for an unknown name and
    for widths that do not fit.
    """
    if name not in MODELS:
        raise BadInput(f"--model {name}: no such model; available models: {', '.join(MODELS)}")
    return MODELS[name](
        class_names,
        clip_model,
        visual_length=visual_length,
        visual_width=visual_width,
        visual_layers=visual_layers,
        visual_head=visual_head,
        attn_window=attn_window,
        prompt_prefix=prompt_prefix,
        prompt_postfix=prompt_postfix,
        **more,
    )


def build_text(
    class_names,
    text,
    *,
    width: int,
    prompt: str,
    template: str,
    prefix: int,
    postfix: int,
    distilbert: nn.Module | None,
) -> nn.Module:
    """The prompt side for `build_model`'s clip_model: a module giving (C+1, width)."""
    if isinstance(text, Tensor):
        if text.shape != (len(class_names), width):
            raise BadInput(
                f"--text-features: shape {tuple(text.shape)}, "
                f"expected {(len(class_names), width)}: one row per class, --visual-width columns"
            )
        return FixedFeatures(text.float())
    text = text if hasattr(text, "tokens") else CLIPText(text)
    if text.output_width != width:
        raise BadInput(
            f"--visual-width {width}: the text encoder gives {text.output_width} columns; features and text must live in one space"
        )
    return PromptEncoder(class_names, text, prompt=prompt, template=template, prefix=prefix, postfix=postfix, reparameterizer=distilbert)


def reflip(
    class_names, clip_model, *, visual_length, visual_width, visual_layers, visual_head, attn_window, prompt_prefix, prompt_postfix,
    temporal="ge", blocks="both", prompt="reparameterized", template="a video of", distilbert=None, v_prompt=True, feature_scale=1.0,
    temperature=0.07, window_length=64, ge_skip=True, dropout=0.0,
) -> ReFLIPVAD:  # fmt: skip
    """ReFLIP-VAD from sizes; see `build_model`."""
    if v_prompt and blocks != "both":
        raise BadInput(f"--blocks {blocks}: the V-prompt needs both blocks; add --no-v-prompt")
    text = None
    if blocks != "cls":
        prompts = {"prompt": prompt, "template": template, "prefix": prompt_prefix, "postfix": prompt_postfix}
        text = build_text(class_names, clip_model, width=visual_width, distilbert=distilbert, **prompts)
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
    return ReFLIPVAD(text, width=visual_width, temporal=network, blocks=blocks, v_prompt=v_prompt, **scales)


MODELS = {"reflip": reflip}
