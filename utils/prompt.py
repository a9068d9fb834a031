"""Prompts: what stands round the class name (systems.md §1; table X of ReFLIP-VAD).

C+1 classes, N prompt tokens, W width of the text encoder's token embeddings, D width of its output.
"""

import torch
from torch import Tensor, nn

from utils.errors import BadInput
from utils.text import Frozen

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


class PromptEncoder(nn.Module):
    """[SOS] φ_1..φ_prefix [class] φ_prefix+1..φ_N [EOS] through the frozen text encoder: (C+1, D).

    prompt "class": the class name alone; "template": `template` before it; "learnable": φ = N free tokens;
    "reparameterized": φ = θ(pe) + pe.
    The two fixed prompts are encoded once. Raises BadInput where the prompt is longer than the encoder's positions.
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
        super().__init__()
        self.text, self.fixed = text, prompt in ("class", "template")
        self.prefix = prefix
        pieces = [text.tokens(f"{template} {name}" if prompt == "template" else name) for name in class_names]
        start, _, end = pieces[0]
        for name, tensor in (
            ("start", text.embed(start)),
            ("end", text.embed(end)),
            ("names", text.embed([token for _, body, _ in pieces for token in body])),
        ):
            self.register_buffer(name, tensor.detach().clone(), persistent=False)
        self.sizes = [len(body) for _, body, _ in pieces]

        longest = 2 + max(self.sizes) + (0 if self.fixed else prefix + postfix)
        if longest > text.max_length:
            raise BadInput(
                f"--prompt {prompt}: {longest} tokens with the longest class name, "
                f"the text encoder takes {text.max_length}; lower --prompt-prefix and --prompt-postfix"
            )
        self.reparameterization = None
        if self.fixed:
            with torch.no_grad():
                self.register_buffer("features", self.encode(self.names.new_empty(0, text.width)), persistent=False)
        else:
            scale = float(text.table.weight.std())  # learnable tokens start at the size of the vocabulary's
            self.tokens = nn.Parameter(torch.randn(prefix + postfix, text.width) * scale)  # pe
            if prompt == "reparameterized":
                if reparameterizer is None:
                    raise BadInput("--prompt reparameterized needs a frozen encoder: --distilbert NAME_OR_PATH")
                self.reparameterization = Reparameterization(text.width, reparameterizer, scale)

    def encode(self, tokens: Tensor) -> Tensor:
        """(N, W) prompt tokens -> (C+1, D)."""
        before, after = tokens[: self.prefix], tokens[self.prefix :]
        prompts = [torch.cat([self.start, before, name, after, self.end]) for name in self.names.split(self.sizes)]
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=tokens.device)
        return self.text(nn.utils.rnn.pad_sequence(prompts, batch_first=True), lengths)

    def forward(self) -> Tensor:
        """(C+1, D) text features, unnormalised as the encoder gives them."""
        if self.fixed:
            return self.features
        return self.encode(self.tokens if self.reparameterization is None else self.reparameterization(self.tokens))


class FixedFeatures(nn.Module):
    """Class text features computed elsewhere (`--text-features`): (C+1, D), no text encoder at all."""

    def __init__(self, features: Tensor):
        super().__init__()
        self.register_buffer("features", features)

    def forward(self) -> Tensor:
        return self.features
