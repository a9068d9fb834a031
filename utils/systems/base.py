"""What every system gives and states: the output of a model, and the entry by which model.py knows it.

B videos, T snippets, D feature width, C+1 classes (class 0 = normal).
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from utils.text import Frozen


class Output(NamedTuple):
    """What a model gives for features (B, T, D). What a system does not have is None."""

    coarse: Tensor | None = None  # (B, T) in [0, 1], the anomaly score of the classification block
    alignment: Tensor | None = None  # (B, T, C+1) logits, from the video-text alignment block
    visual: Tensor | None = None  # (B, T, D) G_visual
    class_embeddings: Tensor | None = None  # (B, C+1, D) with the V-prompt, else (C+1, D)
    text: Tensor | None = None  # (C+1, D) text features before the V-prompt
    online: Tensor | None = None  # (B, T) in [0, 1], a score that looks at no later snippet (HL-Net)
    coarse_logits: Tensor | None = None  # (B, T) before the sigmoid
    online_logits: Tensor | None = None  # (B, T) before the sigmoid


class System(NamedTuple):
    """An entry of model.SYSTEMS.

    build(class_names, clip_model, *, …) -> nn.Module: its keyword parameters are the model options that this system has.
    losses(output, labels (B, C+1) multi-hot, lengths (B,), options) -> {name: scalar, weighted}; their sum is minimised.
    weights: the options that `losses` reads. defaults: settings that its paper has for every dataset; an option file wins over them.
    """

    build: Callable
    losses: Callable
    weights: tuple[str, ...] = ()
    defaults: dict = {}  # noqa: RUF012, never written to
    text: bool = True  # takes a text encoder or class text features
    captions: bool = False  # takes a caption feature beside each snippet's (--caption-root)
    whole: bool = False  # tested one whole video at a time, not in chunks of --visual-length


class Published(nn.Module):
    """A network with parameters named as in its authors' checkpoints, so that `load_state_dict` takes those as they are.

    `ignored`: prefixes of keys that those hold and this network does not have; they are dropped. What a frozen part (utils/text.py: Frozen)
    lacks in a checkpoint stays as it is. Any other missing, extra or misshapen key is an error, as usual.
    """

    ignored: tuple[str, ...] = ()

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.register_load_state_dict_pre_hook(take_published)


def take_published(model: Published, state: dict[str, Tensor], prefix: str, *_) -> None:
    """Hook of `load_state_dict`, on its copy of the state dict; a function, not a method, so that a copied model loads into itself."""
    for key in [key for key in state if key.removeprefix(prefix).startswith(model.ignored)]:
        del state[key]
    for name, part in model.named_modules(prefix=prefix.removesuffix(".")):
        if isinstance(part, Frozen):
            for key, value in part.state_dict(prefix=f"{name}.").items():
                state.setdefault(key, value)
