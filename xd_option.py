"""XD-Violence: the hyperparameters of ReFLIP-VAD (TCSVT 2024, doi 10.1109/TCSVT.2024.3482007) and of the other systems, for you to edit.

    python xd_train.py                          the built-in sample, about two minutes on 2 cores
    python xd_train.py --feature-root DIR       your CLIP features, the official lists
    python xd_train.py --model vadclip          another system: quorum, trclip, vadclip, dsanet, hlnet, deepmil

Reported in the paper (best epoch on the test set): frame AP 85.81 with CLIP features; 86.29 and AVG mAP 27.36 with FLIP's.
A line that you delete falls back to the default of the code, and the first line printed names it; an option typed wins over what
stands here.
"""

from utils.options import parse

# For every system.
COMMON = dict(
    model="reflip",  # where --model is not typed: reflip quorum vadclip dsanet trclip hlnet deepmil
    feature_root=None,  # your features; None: the built-in sample
    test_crop=0,  # 0 = centre
    select="val",  # val last test: which checkpoint is tested
    val_share=0.1,  # of the training videos, held out with select="val"
    precision="fp32",  # fp32 bf16
    device="auto",  # auto cpu cuda mps
    workers=None,  # 0 on a CPU, on a GPU one for each core, up to 8
)

# By --model. Of ReFLIP-VAD every hyperparameter; of the others what this dataset changes (what a paper sets on both datasets stands as
# `defaults` at the end of its file in utils/systems/).
SYSTEMS = dict(
    reflip=dict(
        visual_length=512,  # tried: 64 128 256 512 1024
        visual_width=512,  # CLIP ViT-B/16
        feature_scale=1.0,
        temporal="ge",  # tried: none global local gcn local+global global+gcn local+gcn eg ee ge-fusion ge
        visual_layers=1,
        visual_head=1,
        attn_window=64,  # of the local transformer
        window_length=64,  # tried: 16 32 64 128 256
        ge_skip=True,  # ours
        channel_attention="residual",  # of Emphasize, eq. 7: residual (ours) plain (as printed) mean (ours)
        stage_norm=True,  # MGFN's LayerNorms
        shortcut_conv=True,  # MGFN's convolution at the start of every block
        blocks="both",  # tried: both cls vta
        v_prompt=True,  # tried: True False
        prompt="reparameterized",  # tried: class template learnable reparameterized
        template="a video of",  # tried: "a video of" "a long video of"
        prompt_prefix=12,  # tried: N = 8 16 20 24 32, N = prefix + postfix
        prompt_postfix=12,
        text_projection=None,  # ours; None: where the text side is of another width than the features; True False
        clip="ViT-B/16",
        distilbert="distilbert-base-uncased",
        temperature=0.07,  # tried: 0.01 0.03 0.05 0.07 0.09 0.1
        dropout=0.0,
        lambda_align=1e-4,  # λ1
        lambda_magnitude=1e-4,  # λ2
        lambda_text=1e-4,  # ours; VadCLIP's value
        normal_top1=True,  # K = 1 for normal bags
        margin=10.0,  # ours; the paper prints none
        magnitude_push=0.001,  # as in MGFN; tried: 1
        max_epoch=50,
        batch_size=128,
        sampling="balanced",
        lr=5e-4,
        optimizer="adam",
        weight_decay=0.0,
        scheduler="cosine",  # ours; none cosine multistep
        milestones=(4, 8),  # of multistep
        grad_clip=1.0,  # ours
        seed=1,
    ),
    # AAAI 2024; reported: frame AP 84.51 (fine score, best epoch on the test set, crop 0), AVG mAP 24.70.
    vadclip=dict(visual_layers=1, attn_window=64, lr=1e-5, batch_size=96, sampling="shuffle", milestones=(3, 6, 10), lambda_text=1e-4),
    # Neural Networks 2026, doi 10.1016/j.neunet.2026.108951; reported: frame AP 86.38 (coarse score, best on the test set). Captions:
    # --caption-root DIR.
    trclip=dict(visual_layers=1, attn_window=64, lr=5e-6, batch_size=96, sampling="shuffle", milestones=(3, 6, 10), lambda_text=1e-4),
    # AAAI 2026; reported: frame AP 86.95 (coarse score, best epoch on the test set, crop 0), AVG mAP 28.87.
    dsanet=dict(
        visual_layers=1,
        attn_window=64,
        lr=1e-5,
        batch_size=96,
        sampling="shuffle",
        lambda_align=5.0,  # λ
        text_adapt_until=1,  # L, of CLIP's text blocks
        t_w=0.6,  # w
        temp=1.0,  # β
    ),
    # Ours, no paper: docs/new-system.md says what it is made of.
    quorum=dict(),
    # ECCV 2020 (XDVioDet); reported: frame AP 78.64 on I3D and audio.
    hlnet=dict(),
    # CVPR 2018 (Sultani et al.).
    deepmil=dict(),
)

# The built-in sample is small, with 64 columns instead of 512: what stands here overrules the above, and the first lines printed say so.
# Settings of one system stand under its name.
SAMPLE = dict(
    visual_width=64,
    max_epoch=5,
    reflip=dict(visual_length=256, batch_size=64, lr=1e-3),
    vadclip=dict(batch_size=64, lr=1e-3),
    dsanet=dict(visual_length=128, batch_size=64, lr=1e-3),
    trclip=dict(visual_length=128, batch_size=64, lr=1e-3, caption_width=64, caption_scale=10, d_state=4),
    quorum=dict(batch_size=64),
    hlnet=dict(batch_size=32, lr=1e-3),
    deepmil=dict(max_epoch=20),
)


def parse_args(argv=None, testing=False, model=None):
    """Options of xd_train.py, or with `testing` of xd_test.py. Raises BadInput for values that make no sense."""
    return parse("list/xd.toml", COMMON, SYSTEMS, SAMPLE, argv, __doc__, testing, model)
