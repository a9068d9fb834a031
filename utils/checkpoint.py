"""Checkpoints: a plain dict of trained weights, optimizer, scheduler, epoch, random states and options, read with `weights_only=True`.

Frozen encoders (utils/text.py: Frozen) are left out; their fingerprints go in, so that another encoder is noticed.
"""

import io
import math
import subprocess
import sys
from pathlib import Path
from typing import NotRequired

import numpy as np
import torch
from pydantic import InstanceOf
from torch import nn
from typing_extensions import TypedDict

from utils import ranks
from utils.captions.tree import Embedded
from utils.errors import BadInput, some
from utils.files import ROOT, replacing
from utils.reading import OPEN, Flag, Plain, Text, Values, check_packed, checked, parsing, real, whole
from utils.text import Frozen

# What a figure computed by scikit-learn is stored as; VadCLIP's training keeps one beside the weights.
SCALAR = np._core.multiarray.scalar
SCALARS = [SCALAR, (SCALAR, "numpy.core.multiarray.scalar"), np.dtype, np.dtypes.Float64DType]  # the name before and after numpy 2


FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
Tensors = dict[Text, InstanceOf[torch.Tensor]]


class Options(TypedDict):
    """What everybody needs of a run's options; types and ranges of the others: utils.restore.known_system."""

    __pydantic_config__ = OPEN

    model: Text
    sample: Flag
    seed: whole(0, 2**64 - 1)
    select: Text


class Thresholds(TypedDict):
    """What utils.evaluation.segments.thresholds gives."""

    videos: whole(0, 2**40)
    snippets: whole(0, 2**40)
    rates: dict[Text, real(0, 2)]


class Features(TypedDict):
    """What made the training features (dataset.Manifest)."""

    encoder: dict[Text, Plain]
    recipe: dict[Text, Plain]


class Init(TypedDict):
    """How a training began from another checkpoint (`--init`): its path, the weights that were taken, the others with the reason, and what
    that checkpoint was trained on.
    """

    path: Text
    taken: list[Text]
    left: dict[Text, Text]
    trained_on: list[Text]


class Best(TypedDict):
    """best.pt; figure: the selection figure, None where the last epoch is taken; figure_of: its name (earlier versions wrote none)."""

    __pydantic_config__ = OPEN

    weights: Tensors
    options: Options
    dataset: Text
    classes: list[Text]
    commit: Text
    encoders: dict[Text, Text]
    epoch: whole(0, 2**40)
    figure: NotRequired[real() | None]
    figure_of: NotRequired[Text]
    thresholds: NotRequired[Thresholds]
    features: NotRequired[Features]
    captions: NotRequired[Embedded]
    trained_on: NotRequired[list[Text]]
    title: NotRequired[Text]
    init: NotRequired[Init]


class Part(TypedDict):
    """How far an epoch is: steps that are done, their losses' sums by name, the seconds that they took."""

    steps: whole(1, 2**40)
    sums: dict[Text, real()]
    seconds: real(0)


class Last(Best):
    """last.pt, from which training goes on; best: the highest selection figure so far, minus infinity where there is none; error: its
    standard error; part: of the epoch behind `epoch`, where that has begun.
    """

    best: float
    error: NotRequired[float]
    part: NotRequired[Part]
    optimizer: dict
    scheduler: dict
    second: NotRequired[dict]  # the same of System.second
    random: dict


def frozen_parts(model: nn.Module) -> dict[str, Frozen]:
    """The pretrained parts of a model by name."""
    return {name: part for name, part in model.named_modules() if isinstance(part, Frozen)}


def trained_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The model's state dict without its frozen parts: weights and buffers, on the CPU."""
    frozen = tuple(f"{name}." for name in frozen_parts(model))
    return {key: value.detach().cpu() for key, value in model.state_dict().items() if not key.startswith(frozen)}


def load_trained_state(model: nn.Module, state: dict, path: Path | str) -> None:
    """Load what `trained_state` gave, or its authors' state dict (parts that `model.ignored` names are passed over). Raises BadInput naming
    the first key that is missing, extra, misshapen or not finite.
    """
    own = trained_state(model)
    state = {key: value for key, value in state.items() if not key.startswith(getattr(model, "ignored", ()))}
    for what, keys in (("lacks", own.keys() - state.keys()), ("has the unknown", state.keys() - own.keys())):
        if keys:
            raise BadInput(f"{path}: {what} key {min(keys)!r}; it was trained with other model options, give those")
    for key, value in own.items():
        if value.shape != state[key].shape:
            raise BadInput(
                f"{path}: {key} has shape {tuple(state[key].shape)}, this model's is {tuple(value.shape)}; "
                f"give the options it was trained with"
            )
        if not _is_sound(state[key], value):
            raise BadInput(f"{path}: {key} holds {state[key].dtype} values, or some that are not finite; train again or name another")
    model.load_state_dict(state, strict=False)


def class_weights(model: nn.Module) -> set[str]:
    """Keys of what holds something of the model's classes, as its parts say (`of_classes`)."""
    named = model.named_modules()
    return {f"{place}.{name}".removeprefix(".") for place, part in named for name in getattr(part, "of_classes", ())}


def take_fitting(model: nn.Module, state: dict, path: Path | str, foreign: tuple[str, ...] = ()) -> tuple[list[str], dict[str, str]]:
    """Load the weights of another training, or its authors' state dict, that fit by name and shape: keys taken, and key -> reason of the
    model's others. Nothing of the classes is taken, nor what begins with one of `foreign`, which belongs to another frozen encoder.

    Raises BadInput, and changes nothing, where no weight fits, where most have other shapes, and where one is not finite.
    """
    own = trained_state(model)
    left = {key: "not in the file" for key in own if key not in state}
    left |= {key: "of another frozen encoder" for key in own if key in state and key.startswith(foreign)}
    left |= dict.fromkeys(own.keys() & class_weights(model), "of the classes")
    shapes = {key: (tuple(state[key].shape), tuple(own[key].shape)) for key in own if key not in left}
    misshapen = {key: f"of shape {there}, here {here}" for key, (there, here) in shapes.items() if there != here}
    taken, left = [key for key in shapes if key not in misshapen], left | misshapen
    if len(taken) <= len(misshapen):
        key = next(iter(misshapen or left))
        raise BadInput(f"--init {path}: most weights do not fit, {key} is {left[key]}; name a checkpoint of the same system and widths")
    for key in taken:
        if not _is_sound(state[key], own[key]):
            raise BadInput(f"--init {path}: {key} holds {state[key].dtype} values, or some that are not finite; name another")
    model.load_state_dict({key: state[key] for key in taken}, strict=False)
    return taken, left


def _is_sound(found: torch.Tensor, own: torch.Tensor) -> bool:
    """Whether a tensor from a file can take the place of `own`, whose shape it has."""
    kinds = FLOATS if own.is_floating_point() else (own.dtype,)
    return found.layout is torch.strided and found.device.type == "cpu" and found.dtype in kinds and bool(found.isfinite().all())


def check_alike(found, own, place: str) -> None:
    """Raise BadInput unless `found`, of a file, is built as `own` is: dicts of its keys (and more), lists of its length, values of its
    types, tensors of its shape, all numbers finite.
    """
    kinds = {dict: dict, list: (list, tuple), tuple: (list, tuple), float: (float, int)}
    kind = next((found_as for ours, found_as in kinds.items() if isinstance(own, ours)), type(own))
    fits = isinstance(found, kind) and isinstance(found, bool) == isinstance(own, bool)
    if fits and isinstance(own, dict):
        fits = found.keys() >= own.keys()
    elif fits and isinstance(own, list | tuple):
        fits = len(found) == len(own)
    elif fits and isinstance(own, float | int):
        fits = math.isfinite(found)
    elif fits and isinstance(own, torch.Tensor):
        fits = found.shape == own.shape and _is_sound(found, own)
    if not fits:
        raise BadInput(f"{place} is not what this version and these options make there; train anew without --resume")
    parts = own if isinstance(own, dict) else range(len(own)) if isinstance(own, list | tuple) else ()
    for part in parts:
        check_alike(found[part], own[part], f"{place}.{part}")


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict, place: str) -> None:
    """Load what `optimizer.state_dict()` gave. Raises BadInput naming `place` and the part that does not fit; nothing is changed then."""
    own = optimizer.state_dict()["param_groups"]
    fused = [{name: group.pop(name) for name in ("fused",) if name in group} for group in own]  # this device's: a run may change it
    check_alike(state, {"state": {}, "param_groups": own}, place)
    state = state | {"param_groups": [found | mine for found, mine in zip(state["param_groups"], fused, strict=True)]}
    names = {"step", "exp_avg", "exp_avg_sq"}
    names = {"Adagrad": {"step", "sum"}, "StableAdamW": names | {"max_exp_avg_sq"}}.get(type(optimizer).__name__, names)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, values in state["state"].items():
        if type(index) is not int or not 0 <= index < len(parameters):
            raise BadInput(f"{place}.state: {index!r} is no parameter of this model; train anew without --resume")
        like = {name: torch.tensor(0.0) if name == "step" else parameters[index].detach() for name in names}
        check_alike(values, like, f"{place}.state.{index}")
    optimizer.load_state_dict(state)


def load_scheduler(scheduler, state: dict, place: str) -> None:
    """Load what `scheduler.state_dict()` gave. Raises BadInput as load_optimizer does."""
    own = scheduler.state_dict()
    check_alike(state, own, place)
    scheduler.load_state_dict({name: state[name] for name in own})


def steps_state(optimizer: torch.optim.Optimizer, scheduler) -> dict:
    """The states of an optimizer and of its learning rate."""
    return {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}


def load_steps(optimizer: torch.optim.Optimizer, scheduler, state: dict, place: str) -> None:
    """Load what `steps_state` gave. Raises BadInput as load_optimizer does."""
    check_alike(state, {"optimizer": {}, "scheduler": {}}, place)
    load_optimizer(optimizer, state["optimizer"], f"{place}: optimizer")
    load_scheduler(scheduler, state["scheduler"], f"{place}: scheduler")


def random_state() -> dict:
    """torch's random states, of the CPU and of all GPUs, of a rank among several of its own; order of the data comes from seed and epoch
    (dataset.BalancedBatches).
    """
    cuda = torch.cuda.is_available() and (torch.cuda.get_rng_state_all() if ranks.count() == 1 else [torch.cuda.get_rng_state()])
    return {"cpu": torch.get_rng_state(), "cuda": cuda or []}


def set_random_state(state: dict, place: str = "random") -> None:
    with parsing(f"{place} is no state of torch's random numbers", "train anew without --resume"):
        torch.set_rng_state(state["cpu"])
        if state["cuda"] and torch.cuda.is_available():
            if ranks.count() > 1:
                torch.cuda.set_rng_state(state["cuda"][0])
            else:
                torch.cuda.set_rng_state_all(state["cuda"][: torch.cuda.device_count()])  # of a machine with more of them, perhaps


def commit() -> str:
    """The commit of the code, with "+changes" where the working tree differs; "unknown" outside a git checkout."""

    def git(*words):
        return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _interned(content):
    """The same with equal strings as one object: pickle writes an object once, and what was read from a file has copies of its own."""
    if isinstance(content, dict):
        return {_interned(key): _interned(value) for key, value in content.items()}
    if type(content) in (list, tuple):
        return type(content)(map(_interned, content))
    return sys.intern(content) if type(content) is str else content


def save(path: Path, content: dict) -> None:
    """Write a checkpoint whole or not at all; the same content gives the same bytes (torch.save would store the file's name)."""
    buffer = io.BytesIO()
    torch.save(_interned(content), buffer)
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def load(path: Path | str, kind: type = Best, option: str = "--checkpoint") -> dict:
    """Read a checkpoint: ours (`kind`: Best or Last), or one that a system's authors released, a state dict, which then is all there is:
    {"weights": …}.

    Raises BadInput where it is missing, cut short or neither, naming the first field that is not as declared.
    """
    if found := [file for file in (Path(path, "best.pt"), *sorted(Path(path).glob("seed-*/best.pt"))) if file.exists()]:
        raise BadInput(f"{path}: a folder; name a checkpoint in it with {option}: {some(found)}")
    again = f"it may be cut short or of another version: train again, or name another with {option}"
    check_packed(path, option)
    with parsing(f"{path}: not a readable checkpoint", again), torch.serialization.safe_globals(SCALARS):
        content = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(content, dict):
        if {"weights", "options", "classes"} <= content.keys():
            checked(dict[Text, Values], content["options"], f"{path}: options", again)
            return checked(kind, content, str(path), again)
        state = content.get("model_state_dict", content)  # as VadCLIP's training saves it, or as its test and others' read it
        if isinstance(state, dict) and state and all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in state.items()):
            return {"weights": {key.removeprefix("module."): value for key, value in state.items()}}
    raise BadInput(
        f"{path}: not a checkpoint of this project (no weights, options, classes in it), nor a released state dict; "
        f"name best.pt or last.pt of a run"
    )
