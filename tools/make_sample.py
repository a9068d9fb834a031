"""Write the built-in sample, bit for bit the same from the same seed, in seconds (data/README.md; what it is: utils/sample/).

python -m tools.make_sample [--dataset ucf|xd|both] [--output data/sample] [--seed 0] [--shuffle-labels]
"""

import argparse
import sys
from pathlib import Path

from utils.datasets import benchmarks
from utils.errors import SEED, Parser, exit_code
from utils.files import ROOT, locked
from utils.sample.builder import make_sample


def main(argv=None) -> None:
    parser = Parser("python -m tools.make_sample", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=[*benchmarks(), "both"], default="both")
    parser.add_argument("--output", type=Path, default=ROOT / "data" / "sample", help="(default: data/sample)")
    parser.add_argument("--seed", type=SEED, default=0, help="(default: 0)")
    parser.add_argument("--shuffle-labels", action="store_true", help="permute the training labels: a detector must then find nothing")
    options = parser.parse_args(argv)
    for key in benchmarks() if options.dataset == "both" else [options.dataset]:
        with locked(options.output, f".{key}.lock"):
            make_sample(options.output / key, key, options.seed, options.shuffle_labels)


if __name__ == "__main__":
    sys.exit(exit_code(main))
