"""What a training takes of another one's checkpoint (--init), and which parts of it stay as they are (--freeze)."""

import json
import re

import numpy as np
import pytest
import torch

import ucf_train
import xd_train
from benchmarks import XD
from model import build_model
from utils import checkpoint, engine
from utils.errors import BadInput


@pytest.fixture(scope="module")
def earlier(small_sample, tmp_path_factory):
    """best.pt of ReFLIP-VAD on UCF-Crime's sample."""
    folder = tmp_path_factory.mktemp("run") / "ucf"
    ucf_train.main([*small_sample("ucf"), "--select", "last", "--output", str(folder)])
    return folder / "seed-1" / "best.pt"


def train(words, *more):
    xd_train.main([*words, "--select", "last", "--max-epoch", "1", *map(str, more)])


def weights(folder, name="best.pt"):
    return checkpoint.load(folder / "seed-1" / name)["weights"]


def test_a_training_starts_from_the_weights_that_fit(earlier, small_sample, tmp_path, capsys):
    """Of other classes and of another prompt; the run remembers where it began, whatever becomes of the file."""
    words = [*small_sample("xd"), "--prompt", "learnable", "--output", str(tmp_path / "run"), "--lr", "1e-12"]
    (tmp_path / "copy.pt").write_bytes(earlier.read_bytes())
    train(words, "--init", tmp_path / "copy.pt", "--val-share", "0.4")
    said = capsys.readouterr().out
    before, after = checkpoint.load(earlier), weights(tmp_path / "run")
    init = checkpoint.load(tmp_path / "run" / "seed-1" / "best.pt")["init"]
    assert {*init["taken"], *init["left"]} == after.keys()
    assert {key for key in after if key.startswith("temporal.")} <= set(init["taken"])
    moved = {key for key in init["taken"] if not torch.allclose(after[key].float(), before["weights"][key].float(), atol=1e-6)}
    assert all("running_" in key or "num_batches" in key for key in moved)  # batch statistics go on
    assert f"init: {tmp_path / 'copy.pt'} (reflip, ucf, 14 classes): {len(init['taken'])} of {len(after)} weights taken" in said
    assert re.search(r"init: not taken: .*prompt\.reparameterization\.\S+ \(only in the file\)", said)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["init"] == {key: init[key] for key in ("path", "taken", "left")}
    assert "training began from" in (tmp_path / "run" / "report.md").read_text()
    assert set(before["trained_on"]) < set(checkpoint.load(tmp_path / "run" / "seed-1" / "best.pt")["trained_on"])
    (tmp_path / "copy.pt").unlink()
    resume = ["--resume", "--output", str(tmp_path / "run")]
    xd_train.main(resume)
    assert checkpoint.load(tmp_path / "run" / "seed-1" / "best.pt")["init"] == init
    with pytest.raises(BadInput, match=r"was begun from .*copy\.pt, found --init .*; leave it out"):
        xd_train.main([*resume, "--init", str(earlier)])
    with pytest.raises(BadInput, match="is of the run that --overwrite replaces"):
        train(words, "--overwrite", "--init", tmp_path / "run" / "seed-1" / "best.pt")


def test_class_features_and_prompts_of_another_encoder_are_not_taken(small_clip, small_distilbert, earlier):
    sizes = {"visual_length": 32, "visual_width": 64, "prompt_prefix": 2, "prompt_postfix": 2}
    model = build_model("reflip", XD.names, torch.randn(7, 64), **sizes)
    own = model.prompt.features.clone()
    state = checkpoint.trained_state(model) | {"prompt.features": torch.zeros(7, 64)}  # as many classes, but others
    taken, left = checkpoint.take_fitting(model, state, "x.pt")
    assert left == {"prompt.features": "of the classes"}
    assert torch.equal(model.prompt.features, own)
    model = build_model("reflip", XD.names, small_clip, distilbert=small_distilbert, **sizes)
    taken, left = checkpoint.take_fitting(model, checkpoint.trained_state(model), "x.pt", ("prompt.",))
    assert {*left.values()} == {"of another frozen encoder"}
    assert not any(key.startswith("prompt.") for key in taken)


def test_an_init_that_does_not_fit_is_one_line(earlier, small_sample, tmp_path):
    cut, alien, small = tmp_path / "cut.pt", tmp_path / "alien.pth", tmp_path / "small.pth"
    cut.write_bytes(earlier.read_bytes()[:3000])
    torch.save({"layer.weight": torch.zeros(3)}, alien)
    state = checkpoint.load(earlier)["weights"]
    torch.save({key: value[..., :3].clone() if value.dim() else value for key, value in state.items()}, small)
    spoiled, narrow = tmp_path / "spoiled.pth", tmp_path / "narrow.pt"
    saved = checkpoint.load(earlier)
    torch.save(saved | {"options": saved["options"] | {"visual_width": 32}}, narrow)
    torch.save(state | {"classifier.bias": torch.tensor([np.nan])}, spoiled)
    words = small_sample("xd")
    for more, message in (
        (["--init", "absent.pt"], "absent.pt: no such file; name an existing file with --init"),
        (["--init", cut], "not a readable checkpoint"),
        (["--init", alien], "most weights do not fit, .* is not in the file"),
        (["--init", small], r"most weights do not fit, .* is of shape \(.*\), here \(.*\)"),
        (["--init", spoiled], "classifier.bias holds .* not finite"),
        (["--init", narrow], "trained with --visual-width 32, found 64; name one of that width"),
        (["--init", earlier, "--freeze", "temporal,heads"], r"the model has no part 'heads' to train; its parts are temporal, .*prompt"),
        (["--freeze", "temporal,ffn_cls,classifier,prompt,ffn_text"], "leaves nothing to train"),
    ):
        with pytest.raises(BadInput, match=message) as caught:
            train(words, *more, "--output", tmp_path / "run")
        assert "\n" not in str(caught.value)
        assert not list((tmp_path / "run").glob("seed-*"))
    with pytest.raises(BadInput, match="of --model reflip, found --model vadclip"):
        train(small_sample("xd", model="vadclip"), "--init", earlier, "--output", tmp_path / "run")


def test_frozen_parts_stay_as_they_are(earlier, small_sample, tmp_path, capsys, monkeypatch):
    sizes, make = [], engine.make_optimizer

    def counted(*args):
        optimizer = make(*args)
        sizes.append(sum(p.numel() for group in optimizer.param_groups for p in group["params"]))
        return optimizer

    monkeypatch.setattr(engine, "make_optimizer", counted)
    train(small_sample("xd"), "--init", earlier, "--freeze", "temporal, prompt", "--output", tmp_path)
    before, after = checkpoint.load(earlier)["weights"], weights(tmp_path)
    taken = checkpoint.load(tmp_path / "seed-1" / "best.pt")["init"]["taken"]
    frozen = {key for key in taken if key.startswith(("temporal.", "prompt."))}
    assert any("running_mean" in key for key in frozen)
    assert all(torch.equal(after[key], before[key]) for key in frozen)
    assert not torch.equal(after["ffn_cls.c_fc.weight"], before["ffn_cls.c_fc.weight"])
    report = json.loads((tmp_path / "report.json").read_text())
    rest = sum(value.numel() for key, value in after.items() if not key.startswith(("temporal.", "prompt.")))
    assert sizes == [report["parameters"]] == [rest]
    told = float(re.search(r"classifier: ([\d.]+) M trained parameters", capsys.readouterr().out)[1])
    own = sum(value.numel() for key, value in after.items() if key.startswith(("ffn_cls.", "classifier.")))
    assert told == pytest.approx(own / 1e6, abs=0.005)
