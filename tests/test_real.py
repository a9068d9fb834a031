"""On real data and at the sample's real size: what a figure must reach, and what it must fall to."""

import json

import numpy as np
import pandas as pd
import pytest

import ucf_option
import ucf_train
import xd_option
import xd_train
from golden import REAL
from utils.sample.builder import make_sample


@pytest.mark.skipif(not REAL.exists(), reason="../shared/real is not here")
@pytest.mark.slow
def test_real_clip_features_with_class_texts_from_a_file(tmp_path):
    """Five real UCF-Crime videos, all abnormal; their snippets outside the annotated events stand as normal bags."""
    root, source = tmp_path / "features", REAL / "ucf_clip_features"
    root.mkdir()
    rows, truth = [], {}
    for video in pd.read_csv(source / "labels.csv").itertuples():
        features = np.load(source / "snippet16" / f"{video.video}.npy", allow_pickle=False)
        frames = np.load(source / "gt" / f"{video.video}.npy", allow_pickle=False)[: video.n_frames].astype(int)
        edges = np.flatnonzero(np.diff(np.pad(frames, 1))).reshape(-1, 2)
        truth[video.video] = {"frames": video.n_frames, "fps": 30, "segments": [[int(a), int(b), video.label] for a, b in edges]}
        calm = [features[t] for t in range(len(features)) if not frames[16 * t : 16 * t + 16].any()]
        np.save(root / f"{video.video}.npy", features)
        np.save(root / f"{video.video}_calm.npy", np.stack(calm))
        rows += [f"{video.video}.npy,{video.label}", f"{video.video}_calm.npy,Normal"]
        truth[f"{video.video}_calm"] = {"frames": 16 * len(calm), "fps": 30, "segments": []}
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    files = ["--train-list", tmp_path / "list.csv", "--test-list", tmp_path / "list.csv", "--gt-path", tmp_path / "gt.json"]
    words = [
        "--feature-root",
        root,
        *files,
        "--text-features",
        REAL / "clip_text" / "ucf-prompt.npy",
        "--select",
        "last",
        "--allow-overlap",
    ]
    ucf_train.main([*map(str, words), "--max-epoch", "30", "--visual-length", "128", "--output", str(tmp_path / "run")])
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["videos"] == 10
    log = [json.loads(line) for line in (tmp_path / "run" / "seed-1" / "log.jsonl").read_text().splitlines()]
    assert log[-1]["loss_coarse"] < 0.8 * log[0]["loss_coarse"]
    assert log[-1]["loss_align"] < 0.8 * log[0]["loss_align"]


@pytest.mark.slow
@pytest.mark.timeout(1500)  # trainings of the whole sample
@pytest.mark.parametrize(("key", "option", "train"), [("xd", xd_option, xd_train), ("ucf", ucf_option, ucf_train)])
def test_the_sample_is_learnt_and_its_shuffled_labels_are_not(key, option, train, tmp_path):
    for shuffle in (False, True) if key == "ucf" else (False,):
        sample = make_sample(tmp_path / str(shuffle) / key, key, shuffle_labels=shuffle)
        files = {"feature-root": "features", "train-list": "train.csv", "test-list": "test.csv", "gt-path": "gt.json"}
        files |= {"clip": "clip.pt", "distilbert": "distilbert"}
        words = [word for name, file in files.items() for word in (f"--{name}", str(sample / file))]
        settings = {**option.SAMPLE, **option.SAMPLE["reflip"], **({"max_epoch": 2} if shuffle else {})}
        words += [f"--{name.replace('_', '-')}={value}" for name, value in settings.items() if not isinstance(value, dict)]
        # Labels that mean nothing leave a training free to go either way, by 6 points of AUC or so: its mean over seeds is what is at 0.5.
        seeds = ["--seeds", "1", "2"] if shuffle else []
        train.main([*words, *seeds, "--output", str(tmp_path / f"run-{shuffle}")])
        auc = json.loads((tmp_path / f"run-{shuffle}" / "report.json").read_text())["coarse"]["auc"]["value"]
        assert (0.35 <= auc <= 0.65) if shuffle else (0.85 < auc < 0.999)
