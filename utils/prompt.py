"""Prompts: what stands round the class name (table X of ReFLIP-VAD).

B videos, T snippets, C+1 classes, N prompt tokens, W width of the text encoder's token embeddings, D width of its output.
"""

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


class ClassPrompts(nn.Module):
    """[SOS] learned tokens [class] learned tokens [EOS] through a frozen text encoder: (C+1, D). Subclasses say which tokens are learned.

    `learned` is their number N. Raises BadInput where the longest prompt exceeds the encoder's positions.
    """

    def __init__(self, class_names, text: nn.Module, *, learned: int, template: str = ""):
        super().__init__()
        self.text = text
        pieces = [text.tokens(f"{template} {name}" if template else name) for name in class_names]
        start, _, end = pieces[0]
        for name, tensor in (
            ("start", text.embed(start)),
            ("end", text.embed(end)),
            ("names", text.embed([token for _, body, _ in pieces for token in body])),
        ):
            self.register_buffer(name, tensor.detach().clone(), persistent=False)
        self.sizes = [len(body) for _, body, _ in pieces]
        longest = 2 + max(self.sizes) + learned
        if longest > text.max_length:
            raise BadInput(
                f"--prompt-prefix, --prompt-postfix: {longest} tokens with the longest class name, "
                f"the text encoder takes {text.max_length}; lower them"
            )

    def encode(self, before: Tensor, after: list[Tensor]) -> Tensor:
        """before (n, W) for all classes, after (m, W) for each class -> (C+1, D), unnormalised as the encoder gives them."""
        names = self.names.split(self.sizes)
        prompts = [torch.cat([self.start, before, name, rest, self.end]) for name, rest in zip(names, after, strict=True)]
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=before.device)
        return self.text(nn.utils.rnn.pad_sequence(prompts, batch_first=True), lengths)


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
        learned = 0 if fixed else prefix + postfix
        super().__init__(class_names, text, learned=learned, template=template if prompt == "template" else "")
        self.fixed, self.prefix, self.reparameterization = fixed, prefix, None
        if fixed:
            with torch.no_grad():
                self.register_buffer("features", self.around(self.names.new_empty(0, text.width)), persistent=False)
        else:
            scale = float(text.table.weight.std())  # learnable tokens start at the size of the vocabulary's
            self.tokens = nn.Parameter(torch.randn(learned, text.width) * scale)  # pe
            if prompt == "reparameterized":
                if reparameterizer is None:
                    raise BadInput("--prompt reparameterized needs a frozen encoder: --distilbert NAME_OR_PATH")
                self.reparameterization = Reparameterization(text.width, reparameterizer, scale)

    def around(self, tokens: Tensor) -> Tensor:
        """(N, W) tokens round every class name -> (C+1, D)."""
        return self.encode(tokens[: self.prefix], [tokens[self.prefix :]] * len(self.sizes))

    def forward(self) -> Tensor:
        """(C+1, D) text features."""
        if self.fixed:
            return self.features
        return self.around(self.tokens if self.reparameterization is None else self.reparameterization(self.tokens))


class PositionPrompt(ClassPrompts):
    """VadCLIP's: a learned token for each absolute position, `weight` (77, W), of which a prompt takes those where no class token stands:
    positions 1..prefix, and `postfix` of them from behind the class name on.
    """

    def __init__(self, class_names, text: nn.Module, *, prefix: int, postfix: int):
        super().__init__(class_names, text, learned=prefix + postfix)
        self.prefix, self.postfix = prefix, postfix
        self.weight = nn.Parameter(torch.empty(text.max_length, text.width).normal_(std=0.01))

    def forward(self) -> Tensor:
        """(C+1, D) text features."""
        first = [1 + self.prefix + size for size in self.sizes]
        return self.encode(self.weight[1 : 1 + self.prefix], [self.weight[at : at + self.postfix] for at in first])


class FixedFeatures(nn.Module):
    """Class text features computed elsewhere (`--text-features`): (C+1, D), no text encoder at all."""

    def __init__(self, features: Tensor):
        super().__init__()
        self.register_buffer("features", features)

    def forward(self) -> Tensor:
        return self.features


def position_prompts(class_names, clip_model, width: int | None, *, prefix: int, postfix: int) -> tuple[nn.Module, int]:
    """VadCLIP's prompts for a CLIP or another encoder, or class text features as they are; and the width of what they give.

    Raises BadInput where that is not the features' `width`; None takes any.
    """
    if isinstance(clip_model, Tensor):
        return fixed_features(clip_model, class_names, width or clip_model.shape[-1]), clip_model.shape[-1]
    encoder = text_encoder(clip_model, width)
    return PositionPrompt(class_names, encoder, prefix=prefix, postfix=postfix), encoder.output_width


def fixed_features(features: Tensor, class_names, width: int) -> FixedFeatures:
    """Class text features as a prompt side. Raises BadInput unless they are (C+1, width)."""
    if features.shape != (len(class_names), width):
        raise BadInput(
            f"--text-features: shape {tuple(features.shape)}, "
            f"expected {(len(class_names), width)}: one row per class, --visual-width columns"
        )
    return FixedFeatures(features.float())


def text_encoder(clip_model, width: int | None) -> nn.Module:
    """An OpenAI CLIP, or an encoder of utils/text.py as it is. Raises BadInput where its columns are not the features' `width`; None takes
    any.
    """
    text = clip_model if hasattr(clip_model, "tokens") else CLIPText(clip_model)
    if width not in (None, text.output_width):
        raise BadInput(
            f"--visual-width {width}: the text encoder gives {text.output_width} columns; features and text must live in one space"
        )
    return text


def cosine(visual: Tensor, embeddings: Tensor) -> Tensor:
    """Cosine similarity of each snippet (B, T, D) and class ((C+1, D) or (B, C+1, D)): (B, T, C+1) float32, or what
    autocast makes of the products.
    """
    visual = visual.float()
    products = visual @ F.normalize(embeddings.float(), dim=-1).transpose(-1, -2)
    return products / visual.norm(dim=-1, keepdim=True).clamp(min=1e-12)  # C+1 columns are divided instead of D
