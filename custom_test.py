"""Test a checkpoint on your own data set: table, report.json, report.md, scores and plots."""

import sys
from pathlib import Path

from utils.errors import exit_code, importing

with importing():  # takes seconds: Ctrl-C, or a fault in the option file, is one line already
    from custom_option import parse_args
    from utils import checkpoint, loading, ranks, restore, runs, sample, testing


def main(argv=None):
    options = parse_args(argv, testing=True)
    path = Path(options.checkpoint) if options.checkpoint else runs.newest_checkpoint(options)
    saved = checkpoint.load(path)
    options = parse_args(argv, testing=True, model=restore.system_of(saved, path, options))
    options = restore.tested_options(options, path, saved)
    print(f"checkpoint: {path} ({options.model})")
    runs.tell_unfinished(path, options)
    sample.announce(options)
    data = loading.load_data(options, seed=None)
    model = loading.load_model(options, options.seed)
    with runs.test_folder(options, path) as (new, folder):  # what an earlier test left is replaced whole
        testing.test(model, path, data, options, new, folder)


if __name__ == "__main__":
    sys.exit(exit_code(main, within=ranks.joined))
