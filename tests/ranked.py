"""Several trainings in one process, as ucf_train.py has them: by itself, or of torchrun's processes.

    python tests/ranked.py TRAININGS.json          a list of command lines
    torchrun --nproc-per-node 2 tests/ranked.py TRAININGS.json

They are computed in float64: in float32 the noise of another order of summing is as large as a gradient that should be 0 (of a bias before
a normalisation), and Adam makes whole steps of it. The test is left out.
"""

import json
import sys
from pathlib import Path

import clip.model
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import dataset
import ucf_train
from utils import loading, ranks, testing
from utils.errors import exit_code

torch.set_num_threads(1)


def use_double() -> None:
    from_numpy, load_model, resample = torch.from_numpy, loading.load_model, dataset.resample
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double
    torch.from_numpy = lambda array: from_numpy(array).double() if array.dtype.kind == "f" else from_numpy(array)
    dataset.resample = lambda features, *more: resample(features.double(), *more)
    clip.model.LayerNorm.forward = nn.LayerNorm.forward  # its own computes in float32
    loading.load_model = lambda *arguments: load_model(*arguments).double()


def main():
    use_double()
    testing.test = testing.summarise = lambda *arguments: None
    for words in json.loads(Path(sys.argv[1]).read_text()):
        ucf_train.main(words)


if __name__ == "__main__":
    sys.exit(exit_code(main, within=ranks.joined))
