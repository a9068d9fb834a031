"""Your own data set: the hyperparameters of ReFLIP-VAD and of the other systems, for you to edit.

    python -m tools.new_dataset …                           writes the data set's folder (docs/own-data.md)
    python custom_train.py --data FOLDER                    its lists, ground truth, classes and features
    python custom_train.py --data FOLDER --model vadclip    another system: quorum, trclip, vadclip, dsanet, hlnet, deepmil

Values are those of UCF-Crime. A line that you delete falls back to the default of the code, and the first line printed names it; an
option typed wins over what stands here.
"""

from utils.options import parse

# For every system.
COMMON = dict(
    model="reflip",  # where --model is not typed: reflip quorum vadclip dsanet trclip hlnet deepmil
    data=None,  # a folder with dataset.toml, where --data is not typed
    select="val",  # val last test: which checkpoint is tested
    val_share=0.1,  # of the training videos, held out with select="val"
    precision="fp32",  # fp32 bf16
    device="auto",  # auto cpu cuda mps
    workers=None,  # 0 on a CPU, on a GPU one for each core, up to 8
)

# By --model. Of ReFLIP-VAD every hyperparameter; of the others what UCF-Crime changes (what a paper sets on both datasets stands as
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
        lambda_align=0.01,  # λ1
        lambda_magnitude=0.001,  # λ2
        lambda_text=0.1,  # ours; VadCLIP's value
        normal_top1=True,  # K = 1 for normal bags
        margin=10.0,  # ours; the paper prints none
        magnitude_push=0.001,  # as in MGFN; tried: 1
        max_epoch=50,
        batch_size=128,
        sampling="balanced",
        lr=3e-4,
        optimizer="adam",
        weight_decay=0.0,
        scheduler="cosine",  # ours; none cosine multistep
        milestones=(4, 8),  # of multistep
        grad_clip=1.0,  # ours
        seed=1,
    ),
    # AAAI 2024; what it takes on UCF-Crime.
    vadclip=dict(visual_layers=2, attn_window=8, lr=2e-5, batch_size=128, milestones=(4, 8), lambda_text=0.1),
    # Neural Networks 2026, doi 10.1016/j.neunet.2026.108951; what it takes on UCF-Crime. Captions:
    # --caption-root DIR.
    trclip=dict(visual_layers=2, attn_window=8, lr=7e-5, batch_size=128, milestones=(4, 8), lambda_text=0.1),
    # AAAI 2026; what it takes on UCF-Crime.
    dsanet=dict(
        visual_layers=2,
        attn_window=8,
        lr=7e-5,
        batch_size=128,
        lambda_align=1.1,  # λ
        text_adapt_until=3,  # L, of CLIP's text blocks
        t_w=0.1,  # w
        temp=5.0,  # β
    ),
    # Ours, no paper: docs/new-system.md says what it is made of.
    quorum=dict(),
    # ECCV 2020 (XDVioDet).
    hlnet=dict(),
    # CVPR 2018 (Sultani et al.).
    deepmil=dict(),
)


def parse_args(argv=None, testing=False, model=None):
    """Options of custom_train.py, or with `testing` of custom_test.py. Raises BadInput for values that make no sense."""
    return parse(None, COMMON, SYSTEMS, {}, argv, __doc__, testing, model)
