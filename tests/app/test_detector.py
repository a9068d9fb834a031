"""Scores of one's own videos: those of the test script, those of a stream, and those by text alone."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import xd_train
from app.detector import Detector, load_detector
from app.export import to_dict
from app.web.page import public
from app.zero_shot import NORMAL, text_detector
from clips import make_video
from dataset import load_features
from tools import extract_features
from utils import checkpoint
from utils.captions.formats import Caption, VideoCaptions
from utils.errors import BadInput
from utils.evaluation.scores import load_scores
from utils.text import load_sentence_text, openai_clip
from utils.video.crops import Recipe
from utils.video.encoder import CLIPEncoder
from utils.video.extraction import Extracted


@pytest.fixture(scope="module")
def run(small_sample, tmp_path_factory):
    """The folder of a run, seed-1, and the words that made it."""
    folder = tmp_path_factory.mktemp("run")
    words = small_sample("xd")
    xd_train.main([*words, "--output", str(folder)])
    return folder / "seed-1", words


@pytest.fixture(scope="module")
def detector(run):
    return load_detector(run[0] / "best.pt", rate=0.05, device="cpu")


def extracted(features, fps=24.0):
    times = np.arange(len(features) + 1) * 16 / fps
    return Extracted("a.mp4", features.numpy(), times, 16 * len(features), fps, (320, 240), [])


def test_a_video_gets_the_scores_of_the_test_script(run, detector):
    folder, words = run
    scores = load_scores(folder / "scores.npz")[0]
    for name, parts in list(scores.items())[:3]:
        features = load_features(f"{words[1]}/{name}__0.npy", 64)
        found = detector.of_features(extracted(features[:, None]))
        assert np.allclose(found.scores.coarse, parts.coarse, atol=1e-5)
        assert np.allclose(found.scores.fine, parts.fine, atol=1e-5)
        assert np.allclose(detector.score(torch.stack([features, features], 1)).coarse, parts.coarse, atol=1e-5)  # two crops alike


def test_the_threshold_is_that_of_the_held_out_normal_videos(run, detector):
    folder, words = run
    saved = checkpoint.load(folder / "best.pt")
    held_out = json.loads((folder / "options.json").read_text())["held_out"]
    normal = [name for name in held_out if "label_A" in name][1::2]  # the others chose the epoch
    values = []
    for name in normal:
        features = load_features(f"{words[1]}/{name}__0.npy", 64)
        values += detector.score(features[:, None]).coarse.tolist()
    assert saved["thresholds"]["videos"] == len(normal)
    assert saved["thresholds"]["snippets"] == len(values)
    assert detector.threshold == saved["thresholds"]["rates"]["0.05"]
    assert (np.array(values) >= detector.threshold - 1e-6).mean() <= 0.05 + 2 / len(values)
    assert f"{len(normal)} normal videos held out" in detector.threshold_from


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(length=st.integers(1, 80), ahead=st.integers(0, 31), data=st.data())
def test_a_stream_s_scores_are_those_of_literal_windows(detector, length, ahead, data):
    torch.manual_seed(length)
    features = 10 * torch.nn.functional.normalize(torch.randn(length, 2, 64), dim=-1)
    scores = detector.score_delayed(features, ahead)
    t = data.draw(st.integers(0, length - 1))
    end = min(t + ahead + 1, length)
    start = max(0, end - detector.length)
    window = detector.score(features[start:end])
    assert np.allclose(scores.coarse[t], window.coarse[t - start], atol=1e-5)
    assert np.allclose(scores.fine[t], window.fine[t - start], atol=1e-5)
    features[end:] = 0  # what lies further ahead is not seen
    assert np.allclose(detector.score_delayed(features, ahead).coarse[t], scores.coarse[t], atol=1e-5)


def test_frames_that_the_header_promises_and_are_not_there_are_told(detector):
    video = extracted(torch.randn(6, 1, 64))
    assert detector.of_features(video._replace(promised=98)).notes == detector.notes
    why = "empty, before the first key frame, or damaged"
    note = f"3 of the 99 frames that its header counts can be shown by no player ({why})."
    assert detector.of_features(video._replace(promised=99)).notes == [*detector.notes, note]


@pytest.mark.parametrize("latency", [None, 2.0])
def test_parts_that_follow_each_other_have_the_scores_of_the_whole(detector, latency):
    features = torch.randn(detector.length + 5, 1, 64)
    whole, cut = detector.of_features(extracted(features), latency=latency).scores, detector.length // 2 - 1
    first, second = extracted(features[:cut]), extracted(features[cut:])
    parts = detector.of_features(first, None, latency, [], [(second, None)]), detector.of_features(second, None, latency, [(first, None)])
    assert [len(part.times) - 1 for part in parts] == [cut, detector.length + 5 - cut]
    for name in ("coarse", "fine"):
        joined = np.concatenate([getattr(part.scores, name) for part in parts])
        assert np.allclose(joined, getattr(whole, name), atol=1e-5)


def test_a_clock_that_was_set_anew_is_told(detector):
    video = extracted(torch.randn(6, 1, 64))
    for jumps, times in ((1, "once"), (3, "3 times")):
        note = f"Its clock went back or was far ahead {times}: the frames there are taken to follow one another."
        assert detector.of_features(video._replace(jumps=jumps)).notes == [*detector.notes, note]


def test_listed_are_the_highest_scores_and_where_they_begin(detector):
    video = extracted(torch.randn(400, 1, 64))
    detector.threshold, before = float(np.quantile(detector.of_features(video).anomaly, 0.97)), detector.threshold
    try:
        found = detector.of_features(video)
    finally:
        detector.threshold = before
    assert len(found.segments) > 6
    assert [one for one, _ in found.shown] == sorted(sorted(found.segments, key=lambda one: -one.score)[:6])
    for one, peak in found.shown:
        assert found.anomaly[list(video.times).index(peak)] == pytest.approx(one.score)


def test_captions_are_quoted_with_segments(detector):
    features = torch.randn(6, 1, 64)
    found = detector.of_features(extracted(features))
    detector.threshold, before = float(found.anomaly.min()), detector.threshold
    try:
        captions = VideoCaptions(96, 24, [Caption(16 * t, 16 * t + 16, f"sentence {t}") for t in range(6)])
        [segment] = detector.of_features(extracted(features), captions).segments
        assert segment.caption == f"sentence {found.anomaly.argmax()}"
    finally:
        detector.threshold = before


def test_the_sample_says_so(run, tmp_path):
    saved = checkpoint.load(run[0] / "best.pt")
    saved["options"]["sample"] = True
    checkpoint.save(tmp_path / "best.pt", saved)
    assert "simulated features" in load_detector(tmp_path / "best.pt", rate=0.05).notes[0]


def test_what_made_the_features_is_checked(run, tmp_path):
    folder, words = run
    clip = words[words.index("--clip") + 1]
    notes = load_detector(folder / "best.pt", rate=0.05).notes
    assert notes == ["The checkpoint does not say what made its features; clip.pt was taken."]
    assert load_detector(folder / "best.pt", rate=0.05).recipe.resize == "cv2"  # as published
    saved = checkpoint.load(folder / "best.pt")
    extract_features.main(
        [str(make_video(tmp_path / "a.mp4")), "--encoder", clip, "--aspect", "keep", "--stride", "8", "--output", str(tmp_path)]
    )
    about = {key: value for key, value in json.loads((tmp_path / "extract.json").read_text()).items() if key != "videos"}
    right = about["encoder"]["digest"]
    about["encoder"] |= {"name": "mine", "digest": "0" * 16}
    checkpoint.save(tmp_path / "best.pt", saved | {"features": about})
    with pytest.raises(BadInput, match=r"best.pt: trained on features of mine; name that encoder, or its file, with --encoder"):
        load_detector(tmp_path / "best.pt", rate=0.05)
    with pytest.raises(BadInput, match=r"other weights than those that made the training features of .* \(mine\)"):
        load_detector(tmp_path / "best.pt", rate=0.05, encoder=clip)
    about["encoder"]["digest"] = right
    checkpoint.save(tmp_path / "best.pt", saved | {"features": about})
    found = load_detector(tmp_path / "best.pt", rate=0.05)
    assert not found.notes
    assert (found.recipe.keep_aspect, found.recipe.stride, found.recipe.crops, found.recipe.resize) == (True, 8, 1, "cv2")
    about["recipe"]["resize"] = "bicubic"
    for _ in range(2):
        checkpoint.save(tmp_path / "best.pt", saved | {"features": about})
        assert load_detector(tmp_path / "best.pt", rate=0.05).recipe.resize == "bicubic"
        about["recipe"].pop("resize", None)  # older than the choice
    assert "several crops" in load_detector(tmp_path / "best.pt", rate=0.05, crops=5).notes[0]


def test_the_encoder_of_the_features_is_taken_without_being_told(run, tmp_path, monkeypatch):
    """Another CLIP than that of the text side made the training features: it goes by its name, or by the file that --clip names."""
    torch.manual_seed(3)
    other = openai_clip().model.CLIP(64, 32, 1, 64, 8, 77, 49408, 64, 1, 2).eval()
    torch.save(other.state_dict(), tmp_path / "other.pt")
    digest = CLIPEncoder(other).digest()
    saved = checkpoint.load(run[0] / "best.pt")
    made = {"encoder": {"name": "other.pt", "digest": digest, "width": 64}, "recipe": {"aspect": "squash", "stride": 16}}
    checkpoint.save(tmp_path / "best.pt", saved | {"features": made})
    monkeypatch.chdir(tmp_path)  # where the name is that of a file
    found = load_detector(tmp_path / "best.pt", rate=0.05)
    assert (found.encoder.digest(), found.about["encoder"], found.notes) == (digest, "other.pt", [])
    monkeypatch.chdir("/")
    with pytest.raises(BadInput, match=r"trained on features of other.pt; name that encoder"):
        load_detector(tmp_path / "best.pt", rate=0.05)
    assert load_detector(tmp_path / "best.pt", rate=0.05, encoder=str(tmp_path / "other.pt")).encoder.digest() == digest


def test_the_classes_are_the_checkpoint_s_wherever_its_data_set_is(run, tmp_path):
    saved = checkpoint.load(run[0] / "best.pt")
    checkpoint.save(tmp_path / "best.pt", saved | {"dataset": "my-cameras", "classes": ["calm", *saved["classes"][1:]]})
    found = load_detector(tmp_path / "best.pt", rate=0.05)
    assert found.classes[:2] == ("calm", "fighting")
    assert found.about["dataset"] == "my-cameras"


def test_training_records_what_made_the_features(small_sample, tmp_path):
    words = small_sample("xd")
    root = tmp_path / "features"
    root.symlink_to(words[1], target_is_directory=True)
    about = {"encoder": {"name": "mine", "digest": "0" * 16, "width": 64}, "recipe": {"crops": 10, "aspect": "keep"}}
    manifest = root / "extract.json"
    try:
        manifest.write_text(json.dumps({**about, "videos": {}}))
        words[1] = str(root)
        xd_train.main([*words, "--max-epoch", "1", "--output", str(tmp_path / "run")])
    finally:
        manifest.unlink()
    assert checkpoint.load(tmp_path / "run" / "seed-1" / "best.pt")["features"] == about


def test_checkpoints_that_do_not_fit(run, tmp_path):
    folder, _ = run
    saved = checkpoint.load(folder / "best.pt")
    checkpoint.save(tmp_path / "last.pt", {key: value for key, value in saved.items() if key != "thresholds"})
    with pytest.raises(BadInput, match=r"last.pt: no threshold for --false-positives 0.05: its training is not finished"):
        load_detector(tmp_path / "last.pt", rate=0.05)
    assert load_detector(tmp_path / "last.pt", threshold=0.3).threshold == 0.3
    few = {"videos": 2, "snippets": 15, "rates": {"0.1": 0.7, "0.2": 0.6}}
    checkpoint.save(tmp_path / "few.pt", saved | {"thresholds": few})
    said = r"15 snippets of 2 normal videos were held out for it, expected 20 or more.*--val-share, .*--false-positives 0.1 or 0.2, or give"
    with pytest.raises(BadInput, match=said):
        load_detector(tmp_path / "few.pt", rate=0.05)
    checkpoint.save(tmp_path / "released.pt", saved["weights"])
    with pytest.raises(BadInput, match="does not say which system"):
        load_detector(tmp_path / "released.pt")
    torch.manual_seed(1)
    wide = openai_clip().model.CLIP(32, 32, 1, 64, 8, 77, 49408, 64, 1, 2)
    torch.save(wide.state_dict(), tmp_path / "wide.pt")
    with pytest.raises(BadInput, match=r"--encoder wide.pt: features of width 32, .*best.pt reads 64"):
        load_detector(folder / "best.pt", rate=0.05, encoder=str(tmp_path / "wide.pt"))


def test_a_video_file_from_end_to_end(detector, tmp_path):
    path = make_video(tmp_path / "own.mp4", frames=50)
    seen = []
    found = detector.analyse(path, progress=lambda *parts: seen.append(parts))
    assert (found.name, found.frames, found.size, len(found.anomaly)) == ("own", 50, (64, 48), 3)
    assert found.times.tolist() == pytest.approx([0, 0.64, 1.28, 2.0])
    assert seen[-1] == (path, 3, 3)
    grey = [np.full((48, 64, 3), 4 * 16 * t, np.uint8) for t in range(3)]  # its frames 0, 16, 32, up to the codec's loss
    features = detector.encode([detector.recipe.fit(picture) for picture in grey])
    assert np.allclose(detector.score(features).coarse, found.scores.coarse, atol=0.02)
    late = detector.analyse(path, latency=0.7)
    assert "as a live stream" in late.notes[-1]
    assert np.allclose(late.scores.coarse, detector.score_delayed(detector_features(detector, path), 0).coarse, atol=1e-6)


def detector_features(detector, path):
    from utils.video.extraction import extract

    [found] = extract([path], detector.encoder, detector.recipe, device="cpu")
    return torch.from_numpy(found.features)


@pytest.fixture(scope="module")
def clip_file(small_clip, tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.pt"
    torch.save(small_clip.state_dict(), path)
    return str(path)


def test_by_text_alone_is_clip_s_own_classification(small_clip, clip_file):
    detector = text_detector(clip_file, ["person  falling", "smoke"], device="cpu")
    assert detector.classes == ("normal", "person falling", "smoke")
    pictures = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.manual_seed(0))
    features = CLIPEncoder(small_clip)(pictures)
    scores = detector.score(features[:, None])
    words = [*NORMAL, "a video of person falling", "a video of smoke"]
    with torch.no_grad():
        texts = small_clip.encode_text(openai_clip().tokenize(words))
        texts = texts / texts.norm(dim=-1, keepdim=True)
        images = features / features.norm(dim=-1, keepdim=True)
        expected = (small_clip.logit_scale.exp() * images @ texts.T).softmax(-1).numpy()
    assert np.allclose(scores.fine[:, 1:], expected[:, len(NORMAL) :], atol=1e-5)
    assert np.allclose(scores.fine[:, 0], expected[:, : len(NORMAL)].sum(1), atol=1e-5)
    assert np.allclose(scores.fine.sum(1), 1, atol=1e-5)
    assert "without training" in detector.notes[0]
    assert detector.recipe == Recipe(crops=1, size=32, resize="bicubic")  # CLIP's own


@pytest.mark.parametrize("events", [["smoke", "Smoke"], [" "], ["normal"], ["word " * 90]])
def test_events_that_make_no_sense(clip_file, events):
    with pytest.raises(BadInput, match="--classes"):
        text_detector(clip_file, events)


def test_the_page_tells_strangers_no_folder_of_this_computer(detector, tmp_path):
    path = make_video(tmp_path / "own.mp4", frames=20)
    detector.about["command"], whole = f"python demo.py {tmp_path} --web", detector.analyse(path)
    assert str(tmp_path) in json.dumps(to_dict(whole))
    assert str(tmp_path) not in json.dumps(to_dict(public(whole)))


def test_caption_features_are_of_the_networks_dtype(minilm):
    reader = SimpleNamespace(caption_encoder=load_sentence_text(minilm, "--caption-encoder"), fill="zeros")
    rows = Detector.caption_features(reader, VideoCaptions(48, 30, [Caption(0, 16, "a man falls")]), 3)
    assert (rows.dtype, tuple(rows.shape)) == (torch.float32, (3, 384))
