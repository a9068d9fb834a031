"""utils/evaluation/segments.py: one rule for reports, demo and live streams: which segments a video has, and in whose words."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.analysis import find_segments
from app.live.events import Events, Place, Scored
from benchmarks import UCF
from dataset import Video
from utils.captions.formats import Caption, VideoCaptions, write_captions
from utils.captions.tree import CaptionTree
from utils.errors import BadInput
from utils.evaluation import segments
from utils.evaluation.ground_truth import GroundTruth
from utils.evaluation.scores import Scores, to_frames
from utils.evaluation.segments import Segment


def coarse(heights, elsewhere=0.1):
    """(10,): `heights` by row."""
    rows = np.full(10, elsewhere)
    rows[list(heights)] = list(heights.values())
    return rows


def fine(**classes):
    """(10, 14): what a class has in some rows, by row; 0.1 of it elsewhere; the normal class the rest."""
    rows = np.zeros((10, 14))
    for name, heights in classes.items():
        rows[:, UCF.labels.index(name)] = 0.1
        rows[list(heights), UCF.labels.index(name)] = list(heights.values())
    rows[:, 0] = 1 - rows.sum(1)
    return rows


def detect(scores, frames=160, texts=None, threshold=0.5):
    texts = None if texts is None else {"v": [Caption(*caption) for caption in texts]}
    return segments.detect({"v": scores}, {"v": GroundTruth(frames, 30, ())}, UCF, threshold, texts)["v"]


def test_a_run_that_reaches_the_threshold_with_its_score_and_class():
    [found] = detect(Scores(coarse({3: 0.8, 4: 0.5}), fine(Abuse={3: 0.3}, Fighting={4: 0.2, 8: 0.7})))
    assert found[:3] == (48, 80, "abuse")  # 0.3 and 0.1 against 0.1 and 0.2; "normal", which is higher, is not asked
    assert (found.score, found.caption) == (0.8, None)  # the highest


def test_one_lower_snippet_does_not_part_a_run_two_do():
    found = detect(Scores(coarse({1: 0.9, 3: 0.6, 6: 0.6}), fine(Abuse={1: 0.4, 3: 0.2}, Fighting={2: 0.3, 6: 0.5})))
    assert [one[:3] for one in found] == [(16, 64, "abuse"), (96, 112, "fighting")]


@pytest.mark.parametrize("part", ["coarse", "online"])  # online, where there is no coarse score
def test_the_score_that_says_where(part):
    scores = Scores(fine=fine(Abuse={3: 0.8, 4: 0.4}), **{part: coarse({5: 0.5})})
    assert [one[:2] for one in detect(scores)] == [(80, 96)]
    assert [one[:2] for one in detect(scores, threshold=0.51)] == []
    assert [one[:2] for one in detect(Scores(None, scores.fine))] == [(48, 64)]  # 1 − p(normal), without both


@pytest.mark.parametrize("part", ["coarse", "online"])
def test_without_classes_an_anomaly_is_found(part):
    assert detect(Scores(**{part: coarse({3: 0.9, 4: 0.5})})) == [Segment(48, 80, "anomaly", 0.9)]


def test_reports_demo_and_live_streams_cut_alike():
    random = np.random.default_rng(0)
    for threshold in (0.2, 0.5, 0.8):
        scores = Scores(random.random(60), random.dirichlet(np.full(14, 0.3), 60))
        reported = detect(scores, 960, threshold=threshold)
        shown = find_segments(scores, 16.0 * np.arange(61), UCF.names, threshold)
        events = Events(UCF.names, threshold)
        lines = [
            line for t in range(60) for line in events.add(Scored(Place(t, 0, 16 * t, 16 * t + 16, 0.0), scores.coarse[t], scores.fine[t]))
        ]
        ended = [line for line in [*lines, *events.close()] if line["state"] == "end"]
        assert [(one.start, one.end, one.label) for one in reported] == [(one.start, one.end, one.label) for one in shown]
        assert [(one.start, one.end, one.label) for one in shown] == [(line["start"], line["end"], line["class"]) for line in ended]
        assert [one.score for one in reported] == [one.score for one in shown]


@pytest.mark.parametrize(
    ("captions", "carried"),
    [
        ([(32, 48, "before"), (48, 64, "low"), (64, 80, "high"), (80, 96, "after")], "high"),
        ([(48, 64, "low"), (64, 80, ""), (80, 96, "after")], "low"),  # the highest snippet has none
        ([(64, 80, "b"), (0, 160, "all"), (64, 70, "b")], "b / all"),
        ([(60.5, 63.9, "second and a half")], "second and a half"),
        ([(64, 64, "a moment"), (48, 64, "low")], "a moment"),
        ([(80, 80, "a moment too late"), (47, 48, "too early")], None),
        ([], None),
        ([(64, 80, "one\nline \x1b[31m|\u202e$x$\ud83d")], "one line [31m| $x$"),
    ],
)
def test_the_caption_of_the_highest_snippet_that_has_one(captions, carried):
    [found] = detect(Scores(coarse({3: 0.7, 4: 0.8})), texts=captions)
    assert (found.start, found.end, found.caption) == (48, 80, carried)


def test_captions_of_scores_by_frame_and_beyond_the_last_row():
    scores = Scores(coarse({8: 0.7, 9: 0.8}))
    by_frame = Scores(np.repeat(scores.coarse, 16))
    by_frame.coarse[158] = 1
    captions = [(128, 158, "long before"), (158, 159, "then"), (159, 175, "and after")]
    assert detect(by_frame, texts=captions)[0].caption == "then"
    [found] = detect(scores, 170, [(128, 144, "low"), (162, 170, "behind the last whole snippet")])  # frames there take the last row
    assert (found.end, found.caption) == (170, "behind the last whole snippet")


def test_a_video_without_texts_has_segments_without_caption():
    scores = {name: Scores(coarse({3: 0.8, 4: 0.5})) for name in "ab"}
    truth = {name: GroundTruth(160, 30, ()) for name in "ab"}
    found = segments.detect(scores, truth, UCF, 0.5, {"a": [Caption(0, 160, "seen")]})
    assert [found[name][0].caption for name in "ab"] == ["seen", None]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 200), st.booleans(), st.floats(0.1, 0.9))
def test_every_segment_keeps_the_rule(seed, frames, both, threshold):
    random = np.random.default_rng(seed)
    rows = max(frames // 16, 1)
    scores = Scores(random.random(rows) if both else None, random.dirichlet(np.full(14, 0.3), rows))
    found = detect(scores, frames, [(0, frames, "whole")], threshold)
    happens = to_frames(scores.anomaly("coarse" if both else "fine"), frames)
    inside = np.zeros(frames, bool)
    for one in found:
        assert 0 <= one.start < one.end <= frames
        assert threshold <= one.score == happens[one.start : one.end].max()
        assert happens[one.start] >= threshold <= happens[one.end - 1]
        assert one.label in UCF.names[1:]
        assert one.caption == "whole"
        inside[one.start : one.end] = True
    assert not (happens[~inside] >= threshold).any()
    assert found == sorted(found)
    assert all(other.start - one.end > 16 for one, other in itertools.pairwise(found) if frames // 16 > 1)


def test_the_threshold_of_a_checkpoint_and_without_one():
    known = {"videos": 3, "snippets": 1200, "rates": {"0.01": 0.731}}
    source = "reached by at most 1 % of the 1,200 snippets of 3 normal videos held out of training, scored whole"
    assert segments.known_threshold(known, 0.01) == (0.731, source)
    assert segments.known_threshold(known, 0.05) is None
    for nothing in (None, {"videos": 0, "snippets": 0, "rates": {}}):
        assert segments.known_threshold(nothing, 0.01) is None


def test_rows_behind_the_end_of_a_video_show_nothing():
    """Features may have a snippet more than the ground truth (--allow-length-mismatch)."""
    scores = Scores(np.r_[np.full(9, 0.1), 0.9, np.full(4, 0.9)])
    assert detect(scores, 160, [(0, 300, "all")]) == [Segment(144, 160, "anomaly", 0.9, "all")]
    assert detect(Scores(np.r_[np.full(160, 0.1), np.full(10, 0.9)]), 160, [(0, 300, "all")]) == []


def test_texts_lie_beside_the_source_of_a_caption_tree(tmp_path):
    names = {"a": "source/Abuse/a.npy", "b": "source/b__0.npy", "c": "source/c_emb_0.npy", "none": "rewrite-1/none.npy"}
    for name, place in names.items():
        path = tmp_path / "tree" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.zeros((2, 3), np.float16))
        if name in "ab":
            write_captions(path.with_name(f"{name}.jsonl"), name, VideoCaptions(32, 30, [Caption(0, 16, f"seen in {name}")]))
    write_captions(tmp_path / "tree" / "rewrite-1" / "a.jsonl", "a", VideoCaptions(32, 30, [Caption(0, 16, "rewritten")]))
    videos = [Video(name, "Normal", (1.0,) + 13 * (0.0,), (tmp_path / f"{name}.npy",), None) for name in names]
    tree = CaptionTree(tmp_path / "tree", 3)
    texts = tree.texts(videos)
    assert {name: captions[0].text for name, captions in texts.items()} == {"a": "seen in a", "b": "seen in b"}

    damaged = tmp_path / "tree" / "source" / "b.jsonl"
    damaged.write_text('{"video": "b"}\n{"frames"')
    with pytest.raises(BadInput, match=r"b\.jsonl: line 2: not a JSON file"):
        tree.texts(videos)


def test_rows_say_seconds_and_whether_the_class_is_annotated_there():
    truth = {"v": GroundTruth(160, 30, ((40, 60, "Abuse"),))}
    found = [Segment(45, 96, "abuse", 0.5, "seen"), Segment(60, 80, "abuse", 0.5), Segment(45, 96, "fighting", 0.5)]
    made = segments.rows({"v": [*found, Segment(0, 41, "anomaly", 0.5)]}, truth, UCF)["v"]
    assert [row["annotated"] for row in made] == [True, False, False, True]
    assert made[0] == {
        "start": 45, "end": 96, "seconds": [1.5, 3.2], "class": "abuse", "score": 0.5, "annotated": True, "caption": "seen",
    }  # fmt: skip


def test_shorten():
    assert [segments.shorten("one two", width) for width in (7, 6, 5)] == ["one two", "one t…", "one…"]
