"""What every system gives and states: the output of its network, its hyperparameters, and the entry by which model.py knows it.

B videos, T snippets, D feature width, C+1 classes (class 0 = normal).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
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
    online: Tensor | None = None  # (B, T) in [0, 1], a score that looks at no later row of features
    coarse_logits: Tensor | None = None  # (B, T) before the sigmoid
    online_logits: Tensor | None = None  # (B, T) before the sigmoid
    probs: Tensor | None = None  # (B, T, C+1) class probabilities that are tested, where they are not the softmax of the alignment map
    parts: tuple | None = None  # what only the system's own losses read


def option(default, help: str, *, group: str = "model", choices: tuple | None = None, tried: str = "", low=None, high=None, above=None):
    """A field of a dataclass that is an option of the scripts: --its-name, checked against its type annotation, `choices` and its range
    (`low` and `high` belong to it, `above` does not; without `high`: utils.options.HIGH). tried: the values in the paper's tables.
    """
    about = {"help": help, "group": group, "choices": choices, "tried": tried, "low": low, "high": high, "above": above}
    return field(default=default, metadata=about)


@dataclass(kw_only=True)
class Settings:
    """The hyperparameters that every system has; a system adds its own in a subclass."""

    visual_length: int = option(
        512, "snippets T of a training bag, and of a test chunk where videos are tested in chunks", low=1, tried="64 128 256 512 1024"
    )
    visual_width: int = option(512, "feature width D (CLIP ViT-B/16: 512)", low=1)
    feature_scale: float = option(
        1.0, "features are multiplied by this: CLIP's have norm 10, a sentence encoder's norm 1 wants 10 (ours)", above=0
    )
    dropout: float = option(0.0, "dropout; where it acts, the system's file says (model.py, utils/systems/)", low=0, high=0.99)


@dataclass(kw_only=True)
class WindowSettings:
    """Of systems with a local transformer."""

    visual_layers: int = option(1, "blocks in each stage of the temporal network", low=1, high=100)
    visual_head: int = option(1, "attention heads of the local and global transformer", low=1)
    attn_window: int = option(64, "window of the local transformer, in snippets", low=1)


@dataclass(kw_only=True)
class PaddingSettings:
    """Of systems whose authors let padding into valid snippets."""

    mask_padding: bool = option(False, "padding never reaches a valid snippet (ours); without it as published")


@dataclass(kw_only=True)
class AlignmentSettings:
    """Of systems with an alignment map."""

    temperature: float = option(0.07, "τ of the alignment map", above=0, tried="0.01 0.03 0.05 0.07 0.09 0.1")
    lambda_align: float = option(0.01, "λ1, weight of MIL-Align", group="training", low=0)
    lambda_text: float = option(0.1, "weight of class-embedding separation (VadCLIP's: 0.1 on UCF, 1e-4 on XD)", group="training", low=0)


@dataclass(kw_only=True)
class PromptSettings(AlignmentSettings):
    """Of systems with learnable prompts and an alignment map."""

    prompt_prefix: int = option(12, "prompt tokens before the class name; N = prefix + postfix", low=0, tried="N = 8 16 20 24 32")
    prompt_postfix: int = option(12, "prompt tokens after the class name", low=0)


@dataclass(kw_only=True)
class ProjectionSettings:
    """Of systems that compare text features with visual ones as they are, in one space."""

    text_projection: bool | None = option(
        None,
        "trained linear map from the text side's space to the features' (ours); where neither is typed: where their widths differ",
    )


@dataclass(kw_only=True)
class CaptionSettings:
    """Of systems that read a caption feature beside each snippet's."""

    caption_root: str | None = option(
        None,
        "caption features: DIR/source, DIR/rewrite-1, … with NAME.npy (T, E) each, or the source alone in DIR (tools.embed_captions)",
        group="captions",
    )
    caption_choice: str = option(
        "random",
        "version of the captions in training: one drawn each time a video is loaded, or always the same; testing takes the source",
        group="captions",
        choices=("random", "source", "rewrite-1", "rewrite-2"),
    )
    caption_width: int = option(768, "width E of the caption features (SimCSE: 768)", group="captions", low=1)
    caption_scale: float = option(
        1.0, "caption features are multiplied by this; an encoder of norm 1 wants 10 (ours)", group="captions", above=0
    )


class System(NamedTuple):
    """An entry of model.SYSTEMS: all that the rest of the project knows of a system.

    build(class_names, clip_model, *, …) -> nn.Module: its keyword parameters are those of `settings` that shape the network.
    losses(output, labels (B, C+1) multi-hot, lengths (B,), options) -> {name: scalar, weighted}; their sum is minimised.
    settings: the dataclass of its hyperparameters. defaults: what its paper sets on every dataset, training included; an option file wins.
    presets: settings by name, for `--preset`; an option file loses against them, `presets` in a data set's file (list/) wins.
    rule: by which rule the paper's checkpoint was selected; what it reports on a data set stands in that one's file (list/). encoder,
    widths: what its features were made with. second: a further torch.optim.Optimizer and an LRScheduler for it that is stepped with it;
    `steps` are those of an epoch. `--optimizer` and `--scheduler` then are of the rest (`parameter_groups(lr)` of the network).
    """

    build: Callable
    losses: Callable
    settings: type
    defaults: dict = {}  # noqa: RUF012, never written to
    rule: str = "selection not stated"
    encoder: str = "ViT-B/16"  # behind the paper's figures, as a manifest of features names it
    widths: tuple[int, ...] = (512,)  # columns of its features
    text: Callable = lambda options: True  # whether it takes a text encoder or class text features
    transformers: Callable = lambda options: {}  # encoders that `build` takes, keyword -> name or path, None for none
    inputs: Callable = lambda options: ("features",)  # what it reads of a video: "features", "captions" or both
    whole: bool = False  # tested one whole video at a time, not in chunks of --visual-length
    note: Callable = lambda options, device: None  # a line that training prints at its start
    second: Callable = lambda model, options, steps: ()  # or (optimizer, its rate by step) of what `parameter_groups` leaves out
    presets: dict[str, dict] = {}  # noqa: RUF012, never written to
    budget: tuple[tuple[str, ...], str] = ((), "")  # parts whose size is printed (none: all), and the paper's figures for them
    ranks: bool = False  # whether torchrun may train it: what spans a batch spans the ranks (utils/ranks.py)


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
