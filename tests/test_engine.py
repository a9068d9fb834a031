"""Training as a whole: determinism, resuming, selection, what a run leaves behind, bad input."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import ucf_test
import ucf_train
import xd_test
import xd_train
from model import TEMPORAL
from tools import evaluate
from utils import checkpoint, engine, errors, ranks, testing, training
from utils.errors import BadInput
from utils.evaluation.selection import Figure
from utils.prompt import PROMPTS

SCRIPTS = {"ucf": (ucf_train.main, ucf_test.main), "xd": (xd_train.main, xd_test.main)}


def same(a, b):
    """Equal to the bit, through dicts and lists."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.fixture(scope="module")
def trained(small_sample, tmp_path_factory):
    """trained("xd"): the folder of a run over seeds 1 and 2, with pictures."""
    made = {}

    def run(key):
        if key not in made:
            made[key] = tmp_path_factory.mktemp("run") / key
            SCRIPTS[key][0]([*small_sample(key), "--plots", "--output", str(made[key]), "--seeds", "1", "2"])
        return made[key]

    return run


@pytest.mark.parametrize("key", [pytest.param("ucf", marks=pytest.mark.slow), "xd"])
def test_a_run_leaves_the_files_of_the_contract(trained, key, capsys):
    folder = trained(key)
    seed = folder / "seed-1"
    for name in ("options.json", "log.jsonl", "last.pt", "best.pt", "scores.npz", "report.json", "report.md", "plots"):
        assert (seed / name).exists(), name
    assert list(seed.glob("events.out.tfevents*"))
    report = json.loads((seed / "report.json").read_text())
    assert {"dataset", "model", "checkpoint", "selected_on", "sample", "videos", "frames", "command", "versions", "seeds"} <= report.keys()
    drawn = {path.name for path in (seed / "plots").iterdir()}
    assert drawn >= {"training.png", "curves.png", "confusion.png", "alignment.png"}
    assert len(drawn) == 4 + report["videos"]
    assert (folder / "plots" / "curves.png").exists()
    for part in ("coarse", "fine"):
        for figure in ("auc", "ap", "ano_auc", "ano_ap"):
            assert 0 <= report[part][figure]["low"] <= report[part][figure]["value"] <= report[part][figure]["high"] <= 1
    assert set(report["map"]["official"]) == set(report["map"]["anomaly"]) == {"0.1", "0.2", "0.3", "0.4", "0.5", "avg"}
    whole = json.loads((folder / "report.json").read_text())
    second = json.loads((folder / "seed-2" / "report.json").read_text())
    values = [r["coarse"]["auc"]["value"] for r in (report, second)]
    assert whole["coarse"]["auc"]["value"] == pytest.approx(np.mean(values))
    assert whole["coarse"]["auc"]["std"] == pytest.approx(np.std(values, ddof=1))
    assert whole["coarse"]["auc"]["low"] <= whole["coarse"]["auc"]["value"] <= whole["coarse"]["auc"]["high"]
    assert len((seed / "log.jsonl").read_text().splitlines()) == 2
    saved = checkpoint.load(seed / "best.pt")
    assert not any("encoder." in key or "text.module" in key for key in saved["weights"])


def test_one_seed_gives_one_checkpoint_to_the_bit(trained, small_sample, tmp_path):
    xd_train.main([*small_sample("xd"), "--output", str(tmp_path), "--seed", "2"])
    for name in ("best.pt", "last.pt", "scores.npz"):
        assert (tmp_path / "seed-2" / name).read_bytes() == (trained("xd") / "seed-2" / name).read_bytes(), name


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


DECAY = ["--dropout", "0.3", "--scheduler", "multistep", "--milestones", "1"]


@pytest.mark.parametrize(
    ("model", "after", "more"),
    [
        ("reflip", 1, []),
        pytest.param("reflip", 2, DECAY, marks=pytest.mark.slow),
        pytest.param("vadclip", 1, DECAY, marks=pytest.mark.slow),
        pytest.param("dsanet", 1, ["--dropout", "0.3"], marks=pytest.mark.slow),
        pytest.param("hlnet", 2, DECAY, marks=pytest.mark.slow),
        pytest.param("deepmil", 1, DECAY, marks=pytest.mark.slow),
    ],
)
def test_a_killed_and_resumed_run_equals_the_uninterrupted_one(small_sample, tmp_path, monkeypatch, model, after, more):
    words = [*small_sample("ucf", model=model), "--max-epoch", "3", "--seed", "1", *more]
    ucf_train.main([*words, "--output", str(tmp_path / "whole")])
    finish = engine.Training.finish_epoch

    def dying(self, *rest):
        finish(self, *rest)
        if self.epoch == after:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(engine.Training, "finish_epoch", dying)
        with pytest.raises(Killed):
            ucf_train.main([*words, "--output", str(tmp_path / "cut")])
    ucf_train.main([*words, "--output", str(tmp_path / "cut"), "--resume"])
    for name in ("last.pt", "best.pt"):
        assert same(*(checkpoint.load(tmp_path / run / "seed-1" / name) for run in ("whole", "cut"))), name
    lines = [(tmp_path / run / "seed-1" / "log.jsonl").read_text().splitlines() for run in ("whole", "cut")]
    assert [{**json.loads(line), "seconds": 0} for line in lines[0]] == [{**json.loads(line), "seconds": 0} for line in lines[1]]


@pytest.mark.parametrize(("epochs", "there", "goes_on"), [(0, False, False), (1, False, False), (3, True, True), (2, False, None)])
def test_a_last_pt_that_is_gone_is_told(epochs, there, goes_on, tmp_path):
    (tmp_path / "log.jsonl").write_text("{}\n" * epochs)
    if there:
        (tmp_path / "last.pt").touch()
    if goes_on is not None:
        assert engine.can_go_on(tmp_path) is goes_on
        return
    with pytest.raises(
        BadInput, match=r"^--resume: .*last\.pt is gone, log\.jsonl tells of 2 epochs; put it back, or train anew: --overwrite"
    ):
        engine.can_go_on(tmp_path)


@pytest.fixture
def stops():
    """SIGTERM and SIGUSR1 interrupt, as in a script."""
    before = {number: signal.signal(number, errors._stop) for number in errors.STOPS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("stops")
def test_a_run_cut_inside_its_epochs_equals_the_undisturbed_one(small_sample, tmp_path, monkeypatch):
    """Killed behind a step that was saved, stopped by a signal in a step, then while the epoch is measured, with and without workers."""
    words = [*small_sample("ucf", model="deepmil"), "--dropout", "0.3", "--batch-size", "64", "--seed", "1"]
    ucf_train.main([*words, "--output", str(tmp_path / "whole")])
    step, score, done, measured = engine.step, engine.score, [], []
    steps = json.loads((tmp_path / "whole" / "seed-1" / "log.jsonl").read_text().splitlines()[0])["steps"]
    assert steps == 5

    def cut(*rest):
        done.append(1)
        if len(done) == 3:
            raise Killed
        if len(done) == 4:
            signal.raise_signal(signal.SIGTERM)
        return step(*rest)

    def scored(*rest):
        measured.append(1)
        if len(measured) == 2:
            signal.raise_signal(signal.SIGUSR1)
        return score(*rest)

    monkeypatch.setattr(engine, "step", cut)
    monkeypatch.setattr(engine, "score", scored)
    words += ["--resume", "auto", "--output", str(tmp_path / "cut")]
    last, parts = tmp_path / "cut" / "seed-1" / "last.pt", []
    for workers, ending in (("0", Killed), ("2", errors.Stopped), ("0", errors.Stopped)):
        with pytest.raises(ending):
            ucf_train.main([*words, "--workers", workers, "--save-steps", "2"])
        found = checkpoint.load(last, checkpoint.Last)
        parts.append((found["epoch"], found.get("part", {}).get("steps")))
    assert parts == [(0, 2), (0, 3), (1, 5)]
    ucf_train.main(words)
    assert len(done) == 1 + 2 * steps  # one was made in vain
    for name in ("last.pt", "best.pt", "scores.npz"):
        assert (last.parent / name).read_bytes() == (tmp_path / "whole" / "seed-1" / name).read_bytes(), name
    lines = [(tmp_path / run / "seed-1" / "log.jsonl").read_text().splitlines() for run in ("whole", "cut")]
    assert [{**json.loads(line), "seconds": 0} for line in lines[0]] == [{**json.loads(line), "seconds": 0} for line in lines[1]]


@pytest.mark.usefixtures("stops")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_waits_until_tensorboard_has_been_told(small_sample, tmp_path, monkeypatch, number):
    """An exception in the middle of its queue, and it would never close."""
    add, told = engine.SummaryWriter.add_scalar, []

    def tell(*arguments):
        if not told:
            signal.raise_signal(number)
        told.append(arguments[1])
        add(*arguments)

    monkeypatch.setattr(engine.SummaryWriter, "add_scalar", tell)
    with pytest.raises(KeyboardInterrupt):
        ucf_train.main([*small_sample("ucf", model="deepmil"), "--seed", "1", "--output", str(tmp_path / "run")])
    assert {"loss", "lr", "epoch"} < set(told)
    assert json.loads((tmp_path / "run" / "seed-1" / "log.jsonl").read_text())["epoch"] == 1


def test_test_script_gives_the_trainings_figures(trained, capsys):
    best = trained("xd") / "seed-1" / "best.pt"
    xd_test.main(["--checkpoint", str(best)])
    printed = capsys.readouterr().out
    assert "simulated" not in printed
    ours, theirs = (json.loads((best.parent / name).read_text()) for name in ("report.json", "test/report.json"))
    assert ours["coarse"] == theirs["coarse"]
    assert ours["map"] == theirs["map"]


def test_saved_scores_evaluate_to_the_same_report(trained, small_sample, tmp_path):
    best = trained("xd") / "seed-1" / "best.pt"
    scores, ours, theirs = (str(tmp_path / name) for name in ("s.npz", "ours.json", "theirs.json"))
    xd_test.main(["--checkpoint", str(best), "--save-scores", scores, "--json", ours, "--output", str(tmp_path / "test")])
    words = small_sample("xd")
    evaluate.main(["--dataset", "xd", "--scores", scores, "--gt-path", words[words.index("--gt-path") + 1], "--json", theirs])
    ours, theirs = (json.loads(Path(path).read_text()) for path in (ours, theirs))
    for part in ("videos", "frames", "coarse", "fine", "per_class", "map"):
        assert ours[part] == theirs[part], part


@pytest.mark.parametrize("select", ["last", "test"])
def test_selection(small_sample, tmp_path, select):
    xd_train.main([*small_sample("xd"), "--select", select, "--output", str(tmp_path)])
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["selected_on"] == select
    assert ("selected on test" in (tmp_path / "report.md").read_text()) == (select == "test")


@pytest.mark.parametrize(("figures", "best"), [
    ([(0.90, 0.02), (0.95, 0.02), (0.94, 0.01), (0.92, 0.09)], 3),  # 0.92 is more than the error of 0.95 below it
    ([(0.90, 0.1), (0.95, 0.02), (0.80, 0.5), (0.93, 0.02)], 4),
    ([(0.90, 0.0), (0.95, 0.0), (0.94, 0.0), (0.95, 0.0)], 4),
    ([(0.95, 0.0), (0.90, 0.0), (0.94, 0.0), (0.90, 0.0)], 1),
])  # fmt: skip
@pytest.mark.parametrize("cut", [None, 2])
def test_the_latest_epoch_within_a_standard_error_of_the_highest_is_the_best(small_sample, tmp_path, monkeypatch, figures, best, cut):
    """Interrupted after the second epoch, too."""
    left = [Figure(value, "figure", error) for value, error in figures]
    monkeypatch.setattr(training, "selection_figure", lambda *_: lambda model: left.pop(0))
    finish = engine.Training.finish_epoch

    def dying(self, *rest):
        finish(self, *rest)
        if self.epoch == cut and len(left) == len(figures) - cut:
            raise Killed

    monkeypatch.setattr(engine.Training, "finish_epoch", dying)
    words = [*small_sample("ucf", model="deepmil"), "--max-epoch", "4", "--seed", "1", "--output", str(tmp_path)]
    monkeypatch.setattr(testing, "test", lambda *_, **__: sys.exit())
    if cut:
        with pytest.raises(Killed):
            ucf_train.main(words)
    with pytest.raises(SystemExit):
        ucf_train.main([*words, *["--resume"] * bool(cut)])
    made = checkpoint.load(tmp_path / "seed-1" / "best.pt")
    assert (made["epoch"], made["figure"]) == (best, figures[best - 1][0])


CASES = [("--temporal", name) for name in TEMPORAL] + [("--prompt", name) for name in PROMPTS]


@pytest.mark.slow
@pytest.mark.parametrize("words", [*CASES, ("--blocks", "cls", "--no-v-prompt"), ("--blocks", "vta", "--no-v-prompt"), ("--no-ge-skip",)])
def test_every_temporal_network_and_prompt_trains(small_sample, tmp_path, words):
    xd_train.main([*small_sample("xd"), *words, "--max-epoch", "1", "--output", str(tmp_path)])
    assert json.loads((tmp_path / "seed-1" / "log.jsonl").read_text())["loss"] > 0


def test_bf16_trains(small_sample, tmp_path):
    xd_train.main([*small_sample("xd"), "--precision", "bf16", "--max-epoch", "1", "--output", str(tmp_path)])


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_statistic_that_is_not_finite_ends_it_before_anything_of_it_is_saved(small_sample, tmp_path, monkeypatch, value):
    words, step = [*small_sample("xd"), "--output", str(tmp_path / "run")], engine.step

    def overflowing(model, *rest):
        if (tmp_path / "run/seed-1/log.jsonl").exists():  # in the second epoch
            next(part for part in model.modules() if isinstance(part, torch.nn.BatchNorm1d)).running_var.fill_(value)
        return step(model, *rest)

    monkeypatch.setattr(engine, "step", overflowing)
    with pytest.raises(BadInput, match=r"^epoch 2: .*running_var is not finite, though the loss is; .*lower --lr$"):
        xd_train.main(words)
    assert len((tmp_path / "run/seed-1/log.jsonl").read_text().splitlines()) == 1
    monkeypatch.setattr(engine, "step", step)
    xd_train.main([*words, "--resume"])  # from the first epoch's end


def test_a_loss_that_is_not_finite_names_the_batch(small_sample, tmp_path):
    with pytest.raises(BadInput, match=r"loss is not finite in epoch \d, batch \d+ .*videos: .*lower --lr"):
        ucf_train.main(
            [
                *small_sample("ucf"),
                "--lr",
                "1e6",
                "--feature-scale",
                "1e6",
                "--max-epoch",
                "9",
                "--grad-clip",
                "0",
                "--output",
                str(tmp_path),
            ]
        )


@pytest.mark.parametrize(("there", "here"), [(True, None), (None, True)])
def test_an_optimizer_goes_on_on_another_kind_of_device(there, here):
    """On a GPU its step is one kernel."""

    def made(fused):
        weight = torch.nn.Parameter(torch.ones(3))
        weight.grad = torch.ones(3)
        optimizer = torch.optim.AdamW([weight], lr=0.1, fused=fused)
        optimizer.step()
        return optimizer

    one, other = made(there), made(here)
    checkpoint.load_optimizer(other, one.state_dict(), "optimizer")
    assert other.param_groups[0]["fused"] is here
    for optimizer in (one, other):
        optimizer.step()
    torch.testing.assert_close(other.param_groups[0]["params"], one.param_groups[0]["params"])


@pytest.mark.parametrize("on_host", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_a_batch_of_one_snippet_leaves_statistics_that_are_numbers(monkeypatch, on_host, masked):
    monkeypatch.setattr(ranks, "is_host", lambda _: on_host)
    norm, x = torch.nn.BatchNorm1d(3), torch.randn(1, 3, 4 if masked else 1)
    mask = torch.tensor([[True, False, False, False]]) if masked else None
    assert ranks.batch_norm(norm, x, mask).isfinite().all()
    assert torch.equal(norm.running_var, torch.ones(3))
    assert torch.equal(norm.running_mean, torch.zeros(3))


def test_random_states_of_more_gpus_than_there_are(monkeypatch):
    given, states = [], [torch.zeros(16, dtype=torch.uint8) for _ in range(4)]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", given.extend)
    checkpoint.set_random_state({"cpu": torch.get_rng_state(), "cuda": states})
    assert len(given) == 1


def test_bad_checkpoints(trained, small_sample, tmp_path):
    best = trained("xd") / "seed-1" / "best.pt"
    cut = tmp_path / "cut.pt"
    cut.write_bytes(best.read_bytes()[:5000])
    other = tmp_path / "other.pt"
    torch.save({"weight": 1.0}, other)
    for main, words, message in (
        (xd_test.main, ["--checkpoint", str(cut)], "not a readable checkpoint"),
        (xd_test.main, ["--checkpoint", str(other)], "not a checkpoint of this project"),
        (xd_test.main, ["--checkpoint", str(tmp_path / "absent.pt")], "no such file"),
        (xd_test.main, ["--checkpoint", str(best), "--temporal", "gcn"], "trained with --temporal ge, found gcn"),
        (ucf_test.main, [*small_sample("ucf", testing=True), "--checkpoint", str(best)], "trained on xd with 7 classes, expected ucf"),
    ):
        before = best.read_bytes()
        with pytest.raises(BadInput, match=message) as caught:
            main(words)
        assert "\n" not in str(caught.value)
        assert best.read_bytes() == before


def spoil(words, option, change, tmp_path):
    """The same words with the file of `option` copied and changed."""
    words = list(words)
    place = words.index(option) + 1
    copy = tmp_path / "changed"
    shutil.copy(words[place], copy)
    copy.write_text(change(copy.read_text()))
    words[place] = str(copy)
    return words


@pytest.mark.parametrize(
    ("option", "change", "message"),
    [
        ("--train-list", lambda text: text.replace(".npy,", "-gone.npy,", 1), "gone"),
        ("--train-list", lambda text: text.replace(",B", ",B9-B", 1), "B9"),
        ("--train-list", lambda text: "file,class\n", "path,label"),
        ("--gt-path", lambda text: text[: len(text) // 2], "not a JSON file"),
        ("--gt-path", lambda text: '{"other": {"frames": 16, "fps": 24, "segments": []}}', "not in the ground truth"),
        ("--gt-path", lambda text: text.replace('"frames": ', '"frames": 9', 1), "--allow-length-mismatch"),
    ],
)
def test_bad_lists_and_ground_truth_leave_an_earlier_run_alone(trained, small_sample, tmp_path, option, change, message):
    folder = trained("xd")

    def content():
        return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    before = content()
    with pytest.raises(BadInput, match=message) as caught:
        xd_train.main([*spoil(small_sample("xd"), option, change, tmp_path), "--output", str(folder), "--overwrite"])
    assert "\n" not in str(caught.value)
    assert content() == before


def test_a_folder_that_is_not_utf8_is_refused_before_the_first_epoch(small_sample, tmp_path):
    with pytest.raises(BadInput, match=r"caf\\xe9/seed-1: is not UTF-8.*--output"):
        xd_train.main([*small_sample("xd"), "--output", os.fsdecode(bytes(tmp_path) + b"/caf\xe9")])


def test_output_that_cannot_be_written(small_sample, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot write there"):
        xd_train.main([*small_sample("xd"), "--output", str(tmp_path / "file" / "run")])
