"""Speed as a ratio to a literal reference, or to the floor, measured in the same process.

    python -m tools.bench              all of them
    python -m tools.bench step         one training step of ReFLIP-VAD at the paper's sizes
    python -m tools.bench metrics      segment mAP and bootstrap intervals on full test sets (those of ../shared/golden)
    python -m tools.bench vadclip      VadCLIP: a training step and the test of 290 videos, at UCF-Crime's sizes
    python -m tools.bench dsanet       DSANet: a training step at UCF-Crime's sizes
    python -m tools.bench mamba        Mamba's scan, and a training step of TrCLIP-VAD at the paper's sizes
    python -m tools.bench loader       bags a second: features packed and kept in memory, against separate files
    python -m tools.bench onnx         what tools.export writes, in onnxruntime, against PyTorch
    python -m tools.bench gpu          on a GPU: a step of every system, what it waits for, extraction; four minutes
    python -m tools.bench extract      ten-crop features of a video, with a tiny encoder and with one of ViT-B/16's sizes

Run it on an idle machine; a figure taken beside other work says nothing.
"""

import argparse
import sys
from importlib import import_module

import torch

from utils.errors import BadInput, Parser, exit_code

BENCHES = ("step", "metrics", "vadclip", "dsanet", "mamba", "extract", "loader", "onnx", "gpu")


def main(argv=None):
    parser = Parser("python -m tools.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"which: {', '.join(BENCHES)} (default: all; gpu where there is one)")
    names = parser.parse_args(argv).names or BENCHES[: None if torch.cuda.is_available() else -1]
    for name in names:
        if name not in BENCHES:
            raise BadInput(f"{name}: no such bench; expected {', '.join(BENCHES)}")
        print(f"== {name} ({torch.get_num_threads()} threads, torch {torch.__version__})")
        getattr(import_module(f"tools.bench.{name}"), f"bench_{name}")()


if __name__ == "__main__":
    sys.exit(exit_code(main))
