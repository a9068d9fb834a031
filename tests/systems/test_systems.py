"""Every system by its name, through the scripts; another one as docs/new-system.md shows it; checkpoints that authors released."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

import ucf_test
import ucf_train
import xd_test
from benchmarks import UCF
from model import SYSTEMS, build_model, options_of
from utils import checkpoint
from utils.errors import BadInput
from utils.files import ROOT


@pytest.mark.parametrize("name", [name for name in SYSTEMS if name != "reflip"])
def test_a_system_trains_and_tests(name, small_sample, tmp_path):
    words = small_sample("ucf", model=name)
    with_text = name not in ("hlnet", "deepmil")
    can_mask = "mask_padding" in options_of(name)
    if not with_text:
        words[words.index("--clip") + 1] = "absent.pt"  # no text encoder is loaded
    ucf_train.main([*words, "--output", str(tmp_path)])
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["model"] == name
    assert report["coarse"]["auc"]["value"] is not None
    assert (report["fine"] is None) == (not with_text)  # absent, not zero
    assert (report["map"] is None) == (not with_text)
    assert (report["online"] is None) == (name != "hlnet")
    assert report["parameters"] > 0
    best = next(tmp_path.glob("seed-*/best.pt"))
    ucf_test.main([*small_sample("ucf", True, name), "--checkpoint", str(best), "--output", str(tmp_path / "again")])
    again = json.loads((tmp_path / "again" / "report.json").read_text())
    assert again["coarse"] == report["coarse"]
    if can_mask and not SYSTEMS[name].whole:
        ucf_test.main(
            ["--checkpoint", str(best), "--mask-padding", "--output", str(tmp_path / "masked")]
        )  # the checkpoint names the system
        moved = json.loads((tmp_path / "masked" / "report.json").read_text())["padding"]["figures"]
        assert moved["coarse"]["auc"]["published"] == report["coarse"]["auc"]["value"]
        assert moved["map"]["official"]["avg"]["published"] == report["map"]["official"]["avg"]["value"]
    elif not can_mask:
        with pytest.raises(BadInput, match=f"--mask-padding: --model {name} has no such option"):
            ucf_test.main(["--checkpoint", str(best), "--mask-padding"])


@pytest.mark.parametrize("name", SYSTEMS)
def test_gradients_reach_every_trained_parameter(name, small_clip, small_distilbert):
    more = {"distilbert": small_distilbert} if name == "reflip" else {}
    model = build_model(name, UCF.names, small_clip, visual_length=32, visual_width=64, prompt_prefix=4, prompt_postfix=4, **more)
    captions = (torch.randn(2, 20, 768),) if name == "trclip" else ()
    out = model(torch.randn(2, 20, 64), torch.tensor([20, 6]), *captions)
    parts = (out.coarse, out.alignment, out.online, *(out.parts or ()))
    sum(part.float().square().sum() for part in parts if part is not None and part.requires_grad).backward()
    unused = {key for key, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert unused <= {"disAdj.sigma"}  # stands in VadCLIP's checkpoints, used nowhere


def test_a_released_checkpoint_of_another_shape_or_without_a_system_is_refused(small_sample, small_clip, tmp_path):
    sizes = {"visual_length": 32, "visual_width": 64, "visual_layers": 2, "attn_window": 8, "prompt_prefix": 2, "prompt_postfix": 2}
    model = build_model("vadclip", UCF.names, small_clip, **sizes)
    released = {f"module.{key}": value for key, value in checkpoint.trained_state(model).items()} | {"clipmodel.x": torch.zeros(1)}
    torch.save(released, tmp_path / "model_ucf.pth")
    words = small_sample("ucf", True, "vadclip")
    words += ["--checkpoint", str(tmp_path / "model_ucf.pth"), "--output", str(tmp_path / "out")]
    with pytest.raises(BadInput, match="name its system with --model"):
        ucf_test.main([word for word in words if word not in ("--model", "vadclip")])
    with pytest.raises(BadInput, match=r"frame_position_embeddings\.weight has shape \(32, 64\), this model's is \(16, 64\)"):
        ucf_test.main([*words, "--visual-length", "16"])
    ucf_test.main([*words, "--mask-padding"])
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["selected_on"] == "released"
    moved = report["padding"]["figures"]["coarse"]["auc"]
    assert moved["masked"] == report["coarse"]["auc"]["value"]
    assert moved["value"] == pytest.approx(moved["masked"] - moved["published"])


@pytest.mark.skipif(not (ROOT.parent / "shared").exists(), reason="../shared is not here")
def test_the_released_hlnet_loads_unchanged(tmp_path):
    """On random features of its 1,152 columns: I3D and audio features of XD-Violence are not at hand."""
    generator = np.random.default_rng(0)
    (tmp_path / "features").mkdir()
    truth, rows = {}, []
    for number, label in enumerate(["A", "B1", "A", "G"]):
        np.save(tmp_path / "features" / f"v{number}.npy", generator.standard_normal((30 + number, 1152)).astype(np.float32))
        segments = [] if label == "A" else [[16, 160, label]]
        truth[f"v{number}"] = {"frames": 16 * (30 + number), "fps": 24, "segments": segments}
        rows.append(f"v{number}.npy,{label}")
    (tmp_path / "test.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    files = ["--feature-root", tmp_path / "features", "--test-list", tmp_path / "test.csv", "--gt-path", tmp_path / "gt.json"]
    file = ROOT.parent / "shared" / "real" / "checkpoints" / "hlnet_xd_wsanodet_mix2.pkl"
    words = ["--model", "hlnet", "--checkpoint", file, *files, "--visual-width", 1152, "--output", tmp_path / "out"]
    xd_test.main([*map(str, words)])
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["selected_on"] == "released"
    assert report["online"]["ap"]["value"] is not None
    assert report["fine"] is None


@pytest.mark.slow
def test_another_system_is_one_file(small_sample, tmp_path):
    """The example of docs/new-system.md, put where it says."""
    document = (ROOT / "docs" / "new-system.md").read_text()
    source = re.search(r"```python\n# utils/systems/linear\.py\n(.*?)```", document, re.DOTALL)[1]
    for item in ("utils", "list", "model.py", "dataset.py", "ucf_option.py", "ucf_train.py"):
        copy = shutil.copytree if (ROOT / item).is_dir() else shutil.copy
        copy(ROOT / item, tmp_path / item)
    (tmp_path / "utils" / "systems" / "linear.py").write_text(source)
    words = small_sample("ucf", model="deepmil")
    words[words.index("deepmil")] = "linear"
    done = subprocess.run([sys.executable, "ucf_train.py", *words, "--output", "run"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "report.json").read_text())["model"] == "linear"
