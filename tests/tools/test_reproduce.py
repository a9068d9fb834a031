"""tools.reproduce: each track's plan, what is run and what is not, shards, failures, and the section that it writes."""

import json
import os
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from golden import REAL
from made_runs import TRAIN, made_run, started
from tools import ablate, reproduce, results
from tools.reproduce import main
from utils.errors import BadInput, exit_code
from utils.evaluation import report
from utils.files import ROOT
from utils.reading import read_json

PLANS = Path(__file__).parent / "plans"
TRACKS = sorted(path.stem for path in reproduce.TRACKS.glob("*.toml"))
TOY = """
title = "A toy track"
about = "Nothing real."
data = "ucf"
needs = ["$INPUTS/make.py"]
list = "list/ucf_ReFLIP_rgb.csv"
prepare = ["python $INPUTS/make.py --output $OUTPUT/data/made"]
train = "python ucf_train.py --feature-root $OUTPUT/data/made --max-epoch 2"
[rows]
deepmil = "--model deepmil"
hlnet = "--model hlnet"
captions = "--model trclip --caption-root $CAPTIONS"
tomorrow = "--model tomorrow"
"""
TESTS = """
title = "Its tests"
about = "Nothing real."
of = "toy"
data = "ucf"
prepare = []
[tests]
other = "python ucf_test.py $READS $OUTPUT/data/made"
"""
MAKE = """
import pathlib, sys
pathlib.Path("prepared").open("a").write("once\\n")
if pathlib.Path("refuse").exists():
    sys.exit(2)
pathlib.Path(sys.argv[2]).mkdir(parents=True, exist_ok=True)
"""
TEST = TRAIN.replace('place / ("seed-" + value("--seed"))', "place").replace('made"', 'made"')


class Pool:
    """In place of the process that times a step."""

    def __init__(self, *_):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, work, *arguments):
        return SimpleNamespace(result=lambda: 0.5)


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A toy track with scripts that copy a handmade run and write down how they were called."""
    for module in (ablate, reproduce):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(reproduce, "TRACKS", tmp_path)
    monkeypatch.setattr(reproduce, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(ablate.report, "RESAMPLES", 50)
    real = report.resample
    monkeypatch.setattr(report, "resample", lambda *a, **k: real(*a, **k | {"resamples": 50}))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list").mkdir()
    shutil.copy(ROOT / "list/ucf_ReFLIP_rgb.csv", tmp_path / "list")
    for name, text in {"ucf_train.py": TRAIN, "ucf_test.py": TEST, "toy.toml": TOY, "tests.toml": TESTS, "make.py": MAKE}.items():
        (tmp_path / name).write_text(text)
    made_run(tmp_path / "made")
    (tmp_path / "made/best.pt").touch()
    os.utime(tmp_path / "made/best.pt", (0, 0))  # copies keep their times
    return tmp_path


def run(*words, track="toy"):
    main([track, "--inputs", ".", "--output", "out", "--results", "results.md", *words])


@pytest.mark.parametrize("track", TRACKS)
def test_the_plan_of_each_track(track, monkeypatch, capsys):
    """As a user reads it: what is prepared, trained and tested, and how long, here at half a second a step."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(reproduce, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(reproduce, "find_spec", lambda name: SimpleNamespace(origin="ENCODER/__init__.py"))
    given = ["--feature-root", "FEATURES"] if track in ("ucf", "xd") else ["--inputs", "INPUTS"]
    main([track, *given, "--output", "OUT", "--seeds", "1", "--jobs", "2", "--dry-run"])
    said = "".join(line + "\n" for line in capsys.readouterr().out.splitlines() if "in all" not in line)
    assert said == (PLANS / f"{track}.txt").read_text()
    assert not Path("OUT").exists()


def test_everything_of_a_track_is_run_once(world, capsys):
    run("--seeds", "1", "2")
    assert len(started(world)) == 4
    assert (world / "prepared").read_text() == "once\n"
    said = capsys.readouterr().out
    assert "# captions is left out: needs --caption-root\n# tomorrow is left out: this version has no --model tomorrow\n" in said
    assert "# deepmil: 4 epochs of 12.5 s (25 steps of 0.5 s, timed here and now; no features yet: one crop a video): 0.8 min" in said
    assert "4 of 4 runs are finished: out/toy/results.md\nwritten: section toy of results.md" in said
    written = (world / "results.md").read_bytes()
    run("--seeds", "1", "2")
    assert started(world) == []
    assert (world / "prepared").read_text() == "once\n"
    assert (world / "results.md").read_bytes() == written
    shutil.rmtree(world / "out/data/made")
    run("--seeds", "1", "2")
    assert (world / "prepared").read_text() == "once\nonce\n"


def test_an_estimate_from_epochs_that_are_finished(world, capsys):
    run("--seeds", "1", "--only", "hlnet")
    capsys.readouterr()
    run("--seeds", "1", "2", "--only", "hlnet", "--dry-run")
    assert "# hlnet: 2 epochs of 2 s (as 2 that are finished): 0.1 min" in capsys.readouterr().out


def test_words_behind_two_dashes_go_to_every_training(world):
    run("--seeds", "1", "--", "--lr", "0.5")
    words = "--feature-root out/data/made --max-epoch 2 --model {0} --lr 0.5 --seed 1 --no-plots --output out/toy/{0}"
    assert started(world) == [words.format("deepmil"), words.format("hlnet")]
    assert '    TRAIN="ucf_train.py --feature-root $OUTPUT/data/made --max-epoch 2 --lr 0.5"\n' in (world / "results.md").read_text()


@pytest.mark.parametrize("count", [2, 3, 5])
def test_shards_partition_the_runs(world, capsys, count):
    def planned(*words):
        main(["tests", "--inputs", ".", "--output", "out", "--dry-run", *words])
        return [line for line in capsys.readouterr().out.splitlines() if line.startswith("python ucf")]

    whole = planned()
    parts = [planned("--shard", f"{i}/{count}") for i in range(1, count + 1)]
    assert len(whole) == 12
    assert sorted(line for part in parts for line in part) == sorted(whole)


def test_a_failed_run_is_told_and_the_others_go_on(world, monkeypatch, capsys):
    monkeypatch.setenv("FAIL", "deepmil")
    monkeypatch.setenv("CODE", "2")
    with pytest.raises(SystemExit) as stop:
        run("--seeds", "1", track="tests")
    assert stop.value.code == 2
    assert [line.split("--output ")[1] for line in started(world)] == ["out/toy/deepmil", "out/toy/hlnet", "out/tests/other/hlnet/seed-1"]
    told = capsys.readouterr()
    assert "error: deepmil seed 1: no luck; all it printed: out/toy/deepmil/seed-1.log" in told.err
    assert "tests that wait for trainings: 1\n" in told.out
    assert "| hlnet | 1 | " in (world / "results.md").read_text()


def test_without_results_the_file_waits_for_all_runs(world, capsys):
    main(["toy", "--inputs", ".", "--output", "out", "--seeds", "1", "--only", "hlnet"])
    assert "1 of 2 runs are finished: out/toy/results.md\n" in capsys.readouterr().out
    assert (world / "out/toy/results.md").read_text().startswith("## A toy track\n\nNothing real.\n")
    assert not (world / "docs").exists()


def test_a_checkpoint_is_tested_and_tested_again_when_it_is_trained_anew(world):
    run("--seeds", "1", "--only", "deepmil", track="tests")
    assert started(world)[1:] == [
        "--feature-root out/data/made --checkpoint out/toy/deepmil/seed-1/best.pt --no-plots --output out/tests/other/deepmil/seed-1"
    ]
    run("--seeds", "1", "--only", "deepmil", track="tests")
    assert started(world) == []
    newer = (world / "out/tests/other/deepmil/seed-1/report.json").stat().st_mtime + 1
    os.utime(world / "out/toy/deepmil/seed-1/best.pt", (newer, newer))
    run("--seeds", "1", "--only", "deepmil", track="tests")
    assert len(started(world)) == 1


REFUSED = {
    "a seed after --": (["--", "--seed", "3"], "--seed after --: the table sets it"),
    "no such row": (["--only", "reflip"], "--only reflip: no row of toy; expected some of deepmil, hlnet, captions, tomorrow"),
    "no inputs": (["--inputs", "nowhere"], "nowhere/make.py: no such file or folder; name where the track's files are: --inputs or"),
    "other words than the runs'": (["--", "--lr", "3"], "out/toy/deepmil: holds runs of `ucf_train.py"),
    "an output after --": (["--", "--output=x"], "--output after --: the table sets it"),
    "a preparation that fails": (["--output", "new"], "python ./make.py --output new/data/made: exit code 2, see above"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line_with_exit_code_2(world, capsys, case):
    run("--seeds", "1")
    started(world)
    (world / "refuse").touch()
    shutil.rmtree(world / "out/data")
    capsys.readouterr()
    words, said = REFUSED[case]
    assert exit_code(lambda: run("--seeds", "1", *words)) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {said}")
    assert started(world) == []


def test_the_tables(world):
    """Both videos found: AUC 1; one of them, the other tied: 0.75 (test_ablate). Two rows are one comparison: Holm's p is p."""
    run("--seeds", "1", "2")
    made_run(world / "out/toy/deepmil/seed-1", 1, found=["a1"])
    made_run(world / "out/toy/deepmil/seed-2", 2, found=["a1"])
    run("--seeds", "1", "2")
    lines = (world / "results.md").read_text().splitlines()
    tables = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ") and "---" not in line]
    head, deepmil, hlnet = tables[:3]
    assert head[:3] == ["row", "seeds", "coarse auc"]
    assert head[-1] == "paper: its features, best on test"
    assert deepmil[:2] == ["deepmil", "1, 2"]
    assert deepmil[2].startswith("75.00 ± 0.00 [")
    assert hlnet[2].startswith("100.00 ± 0.00 [")
    assert hlnet[-1] == "coarse auc 82.45 (I3D, in ReFLIP-VAD's tables)" or hlnet[-1].startswith("coarse auc 8")
    head, deepmil, hlnet = tables[3:6]
    assert head[:2] == ["minus the best", "coarse auc"]
    assert deepmil[1].startswith("-25.00 [")
    assert hlnet[1] == "best"
    assert "torch 2, commit c1." in (world / "results.md").read_text()


def test_holm_by_hand():
    """4 comparisons: 0.01 × 4, 0.02 × 3, 0.03 × 2 but not below the one before, 0.9 × 1."""
    assert results.holm([0.03, 0.01, 0.9, 0.02]) == pytest.approx([0.06, 0.04, 0.9, 0.06])
    assert results.holm([0.6, 0.7]) == [1, 1]
    assert results.holm([]) == []


def test_what_would_be_detected_by_hand():
    gap = {"low": -0.0196, "high": 0.0196}  # a standard error of 0.01
    assert results.detectable(gap, 1) == pytest.approx(0.01 * (1.95996 + 0.84162), rel=1e-4)
    assert results.detectable(gap, 5) == pytest.approx(0.01 * (2.57583 + 0.84162), rel=1e-4)


@pytest.mark.parametrize(("times", "share"), [(1, 0.8), (0, 0.05)])
def test_what_would_be_detected_is_detected_so_often(times, share):
    """Of normal draws around the detectable difference 80 % lie beyond the bound, around 0 only 5 % do."""
    size = results.detectable({"low": -0.0196, "high": 0.0196}, 1)
    drawn = np.random.default_rng(0).normal(times * size, 0.01, 100_000)
    assert (np.abs(drawn) > 0.0196).mean() == pytest.approx(share, abs=0.01)


def test_a_wrapped_command_is_the_command():
    line = "python x --strip-prefix " + "'Anomalous scenes.' " * 9 + "a " * 90
    text = results.wrapped(line)
    assert max(map(len, text.splitlines())) <= results.WIDTH
    assert shlex.split(text.replace("\\\n", "")) == shlex.split(line)


MARK = "<!-- {} of tools.reproduce caption -->"


@given(st.binary(), st.binary(), st.text(), st.text())
def test_the_rest_of_a_file_stays_as_it_is(tmp_path_factory, before, after, first, second):
    path = tmp_path_factory.mktemp("section") / "results.md"
    first, second = (text.encode("utf-8", "replace").decode() for text in (first, second))
    path.write_bytes(before)
    results.put_section(path, "caption", first)
    assert path.read_bytes().startswith(before)
    path.write_bytes(path.read_bytes() + after)
    old = path.read_bytes()
    results.put_section(path, "caption", second)
    results.put_section(path, "i3d", "")
    begin, end = (MARK.format(word).encode() for word in ("begin", "end"))
    assert path.read_bytes().startswith(old.partition(begin)[0] + begin + b"\n" + second.encode() + b"\n" + end + old.partition(end)[2])


@pytest.mark.parametrize("text", ["begin", "end", "end begin", "begin begin end", "begin end begin end"])
def test_markers_that_are_no_pair_are_refused(tmp_path, text):
    path = tmp_path / "results.md"
    path.write_text(" ".join(map(MARK.format, text.split())))
    with pytest.raises(BadInput, match=r"results.md: expected .* once each, or neither; correct the file"):
        results.put_section(path, "caption", "new")
    assert path.read_text() == " ".join(map(MARK.format, text.split()))


def test_draws_are_kept_until_scores_change(world, monkeypatch):
    run("--seeds", "1", "--only", "hlnet")
    drawn = []
    real = report.resample
    monkeypatch.setattr(report, "resample", lambda *a, **k: drawn.append(1) or real(*a, **k))
    run("--seeds", "1", "--only", "hlnet")
    assert drawn == []
    (world / "out/toy/hlnet/seed-1/drawn.npz").write_bytes(b"broken")
    run("--seeds", "1", "--only", "hlnet")
    assert drawn == [1]
    made_run(world / "out/toy/hlnet/seed-1", found=[])
    drawn.clear()
    run("--seeds", "1", "--only", "hlnet")
    assert drawn == [1]
    assert "| hlnet | 1 | 50.00" in (world / "results.md").read_text()


@pytest.mark.slow
def test_published_features_from_check_to_table(tmp_path, monkeypatch, capsys):
    """40 fabricated videos of UCF-Crime's lists, full-size: two crops of up to a thousand rows of 512 columns."""
    random, truth = np.random.default_rng(0), read_json(ROOT / "list/ucf_gt.json", "--gt-path")
    kinds = {}
    for side in ("rgb", "rgbtest"):
        for line in (ROOT / f"list/ucf_ReFLIP_{side}.csv").read_text().splitlines()[1:]:
            kinds.setdefault((side, line.endswith("Normal")), []).append(line.split(",")[0])
    for (side, _), paths in kinds.items():
        for path in [path for path in paths if side == "rgb" or truth[Path(path).stem]["frames"] < 16000][:10]:
            rows = truth[Path(path).stem]["frames"] // 16 if side == "rgbtest" else int(random.integers(20, 1000))
            (tmp_path / "features" / path).parent.mkdir(parents=True, exist_ok=True)
            for crop in (0, 5):
                name = f"{Path(path).stem}__{crop}.npy"
                np.save(tmp_path / "features" / Path(path).with_name(name), (0.44 * random.normal(size=(rows, 512))).astype(np.float16))
    np.save(tmp_path / "text.npy", random.normal(size=(14, 512)).astype(np.float32))
    monkeypatch.chdir(ROOT)
    words = ["ucf", "--feature-root", str(tmp_path / "features"), "--output", str(tmp_path / "out"), "--results", str(tmp_path / "r.md")]
    more = "--max-epoch 1 --visual-length 32 --batch-size 4 --val-share 0.2 --text-features"
    main([*words, "--seeds", "1", "--only", "deepmil", "vadclip", "--", *more.split(), str(tmp_path / "text.npy")])
    text = (tmp_path / "r.md").read_text()
    assert "20 videos, " in text
    assert "20 of the 290 videos of the official test set." in text
    assert "paper: its features, best on test; not comparable |" in text  # random class texts are none of CLIP
    assert all(f"| {row} | 1 | " in text for row in ("deepmil", "vadclip"))
    assert "timed here and now" in capsys.readouterr().out


@pytest.mark.skipif(not REAL.exists(), reason="../shared/real is not here")
def test_the_inputs_that_tracks_name_are_there():
    for track in TRACKS:
        needs = reproduce.read_track(track).get("needs", [])
        assert all(Path(need.replace("$INPUTS", str(REAL))).exists() for need in needs if "$INPUTS" in need)


def test_a_report_of_tests_says_what_was_lost(world):
    run("--seeds", "1", "2", track="tests")
    made_run(world / "out/toy/deepmil/seed-2", 2)
    made_run(world / "out/tests/other/deepmil/seed-1", 1, found=["a1"])
    made_run(world / "out/tests/other/deepmil/seed-2", 2, found=["a1"])
    run("--seeds", "1", "2", track="tests")
    lost = [line for line in (world / "results.md").read_text().splitlines() if line.startswith("| deepmil | -25.00 [")]
    assert len(lost) == 2  # minus the best, and lost
    assert json.loads((world / "out/tests/other/deepmil/report.json").read_text())["seeds"] == [1, 2]


FOLDS = """
title = "A data set of its own, in folds"
about = "Nothing real."
data = "$OUTPUT/data/toy"
needs = ["$INPUTS/list.csv"]
prepare = [
    "python -m tools.new_dataset --list $INPUTS/list.csv --feature-root $INPUTS --fps 16 --unit seconds --test-share 0 --title Toy --output $OUTPUT/data/toy",
]
train = "python custom_train.py --data $OUTPUT/data/toy --feature-root $INPUTS --folds 2 --select last --visual-width 8 --max-epoch 3"
[rows]
deepmil = "--model deepmil"
"""  # noqa: E501


@pytest.mark.slow
def test_folds_of_a_data_set_that_the_track_makes(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    rows = ["path,label,start,end"]
    for number in range(16):
        label = ("normal", "fight")[number % 2]
        np.save(tmp_path / f"v{number}.npy", rng.normal(label == "fight", 1, (6, 8)).astype(np.float32))
        rows.append(f"v{number}.npy,{label}," + ("1,3" if number % 2 else ","))
    (tmp_path / "list.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "toy.toml").write_text(FOLDS)
    monkeypatch.setattr(reproduce, "TRACKS", tmp_path)
    monkeypatch.setattr(reproduce, "ProcessPoolExecutor", Pool)
    monkeypatch.chdir(ROOT)
    words = ["toy", "--inputs", str(tmp_path), "--output", str(tmp_path / "out"), "--results", str(tmp_path / "results.md"), "--seeds"]
    main([*words, "1", "--dry-run"])
    assert "# deepmil: no estimate before its data set is made\n" in capsys.readouterr().out
    main([*words, "1"])
    assert "1 of 1 runs are finished" in capsys.readouterr().out
    assert "| deepmil | 1 |" in (tmp_path / "results.md").read_text()
    main([*words, "1", "2", "--dry-run"])
    assert "# deepmil: 6 epochs of " in capsys.readouterr().out  # of two folds, as the six that are finished
    shutil.rmtree(tmp_path / "out/toy")  # prepared, and not trained yet
    main([*words, "1", "--dry-run"])
    assert "# deepmil: 6 epochs of 0.5 s (1 steps of 0.5 s, timed here and now): " in capsys.readouterr().out
