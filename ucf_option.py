"""UCF-Crime: the hyperparameters of ReFLIP-VAD (TCSVT 2024, doi 10.1109/TCSVT.2024.3482007), for you to edit.

    python ucf_train.py                          the built-in sample, about two minutes on 2 cores
    python ucf_train.py --feature-root DIR       your CLIP features, the official lists

Reported in the paper (best epoch on the test set): frame AUC 88.57 with CLIP features, AVG mAP 9.62.
"""

from utils.options import parse

# What UCF-Crime changes; every other default is in utils/options.py. A command-line option wins over both.
DEFAULTS = dict(
    lr=3e-4,
    lambda_align=0.01,
    lambda_magnitude=0.001,
    lambda_text=0.1,
)

# The built-in sample is small, with 64 columns instead of 512.
SAMPLE = dict(
    visual_width=64,
    visual_length=256,
    batch_size=64,
    max_epoch=5,
    lr=1e-3,
)


def parse_args(argv=None, testing=False):
    """Options of ucf_train.py, or with `testing` of ucf_test.py. Raises BadInput for values that make no sense."""
    return parse("ucf", DEFAULTS, SAMPLE, argv, __doc__, testing)
