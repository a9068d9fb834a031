"""TrCLIP-VAD: the released code's values, its parts switched off, padding; the released code's defects, each with a test."""

import json
import subprocess
import sys
from argparse import Namespace

import numpy as np
import pytest
import torch

import ucf_test
import xd_option
from benchmarks import UCF, XD
from dataset import Video
from golden import difference, golden, needs_golden
from model import SYSTEMS, build_model
from utils import checkpoint, engine, training
from utils.errors import BadInput
from utils.evaluation.ground_truth import GroundTruth
from utils.evaluation.scores import Scores, load_scores
from utils.files import ROOT
from utils.labels import multi_hot
from utils.systems.trclip import MTN, NonLocal

SETTINGS = {"ucf": (2, 8), "xd": (1, 16)}  # layers, window


def build(key, class_names, clip_model, **more):
    layers, window = SETTINGS[key]
    sizes = {"visual_length": 32, "visual_width": 64, "visual_layers": layers, "visual_head": 1, "attn_window": window}
    sizes |= {"prompt_prefix": 10, "prompt_postfix": 10, "caption_width": 96, "d_state": 16}
    return build_model("trclip", list(class_names), clip_model, **sizes | more).eval()


def inputs(batch=2, snippets=20):
    torch.manual_seed(1)
    return torch.randn(batch, snippets, 64), torch.randn(batch, snippets, 96)


@needs_golden
@pytest.mark.parametrize("key", ["ucf", "xd"])
def test_released_outputs(key):
    values, weights, clip_model = golden("trclip", key)
    model = build(key, values["prompts"], clip_model)
    model.load_state_dict(weights)
    visual, caption, lengths = (torch.from_numpy(values[name]) for name in ("visual", "caption", "lengths"))
    out = model(visual, lengths, caption)
    assert difference(out.text, values["text_features"]) < 1e-5
    assert difference(out.visual[..., :64], values["visual_features"]) < 1e-5
    assert difference(out.visual[..., 64:], values["caption_features"]) < 1e-5
    assert difference(out.coarse_logits, values["logits_coarse"][..., 0]) < 1e-5
    assert difference(out.alignment, values["logits_fine"]) < 1e-5
    longest = int(lengths.max())  # a batch that is cut to its longest video is filled up again
    cut = model(visual[:, :longest], lengths, caption[:, :longest])
    assert difference(cut.alignment, values["logits_fine"][:, :longest]) < 1e-5


@needs_golden
def test_the_authors_files_through_the_test_script(tmp_path):
    """`ucf_test.py --model trclip --checkpoint model_ucf.pth`, captions named as theirs, gives the released code's scores."""
    values, weights, clip_model = golden("trclip", "ucf")
    torch.save(weights, tmp_path / "model_ucf.pth")
    torch.save(clip_model.state_dict(), tmp_path / "clip.pt")
    rows, truth = ["path,label"], {}
    for folder in ("features", "captions"):
        (tmp_path / folder).mkdir()
    for number, length in enumerate(values["lengths"].tolist()):
        np.save(tmp_path / "features" / f"v{number}.npy", values["visual"][number, :length])
        np.save(tmp_path / "captions" / f"v{number}_emb_0.npy", values["caption"][number, :length])
        label = "Abuse" if number % 2 else "Normal"
        rows.append(f"v{number}.npy,{label}")
        truth[f"v{number}"] = {"frames": 16 * length, "fps": 30, "segments": [[0, 8, label]] if number % 2 else []}
    (tmp_path / "test.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    files = {"checkpoint": "model_ucf.pth", "feature-root": "features", "caption-root": "captions", "test-list": "test.csv"}
    files |= {"gt-path": "gt.json", "clip": "clip.pt", "output": "out"}
    paths = [word for option, file in files.items() for word in (f"--{option}", str(tmp_path / file))]
    sizes = "--model trclip --visual-width 64 --caption-width 96 --visual-length 32 --d-state 16 --device cpu"
    ucf_test.main([*paths, *sizes.split()])
    scores, _ = load_scores(tmp_path / "out" / "scores.npz")
    for number, length in enumerate(values["lengths"].tolist()):
        expected = 1 / (1 + np.exp(-values["logits_coarse"][number, :length, 0]))
        assert np.abs(scores[f"v{number}"].coarse - expected).max() < 1e-5


@needs_golden
def test_an_authors_checkpoint_loads_whole_or_not_at_all():
    """The released code loads with strict=False, so that a key that is missing or misnamed leaves random weights behind."""
    values, weights, clip_model = golden("trclip", "ucf")
    model = build("ucf", values["prompts"], clip_model)
    checkpoint.load_trained_state(model, weights, "model_ucf.pth")
    for name, value in checkpoint.trained_state(model).items():
        assert torch.equal(value, weights[name]), name
    cases = [
        ({key: value for key, value in weights.items() if key != "mamba.mamba3.A_log"}, r"lacks key 'mamba\.mamba3\.A_log'"),
        ({**weights, "mamba9.D": torch.zeros(1)}, r"unknown key 'mamba9\.D'"),
        ({**weights, "word_linear.bias": torch.zeros(3)}, r"word_linear\.bias has shape \(3,\), this model's is \(160,\)"),
    ]
    for state, message in cases:
        with pytest.raises(BadInput, match=message):
            checkpoint.load_trained_state(model, state, "model_ucf.pth")


def test_importing_the_model_reads_no_command_line(tmp_path):
    """The released model.py parses the UCF options when it is imported, XD's training included."""
    code = "import model; print(sorted(model.SYSTEMS))"
    done = subprocess.run([sys.executable, "-c", code, "--no-such-option", "7"], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == f"{sorted(SYSTEMS)}\n", done.stderr


def test_runs_without_mamba_ssm_and_without_a_gpu():
    """The released code needs mamba_ssm, which needs CUDA."""
    code = (
        "import sys; sys.modules['mamba_ssm'] = None; import torch, model;"
        "m = model.build_model('trclip', ['normal', 'riot'], torch.zeros(2, 8), visual_width=8, caption_width=8, d_state=2);"
        "print(m(torch.randn(1, 3, 8), torch.tensor([3]), torch.randn(1, 3, 8)).coarse.shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "torch.Size([1, 3])\n", done.stderr


def test_no_default_is_a_path_of_somebody_elses_computer():
    options = xd_option.parse_args(["--model", "trclip", "--feature-root", "DIR", "--caption-root", "CAPTIONS"])
    for name, value in vars(options).items():
        assert not (isinstance(value, str) and value.startswith("/")) or value.startswith(str(ROOT)), name


@pytest.mark.parametrize(("model", "part"), [("trclip", "coarse"), ("vadclip", "fine"), ("reflip", "fine"), ("hlnet", "coarse")])
def test_each_system_is_selected_on_the_figure_that_its_paper_reports(monkeypatch, model, part):
    """On XD-Violence TrCLIP-VAD's authors take the coarse AP, VadCLIP's and ReFLIP-VAD's the fine one."""
    truth = {"riot": GroundTruth(32, 24, ((0, 32, "B4"),)), "calm": GroundTruth(32, 24, ())}
    videos = [Video(name, label, tuple(multi_hot(label, XD)), (), None) for name, label in (("riot", "B4"), ("calm", "A"))]
    scores = {name: Scores(np.full(2, 0.5), np.full((2, 7), 1 / 7)) for name in truth}
    monkeypatch.setattr(engine, "score", lambda *_: scores)
    data = Namespace(dataset=XD, test=videos, truth=truth, captions=None, held_out=videos)
    for select, name in (("test", "AP"), ("val", "AP by video")):
        figure = training.selection_figure(data, Namespace(select=select, model=model))
        assert figure(None).name == f"{part} {name}"


def test_padding_as_published_and_masked(small_clip):
    """Published: how far a batch is filled up changes nothing, since the model fills up to its own length; but the zeros count. Masked:
    they do not, in training neither.
    """
    lengths = torch.tensor([20, 5])
    spoiled = tuple(part.clone() for part in inputs())
    for part in spoiled:
        part[1, 5:] = torch.nan
    alone = tuple(part[1:, :5] for part in spoiled)
    longer = tuple(torch.cat([part, torch.zeros(1, 27, part.shape[2])], 1) for part in alone)
    for mask_padding in (False, True):
        model = build("xd", XD.names, small_clip, mask_padding=mask_padding, text_stack="mamba", dropout=0.0)
        with torch.no_grad():
            model.classifier.weight.mul_(20)  # else all scores lie near one half
        both, one = model(spoiled[0], lengths, spoiled[1]), model(alone[0], lengths[1:], alone[1])
        assert torch.allclose(both.coarse[1, :5], one.coarse[0], atol=1e-5)
        assert torch.allclose(both.alignment[1, :5], one.alignment[0], atol=1e-4)
        shorter = build("xd", XD.names, small_clip, mask_padding=mask_padding, text_stack="mamba", visual_length=24)
        state = {key: value[:24] if key == "frame_position_embeddings.weight" else value for key, value in model.state_dict().items()}
        shorter.load_state_dict(state)
        assert torch.allclose(shorter(alone[0], lengths[1:], alone[1]).coarse, one.coarse, atol=1e-5) == mask_padding
        as_valid = model(longer[0], torch.tensor([32]), longer[1])
        assert not torch.allclose(as_valid.coarse[0, :5], one.coarse[0], atol=1e-5)
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    # Batch statistics are of valid snippets: as if there were no padding at all.
    full = tuple(part[:1] for part in inputs())
    filled = tuple(torch.cat([part, torch.full((1, 9, part.shape[2]), torch.nan)], 1) for part in full)
    assert torch.allclose(model(full[0], lengths[:1], full[1]).coarse, model(filled[0], lengths[:1], filled[1]).coarse[:, :20], atol=1e-5)


@pytest.mark.parametrize("branches", ["visual", "text", "both"])
@pytest.mark.parametrize("stack", ["mamba", "none"])
@pytest.mark.parametrize("mtn", [True, False])
def test_parts_switched_off_do_not_exist(branches, stack, mtn, small_clip):
    """What is off has no parameter, what is on has and learns, and an absent branch's input is not looked at."""
    model = build("ucf", UCF.names, small_clip, branches=branches, stack=stack, text_stack=stack, mtn=mtn).train()
    features, captions = inputs()
    used = (features if branches != "text" else torch.full_like(features, torch.nan), torch.tensor([20, 6]))
    used += (captions if branches != "visual" else torch.full_like(captions, torch.nan),)
    out = model(*used)
    assert out.visual.shape == (2, 20, {"visual": 64, "text": 96, "both": 160}[branches])
    labels = torch.eye(14)[[0, 3]]
    sum(SYSTEMS["trclip"].losses(out, labels, used[1], Namespace(lambda_align=1, lambda_text=0.1)).values()).backward()
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    assert all(model.get_parameter(name).grad.isfinite().all() for name in names)
    there = {name.split(".")[0] for name in names}
    assert ("gc1" in there) == ("temporal" in there) == (branches != "text")
    assert ("mamba" in there) == (branches != "text" and stack != "none")
    assert ("mamba_text" in there) == (branches != "visual" and stack != "none")
    assert ("Aggregate" in there) == (branches != "text" and mtn)
    assert ("Aggregate_text" in there) == (branches != "visual" and mtn)
    assert any("A_log" in name for name in names) == (stack == "mamba")


def test_a_missing_input_is_named(small_clip):
    features, _ = inputs()
    with pytest.raises(ValueError, match="no captions; branches 'both' expects features and captions"):
        build("ucf", UCF.names, small_clip)(features, torch.tensor([20, 20]))
    with pytest.raises(ValueError, match="no captions; branches 'text' expects captions"):
        build("ucf", UCF.names, small_clip, branches="text")(features, torch.tensor([20, 20]))
    with pytest.raises(BadInput, match="a branch is 60 wide, expected a multiple of 8"):
        build("ucf", UCF.names, small_clip, caption_width=60)


def test_non_local_by_its_definition():
    """θ(x)ᵀφ(x) / T as a T × T matrix, as RTFM has it; with a mask T is the number of valid snippets."""
    torch.manual_seed(0)
    block, x = NonLocal(8).eval(), torch.randn(2, 8, 10)
    torch.nn.init.normal_(block.W[1].weight)
    for mask in (None, torch.arange(10) < torch.tensor([[10], [4]])):
        for row in range(2):
            valid = 10 if mask is None else int(mask[row].sum())
            part = x[row : row + 1, :, :valid]
            matrix = block.theta(part).transpose(1, 2) @ block.phi(part) / valid
            expected = part + block.W((matrix @ block.g(part).transpose(1, 2)).transpose(1, 2))
            assert torch.allclose(block(x, mask)[row, :, :valid], expected[0], atol=1e-5)
    fresh = NonLocal(8).train()
    assert torch.equal(fresh(x, None), x)  # its last normalisation starts at zero


def test_mtn_sees_as_far_as_its_scales():
    """Dilation 4 and a three-wide convolution behind it: five snippets to either side, and everything through the non-local block."""
    torch.manual_seed(0)
    mtn, x = MTN(16).eval(), torch.randn(1, 40, 16)
    changed = x.clone()
    changed[:, 20] += 1
    moved = (mtn(x) - mtn(changed)).abs().amax(-1)[0] > 1e-7
    assert moved.nonzero().flatten().tolist() == list(range(15, 26))
    torch.nn.init.ones_(mtn.non_local.W[1].weight)
    assert ((mtn(x) - mtn(changed)).abs().amax(-1)[0] > 1e-9).all()


def test_no_weight_decay_on_mamba_states(small_clip):
    model = build("ucf", UCF.names, small_clip)
    options = Namespace(lr=1e-3, weight_decay=0.01, optimizer="adamw")
    groups = engine.make_optimizer(model, options).param_groups
    assert [group["weight_decay"] for group in groups] == [0.01, 0.0]
    free = {name for name, p in model.named_parameters() if any(p is q for q in groups[1]["params"])}
    assert free == {f"mamba.mamba{i}.{name}" for i in (1, 2, 3, 4) for name in ("A_log", "D")}
    assert sum(len(group["params"]) for group in groups) == sum(p.requires_grad for p in model.parameters())
