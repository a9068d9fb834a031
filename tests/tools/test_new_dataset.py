"""tools/new_dataset.py: a data set from folders, CSVs, interval tables and official lists, and one line for what is wrong with them."""

import csv
import json
import os
import tomllib

import numpy as np
import pytest

from benchmarks import UCF, XD
from clips import make_video, sound
from golden import REAL, SHARED
from tools.new_dataset import main
from utils.datasets import load_dataset
from utils.errors import BadInput, exit_code
from utils.evaluation.ground_truth import GroundTruth, load_ground_truth
from utils.listing import words_of
from utils.video.files import find_videos

OFFICIAL = SHARED / "annotations"


class World:
    """Features in a folder per class, and the tool run on them."""

    def __init__(self, place):
        self.place, self.root, self.output = place, place / "videos", place / "mine"

    def features(self, **frames):
        """FOLDER__NAME=frames: `Fight__a=160` is Fight/a.npy of 10 rows."""
        for key, count in frames.items():
            path = self.root / f"{key.replace('__', '/')}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, np.zeros((count // 16, 4), np.float16))

    def text(self, name, text):
        (self.place / name).write_text(text)
        return self.place / name

    def run(self, *words, folder=True, fps=25):
        words = [*([self.root] if folder else []), *words, "--output", self.output, *(["--fps", fps] if fps else [])]
        main([str(word) for word in words])
        return load_dataset(self.output)

    def rows(self, side):
        with (self.output / f"{side}.csv").open(newline="") as file:
            return list(csv.reader(file))


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


@pytest.fixture
def ten(world):
    world.features(**{f"Normal__n{i}": 160 for i in range(5)}, **{f"TwoFight__f{i}": 320 for i in range(5)})
    return world


def test_a_folder_per_class(ten, capsys):
    dataset = ten.run()
    assert (dataset.title, dataset.fps, dataset.labels, dataset.names) == ("mine", 25, ("Normal", "TwoFight"), ("normal", "two fight"))
    assert (dataset.train_list, dataset.test_list, dataset.gt_path) == (ten.output / "train.csv", ten.output / "test.csv", None)
    assert dataset.feature_root == ten.root
    train, test = ten.rows("train"), ten.rows("test")
    assert train[0] == test[0] == ["path", "label"]
    assert sorted([*train[1:], *test[1:]]) == sorted(
        [[f"Normal/n{i}.npy", "Normal"] for i in range(5)] + [[f"TwoFight/f{i}.npy", "TwoFight"] for i in range(5)]
    )
    assert sorted(label for _, label in test[1:]) == ["Normal", "TwoFight"]
    said = capsys.readouterr().out
    assert [line.split() for line in said.splitlines()[1:5]] == [
        ["train", "seconds", "test", "seconds"],
        ["Normal", "4", "26", "1", "6"],
        ["TwoFight", "4", "51", "1", "13"],
        ["all", "videos", "8", "77", "2", "19"],
    ]
    assert "no intervals: figures will be by video" in said
    assert "looks wrong" not in said
    assert said.endswith(f"next:\n  python -m tools.check_features --data {ten.output}\n  python custom_train.py --data {ten.output}\n")


def test_all_train_and_all_test(ten, capsys):
    dataset = ten.run("--test-share", 0)
    assert dataset.test_list is None
    assert len(ten.rows("train")) == 11
    assert capsys.readouterr().out.endswith(f"custom_train.py --data {ten.output} --folds 5\n")
    dataset = ten.run("--test-share", 1, "--overwrite")
    assert dataset.train_list is None
    assert not (ten.output / "train.csv").exists()
    assert len(ten.rows("test")) == 11
    assert capsys.readouterr().out.endswith(f"custom_test.py --data {ten.output} --checkpoint RUN\n")


def test_nothing_is_overwritten_and_a_failure_changes_nothing(ten):
    ten.run()
    (ten.output / "features").mkdir()
    before = {path.name: path.read_bytes() for path in ten.output.iterdir() if path.is_file()}
    with pytest.raises(BadInput, match=r"holds dataset\.toml, train\.csv, test\.csv; .*--overwrite"):
        ten.run("--seed", 2)
    with pytest.raises(BadInput, match="both 'normal' in prompts"):
        ten.run("--overwrite", "--words", "TwoFight=normal")
    with pytest.raises(BadInput, match=r"mine/dataset\.toml: title = 'ucf'.*--title"):
        ten.run("--overwrite", "--title", "ucf")
    assert {path.name: path.read_bytes() for path in ten.output.iterdir() if path.is_file()} == before
    ten.run("--overwrite", "--seed", 2, "--title", "Other")
    assert sorted(path.name for path in ten.output.iterdir()) == [
        "dataset.toml",
        "dataset.toml.before",
        "features",
        "test.csv",
        "train.csv",
    ]
    assert load_dataset(ten.output).title == "Other"
    for title in ("Third", "Fourth"):
        ten.run("--overwrite", "--title", title)
    assert (ten.output / "dataset.toml.before").read_bytes() == before["dataset.toml"]
    assert 'title = "Third"' in (ten.output / "dataset.toml.before3").read_text()
    own = ten.output / "train.csv"
    with pytest.raises(BadInput, match=r"train\.csv: would be replaced by what is made of it"):
        ten.run("--list", own, "--overwrite")


def test_a_csv_with_sources_and_intervals(ten, capsys):
    rows = ["path,label,source,note,start,end,class", "Normal/n0.npy,Normal,1,,,,", "n1,Normal,2,,,,", "x/n2.mp4,Normal,1,x,,,"]
    rows += ["f0,TwoFight,1,,0:01,0:02.5,TwoFight", "f0,TwoFight,1,,6,7,", "f1,TwoFight,2,,,,"]
    clips = ten.text("clips.csv", "\n".join(rows))
    dataset = ten.run("--list", clips, "--unit", "seconds", "--feature-root", ten.root, "--test-share", 0.5)
    truth = load_ground_truth(dataset.gt_path, dataset)
    assert truth == {
        "n0": GroundTruth(160, 25, ()),
        "n1": GroundTruth(160, 25, ()),
        "n2": GroundTruth(160, 25, ()),
        "f0": GroundTruth(320, 25, ((25, 62, "TwoFight"), (150, 175, "TwoFight"))),
    }
    sides = [{(label, source) for _, label, source in ten.rows(side)[1:]} for side in ("train", "test")]
    assert sorted(map(sorted, sides)) == [[("Normal", "1"), ("TwoFight", "1")], [("Normal", "2"), ("TwoFight", "2")]]
    assert ten.rows("train")[0] == ["path", "label", "source"]
    said = capsys.readouterr().out
    assert "gt.json: 4 videos, 2 intervals\n  without 1 abnormal videos of which nobody says when it happens" in said
    assert "looks wrong: TwoFight has 2 videos" in said


def test_fixed_splits(ten, capsys):
    clips = ten.text(
        "clips.csv", "path,label,split,source\nn0,Normal,train,1\nn1,Normal,TEST,1\nf0,TwoFight,train,2\nf1,TwoFight,train,2\n"
    )
    ten.run("--list", clips, "--feature-root", ten.root, "--test-share", 0.9)
    assert ten.rows("test")[1:] == [["n1.npy", "Normal", "1"]]
    said = capsys.readouterr().out
    assert "looks wrong: TwoFight has no test video" in said
    assert "looks wrong: sources in both lists: 1 (1)" in said
    assert "looks wrong: all videos of TwoFight are of one source, 2" in said


def test_folders_train_and_test(world):
    world.features(train__normal__a=16, train__Fire__b=16, test__normal__c=16, test__Fire__d=32)
    assert world.run().labels == ("normal", "Fire")
    assert world.rows("test")[1:] == [["test/Fire/d.npy", "Fire"], ["test/normal/c.npy", "normal"]]


def test_official_texts(world):
    """UCF-Crime's two lists and annotations; XD-Violence's names and annotations."""
    train = world.text("Anomaly_Train.txt", "Abuse/Abuse001_x264.mp4\nTraining_Normal_Videos_Anomaly/Normal_Videos001_x264.mp4\n")
    test = world.text("Anomaly_Test.txt", "Abuse/Abuse028_x264.mp4\r\nTesting_Normal_Videos_Anomaly/Normal_Videos_003_x264.mp4\n")
    events = world.text("Temporal.txt", "Abuse028_x264.mp4  Abuse  10  20  30  49 \nNormal_Videos_003_x264.mp4  Normal  -1  -1  -1  -1  \n")
    world.features(a__Abuse001_x264=64, a__Normal_Videos001_x264=64, a__Abuse028_x264=48, a__Normal_Videos_003_x264=32)
    dataset = world.run("--list", train, test, "--intervals", events, "--feature-root", world.root, fps=30)
    assert dataset.labels == ("Normal", "Abuse")
    truth = load_ground_truth(dataset.gt_path, dataset)
    assert truth["Abuse028_x264"] == GroundTruth(48, 30, ((10, 20, "Abuse"), (30, 48, "Abuse")))
    assert [row[0] for row in world.rows("test")[1:]] == [
        "Abuse/Abuse028_x264.mp4",
        "Testing_Normal_Videos_Anomaly/Normal_Videos_003_x264.mp4",
    ]
    names = ["v=a_#1_label_B2-G-0", "v=b_#1_label_A", "v=c_#1_label_B2-0-0", "v=d_#1_label_A"]
    world.features(**{f"x__{name}": 64 for name in names})
    both = world.text("xd.txt", "\n".join(names))
    events = world.text("multi.txt", f"{names[0]} B2 10 20 G 15 40\n{names[2]} B2 0 9\n")
    words = ["--list", both, "--intervals", events, "--feature-root", world.root, "--overwrite", "--test-share", 0, "--normal", "A"]
    dataset = world.run(*words, "--separator", "-", "--placeholder", 0, "--words", "B2=a shooting", "G=an explosion")
    assert (dataset.labels, dataset.names) == (("A", "B2", "G"), ("normal", "a shooting", "an explosion"))
    assert load_ground_truth(dataset.gt_path, dataset)[names[0]].segments == ((10, 20, "B2"), (15, 40, "G"))


def test_a_ground_truth_json_alone(world, capsys):
    """A list and a ground truth, without videos and features: lengths and times are those of the JSON."""
    clips = world.text("list.csv", "path,label\na.npy,Normal\nb.npy,Fire\nc.npy,Fire\n")
    truth = {"a": {"frames": 90, "fps": 30, "segments": []}, "b": {"frames": 60, "fps": 30, "segments": [[3, 9, "Fire"]]}}
    untimed = {"c": {"frames": 30, "fps": 30, "segments": None, "labels": ["Fire"]}}
    events = world.text("gt.json", json.dumps(truth | untimed | {"other": truth["a"]}))
    dataset = world.run("--list", clips, "--intervals", events, "--test-share", 1, folder=False, fps=None)
    assert (dataset.fps, dataset.feature_root) == (30, world.output / "features")
    assert load_ground_truth(dataset.gt_path, dataset) == {"a": GroundTruth(90, 30, ()), "b": GroundTruth(60, 30, ((3, 9, "Fire"),))}
    said = capsys.readouterr().out
    assert "1 videos of" in said
    assert "Fire           2        3" in said
    assert "without 1 abnormal videos of which nobody says when it happens" in said


def test_videos(world, capsys):
    """Lengths and frames per second are the files' own; what is no video is named and left out."""
    for name, frames in (("Normal/a.mp4", 30), ("Normal/b.mkv", 33), ("Fight/c.avi", 50), ("Fight/d.mp4", 25)):
        (world.root / name).parent.mkdir(parents=True, exist_ok=True)
        make_video(world.root / name, frames)
    sound(world.root / "Normal" / "only_sound.mp4")
    (world.root / "Normal" / "broken.mp4").write_bytes(b"no video")
    (world.root / "Fight" / "notes.txt").write_text("nothing")
    events = world.text("events.csv", "path,start,end\nc.avi,0:01,0:03\nFight/d.mp4,0:00,0:00.5\n")
    dataset = world.run("--intervals", events, "--test-share", 0.5, "--workers", 2, fps=None)
    assert dataset.fps == 25
    assert load_ground_truth(dataset.gt_path, dataset) == {
        "c": GroundTruth(50, 25, ((25, 50, "Fight"),)),
        "d": GroundTruth(25, 25, ((0, 12, "Fight"),)),
        "a": GroundTruth(30, 25, ()),
        "b": GroundTruth(33, 25, ()),
    }
    said = capsys.readouterr()
    left = [line for line in said.err.splitlines() if line.startswith("left out: ")]
    assert [any(name in line for line in left) for name in ("only_sound.mp4", "broken.mp4")] == [True, True]
    assert "intervals of 1 videos end after the last frame, by up to 25 frames, which are cut off" in said.out
    assert f"python -m tools.extract_features {world.root} --output {world.output}/features\n" in said.out
    assert sorted(row[0] for side in ("train", "test") for row in world.rows(side)[1:]) == [
        "Fight/c.avi",
        "Fight/d.mp4",
        "Normal/a.mp4",
        "Normal/b.mkv",
    ]


def test_time_lapse(ten):
    """A picture a minute, or an hour: three decimals would be another rate, or none."""
    manifest = {"encoder": {"name": "E", "digest": "0", "width": 4}, "recipe": {}, "videos": {}}
    for i in range(5):
        manifest["videos"] |= {f"Normal/n{i}.mp4": {"frames": 160, "fps": 1 / 60}, f"TwoFight/f{i}.mp4": {"frames": 320, "fps": 1 / 3600}}
    for entry in manifest["videos"].values():
        entry |= {"snippets": 10, "seconds": 1.0, "sha256": "0", "files": {}}
    (ten.root / "extract.json").write_text(json.dumps(manifest))
    events = ten.text("events.csv", "path,start,end\nf0,10:00:00,20:00:00\nf1,1:00:00,2:00:00\n")
    dataset = ten.run("--intervals", events, "--test-share", 1, fps=None)
    truth = load_ground_truth(dataset.gt_path, dataset)
    assert [truth[name].segments[0][:2] for name in ("f0", "f1")] == [(10, 20), (1, 2)]
    assert truth["n0"].fps == pytest.approx(1 / 60, rel=1e-5)


def test_a_name_that_would_be_read_as_another_is_refused(world):
    for name in ("Normal/a.mp4", "Fight/cam__1__2.mp4"):
        (world.root / name).parent.mkdir(parents=True, exist_ok=True)
        make_video(world.root / name, 30)
    with pytest.raises(BadInput, match=r"cam__1 would be read as cam, .*; rename it"):
        world.run()
    with pytest.raises(BadInput, match=r"cam__1 would be read as cam, .*; rename it"):
        find_videos([str(world.root)], world.place / "out", ".npy")


def test_videos_that_lie_elsewhere_and_twice(world, capsys):
    for name in ("Normal/n0.mp4", "Fight/f0.mp4", "backup/n0.mp4"):
        (world.root / name).parent.mkdir(parents=True, exist_ok=True)
        make_video(world.root / name, 30)
    listed = world.text("mixed.csv", "path,label\nNormal/n0.mp4,Normal\nf0.mp4,Fight\n")
    world.run("--list", listed, "--test-share", 1)
    said = capsys.readouterr().out
    assert "check_features" not in said  # there is nothing to train
    rows = "".join(f"{world.root}/{name},{name.split('/')[0]}\n" for name in ("Normal/n0.mp4", "Fight/f0.mp4"))
    (world.place / "lists").mkdir()
    world.run("--list", world.text("lists/absolute.csv", f"path,label\n{rows}"), "--overwrite", folder=False)
    assert f"python -m tools.extract_features {world.root} --output" in capsys.readouterr().out


def test_lengths_of_extracted_features_are_exact(ten):
    """The manifest beside features knows the frames; without it they are 16 a row."""
    manifest = {"encoder": {"name": "E", "digest": "0", "width": 4}, "recipe": {}, "videos": {}}
    for name in ("Normal/n0", "TwoFight/f0"):
        manifest["videos"][name] = {"file": f"{name}.mp4", "bytes": 9, "frames": 171, "fps": 30.0, "features": {}}
    (ten.root / "extract.json").write_text(json.dumps(manifest))
    events = ten.text("events.csv", "path,start,end\nf0,0,5.7\nf1,0,1\n")
    truth = load_ground_truth((dataset := ten.run("--intervals", events, "--unit", "seconds")).gt_path, dataset)
    assert (truth["n0"].frames, truth["n1"].frames) == (171, 160)
    assert truth["f0"] == GroundTruth(171, 30, ((0, 171, "TwoFight"),))
    assert truth["f1"] == GroundTruth(320, 25, ((0, 25, "TwoFight"),))


def refused(world, *words, said, **more):
    with pytest.raises(BadInput) as error:
        world.run(*words, **more)
    for part in [said] if isinstance(said, str) else said:
        assert part in str(error.value)
    assert not list(world.output.glob("*"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "columns ''; expected path,label"),
        ("path;label\na;Normal\n", "columns 'path;label'; expected path,label"),
        ("path,label,label\na,Normal,Fire\n", "each once"),
        ("path,label\n", "no videos in it"),
        ("path,label\nn0\n", "line 2 has 1 cells; expected 2"),
        ("path,label\nn0,Normal,\n", "line 2 has 3 cells; expected 2"),
        ("path,label\n,Normal\n", "line 2: path ''"),
        ("path,label\nn0,\n", "line 2: path 'n0', label ''"),
        ("path,label,source\nn0,Normal,\n", "line 2: no source"),
        ("path,label,split\nn0,Normal,val\n", "line 2: split 'val'; expected train or test"),
        ("path,label\nn0,Normal\nn0,Fire\n", "line 3: n0 has the label 'Fire', and 'Normal' in"),
        ("path,label\nx/n0.mp4,Normal\ny/n0.mp4,Normal\n", "line 3: n0 has the path 'y/n0.mp4', and 'x/n0.mp4'"),
        ("path,label,source\nn0,Normal,1\nn0,Normal,2\n", "line 3: n0 has the source '2', and '1'"),
        ("path,label\nn0,Normal\nn1,Normal\n", "all videos are Normal"),
        ("path,label\nn0,Normal\nf0,normal\n", "'Normal' (1 videos) and 'normal' (1) differ only in case"),
        ("path,label\nn0,OK\nf0,Fire\n", "--normal: the labels are Fire, OK; expected that of normal videos"),
        ("path,label\nn0,Normal\nf0,People_fall\nf1,PeopleFall\n", "are both 'people fall' in prompts"),
        ("path,label\nn0,Normal\nzz,Fire\n", "line 3: neither a video nor features of zz (1 of the 2 listed have none)"),
        ("path,label,start,end\nn0,Normal,,\nf0,Fire,0:05,\n", "line 3: ''; expected a time"),
        ("path,label,start,end\nn0,Normal,,\nf0,Fire,5,6\n", "line 3: '5' may be seconds or frames"),
        ("path,label,start,end\nn0,Normal,0:01,0:02\nf0,Fire,,\n", "line 2: n0 is Normal, the normal class"),
        ("path,label,start,end\nn0,Normal,,\nf0,Fire,0:01,1:02\n", "line 3: 1 to 62 seconds in f0, which has 12.80 s"),
        ("path,label,source\nn0,Normal,1\nf0,Fire,1\n", "--test-share 0.2: 1 source"),
        ("path,label\nn0,Normal\nf0,Fi\x07re\n", "classes."),
    ],
)
def test_bad_lists(ten, text, said):
    refused(ten, "--list", ten.text("clips.csv", text), "--feature-root", ten.root, said=said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path,start\nf0,1\n", "columns 'path,start'; expected path,start,end"),
        ("path,start,end\nzz.mp4,0:01,0:02\n", "line 2: 'zz.mp4' is none of the 10 videos"),
        ("path,start,end\nf0,0:02,0:01\n", "line 2: end 0:01 is not behind start 0:02"),
        ("path,start,end,class\nf0,0:01,0:02,Fire\n", "line 2: class 'Fire'; expected TwoFight"),
        ("path,start,end\nn0,0:01,0:02\n", "line 2: n0 is Normal"),
        ("path,start,end\nf0,1 min,2 min\n", "line 2: '1 min'; expected a time"),
    ],
)
def test_bad_interval_tables(ten, text, said):
    refused(ten, "--intervals", ten.text("events.csv", text), said=(str(ten.place / "events.csv"), said))


def test_a_wrong_class_is_said_before_lengths_are_read(ten, monkeypatch):
    monkeypatch.setattr("tools.new_dataset.find_lengths", lambda *_: pytest.fail("read lengths first"))
    refused(ten, "--intervals", ten.text("events.csv", "path,start,end,class\nf0,0:01,0:02,Fire\n"), said="line 2: class 'Fire'")


def test_bad_official_files(ten):
    refused(ten, "--list", ten.text("a.txt", "f0.mp4\n"), said="line 1: 'f0.mp4' tells no label")
    refused(ten, "--intervals", ten.text("b.txt", "f0 TwoFight 1\n"), said=("b.txt: line 1", "--intervals"))
    refused(ten, "--intervals", ten.text("b.txt", "zz TwoFight 1 5\n"), said="none of its 1 videos is listed (first: zz)")
    refused(ten, "--intervals", ten.text("c.json", '{"f0": {"frames": 5}}'), said=("f0", "fps"))
    train = ten.text("train.txt", "Normal/n0.mp4\nTwoFight/f0.mp4\n")
    refused(ten, "--list", train, train, "--feature-root", ten.root, said="f0 is in")


def test_bad_folders_and_options(world, tmp_path):
    refused(world, said="no such file")
    world.root.mkdir()
    refused(world, said="no video below it")
    world.features(a=16)
    refused(world, said="lies in no class's folder")
    (world.root / "a.npy").unlink()
    world.features(Normal__a=16, Fire__b=16, Fire__deep__a=16)
    refused(world, said="a has the path")
    (world.root / "Fire" / "deep" / "a.npy").unlink()
    refused(world, fps=None, said="frames per second of 2 videos are not known (first: b); say them: --fps N")
    refused(world, folder=False, said="no videos; name the folder")
    refused(world, "--words", "Fire", said="--words Fire: expected LABEL=WORDS")
    refused(world, "--words", "Fier=fire", said="--words Fier=…: no such label; expected one of Fire, Normal")
    refused(world, "--normal", "Fier", said="--normal Fier: the labels are Fire, Normal")
    refused(world, "--title", "\x1b[2J", said="title")
    refused(world, "--test-share", "2", said="--test-share 2: expected a number from 0 to 1")
    (world.output / "gt.json").mkdir(parents=True)
    with pytest.raises(BadInput, match=r"gt\.json: a folder"):
        world.run("--overwrite")


def test_names_that_are_no_text_are_told(world):
    """A byte of a name that is not UTF-8 cannot stand in a list: one line, nothing written."""
    world.features(Normal__a=16, Fire__b=16, Fire__c=16)
    (world.root / "Fire" / "b.npy").rename(world.root / "Fire" / os.fsdecode(b"\xe9.npy"))
    with pytest.raises(BadInput, match=r"(train|test)\.csv: cannot hold .*udce9.*rename that file"):
        world.run()
    assert not list(world.output.glob("*"))


def test_labels_of_any_text_come_back(world):
    """Quotes, backslashes, dots, numbers: TOML and CSV hold them as they are."""
    labels = ['say "hi"', "a\\b".replace("\\", "-"), "x.y", "7", "[z]", "é, ü", "#"]
    world.features(**{f"normal__n{i}": 16 for i in range(2)}, **{f"{label}__v{i}": 16 for i, label in enumerate(labels)})
    dataset = world.run("--test-share", 0)
    assert set(dataset.labels[1:]) == set(labels)
    assert {row[1] for row in world.rows("train")[1:]} == {"normal", *labels}
    assert tomllib.loads((world.output / "dataset.toml").read_text())["classes"]["x.y"] == "x.y"


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("RoadAccidents", "road accidents"),
        ("People_falling", "people falling"),
        ("noFight", "no fight"),
        ("CCTVFight", "cctv fight"),
        ("B1", "b1"),
        ("__", "__"),
        ("Traffic accident", "traffic accident"),
    ],
)
def test_words_of_a_label(label, words):
    assert words_of(label) == words


def test_errors_are_one_line(world, capsys):
    assert exit_code(lambda: main([str(world.root), "--output", str(world.output)])) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1


@pytest.mark.skipif(not REAL.exists(), reason="../shared/real is not here")
def test_msad(world, capsys):
    """Its list and ground truth, as they are: all of it for a test, or for folds."""
    words = ["--list", REAL / "msad" / "msad_test.csv", "--intervals", REAL / "msad" / "msad_test.json"]
    dataset = world.run(*words, "--test-share", 1, folder=False, fps=None)
    assert len(dataset.labels) == 12
    assert dataset.names[5] == "object falling"
    truth, given = load_ground_truth(dataset.gt_path, dataset), json.loads((REAL / "msad" / "msad_test.json").read_text())
    assert "(features of these videos, by whatever made them, below" in capsys.readouterr().out
    assert len(truth) == len(given) == len(world.rows("test")) - 1 == 240
    assert all([list(segment) for segment in truth[name].segments] == given[name]["segments"] for name in given)


@pytest.mark.skipif(not OFFICIAL.exists(), reason="../shared/annotations is not here")
def test_the_benchmarks_come_out_as_they_are(world, capsys):
    """From the official lists: the lists and ground truth of list/, to the byte."""
    lists = [OFFICIAL / "Anomaly_Train.txt", OFFICIAL / "Anomaly_Test.txt"]
    dataset = world.run("--list", *lists, "--intervals", UCF.gt_path, folder=False, fps=None)
    assert dataset.gt_path.read_bytes() == UCF.gt_path.read_bytes()
    assert set(dataset.labels) == set(UCF.labels)
    for side, path in (("train", UCF.train_list), ("test", UCF.test_list)):
        ours = [(path.replace(".mp4", ".npy").rpartition("/")[2], label) for path, label in world.rows(side)]
        assert ours == [(path.rpartition("/")[2], label) for path, label in csv.reader(path.open())]
    words = ["--normal", "A", "--separator", "-", "--placeholder", "0", "--words", *(f"{label}={XD.name(label)}" for label in XD.labels)]
    lists = [OFFICIAL / "xd_train_videos.txt", OFFICIAL / "xd_CLIP_rgbtest.csv"]
    dataset = world.run("--list", *lists, "--intervals", XD.gt_path, *words, "--overwrite", folder=False, fps=None)
    assert (dataset.labels, dataset.names, dataset.gt_path.read_bytes()) == (XD.labels, XD.names, XD.gt_path.read_bytes())
    assert len(world.rows("train")) - 1 == 3954
    assert "looks wrong: Ip.Man.2008__#01-40-37_01-42-07_label_B4-0-0 is B4-0-0, and has intervals of B1" in capsys.readouterr().out
