"""Test a checkpoint on UCF-Crime: table, report.json, report.md, scores and plots."""

import sys
from pathlib import Path

from ucf_option import parse_args
from utils import checkpoint, experiment, restore
from utils.errors import exit_code


def main(argv=None):
    options = parse_args(argv, testing=True)
    path = Path(options.checkpoint or restore.newest_run(options))
    print(f"checkpoint: {path}")
    options = restore.tested_options(options, path, checkpoint.load(path))
    experiment.announce(options)
    data = experiment.load_data(options, seed=None)
    model = experiment.load_model(options, options.seed)
    experiment.test(model, path, data, options, restore.test_folder(options, path))


if __name__ == "__main__":
    sys.exit(exit_code(main))
