"""UCF-Crime: the hyperparameters of ReFLIP-VAD (TCSVT 2024, doi 10.1109/TCSVT.2024.3482007) and of the other systems, for you to edit.

    python ucf_train.py                          the built-in sample, about two minutes on 2 cores
    python ucf_train.py --feature-root DIR       your CLIP features, the official lists
    python ucf_train.py --model vadclip          another system: trclip, vadclip, hlnet, deepmil

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

# What the other systems change, by --model. Settings that their papers have for both datasets are `defaults` in model.py, utils/hlnet.py
# and utils/deepmil.py; what stands here wins over them.
SYSTEMS = dict(
    # AAAI 2024; reported: frame AUC 88.02 (coarse score, best step on the test set, crop 5), AVG mAP 6.68. The authors take 125 steps an
    # epoch and drop what is left; 127 here.
    vadclip=dict(visual_layers=2, attn_window=8, lr=2e-5, batch_size=128, milestones=(4, 8), lambda_text=0.1, test_crop=5),
    # Neural Networks 2026, doi 10.1016/j.neunet.2026.108951; reported: frame AUC 88.59 (coarse score, best on the test set). Captions:
    # --caption-root DIR.
    trclip=dict(visual_layers=2, attn_window=8, lr=7e-5, batch_size=128, milestones=(4, 8), lambda_text=0.1),
    # ECCV 2020 (XDVioDet); reported by ReFLIP-VAD: frame AUC 82.45 on I3D.
    hlnet=dict(),
    # CVPR 2018 (Sultani et al.); reported: frame AUC 75.41 on C3D.
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
    """Options of ucf_train.py, or with `testing` of ucf_test.py. Raises BadInput for values that make no sense."""
    return parse("ucf", DEFAULTS, SYSTEMS, SAMPLE, argv, __doc__, testing)
