"""Golden values: what the authors' released code computed on tiny seeded models (../shared/golden), read for the tests of each system."""

from pathlib import Path

import numpy as np
import pytest
import torch

from utils.text import openai_clip

SHARED = Path(__file__).parents[2] / "shared"
GOLDEN, REAL, CASES = SHARED / "golden", SHARED / "real", SHARED / "cases"
needs_cases = pytest.mark.skipif(not CASES.exists(), reason="../shared/cases is not here")
needs_golden = pytest.mark.skipif(not GOLDEN.exists(), reason="../shared/golden is not here")


def golden(system, key):
    """Golden values, the released model's weights under the authors' names, and the CLIP among them."""
    values = np.load(GOLDEN / f"{system}_{key}.npz", allow_pickle=False)
    weights = {name.removeprefix("weight."): torch.from_numpy(values[name]) for name in values.files if name.startswith("weight.")}
    clip_weights = {name.removeprefix("clipmodel."): value for name, value in weights.items() if name.startswith("clipmodel.")}
    clip_model = openai_clip().model.CLIP(64, 32, 2, 64, 8, *clip_weights["positional_embedding"].shape[:1], 49408, 64, 1, 2)
    clip_model.load_state_dict(clip_weights)
    return values, weights, clip_model


def difference(ours, theirs):
    """Largest difference, relative to the largest value."""
    return float((ours.detach().double() - torch.from_numpy(theirs).double()).abs().max() / np.abs(theirs).max())
