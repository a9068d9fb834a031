"""Train on UCF-Crime: options, data, model, loop, test. Settings are in ucf_option.py; the loop itself is utils/engine.py."""

import sys
from pathlib import Path

from ucf_option import parse_args
from utils import loading, sample, testing, training
from utils.errors import exit_code


def main(argv=None):
    options = parse_args(argv)
    sample.announce(options)  # your features, or the built-in sample
    tested = []
    for seed in options.seeds:
        data = loading.load_data(options, seed)  # balanced bags to train on, videos held out, videos to test
        model = loading.load_model(options, seed)  # model.py, with its frozen text side
        best = training.train(model, data, options, seed)
        tested.append(testing.test(model, best, data, options, best.parent))
    testing.summarise(tested, data, Path(options.output))


if __name__ == "__main__":
    sys.exit(exit_code(main))
