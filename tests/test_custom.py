"""A data set of one's own, through its three scripts; and the two of list/, which are such files now."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

import custom_option
import custom_test
import custom_train
import ucf_train
from benchmarks import DATASETS, UCF
from tools import evaluate
from utils import loading
from utils.datasets import command_of, load_dataset
from utils.errors import BadInput
from utils.evaluation import report
from utils.evaluation.ground_truth import load_ground_truth
from utils.evaluation.scores import load_scores
from utils.labels import Dataset
from utils.testing import official_videos

# As they stood in the code before they were files.
BEFORE = {
    "ucf": Dataset(
        "ucf", "UCF-Crime", 30,
        ("Normal", "Abuse", "Arrest", "Arson", "Assault", "Burglary", "Explosion", "Fighting", "RoadAccidents", "Robbery",
         "Shooting", "Shoplifting", "Stealing", "Vandalism"),
        ("normal", "abuse", "arrest", "arson", "assault", "burglary", "explosion", "fighting", "roadAccidents", "robbery",
         "shooting", "shoplifting", "stealing", "vandalism"),
    ),
    "xd": Dataset(
        "xd", "XD-Violence", 24,
        ("A", "B1", "B2", "B4", "B5", "B6", "G"),
        ("normal", "fighting", "shooting", "riot", "abuse", "car accident", "explosion"),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(small_sample, tmp_path_factory):
    """A run of ucf_train.py on the small sample, and one of custom_train.py on the same files as a data set of its own."""
    folder = tmp_path_factory.mktemp("custom")
    words = small_sample("ucf")
    files = {name: words[words.index(f"--{name}") + 1] for name in ("train-list", "test-list", "gt-path", "feature-root")}
    own = [word for name, path in files.items() for word in (f"--{name}", path)]
    others = [word for word in words if word not in own]
    lines = [f'{label} = "{name}"' for label, name in zip(UCF.labels, UCF.names, strict=True)]
    keys = {"train_list": "train-list", "test_list": "test-list", "ground_truth": "gt-path", "feature_root": "feature-root"}
    lines = ['title = "My Cameras"', "fps = 30", *(f'{key} = "{files[name]}"' for key, name in keys.items()), "[classes]", *lines]
    (folder / "mine").mkdir()
    (folder / "mine/dataset.toml").write_text("\n".join(lines))
    ucf_train.main([*words, "--output", str(folder / "ucf")])
    custom_train.main(["--data", str(folder / "mine"), *others, "--output", str(folder / "custom")])
    return folder


def test_it_gives_what_the_benchmarks_own_script_gives(trained):
    ucf, custom = (json.loads((trained / name / "report.json").read_text()) for name in ("ucf", "custom"))
    for part in ("coarse", "fine", "online", "per_class", "map", "videos", "frames", "segments", "threshold", "parameters"):
        assert custom[part] == ucf[part], part
    assert (ucf["dataset"], custom["dataset"]) == ("ucf", "my-cameras")
    text = (trained / "custom/report.md").read_text()
    assert "on My Cameras: 16 videos" in text
    assert not any(title in text for title in ("UCF-Crime", "XD-Violence", "paper"))


def test_its_checkpoint_is_tested_by_its_script(trained, capsys):
    path = trained / "custom/seed-1/best.pt"
    custom_test.main(["--data", str(trained / "mine/dataset.toml"), "--checkpoint", str(path), "--json", str(trained / "tested.json")])
    tested, told = (json.loads(file.read_text()) for file in (trained / "tested.json", trained / "custom/seed-1/report.json"))
    assert {part: tested[part] for part in ("coarse", "fine", "map")} == {part: told[part] for part in ("coarse", "fine", "map")}
    assert "My Cameras features" in capsys.readouterr().out


@pytest.mark.parametrize("key", ["ucf", "xd"])
def test_the_files_of_list_say_what_the_code_said(small_sample, key, trained):
    now, before = DATASETS[key], BEFORE[key]
    assert (now.key, now.title, now.fps, now.labels, now.names) == (before.key, before.title, before.fps, before.labels, before.names)
    if key == "ucf":
        scores = load_scores(trained / "ucf/seed-1/scores.npz")[0]
        words = small_sample(key)
        path = words[words.index("--gt-path") + 1]
        ours, theirs = (report.resample(scores, load_ground_truth(path, dataset), dataset, 20) for dataset in (now, before))
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[figure], theirs[figure], equal_nan=True) for figure in ours)


def test_one_of_list_may_be_named(tmp_path):
    assert load_dataset("ucf") == UCF
    assert load_dataset(UCF.path) == UCF


@pytest.fixture
def fights(tmp_path):
    """A data set of two classes without ground truth: 8 videos to train on, 6 to test, features (3, 8) whose first column tells fights."""
    random, lists = np.random.default_rng(0), {"train": range(8), "test": range(8, 14)}
    (tmp_path / "features").mkdir()
    for kind, numbers in lists.items():
        rows = [f"v{number:02d},{('Normal', 'Fighting')[number % 2]}" for number in numbers]
        (tmp_path / f"{kind}.csv").write_text("\n".join(["path,label", *rows]) + "\n")
        for number in numbers:
            np.save(tmp_path / f"features/v{number:02d}.npy", (random.normal(size=(3, 8)) + 4 * (number % 2)).astype(np.float32))
    keys = 'title = "Fights"\nfps = 25\ntrain_list = "train.csv"\ntest_list = "test.csv"\nfeature_root = "features"\n'
    (tmp_path / "dataset.toml").write_text(f'{keys}[classes]\nNormal = "normal"\nFighting = "fighting"\n')
    return tmp_path


def test_any_amount_of_test_labels(fights, capsys):
    words = ["--model", "deepmil", "--visual-width", "8", "--batch-size", "4", "--max-epoch", "2", "--device", "cpu", "--val-share", "0.3"]
    custom_train.main(["--data", str(fights), *words, "--plots", "--output", str(fights / "run")])
    none = json.loads((fights / "run/report.json").read_text())
    assert (none["coarse"], none["timed"], none["truth"]) == (None, 0, "none was given")
    assert none["headline"] == [["video", "coarse", "auc"], ["video", "coarse", "ap"]]
    assert none["video"]["coarse"]["auc"]["low"] <= none["video"]["coarse"]["auc"]["value"] == 1
    assert none["video"]["per_class"]["coarse"]["fighting"]["auc"]["videos"] == 3
    assert "no frame figures: no test video has intervals (ground truth: none was given)" in capsys.readouterr().out
    assert {path.name for path in (fights / "run/seed-1/plots").iterdir()} == {"training.png", *(f"v{n:02d}.png" for n in range(8, 14))}

    def tested(truth):
        entries = {name: {"frames": 48, "fps": 25, "segments": spans} for name, spans in truth.items()}
        (fights / "gt.json").write_text(json.dumps(entries))
        more = ["--checkpoint", str(fights / "run/seed-1/best.pt"), "--gt-path", str(fights / "gt.json")]
        custom_test.main(["--data", str(fights), *more, "--device", "cpu"])
        return json.loads((fights / "run/seed-1/test/report.json").read_text())

    some = tested({"v09": [[0, 16, "Fighting"]], "v11": []})
    assert (some["timed"], some["video"]) == (4, none["video"])  # v09 and the normal ones; v11's list says that it is abnormal
    assert some["coarse"]["auc"]["value"] is not None
    assert "frame figures on 4 of 6 videos with intervals" in capsys.readouterr().out
    scores = str(fights / "run/seed-1/test/scores.npz")
    evaluate.main(["--data", str(fights), "--scores", scores, "--json", str(fights / "anew.json")])
    anew = json.loads((fights / "anew.json").read_text())
    assert {key: anew[key] for key in ("video", "coarse", "per_class", "timed")} == {
        key: some[key] for key in ("video", "coarse", "per_class", "timed")
    }
    whole = tested({f"v{number:02d}": [[0, 16, "Fighting"]] for number in (9, 11, 13)})
    assert not {"video", "timed", "truth"} & whole.keys()
    assert not (fights / "run/seed-1/test/truth.json").exists()
    assert whole["headline"][0] == ["coarse", "auc"]
    with pytest.raises(BadInput, match="the 6 test videos are not in the ground truth"):
        tested({"other": []})


def test_of_two_data_sets_of_one_title_the_named_one_is_tested(fights):
    words = ["--model", "deepmil", "--visual-width", "8", "--batch-size", "4", "--max-epoch", "1", "--device", "cpu", "--val-share", "0.3"]
    custom_train.main(["--data", str(fights), *words, "--output", str(fights / "run")])
    shutil.copytree(fights, fights / "later", ignore=shutil.ignore_patterns("run", "later"))
    (fights / "later/test.csv").write_text("path,label\nv08,Normal\nv09,Fighting\n")
    for folder, videos in ((fights, 6), (fights / "later", 2)):
        custom_test.main(["--data", str(folder), "--checkpoint", str(fights / "run/seed-1/best.pt"), "--device", "cpu"])
        assert json.loads((fights / "run/seed-1/test/report.json").read_text())["videos"] == videos


def test_a_normal_video_with_intervals_is_told(fights, capsys):
    truth = {"v08": {"frames": 48, "fps": 25, "segments": [[0, 16, "Fighting"]]}}
    (fights / "gt.json").write_text(json.dumps(truth))
    words = ["--data", str(fights), "--gt-path", str(fights / "gt.json"), "--model", "deepmil", "--visual-width", "8"]
    loading.load_data(custom_option.parse_args(words, testing=True, model="deepmil"), seed=None)
    assert "note: 1 test videos are normal in the list, and tested as the ground truth has them, abnormal: v08" in capsys.readouterr().out


def test_what_is_typed_for_a_data_set(tmp_path):
    (tmp_path / "dataset.toml").write_text('title = "Custom"\nfps = 25\n[classes]\nNormal = "normal"\nFire = "fire"')
    assert command_of(UCF, "train") == ["ucf_train.py"]
    assert command_of(load_dataset(tmp_path), "train") == ["custom_train.py", "--data", str(tmp_path / "dataset.toml")]


@pytest.mark.parametrize("key", ["ucf", "xd"])
def test_the_official_test_set_is_counted(key):
    dataset = DATASETS[key]
    names = load_ground_truth(dataset.gt_path, dataset).keys()
    assert official_videos(dict.fromkeys([*names, "mine"]), dataset) == [len(names)] * 2
    assert official_videos({}, replace(dataset, test_list=None, gt_path=None)) is None
