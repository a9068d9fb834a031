"""Prompts: what stands round the class name (table X of ReFLIP-VAD).

B videos, T snippets, C+1 classes, N prompt tokens, W width of the text encoder's token embeddings, E of its output, D of the features.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from utils.errors import BadInput
from utils.text import CLIPText, Frozen

PROMPTS = ("class", "template", "learnable", "reparameterized")


class Reparameterization(nn.Module):
    """φ(pe) = θ(pe) + pe: θ is a frozen DistilBERT run over all N prompt embeddings together, a trainable linear layer on either side
    (its width is 768, CLIP's is 512). Any `transformers` encoder that takes `inputs_embeds` will do."""

    def __init__(self, width: int, encoder: nn.Module, scale: float):
        super().__init__()
        hidden = encoder.config.hidden_size
        self.before = nn.Linear(width, hidden)
        self.encoder = Frozen(encoder)
        self.after = nn.Linear(hidden, width)
        # θ ends in a LayerNorm, so its outputs are of size 1, tokens of size `scale`: without this φ would drown the class name.
        nn.init.normal_(self.after.weight, std=scale / hidden**0.5)
        nn.init.zeros_(self.after.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, W) -> (N, W)."""
        hidden = self.encoder.module(inputs_embeds=self.before(tokens)[None]).last_hidden_state[0]
        return self.after(hidden) + tokens


class TextProjection(nn.Linear):
    """A trained linear map of text features (C+1, E) to the features' space: (C+1, D)."""


class TextSide(nn.Module, ABC):
    """Gives class text features: (C+1, E) as `encoded` gives them, or (C+1, D) where `bring` has added a projection.

    of_classes: names of its buffers that hold something of the classes, so that they are nothing for other classes.
    """

    of_classes: tuple[str, ...] = ()

    def __init__(self, output_width: int):
        super().__init__()
        self.output_width, self.projection = output_width, None

    @abstractmethod
    def encoded(self) -> Tensor:
        """(C+1, E) before the projection."""

    def forward(self) -> Tensor:
        """(C+1, E), or (C+1, D) with a projection."""
        return self.encoded() if self.projection is None else self.projection(self.encoded())


def bring(side: TextSide, width: int, asked: bool | None) -> TextSide:
    """`side` as text features of the features' `width`: with a TextProjection where that is `asked` for, and, with None, where its own
    width is another. Raises BadInput where it is another and `asked` is False.

    The projection starts as a rotation (where it must narrow, onto random directions, scaled): norms and angles of the classes are the
    encoder's own then, so that a class embedding meets the V-prompt, of norm 1, as it does without.
    """
    own = side.output_width
    if asked or (asked is None and own != width):
        side.projection = TextProjection(own, width)
        nn.init.orthogonal_(side.projection.weight, gain=max(1.0, own / width) ** 0.5)
        nn.init.zeros_(side.projection.bias)
    elif own != width:
        raise BadInput(
            f"--no-text-projection: the text side gives {own} columns, the features have {width} (--visual-width); leave it out, or give "
            f"a text side of that width"
        )
    return side


def projection_note(model: nn.Module) -> str | None:
    """What a training says of a projection that `bring` has added."""
    for part in model.modules():
        if isinstance(part, TextSide) and part.projection is not None:
            return f"text side: a trained map (ours) brings {part.output_width} columns to the features' {part.projection.out_features}"
    return None


def projects(model: nn.Module) -> bool:
    """Whether a model's text features come from another space than its features', through a trained map."""
    return any(isinstance(part, TextProjection) for part in model.modules())


class ClassPrompts(TextSide):
    """[SOS] learned tokens [class] learned tokens [EOS] through a frozen text encoder: (C+1, E). Subclasses say which tokens are learned.

    around(n) gives which of the learned tokens stand before and which behind a class name of n tokens. Raises BadInput where the longest
    prompt exceeds the encoder's positions.
    """

    def __init__(self, class_names, text: nn.Module, *, around: Callable[[int], tuple[range, range]], template: str = ""):
        super().__init__(text.output_width)
        self.text = text
        pieces = [text.tokens(f"{template} {name}" if template else name) for name in class_names]
        start, _, end = pieces[0]
        self.sizes = [len(body) for _, body, _ in pieces]
        prompts, first = [], len(start) + len(end)  # rows of [SOS], [EOS], the names, the learned tokens; 0 is padding
        for size, at in zip(self.sizes, np.cumsum([0, *self.sizes]).tolist(), strict=False):
            before, behind = ([1 + first + sum(self.sizes) + token for token in part] for part in around(size))
            name = range(1 + first + at, 1 + first + at + size)
            prompts.append(torch.tensor([*range(1, 1 + len(start)), *before, *name, *behind, *range(1 + len(start), 1 + first)]))
        for name, tensor in (
            ("start", text.embed(start)),
            ("end", text.embed(end)),
            ("names", text.embed([token for _, body, _ in pieces for token in body])),
            ("rows", nn.utils.rnn.pad_sequence(prompts, batch_first=True)),  # (C+1, L)
            ("lengths", torch.tensor([len(prompt) for prompt in prompts])),
        ):
            self.register_buffer(name, tensor.detach().clone(), persistent=False)
        if self.rows.shape[1] > text.max_length:
            found = f"{self.rows.shape[1]} tokens with the longest class name, the text encoder takes {text.max_length}"
            learned = self.rows.shape[1] > 2 + max(self.sizes)
            raise BadInput(f"--prompt-prefix, --prompt-postfix: {found}; lower them" if learned else f"classes: {found}; shorten it")

    def encode(self, learned: Tensor) -> Tensor:
        """learned tokens (n, W) -> (C+1, E), unnormalised as the encoder gives them."""
        return self.text(*self.prompts(learned))

    def prompts(self, learned: Tensor) -> tuple[Tensor, Tensor]:
        """The prompts that `encode` encodes, (C+1, L, W), zeros behind the end of each, and their lengths (C+1,)."""
        table = torch.cat([learned.new_zeros(1, learned.shape[1]), self.start, self.end, self.names, learned])
        return F.embedding(self.rows.flip(0), table).flip(0), self.lengths  # gradients are added up from the last class on


class PromptEncoder(ClassPrompts):
    """ReFLIP-VAD's: φ_1..φ_prefix [class] φ_prefix+1..φ_N.

    prompt "class": the class name alone; "template": `template` before it; "learnable": φ = N free tokens;
    "reparameterized": φ = θ(pe) + pe. The two fixed prompts are encoded once.
    """

    def __init__(
        self,
        class_names,
        text: nn.Module,
        *,
        prompt: str,
        template: str,
        prefix: int,
        postfix: int,
        reparameterizer: nn.Module | None = None,
    ):
        fixed = prompt in ("class", "template")
        prefix, learned = (0, 0) if fixed else (prefix, prefix + postfix)
        around = range(prefix), range(prefix, learned)
        super().__init__(class_names, text, around=lambda size: around, template=template if prompt == "template" else "")
        self.fixed, self.prefix, self.reparameterization = fixed, prefix, None
        if fixed:
            with torch.no_grad():
                self.register_buffer("features", self.encode(self.names[:0]), persistent=False)
        else:
            scale = float(text.table.weight.std())  # learnable tokens start at the size of the vocabulary's
            self.tokens = nn.Parameter(torch.randn(learned, text.width) * scale)  # pe
            if prompt == "reparameterized":
                if reparameterizer is None:
                    raise BadInput("--prompt reparameterized needs a frozen encoder: --distilbert NAME_OR_PATH")
                self.reparameterization = Reparameterization(text.width, reparameterizer, scale)

    def encoded(self) -> Tensor:
        """(C+1, E) text features."""
        if self.fixed:
            return self.features
        return self.encode(self.tokens if self.reparameterization is None else self.reparameterization(self.tokens))


class PositionPrompt(ClassPrompts):
    """VadCLIP's: a learned token for each absolute position, `weight` (77, W), of which a prompt takes those where no class token stands:
    positions 1..prefix, and `postfix` of them from behind the class name on.
    """

    def __init__(self, class_names, text: nn.Module, *, prefix: int, postfix: int):
        def around(size: int) -> tuple[range, range]:
            first = 1 + prefix + size
            return range(1, 1 + prefix), range(first, first + postfix)

        super().__init__(class_names, text, around=around)
        self.weight = nn.Parameter(torch.empty(text.max_length, text.width).normal_(std=0.01))

    def encoded(self) -> Tensor:
        """(C+1, E) text features."""
        return self.encode(self.weight)


class FixedFeatures(TextSide):
    """Class text features computed elsewhere (`--text-features`): (C+1, E), no text encoder at all."""

    of_classes = ("features",)

    def __init__(self, features: Tensor):
        super().__init__(features.shape[1])
        self.register_buffer("features", features)

    def encoded(self) -> Tensor:
        return self.features


def position_prompts(class_names, clip_model, *, prefix: int, postfix: int) -> TextSide:
    """VadCLIP's prompts for a CLIP or another encoder, or class text features as they are."""
    if isinstance(clip_model, Tensor):
        return fixed_features(clip_model, class_names)
    return PositionPrompt(class_names, text_encoder(clip_model), prefix=prefix, postfix=postfix)


def fixed_features(features: Tensor, class_names) -> FixedFeatures:
    """Class text features as a text side. Raises BadInput unless they are (C+1, E)."""
    if features.ndim != 2 or len(features) != len(class_names) or not features.numel():
        raise BadInput(f"--text-features: shape {tuple(features.shape)}, expected {len(class_names)} rows, one per class; make them anew")
    return FixedFeatures(features.float())


def text_encoder(clip_model) -> nn.Module:
    """An OpenAI CLIP, or an encoder of utils/text.py as it is."""
    return clip_model if hasattr(clip_model, "tokens") else CLIPText(clip_model)


def cosine(visual: Tensor, embeddings: Tensor) -> Tensor:
    """Cosine similarity of each snippet (B, T, D) and class ((C+1, D) or (B, C+1, D)): (B, T, C+1) float32, or what
    autocast makes of the products.
    """
    visual = visual.float()
    products = visual @ F.normalize(embeddings.float(), dim=-1).transpose(-1, -2)
    return products / visual.norm(dim=-1, keepdim=True).clamp(min=1e-12)  # C+1 columns are divided instead of D


def within_range(weights: Tensor) -> Tensor:
    """Weights (B, T), each row times a power of two that brings its largest to [1, 2), as far as 2^66 does: what is normalised behind it
    stays as it was, to the bit, but for videos whose scores all lie below 1e-15, which would be lost in the normalisation's eps.
    """
    return weights * torch.exp2(-weights.detach().amax(1, keepdim=True).clamp(min=1e-20).log2().floor())
