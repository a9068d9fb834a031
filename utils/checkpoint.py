"""Checkpoints: a plain dict of trained weights, optimizer, scheduler, epoch, random states and options, read with `weights_only=True`.

Frozen encoders (utils/text.py: Frozen) are left out; their fingerprints go in, so that another encoder is noticed.
"""

import io
import pickle
import subprocess
from pathlib import Path

import numpy as np
import torch
from torch import nn

from utils.errors import BadInput
from utils.files import ROOT, replacing
from utils.text import Frozen

# What a figure computed by scikit-learn is stored as; VadCLIP's training keeps one beside the weights.
SCALAR = np._core.multiarray.scalar
SCALARS = [SCALAR, (SCALAR, "numpy.core.multiarray.scalar"), np.dtype, np.dtypes.Float64DType]  # the name before and after numpy 2


def frozen_parts(model: nn.Module) -> dict[str, Frozen]:
    """The pretrained parts of a model by name."""
    return {name: part for name, part in model.named_modules() if isinstance(part, Frozen)}


def trained_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The model's state dict without its frozen parts: weights and buffers, on the CPU."""
    frozen = tuple(f"{name}." for name in frozen_parts(model))
    return {key: value.detach().cpu() for key, value in model.state_dict().items() if not key.startswith(frozen)}


def load_trained_state(model: nn.Module, state: dict, path: Path | str) -> None:
    """Load what `trained_state` gave, or its authors' state dict (parts that `model.ignored` names are passed over). Raises BadInput naming
    the first key that is missing, extra or misshapen.
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
    model.load_state_dict(state, strict=False)


def random_state() -> dict:
    """torch's random states, CPU and CUDA; order of the data comes from seed and epoch (dataset.BalancedBatches)."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []}


def set_random_state(state: dict) -> None:
    torch.set_rng_state(state["cpu"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def commit() -> str:
    """The commit of the code, with "+changes" where the working tree differs; "unknown" outside a git checkout."""

    def git(*words):
        return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def save(path: Path, content: dict) -> None:
    """Write a checkpoint whole or not at all; the same content gives the same bytes (torch.save would store the file's name)."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def load(path: Path | str) -> dict:
    """Read a checkpoint: ours, or one that a system's authors released, a state dict, which then is all there is: {"weights": …}.

    Raises BadInput where it is missing, cut short or neither.
    """
    try:
        with torch.serialization.safe_globals(SCALARS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise BadInput(f"{path}: no such checkpoint; train one, or name another with --checkpoint") from None
    except Exception as error:  # torch raises half a dozen kinds for a damaged file
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
        if isinstance(error, pickle.UnpicklingError):  # torch advises to load it unsafely
            reason = "no weights, or more than weights"
        raise BadInput(f"{path}: not a readable checkpoint ({reason}); it may be cut short: train again or name another") from None
    if isinstance(content, dict):
        if {"weights", "options", "classes"} <= content.keys():
            return content
        state = content.get("model_state_dict", content)  # as VadCLIP's training saves it, or as its test and others' read it
        if isinstance(state, dict) and state and all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in state.items()):
            return {"weights": {key.removeprefix("module."): value for key, value in state.items()}}
    raise BadInput(
        f"{path}: not a checkpoint of this project (no weights, options, classes in it), nor a released state dict; "
        f"name best.pt or last.pt of a run"
    )
