"""What a training takes of another one's checkpoint (--init), and which parts of it stay as they are (--freeze)."""

import json
import re
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

import custom_test
import ucf_test
import ucf_train
import xd_test
import xd_train
from benchmarks import UCF, XD
from model import build_model
from utils import checkpoint, engine, loading, restore
from utils.errors import BadInput
from utils.evaluation.scores import load_scores


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


def test_held_out_videos_that_the_checkpoint_saw_are_told(earlier, small_sample, tmp_path, capsys):
    words = [*small_sample("ucf"), "--max-epoch", "1", "--val-share", "0.4", "--output", str(tmp_path / "run")]
    ucf_train.main([*words, "--select", "val", "--init", str(earlier)])
    held_out = len(json.loads((tmp_path / "run" / "seed-1" / "options.json").read_text())["held_out"])
    assert held_out > 0
    assert f"note: --init was trained on {held_out} of the {held_out} videos held out here: " in capsys.readouterr().out


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
    assert f"init: {tmp_path / 'copy.pt'} (reflip, UCF-Crime's 14 classes): {len(init['taken'])} of {len(after)} weights taken" in said
    assert re.search(r"init: not taken: .*prompt\.reparameterization\.\S+ \(only in the file\)", said)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["init"] == {key: init[key] for key in ("path", "taken", "left")}
    assert "training began from" in (tmp_path / "run" / "report.md").read_text()
    for name in ("best.pt", "last.pt"):
        assert set(before["trained_on"]) < set(checkpoint.load(tmp_path / "run" / "seed-1" / name)["trained_on"])
    (tmp_path / "copy.pt").unlink()
    resume = ["--resume", "--output", str(tmp_path / "run")]
    xd_train.main(resume)
    assert checkpoint.load(tmp_path / "run" / "seed-1" / "best.pt")["init"] == init
    with pytest.raises(BadInput, match=r"was begun from .*copy\.pt, found --init .*; leave it out"):
        xd_train.main([*resume, "--init", str(earlier)])
    with pytest.raises(BadInput, match="is of the run that --overwrite replaces"):
        train(words, "--overwrite", "--init", tmp_path / "run" / "seed-1" / "best.pt")


def test_class_features_and_prompts_of_another_encoder_are_not_taken(small_clip, small_distilbert, tmp_path, capsys):
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
    torch.save({f"module.{key}": value for key, value in checkpoint.trained_state(model).items()}, tmp_path / "released.pth")
    init = restore.start_from(model, Namespace(init=str(tmp_path / "released.pth")))
    assert (init["left"], init["trained_on"]) == ({}, [])
    assert f"init: {tmp_path / 'released.pth'} (a released state dict): {len(init['taken'])} of" in capsys.readouterr().out


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


@pytest.fixture
def own_data(small_sample, tmp_path):
    """own_data(labels, words) -> a folder with the small sample of XD-Violence as a data set of its own, its classes called `words`."""

    def write(labels, words):
        typed = small_sample("xd")
        files = {"test_list": "--test-list", "ground_truth": "--gt-path", "feature_root": "--feature-root"}
        lines = [f'{name} = "{typed[typed.index(option) + 1]}"' for name, option in files.items()]
        lines = ['title = "Our Cameras"', "fps = 24", 'separator = "-"', 'placeholder = "0"', *lines, "[classes]"]
        (tmp_path / "own").mkdir(exist_ok=True)
        (tmp_path / "own/dataset.toml").write_text("\n".join([*lines, *(f'{a} = "{b}"' for a, b in zip(labels, words, strict=True))]))
        return ["--data", str(tmp_path / "own")]

    return write


WORDS = ("normal", "people fighting", "a shot", "a riot", "abuse", "a crash", "smoke")


def test_a_checkpoint_is_tested_on_other_classes(earlier, own_data, small_sample, capsys):
    custom_test.main([*own_data(XD.labels, WORDS), "--checkpoint", str(earlier)])
    said, folder = capsys.readouterr().out, earlier.parent / "test-our-cameras"
    report = json.loads((folder / "report.json").read_text())
    for text in (said, (folder / "report.md").read_text()):
        assert "trained on UCF-Crime's 14 classes, tested on Our Cameras's 7" in text
        assert "paper (" not in text
    assert (report["trained_for"]["classes"], report["videos"]) == (list(UCF.names), 16)
    assert list(report["per_class"]["fine"]) == list(WORDS[1:])
    scores, classes = load_scores(folder / "scores.npz")
    assert tuple(classes) == WORDS
    saved = checkpoint.load(earlier)
    model = loading.load_model(restore.saved_options(saved, earlier), 1, WORDS).eval()  # its prompts round the new words
    checkpoint.load_trained_state(model, saved["weights"], earlier)
    name = next(iter(scores))
    words = small_sample("xd")
    [file] = Path(words[words.index("--feature-root") + 1]).rglob(f"{name}__0.npy")
    features = torch.from_numpy(np.load(file)[:32]).float()
    fine = model(features[None], torch.tensor([len(features)])).alignment[0].softmax(-1).detach()
    assert np.allclose(fine, scores[name].fine[:32], atol=1e-4)
    told = "trained on ucf with 14 classes, expected xd with 7; use ucf_test.py, or, for these classes, custom_test.py --data xd"
    with pytest.raises(BadInput, match=re.escape(told)):
        xd_test.main(["--checkpoint", str(earlier)])


def test_class_text_features_are_those_of_the_tested_classes(own_data, small_sample, tmp_path):
    rows = np.random.default_rng(0).standard_normal((14, 64)).astype(np.float32)
    for name, part in (("ucf", rows), ("other", rows + 1), ("own", rows[:7])):
        np.save(tmp_path / f"{name}.npy", part)

    def given(name):
        return ["--text-features", str(tmp_path / f"{name}.npy")]

    words = [*small_sample("ucf"), *given("ucf"), "--select", "last", "--max-epoch", "1", "--output", str(tmp_path / "run")]
    ucf_train.main(words)
    path = ["--checkpoint", str(tmp_path / "run/seed-1/best.pt"), "--output", str(tmp_path / "tested")]
    with pytest.raises(BadInput, match="trained with other class text features; give those that it was trained with"):
        ucf_test.main([*small_sample("ucf", True), *path, *given("other")])
    own = own_data(XD.labels, WORDS)
    with pytest.raises(BadInput, match=r"--text-features: shape \(14, 64\), expected 7 rows, one per class"):
        custom_test.main([*own, *path])
    custom_test.main([*own, *path, *given("own")])
    assert json.loads((tmp_path / "tested/report.json").read_text())["fine"]["auc"]["value"] is not None
    labels = [*XD.labels, *(f"x{number}" for number in range(7))]  # as many as UCF-Crime has, but others
    with pytest.raises(BadInput, match="its class text features are for its own 14 classes, not for the 14 of Our Cameras; give some for"):
        custom_test.main([*own_data(labels, [*WORDS, *labels[7:]]), *path])


def test_a_weight_that_is_made_for_its_classes_is_named(tmp_path):
    saved = {"dataset": "ucf", "classes": list(UCF.names), "encoders": {}, "weights": torch.nn.Linear(3, 14).state_dict()}
    with pytest.raises(BadInput, match=r"bias is for its own 14 classes, not for the 7 of XD-Violence; train anew, .*--init x\.pt"):
        restore.weights_for(saved, torch.nn.Linear(3, 7), "x.pt", None, XD)
