"""A data set of one's own, through its three scripts; and the two of list/, which are such files now."""

import json

import numpy as np
import pytest

import custom_test
import custom_train
import ucf_train
from benchmarks import DATASETS, UCF
from utils.evaluation import report
from utils.evaluation.ground_truth import load_ground_truth
from utils.evaluation.scores import load_scores
from utils.labels import Dataset, load_dataset

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
