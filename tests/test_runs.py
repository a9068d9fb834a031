"""The folder of a run: what a second command does to what the first one left."""

import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import xd_option
import xd_test
import xd_train
from utils import checkpoint, engine, loading, runs
from utils.errors import BadInput
from utils.files import ROOT, locked
from utils.testing import features_of


def bytes_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def finished(small_sample, tmp_path_factory):
    """The folder of a finished run of seed 1, and its words."""
    folder = tmp_path_factory.mktemp("run") / "run"
    words = [*small_sample("xd"), "--output", str(folder)]
    xd_train.main(words)
    return folder, words


@pytest.fixture
def run(finished, tmp_path):
    """A copy to spoil: folder and words."""
    folder, words = finished
    subprocess.run(["cp", "-r", str(folder), str(tmp_path / "run")], check=True)
    return tmp_path / "run", [*words[:-1], str(tmp_path / "run")]


def test_a_finished_run_is_not_replaced(run):
    folder, words = run
    before = bytes_of(folder)
    for more in ([], ["--lr", "0.5"], ["--seeds", "2", "1"]):
        with pytest.raises(BadInput, match=re.escape(f"{folder}: holds a finished run (seed 1); go on with it: --resume")):
            xd_train.main([*words, *more])
    assert bytes_of(folder) == before


@contextmanager
def interrupted_after_an_epoch(monkeypatch):
    finish = engine.Training.finish_epoch

    def once(self, *rest):
        finish(self, *rest)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(engine.Training, "finish_epoch", once)
        yield


def test_overwrite_keeps_the_old_run_until_the_new_one_has_an_epoch(run, monkeypatch):
    folder, words = run
    before = bytes_of(folder)

    def interrupted(*_):
        assert (folder / ".replaced" / "seed-1" / "best.pt").exists()
        assert not (folder / "seed-1" / "best.pt").exists()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(engine, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            xd_train.main([*words, "--overwrite", "--lr", "0.01"])
    assert bytes_of(folder) == before

    with interrupted_after_an_epoch(monkeypatch):
        with pytest.raises(KeyboardInterrupt):
            xd_train.main([*words, "--overwrite", "--lr", "0.01"])
        with pytest.raises(KeyboardInterrupt):  # the finished run is kept, the unfinished one goes
            xd_train.main([*words, "--overwrite", "--lr", "0.02"])
    assert bytes_of(folder / ".replaced") == before
    xd_train.main(["--output", str(folder), "--resume"])
    assert json.loads((folder / "seed-1" / "options.json").read_text())["lr"] == 0.02
    assert not (folder / ".replaced").exists()
    assert len(list(folder.rglob("events.out.tfevents.*"))) == 2  # the new run's, before and after it was interrupted


def test_another_seed_leaves_alone_what_is_being_replaced(run, monkeypatch):
    folder, words = run
    before, step, seeds = bytes_of(folder), engine.step, [2, 3]

    def among_others(*arguments):
        if len(seeds) == 2 or (seeds and (folder / "seed-1" / "log.jsonl").exists()):  # before its first epoch is over, and after it
            another(seeds.pop(0))
        return step(*arguments)

    def another(seed):
        with monkeypatch.context() as patch:
            patch.setattr(engine, "step", step)
            xd_train.main([*words, "--lr", "0.01", "--seed", str(seed)])
        assert bytes_of(folder / ".replaced") == before
        with pytest.raises(BadInput, match="writes there; wait"):
            xd_train.main([*words, "--overwrite", "--seed", "4"])

    monkeypatch.setattr(engine, "step", among_others)
    xd_train.main([*words, "--overwrite", "--lr", "0.01"])
    assert not seeds
    assert not (folder / ".replaced").exists()
    assert len(list(folder.glob("seed-*/report.json"))) == 3


def test_overwrite_cut_off_while_it_moves_the_old_run_loses_nothing(run, monkeypatch):
    folder, words = run
    before = bytes_of(folder)
    rename = Path.rename
    for number in range(1, 5):
        left = [number]

        def dying(self, target, left=left):
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt
            return rename(self, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", dying)
            with pytest.raises(KeyboardInterrupt):
                xd_train.main([*words, "--overwrite"])
        with pytest.raises(BadInput, match="holds a finished run"):
            xd_train.main(words)
        assert bytes_of(folder) == before


@pytest.mark.slow
def test_seeds_are_added_to_a_run_of_the_same_options(run):
    folder, words = run
    before = bytes_of(folder / "seed-1")
    with pytest.raises(BadInput, match=re.escape(f"{folder}: its seed 1 was trained with lr = ")):
        xd_train.main([*words, "--seed", "2", "--lr", "0.5"])
    xd_train.main([*words, "--seed", "2"])
    report = json.loads((folder / "report.json").read_text())
    assert report["seeds"] == [1, 2]
    assert bytes_of(folder / "seed-1") == before


def test_resume_remembers_its_options(run, tmp_path, monkeypatch, capsys):
    folder, _ = run
    with pytest.raises(BadInput, match=r"last.pt was trained with lr = 0.0005, now it is 0.5; give the same options"):
        xd_train.main(["--output", str(folder), "--resume", "--lr", "0.5"])
    with pytest.raises(BadInput, match="--model reflip, found vadclip; leave the option out"):
        xd_train.main(["--output", str(folder), "--resume", "--model", "vadclip"])
    capsys.readouterr()
    monkeypatch.setitem(xd_option.SYSTEMS["reflip"], "margin", 9.0)
    before = (folder / "seed-1" / "report.json").read_bytes()
    monkeypatch.chdir(tmp_path)
    xd_train.main(["--output", "run", "--resume"])
    assert "note: xd_option.py says margin 9.0 by now; the run goes on with 10.0" in capsys.readouterr().out
    assert json.loads((folder / "seed-1" / "report.json").read_bytes())["coarse"] == json.loads(before)["coarse"]


def test_resume_auto_begins_or_goes_on(small_sample, tmp_path, monkeypatch, capsys):
    words = [*small_sample("xd", model="deepmil"), "--resume", "auto", "--output", str(tmp_path / "run")]
    with pytest.raises(BadInput, match="--resume and --overwrite"):
        xd_train.main([*words, "--overwrite"])
    with pytest.raises(BadInput, match=r"invalid choice: 'soon' \(choose from '?auto'?\)"):
        xd_train.main([*words, "--resume", "soon"])
    with interrupted_after_an_epoch(monkeypatch), pytest.raises(KeyboardInterrupt):
        xd_train.main([*words, "--seeds", "1", "2"])
    assert "going on" not in capsys.readouterr().out
    xd_train.main([*words, "--seeds", "1", "2"])
    said = capsys.readouterr().out
    assert f"going on with {tmp_path / 'run'}, seeds 1, 2" in said
    assert len(re.findall("^epoch 1 ", said, re.MULTILINE)) == 1  # of seed 2
    assert json.loads((tmp_path / "run" / "report.json").read_text())["seeds"] == [1, 2]
    with pytest.raises(BadInput, match=r"last.pt was trained with lr = 0.01, now it is 0.5; give the same options"):
        xd_train.main([*words, "--lr", "0.5"])


def test_a_run_goes_on_with_more_epochs_where_its_schedule_lets_it(small_sample, tmp_path):
    words = [*small_sample("xd", model="deepmil"), "--scheduler", "multistep", "--milestones", "1", "--seed", "1"]
    xd_train.main([*words, "--max-epoch", "3", "--output", str(tmp_path / "whole")])
    short = ["--output", str(tmp_path / "short")]
    xd_train.main([*words, "--max-epoch", "1", *short])
    xd_train.main(["--resume", "--max-epoch", "3", *short])
    for name in ("last.pt", "best.pt", "scores.npz"):
        assert len({(tmp_path / run / "seed-1" / name).read_bytes() for run in ("whole", "short")}) == 1, name
    made = tmp_path / "short" / "seed-1" / "options.json"
    assert json.loads(made.read_text())["max_epoch"] == 3
    before = bytes_of(tmp_path / "short")
    with pytest.raises(BadInput, match=r"last.pt was trained with max_epoch = 3, now it is 2; give the same options"):
        xd_train.main(["--resume", "--max-epoch", "2", *short])
    assert bytes_of(tmp_path / "short") == before
    for other, schedule in (({"scheduler": "cosine"}, "--scheduler cosine"), ({"model": "dsanet"}, "--model dsanet")):
        made.write_text(json.dumps(json.loads(before["seed-1/options.json"]) | other))
        expected = f"begun with --max-epoch 3, found 4: its learning rate falls over all epochs ({schedule}); leave it out"
        with pytest.raises(BadInput, match=re.escape(expected)):
            xd_train.main(["--resume", "--max-epoch", "4", *short])


def test_what_has_saved_nothing_yet_is_remembered_as_it_was_begun_last(small_sample, tmp_path, monkeypatch):
    words = [*small_sample("xd", model="deepmil"), "--seed", "1", "--output", str(tmp_path)]
    monkeypatch.setattr(engine, "step", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    for lr in (0.1, 0.2):
        with pytest.raises(KeyboardInterrupt):
            xd_train.main([*words, "--lr", str(lr)])
        assert json.loads((tmp_path / "seed-1" / "options.json").read_text())["lr"] == lr


def test_a_run_of_an_earlier_version_goes_on_and_its_epochs_are_compared_by_one_figure(finished, tmp_path, monkeypatch, capsys):
    """It chose by another figure than is reported: higher or lower than what it is compared with now."""
    folder, words = finished
    with interrupted_after_an_epoch(monkeypatch), pytest.raises(KeyboardInterrupt):
        xd_train.main([*words[:-1], str(tmp_path)])
    whole = checkpoint.load(folder / "seed-1" / "best.pt")
    for name, kind in (("best.pt", checkpoint.Best), ("last.pt", checkpoint.Last)):
        saved = checkpoint.load(tmp_path / "seed-1" / name, kind)
        del saved["figure_of"]
        checkpoint.save(tmp_path / "seed-1" / name, saved | ({"best": {1: -1.0, 2: 2.0}[whole["epoch"]]} if name == "last.pt" else {}))
    xd_train.main(["--output", str(tmp_path), "--resume"])
    said = capsys.readouterr().out
    assert "note: an earlier version chose epoch 1; fine AP by video chooses from here on, of which it has " in said
    found = checkpoint.load(tmp_path / "seed-1" / "best.pt")
    assert (found["epoch"], found["figure"], found["thresholds"]) == (whole["epoch"], whole["figure"], whole["thresholds"])


def test_a_run_from_before_there_was_an_option_is_as_it_was(run, monkeypatch, capsys):
    """Tested and gone on with as the default of the code says, which does not move, whatever the option file says by now."""
    folder, words = run
    xd_train.main([*words, "--overwrite", "--no-stage-norm", "--no-shortcut-conv", "--magnitude-push", "1"])  # as it was then
    later = ("channel_attention", "stage_norm", "shortcut_conv", "normal_top1", "magnitude_push", "preset", "changed")
    for name in ("best.pt", "last.pt"):
        saved = torch.load(folder / "seed-1" / name, weights_only=False)
        saved["options"] = {key: value for key, value in saved["options"].items() if key not in later}
        torch.save(saved, folder / "seed-1" / name)
    made = json.loads((folder / "seed-1" / "options.json").read_text())
    (folder / "seed-1" / "options.json").write_text(json.dumps({key: made[key] for key in made.keys() - set(later)}))
    for name, value in {"channel_attention": "plain", "normal_top1": False}.items():
        monkeypatch.setitem(xd_option.SYSTEMS["reflip"], name, value)
    before = json.loads((folder / "seed-1" / "report.json").read_text())["coarse"]
    best = str(folder / "seed-1" / "best.pt")
    xd_test.main(["--checkpoint", best])
    assert json.loads((folder / "seed-1" / "test" / "report.json").read_text())["coarse"] == before
    with pytest.raises(BadInput, match=r"best.pt: trained with --channel-attention residual, found mean; leave the option out"):
        xd_test.main(["--checkpoint", best, "--channel-attention", "mean"])
    capsys.readouterr()
    xd_train.main(["--output", str(folder), "--resume"])
    assert "xd_option.py says channel_attention plain by now; the run goes on with residual" in capsys.readouterr().out
    assert json.loads((folder / "seed-1" / "report.json").read_text())["coarse"] == before
    with pytest.raises(BadInput, match="its seed 1 was trained with channel_attention = residual, now it is plain"):
        xd_train.main([*words, "--seed", "2"])


@pytest.mark.slow
def test_a_preset_is_remembered(small_sample, tmp_path, capsys):
    words = [*small_sample("xd"), "--select", "last", "--max-epoch", "1", "--preset", "paper", "--output", str(tmp_path / "run")]
    xd_train.main(words)
    assert "preset paper: ge_skip False (not True), channel_attention plain (not residual), " in capsys.readouterr().out
    seed = tmp_path / "run" / "seed-1"
    for made in (json.loads((seed / "options.json").read_text()), checkpoint.load(seed / "best.pt")["options"]):
        assert (made["preset"], made["ge_skip"], made["channel_attention"]) == ("paper", False, "plain")
    xd_test.main(["--checkpoint", str(seed / "best.pt")])
    ours, theirs = (json.loads((seed / name).read_text())["coarse"] for name in ("report.json", "test/report.json"))
    assert ours == theirs
    capsys.readouterr()
    xd_train.main(["--output", str(tmp_path / "run"), "--resume"])
    said = capsys.readouterr().out
    assert "going on with" in said
    assert not any(name in said for name in ("ge_skip", "scheduler", "lambda_align"))  # not what the option file says of them
    with pytest.raises(BadInput, match="its seed 1 was trained with preset = paper, now it is None"):
        xd_train.main([*(word for word in words if word not in ("--preset", "paper")), "--seed", "2"])


def test_of_data_sets_of_one_name_each_has_its_own_newest_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    monkeypatch.setattr(runs, "read_options", lambda path, _: json.loads(path.read_text()))
    for when, site in enumerate("ab"):
        place = tmp_path / "runs" / f"mine-{site}" / "seed-1"
        place.mkdir(parents=True)
        (place / "options.json").write_text(json.dumps({"dataset": "mine", "data": f"/site-{site}/dataset.toml"}))
        (place / "best.pt").touch()
        os.utime(place / "best.pt", (when, when))  # a clock may tick too slowly to tell them apart
    for site, folder in (("a", "mine-a"), ("b", "mine-b"), ("c", "mine-b")):
        options = SimpleNamespace(dataset="mine", model="reflip", typed={}, data=f"/site-{site}/dataset.toml")
        assert runs.newest_checkpoint(options).parents[1].name == folder
        assert ("was not trained on /site-c/dataset.toml" in capsys.readouterr().out) == (site == "c")


@pytest.mark.slow
def test_resume_without_output_goes_on_with_the_newest_run(small_sample, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    with pytest.raises(BadInput, match="--resume: runs/: of xd has no run to go on with"):
        xd_train.main(["--resume"])
    place = tmp_path / "runs" / "mine"
    monkeypatch.setattr(engine, "step", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        xd_train.main([*small_sample("xd"), "--seeds", "3", "4", "--output", str(place)])
    with pytest.raises(BadInput, match="no run of xd yet"):
        xd_test.main([])
    monkeypatch.undo()
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    xd_train.main(["--resume"])
    assert f"going on with {place}, seeds 3, 4" in capsys.readouterr().out
    assert json.loads((place / "report.json").read_text())["seeds"] == [3, 4]
    for seed in (3, 4):
        (place / f"seed-{seed}" / "best.pt").unlink()
    with pytest.raises(BadInput, match=re.escape(f"{place}: the newest run of xd has no best.pt; finish it (--resume)")):
        xd_test.main([])
    with pytest.raises(BadInput, match="--resume and --overwrite"):
        xd_train.main(["--resume", "--overwrite"])
    with pytest.raises(BadInput, match="no such file"):
        xd_train.main([*small_sample("xd"), "--train-list", "absent.csv", "--output", str(tmp_path / "runs" / "failed")])
    assert not list((tmp_path / "runs" / "failed").iterdir())


def test_one_process_at_a_time(run):
    """Whoever holds the seed is named; its lock dies with it."""
    folder, words = run
    held = f"with locked({str(folder)!r}, '.seed-1.lock'): print('held', flush=True); time.sleep(60)"
    program = f"import time; from utils.files import locked\n{held}"
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        for more in (["--resume"], ["--overwrite"]):
            with pytest.raises(BadInput, match=rf"{folder}: process {other.pid} on \S+ \(python -c\), since .* writes there; wait"):
                xd_train.main([*words, *more])
        other.kill()
    with locked(folder, ".seed-1.lock"):
        pass


def test_a_lock_leaves_nothing_behind_and_is_one_however_often_it_is_taken(tmp_path):
    """Processes that take turns on one file that each removes: never two at a time."""
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom utils.files import locked\nmark = Path(sys.argv[1], 'mark')\n"
        "for _ in range(60):\n with locked(sys.argv[1], wait=True): mark.touch(exist_ok=False); time.sleep(0.001); mark.unlink()"
    )
    others = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, stderr=subprocess.DEVNULL) for _ in range(3)]
    assert [other.wait() for other in others] == [0, 0, 0]
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        1 / 0  # noqa: B018
    assert list(tmp_path.iterdir()) == []


def test_a_forked_child_does_not_keep_the_lock(tmp_path):
    reading, writing = os.pipe()
    with locked(tmp_path):
        if (child := os.fork()) == 0:  # as a worker of the loader, which may outlive a killed training
            os.read(reading, 1)
            os._exit(0)
    with locked(tmp_path):
        os.write(writing, b"x")
    os.waitpid(child, 0)


def test_no_pictures_of_a_shorter_training_are_left(small_sample, tmp_path):
    words = [*small_sample("xd", model="deepmil"), "--scheduler", "multistep", "--milestones", "1", "--seeds", "1", "2", "--max-epoch", "1"]
    xd_train.main([*words, "--plots", "--output", str(tmp_path)])
    drawn = sorted(tmp_path.rglob("*.png"))
    assert {path.parent.parent.name for path in drawn} == {"seed-1", "seed-2", tmp_path.name}
    again = ["--resume", "--no-plots", "--output", str(tmp_path)]
    xd_train.main(again)
    assert sorted(tmp_path.rglob("*.png")) == drawn
    xd_train.main([*again, "--max-epoch", "2"])
    assert not list(tmp_path.rglob("*.png"))


@pytest.mark.slow
def test_results_of_a_test_are_replaced_whole_and_nobody_elses(run, tmp_path, monkeypatch):
    folder, words = run
    best = str(folder / "seed-1" / "best.pt")
    xd_test.main(["--checkpoint", best, "--plots"])
    (folder / "seed-1" / "test" / "plots" / "old.png").write_bytes(b"of an earlier test")
    xd_test.main(["--checkpoint", best, "--plots"])
    drawn = {path.name for path in (folder / "seed-1" / "test" / "plots").iterdir()}
    assert drawn >= {"curves.png", "confusion.png", "alignment.png"}
    assert "old.png" not in drawn
    assert len(drawn) == 3 + len(np.load(folder / "seed-1/scores.npz").files) // 2  # of each video coarse, fine; the classes
    xd_test.main(["--checkpoint", best, "--no-plots"])
    assert not (folder / "seed-1" / "test" / "plots").exists()
    assert not list((folder / "seed-1" / "test").glob(".test-*"))
    for taken in (folder, folder / "seed-1"):
        with pytest.raises(BadInput, match="holds a run, or the test of another checkpoint; name another folder"):
            xd_test.main(["--checkpoint", best, "--output", str(taken)])
    own = [*("--checkpoint", best), *("--output", str(tmp_path / "t"))]
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "notes.txt").write_text("mine")
    xd_test.main(own)
    xd_test.main(own)
    monkeypatch.chdir(folder)
    xd_test.main(["--checkpoint", "seed-1/best.pt", *own[2:]])  # the same one
    with pytest.raises(BadInput, match="holds a run, or the test of another checkpoint"):
        xd_test.main(["--checkpoint", str(folder / "seed-1" / "last.pt"), *own[2:]])
    with pytest.raises(BadInput, match="holds the results of a test; name another --output"):
        xd_train.main([*words[:-1], str(tmp_path / "t")])
    assert (tmp_path / "t" / "notes.txt").read_text() == "mine"


def test_the_sample_has_runs_of_its_own():
    assert xd_option.parse_args([]).output == str(ROOT / "runs" / "sample-xd-reflip")
    assert xd_option.parse_args(["--feature-root", "x"]).output == str(ROOT / "runs" / "xd-reflip")


@pytest.fixture
def overlapping(small_sample, tmp_path):
    """Words of a training whose list holds two of the test videos."""
    words = small_sample("xd")
    at = words.index("--train-list") + 1
    rows = Path(words[at]).read_text() + "".join(Path(words[words.index("--test-list") + 1]).read_text().splitlines(True)[1:3])
    (tmp_path / "both.csv").write_text(rows)
    return [*words[:at], str(tmp_path / "both.csv"), *words[at + 1 :]]


def test_test_videos_are_not_trained_on_unasked(overlapping, capsys):
    with pytest.raises(BadInput, match=r"both.csv: 2 of its 30 videos are in .*test.csv, too \(.*accept it with --allow-overlap"):
        loading.load_data(xd_option.parse_args(overlapping), 1)
    data = loading.load_data(xd_option.parse_args([*overlapping, "--allow-overlap"]), 1)
    assert "note: 2 videos are in the training and in the test list: " in capsys.readouterr().out
    assert len(data.same) == 2


@pytest.mark.slow
def test_videos_that_were_trained_on_are_told(overlapping, tmp_path, capsys):
    words = overlapping
    xd_train.main([*words, "--allow-overlap", "--output", str(tmp_path / "run")])
    told = "2 of the 16 test videos were trained on ("
    assert told in capsys.readouterr().out
    assert told in (tmp_path / "run" / "report.md").read_text()
    xd_test.main(["--checkpoint", str(tmp_path / "run" / "seed-1" / "best.pt")])
    assert told in capsys.readouterr().out


def test_missing_files_are_counted(small_sample, tmp_path):
    words = small_sample("xd")
    root = Path(words[words.index("--feature-root") + 1])
    (tmp_path / "f").mkdir()
    listed = [line.split(",")[0].removesuffix(".npy") for line in Path(words[words.index("--test-list") + 1]).read_text().splitlines()[1:]]
    for name in listed[8:]:
        (tmp_path / "f" / f"{name}__0.npy").symlink_to(root / f"{name}__0.npy")
    words[words.index("--feature-root") + 1] = str(tmp_path / "f")
    with pytest.raises(
        BadInput, match=r"test.csv: 8 of its 16 rows have no features below .*, first row 1 .*no file .*tools.check_features"
    ):
        loading.load_data(xd_option.parse_args(words), 1)


def test_a_missing_crop_is_named(small_sample, tmp_path):
    words = small_sample("xd")
    root = Path(words[words.index("--feature-root") + 1])
    (tmp_path / "f").mkdir()
    for file in root.iterdir():
        (tmp_path / "f" / file.name).symlink_to(file)
    name = Path(words[words.index("--train-list") + 1]).read_text().splitlines()[1].split(".npy")[0]
    (tmp_path / "f" / f"{name}__7.npy").unlink()
    words[words.index("--feature-root") + 1] = str(tmp_path / "f")
    with pytest.raises(BadInput, match=re.escape(f"{name} has the crops 0, 1, 2, 3, 4, 5, 6, 8, 9, of 28 videos 27 have 0, 1, 2")):
        loading.load_data(xd_option.parse_args(words), 1)


@pytest.mark.parametrize(
    ("words", "encoder", "projected", "expected"),
    [
        ([], None, False, "visual"),
        ([], "ViT-B/16", False, "visual"),
        ([], "ViT-B/32", False, "other"),
        (["--visual-width", "400"], None, False, "other"),
        (["--model", "hlnet", "--visual-width", "1024"], None, False, "visual"),
        (["--model", "hlnet"], "ViT-B/16", False, "other"),
        (["--sentence-encoder", "x", "--visual-width", "384"], None, False, "sentences"),
        (["--sentence-encoder", "x", "--visual-width", "400"], None, True, "other"),
        (["--sentence-encoder", "x"], None, True, "other"),  # 512 columns, of which nothing says that they are CLIP's
        (["--sentence-encoder", "x"], "ViT-B/16", True, "visual"),
        (["--sentence-encoder", "x", "--model", "trclip", "--branches", "visual"], None, True, "other"),
        (["--sentence-encoder", "x", "--model", "deepmil"], None, False, "other"),  # it reads no text
        (["--sentence-encoder", "x"], "ViT-B/16", False, "visual"),  # the manifest knows
        (["--sentence-encoder", "x", "--model", "trclip", "--caption-root", "y"], None, True, "sentences"),
    ],
)
def test_a_papers_figures_stand_beside_features_like_its_own(words, encoder, projected, expected):
    made = encoder and {"encoder": {"name": encoder}}
    assert features_of(xd_option.parse_args(["--feature-root", "x", *words]), made, projected) == expected
