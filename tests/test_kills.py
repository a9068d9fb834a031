"""Kills at random moments (tests/kills.py), a few of each kind; `python -m tests.kills` tries many."""

import os
import subprocess
import sys

import pytest

from utils.files import ROOT


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_bytes(tmp_path):
    words = ["-m", "tests.kills", str(tmp_path), "--moments", "1", "--selects", "val", "--jobs", "1"]
    words += ["--workers", "2", "--signals", "SIGKILL"]  # no workers, other signals: tests/test_scripts.py, tests/test_ranks.py
    done = subprocess.run([sys.executable, *words], cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
