"""tools.check_features: everything that training would stop at, and what it says to type is typed."""

import importlib
import json
import os
import shlex

import numpy as np
import pytest

from golden import REAL
from tools import make_list
from tools.check_features import main
from utils import loading
from utils.errors import BadInput
from utils.survey import made_by, read_headers, read_norms, wanted_scale

WIDTH = 8
TRAIN = {f"{kind}{number}": kind for kind in ("Normal", "Fight") for number in range(4)}
TEST = {f"test-{name}": kind for name, kind in list(TRAIN.items())[2:6]}
TOML = """title = "My cameras"
fps = 25
train_list = "train.csv"
test_list = "test.csv"
ground_truth = "gt.json"
feature_root = "features"
[classes]
Normal = "normal"
Fight = "fighting"
"""


class Cameras:
    """A data set in a folder: eight training and four test videos of two crops, rows of norm 10."""

    def __init__(self, folder):
        self.folder = folder
        random = np.random.default_rng(0)
        for number, name in enumerate([*TRAIN, *TEST]):
            for crop in range(2):
                rows = random.normal(size=(5 + number, WIDTH))
                self.save(f"{name}__{crop}", 10 * rows / np.linalg.norm(rows, axis=1, keepdims=True))
        self.lists()
        self.truth({name: 16 * (5 + number) for number, name in enumerate([*TRAIN, *TEST]) if name in TEST})
        (folder / "dataset.toml").write_text(TOML)

    def save(self, name, rows, dtype=np.float32):
        file = self.folder / "features" / f"{name}.npy"
        file.parent.mkdir(exist_ok=True)
        np.save(file, rows.astype(dtype))
        return file

    def load(self, name):
        return np.load(self.folder / "features" / f"{name}.npy", allow_pickle=False)

    def lists(self, train=TRAIN, test=TEST):
        for file, videos in (("train.csv", train), ("test.csv", test)):
            rows = "".join(f"{name}.npy,{label}\n" for name, label in videos.items())
            (self.folder / file).write_text("path,label\n" + rows)

    def truth(self, frames):
        lines = [f'"{name}": {{"frames": {count}, "fps": 25, "segments": []}}' for name, count in frames.items()]
        (self.folder / "gt.json").write_text("{" + ",\n".join(lines) + "}")

    def files(self, *names):
        return [self.folder / "features" / f"{name}__{crop}.npy" for name in names for crop in range(2)]


@pytest.fixture
def cameras(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Cameras(tmp_path)


def checked(capsys, *words):
    """(what is printed, the commands to type next, the one line of the error or None)"""
    error = None
    try:
        main(["--data", ".", *words])
    except BadInput as caught:
        error = str(caught)
    shown = capsys.readouterr().out
    return shown, [shlex.split(line) for line in shown.splitlines() if line.startswith("    python ")], error


def trained(words):
    """What custom_train.py does with the data; words: as typed behind `python`."""
    script, *rest = words
    options = importlib.import_module(script.replace("_train.py", "_option")).parse_args(rest)
    data = loading.load_data(options, 1)
    for index in range(len(data.train)):
        data.train[index]
    return options


def test_a_sound_data_set(cameras, capsys):
    shown, commands, error = checked(capsys)
    assert error is None
    assert shown.splitlines()[-1] == "ok: training would start"
    assert "--train-list train.csv: 8 videos, 8 of them there" in shown
    assert "crops 2 (8 videos); 68 rows, 5 to 12 a video" in shown
    assert f"width {WIDTH} (24 files), type float32 (24 files)" in shown
    assert "norms of rows: mean 10, std " in shown
    assert "4 of 4 test videos have its length" in shown
    ((python, *words),) = commands
    assert (python, words) == ("python", ["custom_train.py", "--data", "dataset.toml", "--visual-width", "8"])
    assert trained(words).visual_width == 8


def spoil_missing(cameras):
    for file in cameras.files("test-Normal2", "test-Fight1", "Fight3"):
        file.unlink()


def spoil_cut(cameras):
    for file in cameras.files("Fight0"):
        file.write_bytes(file.read_bytes()[:-1])


def spoil_empty(cameras):
    cameras.files("Fight0")[0].write_bytes(b"")


def spoil_nan(cameras):
    rows = cameras.load("Fight0__1")
    rows[2, 3] = np.nan
    cameras.save("Fight0__1", rows)


def spoil_overlap(cameras):
    cameras.lists(train=TRAIN | TEST)


def spoil_truth(cameras):
    cameras.truth(dict.fromkeys(list(TEST)[1:], 16 * 9))


FAULTS = {
    "missing": (spoil_missing, ["videos of --train-list without features: 1 (Fight3)",
                                "videos of --test-list without features: 2 (test-Normal2, test-Fight1)"]),
    "cut": (spoil_cut, ["no readable .npy array (truncated file): 2 (Fight0__0.npy, Fight0__1.npy)"]),
    "empty": (spoil_empty, ["no readable .npy array (empty file): 1 (Fight0__0.npy)"]),
    "width": (lambda cameras: cameras.save("Fight0__0", np.ones((9, WIDTH + 1))), ["files of another width than 8: 1 (Fight0__0.npy)"]),
    "integers": (lambda cameras: cameras.save("Fight0__0", np.ones((9, WIDTH)), int), ["int64 values: 1 (Fight0__0.npy)"]),
    "not finite": (spoil_nan, ["files with NaN or infinity: 1 (Fight0__1.npy)"]),
    "short crop": (lambda cameras: cameras.save("Fight0__1", np.ones((2, WIDTH))),
                   ["videos of --train-list whose crops differ in length: 1 (Fight0)"]),
    "ten crops in one of several": (lambda cameras: cameras.save("Fight0__1", np.ones((9, 10, WIDTH))),
                                    ["videos of --train-list whose crops differ in length: 1 (Fight0)"]),
    "crop": (lambda cameras: cameras.files("Fight0")[1].unlink(), ["crops 2 (7 videos), 1 (1 video), not 2: Fight0 1", "lack crops"]),
    "test crop": (lambda cameras: cameras.files("test-Fight0")[0].unlink(),
                  ["test videos without crop 0, see --test-crop: 1 (test-Fight0)"]),
    "overlap": (spoil_overlap, ["videos in both lists, see --allow-overlap: 4 (test-Normal2, test-Normal3, test-Fight0, test-Fight1)"]),
    "another ground truth": (lambda cameras: cameras.truth({"other": 16}),
                             ["test videos that are not in the ground truth: 4 (test-Normal2, test-Normal3, test-Fight0, test-Fight1)"]),
    "ground truth": (spoil_truth, ["abnormal ones without intervals, figures are by video: 2 (test-Fight0, test-Fight1)",
                                   "test videos of another length than in the ground truth: 3", "off by 5 snippets: 1 (test-Normal3)"]),
    "one kind": (lambda cameras: cameras.lists({name: kind for name, kind in TRAIN.items() if kind == "Fight"}), []),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told_and_training_stops_at_it(cameras, capsys, fault):
    spoil, said = FAULTS[fault]
    spoil(cameras)
    shown, _, error = checked(capsys)
    assert error.startswith("training would not start: ")
    assert "\n" not in error
    for part in said:
        assert part in shown + error
    with pytest.raises(BadInput):
        trained(["custom_train.py", "--data", ".", "--visual-width", str(WIDTH)])


def test_without_ground_truth_or_test_list_training_starts_too(cameras, capsys):
    path, given = cameras.folder / "dataset.toml", (cameras.folder / "dataset.toml").read_text().splitlines(True)
    path.write_text("".join(line for line in given if not line.startswith("ground_truth")))
    shown, _, error = checked(capsys)
    assert error is None
    assert "no ground truth: figures are by video" in shown
    path.write_text("".join(line for line in given if not line.startswith(("ground_truth", "test_list"))))
    shown, ((_, *words),), error = checked(capsys)
    assert error is None
    assert "no test list: the training list is cross-validated" in shown
    assert words[-2:] == ["--folds", "4"]  # four videos of each class
    cameras.lists(train={name: kind for name, kind in TRAIN.items() if kind == "Normal" or name == "Fight0"})
    assert "5 training videos cannot be dealt even to 2 folds" in checked(capsys)[2]


def test_folds_need_no_test_list(cameras, capsys):
    for file in cameras.files(*TEST):
        file.unlink()
    shown, ((_, *words),), error = checked(capsys, "--", "--folds", "2", "--model", "deepmil")
    assert error is None
    assert "no test list" in shown
    assert words.count("--folds") == 1
    assert words[-4:] == ["--folds", "2", "--model", "deepmil"]


def test_what_training_will_get_counts_too(cameras, capsys):
    cameras.lists(train={name: kind for name, kind in TRAIN.items() if name not in ("Fight1", "Fight2", "Fight3")})
    assert "held-out videos are all of one kind" in checked(capsys)[2]
    _, ((*words,),), error = checked(capsys, "--", "--select", "last")
    assert error is None
    assert words[-2:] == ["--select", "last"]
    assert trained(words[1:]).select == "last"


def test_several_faults_are_one_line(cameras, capsys):
    spoil_missing(cameras)
    spoil_nan(cameras)
    cameras.save("Normal0__0", np.ones((2, WIDTH)))
    _, _, error = checked(capsys)
    assert error == (
        "training would not start: videos of --train-list without features: 1; videos of --test-list without features: 2; "
        "files with NaN or infinity: 1; videos of --train-list whose crops differ in length: 1"
    )


def test_what_is_typed_next_uses_what_is_there(cameras, capsys):
    spoil_missing(cameras)
    shown, commands, _ = checked(capsys)
    assert "to type next:\n" in shown
    *lists, (_, *train) = commands
    assert len(lists) == 2
    for _, module, name, *words in lists:
        assert (module, name) == ("-m", "tools.make_list")
        make_list.main(words)
    options = trained(train)
    assert (options.train_list, options.test_list) == ("train-there.csv", "test-there.csv")
    assert checked(capsys, "--train-list", "train-there.csv", "--test-list", "test-there.csv")[2] is None


def test_lengths_norms_and_overlap_are_accepted_by_what_is_typed_next(cameras, capsys):
    cameras.truth({name: 16 * (5 + 8 + number) + 40 * (number == 1) for number, name in enumerate(TEST)})
    cameras.lists(train=TRAIN | TEST)
    for name in [*TRAIN, *TEST]:
        for crop in range(2):
            cameras.save(f"{name}__{crop}", cameras.load(f"{name}__{crop}") / 10)
    shown, ((_, *train),), error = checked(capsys, "--allow-overlap")
    assert "off by 2 snippets: 1 (test-Normal3)" in shown
    assert error == "training would not start: test videos of another length than in the ground truth: 1"
    assert train[3:] == ["--visual-width", "8", "--feature-scale", "10", "--allow-length-mismatch", "2", "--allow-overlap"]
    assert trained(train).feature_scale == 10
    shown, again, error = checked(capsys, "--allow-overlap", "--allow-length-mismatch", "2")
    assert error is None
    assert "in both lists: 4 videos" in shown
    assert sorted(again[0][1:]) == sorted(train)


def test_the_same_bytes_under_two_names_are_told_and_no_fault(cameras, capsys):
    for crop in range(2):
        cameras.save(f"Normal1__{crop}", cameras.load(f"test-Normal2__{crop}"))
    shown, _, error = checked(capsys)
    assert error is None
    assert "the same bytes in both lists under two names: 1 (Normal1 = test-Normal2)" in shown


def test_headers_alone(cameras, capsys):
    spoil_nan(cameras)
    shown, _, error = checked(capsys, "--headers")
    assert error is None
    assert "norms" not in shown
    spoil_cut(cameras)
    assert "truncated file" in checked(capsys, "--headers")[2]


def test_ten_crops_in_one_file_and_another_width_typed(cameras, capsys):
    for number, name in enumerate([*TRAIN, *TEST]):
        for file in cameras.files(name):
            file.unlink()
        cameras.save(name, np.ones((5 + number, 10, WIDTH)), np.float16)
    shown, _, error = checked(capsys)
    assert error is None
    assert "crops 10 (8 videos)" in shown
    _, _, error = checked(capsys, "--visual-width", "4")
    assert "files of another width than 4: 12" in error


def test_no_features_at_all(cameras, capsys):
    for file in (cameras.folder / "features").iterdir():
        file.unlink()
    _, commands, error = checked(capsys)
    assert "videos of --train-list without features: 8; videos of --test-list without features: 4" in error
    assert len(commands) == 1
    os.rmdir(cameras.folder / "features")
    assert checked(capsys)[2].startswith("features: no such folder") or "no such folder" in checked(capsys)[2]


@pytest.mark.skipif(not REAL.is_dir(), reason="needs ../shared/real")
def test_real_clip_features_are_known():
    root = REAL / "ucf_clip_features" / "snippet16"
    headers, broken = read_headers(sorted(root.glob("*.npy")))
    norms, spoilt = read_norms(headers, headers)
    assert (len(headers), broken, spoilt) == (5, {}, {})
    assert made_by(root, 512, norms) == "CLIP ViT-B/16 (or B/32), each row brought to length 1 (a guess from width and norm)"
    assert wanted_scale(norms) == 10


def test_a_manifest_is_no_guess(cameras, capsys):
    made = {"encoder": {"name": "ViT-B/16\x1b[2J", "digest": "0" * 64, "width": WIDTH}, "recipe": {"crops": 2, "stride": 16}}
    (cameras.folder / "features" / "extract.json").write_text(json.dumps(made | {"videos": {}}))
    shown, _, error = checked(capsys)
    assert error is None
    assert "made by: ViT-B/16\\x1b[2J, crops 2, stride 16 (extract.json)\n" in shown
