"""Cross-validation in which a source never stands on both sides."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from golden import REAL
from tools import leave_sources_out
from utils.errors import BadInput

CLIPS = REAL / "cctv_fights"
WORDS = ["--model", "deepmil", "--visual-width", "8", "--max-epoch", "2", "--batch-size", "8", "--device", "cpu", "--folds", "3"]


@pytest.fixture
def clips(tmp_path):
    """24 clips of six sources; features (T, 8) whose first column tells fights."""
    rng, rows = np.random.default_rng(0), ["path,label,source"]
    for number in range(24):
        fight = number % 2
        path = tmp_path / "features" / ("fight" if fight else "calm") / f"clip{number:02d}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        features = rng.normal(size=(3, 8)).astype(np.float32)
        features[:, 0] += 6 * fight
        np.save(path, features)
        rows.append(f"{path.parent.name}/{path.stem}.mp4,{'Fighting' if fight else 'Normal'},{number // 4}")
    (tmp_path / "clips.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "clips.csv"


def run(clips, *more):
    output = clips.parent / "out"
    leave_sources_out.main([str(clips), "--feature-root", str(clips.parent / "features"), "--output", str(output), *WORDS, *more])
    return json.loads((output / "result.json").read_text()), output


def test_every_clip_is_scored_once_by_a_model_that_never_saw_its_source(clips):
    result, output = run(clips, "--seeds", "1", "2")
    table = pd.read_csv(clips, dtype=str)
    source = {Path(path).stem: number for path, number in zip(table["path"], table["source"], strict=True)}
    for seed in (1, 2):
        tested = []
        for fold in (1, 2, 3):
            train, test = (
                [Path(path).stem for path in pd.read_csv(output / f"seed-{seed}" / f"fold-{fold}" / name)["path"]]
                for name in ("train.csv", "test.csv")
            )
            assert not {source[name] for name in train} & {source[name] for name in test}
            tested += test
        assert sorted(tested) == sorted(source)
        assert result["scores"][str(seed)].keys() == source.keys()
    assert result["auc"]["value"] > 0.9
    assert result["auc"]["low"] <= result["auc"]["value"] <= result["auc"]["high"]
    assert len(result["auc"]["by_seed"]) == 2


@pytest.mark.slow
def test_shuffled_labels_and_single_clips(clips):
    result, output = run(clips, "--seeds", "1", "--split", "clips", "--shuffle-labels", "--max-epoch", "1")
    assert (result["split"], result["shuffle_labels"]) == ("clips", True)
    labels = pd.concat([pd.read_csv(path) for path in output.rglob("test.csv")])
    assert sorted(labels["label"]) == ["Fighting"] * 12 + ["Normal"] * 12
    assert (labels["label"] == "Fighting").tolist() != labels["path"].str.startswith("fight").tolist()


def test_figures_by_hand():
    clips = pd.DataFrame({"source": list("aaab"), "abnormal": [True, False, False, True]})
    found = leave_sources_out.figures(clips, np.array([0.6, 0.7, 0.1, 0.4]))
    assert found["auc"][0] == 2 / 4  # 0.6 and 0.4 against 0.7 and 0.1
    assert found["within_source_auc"][0] == 1 / 2  # 0.6 against 0.7 and 0.1: the other fight has no normal clip beside it
    assert np.isnan(found["auc"]).any()  # a resample of b alone


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace("source", "camera"), "expected path, label and source"),
        (lambda text: text.replace("Fighting", "Fight"), "'Fight' is no class"),
        (lambda text: text + text.splitlines()[1] + "\n", "clip00 stands there twice"),
    ],
)
def test_lists_that_make_no_sense(clips, change, said):
    clips.write_text(change(clips.read_text()))
    with pytest.raises(BadInput, match=said):
        run(clips)
    with pytest.raises(BadInput, match="no such file"):
        leave_sources_out.read_clips(clips.with_name("absent.csv"))


def test_too_many_folds(clips):
    with pytest.raises(BadInput, match="--folds 9"):
        run(clips, "--folds", "9")


@pytest.mark.skipif(not CLIPS.exists(), reason="../shared/real is not here")
def test_the_real_clips_can_be_dealt():
    clips = leave_sources_out.read_clips(CLIPS / "clips.csv")
    assert len(clips) == 150
    for seed in range(3):
        folds = leave_sources_out.deal(clips, 5, "sources", seed)
        assert sorted(np.concatenate(folds)) == list(range(150))
