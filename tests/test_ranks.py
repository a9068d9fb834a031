"""Several processes of torchrun train and test as one does. (Each test ends its processes, whatever happens.)"""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

import model
import ucf_train
from ucf_option import parse_args
from utils import checkpoint, devices, ranks, runs
from utils.batches import RankBatches
from utils.errors import BadInput
from utils.evaluation.scores import load_scores
from utils.files import ROOT

pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")

# Three steps an epoch; one bag in the last batch, so that the second rank has none; halves that two ranks cannot divide alike.
USUAL, SINGLE, ODD = "--batch-size 96 --dropout 0.3", "--sampling shuffle --batch-size 93 --dropout 0.3", "--batch-size 90"


@contextlib.contextmanager
def torchrun(number, script, *words, restarts=0):
    """Start `number` ranks on this machine, which end with the block."""
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={number}", f"--max-restarts={restarts}"]
    process = subprocess.Popen(
        [*run, str(ROOT / script), *map(str, words)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        for started in {process.pid, *children(process.pid)}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(started, signal.SIGKILL)
        process.communicate()


def children(process: int) -> list[int]:
    """The processes that one has started."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process)], capture_output=True, text=True, check=False).stdout
    return [int(number) for number in found.split()]


def finished(number, script, *words):
    """(exit code, stdout, stderr) of a script's ranks. Once more where they did not reach each other, before anything was done."""
    for _ in range(3):
        with torchrun(number, script, *words) as process:
            out, errors = process.communicate(timeout=500)
        if "do not reach each other" not in errors:
            break
    return process.returncode, out, errors


def said(stderr):
    """What our processes say on stderr, perhaps behind the first one's bar, without torchrun's own."""
    return re.findall(r"(?:error: |interrupted: |\[rank|\w+Warning: )[^\r\n]*", stderr)


def check_alike(one, two, losses, weights, but=()):
    """That two runs have the same losses and weights, within the tolerances; weights whose name ends in one of `but` left out."""
    logs = [[json.loads(line) for line in (run / "seed-1" / "log.jsonl").read_text().splitlines()] for run in (one, two)]
    for ours, theirs in zip(*logs, strict=True):
        for name in (name for name in ours if name.startswith(("loss", "steps"))):
            assert theirs[name] == pytest.approx(ours[name], rel=losses, abs=losses), (two.name, name)
    states = [checkpoint.load(run / "seed-1" / "last.pt")["weights"] for run in (one, two)]
    apart = {name: float((states[1][name] - value).abs().max()) for name, value in states[0].items() if not name.endswith(but)}
    assert max(apart.values()) < weights, (two.name, max(apart, key=apart.get), max(apart.values()))


def ranked(count, lines, folder):
    """Trainings in float64, by so many ranks."""
    (folder / "lines.json").write_text(json.dumps(lines))
    code, _, errors = finished(count, "tests/ranked.py", folder / "lines.json")
    assert code == 0, errors


def words_of(small_sample, system, folder):
    return [*small_sample("ucf", model=system), *["--max-epoch", "1", "--seed", "1", "--select", "last", "--output"], str(folder)]


def test_what_spans_a_batch_spans_the_ranks(tmp_path):
    """In two processes by themselves, without torchrun, whose launcher takes seconds."""
    run, found = [sys.executable, str(ROOT / "tests/spanned.py")], tmp_path / "found.pt"
    for _ in range(3):  # somebody else may take the port while torch is imported
        with socket.socket() as free:
            free.bind(("localhost", 0))
            shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1])}
        started = [subprocess.Popen([*run, found], env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(2)]
        try:
            codes = [process.wait(100) for process in started]
        finally:
            for process in started:
                process.kill()
        if codes == [0, 0]:
            break
    assert codes == [0, 0]
    unequal, empty, alone = torch.load(found)
    for ours in (unequal, empty):
        for part, expected in zip(ours, alone, strict=True):
            torch.testing.assert_close(torch.as_tensor(part), torch.as_tensor(expected), rtol=1e-10, atol=1e-12)


@pytest.mark.slow
def test_two_ranks_train_as_one_process_and_the_first_one_writes(small_sample, tmp_path):
    drawn = [*USUAL.split(), "--plots"]
    ucf_train.main([*words_of(small_sample, "reflip", tmp_path / "one"), *drawn])
    code, out, errors = finished(2, "ucf_train.py", *words_of(small_sample, "reflip", tmp_path / "two"), *drawn)
    assert code == 0, errors
    assert out.count("report over 1 seed") == 1
    # A third of this bias is of keys, which a softmax does not see: Adam makes steps of what rounding leaves of its gradient.
    check_alike(tmp_path / "one", tmp_path / "two", losses=1e-5, weights=1e-4, but=("qkv.bias",))
    scores = [load_scores(tmp_path / run / "seed-1" / "scores.npz")[0] for run in ("one", "two")]
    assert list(scores[0]) == list(scores[1])
    for name, parts in scores[0].items():
        np.testing.assert_allclose(scores[1][name].coarse, parts.coarse, atol=2e-2)  # eq. 7 multiplies what is left of rounding
    one, two = (
        {str(p.relative_to(tmp_path / run)) for p in (tmp_path / run).rglob("*") if "tfevents" not in p.name} for run in ("one", "two")
    )
    assert one == two
    assert len(list((tmp_path / "two" / "seed-1").glob("*tfevents*"))) == 1


SYSTEMS = ("reflip", "quorum", "vadclip", "dsanet", "trclip", "hlnet", "deepmil")
CASES = {
    2: {system: (system, USUAL) for system in SYSTEMS},
    3: {system: (system, SINGLE) for system in ("trclip", "deepmil")},
}
CASES[2] |= {"trclip-masked": ("trclip", f"{USUAL} --mask-padding"), "reflip-odd": ("reflip", ODD)}


@pytest.mark.slow
@pytest.mark.parametrize("number", CASES)
def test_ranks_train_every_system_as_one_process(small_sample, tmp_path, number):
    assert set(SYSTEMS) >= {name for name, system in model.SYSTEMS.items() if system.ranks}
    for count in (1, number):
        lines = [
            [*words_of(small_sample, system, tmp_path / f"{name}-{count}"), *more.split()] for name, (system, more) in CASES[number].items()
        ]
        ranked(count, lines, tmp_path)
    for name in CASES[number]:
        check_alike(tmp_path / f"{name}-1", tmp_path / f"{name}-{number}", losses=1e-9, weights=1e-7)


@pytest.mark.slow
def test_ranks_repeat_and_resume_to_the_bit_and_fold(small_sample, tmp_path):
    words = [*small_sample("ucf"), "--seed", "1", "--batch-size", "96", "--dropout", "0.3"]
    code, _, errors = finished(2, "ucf_train.py", *words, "--output", tmp_path / "a")
    assert code == 0, errors
    cut = [*words, "--workers", "1", "--save-steps", "1", "--resume", "auto", "--output", tmp_path / "cut"]
    # One is told to stop in the first epoch, and all do after the same step; then one is killed, and torchrun starts all again.
    for file, ending, restarts in (("last.pt", signal.SIGTERM, 0), ("log.jsonl", signal.SIGKILL, 1)):
        path, began = tmp_path / "cut" / "seed-1" / file, time.time()
        with torchrun(2, "ucf_train.py", *cut, restarts=restarts) as process:
            while not (path.exists() and path.stat().st_mtime > began):
                assert process.poll() is None
                time.sleep(0.02)
            os.kill(max(children(process.pid)), ending)
            _, errors = process.communicate(timeout=500)
            assert (process.returncode == 0) == (restarts > 0), errors
    for name in ("last.pt", "best.pt", "scores.npz"):
        assert len({(tmp_path / run / "seed-1" / name).read_bytes() for run in ("a", "cut")}) == 1, name
    folds = [*small_sample("ucf", model="deepmil"), "--seed", "1", "--folds", "2", "--select", "last", "--output", tmp_path / "folds"]
    code, _, errors = finished(2, "ucf_train.py", *folds)
    assert code == 0, errors
    assert (tmp_path / "folds" / "seed-1" / "report.json").exists()
    best = tmp_path / "a" / "seed-1" / "best.pt"
    code, out, errors = finished(2, "ucf_test.py", "--checkpoint", best)
    assert code == 0, errors
    assert out.count("report: ") == 1
    ours, theirs = (json.loads((best.parent / name).read_text())["coarse"] for name in ("report.json", "test/report.json"))
    assert ours == theirs


@pytest.mark.slow
def test_another_number_of_ranks_goes_on_with_a_run(small_sample, tmp_path):
    """The bags of each batch and what is dropped are the same: two ranks train an epoch, one the next, three the last."""
    words = [*small_sample("ucf", model="deepmil"), *ODD.split(), "--dropout", "0.3", "--seed", "1", "--select", "last"]
    many = [*words, "--resume", "auto", "--output", str(tmp_path / "many"), "--max-epoch"]
    ranked(2, [[*many, "1"]], tmp_path)
    ranked(1, [[*many, "2"], [*words, "--max-epoch", "3", "--output", str(tmp_path / "one")]], tmp_path)
    ranked(3, [[*many, "3"]], tmp_path)
    check_alike(tmp_path / "one", tmp_path / "many", losses=1e-9, weights=1e-7)


@pytest.mark.slow
def test_a_fault_of_one_rank_ends_all_in_one_line(small_sample, tmp_path):
    words = small_sample("ucf", model="deepmil")
    root, place = tmp_path / "features", words.index("--feature-root") + 1
    root.mkdir()
    for file in sorted((tmp_path / words[place]).iterdir()):
        (root / file.name).symlink_to(file)
    bad = sorted(root.iterdir())[0]
    features = np.load(bad)
    features[1] = np.nan
    bad.unlink()
    np.save(bad, features)
    words[place] = str(root)
    code, _, errors = finished(2, "ucf_train.py", *words, "--select", "last", "--output", tmp_path / "run")
    assert code != 0
    assert len(said(errors)) == 1, errors
    assert said(errors)[0].startswith(f"error: {bad}: NaN or infinity in row 1")


@pytest.mark.slow
def test_who_kills_one_rank_ends_all(small_sample, tmp_path):
    words = [*small_sample("ucf", model="deepmil"), "--seed", "1", "--max-epoch", "100", "--output", str(tmp_path / "run")]
    with torchrun(2, "ucf_train.py", *words) as process:
        log = tmp_path / "run" / "seed-1" / "log.jsonl"
        while not log.exists():
            assert process.poll() is None
            time.sleep(0.05)
        os.kill(max(children(process.pid)), signal.SIGKILL)
        _, errors = process.communicate(timeout=100)
    assert process.returncode != 0
    assert len(said(errors)) == 1, errors
    assert "--resume" in said(errors)[0]


def test_a_system_that_is_not_made_for_it_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(ranks, "count", lambda: 2)
    monkeypatch.setitem(model.SYSTEMS, "reflip", model.SYSTEMS["reflip"]._replace(ranks=False))
    expected = "torchrun: --model reflip is trained by one process; start it with python, without torchrun"
    with pytest.raises(BadInput, match=expected), runs.claimed(parse_args(["--output", str(tmp_path / "run")])):
        pass
    assert not (tmp_path / "run").exists()


def test_a_machine_with_fewer_gpus_than_ranks_is_told(monkeypatch):
    monkeypatch.setattr(ranks, "count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert devices.own_device("cuda") == torch.device("cuda", 1)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(BadInput, match="torchrun: more than 2 processes on a machine of 2 GPUs; --nproc-per-node 2, or --device cpu"):
        devices.own_device("auto")


def test_a_batch_is_dealt_whole_and_by_halves(monkeypatch):
    batches = [[*range(8), *range(100, 108)], [3]]
    monkeypatch.setattr(ranks, "count", lambda: 3)
    dealt = []
    for number in range(3):
        monkeypatch.setattr(ranks, "rank", lambda number=number: number)
        dealt.append(list(RankBatches(batches)))
    assert sorted(index for own in dealt for index in own[0]) == sorted(batches[0])
    for own in dealt:
        assert abs(sum(index < 100 for index in own[0]) - sum(index >= 100 for index in own[0])) <= 1
        assert own[1] == [3]  # to be cut off where it is another rank's
