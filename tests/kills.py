"""A training that is killed at any moment, and goes on, must end as the undisturbed one: best.pt, scores and report, byte for byte.

    python -m tests.kills FOLDER --moments 50 --jobs 2      all systems × val, last, test × workers 0, 2 × four signals

What a shell does is done by forks of a process that has imported everything, because the import takes longer than the training.
"""

import argparse
import contextlib
import itertools
import multiprocessing
import os
import random
import shutil
import signal
import sys
import threading
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from tqdm import tqdm

import ucf_option
import ucf_train
from model import SYSTEMS, options_of
from utils import loading
from utils.errors import STOPS, exit_code
from utils.evaluation import report
from utils.sample.builder import make_sample

SIGNALS = {"SIGKILL": -9, "SIGINT": 130, "SIGTERM": 143, "SIGUSR1": 138}  # and what the process ends with
COMPARED = ("last.pt", "best.pt", "scores.npz", "report.json", "report.md")


def words(sample: Path, model: str, select: str, workers: int, output: Path) -> list[str]:
    """A training of a second, three epochs of at least two steps, each of which is saved, with dropout where the system has some."""
    files = {"feature-root": "features", "train-list": "one_crop.csv", "test-list": "test.csv", "gt-path": "gt.json"}
    files |= {"clip": "clip.pt", "distilbert": "distilbert"} | ({"caption-root": "captions"} if model == "trclip" else {})
    paths = [word for name, file in files.items() for word in (f"--{name}", str(sample / file))]
    sizes = f"--model {model} --visual-width 64 --visual-length 32 --batch-size 16 --max-epoch 3 --val-share 0.3 --lr 1e-3"
    sizes += {"trclip": " --caption-width 64 --d-state 4"}.get(model, "") + (" --dropout 0.3" if "dropout" in options_of(model) else "")
    sizes += " --prompt-prefix 2 --prompt-postfix 2" if "prompt_prefix" in options_of(model) else ""
    sizes += f" --seed 1 --device cpu --no-plots --select {select} --workers {workers} --save-steps 1 --resume auto"
    return [*paths, *sizes.split(), "--output", str(output)]


def start(argv: list[str], log: Path) -> int:
    """Fork a process that trains; its number."""
    caught = {signal.SIGINT, *STOPS}
    signal.pthread_sigmask(signal.SIG_BLOCK, caught)  # until it trains
    if pid := os.fork():
        signal.pthread_sigmask(signal.SIG_UNBLOCK, caught)
        return pid

    def train():
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, caught)
            ucf_train.main(argv)
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, caught)

    code = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        tqdm.set_lock(threading.RLock())  # not the one that a sister may hold when it is killed
        with log.open("a") as out, contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            try:
                code = exit_code(train, "; go on with --resume")
            except BaseException:
                traceback.print_exc()
    finally:
        os._exit(code)


def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def wait(pid: int, seconds: float) -> bool:
    """Wait so long, or until the process has ended; whether it still runs."""
    end = time.monotonic() + seconds
    while running := os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if (left := end - time.monotonic()) <= 0:
            break
        time.sleep(min(left, 0.02))
    return running


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / "seed-1" / name).read_bytes() for name in COMPARED} | {"report": (folder / "report.json").read_bytes()}


def kills(sample: Path, place: Path, model: str, select: str, workers: int, name: str, moments: int, end: float) -> tuple[int, list[str]]:
    """How many kills by the signal `name` were tried, `moments` of them if that is before `end`, and what was wrong after them."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    output, log, wrong = place / "run", place / "log", []
    argv = words(sample, model, select, workers, output)
    began = time.monotonic()
    assert ended(start(argv, log)) == 0, log.read_text()
    length = time.monotonic() - began
    expected, draw, done = content(output), random.Random(str(place)), 0

    def note(what: str) -> None:
        wrong.append(f"{model} {select} workers {workers} {name}: {what}")

    while done < moments and time.monotonic() < end:
        shutil.rmtree(output)
        log.unlink()
        for again in range(min(moments - done, draw.randint(1, 3))):  # some are killed again as they go on
            began, pid = time.monotonic(), start(argv, log)
            if wait(pid, draw.uniform(0, length)):
                os.kill(pid, getattr(signal, name))  # no other waits for it: it is there, if only as its remains
                done += 1
            elif not again:
                length = time.monotonic() - began  # the machine has less to do by now
            if (found := ended(pid)) not in (0, SIGNALS[name]):
                note(f"exit code {found}\n{log.read_text()[-2000:]}")
        if found := ended(start(argv, log)):
            note(f"resumed, exit code {found}\n{log.read_text()[-2000:]}")
        elif odd := [key for key, value in content(output).items() if value != expected[key]]:
            note(f"{', '.join(odd)} differ")
            shutil.copytree(output, place / f"odd-{len(wrong)}")
    return done, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--moments", type=int, default=50)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1e6, help="start no more kills after so long")
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS))
    parser.add_argument("--selects", nargs="+", default=["val", "last", "test"])
    parser.add_argument("--signals", nargs="+", default=list(SIGNALS))
    parser.add_argument("--workers", nargs="+", type=int, default=[0, 2])
    options = parser.parse_args()
    sample = make_sample(options.folder / "sample" / "ucf", "ucf", videos=(28, 16))
    prepare(sample)
    cases = list(itertools.product(options.systems, options.selects, options.workers, options.signals))
    end, total, wrong = time.monotonic() + options.seconds, 0, []
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("fork")) as pool:
        waiting = [pool.submit(kills, sample, options.folder / "-".join(map(str, case)), *case, options.moments, end) for case in cases]
        for case, found in zip(cases, waiting, strict=True):
            tried, odd = found.result()
            total, wrong = total + tried, wrong + odd
            print(*case, f"{tried} kills, {len(odd)} wrong", flush=True)
    print("\n".join(wrong))
    print(f"{total} kills, {len(wrong)} wrong")
    sys.exit(bool(wrong))


def prepare(sample: Path) -> None:
    """What makes the trainings short: one thread, few resamples, libraries that are loaded."""
    (sample / "one_crop.csv").write_text((sample / "train.csv").read_text().replace(".npy,", "__0.npy,"))
    os.environ |= {"TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1"}
    torch.set_num_threads(1)
    report.resample.__defaults__ = (10, *report.resample.__defaults__[1:])
    loading.load_model(ucf_option.parse_args(words(sample, "reflip", "val", 0, sample)), 1)


if __name__ == "__main__":
    main()
