"""Text features of another width or space than the features: brought there by a trained map, in every system that has text."""

import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import xd_test
import xd_train
from benchmarks import XD
from model import build_model
from utils.checkpoint import trained_state
from utils.errors import BadInput
from utils.prompt import projection_note, projects
from utils.text import load_sentence_text


def build(name, text, width, **more):
    torch.manual_seed(0)
    return build_model(name, XD.names, text, visual_length=16, visual_width=width, prompt_prefix=2, prompt_postfix=2, **more)


def cosines(rows):
    rows = F.normalize(rows, dim=-1)
    return rows @ rows.T


@pytest.mark.parametrize(("name", "more"), [("reflip", {"prompt": "class"}), ("reflip", {"prompt": "learnable"}), ("vadclip", {})])
def test_a_projection_starts_as_a_rotation_and_is_trained(small_clip, name, more):
    plain = build(name, small_clip, 64, **more)
    assert not projects(plain)
    assert projection_note(plain) is None
    text = plain.text_features()
    for width, asked in ((96, None), (64, True)):
        model = build(name, small_clip, width, text_projection=asked, **more)
        assert projection_note(model) == f"text side: a trained map (ours) brings 64 columns to the features' {width}"
        found = model.text_features()
        assert found.shape == (7, width)
        assert torch.allclose(found.norm(dim=-1), text.norm(dim=-1), rtol=1e-4)
        assert torch.allclose(cosines(found), cosines(text), atol=1e-4)
        out = model(torch.randn(2, 9, width), torch.tensor([9, 4]))
        out.alignment.square().sum().backward()
        trained = {key for key, p in model.named_parameters() if "projection." in key and p.grad is not None}
        assert len(trained) == 2
        assert trained == trained_state(model).keys() - trained_state(plain).keys()  # no other name moves
    narrow = build(name, small_clip, 48, **more).text_features()
    assert 0.7 < (narrow.norm(dim=-1) / text.norm(dim=-1)).mean() < 1.4
    with pytest.raises(BadInput, match=r"--no-text-projection: the text side gives 64 columns, the features have 48 \(--visual-width\)"):
        build(name, small_clip, 48, text_projection=False, **more)


def test_trclip_has_a_map_of_its_own(small_clip):
    model = build("trclip", small_clip, 32, branches="visual")
    assert projects(model)
    assert projection_note(model) is None
    assert model.text_features().shape == (7, 32)


def test_a_sentence_encoder_for_features_of_any_width(minilm, small_distilbert):
    text = load_sentence_text(minilm)
    for width in (400, 1280):
        for name, more in (("reflip", {"distilbert": small_distilbert}), ("vadclip", {})):
            out = build(name, text, width, **more)(torch.randn(1, 4, width), torch.tensor([4]))
            assert out.alignment.shape == (1, 4, 7)
            assert torch.allclose(out.text.norm(dim=-1), torch.ones(7), atol=1e-4)  # as MiniLM's own
    assert not projects(build("reflip", text, 384, distilbert=small_distilbert))  # widths agree: off unless asked


@pytest.mark.parametrize("name", ["reflip", *(pytest.param(name, marks=pytest.mark.slow) for name in ("vadclip", "dsanet", "trclip"))])
def test_class_features_of_another_width_train_and_test(name, small_sample, tmp_path, capsys):
    np.save(tmp_path / "text.npy", np.random.default_rng(0).standard_normal((7, 40)).astype(np.float32))
    words = ["--text-features", str(tmp_path / "text.npy")]
    xd_train.main([*small_sample("xd", model=name), *words, "--max-epoch", "1", "--output", str(tmp_path / "run")])
    said = capsys.readouterr().out
    assert ("a trained map (ours) brings 40 columns to the features' 64" in said) == (name != "trclip")
    assert said.count(f"note: not used by --model {name} as it is set here: --clip, --distilbert\n") == 1  # where features are given
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["fine"]["auc"]["value"] is not None
    best = ["--checkpoint", str(next((tmp_path / "run").glob("seed-*/best.pt"))), "--output", str(tmp_path / "again")]
    xd_test.main([*small_sample("xd", True, name), *words, *best])
    again = json.loads((tmp_path / "again" / "report.json").read_text())
    assert again["fine"] == report["fine"]
    refused = "--model trclip has no such option" if name == "trclip" else "the text side gives 40 columns, the features have 64"
    with pytest.raises(BadInput, match=f"--no-text-projection: {refused}".replace("no-", "(no-)?")):
        xd_train.main([*small_sample("xd", model=name), *words, "--no-text-projection", "--output", str(tmp_path / "other")])
