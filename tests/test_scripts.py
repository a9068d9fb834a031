"""The scripts as a user starts them: any folder, exit codes, one line on stderr for what the user can put right, a kill in the middle."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from utils.files import ROOT


def start(script, words, folder, output=subprocess.PIPE, **more):
    return subprocess.Popen([sys.executable, str(ROOT / script), *words], cwd=folder, stdout=output, stderr=output, text=True, **more)


def last_line(stderr):
    """What stays on a terminal: progress bars rewrite their line with a carriage return."""
    return stderr.strip().splitlines()[-1].split("\r")[-1]


@pytest.mark.parametrize("workers", [pytest.param("0", marks=pytest.mark.slow), "1"])
def test_a_bad_feature_file_ends_in_one_line_and_exit_code_2(small_sample, tmp_path, workers):
    words = small_sample("xd", model="deepmil")
    root = tmp_path / "features"
    root.mkdir()
    for file in sorted((tmp_path / words[words.index("--feature-root") + 1]).iterdir()):
        (root / file.name).symlink_to(file)
    bad = sorted(root.iterdir())[0]
    broken = np.load(bad)
    broken[1] = np.nan
    bad.unlink()
    np.save(bad, broken)
    words[words.index("--feature-root") + 1] = str(root)
    process = start("xd_train.py", [*words, "--workers", workers, "--select", "last", "--output", str(tmp_path / "run")], tmp_path)
    stderr = process.communicate(timeout=120)[1]
    assert process.returncode == 2
    assert last_line(stderr).startswith(f"error: {bad}: NaN or infinity in row 1")
    assert "Traceback" not in stderr


def test_nothing_to_test_yet(tmp_path):
    process = start("xd_test.py", ["--checkpoint", "absent.pt"], tmp_path)
    stderr = process.communicate(timeout=120)[1]
    assert process.returncode == 2
    assert stderr == "error: absent.pt: no such file; name an existing file with --checkpoint\n"


@pytest.mark.slow
def test_a_killed_process_resumes_to_the_same_bytes(small_sample, tmp_path):
    """Its whole group is told to stop, as Slurm does: the workers stay until the step is done. At last it is killed."""
    words = [*small_sample("xd", model="deepmil"), "--max-epoch", "9", "--batch-size", "32", "--dropout", "0.3"]
    whole = start("xd_train.py", [*words, "--output", str(tmp_path / "whole")], tmp_path, subprocess.DEVNULL)  # a full pipe would stop it
    assert whole.wait(300) == 0
    words += ["--save-steps", "2", "--workers", "2", "--resume", "auto", "--output", str(tmp_path / "cut")]
    last, log = (tmp_path / "cut" / "seed-1" / name for name in ("last.pt", "log.jsonl"))

    def epochs():
        return len(log.read_text().splitlines()) if log.exists() else 0

    for kill, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 138), (signal.SIGKILL, -9)):
        before = epochs()
        cut = start("xd_train.py", words, tmp_path, subprocess.DEVNULL, start_new_session=True)
        while epochs() <= before:
            assert cut.poll() is None
            time.sleep(0.02)
        os.killpg(cut.pid, kill)
        assert cut.wait(60) == code
    assert start("xd_train.py", words, tmp_path, subprocess.DEVNULL).wait(300) == 0
    for name in ("last.pt", "best.pt", "scores.npz"):
        assert (last.parent / name).read_bytes() == (tmp_path / "whole" / "seed-1" / name).read_bytes(), name
