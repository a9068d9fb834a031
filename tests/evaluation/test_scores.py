"""utils/evaluation/scores.py: every format that is read, what is refused by name, and how rows of scores become frames."""

import gzip
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import UCF, XD
from dataset import read_rows
from utils.errors import BadInput
from utils.evaluation.ground_truth import GroundTruth
from utils.evaluation.scores import Scores, check_lengths, load_scores, save_scores, to_frames
from utils.files import ROOT
from utils.labels import VIDEO_SUFFIXES, video_name


def write(path, content):
    """Text as it is, anything else as JSON; compressed where the name ends in .gz."""
    text = content if isinstance(content, str) else json.dumps(content)
    with (gzip.open if path.suffix == ".gz" else open)(path, "wt", encoding="utf-8") as file:
        file.write(text)
    return path


def anomaly_scores(path, names=None):
    """{NAME: list of scores} of a file without classes."""
    scores, classes = load_scores(path, names)
    assert classes is None
    assert all(video.fine is None and video.online is None for video in scores.values())
    return {name: video.coarse.tolist() for name, video in scores.items()}


@pytest.mark.parametrize(("coarse", "fine", "online"), [(True, True, False), (True, False, True), (False, True, False)])
@pytest.mark.parametrize("dataset", [UCF, XD])
def test_what_is_saved_is_loaded(tmp_path, dataset, coarse, fine, online):
    random = np.random.default_rng(0)
    scores = {
        name: Scores(
            random.random(rows, np.float32) if coarse else None,
            random.dirichlet(np.ones(len(dataset.names)), rows) if fine else None,
            random.random(rows, np.float32) if online else None,
            random.random(rows) < 0.5 if online else None,
        )
        for name, rows in (("Abuse028_x264", 3), ("v=8cTqh9tMz_I__#1_label_G-B2-B6", 1), ("y z", 40))
    }
    save_scores(tmp_path / "scores.npz", scores, dataset.names)
    loaded, classes = load_scores(tmp_path / "scores.npz")
    assert classes == dataset.names
    assert list(loaded) == list(scores)
    for name, parts in scores.items():
        for part, same in zip(parts, loaded[name], strict=True):
            assert same is None if part is None else (same.dtype == part.dtype and np.array_equal(same, part))


def test_a_video_that_lacks_a_score_that_others_have_is_named(tmp_path):
    fine = np.full((2, 14), 1 / 14)
    save_scores(tmp_path / "a.npz", {"a": Scores(np.zeros(2), fine), "b": Scores(np.zeros(2))}, UCF.names)
    with pytest.raises(BadInput, match="b has coarse, a has coarse and fine; expected the same kinds of score for each video"):
        load_scores(tmp_path / "a.npz")


@pytest.mark.parametrize("arrays", [{"a/coarse": np.zeros(2), "a/covered": np.ones(2)}, {"a/covered": np.ones(2, bool)}])
def test_covered_rows_are_true_or_false_and_no_score(tmp_path, arrays):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(BadInput, match=r"a: expected finite scores, .*, and covered \(T,\) of true and false or none"):
        load_scores(tmp_path / "a.npz")


def test_a_list_of_names_with_a_header_line(tmp_path):
    names = write(tmp_path / "names.csv", "path,label\nNormal/b.npy,Normal\nAbuse/a.npy,Abuse\n")
    assert anomaly_scores(write(tmp_path / "a.csv", "video,score\n0,0.5\n1,1\n"), names) == {"b": [0.5], "a": [1]}


def test_npz_with_one_array_per_name(tmp_path):
    np.savez(tmp_path / "a.npz", **{"test/Abuse028_x264__3.npy": [0.5, 1.0], "Arson011_x264": [2.0]})
    assert anomaly_scores(tmp_path / "a.npz") == {"Abuse028_x264": [0.5, 1], "Arson011_x264": [2]}


@pytest.mark.parametrize("ending", [".csv", ".csv.gz"])
@pytest.mark.parametrize("column", ["score", "pred"])
def test_csv_by_name(tmp_path, ending, column):
    text = f"video,gt,{column}\nAbuse028_x264.mp4,0,0.5\nArson011_x264.mp4,1,0.25\nAbuse028_x264.mp4,1,0.75\n"
    assert anomaly_scores(write(tmp_path / f"a{ending}", text)) == {"Abuse028_x264": [0.5, 0.75], "Arson011_x264": [0.25]}


@pytest.mark.parametrize("ending", [".csv", ".csv.gz"])
def test_csv_by_number_counts_videos_of_the_list_not_its_ten_crops(tmp_path, ending):
    crops = [f"test/{name}{crop}.npy,Normal" for name in ("B", "A", "C") for crop in ("", *(f"__{i}" for i in range(1, 10)))]
    names = write(tmp_path / "a.list", "\n".join(crops) + "\n\n")
    path = write(tmp_path / f"a{ending}", "video_id,pred,gt\n0,0.5,0\n0,0.75,1\n2,0.25,0\n1,1,0\n")
    assert anomaly_scores(path, names) == {"B": [0.5, 0.75], "C": [0.25], "A": [1]}


@pytest.mark.parametrize("ending", [".json", ".json.gz"])
def test_json_ranges_in_any_order(tmp_path, ending):
    content = {"vid_score": {"Abuse028_x264.mp4": {"3, 5": [-1, 0.9], "0, 3": [0, 0.1]}, "x.mp4": {"0, 2": 1}}}
    assert anomaly_scores(write(tmp_path / f"a{ending}", content)) == {
        "Abuse028_x264": [0.5, 0.5, 0.5, 0.2689, 0.2689],  # a sigmoid, four decimals: as its authors evaluate them
        "x": [0.7311, 0.7311],
    }


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("/data/test/Abuse028_x264__9.npy", "Abuse028_x264"),
        (r"C:\data\Abuse028_x264.mp4", "Abuse028_x264"),
        ("Abuse028_x264__0", "Abuse028_x264"),
        ("Bad.Boys.1995__#01-11-55_01-12-40_label_G-B2-B6", "Bad.Boys.1995__#01-11-55_01-12-40_label_G-B2-B6"),
        ("v=8cTqh9tMz_I__#1_label_A__4.npy", "v=8cTqh9tMz_I__#1_label_A"),
        ("a.MP4", "a"),
        ("a.webm", "a"),
        ("a.M2TS", "a"),
        ("a.avi.npy", "a"),
        ("x/a.mp4__3.npy", "a"),
        ("a__3.Mov", "a"),
        ("a__12.mp4", "a__12"),
        ("01", "01"),
        (".mp4", ".mp4"),
        ("__1", "__1"),
        ("", ""),
    ],
)
def test_names_lose_folder_crop_and_extension(text, name):
    assert video_name(text) == name


@pytest.mark.parametrize("suffix", sorted(VIDEO_SUFFIXES))
def test_any_known_suffix_in_any_case(suffix):
    assert {video_name(f"A.2001{end}") for end in (suffix, suffix.upper(), suffix.title())} == {"A.2001"}


@pytest.mark.parametrize("key", ["ucf", "xd"])
def test_official_names_are_names_already(key):
    names = list(json.loads((ROOT / "list" / f"{key}_gt.json").read_text()))
    names += [Path(row).stem for row, _ in read_rows(ROOT / "list" / f"{key}_ReFLIP_rgb.csv", "--train-list")]
    assert len(names) > 1800
    assert [video_name(name) for name in names] == names


NAMES = "test/A.npy\ntest/A__1.npy\ntest/B.npy\n"


def npz(**arrays):
    return lambda path: np.savez(path, **arrays)


def text(content):
    return lambda path: write(path, content)


def truncated(path):
    np.savez(path, A=np.arange(1000.0))
    path.write_bytes(path.read_bytes()[:-200])


def damaged(path):
    np.savez_compressed(path, A=np.random.default_rng(0).random(1000))
    content = bytearray(path.read_bytes())
    content[200:300] = bytes(100)
    path.write_bytes(content)


def cut_gzip(path):
    write(path, "video,score\n" + "A,0.123\n" * 1000)
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize(
    ("file", "make", "said"),
    [
        ("none.npz", None, "no such file"),
        ("none.csv.gz", None, "no such file"),
        ("a.txt", text("A 0.5"), ".npz, .csv, .json"),
        ("a.npy", lambda path: np.save(path, np.ones(3)), ".npz, .csv, .json"),
        ("a.npz", truncated, "no readable .npz"),
        ("a.npz", damaged, "no readable .npz"),
        ("a.npz", text(""), "no readable .npz"),
        ("a.npz", npz(A=np.array([{"score": 0.5}], object)), "pickled objects, which are never loaded"),
        ("a.npz", npz(A=np.array([0.5, math.nan])), "A: expected finite"),
        ("a.npz", npz(A=np.array([0.5, math.inf])), "A: expected finite"),
        ("a.npz", npz(A=np.zeros(0)), "A: expected finite"),
        ("a.npz", npz(A=np.array(0.5)), "A: expected finite"),
        ("a.npz", npz(A=np.array(["high", "low"])), "A: expected finite"),
        ("a.npz", npz(A=np.ones((4, 10))), "A: expected finite"),
        ("a.npz", npz(**{"A/coarse": np.ones(4), "A/fine": np.ones((3, 2)), "classes": ["normal", "fire"]}), "A: expected finite"),
        ("a.npz", npz(**{"A/fine": np.ones(4), "classes": ["normal", "fire"]}), "A: expected finite"),
        ("a.npz", npz(**{"A/fine": np.ones((4, 3)), "classes": ["normal", "fire"]}), "A: expected finite"),
        ("a.npz", npz(A__0=np.ones(4), A__1=np.ones(4)), "A stands there twice"),
        ("a.npz", npz(), "no video"),
        ("a.csv", text("video,score\n"), "no video"),
        ("a.csv", text(""), "no readable scores"),
        ("a.csv", text("video,label\nA,0.5\n"), "columns video, label"),
        ("a.csv", text("video,score\nA,0.5\nA,high\n"), "high"),
        ("a.csv", text("video,score\nA,0.5\nA,\n"), "A: expected finite"),
        ("a.csv", text("video,score\nA__0.npy,0.5\nA__1.npy,0.5\n"), "A stands there twice"),
        ("a.csv.gz", cut_gzip, "cannot be read"),
        ("a.csv.gz", lambda path: path.write_text("video,score\nA,0.5\n"), "cannot be read"),
        ("a.json", text('{"vid_score": {"A": {"0, 4"'), "not a JSON file"),
        ("a.json", text({"A": {"0, 4": 0.5}}), "vid_score"),
        ("a.json", text([]), "expected a valid dictionary"),
        ("a.json", text({"vid_score": {}}), "no video"),
        ("a.json", text({"vid_score": {"A": {}}}), "A: "),
        ("a.json", text({"vid_score": {"A": {"0, 4": []}}}), "no readable scores"),
        ("a.json", text({"vid_score": {"A": {"0, 4": None}}}), "no readable scores"),
        ("a.json", text({"vid_score": {"A": {"0, 4": math.nan}}}), "A: expected finite"),
        ("a.json", text({"vid_score": {"A": {"0-4": 0.5}}}), "0-4"),
        ("a.json", text({"vid_score": {"A": {"0, 4": 0.5, "5, 8": 0.5}}}), "A: ranges that overlap or leave frames out"),
        ("a.json", text({"vid_score": {"A": {"0, 4": 0.5, "3, 8": 0.5}}}), "A: ranges that overlap or leave frames out"),
        ("a.json", text({"vid_score": {"A": {"1, 4": 0.5}}}), "A: ranges that overlap or leave frames out"),
        ("a.json.gz", lambda path: path.write_text("{}"), "cannot be read"),
    ],
)
def test_bad_file_is_named_in_one_line(tmp_path, file, make, said):
    if make:
        make(tmp_path / file)
    with pytest.raises(BadInput) as error:
        load_scores(tmp_path / file)
    message = str(error.value)
    assert said in message
    assert str(tmp_path / file) in message
    assert "\n" not in message


@pytest.mark.parametrize("number", ["2", "-1", "A", ""])
def test_csv_number_that_the_list_does_not_have(tmp_path, number):
    names, path = write(tmp_path / "a.list", NAMES), write(tmp_path / "a.csv", f"video,score\n0,0.5\n{number},0.5\n")
    with pytest.raises(BadInput) as error:
        load_scores(path, names)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_list_of_names_is_named(tmp_path):
    with pytest.raises(BadInput, match=r"none\.list: no such file"):
        load_scores(write(tmp_path / "a.csv", "video,score\n0,0.5\n"), tmp_path / "none.list")


@pytest.mark.parametrize(
    ("rows", "frames", "expected"),
    [
        (2, 32, [0] * 16 + [1] * 16),
        (2, 31, [0] * 16 + [1] * 15),  # ceil(F/16): the last is cut
        (2, 40, [0] * 16 + [1] * 24),  # floor(F/16): the last also stands for the rest
        (4, 4, [0, 1, 2, 3]),
        (3, 4, [0, 1, 2, 2]),
        (5, 4, [0, 1, 2, 3]),
        (1, 7, [0] * 7),
    ],
)
def test_rows_to_frames(rows, frames, expected):
    assert to_frames(np.arange(rows), frames).tolist() == expected
    assert to_frames(np.arange(rows)[:, None] * [1, 10], frames).tolist() == [[row, 10 * row] for row in expected]


@given(st.integers(1, 300), st.integers(1, 300))
def test_always_as_many_rows_as_frames_and_in_order(rows, frames):
    spread = to_frames(np.arange(rows), frames)
    assert len(spread) == frames
    assert spread[0] == 0
    assert set(np.diff(spread)) <= {0, 1}


@given(st.integers(1, 5000), st.sampled_from(["floor", "ceil", "frame"]))
def test_every_usual_length_is_accepted_and_each_frame_gets_its_own_row(frames, kind):
    rows = {"floor": max(frames // 16, 1), "ceil": -(-frames // 16), "frame": frames}[kind]
    check_lengths({"A": rows}, {"A": GroundTruth(frames, 30, ())})
    own = np.arange(frames) if kind == "frame" else np.minimum(np.arange(frames) // 16, rows - 1)
    assert np.array_equal(to_frames(np.arange(rows), frames), own)


@pytest.mark.parametrize(
    ("rows", "frames", "off"),
    [
        (9, 170, 1),  # 10 or 11 expected
        (12, 170, 1),
        (20, 170, 9),
        (10, 176, 1),  # 11 expected
        (13, 176, 2),
        (160, 176, 0),
        (159, 176, 1),
        (193, 176, 1),
    ],
)
def test_other_lengths_name_video_both_counts_and_the_option(rows, frames, off):
    truth = {"fine": GroundTruth(16, 30, ()), "odd one": GroundTruth(frames, 30, ())}
    counts = {"fine": 1, "odd one": rows}
    if off:
        with pytest.raises(BadInput) as error:
            check_lengths(counts, truth, off - 1)
        message = str(error.value)
        assert re.search(rf"^odd one: {rows} .*\b{frames} frames.*--allow-length-mismatch {off}$", message)
    check_lengths(counts, truth, off)


@given(st.integers(1, 400), st.integers(1, 400))
def test_the_number_that_the_message_names_is_the_least_that_passes(rows, frames):
    counts, truth = {"A": rows}, {"A": GroundTruth(frames, 30, ())}
    try:
        check_lengths(counts, truth)
    except BadInput as error:
        needed = int(str(error).rpartition(" ")[2])
        check_lengths(counts, truth, needed)
        with pytest.raises(BadInput, match=rf"--allow-length-mismatch {needed}$"):
            check_lengths(counts, truth, needed - 1)
    else:
        assert min(abs(rows - frames), abs(16 * rows - frames)) <= 16


def test_video_that_ground_truth_lacks():
    with pytest.raises(BadInput, match=r"^B: not in the ground truth.*--gt-path"):
        check_lengths({"A": 1, "B": 1}, {"A": GroundTruth(16, 30, ())})
