"""demo.py with checkpoints that authors released, and with those that read captions alone."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

import demo
import ucf_test
import xd_train
from clips import make_video
from dataset import load_features
from golden import golden, needs_golden
from model import build_model
from tools import embed_captions, extract_features
from utils import checkpoint
from utils.captions.formats import Caption, VideoCaptions, write_captions
from utils.datasets import load_dataset
from utils.errors import BadInput
from utils.evaluation.scores import load_scores
from utils.text import load_sentence_text

WORDS = ("a", "man", "walks", "runs", "falls", "car", "burns")
SIZES = {
    "vadclip": "--visual-length 48",
    "dsanet": "--visual-length 48 --decoder-depth 2 --text-adapt-until 2",
    "trclip": "--visual-length 32 --d-state 16 --caption-width 96",
}


def sentence_encoder(folder, width):
    """A random sentence encoder of so many columns in `folder`; its path."""
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(("[PAD]", "[UNK]", *WORDS))}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    torch.manual_seed(0)
    sizes = dict(hidden_size=width, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, max_position_embeddings=32)
    BertModel(BertConfig(vocab_size=2 + len(WORDS), **sizes)).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(folder)
    return str(folder)


def captions_of(rows, seed):
    """Captions of a video of so many snippets, one of two snippets each, with gaps."""
    draw = np.random.default_rng(seed)
    spans = [(32 * t, 32 * t + 32) for t in range(-(-rows // 2)) if draw.random() < 0.7] or [(0, 16)]
    return VideoCaptions(16 * rows, 25, [Caption(*span, " ".join(draw.choice(WORDS, 4))) for span in spans])


def grey(number):
    return np.full((48, 64, 3), 37 * (number // 16) % 256, np.uint8)


def scores_of(path):
    found = json.loads(path.read_text())
    return found, np.array([one["score"] for one in found["snippets"]])


@needs_golden
@pytest.mark.parametrize("system", SIZES)
def test_the_authors_file_gives_the_scores_of_the_test_script(system, tmp_path, capsys):
    """From the video file on: its features extracted, its captions embedded, and tested; or all of it by demo.py."""
    _, weights, clip_model = golden(system, "ucf")
    torch.save(weights, tmp_path / "model_ucf.pth")
    torch.save(clip_model.state_dict(), tmp_path / "clip.pt")
    video = make_video(tmp_path / "own.mp4", frames=16 * 7, picture=grey)
    (tmp_path / "said").mkdir()
    write_captions(tmp_path / "said" / "own.jsonl", "own", captions_of(7, 1))
    encoder = sentence_encoder(tmp_path / "words", 96)
    extract = ["--encoder", str(tmp_path / "clip.pt"), "--crops", "1", "--dtype", "float32", "--device", "cpu"]
    extract_features.main([str(video), *extract, "--output", str(tmp_path / "features")])
    more = ["--encoder", encoder, "--feature-root", str(tmp_path / "features"), "--device", "cpu"]
    embed_captions.main([str(tmp_path / "said"), *more, "--output", str(tmp_path / "embedded")])
    (tmp_path / "test.csv").write_text("path,label\nown.npy,Abuse\n")
    (tmp_path / "gt.json").write_text(json.dumps({"own": {"frames": 112, "fps": 25, "segments": [[0, 40, "Abuse"]]}}))
    shared = ["--model", system, "--checkpoint", tmp_path / "model_ucf.pth", "--clip", tmp_path / "clip.pt", "--device", "cpu"]
    shared = [*map(str, shared), "--visual-width", "64", *SIZES[system].split()]
    files = ["--feature-root", tmp_path / "features", "--test-list", tmp_path / "test.csv", "--gt-path", tmp_path / "gt.json"]
    files += ["--output", tmp_path / "tested", *(["--caption-root", tmp_path / "embedded"] if system == "trclip" else [])]
    ucf_test.main([*shared, *map(str, files)])
    expected = load_scores(tmp_path / "tested" / "scores.npz")[0]["own"]
    said = ["--captions", str(tmp_path / "said"), *(["--caption-encoder", encoder] if system == "trclip" else [])]
    capsys.readouterr()
    demo.main([str(video), *shared, "--data", "ucf", *said, "--no-video", "--output", str(tmp_path / "out")])
    found, scores = scores_of(tmp_path / "out" / "own.json")
    assert np.abs(scores - expected.coarse).max() < (1e-3 if system == "trclip" else 1e-5)  # embedded captions are kept in half precision
    assert found["classes"] == list(load_dataset("ucf").names)
    assert found["threshold"] == 0.5
    assert found["threshold_from"].startswith("the checkpoint knows none for 1 % of normal snippets")
    assert "The checkpoint does not say what made its features; clip.pt was taken." in found["notes"]
    printed = capsys.readouterr().err
    assert f"model_ucf.pth ({system}, trained on ucf), named by --checkpoint" in printed
    assert "threshold 0.500: the checkpoint knows none" in printed
    with pytest.raises(BadInput, match=r"model_ucf\.pth: frame_position_embeddings\.weight has shape .*options it was trained with"):
        demo.main([str(video), *shared, "--data", "ucf", *said, "--visual-length", "16"])


def test_a_released_file_of_features_that_no_encoder_here_makes(small_clip, tmp_path):
    """HL-Net's are I3D's: whoever trained it on others names what made them."""
    torch.save(build_model("hlnet", load_dataset("xd").names, None, visual_width=64).state_dict(), tmp_path / "hlnet.pkl")
    torch.save(small_clip.state_dict(), tmp_path / "clip.pt")
    video = make_video(tmp_path / "own.mp4", frames=40)
    words = [str(video), "--model", "hlnet", "--data", "xd", "--checkpoint", str(tmp_path / "hlnet.pkl"), "--visual-width", "64"]
    words += ["--no-video", "--output", str(tmp_path / "out"), "--device", "cpu"]
    with pytest.raises(BadInput, match=r"hlnet\.pkl: trained on features of I3D; name that encoder, or its file, with --encoder"):
        demo.main(words)
    demo.main([*words, "--encoder", str(tmp_path / "clip.pt"), "--threshold", "0.001"])
    found, scores = scores_of(tmp_path / "out" / "own.json")
    assert len(scores) == 2
    assert [one["class"] for one in found["segments"]] == ["anomaly"]
    assert found["threshold_from"] == "--threshold"


@pytest.fixture(scope="module")
def spoken(small_sample, tmp_path_factory):
    """A run of captions alone, the folder of captions, the sentence encoder, and the names of the test videos with their rows."""
    folder, words = tmp_path_factory.mktemp("spoken"), small_sample("xd", model="trclip")
    root = words[words.index("--feature-root") + 1]
    rows = {}
    for which in ("train", "test"):
        lines = Path(words[words.index(f"--{which}-list") + 1]).read_text().split("\n")[1:]
        rows |= {which: {line.split(",")[0].removesuffix(".npy"): 0 for line in lines if line}}
    (folder / "said").mkdir()
    for number, name in enumerate([*rows["train"], *rows["test"]]):
        length = len(load_features(f"{root}/{name}__0.npy", 64))
        write_captions(folder / "said" / f"{name}.jsonl", name, captions_of(length, number))
        if name in rows["test"]:
            rows["test"][name] = length
    encoder = sentence_encoder(folder / "words", 32)
    more = ["--encoder", encoder, "--feature-root", root, "--fill", "previous", "--device", "cpu"]
    embed_captions.main([str(folder / "said"), *more, "--output", str(folder / "captions" / "source")])
    words[words.index("--caption-root") + 1] = str(folder / "captions")
    words[words.index("--caption-width") + 1] = "32"
    xd_train.main([*words, "--branches", "text", "--output", str(folder / "run")])
    return folder / "run" / "seed-234", folder / "said", encoder, rows["test"]


def test_captions_alone(spoken, tmp_path, capsys):
    """The video gives its clock, frames and thumbnails, the captions give the rows, embedded as those of training, which is known."""
    run, said, _, rows = spoken
    name, length = min(rows.items(), key=lambda item: item[1])
    video = make_video(tmp_path / f"{name}.mp4", frames=16 * length, picture=grey)
    words = [str(video), "--checkpoint", str(run / "best.pt"), "--captions", str(said), "--threshold", "0.001", "--device", "cpu"]
    demo.main([*words, "--no-video", "--output", str(tmp_path / "out")])
    found, scores = scores_of(tmp_path / "out" / f"{name}.json")
    assert np.abs(scores - load_scores(run / "scores.npz")[0][name].coarse).max() < 1e-3
    assert found["frames"] == 16 * length
    assert found["segments"][0]["caption"]
    assert (tmp_path / "out" / f"{name}.png").is_file()
    assert "encoder" not in found["about"]
    assert found["about"]["caption_fill"] == "previous"
    assert not [note for note in found["notes"] if "does not say" in note]
    other = make_video(tmp_path / "other.mp4", frames=20)
    with pytest.raises(BadInput, match="1 of 1 videos were not done"):
        demo.main([str(other), *words[1:], "--no-video", "--output", str(tmp_path / "out")])
    assert "reads captions, and there are none of other" in capsys.readouterr().err
    for typed in (["--encoder", "ViT-B/16"], ["--crops", "5"], ["--aspect", "keep"]):
        with pytest.raises(BadInput, match="reads captions alone; leave --encoder, --crops and --aspect out"):
            demo.main([*words, *typed])


def test_captions_of_a_video_of_another_length_are_told(spoken, tmp_path):
    run, said, _, rows = spoken
    name = min(rows, key=rows.get)
    video = make_video(tmp_path / f"{name}.mp4", frames=16 * rows[name] + 400, picture=grey)
    words = [str(video), "--checkpoint", str(run / "best.pt"), "--captions", str(said), "--threshold", "0.5", "--device", "cpu"]
    demo.main([*words, "--no-video", "--output", str(tmp_path / "out")])
    notes = json.loads((tmp_path / "out" / f"{name}.json").read_text())["notes"]
    was, now = 16 * rows[name], 16 * rows[name] + 400
    assert f"Its captions are of a video of {was:,} frames, this one has {now:,}: they may be another's." in notes


def test_the_page_gets_the_captions(spoken, tmp_path, monkeypatch):
    run, said, _, rows = spoken
    got = []
    monkeypatch.setattr("app.web.page.serve", lambda detector, **more: got.append((detector, more["captions"])))
    words = [str(tmp_path), "--web", "--checkpoint", str(run / "best.pt"), "--threshold", "0.5", "--device", "cpu"]
    demo.main([*words, "--captions", str(said)])
    [(detector, captions)] = got
    assert captions.keys() >= rows.keys()
    name = min(rows, key=rows.get)
    video = make_video(tmp_path / "upload.mp4", frames=16 * rows[name], picture=grey)
    found = detector.analyse(video, captions=captions[name])  # as the page does
    assert np.abs(found.anomaly - load_scores(run / "scores.npz")[0][name].coarse).max() < 1e-3


def test_a_sentence_encoder_that_is_not_the_training_s(spoken, tmp_path):
    run, _, encoder, _ = spoken
    saved = checkpoint.load(run / "best.pt")
    assert saved["captions"] == {
        "encoder": encoder,
        "encoder_digest": load_sentence_text(encoder).digest(),
        "fill": "previous",
        "pooling": "mean",
    }
    video = make_video(tmp_path / "own.mp4", frames=20)
    words = [str(video), "--device", "cpu", "--threshold", "0.5"]
    narrow = sentence_encoder(tmp_path / "narrow", 16)
    with pytest.raises(BadInput, match=r"--caption-encoder .*narrow: vectors of width 16, .*best\.pt reads 32"):
        demo.main([*words, "--checkpoint", str(run / "best.pt"), "--caption-encoder", narrow])
    with pytest.raises(BadInput, match=r"other weights or --caption-pooling than those that made the caption features of .*best\.pt"):
        demo.main([*words, "--checkpoint", str(run / "best.pt"), "--caption-pooling", "cls"])
    checkpoint.save(tmp_path / "gone.pt", saved | {"captions": saved["captions"] | {"encoder": "no/where"}})
    with pytest.raises(BadInput, match=r"gone\.pt: trained on captions as no/where encodes them; say where it lies: --caption-encoder"):
        demo.main([*words, "--checkpoint", str(tmp_path / "gone.pt")])
    del saved["captions"]
    checkpoint.save(tmp_path / "older.pt", saved)
    with pytest.raises(BadInput, match=r"older\.pt: reads captions; name the sentence encoder of its caption features"):
        demo.main([*words, "--checkpoint", str(tmp_path / "older.pt")])
    with pytest.raises(BadInput, match=r"best\.pt: a checkpoint of ours says itself what it is of; leave --model and --data out"):
        demo.main([*words, "--checkpoint", str(run / "best.pt"), "--model", "trclip", "--data", "xd"])


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["--model", "vadclip"], "--model, --data: say what a released --checkpoint is of; give all three"),
        (["--model", "vadclip", "--data", "ucf"], "give all three"),
        (["--data", "ucf", "--checkpoint", "a.pth"], "give all three"),
        (["--model", "nothing", "--data", "ucf", "--checkpoint", "a.pth"], "--model nothing: no such model; available models: reflip"),
        (["--model", "vadclip", "--data", "nowhere", "--checkpoint", "a.pth"], "--data nowhere: no such data set"),
        (["--model", "vadclip", "--data", "ucf", "--checkpoint", "a.pth", "--visual-length", "0"], "--visual-length 0: expected a value"),
        (["--model", "vadclip", "--data", "ucf", "--checkpoint", "absent.pth"], "absent.pth: no such file"),
        (["--model", "vadclip", "--classes", "smoke"], "--classes: is by text alone, --model is of a trained checkpoint"),
        (["--visual-length", "48"], "--visual-length"),
    ],
)
def test_what_makes_no_sense_is_said_in_one_line(typed, said, tmp_path):
    with pytest.raises(BadInput) as caught:
        demo.main([str(make_video(tmp_path / "own.mp4", frames=5)), *typed])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
