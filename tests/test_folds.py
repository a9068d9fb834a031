"""utils/folds.py: cross-validation in which a source never stands on both sides."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ucf_test
import ucf_train
from benchmarks import UCF
from dataset import Video
from golden import REAL
from tools import ablate, evaluate
from utils import engine, folds, training
from utils.errors import BadInput
from utils.evaluation.scores import load_scores
from utils.labels import multi_hot

CLIPS = REAL / "cctv_fights"
WORDS = ["--model", "deepmil", "--visual-width", "8", "--max-epoch", "2", "--batch-size", "8", "--device", "cpu"]
WORDS += ["--folds", "2", "--select", "last"]


def video(name, label, source=None):
    return Video(name, label, tuple(multi_hot(label, UCF).tolist()), (), None, False, source)


@pytest.fixture
def clips(tmp_path):
    """12 clips of six sources; features (T, 8) whose first column tells fights."""
    rng, rows = np.random.default_rng(0), ["path,label,source"]
    for number in range(12):
        fight = number % 2
        path = tmp_path / "features" / ("fight" if fight else "calm") / f"clip{number:02d}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        features = rng.normal(size=(3, 8)).astype(np.float32)
        features[:, 0] += 6 * fight
        np.save(path, features)
        rows.append(f"{path.parent.name}/{path.stem}.mp4,{'Fighting' if fight else 'Normal'},{number // 2}")
    (tmp_path / "clips.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "clips.csv"


def run(clips, *more):
    """The pooled report, and OUTPUT."""
    output = clips.parent / "out"
    files = ["--feature-root", str(clips.parent / "features"), "--train-list", str(clips), "--output", str(output)]
    ucf_train.main([*files, *WORDS, *more])
    return json.loads((output / "report.json").read_text()), output


def listed(path):
    """The rows of a list: name -> its cells."""
    with open(path, newline="") as file:
        return {Path(row["path"]).stem: row for row in csv.DictReader(file)}


def sources(rows):
    return {row["source"] for row in rows.values()}


def test_every_video_is_scored_once_by_a_model_that_never_saw_its_source(clips, capsys):
    result, output = run(clips, "--seeds", "1", "2")
    names = list(listed(clips))
    for seed in (1, 2):
        pooled, tested = load_scores(output / f"seed-{seed}" / "scores.npz")[0], []
        for fold in (1, 2):
            place = output / f"seed-{seed}" / f"fold-{fold}"
            train, test = listed(place / "train.csv"), listed(place / "test.csv")
            assert not sources(train) & sources(test)
            assert len(train) + len(test) == 12
            for name, parts in load_scores(place / "scores.npz")[0].items():
                assert np.array_equal(parts.coarse, pooled[name].coarse)
            tested += test
        assert sorted(tested) == sorted(pooled) == names
    assert listed(output / "seed-1/fold-1/test.csv") != listed(output / "seed-2/fold-1/test.csv")
    auc = result["video"]["coarse"]["auc"]
    assert 0.9 < auc["low"] <= auc["value"] <= auc["high"]
    assert auc["std"] >= 0
    assert result["video"]["coarse"]["within_source_auc"]["value"] > 0.9
    assert (result["videos"], result["sources"], result["timed"], result["seeds"]) == (12, 6, 0, [1, 2])
    shown = capsys.readouterr().out
    for line in ("2 folds of the training list", "no source on both sides", "95 % bootstrap intervals over 6 sources and seeds",
                 "no frame figures: no test video has intervals"):  # fmt: skip
        assert line in shown.rpartition("coarse AUC by video")[2]

    paths = [str(output / f"seed-{seed}" / "scores.npz") for seed in (1, 2)]
    evaluate.main(["--dataset", "ucf", "--scores", *paths, "--json", str(clips.parent / "anew.json")])
    assert json.loads((clips.parent / "anew.json").read_text())["video"]["coarse"]["auc"] == auc
    assert "intervals over 6 sources" in capsys.readouterr().out

    row = [ablate.Run("row", seed, [], output) for seed in (1, 2)]
    assert ablate.measure(row, UCF)[0]["video"]["coarse"]["auc"] == auc

    fold = output / "seed-2" / "fold-2"
    ucf_test.main(["--checkpoint", str(fold / "best.pt"), "--device", "cpu"])  # a run like any other
    again = json.loads((fold / "test" / "report.json").read_text())
    assert again["video"] == json.loads((fold / "report.json").read_text())["video"]


def test_unfinished_folds_are_gone_on_with(clips, monkeypatch):
    whole, output = run(clips)
    content = {path.name: path.read_bytes() for path in (output / "seed-1").iterdir() if path.suffix in (".npz", ".json")}
    shutil.rmtree(output)
    finish, trained = engine.Training.finish_epoch, []

    def dying(self, folder, *rest):
        finish(self, folder, *rest)
        trained.append(folder.name)
        if len(trained) == 3:  # the first of two epochs of the second fold
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(engine.Training, "finish_epoch", dying)
        with pytest.raises(KeyboardInterrupt):
            run(clips)
    before = (output / "seed-1/fold-1/best.pt").read_bytes()
    with pytest.raises(BadInput, match=r"holds an unfinished run \(seed 1\)"):
        run(clips)
    monkeypatch.setattr(engine.Training, "finish_epoch", lambda *a: (finish(*a), trained.append(a[1].name)))
    ucf_train.main(["--resume", "--output", str(output)])
    assert trained == ["fold-1"] * 2 + ["fold-2"] * 2
    assert (output / "seed-1/fold-1/best.pt").read_bytes() == before
    for name in ("scores.npz", "truth.json"):
        assert (output / "seed-1" / name).read_bytes() == content[name]
    assert json.loads((output / "report.json").read_text())["video"] == whole["video"]
    with pytest.raises(BadInput, match=r"holds a finished run \(seed 1\)"):
        run(clips)
    for more, said in ((["--lr", "0.5"], "trained with lr = .*, now it is 0.5"), (["--folds", "3"], "begun with --folds 2, found 3")):
        with pytest.raises(BadInput, match=said):
            ucf_train.main(["--resume", "--output", str(output), *more])
    clips.write_text(clips.read_text().replace("clip00.mp4,Normal,0", "clip00.mp4,Normal,5"))
    with pytest.raises(BadInput, match=r"train\.csv: the training list, or how it is dealt, has changed since"):
        ucf_train.main(["--resume", "--output", str(output)])


def test_intervals_of_the_training_list_give_figures_by_frame(clips):
    fights = [name for name, row in listed(clips).items() if row["label"] == "Fighting"]
    truth = {name: {"frames": 48, "fps": 30, "segments": [[0, 48, "Fighting"]]} for name in fights}
    (clips.parent / "gt.json").write_text(json.dumps(truth))
    result, output = run(clips, "--gt-path", str(clips.parent / "gt.json"), "--folds-of", "videos", "--max-epoch", "1")
    assert "timed" not in result
    assert result["coarse"]["auc"]["value"] > 0.5
    assert result["headline"] == [["coarse", "auc"], ["coarse", "ano_auc"]]
    assert "sources stand on both sides" in (output / "report.md").read_text()


def test_what_is_wrong_with_the_last_fold_is_told_before_the_first_is_trained(clips):
    run(clips, "--max-epoch", "1")
    [name, *_] = listed(clips.parent / "out/seed-1/fold-2/test.csv")
    (clips.parent / "gt.json").write_text(json.dumps({name: {"frames": 4800, "fps": 30, "segments": []}}))
    with pytest.raises(BadInput, match=f"{name}: 3 snippets of features or scores, 4800 frames"):
        run(clips, "--max-epoch", "1", "--gt-path", str(clips.parent / "gt.json"), "--output", str(clips.parent / "other"))
    assert not any((clips.parent / "other").rglob("*.pt"))


def test_a_run_of_another_kind_is_not_made_folds_of(clips):
    folder, lines = clips.parent, clips.read_text().splitlines()
    for name, rows in (("half", lines[1:9]), ("rest", lines[9:])):
        (folder / f"{name}.csv").write_text("\n".join([lines[0], *rows]) + "\n")
    (folder / "gt.json").write_text(json.dumps({"clip08": {"frames": 48, "fps": 30, "segments": []}}))
    files = {"feature-root": "features", "train-list": "half.csv", "test-list": "rest.csv", "gt-path": "gt.json", "output": "out"}
    words = [word for name, file in files.items() for word in (f"--{name}", str(folder / file))]
    ucf_train.main([*words, *WORDS[: WORDS.index("--folds")], "--select", "last", "--max-epoch", "1"])
    before = (folder / "out/seed-1/report.json").read_bytes()
    with pytest.raises(BadInput, match="was begun with --folds None, found 2; leave the option out"):
        ucf_train.main(["--resume", "--folds", "2", "--output", str(folder / "out")])
    assert (folder / "out/seed-1/report.json").read_bytes() == before


@pytest.mark.slow
def test_shuffled_labels_are_a_control(clips):
    result, output = run(clips, "--shuffle-labels", "--max-epoch", "1")
    assert result["folds"] == {"count": 2, "of": "sources", "shuffled": True}
    rows = [row for path in output.glob("seed-1/*/test.csv") for row in listed(path).values()]
    assert sorted(row["label"] for row in rows) == ["Fighting"] * 6 + ["Normal"] * 6
    assert any((row["label"] == "Fighting") != row["path"].startswith("fight") for row in rows)
    assert "labels shuffled: a control" in (output / "report.md").read_text()


@given(data=st.data())
def test_folds_never_split_a_source_and_are_alike(data):
    count = data.draw(st.integers(2, 6))
    sources = data.draw(st.lists(st.integers(1, 6), min_size=2 * count, max_size=20))  # clips of each
    videos = [
        video(f"v{source}-{number}", ("Normal", "Fighting", "Abuse")[(source + number) % 3], f"s{source}")
        for source, clips in enumerate(sources)
        for number in range(clips)
    ]
    try:
        dealt = folds.deal(videos, count, "sources", data.draw(st.integers(0, 99)), UCF)
    except BadInput:  # fewer sources of a kind than folds
        return
    assert sorted(name for fold in dealt for name in fold) == sorted(one.name for one in videos)
    of = [{one.source for one in videos if one.name in fold} for fold in dealt]
    assert all(of)
    assert sum(map(len, of)) == len(sources)
    single = folds.deal(videos, count, "videos", 1, UCF)
    for label in ("Normal", "Fighting", "Abuse"):
        shares = [sum(one.name in fold for one in videos if one.label == label) for fold in single]
        assert max(shares) - min(shares) <= 1


@pytest.mark.parametrize(
    ("change", "more", "said"),
    [
        (str, ["--folds", "9"], "--folds 9: more than the largest class of the training list has videos, 6"),
        (str, ["--folds", "1"], "--folds 1: expected a value from 2"),
        (lambda text: text.replace("Normal,5", "Normal,"), [], "line 12 has no source"),
        (lambda text: text.replace("clip01.mp4", "../calm/clip00.mp4"), [], "clip00 is listed"),
        (lambda text: text.replace("Fighting", "Normal"), [], "without both kinds"),
    ],
)
def test_what_cannot_be_dealt(clips, change, more, said):
    clips.write_text(change(clips.read_text()))
    with pytest.raises(BadInput, match=said):
        run(clips, *more)
    assert not any((clips.parent / "out").rglob("best.pt"))


def test_options_of_folds_need_folds(clips):
    with pytest.raises(BadInput, match="--shuffle-labels: says how --folds deals"):
        ucf_train.parse_args(["--shuffle-labels"])


@pytest.mark.skipif(not CLIPS.exists(), reason="../shared/real is not here")
def test_the_real_clips_are_dealt_as_for_the_figures_in_docs():
    videos = [video(name, row["label"], row["source"]) for name, row in listed(CLIPS / "clips.csv").items()]
    assert len(videos) == 150
    for seed, first in {1: "2 10 15 46", 2: "2 20 22 37 46", 3: "3 20 33 46"}.items():
        dealt = folds.deal(videos, 5, "sources", seed, UCF)
        assert {one.source for one in videos if one.name in dealt[0]} == set(first.split())


def test_a_fold_selected_on_its_test_videos_without_intervals_takes_the_figure_by_video(clips, monkeypatch):
    seen = []
    figure = training.selection.headline_figure
    monkeypatch.setattr(training.selection, "headline_figure", lambda *a: seen.append(figure(*a)) or seen[-1])
    result, _ = run(clips, "--select", "test", "--max-epoch", "1")
    assert len(seen) == 4  # of each fold before it is trained, and after its epoch
    assert result["selected_on"] == "test"
