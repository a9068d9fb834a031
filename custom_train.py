"""Train on your own data set: options, data, model, loop, test. Settings are in custom_option.py; the loop itself is utils/engine.py."""

import sys

from utils.errors import exit_code, importing

with importing():  # takes seconds: Ctrl-C, or a fault in the option file, is one line already
    from custom_option import parse_args
    from utils import folds, loading, ranks, runs, sample, testing, training


def main(argv=None):
    options = runs.resumed(parse_args, argv)  # what was typed, else the option file; with --resume what the run was started with
    sample.announce(options)  # your features, or the built-in sample
    with runs.claimed(options):  # one process at a time; a run that stands there is not replaced
        tested = []
        for seed in options.seeds:
            if options.folds:  # of the training list; each is such a run
                tested.append(folds.cross_validate(options, seed))
                continue
            data = loading.load_data(options, seed)  # balanced bags to train on, videos held out, videos to test
            model = loading.load_model(options, seed)  # model.py, with its frozen text side
            best = training.train(model, data, options, seed)
            tested.append(testing.test(model, best, data, options, best.parent, best.parent))
        testing.summarise(tested, options)


if __name__ == "__main__":
    sys.exit(exit_code(main, "; go on with --resume", ranks.joined))
