"""tools.ablate: its commands, shards, what is started and what is not, failures, and the table's figures from handmade runs."""

import functools
import json
import re
import shlex

import pytest

import ucf_option
import xd_option
from benchmarks import DATASETS
from made_runs import TRAIN, made_run, started
from model import TEMPORAL
from tools import ablate
from tools.ablate import TABLES, main
from utils.errors import exit_code
from utils.evaluation import report
from utils.files import ROOT


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A folder with a training script that copies a handmade run and writes down how it was called."""
    monkeypatch.setattr(ablate, "ROOT", tmp_path)
    monkeypatch.setattr(report, "resample", functools.partial(report.resample, resamples=50))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ucf_train.py").write_text(TRAIN)
    made_run(tmp_path / "made")
    return tmp_path


def run(*words):
    main(["losses", "--dataset", "ucf", "--output", "out", *words])


def planned(capsys, *words) -> list[str]:
    run("--dry-run", *words)
    return capsys.readouterr().out.splitlines()


def table(folder) -> tuple[dict, dict]:
    """table.json's rows by name, and the cells of table.md's rows by name."""
    rows = {row["row"]: row for row in json.loads((folder / "out/losses/table.json").read_text())["rows"]}
    lines = [line.strip("| ").split(" | ") for line in (folder / "out/losses/table.md").read_text().splitlines() if line[:1] == "|"]
    return rows, {line[0]: dict(zip(lines[0], line, strict=True)) for line in lines[2:]}


def test_rows_are_options_of_the_training_scripts():
    assert set(TABLES["temporal"].rows) == set(TEMPORAL)
    for name, content in TABLES.items():
        assert content.reference in content.rows
        for row in content.rows.values():
            for option in (ucf_option, xd_option):
                captions = ["--caption-root", "unused"] if name == "trclip" else []
                option.parse_args(["--feature-root", "unused", *captions, *shlex.split(row)])


def test_the_papers_own_setting_is_its_best():
    for dataset in DATASETS.values():
        for name, published in dataset.tables.items():
            assert published.keys() <= TABLES[name].rows.keys()
            figures = {row: float(re.match(r"[\d.]+", figure).group()) for row, figure in published.items()}
            assert max(figures, key=figures.get) == TABLES[name].reference or name == "systems"  # of several papers


def test_dry_run_prints_the_commands_and_touches_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    words = ["prompts", "--dataset", "xd", "--seeds", "4", "5", "--rows", "learnable", "a-video-of", "--dry-run"]
    main([*words, "--output", str(tmp_path / "out"), "--", "--feature-root", "my features"])
    place, python = tmp_path / "out/prompts", "python xd_train.py --feature-root 'my features'"
    assert capsys.readouterr().out.splitlines() == [
        f"{python} --prompt template --template 'a video of' --seed 4 --no-plots --output {place}/a-video-of",
        f"{python} --prompt template --template 'a video of' --seed 5 --no-plots --output {place}/a-video-of",
        f"{python} --prompt learnable --seed 4 --no-plots --output {place}/learnable",
        f"{python} --prompt learnable --seed 5 --no-plots --output {place}/learnable",
    ]
    assert not (tmp_path / "out").exists()
    main(["window", "--dataset", "ucf", "--seeds", "1", "--rows", "16", "--dry-run"])
    assert capsys.readouterr().out.startswith("python ucf_train.py --window-length 16 --seed 1 --no-plots --output ")


@pytest.mark.parametrize("count", [2, 3, 16])
def test_shards_partition_the_runs(world, capsys, count):
    whole = planned(capsys)
    parts = [planned(capsys, "--shard", f"{i}/{count}") for i in range(1, count + 1)]
    assert len(whole) == 15
    assert sorted(line for part in parts for line in part) == sorted(whole)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_only_what_is_not_finished_is_started(world, capsys):
    run("--seeds", "1", "--rows", "coarse", "all", "--", "--lr", "0.1")
    assert started(world) == [
        "--lr 0.1 --blocks cls --no-v-prompt --lambda-magnitude 0 --seed 1 --no-plots --output out/losses/coarse",
        "--lr 0.1 --blocks both --seed 1 --no-plots --output out/losses/all",
    ]
    assert "2 of 5 runs are finished: out/losses/table.md" in capsys.readouterr().out
    assert {name: row["seeds"] for name, row in table(world)[0].items()} == {
        **{name: {"1": "not run"} for name in TABLES["losses"].rows},
        **{name: {"1": "finished"} for name in ("coarse", "all")},
    }
    run("--seeds", "1", "--rows", "coarse", "all", "--", "--lr", "0.1")
    assert started(world) == []
    (world / "out/losses/all/seed-2").mkdir()
    (world / "out/losses/all/seed-2/last.pt").touch()  # interrupted
    run("--seeds", "1", "2", "--rows", "all", "--", "--lr", "0.1")
    assert started(world) == ["--lr 0.1 --blocks both --seed 2 --no-plots --output out/losses/all --resume"]
    assert [cells["seeds"] for cells in table(world)[1].values()][-1] == "1, 2"


def test_runs_share_the_threads(world, monkeypatch):
    monkeypatch.setattr("torch.get_num_threads", lambda: 5)
    run("--seeds", "1", "--jobs", "2")
    assert len(started(world)) == 5
    assert (world / "out/losses/all/seed-1.log").read_text() == "threads 2\n"


@pytest.mark.parametrize("code", [1, 2])
def test_a_failed_run_is_shown_and_the_others_go_on(world, monkeypatch, capsys, code):
    monkeypatch.setenv("FAIL", "fine")
    monkeypatch.setenv("CODE", str(code))
    with pytest.raises(SystemExit) as stop:
        run("--seeds", "1")
    assert stop.value.code == code
    assert len(started(world)) == 5
    assert "error: fine seed 1: no luck; all it printed: out/losses/fine/seed-1.log\n" in capsys.readouterr().err
    rows, cells = table(world)
    assert rows["fine"]["seeds"] == {"1": "failed"}
    assert (cells["fine"]["seeds"], cells["fine"]["coarse auc"], cells["fine"]["parameters"]) == ("1 failed", "–", "–")
    assert cells["all"]["seeds"] == "1"
    monkeypatch.delenv("FAIL")
    run("--seeds", "1")
    assert len(started(world)) == 1
    assert table(world)[0]["fine"]["seeds"] == {"1": "finished"}


def test_what_another_process_has_finished_meanwhile_is_not_started(world, monkeypatch):
    def nap(seconds, sleep=ablate.time.sleep):
        sleep(seconds)
        made_run(world / "out/losses/all/seed-1")

    monkeypatch.setattr(ablate.time, "sleep", nap)
    run("--seeds", "1", "--rows", "coarse", "all")
    assert len(started(world)) == 1


def test_what_was_killed_before_its_first_last_pt_goes_on(world):
    run("--seeds", "2", "--rows", "all")
    started(world)
    (world / "out/losses/all/seed-1").mkdir()
    (world / "out/losses/all/seed-1/best.pt").touch()
    run("--seeds", "1", "--rows", "all")
    assert started(world) == ["--blocks both --seed 1 --no-plots --output out/losses/all --resume"]


def test_data_without_ground_truth_has_a_table(world):
    """What their own test left beside the scores is enough."""
    made = world / "made"
    (made / "gt.json").rename(made / "truth.json")
    (made / "options.json").write_text('{"gt_path": null}')
    run("--seeds", "1", "--rows", "all")
    assert table(world)[1]["all"]["coarse auc"].startswith("100.00")


def test_an_interruption_reaches_the_run_and_the_next_call_resumes_it(world, monkeypatch):
    def nap(seconds, sleep=ablate.time.sleep):
        sleep(seconds)
        if (world / "out/losses/all/seed-1/last.pt").exists():
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setenv("HANG", "yes")
        patch.setattr(ablate.time, "sleep", nap)
        assert exit_code(lambda: run("--seeds", "1", "--rows", "all")) == 130
    started(world)
    run("--seeds", "1", "--rows", "all")
    assert started(world) == ["--blocks both --seed 1 --no-plots --output out/losses/all --resume"]


REFUSED = {
    "changed options": (
        ["--", "--lr", "0.2"],
        "out/losses/all: holds runs of `ucf_train.py --lr 0.1 --blocks both`, now it is `ucf_train.py --lr 0.2 --blocks both`; "
        "give the same options after --, or another folder with --output",
    ),
    "a seed after --": (["--", "--seed=3"], "--seed after --: the table sets it"),
    "what every row sets": (["--", "--blocks", "cls"], "--blocks after --: the table sets it"),
    "no such row": (["--rows", "gcn"], "--rows gcn: no row of losses; expected one of coarse, fine, no-magnitude, no-text, all"),
    "no such reference": (["--reference", "ge"], "--reference ge: no row of losses; expected one of"),
    "shard 0": (["--shard", "0/2"], "--shard 0/2: expected i/n with i from 1 to n"),
    "shard 3 of 2": (["--shard", "3/2"], "--shard 3/2: expected"),
    "no shard": (["--shard", "two"], "--shard two: expected"),
    "no jobs": (["--jobs", "0"], "--jobs 0: expected a whole number from 1 to 100,000"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line_with_exit_code_2(world, capsys, case):
    run("--seeds", "1", "--rows", "all", "--", "--lr", "0.1")
    started(world)
    capsys.readouterr()
    words, said = REFUSED[case]
    assert exit_code(lambda: run(*words)) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {said}")
    assert error.count("\n") == 1
    assert started(world) == []


def test_a_folder_that_the_tool_did_not_make_is_refused(world, capsys):
    made_run(world / "out/losses/all/seed-1")
    assert exit_code(run) == 2
    assert "out/losses/all: holds runs of `another program`" in capsys.readouterr().err


def test_options_of_a_run_that_never_trained_may_change(world, monkeypatch):
    monkeypatch.setenv("FAIL", "all")
    monkeypatch.setenv("CODE", "2")
    with pytest.raises(SystemExit):
        run("--seeds", "1", "--rows", "all", "--", "--typo", "0.1")
    monkeypatch.delenv("FAIL")
    run("--seeds", "1", "--rows", "all", "--", "--lr", "0.1")
    assert table(world)[0]["all"]["seeds"] == {"1": "finished"}


def test_the_table(world, capsys):
    """AUC by hand: 4 anomalous snippets, 12 normal ones at 0.1. Both videos found: 1; one found, the other tied: (1 + 1/2) / 2 = 0.75;
    none found: 0.5.
    """
    run("--seeds", "1", "2", "--rows", "coarse", "all")  # their folders and ablate.json; the figures are replaced
    place = world / "out/losses"
    made_run(place / "coarse/seed-1", 1, fine=False, seconds=(1, 1))
    made_run(place / "coarse/seed-2", 2, found=["a1"], fine=False, seconds=(4, 2))
    made_run(place / "all/seed-1", 1, found=[])
    made_run(place / "all/seed-2", 2, found=[])
    run("--seeds", "1", "2", "--shard", "1/99")  # whatever the shard, the table holds what is finished
    rows, cells = table(world)
    figure, gap = rows["coarse"]["figures"]["coarse auc"], rows["coarse"]["difference"]["coarse auc"]
    assert (figure["value"], figure["std"]) == pytest.approx((0.875, 0.25 / 2**0.5))
    assert 0.5 <= figure["low"] < 0.875 < figure["high"] <= 1
    assert (gap["ours"]["value"], gap["theirs"]["value"], gap["value"]) == pytest.approx((0.875, 0.5, 0.375))
    assert cells["coarse"]["coarse auc"].startswith("87.50 ± 17.68 [")
    assert cells["coarse"]["Δ coarse auc"].startswith("37.50 [")
    assert f"p = {gap['p']:.3f}" in cells["coarse"]["Δ coarse auc"]
    assert cells["coarse"]["fine auc"] == cells["coarse"]["mAP anomaly avg"] == cells["coarse"]["Δ fine auc"] == "–"
    assert cells["all"]["fine auc"].startswith("50.00 ± 0.00 [")
    assert cells["all"]["Δ coarse auc"] == "–"
    assert (cells["coarse"]["seconds / step"], cells["coarse"]["parameters"]) == ("0.5", "1,234")  # 8 s, 16 steps
    assert cells["no-text"]["seeds"] == "1 not run, 2 not run"
    text = (place / "table.md").read_text()
    assert "4 videos, 256 frames, visual features, checkpoint selected on held-out training videos" in text
    assert "torch 2, commit c1 / c2" in text
    assert "not comparable" not in text
    assert json.loads((place / "coarse/report.json").read_text())["seeds"] == [1, 2]


def test_figures_of_covered_frames(world):
    """Without the last row: 2 anomalous snippets, one of a video that is not found, 10 normal ones at 0.1: (1 + 1/2) / 2."""
    run("--seeds", "1", "--rows", "coarse", "all")
    place = world / "out/losses"
    for row, found in (("coarse", ["a1"]), ("all", [])):
        made_run(place / row / "seed-1", found=found, covered=[1, 1, 1, 0])
    run("--seeds", "1", "--shard", "1/99")
    rows, cells = table(world)
    assert rows["coarse"]["figures"]["covered coarse auc"]["value"] == pytest.approx(0.75)
    assert rows["coarse"]["difference"]["covered coarse auc"]["value"] == pytest.approx(0.25)
    assert cells["coarse"]["covered coarse auc"].startswith("75.00 [")
    assert cells["coarse"]["Δ covered fine auc"].startswith("25.00 [")
    assert "75.0 % of the rows have a sentence of their own" in (place / "table.md").read_text()


def test_the_papers_figures_stand_in_a_column_of_their_own(world):
    main(["prompts", "--dataset", "ucf", "--output", "out", "--seeds", "1", "--rows", "learnable", "--reference", "learnable"])
    lines = (world / "out/prompts/table.md").read_text().splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line[:1] == "|"]
    column = rows[0].index("paper: AUC, its features, best on test")
    assert [row[column] for row in rows[2:]] == ["83.95", "85.55", "85.63", "86.48", "89.14"]


@pytest.mark.slow
def test_a_table_of_real_runs(small_sample, tmp_path):
    words = ["losses", "--dataset", "xd", "--output", str(tmp_path), "--rows", "coarse", "all", "--seeds", "1", "--jobs", "2"]
    main([*words, "--", *small_sample("xd")])
    rows = {row["row"]: row for row in json.loads((tmp_path / "losses/table.json").read_text())["rows"]}
    assert set(rows["all"]["figures"]) > set(rows["coarse"]["figures"])
    assert set(rows["coarse"]["difference"]) == {"coarse ap"}
    assert rows["all"]["parameters"] > rows["coarse"]["parameters"]
    assert rows["all"]["seconds_per_step"] > 0
