"""An ablation table of a paper: its rows run, with ours beside theirs.

    python -m tools.ablate temporal --dataset ucf --dry-run                              the commands
    python -m tools.ablate temporal --dataset ucf --jobs 2 -- --feature-root DIR         all runs, two at a time, then the table
    python -m tools.ablate temporal --dataset ucf --shard 1/8 -- --feature-root DIR      the first of eight processes or machines

A run is one row with one seed: `python ucf_train.py`, what stands after `--`, the row's options and the seed. It is kept in
OUTPUT/TABLE/ROW/seed-K/, what it prints in OUTPUT/TABLE/ROW/seed-K.log. Given again, a command starts only what is not finished, and an
interrupted run goes on where it was. Processes that share OUTPUT and give the same words share the table: at its end each writes
OUTPUT/TABLE/table.md and table.json from the runs that are finished by then.
"""

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import shlex
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple, NotRequired

import numpy as np
import torch
from tqdm import tqdm
from typing_extensions import TypedDict

from model import SYSTEMS
from tools.evaluate import compare, label
from utils import testing
from utils.datasets import benchmarks, command_of, load_dataset
from utils.distributed import share
from utils.errors import COUNT, SEED, BadInput, Parser, exit_code, printable
from utils.evaluation import report
from utils.evaluation.ground_truth import TRUTH, load_ground_truth
from utils.evaluation.scores import load_scores
from utils.files import ROOT, make_folder, replacing, write_json
from utils.labels import Dataset
from utils.reading import OPEN, Plain, Text, read_json, read_json_lines, real, whole
from utils.runs import fold_folders, has_results


class Table(NamedTuple):
    """`rows`: options of the training script as a user types them; a paper's figures for them stand in the data set's file.
    `reference` is the row that the others are compared with: the paper's full setting.
    """

    title: str
    reference: str
    rows: dict[str, str]


TABLES = {
    "temporal": Table("Temporal networks (ReFLIP-VAD, table V)", "ge", {
        "none": "--temporal none",
        "global": "--temporal global",
        "eg": "--temporal eg",
        "local": "--temporal local",
        "ee": "--temporal ee",
        "gcn": "--temporal gcn",
        "local+global": "--temporal local+global",
        "global+gcn": "--temporal global+gcn",
        "local+gcn": "--temporal local+gcn",
        "ge-fusion": "--temporal ge-fusion",
        "ge": "--temporal ge",
    }),
    "blocks": Table("Blocks and prompts; without the learnable prompt the class name stands alone (ReFLIP-VAD, table VI)", "all", {
        "cls": "--blocks cls --prompt class --no-v-prompt",
        "vta": "--blocks vta --prompt class --no-v-prompt",
        "both": "--blocks both --prompt class --no-v-prompt",
        "both+rl-prompt": "--blocks both --prompt reparameterized --no-v-prompt",
        "both+v-prompt": "--blocks both --prompt class --v-prompt",
        "all": "--blocks both --prompt reparameterized --v-prompt",
    }),
    "tokens": Table("Prompt tokens N (ReFLIP-VAD, table VII)", "24", {
        "8": "--prompt-prefix 4 --prompt-postfix 4",
        "16": "--prompt-prefix 8 --prompt-postfix 8",
        "20": "--prompt-prefix 10 --prompt-postfix 10",
        "24": "--prompt-prefix 12 --prompt-postfix 12",
        "32": "--prompt-prefix 16 --prompt-postfix 16",
    }),
    "window": Table("Window of the convolution in Emphasize, in snippets (ReFLIP-VAD, table VII, names a window of GE)", "64", {
        "16": "--window-length 16",
        "32": "--window-length 32",
        "64": "--window-length 64",
        "128": "--window-length 128",
        "256": "--window-length 256",
    }),
    "length": Table("Input length T (ReFLIP-VAD, table VII)", "512", {
        "64": "--visual-length 64",
        "128": "--visual-length 128",
        "256": "--visual-length 256",
        "512": "--visual-length 512",
        "1024": "--visual-length 1024",
    }),
    "prompts": Table("What stands round the class name (ReFLIP-VAD, table X)", "reparameterized", {
        "class": "--prompt class",
        "a-video-of": "--prompt template --template 'a video of'",
        "a-long-video-of": "--prompt template --template 'a long video of'",
        "learnable": "--prompt learnable",
        "reparameterized": "--prompt reparameterized",
    }),
    "temperature": Table("Temperature τ of the alignment map (ReFLIP-VAD, table XI)", "0.07", {
        "0.01": "--temperature 0.01",
        "0.03": "--temperature 0.03",
        "0.05": "--temperature 0.05",
        "0.07": "--temperature 0.07",
        "0.09": "--temperature 0.09",
        "0.1": "--temperature 0.1",
    }),
    "trclip": Table("Parts of TrCLIP-VAD (ours; what follows -- names --caption-root)", "all", {
        "visual": "--model trclip --branches visual",
        "text": "--model trclip --branches text",
        "no-rewriting": "--model trclip --caption-choice source",
        "rewrite-1": "--model trclip --caption-choice rewrite-1",
        "rewrite-2": "--model trclip --caption-choice rewrite-2",
        "no-mamba": "--model trclip --stack none",
        "no-mtn": "--model trclip --no-mtn",
        "no-mamba-no-mtn": "--model trclip --stack none --no-mtn",
        "all": "--model trclip",
    }),
    "dsanet": Table("Parts of DSANet, beside VadCLIP (DSANet's paper; its code drops λ, too, where SG-NM is off)", "all", {
        "vadclip": "--model vadclip",
        "adapter": "--model dsanet --lambda-event 0 --lambda-background 0 --lambda-consistency 0 --lambda-gather 0",
        "adapter-sg-nm": "--model dsanet --lambda-event 0 --lambda-background 0",
        "adapter-dcsa": "--model dsanet --lambda-consistency 0 --lambda-gather 0",
        "all": "--model dsanet",
    }),
    "losses": Table("Losses of ReFLIP-VAD (ours; the paper has no such table)", "all", {
        "coarse": "--blocks cls --no-v-prompt --lambda-magnitude 0",
        "fine": "--blocks vta --no-v-prompt --lambda-magnitude 0 --lambda-text 0",
        "no-magnitude": "--blocks both --lambda-magnitude 0",
        "no-text": "--blocks both --lambda-text 0",
        "all": "--blocks both",
    }),
    "choices": Table("What ReFLIP-VAD's paper leaves open, one choice at a time (ours; λ1 of UCF-Crime)", "reflip", {
        "paper": "--preset paper",
        "sum": "--lambda-align 1.28 --lambda-text 0.128",
        "normal-top-k": "--no-normal-top1",
        "attention-plain": "--channel-attention plain",
        "attention-mean": "--channel-attention mean",
        "no-stage-norm": "--no-stage-norm",
        "no-shortcut-conv": "--no-shortcut-conv",
        "push-1": "--magnitude-push 1",
        "no-mgfn": "--no-stage-norm --no-shortcut-conv --magnitude-push 1",
        "no-ge-skip": "--no-ge-skip",
        "eg": "--temporal eg",
        "ee": "--temporal ee",
        "margin-1": "--margin 1",
        "margin-100": "--margin 100",
        "reflip": "--model reflip",
    }),
    "systems": Table("Systems, each with its published figure (ours; hlnet's as ReFLIP-VAD's tables have it)", "reflip", {
        "deepmil": "--model deepmil",
        "hlnet": "--model hlnet",
        "vadclip": "--model vadclip",
        "dsanet": "--model dsanet",
        "quorum": "--model quorum",
        "reflip": "--model reflip",
    }),
}  # fmt: skip
FIGURES = (("coarse", "auc"), ("coarse", "ano_auc"), ("coarse", "ap"), ("fine", "auc"), ("fine", "ap"), ("map", "anomaly", "avg"))
WHERE_THERE = (*(("covered", *path) for path in FIGURES[:-1]), ("video", "coarse", "auc"), ("video", "fine", "auc"))
EXIT = "exit code "  # how the log of a failed run ends


class Epoch(TypedDict):
    """A line of a run's log.jsonl, as far as the table needs it."""

    __pydantic_config__ = OPEN

    seconds: real(0)
    steps: whole(1, 2**40)


class Files(TypedDict):
    """A run's options.json, as far as the table needs it."""

    __pydantic_config__ = OPEN

    gt_path: Text | None


class Report(TypedDict):
    """A run's report.json, as far as the table takes from it."""

    __pydantic_config__ = OPEN

    model: Literal[*SYSTEMS]
    versions: dict[Text, Plain]
    features: Literal["visual", *report.FEATURES]
    selected_on: Literal[*report.SELECTED]
    selected_by: NotRequired[Text]
    videos: whole(0, 2**40)
    frames: whole(0, 2**40)


class Run(NamedTuple):
    """A row with a seed. `words` is the row's command without interpreter and seed, `place` the row's folder."""

    row: str
    seed: int
    words: list[str]
    place: Path

    @property
    def folder(self) -> Path:
        return self.place / f"seed-{self.seed}"

    @property
    def log(self) -> Path:
        return self.place / f"seed-{self.seed}.log"

    def command(self) -> list[str]:
        """What the interpreter is given; an interrupted run is resumed. Pictures of single videos are most of a test's time."""
        resume = ["--resume"] if has_results(self.folder) else []
        script, *options = self.words
        return [os.path.relpath(ROOT / script), *options, "--seed", str(self.seed), "--no-plots", "--output", str(self.place), *resume]

    def printed(self) -> str:
        """The last line that it printed."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").rstrip().splitlines() if self.log.exists() else []
        return lines[-1] if lines else ""

    def epochs(self) -> list[dict]:
        """Those that it has finished, of all its folds."""
        logs = [path for place in fold_folders(self.folder) if (path := place / "log.jsonl").exists()]
        return [line for path in logs for line in read_json_lines(path, "--output", Epoch)]

    def state(self) -> str:
        if (self.folder / "report.json").exists():
            return "finished"
        return "failed" if self.printed().startswith(EXIT) else "not finished" if self.log.exists() else "not run"


def split_words(words: list[str]) -> tuple[list[str], list[str]]:
    """A command's own words, and those that stand after -- for every training."""
    cut = words.index("--") if "--" in words else len(words)
    return words[:cut], words[cut + 1 :]


def check_passed(passed: list[str], rows: Iterable[list[str]] = ()) -> None:
    """Raise BadInput where `passed`, the options of all rows, has one that is set for each run, or that every one of `rows` sets."""

    def flags(words) -> list[str]:
        return [word.split("=")[0].replace("--no-", "--", 1) for word in words if word.startswith("--")]

    owned = {"--seed", "--seeds", "--output", "--resume", "--overwrite"}
    owned |= set.intersection(*(set(flags(words)) for words in rows)) if rows else set()
    if odd := [word for word in flags(passed) if word in owned]:
        raise BadInput(f"{odd[0]} after --: the table sets it for each run; leave it out (--seeds and --output stand before the --)")


def all_runs(rows: dict[str, list[str]], place: Path, seeds: list[int], kind: type[Run] = Run) -> list[Run]:
    """Every run of the rows, name -> command without interpreter and seed, row by row. Raises BadInput where a row's folder holds runs of
    another command.
    """
    runs = []
    for name, words in rows.items():
        folder = place / name
        made, found = folder / "ablate.json", words
        if any(folder.glob("seed-*/")):
            found = read_json(made, "--output") if made.exists() else ["another", "program"]
        if found != words:
            raise BadInput(
                f"{folder}: holds runs of `{shlex.join(found)}`, now it is `{shlex.join(words)}`; "
                f"give the same options after --, or another folder with --output"
            )
        runs += [kind(name, seed, words, folder) for seed in seeds]
    return runs


def execute(runs: list[Run], jobs: int) -> list[int]:
    """Run them, `jobs` at a time, the processor's threads shared among them; the exit codes of those that failed. A failure is shown, and
    the others go on.
    """
    threads = max(1, torch.get_num_threads() // jobs)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "TQDM_DISABLE": "1", "PYTHONUNBUFFERED": "1"}
    waiting, running, failed = runs[::-1], [], []
    with tqdm(total=len(runs), unit="run", disable=not runs) as bar:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    run = waiting.pop()
                    write_json(run.place / "ablate.json", run.words)
                    with open(run.log, "a") as log:
                        try:  # the lock goes to the run with its output, and lasts as long as the run
                            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        except OSError:
                            bar.write(f"{run.row} seed {run.seed}: another process runs it")
                            bar.update()
                            continue
                        if run.state() == "finished":  # by another process, since it was looked at
                            bar.update()
                            continue
                        bar.write(f"{run.row} seed {run.seed}: {run.log}")
                        log.truncate(0)
                        running.append((run, subprocess.Popen([sys.executable, *run.command()], stdout=log, stderr=log, env=environment)))
                time.sleep(0.1)
                for run, process in [pair for pair in running if pair[1].poll() is not None]:
                    running.remove((run, process))
                    bar.update()
                    if process.returncode:
                        failed.append(process.returncode)
                        said = run.printed().removeprefix("error: ")
                        bar.write(f"error: {run.row} seed {run.seed}: {printable(said)}; all it printed: {run.log}", file=sys.stderr)
                        with open(run.log, "a") as log:
                            log.write(f"\n{EXIT}{process.returncode}\n")
        finally:  # interrupted: so is what runs, and its last step is saved; SIGINT is ignored by what a script has in the background
            for _, process in running:
                process.terminate()
            for _, process in running:
                process.wait()
    return failed


def draw(folder: Path, scores: dict, truth: dict, dataset: Dataset, by_video: bool) -> dict[tuple, np.ndarray]:
    """What report.resample gives, kept in folder/drawn.npz: it takes a minute. What was drawn for other scores, or by another version of
    the code that measures, is drawn anew.
    """
    files = [folder / "scores.npz", folder / "report.json", dataset.path, *sorted(Path(report.__file__).parent.glob("*.py"))]
    known = repr([sorted(truth.items()), report.RESAMPLES, by_video]).encode()
    digest = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in (known, *(file.read_bytes() for file in files)))).hexdigest()
    path = folder / "drawn.npz"
    with contextlib.suppress(OSError, ValueError, KeyError, zipfile.BadZipFile), np.load(path, allow_pickle=False) as kept:
        if str(kept["digest"]) == digest:
            return {tuple(name): values for name, values in zip(json.loads(str(kept["names"])), kept["values"], strict=True)}
    drawn = report.resample(scores, truth, dataset, by_video=by_video)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, digest=digest, names=json.dumps(list(drawn)), values=np.stack(list(drawn.values())))
    return drawn


def measure(runs: list[Run], dataset: Dataset) -> tuple[dict, list[dict], float | None]:
    """Of a row's finished runs the report over seeds, what report.resample drew for each, and the seconds of a training step (None: of
    tests).

    The report also becomes ROW/report.json, where each run has written its own.
    """
    reports, drawn, epochs = [], [], []
    for run in runs:
        beside, options = run.folder / TRUTH, run.folder / "options.json"  # else all of it stands in the file that was given
        known = None if beside.exists() or not options.exists() else read_json(options, "--output", Files)["gt_path"]
        truth = load_ground_truth(beside if beside.exists() else known or dataset.gt_path, dataset)
        made, scores = read_json(run.folder / "report.json", "--output", Report), load_scores(run.folder / "scores.npz")[0]
        drawn.append(draw(run.folder, scores, truth, dataset, "video" in made))
        found = report.evaluate(scores, truth, dataset, drawn[-1])
        made |= testing.published(dataset, made["model"], drawn[-1], "timed" in found) | found
        if "threshold" not in made:  # segments of an earlier version, cut by another rule
            made.pop("segments", None)
        made.setdefault("official_videos", None)
        reports.append(made)
        epochs += run.epochs()
    result = report.summarise(reports, drawn)
    report.write_report(runs[0].place, result)
    return result, drawn, sum(line["seconds"] for line in epochs) / sum(line["steps"] for line in epochs) if epochs else None


def compared(dataset: Dataset) -> list[tuple]:
    """The figures of which a row's difference to the reference is shown, where a run has them."""
    paths = [(part, dataset.headline[1]) for part in ("coarse", "fine")]
    return [*paths, *(path for path in WHERE_THERE if path[0] == "video" or path[1:] in paths)]


def fill(name: str, runs: list[Run], dataset: Dataset, reference: str) -> dict:
    """The content of table.json; figures are fractions."""
    table, published = TABLES[name], dataset.tables.get(name, {})
    states = {name: {run.seed: run.state() for run in runs if run.row == name} for name in table.rows}
    finished = {name: [run for run in runs if run.row == name and states[name][run.seed] == "finished"] for name in table.rows}
    measured = {name: measure(own, dataset) for name, own in tqdm(finished.items(), "figures", unit="row", leave=False) if own}
    rows = []
    for name, row in table.rows.items():
        entry = {"row": name, "options": row, "seeds": states[name], "paper": published.get(name)}
        if name in measured:
            result, drawn, seconds = measured[name]
            figures = report.figures(result)
            gaps = compare(drawn, measured[reference][1]) if name != reference and reference in measured else {}
            entry["figures"] = {label(path): figures[path] for path in (*FIGURES, *WHERE_THERE) if path in figures}
            entry["difference"] = {label(path): gaps[path] for path in compared(dataset) if path in gaps}
            entry |= {"parameters": result["parameters"], "seconds_per_step": seconds}
        rows.append(entry)
    reports = [read_json(run.folder / "report.json", "--output", Report) for own in finished.values() for run in own]
    about = {key: reports[0][key] for key in ("features", "selected_on", "videos", "frames", "sources") if reports and key in reports[0]}
    about |= {"selected": report.selection(*reports)} if reports else {}
    about |= next(({"coverage": result["coverage"]} for result, *_ in measured.values() if "coverage" in result), {})
    names = dict.fromkeys(name for result in reports for name in result["versions"])  # several of one where machines share a table
    versions = {name: list(dict.fromkeys(result["versions"].get(name) for result in reports)) for name in names}
    return {"title": table.title, "dataset": dataset.key, "reference": reference, **about, "versions": versions, "rows": rows}


def markdown(content: dict, dataset: Dataset, passed: list[str]) -> str:
    """table.md from what `fill` gives."""
    features = content.get("features")
    lines = [f"{content['title']}, on {dataset.title}"]
    if features:
        lines[0] += f": {content['videos']} videos, {content['frames']} frames, {features} features, checkpoint selected on "
        lines[0] += content["selected"]
    if features in report.FEATURES:
        lines.append(report.FEATURES[features].format(dataset.title))
    lines += report.covered_lines(content)
    over = report.resampled_over(content)
    lines.append(f"Percent: mean ± std over seeds [95 % bootstrap interval over {over} and seeds]; parameters are the trained ones.")
    lines.append(f"Δ: the row minus {content['reference']}, paired on the same videos; p is not corrected for the number of rows.")
    lines.append(f"All rows: `{shlex.join(['python', *command_of(dataset, 'train'), *passed])}`")
    lines.append(", ".join(f"{name} {' / '.join(map(str, values))}" for name, values in content["versions"].items()))
    theirs = f"paper: {'AP (AVG mAP)' if dataset.headline[1] == 'ap' else 'AUC'}, its features, best on test"
    theirs += "" if features == "visual" else "; not comparable"
    there = [path for path in WHERE_THERE if any(label(path) in row.get("figures", {}) for row in content["rows"])]
    gaps = [label(path) for path in compared(dataset) if path in there or path not in WHERE_THERE]
    names = [label(path) for path in (*FIGURES, *there)]
    cells = [["row", "options", "seeds", *names, *(f"Δ {gap}" for gap in gaps), theirs, "parameters", "seconds / step"]]
    for row in content["rows"]:
        seeds = ", ".join(f"{seed}" if state == "finished" else f"{seed} {state}" for seed, state in row["seeds"].items())
        figures, differences = (row.get(key, {}) for key in ("figures", "difference"))
        cost = [f"{row['parameters']:,}", f"{row['seconds_per_step']:.3g}"] if figures else ["–", "–"]
        shown = [report.percent(figures[name]) if name in figures else "–" for name in names]
        shown += [f"{report.percent(differences[name])}, p = {differences[name]['p']:.3f}" if name in differences else "–" for name in gaps]
        cells.append([row["row"], f"`{row['options']}`", seeds, *shown, row["paper"] or "–", *cost])
    return "\n".join([*(f"{line}  " for line in lines if line), "", *report.markdown(cells), ""])


def main(argv=None) -> None:
    words = list(sys.argv[1:] if argv is None else argv)
    own, passed = split_words(words)
    parser = Parser("python -m tools.ablate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=list(TABLES), help="which table")
    parser.add_argument("--dataset", "--data", metavar="DATA", required=True, help=f"{', '.join(benchmarks())}, or your own dataset.toml")
    parser.add_argument("--output", metavar="DIR", help="folder of the tables (default: runs/ablate-DATASET)")
    parser.add_argument("--seeds", nargs="+", type=SEED, default=[1, 2, 3], metavar="K", help="one run each (default: 1 2 3)")
    parser.add_argument("--rows", nargs="+", metavar="NAME", help="run only these; the table has all")
    parser.add_argument("--reference", metavar="ROW", help="the row that the others are compared with (default: the paper's full setting)")
    parser.add_argument("--shard", default="1/1", metavar="i/n", help="every n-th run, from the i-th on (default: %(default)s, all)")
    parser.add_argument("--jobs", type=COUNT, default=1, metavar="N", help="runs at a time (default: %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="print the commands of the runs that are not finished, and do nothing")
    options = parser.parse_args(own)
    table, dataset = TABLES[options.table], load_dataset(options.dataset, "--dataset")
    reference = options.reference or table.reference
    for name, option in [*((row, "--rows") for row in options.rows or ()), (reference, "--reference")]:
        if name not in table.rows:
            raise BadInput(f"{option} {name}: no row of {options.table}; expected one of {', '.join(table.rows)}")
    number, count = share(options.shard)
    folder = Path(options.output or os.path.relpath(ROOT / "runs" / f"ablate-{dataset.key}")) / options.table
    rows = {name: shlex.split(row) for name, row in table.rows.items()}
    check_passed(passed, list(rows.values()))
    command = [*command_of(dataset, "train"), *passed]
    runs = all_runs({name: [*command, *row] for name, row in rows.items()}, folder, list(dict.fromkeys(options.seeds)))
    shard = [run for run in runs if run.row in (options.rows or table.rows)][number::count]
    todo = [run for run in shard if run.state() != "finished"]
    if options.dry_run:
        for run in todo:
            print(shlex.join(["python", *run.command()]))
        return
    make_folder(folder)
    failed = execute(todo, options.jobs)
    content = fill(options.table, runs, dataset, reference)
    write_json(folder / "table.json", {"command": shlex.join(["python", "-m", "tools.ablate", *words]), **content})
    with replacing(folder / "table.md") as temporary:
        temporary.write_text(markdown(content, dataset, passed), encoding="utf-8")
    print(f"{sum(run.state() == 'finished' for run in runs)} of {len(runs)} runs are finished: {folder / 'table.md'}")
    end(failed)


def end(failed: list[int]) -> None:
    """Leave with exit code 2 where all the runs that failed did for bad input, 1 where one had another reason, and go on where none did."""
    if failed:
        sys.exit(2 if set(failed) == {2} else 1)


if __name__ == "__main__":
    sys.exit(exit_code(main))
