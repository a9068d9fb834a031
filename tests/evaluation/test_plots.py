"""utils/evaluation/plots.py: the numbers behind the pictures, and that each picture is written, stamped or not."""

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from sklearn.metrics import auc, average_precision_score, roc_auc_score

from benchmarks import DATASETS, UCF, XD
from utils.evaluation import plots
from utils.evaluation.ground_truth import GroundTruth
from utils.evaluation.scores import Scores
from utils.evaluation.segments import Segment

# Lengths that are no multiple of 16, segments that start and end inside a snippet, overlap, or lie in the cut last snippet.
TRUTH = {
    "two classes $1$": GroundTruth(157, 24.0, ((3, 40, "B2"), (30, 57, "G"), (150, 157, "B2"))),
    "v=x__#1_label_G-0-0": GroundTruth(96, 24.0, ((0, 96, "G"),)),
    "nothing happens": GroundTruth(205, 24.0, ()),
}


def make_scores(seed=0, truth=TRUTH, classes=7, short=0):
    """Random scores with ties, in snippets: ceil(F/16) − short of them."""
    random = np.random.default_rng(seed)
    scores = {}
    for name, video in truth.items():
        rows = -(-video.frames // 16) - short
        fine = random.dirichlet(np.ones(classes), rows).round(1)
        scores[name] = Scores(random.random(rows).round(1).astype(np.float32), fine.astype(np.float32))
    return scores


def drop(scores, part):
    return {name: video._replace(**{part: None}) for name, video in scores.items()}


def size(path):
    """(height, width) of a picture that can be read as a PNG."""
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    return matplotlib.image.imread(path).shape[:2]


@pytest.fixture
def texts(monkeypatch):
    """Every text in the figures that were written, in their order."""
    found, savefig = [], Figure.savefig

    def listen(figure, *args, **options):
        found.append([text.get_text() for text in figure.findobj(Text)])
        savefig(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", listen)
    return found


@pytest.mark.parametrize("part", ["coarse", "fine"])
@pytest.mark.parametrize("short", [0, 1])  # a feature extractor may drop the incomplete last snippet: the one before stands for its frames
def test_curve_of_weighted_snippets_is_the_curve_of_all_frames(part, short):
    scores = make_scores(short=short)
    values, labels = [], []
    for name, (coarse, fine, *_) in scores.items():
        video = TRUTH[name]
        rows = coarse if part == "coarse" else 1 - fine[:, 0]
        values.append([rows[min(i // 16, len(rows) - 1)] for i in range(video.frames)])
        labels.append([any(start <= i < end for start, end, _ in video.segments) for i in range(video.frames)])
    values, labels = np.concatenate(values), np.concatenate(labels)
    fpr, tpr, recall, precision = plots.curve(scores, TRUTH, part)
    assert auc(fpr, tpr) == pytest.approx(roc_auc_score(labels, values), abs=1e-12)
    assert -np.diff(recall) @ precision[:-1] == pytest.approx(average_precision_score(labels, values), abs=1e-12)
    assert (recall[0], recall[-1], precision[0]) == (1, 0, pytest.approx(labels.mean()))


def test_curve_of_scores_by_frame_is_that_of_their_snippets():
    scores = make_scores()
    frames = {name: Scores(np.repeat(video.coarse, 16)[: TRUTH[name].frames]) for name, video in scores.items()}
    for one, other in zip(plots.curve(frames, TRUTH, "coarse"), plots.curve(scores, TRUTH, "coarse"), strict=True):
        np.testing.assert_allclose(one, other)


def test_snippets_beyond_the_video_weigh_nothing():
    truth = {"a": GroundTruth(160, 30.0, ((80, 160, "G"),))}
    scores = np.repeat([0.2, 0.8, 0.1], [5, 5, 2])
    fpr, tpr, *_ = plots.curve({"a": Scores(scores)}, truth, "coarse")
    assert auc(fpr, tpr) == 1


def test_curve_is_none_without_the_score_or_without_one_kind_of_frames():
    scores = make_scores()
    assert plots.curve(drop(scores, "fine"), TRUTH, "fine") is None
    assert plots.curve({"nothing happens": scores["nothing happens"]}, TRUTH, "coarse") is None
    whole = "v=x__#1_label_G-0-0"
    assert plots.curve({whole: scores[whole]}, TRUTH, "coarse") is None


def test_confusion_counts_each_class_of_a_frame_and_cuts_the_last_snippet():
    # Snippets of 16, 16 and 8 frames are called normal, shooting (2) and explosion (6).
    fine = np.eye(7)[[0, 2, 6]]
    truth = {
        "both": GroundTruth(40, 24.0, ((10, 36, "B2"), (20, 40, "G"), (34, 40, "B2"))),
        "normal": GroundTruth(40, 24.0, ()),
    }
    expected = np.zeros((7, 7), int)
    expected[2, [0, 2, 6]] = 6, 16, 8  # the union of its segments, [10, 40)
    expected[6, [2, 6]] = 12, 8  # [20, 40)
    counts = plots.confusion({"both": Scores(None, fine), "normal": Scores(None, fine)}, truth, XD)
    np.testing.assert_array_equal(counts, expected)


def test_plot_confusion_shows_the_rows_with_frames_and_their_percentages(tmp_path, texts):
    fine = np.eye(7)[[0, 2, 6]]
    truth = {"both": GroundTruth(40, 24.0, ((10, 40, "B2"), (20, 40, "G")))}
    assert plots.plot_confusion(tmp_path / "confusion.png", {"both": Scores(None, fine)}, truth, XD, "selected on test")
    size(tmp_path / "confusion.png")
    rows = {text for text in texts[0] if text.rpartition("  ")[0]}
    assert rows == {"shooting  30", "explosion  20"}
    assert [text for text in texts[0] if text.isdigit()] == ["20", "53", "27", "60", "40"]
    assert "SELECTED ON TEST" in texts[0]


def test_nothing_is_drawn_without_a_fine_score_or_without_anomalies(tmp_path):
    scores = make_scores()
    assert plots.confusion(drop(scores, "fine"), TRUTH, XD) is None
    assert not plots.plot_confusion(tmp_path / "a.png", drop(scores, "fine"), TRUTH, XD)
    assert not plots.plot_confusion(tmp_path / "a.png", {"nothing happens": scores["nothing happens"]}, TRUTH, XD)
    assert not plots.plot_curves(tmp_path / "a.png", [{"nothing happens": scores["nothing happens"]}], TRUTH)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", [None, "coarse", "fine"])
def test_plot_scores_writes_one_picture_per_video_all_of_one_size(tmp_path, texts, missing):
    scores = make_scores() if missing is None else drop(make_scores(), missing)
    plots.plot_scores(tmp_path, scores, TRUTH, XD, "selected on test")
    names = {"two_classes__1_.png", "v=x___1_label_G-0-0.png", "nothing_happens.png"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert len({size(tmp_path / name) for name in names}) == 1
    legend = {"coarse", "fine, 1 − p(normal)"} - {{"coarse": "coarse", "fine": "fine, 1 − p(normal)"}.get(missing)}
    for name, written in zip(TRUTH, texts, strict=True):  # nothing of one video stays in the next one's picture
        classes = {XD.names[XD.labels.index(label)] for *_, label in TRUTH[name].segments}
        assert {text for text in written if text in XD.names} == classes
        assert {text for text in written if text.startswith(("coarse", "fine"))} == legend
        assert (name in written, written.count("SELECTED ON TEST")) == (True, 1)


def test_a_video_of_any_name_has_a_picture_of_its_own(tmp_path):
    names = ("停车场", "大门口", "камера а", "a b", "a_b", "a/b")
    scores, truth = next(iter(make_scores().values())), next(iter(TRUTH.values()))
    plots.plot_scores(tmp_path, dict.fromkeys(names, scores), dict.fromkeys(names, truth), XD)
    made = sorted(path.name for path in tmp_path.iterdir())
    assert len(made) == 6
    assert {"停车场.png", "大门口.png", "камера_а.png", "a_b.png"} < set(made)


def test_detected_segments_are_written_below_the_scores(tmp_path, texts):
    """Of four the three best, numbered by time, in at most two lines; `$` and markup as they are; no video has those of another."""
    long = "a man $x$ in <b>red</b> \\frac & 100 % *walks* " + 60 * "slowly "
    found = {
        "two classes $1$": [
            Segment(0, 20, "shooting", 0.2, "not shown"),
            Segment(24, 48, "explosion", 0.918, long),
            Segment(60, 90, "shooting", 0.5, "short"),
            Segment(100, 157, "riot", 0.6),
        ],
        "v=x__#1_label_G-0-0": [Segment(0, 96, "fighting", 0.7, "一个人")],
        "nothing happens": [],
    }
    plots.plot_scores(tmp_path, make_scores(), TRUTH, XD, "selected on test", segments=found)
    assert len({size(path) for path in tmp_path.iterdir()}) == 1
    [listed] = [text for text in texts[0] if "0:01" in text]
    lines = listed.splitlines()
    assert lines[0].startswith(f"1  0:01–0:02  explosion 92 %: {long[:45]}")
    assert lines[1].startswith("    ")
    assert lines[1].endswith("slowly …")
    assert lines[2:] == ["2  0:02–0:04  shooting 50 %: short", "3  0:04–0:07  riot 60 %   (and 1 more)"]
    assert {"1", "2", "3", "detected"} <= set(texts[0])
    assert "1  0:00–0:04  fighting 70 %: 一个人" in texts[1]
    assert not {"1", "2"} & set(texts[2])


def test_segments_without_captions_take_a_line_each(tmp_path, texts):
    found = {name: [Segment(0, 48, "riot", 0.5)] for name in TRUTH}
    plots.plot_scores(tmp_path / "plain", make_scores(), TRUTH, XD, segments=found)
    assert all("1  0:00–0:02  riot 50 %" in written for written in texts)


def test_plot_curves_gives_mean_and_std_of_the_seeds(tmp_path, texts):
    runs = [make_scores(seed) for seed in (1, 2, 3)]
    assert plots.plot_curves(tmp_path / "one.png", runs[:1], TRUTH)
    assert plots.plot_curves(tmp_path / "three.png", runs, TRUTH, "selected on test")
    areas = [100 * auc(*plots.curve(scores, TRUTH, "coarse")[:2]) for scores in runs]
    assert f"coarse: AUC {areas[0]:.2f} %" in texts[0]
    assert f"coarse: AUC {np.mean(areas):.2f} ± {np.std(areas, ddof=1):.2f} %" in texts[1]
    assert ["SELECTED ON TEST" in written for written in texts] == [False, True]
    assert not any("seeds" in text for text in texts[0])
    assert size(tmp_path / "one.png") == size(tmp_path / "three.png")


def test_the_online_score_is_drawn_in_a_colour_and_a_line_of_its_own(tmp_path, texts):
    assert len({colour for colour, _ in plots.STYLES.values()}) == len({style for _, style in plots.STYLES.values()}) == 3
    scores = {name: video._replace(fine=None, online=video.coarse[::-1]) for name, video in make_scores().items()}
    plots.plot_scores(tmp_path, scores, TRUTH, XD)
    assert all({"coarse", "online"} <= set(written) for written in texts)
    texts.clear()
    assert plots.plot_curves(tmp_path / "curves.png", [scores], TRUTH)
    area = 100 * auc(*plots.curve(scores, TRUTH, "online")[:2])
    assert f"online: AUC {area:.2f} %" in texts[0]
    assert not any(text.startswith("fine") for text in texts[0])


def test_plot_curves_leaves_out_a_score_that_the_model_lacks(tmp_path, texts):
    assert plots.plot_curves(tmp_path / "fine.png", [drop(make_scores(), "coarse")], TRUTH)
    assert not any(text.startswith("coarse") for text in texts[0])
    assert sum(text.startswith("fine") for text in texts[0]) == 2


@pytest.mark.parametrize("key", ["ucf", "xd"])
def test_plot_alignment_names_every_class(tmp_path, texts, key):
    dataset = DATASETS[key]
    video = GroundTruth(157, 24.0, ((3, 40, dataset.labels[1]), (30, 157, dataset.labels[-1])))
    alignment = np.random.default_rng(0).dirichlet(np.ones(len(dataset.names)), 10)
    plots.plot_alignment(tmp_path / "map.png", "name $1$", alignment, video, dataset, "selected on test")
    size(tmp_path / "map.png")
    assert {*dataset.names, "name $1$", "SELECTED ON TEST"} <= set(texts[0])


@pytest.mark.parametrize("selected", [{"val": 0.8}, {}])
def test_plot_training(tmp_path, selected):
    log = [{"epoch": epoch, "loss_coarse": 1 / epoch, "loss": 2 / epoch, "lr": 1e-3, **selected} for epoch in (1, 2)]
    plots.plot_training(tmp_path / "plots" / "training.png", log)
    size(tmp_path / "plots" / "training.png")


def test_every_loss_has_a_curve(tmp_path, texts):
    names = [*(f"loss_{term}" for term in "abcdefgh"), "loss"]
    plots.plot_training(tmp_path / "training.png", [{"epoch": 1, "lr": 1e-3} | dict.fromkeys(names, 1.0)])
    assert set(names) <= set(texts[0])


def test_a_failed_picture_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "map.png"
    path.write_bytes(b"old")
    monkeypatch.setattr(Figure, "savefig", lambda *args, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        plots.plot_alignment(path, "x", np.ones((2, 14)) / 14, GroundTruth(32, 30.0, ()), UCF)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("map.png", b"old")]
