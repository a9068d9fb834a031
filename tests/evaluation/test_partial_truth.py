"""Test videos of which nobody says when they show something: figures by video, and by frame on the others."""

import json

import numpy as np
import pytest

from benchmarks import UCF
from utils.errors import BadInput
from utils.evaluation import plots, report, segments
from utils.evaluation.ground_truth import GroundTruth, load_ground_truth, write_ground_truth
from utils.evaluation.intervals import resampled
from utils.evaluation.metrics import bag_score, video_figures
from utils.evaluation.scores import Scores
from utils.evaluation.selection import headline_figure
from utils.labels import Dataset

NORMAL = GroundTruth(32, 30, ())
TRUTH = {
    "calm": NORMAL,
    "busy": NORMAL,
    "timed": GroundTruth(32, 30, ((0, 16, "Abuse"),)),
    "untimed": GroundTruth(32, 30, None, ("Fighting",)),
}
COARSE = {"calm": [0.1, 0.2], "busy": [0.6, 0.1], "timed": [0.9, 0.3], "untimed": [0.5, 0.4]}
NORMAL_SHARE = {"calm": [0.9, 0.9], "busy": [0.9, 0.5], "timed": [0.6, 0.6], "untimed": [0.1, 0.2]}
ABOUT = {
    "dataset": "ucf", "model": "reflip", "checkpoint": "best.pt", "selected_on": "val", "sample": False, "features": "visual",
    "command": "python ucf_train.py", "versions": {}, "seeds": [1], "headline": [["video", "coarse", "auc"], ["video", "coarse", "ap"]],
    "paper": {"rule": "best epoch on test", "figures": {}}, "official_videos": None, "truth": "gt.json",
}  # fmt: skip


def made(truth=TRUTH, **more):
    scores = {}
    for name in truth:
        fine = np.zeros((2, 14), np.float32)
        fine[:, 0] = NORMAL_SHARE[name]
        fine[:, 1] = 1 - fine[:, 0]
        scores[name] = Scores(np.array(COARSE[name], np.float32), fine)
    drawn = report.resample(scores, truth, UCF, 20, **more)
    return scores, drawn, ABOUT | report.evaluate(scores, truth, UCF, drawn)


def value(content, *path):
    return pytest.approx(report.figures(content)[path]["value"])


def test_figures_by_video_are_of_all_and_by_frame_of_those_with_intervals():
    _, _, content = made()
    assert value(content, "video", "coarse", "auc") == 3 / 4  # 0.9 and 0.5 against 0.2 and 0.6
    assert value(content, "video", "coarse", "ap") == (1 + 2 / 3) / 2
    assert value(content, "video", "fine", "auc") == 3 / 4  # 0.4 and 0.9 against 0.1 and 0.5
    assert value(content, "video", "per_class", "coarse", "abuse", "auc") == 1
    assert value(content, "video", "per_class", "coarse", "fighting", "auc") == 1 / 2
    assert value(content, "video", "per_class", "coarse", "fighting", "ap") == 1 / 2
    assert value(content, "coarse", "auc") == 1  # 16 frames of 0.9 against 80 lower ones
    assert content["timed"] == 3
    assert "video_auc" not in content["coarse"]  # it would be of these three
    assert content["per_class"]["coarse"].keys() == {"abuse"}
    assert report.headline(content).startswith("coarse AUC by video 75.00 %")
    assert "frame figures on 3 of 4 videos with intervals, or normal (ground truth: gt.json)" in report.heading(content)


def test_without_any_interval_there_are_no_figures_by_frame(tmp_path):
    scores, drawn, content = made({**TRUTH, "timed": GroundTruth(32, 30, None, ("Abuse", "Fighting"))})
    assert {path[0] for path in drawn} == {"video"}
    assert (content["coarse"], content["map"], content["timed"]) == (None, None, 0)
    assert content["video"]["per_class"]["coarse"]["fighting"]["auc"] == {"value": 3 / 4, "low": None, "high": None, "videos": 2}
    report.write_report(tmp_path, content)
    for shown in ((tmp_path / "report.md").read_text(), report.print_table(content)):
        assert "no frame figures: no test video has intervals (ground truth: gt.json)" in shown
        assert "video coarse auc" in shown
    assert headline_figure(scores, TRUTH, "coarse", "auc") == (3 / 4, "coarse AUC by video", 0)
    for kind in (TRUTH["timed"], GroundTruth(32, 30, ()), GroundTruth(32, 30, None, ("Abuse",))):
        truth = dict.fromkeys(scores, kind)
        if kind.segments:
            headline_figure(scores, truth, "coarse", "auc")
        else:
            with pytest.raises(BadInput, match=r"--select test: coarse AUC.* of 4 test videos is not defined"):
                headline_figure(scores, truth, "coarse", "auc")


def test_complete_ground_truth_has_the_figures_that_it_had():
    whole = {**TRUTH, "untimed": GroundTruth(32, 30, ((16, 32, "Fighting"),))}
    _, drawn, content = made(whole)
    assert not {"video", "timed", "sources"} & content.keys()
    assert {path[0] for path in drawn} == {"coarse", "fine", "per_class", "map"}
    assert not report.not_known(content)
    _, more, _ = made(whole, by_video=True)
    for path, values in drawn.items():  # the figures by video are added, and change no other
        assert np.array_equal(values, more.pop(path), equal_nan=True)
    assert {path[0] for path in more} == {"video"}


def test_of_seeds_the_mean(tmp_path):
    _, drawn, content = made()
    both = report.summarise([content, content | {"seeds": [2]}], [drawn, drawn])
    assert both["video"]["coarse"]["auc"]["std"] == 0
    assert (both["timed"], both["truth"]) == (3, "gt.json")
    report.write_report(tmp_path, both)
    assert "75.00 ± 0.00" in (tmp_path / "report.md").read_text()


def test_a_bag_is_the_mean_of_its_highest_snippets():
    values = np.arange(20, dtype=np.float32)
    assert bag_score(values) == 18.5  # K = ⌊20/16 + 1⌋ = 2
    assert bag_score(values[:15]) == 14
    assert bag_score(np.repeat(values, 16), 320) == pytest.approx(np.repeat(values, 16)[-36:].mean())


def test_sources_are_drawn_with_all_their_videos():
    bags, anomalous, sources = np.array([0.6, 0.7, 0.1, 0.4]), np.array([True, False, False, True]), np.array([0, 0, 0, 1])
    found = resampled(video_figures(bags, anomalous, sources), 4, 50, sources=sources)
    assert found["auc"][0] == 2 / 4  # 0.6 and 0.4 against 0.7 and 0.1
    assert found["within_source_auc"][0] == 1 / 2  # 0.6 against 0.7 and 0.1: the other has no normal video beside it
    assert np.isnan(found["auc"]).any()  # the second source alone
    assert set(found["within_source_auc"][~np.isnan(found["within_source_auc"])]) == {0.5}


def test_intervals_over_sources_where_all_are_known():
    truth = {name: GroundTruth(v.frames, v.fps, v.segments, v.labels, "hall" if v == NORMAL else name) for name, v in TRUTH.items()}
    _, _, content = made(truth)
    assert content["sources"] == 3
    assert "95 % bootstrap intervals over 3 sources" in "\n".join(report.heading(content))
    assert content["video"]["coarse"]["within_source_auc"]["value"] is None
    assert "sources" not in made({**truth, "calm": NORMAL})[2]


def test_segments_and_pictures_of_untimed_videos(tmp_path):
    scores, _, _ = made()
    found = segments.detect(scores, TRUTH, UCF, 0.45)
    rows = segments.rows(found, TRUTH, UCF)
    assert [row["annotated"] for name in TRUTH for row in rows[name]] == [False, True, None]
    shown = ABOUT | made()[2] | {"segments": rows, "threshold": {"value": 0.45, "from": "told"}}
    report.write_report(tmp_path, shown)
    assert "| abuse | 50.0 | – |" in (tmp_path / "report.md").read_text()
    plots.plot_scores(tmp_path, scores, TRUTH, UCF, segments=found)
    plots.plot_alignment(tmp_path / "alignment.png", "untimed", scores["untimed"].fine, TRUTH["untimed"], UCF)
    assert {path.name for path in tmp_path.glob("*.png")} == {f"{name}.png" for name in (*TRUTH, "alignment")}


def test_what_a_run_leaves_of_its_ground_truth_is_read_back(tmp_path):
    truth = {**TRUTH, "of": GroundTruth(16, 25.5, None, ("Abuse", "Arson"), "hall")}
    write_ground_truth(tmp_path / "truth.json", truth)
    assert load_ground_truth(tmp_path / "truth.json", UCF) == truth
    written = json.loads((tmp_path / "truth.json").read_text())
    assert written["timed"] == {"frames": 32, "fps": 30, "segments": [[0, 16, "Abuse"]]}  # as ever
    for entry, said in (
        ({"segments": None}, "segments None"),
        ({"segments": [[0, 16, "Abuse"]], "labels": ["Abuse"]}, "or null and the labels"),
        ({"segments": None, "labels": ["Normal"]}, "label 'Normal'"),
        ({"segments": None, "labels": "Abuse"}, "labels"),
    ):
        (tmp_path / "odd.json").write_text(json.dumps({"x": {"frames": 32, "fps": 30, **entry}}))
        with pytest.raises(BadInput, match=said):
            load_ground_truth(tmp_path / "odd.json", UCF)


def test_a_class_called_as_the_released_ground_truth_calls_normal_videos_is_a_class_like_others():
    found = []
    for label in ("A", "Accident"):
        dataset = Dataset("mine", "Mine", 30, ("Normal", label), ("normal", "accident"))
        truth = {"calm": NORMAL, "crash": GroundTruth(32, 30, ((0, 16, label),))}
        fine = {"calm": [[0.9, 0.1]] * 2, "crash": [[0.1, 0.9], [0.8, 0.2]]}
        scores = {name: Scores(None, np.array(rows, np.float32)) for name, rows in fine.items()}
        found.append(report.resample(scores, truth, dataset, 5))
    assert found[0]["map", "official", "avg"][0] == found[1]["map", "official", "avg"][0] > 0
