"""tools.export: what it writes scores as PyTorch does, or nothing is written; demo.py with it, and what else can be typed."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import demo
import xd_train
from app.detector import Trained
from app.exported import load_exported
from clips import make_video
from model import SYSTEMS
from tools import export
from utils import loading
from utils.errors import BadInput
from utils.files import ROOT
from utils.video.crops import Recipe
from utils.video.encoder import LITE, CLIPEncoder, load_encoder
from xd_option import parse_args

onnxruntime = pytest.importorskip("onnxruntime", reason="pip install -r requirements-app.txt")
LENGTHS = (1, 2, 3, 15, 31, 32, 33, 63, 64, 65, 100, 257, 511, 1000, 1999, 2000)  # chunks have 32 snippets
ALONE = "import sys; sys.modules |= dict.fromkeys(('clip', 'transformers', 'onnx', 'onnxscript')); import demo; demo.main()"


@pytest.fixture(scope="module")
def best(small_sample, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    xd_train.main([*small_sample("xd", model="deepmil"), "--output", str(folder)])
    return next(folder.glob("seed-*/best.pt"))


def test_nan_is_a_difference_wherever_it_stands():
    sound, odd = np.zeros(3), np.array([0, np.nan, 0])
    for parts in ([sound, odd], [odd, sound]):
        with pytest.raises(BadInput, match="differs from PyTorch by nan"):
            export.check("scorer.onnx", [sound, sound], parts)


@pytest.fixture(scope="module")
def exported(best, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "new"
    export.main(["--checkpoint", str(best), "--output", str(folder)])
    return folder


def test_demo_scores_without_clip_and_transformers(best, exported, tmp_path):
    video = str(make_video(tmp_path / "a.mp4", frames=100, picture=lambda i: np.full((48, 64, 3), 37 * (i // 16), np.uint8)))
    words = [video, "--threshold", "0.5", "--no-video", "--device", "cpu", "--output"]
    alone = [sys.executable, "-c", ALONE, *words, str(tmp_path / "onnx"), "--runtime", "onnx", "--checkpoint", str(exported)]
    done = subprocess.run(alone, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    demo.main([*words, str(tmp_path / "torch"), "--checkpoint", str(best)])
    found, expected = (json.loads((tmp_path / kind / "a.json").read_text()) for kind in ("onnx", "torch"))
    assert (found["classes"], found["notes"], len(found["snippets"])) == (expected["classes"], expected["notes"], 6)
    for one, other in zip(found["snippets"], expected["snippets"], strict=True):
        assert one["score"] == pytest.approx(other["score"], abs=1e-4)
    assert {key: found["about"][key] for key in ("model", "encoder_digest", "recipe")} == {
        key: expected["about"][key] for key in ("model", "encoder_digest", "recipe")
    }
    assert found["about"]["runtime"] == "onnx"


def test_its_metadata_says_of_what(best, exported):
    saved = torch.load(best, weights_only=True)
    found = onnxruntime.InferenceSession(exported / "scorer.onnx").get_modelmeta().custom_metadata_map
    found = {key: json.loads(value) for key, value in found.items()}
    assert found["system"] == "deepmil"
    assert found["classes"] == list(saved["classes"])
    assert found["thresholds"] == saved["thresholds"]
    assert found["options"]["visual_width"] == 64
    assert found["recipe"] == {"crops": 1, "stride": 16, "keep_aspect": False, "size": 32, "resize": "cv2"}
    detector, rate = load_exported(exported, rate=0.05), saved["thresholds"]["rates"]["0.05"]
    assert (detector.threshold, detector.length) == (rate, 32)


def test_a_stream_and_several_crops(exported):
    detector = load_exported(exported, crops=10, threshold=0.5)
    pictures = [np.random.default_rng(i).integers(0, 256, (37, 49, 3), np.uint8) for i in range(5)]
    features = detector.encode(pictures)
    assert features.shape == (5, 10, 64)
    assert len(detector.score_delayed(features, 2).coarse) == 5
    assert "The mean of several crops" in " ".join(load_exported(exported, crops=10, rate=0.05).notes)


def test_nothing_is_replaced_unasked_nor_by_what_differs(best, exported, monkeypatch, tmp_path):
    before = {path.name: path.read_bytes() for path in exported.iterdir()}
    words = ["--checkpoint", str(best), "--output", str(exported)]
    with pytest.raises(BadInput, match=r"scorer\.onnx: is there already; replace it with --overwrite"):
        export.main(words)
    monkeypatch.setattr(export, "TOLERANCE", -1)
    with pytest.raises(BadInput, match=r"scorer\.onnx, 1 snippets: onnxruntime differs from PyTorch by .*; nothing was written"):
        export.main([*words, "--overwrite"])
    assert {path.name: path.read_bytes() for path in exported.iterdir()} == before
    (tmp_path / "encoder.onnx").mkdir()
    with pytest.raises(BadInput, match=r"encoder\.onnx: is no regular file; move it"):
        export.main(["--checkpoint", str(best), "--output", str(tmp_path), "--overwrite"])


def test_what_onnx_cannot_say_is_one_line(tmp_path):
    class Odd(nn.Module):
        def forward(self, x):
            return x * 2 if x.sum() > 0 else x[: int(x[0, 0])]

    with pytest.raises(BadInput, match=r"^a\.onnx: torch\.onnx cannot say in ONNX what Odd computes \(.+\); score with the checkpoint"):
        export.write(Odd(), tmp_path / "a.onnx", {"x": torch.ones(3, 2)}, ["y"], {})
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named(exported, monkeypatch, tmp_path):
    for package in ("onnxscript", "onnx"):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(BadInput, match=rf"^tools\.export: {package} is not installed; pip install -r requirements-app\.txt"):
            export.write(nn.Identity(), tmp_path / "a.onnx", {"x": torch.ones(1)}, ["y"], {})
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BadInput, match=r"scorer\.onnx: onnxruntime is missing \(.*\); pip install -r requirements-app\.txt"):
        load_exported(exported)


def test_what_is_no_export_is_told(best, exported, tmp_path):
    with pytest.raises(BadInput, match=r"best\.pt: no folder; with --runtime onnx name one that tools\.export wrote"):
        load_exported(best)
    with pytest.raises(BadInput, match=r"scorer\.onnx: no such file"):
        load_exported(best.parent)
    content = (exported / "scorer.onnx").read_bytes()
    for cut in (0, 100, len(content) // 2):
        (tmp_path / "scorer.onnx").write_bytes(content[:cut])
        with pytest.raises(BadInput, match=r"scorer\.onnx: (not a model in ONNX|has no )"):
            load_exported(tmp_path)
    (tmp_path / "scorer.onnx").write_bytes(content)
    (tmp_path / "encoder.onnx").write_bytes(content)
    with pytest.raises(BadInput, match=r"encoder\.onnx: has no name; export it anew"):
        load_exported(tmp_path)


MEAN = "ReduceMean<axes = [1], keepdims = 0>(features)"
FOREIGN = [  # ONNX text of a scorer with one of our own's metadata, and what is said of it
    (
        "float[T, 64] x",
        "float[T] coarse",
        "coarse = ReduceMean<axes = [1], keepdims = 0>(x)",
        "x, tensor(float) of ['T', 64]; expected one of features",
    ),
    ("float16[T, 64] features", "float16[T] coarse", f"coarse = {MEAN}", "features, tensor(float16) of"),
    (
        "float[T, 64] features",
        "float[64] coarse",
        "coarse = ReduceMean<axes = [0], keepdims = 0>(features)",
        "coarse, tensor(float) of [64]; expected",
    ),
    (
        "float[T, 64] features",
        "float[T, 64] coarse",
        "coarse = Exp(features)",
        "coarse, tensor(float) of ['T', 64]; expected tensor(float) of T, []",
    ),
    ("float[T, 64] features", "float[N] coarse", f"m = {MEAN} coarse = Concat<axis = 0>(m, m)", "coarse has 12 rows of 6"),
    (
        "float[T, 64] features",
        "float[T] coarse",
        f"m = {MEAN} g = Gather(m, row) coarse = Add(m, g)",
        "scorer.onnx: onnxruntime cannot compute it",
    ),
]


@pytest.mark.parametrize(("reads", "gives", "computes", "said"), FOREIGN)
def test_a_foreign_model_with_our_metadata(reads, gives, computes, said, exported, tmp_path, capfd):
    onnx = pytest.importorskip("onnx", reason="pip install -r requirements-app.txt")
    text = f'<ir_version: 8, opset_import: ["" : 17]> g ({reads}) => ({gives}) <int64[1] row = {{9}}> {{ {computes} }}'
    model = onnx.parser.parse_model(text)
    known = onnxruntime.InferenceSession(exported / "scorer.onnx").get_modelmeta().custom_metadata_map
    onnx.helper.set_model_props(model, known)
    onnx.save(model, tmp_path / "scorer.onnx")
    (tmp_path / "encoder.onnx").write_bytes((exported / "encoder.onnx").read_bytes())
    with pytest.raises(BadInput) as caught:
        load_exported(tmp_path, threshold=0.5).score(torch.ones(6, 1, 64))
    assert said in str(caught.value)
    assert not capfd.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"recipe": {"crops": 1, "stride": 1.5, "keep_aspect": False, "size": 32, "resize": "cv2"}}, "recipe.stride 1.5; expected"),
        ({"recipe": {"size": 32}}, "has no recipe.crops"),
        ({"classes": ["normal"]}, "classes ['normal']; expected a list of at least 2 items"),
    ],
)
def test_metadata_that_no_export_has(change, said, exported, tmp_path):
    onnx = pytest.importorskip("onnx", reason="pip install -r requirements-app.txt")
    model = onnx.load(exported / "scorer.onnx")
    known = {one.key: one.value for one in model.metadata_props} | {key: json.dumps(value) for key, value in change.items()}
    onnx.helper.set_model_props(model, known)
    onnx.save(model, tmp_path / "scorer.onnx")
    with pytest.raises(BadInput) as caught:
        load_exported(tmp_path)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--runtime", "onnx"], "--runtime onnx: needs the folder that tools.export wrote"),
        (["--runtime", "onnx", "--checkpoint", "DIR", "--encoder", "x"], "--encoder: does nothing with --runtime onnx"),
        (["--runtime", "onnx", "--checkpoint", "DIR", "--device", "cuda"], "--device: does nothing with --runtime onnx"),
        (["--classes", "smoke", "--runtime", "onnx"], "--classes: is by text alone, --runtime is of a trained checkpoint"),
        (["--checkpoint", "DIR"], "an export; add --runtime onnx"),
        (["--runtime", "onnx", "--checkpoint", "DIR", "--caption-encoder", "x"], "scorer.onnx: reads no captions; leave --caption-encoder"),
        (["--checkpoint", "BEST", "--caption-pooling", "mean"], "best.pt: reads no captions; leave --caption-encoder"),
    ],
)
def test_what_does_not_fit_is_told(words, said, best, exported, tmp_path):
    video = str(make_video(tmp_path / "a.mp4", frames=20))
    words = [{"DIR": str(exported), "BEST": str(best)}.get(word, word) for word in words]
    with pytest.raises(BadInput, match=said):
        demo.main([video, "--output", str(tmp_path / "out"), *words])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "more"),
    [(name, "") for name in SYSTEMS]
    + [
        ("dsanet", "--mask-padding"),
        ("trclip", "--branches text --mask-padding"),
    ],
)
def test_every_system_of_every_length(name, more, small_sample, tmp_path):
    options = parse_args([*small_sample("xd", True, name), *more.split()], testing=True, model=name)
    model = loading.load_model(options, 0)
    torch.manual_seed(0)
    with torch.no_grad():  # as a trained one
        for part in model.modules():
            if isinstance(part, nn.BatchNorm1d):
                part.running_mean.normal_()
                part.running_var.uniform_(0.5, 2)
                part.weight.uniform_(0.5, 2)
    classes = loading.load_dataset(options.data).names
    export.export(Trained({}, model, options, classes, []), None, Recipe(), tmp_path, LENGTHS)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ViT", "ResNet", LITE])
def test_every_encoder(name, small_clip, tmp_path):
    if name == "ResNet":
        from utils.text import openai_clip

        images = CLIPEncoder(openai_clip().model.CLIP(64, 64, (1, 1, 1, 1), 16, None, 77, 49408, 64, 1, 2))
    elif name == "ViT":
        images = CLIPEncoder(small_clip)
    else:
        pytest.importorskip("efficientnet_lite_pytorch")
        images = load_encoder(LITE)
    assert export.export_encoder(images, tmp_path / "encoder.onnx", (1, 2, 20)) < 1e-5
