"""XD-Violence: the hyperparameters of ReFLIP-VAD (TCSVT 2024, doi 10.1109/TCSVT.2024.3482007), for you to edit.

    python xd_train.py                          the built-in sample, about two minutes on 2 cores
    python xd_train.py --feature-root DIR       your CLIP features, the official lists

Reported in the paper (best epoch on the test set): frame AP 85.81 with CLIP features, AVG mAP 27.36.
"""

from utils.options import parse

# What XD-Violence changes; every other default is in utils/options.py. A command-line option wins over both.
DEFAULTS = dict(
    lr=5e-4,
    lambda_align=1e-4,
    lambda_magnitude=1e-4,
    lambda_text=1e-4,
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
    """Options of xd_train.py, or with `testing` of xd_test.py. Raises BadInput for values that make no sense."""
    return parse("xd", DEFAULTS, SAMPLE, argv, __doc__, testing)
