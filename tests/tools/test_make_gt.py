"""tools/make_gt.py: the official annotations, checked against the third party's segments of all 290 + 800 test videos."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks import DATASETS, UCF, XD
from tools.make_gt import main
from tools.make_list import read_videos
from utils.errors import BadInput
from utils.evaluation.ground_truth import GroundTruth, load_ground_truth
from utils.files import ROOT

SHARED = ROOT.parent / "shared"
OFFICIAL = {"ucf": "Temporal_Anomaly_Annotation.txt", "xd": "annotations_multiclasses.txt"}
needs_shared = pytest.mark.skipif(
    not (SHARED / "annotations").is_dir(), reason="needs ../shared/annotations and ../shared/real/ground_truth"
)

UCF_LINES = (
    "Abuse028_x264.mp4  Abuse  165  240  -1  -1  \n"
    "Arson011_x264  Arson  150  420  680  1267  \n"
    "Normal_Videos_003_x264  Normal  -1  -1  -1  -1  \n"
)
XD_LINES = "v=a__#1_label_B2-G-0 B2 10 20 G 15 40 B2 3 5\nv=b__#1_label_B6-0-0.MP4 B6 0 100"


@pytest.fixture
def make(tmp_path):
    """Run the tool on annotation text and frame counts; the ground truth it wrote."""

    def run(dataset, text, frames, *more):
        (tmp_path / "annotations.txt").write_text(text)
        if not isinstance(frames, Path):
            (tmp_path / "frames.json").write_text(json.dumps(frames))
            frames = tmp_path / "frames.json"
        output = tmp_path / "gt.json"
        words = [
            "--dataset",
            dataset,
            "--annotations",
            tmp_path / "annotations.txt",
            "--frames",
            frames,
            "--output",
            output,
            "--overwrite",
            *more,
        ]
        main([str(word) for word in words])
        return load_ground_truth(output, DATASETS[dataset])

    return run


def test_ucf_by_hand(make, capsys):
    frames = {
        "Normal_Videos_003_x264": {"frames": 32},
        "Abuse028_x264": 1408,
        "Arson011_x264": {"frames": 1264, "segments": []},
        "Other": 9,
    }
    assert make("ucf", UCF_LINES, frames) == {
        "Abuse028_x264": GroundTruth(1408, 30.0, ((165, 240, "Abuse"),)),
        "Arson011_x264": GroundTruth(1264, 30.0, ((150, 420, "Arson"), (680, 1264, "Arson"))),
        "Normal_Videos_003_x264": GroundTruth(32, 30.0, ()),
    }
    said = capsys.readouterr().out
    assert "1 videos end after the last frame, by up to 3 frames: Arson011_x264" in said
    assert "3 videos of UCF-Crime, 1 normal, 2704 frames, 3 segments" in said


def test_xd_by_hand(make, capsys):
    frames = {"v=a__#1_label_B2-G-0": 48, "v=n__#1_label_A": 16, "v=b__#1_label_B6-0-0": 100}
    truth = make("xd", XD_LINES, frames)
    assert truth == {
        "v=a__#1_label_B2-G-0": GroundTruth(48, 24.0, ((10, 20, "B2"), (15, 40, "G"), (3, 5, "B2"))),
        "v=b__#1_label_B6-0-0": GroundTruth(100, 24.0, ((0, 100, "B6"),)),
        "v=n__#1_label_A": GroundTruth(16, 24.0, ()),
    }
    assert "clipped" not in capsys.readouterr().out


def test_test_list_chooses_and_orders(make, tmp_path):
    (tmp_path / "list.csv").write_text("path,label\nv=n__#1_label_A.npy,A\n/far/away/v=b__#1_label_B6-0-0__0.npy,B6-0-0\n")
    frames = {"v=b__#1_label_B6-0-0": 100, "v=n__#1_label_A": 16, "v=training__#1_label_A": 16}
    assert list(make("xd", XD_LINES, frames, "--test-list", tmp_path / "list.csv")) == ["v=n__#1_label_A", "v=b__#1_label_B6-0-0"]


def test_a_normal_video_is_one_by_its_listed_label(make, tmp_path):
    (tmp_path / "list.csv").write_text("path,label\nown/calm.npy,Normal\nown/fight.npy,Fighting\n")
    lines = "fight.mp4  Fighting  0  32  -1  -1\n"
    truth = make("ucf", lines, {"calm": 64, "fight": 64}, "--test-list", tmp_path / "list.csv")
    assert {name: len(video.segments) for name, video in truth.items()} == {"calm": 0, "fight": 1}
    (tmp_path / "list.csv").write_text("path,label\nown/calm.npy,Abuse\nown/fight.npy,Fighting\n")
    with pytest.raises(BadInput, match="calm is not in it, and no normal video by --test-list; add its intervals"):
        make("ucf", lines, {"calm": 64, "fight": 64}, "--test-list", tmp_path / "list.csv")


def test_frames_from_a_feature_folder(make, tmp_path):
    folder = tmp_path / "features"
    (folder / "deep").mkdir(parents=True)
    for crop in range(10):
        np.save(folder / "deep" / f"Abuse028_x264__{crop}.npy", np.zeros((88, 4), np.float16))
    np.save(folder / "Arson011_x264.npy", np.zeros((79, 10, 4), np.float16))
    np.save(folder / "Normal_Videos_003_x264.npy", np.zeros((2, 4), np.float16))
    assert [video.frames for video in make("ucf", UCF_LINES, folder).values()] == [1408, 1264, 32]
    np.save(folder / "deep" / "Abuse028_x264__7.npy", np.zeros((87, 4), np.float16))
    with pytest.raises(
        BadInput, match=r"Abuse028_x264__\d.npy: 8[78] rows, .*Abuse028_x264__\d.npy has 8[78]; .*extract Abuse028_x264 anew"
    ):
        make("ucf", UCF_LINES, folder)
    (folder / "deep" / "Abuse028_x264__7.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(BadInput, match=r"Abuse028_x264__7.npy: no readable"):
        make("ucf", UCF_LINES, folder)


ALL = {"Abuse028_x264": 1408, "Arson011_x264": 1264, "Normal_Videos_003_x264": 32}


@pytest.mark.parametrize(
    ("dataset", "text", "frames", "said"),
    [
        ("ucf", UCF_LINES, ALL | {"Arson011_x264": 1250}, r"Arson011_x264: segment 680–1267 in a video of 1250 frames"),
        ("ucf", UCF_LINES, ALL | {"Arson011_x264": 680}, r"segment 680–1267"),
        ("ucf", UCF_LINES, {"Abuse028_x264": 1408}, r"2 of 3 videos are not in it \(Arson011_x264, Normal_Videos_003_x264\)"),
        ("ucf", UCF_LINES, ALL | {"Abuse028_x264": 0}, r"Abuse028_x264: 0 frames"),
        ("ucf", UCF_LINES, ALL | {"Abuse028_x264": {"rows": 3}}, r"Abuse028_x264: None frames"),
        ("ucf", UCF_LINES, [1, 2], "--frames"),
        ("ucf", UCF_LINES.replace("165", "250"), ALL, r"segment 250–240"),
        ("ucf", UCF_LINES.replace("165", "x"), ALL, r"line 1: 'x 240' behind Abuse"),
        ("ucf", UCF_LINES.replace("Abuse  ", "Abuses  "), ALL, r"line 1: label 'Abuses' is no class of UCF-Crime"),
        ("ucf", UCF_LINES + UCF_LINES, ALL, r"line 4: Abuse028_x264 stands there twice"),
        ("ucf", XD_LINES, ALL, r"line 1: label 'B2' is no class"),
        ("ucf", "", ALL, "no videos"),
        ("ucf", UCF_LINES, {"a.mp4": 3, "a.MKV": 3}, r"a stands there twice, as a\.MKV too"),
        ("xd", "v=b__#1_label_B6-0-0 0 100\n", {"v=b__#1_label_B6-0-0": 100}, r"annotations_multiclasses.txt"),
        ("xd", "v=b__#1_label_B6-0-0 A 0 100\n", {"v=b__#1_label_B6-0-0": 100}, r"normal class"),
        ("xd", XD_LINES, {"v=a__#1_label_B2-G-0": 48, "v=b__#1_label_B6-0-0": 100, "v=c_label_B1": 16}, r"v=c_label_B1 is not in it"),
    ],
)  # fmt: skip
def test_bad_input_writes_nothing(make, tmp_path, dataset, text, frames, said):
    (tmp_path / "gt.json").write_text("as it was")
    with pytest.raises(BadInput, match=said):
        make(dataset, text, frames)
    assert (tmp_path / "gt.json").read_text() == "as it was"


def test_sixteen_frames_past_the_end_are_clipped_seventeen_are_not(make):
    line = "Abuse028_x264  Abuse  10  116  -1  -1\n"
    assert make("ucf", line, {"Abuse028_x264": 100})["Abuse028_x264"].segments == ((10, 100, "Abuse"),)
    with pytest.raises(BadInput, match="10–116 in a video of 99 frames"):
        make("ucf", line, {"Abuse028_x264": 99})


@needs_shared
def test_every_ucf_video_equals_the_third_partys(make):
    theirs = json.loads((SHARED / "real/ground_truth/ucf_test.json").read_text())
    ours = make("ucf", (SHARED / "annotations" / OFFICIAL["ucf"]).read_text(), theirs)
    assert len(ours) == 290
    assert sum(video.frames for video in ours.values()) == 1109680
    for name, video in ours.items():
        assert (video.frames, [[start, end] for start, end, _ in video.segments]) == (theirs[name]["frames"], theirs[name]["segments"]), (
            name
        )
        assert {label for *_, label in video.segments} == {re.match("[A-Za-z]+", name)[0]} - {"Normal"}


@needs_shared
def test_the_seven_ucf_segments_that_end_late_are_named(make, capsys):
    theirs = json.loads((SHARED / "real/ground_truth/ucf_test.json").read_text())
    make("ucf", (SHARED / "annotations" / OFFICIAL["ucf"]).read_text(), theirs)
    names = "Arson011_x264, Arson016_x264, Assault006_x264, Explosion033_x264, Fighting003_x264, Shooting015_x264, Shooting046_x264"
    assert f"7 videos end after the last frame, by up to 16 frames: {names}\n" in capsys.readouterr().out


def anomalous(frames, segments):
    mask = np.zeros(frames, bool)
    for start, end, *_ in segments:
        mask[start:end] = True
    return mask


@needs_shared
def test_every_xd_video_equals_the_third_partys(make, capsys):
    """Theirs are annotations.txt's. The file with classes marks other frames in five videos: a segment more, and four gaps of one frame."""
    theirs = json.loads((SHARED / "real/ground_truth/xd_test.json").read_text())
    ours = make("xd", (SHARED / "annotations" / OFFICIAL["xd"]).read_text(), theirs)
    assert "72 videos end after the last frame, by up to 15 frames" in capsys.readouterr().out
    assert ours.keys() == theirs.keys()
    assert len(ours) == 800
    assert sum(not video.segments for video in ours.values()) == 300
    assert sum(video.frames for video in ours.values()) == 2330384
    differ = {}
    for name, video in ours.items():
        assert video.frames == theirs[name]["frames"]
        difference = anomalous(video.frames, video.segments).astype(int) - anomalous(video.frames, theirs[name]["segments"])
        if difference.any():
            differ[name] = (int((difference > 0).sum()), int((difference < 0).sum()))
    assert differ == {
        "v=38GQ9L2meyE__#1_label_B6-0-0": (129, 0),
        "Love.Death.and.Robots.S01E10__#0-01-00_0-02-13_label_B2-G-0": (0, 1),
        "Rush.Hour.1998.BluRay__#00-08-08_00-09-15_label_B2-B6-G": (0, 1),
        "The.Bourne.Ultimatum.2007__#01-26-27_01-28-03_label_B2-B6-0": (0, 1),
        "v=Rc9EOFjtj0c__#1_label_B6-0-0": (0, 1),
    }


@needs_shared
def test_segments_are_those_of_the_released_evaluation_code():
    """VadCLIP's gt_segment and gt_label, but for clipped ends and the whole-video segment that a normal video has there."""
    for dataset, suffix in ((UCF, "_ucf"), (XD, "")):
        ours = load_ground_truth(ROOT / "list" / f"{dataset.key}_gt.json", dataset)
        segments, labels = (np.load(SHARED / f"annotations/gt_{kind}{suffix}.npy", allow_pickle=True) for kind in ("segment", "label"))
        names = read_videos(SHARED / f"annotations/{dataset.key}_CLIP_rgbtest.csv", dataset)
        for name, spans, classes in zip(names, segments, labels, strict=True):
            video = ours[name]
            if list(classes) == ["A"]:
                assert (video.segments, len(spans), int(spans[0][0])) == ((), 1, 0), name  # its end is the length of their features
            else:
                theirs = [(int(a), min(int(b), video.frames), label) for (a, b), label in zip(spans, classes, strict=True)]
                assert list(video.segments) == theirs, name


@needs_shared
@pytest.mark.parametrize("key", ["ucf", "xd"])
def test_the_shipped_file_is_what_the_tool_writes(tmp_path, key):
    words = ["--dataset", key, "--annotations", SHARED / "annotations" / OFFICIAL[key], "--output", tmp_path / "gt.json"]
    words += ["--frames", SHARED / f"real/ground_truth/{key}_test.json", "--test-list", ROOT / f"list/{key}_ReFLIP_rgbtest.csv"]
    main([str(word) for word in words])
    assert (tmp_path / "gt.json").read_bytes() == (ROOT / f"list/{key}_gt.json").read_bytes()


def test_the_shipped_files_name_the_videos_of_the_shipped_test_lists():
    for dataset in DATASETS.values():
        truth = load_ground_truth(ROOT / f"list/{dataset.key}_gt.json", dataset)
        assert list(truth) == list(read_videos(ROOT / f"list/{dataset.key}_ReFLIP_rgbtest.csv", dataset))
