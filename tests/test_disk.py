"""A disk that is full, read-only or gone: what stood there is intact, one line says what to do, and --resume goes on."""

import contextlib
import os
import subprocess
import sys

import pytest

from utils.files import ROOT

pytestmark = pytest.mark.slow
PLACES = int(os.environ.get("DISK_PLACES", 7))  # every so many of 20; 1 tries all, which takes six minutes


def mounts():
    """Whether this process may mount a small disk."""
    return sys.platform == "linux" and os.geteuid() == 0 and not subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode


@contextlib.contextmanager
def disk(path, kilobytes):
    """A small disk on the folder `path`; yields a function that changes its options."""
    path.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(path)], capture_output=True)
    if made.returncode:
        pytest.skip("mount is not allowed here")
    try:
        yield lambda options: subprocess.run(["mount", "-o", f"remount,{options}", str(path)], check=True)
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def run(words):
    """Exit code and what a terminal shows of stderr at its end."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    done = subprocess.run([sys.executable, str(ROOT / "xd_train.py"), *words], capture_output=True, text=True, env=environment)
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    return done.returncode, done.stderr.strip().splitlines()[-1:]


def bytes_of(folder):
    names = ("best.pt", "scores.npz", "report.json", "report.md")
    return {name: (folder / "seed-1" / name).read_bytes() for name in names}


@pytest.mark.skipif(not mounts(), reason="a small disk can be mounted by root only")
@pytest.mark.timeout(1200)
def test_a_full_disk_at_any_place(small_sample, tmp_path):
    words = [*small_sample("xd", model="deepmil"), "--plots", "--seed", "1"]
    place = tmp_path / "disk"
    with disk(place, 100_000):
        assert run([*words, "--output", str(place / "run")])[0] == 0
        needed = sum(file.stat().st_size for file in place.rglob("*") if file.is_file()) // 1024
        whole = bytes_of(place / "run")
    place.rmdir()
    for number in range(0, 20, PLACES):
        with disk(place, max(1, needed * number // 20)) as remount:
            code, said = run([*words, "--output", str(place / "run")])
            assert code == 2, (number, said)
            assert len(said) == 1
            assert said[0].startswith("error: ")
            assert "free some space" in said[0], (number, said)
            remount("size=100000k")
            again = ["--resume"] * any((place / "run").glob("seed-1/options.json"))
            assert run([*words, "--output", str(place / "run"), *again])[0] == 0
            assert bytes_of(place / "run") == whole, number
        place.rmdir()


@pytest.mark.skipif(not mounts(), reason="a small disk can be mounted by root only")
def test_a_read_only_disk(small_sample, tmp_path):
    words, place = [*small_sample("xd", model="deepmil"), "--seed", "1"], tmp_path / "disk"
    with disk(place, 100_000) as remount:
        assert run([*words, "--output", str(place / "run")])[0] == 0
        whole = bytes_of(place / "run")
        remount("ro")
        for more in (["--resume"], ["--overwrite"], []):
            code, said = run([*words, "--output", str(place / "run"), *more])
            assert code == 2
            assert "cannot write there (Read-only file system)" in said[0]
        remount("rw")
        assert bytes_of(place / "run") == whole
