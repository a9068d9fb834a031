"""XD-Violence: the hyperparameters of ReFLIP-VAD (TCSVT 2024, doi 10.1109/TCSVT.2024.3482007) and of the other systems, for you to edit.

    python xd_train.py                          the built-in sample, about two minutes on 2 cores
    python xd_train.py --feature-root DIR       your CLIP features, the official lists
    python xd_train.py --model vadclip          another system: trclip, vadclip, hlnet, deepmil

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

# What the other systems change, by --model. Settings that their papers have for both datasets are `defaults` in model.py, utils/hlnet.py
# and utils/deepmil.py; what stands here wins over them.
SYSTEMS = dict(
    # AAAI 2024; reported: frame AP 84.51 (fine score, best epoch on the test set, crop 0), AVG mAP 24.70.
    vadclip=dict(visual_layers=1, attn_window=64, lr=1e-5, batch_size=96, sampling="shuffle", milestones=(3, 6, 10), lambda_text=1e-4),
    # Neural Networks 2026, doi 10.1016/j.neunet.2026.108951; reported: frame AP 86.38 (its authors select on the coarse AP of the test
    # set; --select test takes the fine one, as for the other systems). Captions: --caption-root DIR.
    trclip=dict(visual_layers=1, attn_window=64, lr=5e-6, batch_size=96, sampling="shuffle", milestones=(3, 6, 10), lambda_text=1e-4),
    # ECCV 2020 (XDVioDet); reported: frame AP 78.64 on I3D and audio.
    hlnet=dict(),
    # CVPR 2018 (Sultani et al.).
    deepmil=dict(),
)

# The built-in sample is small, with 64 columns instead of 512. Settings of one system stand under its name.
SAMPLE = dict(
    visual_width=64,
    max_epoch=5,
    reflip=dict(visual_length=256, batch_size=64, lr=1e-3),
    vadclip=dict(batch_size=64, lr=1e-3),
    trclip=dict(visual_length=128, batch_size=64, lr=1e-3, caption_width=64, caption_scale=10, d_state=4),
    hlnet=dict(batch_size=32, lr=1e-3),
    deepmil=dict(max_epoch=20),
)


def parse_args(argv=None, testing=False):
    """Options of xd_train.py, or with `testing` of xd_test.py. Raises BadInput for values that make no sense."""
    return parse("xd", DEFAULTS, SYSTEMS, SAMPLE, argv, __doc__, testing)
