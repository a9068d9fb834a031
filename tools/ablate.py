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
import fcntl
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from tqdm import tqdm
from typing_extensions import TypedDict

from model import SYSTEMS
from tools.evaluate import compare, label
from utils import testing
from utils.distributed import share
from utils.errors import COUNT, SEED, BadInput, Parser, exit_code, printable
from utils.evaluation import report
from utils.evaluation.ground_truth import load_ground_truth
from utils.evaluation.scores import load_scores
from utils.files import ROOT, make_folder, replacing, write_json
from utils.labels import DATASETS, Dataset
from utils.reading import OPEN, Plain, Text, read_json, read_json_lines, real, whole


class Row(NamedTuple):
    """Options of the training script as a user types them, and the paper's figures in percent: XD-Violence AP (AVG mAP), UCF-Crime AUC;
    ReFLIP-VAD's are with FLIP features where nothing else is said.
    """

    options: str
    xd: str = ""
    ucf: str = ""


class Table(NamedTuple):
    """`reference` is the row that the others are compared with: the paper's full setting."""

    title: str
    reference: str
    rows: dict[str, Row]


TABLES = {
    "temporal": Table("Temporal networks (ReFLIP-VAD, table V)", "ge", {
        "none": Row("--temporal none", "73.31 (16.27)"),
        "global": Row("--temporal global", "82.69 (16.98)"),
        "eg": Row("--temporal eg", "82.89 (17.43)"),
        "local": Row("--temporal local", "81.34 (18.67)"),
        "ee": Row("--temporal ee", "81.59 (19.27)"),
        "gcn": Row("--temporal gcn", "82.65 (24.19)"),
        "local+global": Row("--temporal local+global", "80.12 (20.93)"),
        "global+gcn": Row("--temporal global+gcn", "85.15 (21.76)"),
        "local+gcn": Row("--temporal local+gcn", "85.57 (25.42)"),
        "ge-fusion": Row("--temporal ge-fusion", "85.89 (26.58)"),
        "ge": Row("--temporal ge", "86.29 (27.36)"),
    }),
    "blocks": Table("Blocks and prompts; without the learnable prompt the class name stands alone (ReFLIP-VAD, table VI)", "all", {
        "cls": Row("--blocks cls --prompt class --no-v-prompt", "81.28"),
        "vta": Row("--blocks vta --prompt class --no-v-prompt", "69.24"),
        "both": Row("--blocks both --prompt class --no-v-prompt", "77.33"),
        "both+rl-prompt": Row("--blocks both --prompt reparameterized --no-v-prompt", "79.75"),
        "both+v-prompt": Row("--blocks both --prompt class --v-prompt", "83.56"),
        "all": Row("--blocks both --prompt reparameterized --v-prompt", "86.29"),
    }),
    "tokens": Table("Prompt tokens N (ReFLIP-VAD, table VII)", "24", {
        "8": Row("--prompt-prefix 4 --prompt-postfix 4", "81.26 (22.74)"),
        "16": Row("--prompt-prefix 8 --prompt-postfix 8", "82.78 (23.34)"),
        "20": Row("--prompt-prefix 10 --prompt-postfix 10", "84.91 (25.61)"),
        "24": Row("--prompt-prefix 12 --prompt-postfix 12", "86.29 (27.36)"),
        "32": Row("--prompt-prefix 16 --prompt-postfix 16", "84.13 (22.89)"),
    }),
    "window": Table("Window of the convolution in Emphasize, in snippets (ReFLIP-VAD, table VII, names a window of GE)", "64", {
        "16": Row("--window-length 16", "84.19 (27.26)"),
        "32": Row("--window-length 32", "84.68 (25.17)"),
        "64": Row("--window-length 64", "86.29 (27.36)"),
        "128": Row("--window-length 128", "84.87 (23.26)"),
        "256": Row("--window-length 256", "83.54 (26.54)"),
    }),
    "length": Table("Input length T (ReFLIP-VAD, table VII)", "512", {
        "64": Row("--visual-length 64", "82.54 (26.87)"),
        "128": Row("--visual-length 128", "82.19 (26.38)"),
        "256": Row("--visual-length 256", "85.41 (25.08)"),
        "512": Row("--visual-length 512", "86.29 (27.36)"),
        "1024": Row("--visual-length 1024", "84.54 (24.45)"),
    }),
    "prompts": Table("What stands round the class name (ReFLIP-VAD, table X)", "reparameterized", {
        "class": Row("--prompt class", "80.69", "83.95"),
        "a-video-of": Row("--prompt template --template 'a video of'", "81.06", "85.55"),
        "a-long-video-of": Row("--prompt template --template 'a long video of'", "82.59", "85.63"),
        "learnable": Row("--prompt learnable", "84.48", "86.48"),
        "reparameterized": Row("--prompt reparameterized", "86.29", "89.14"),
    }),
    "temperature": Table("Temperature τ of the alignment map (ReFLIP-VAD, table XI)", "0.07", {
        "0.01": Row("--temperature 0.01", "85.33", "87.34"),
        "0.03": Row("--temperature 0.03", "84.45", "88.78"),
        "0.05": Row("--temperature 0.05", "85.13", "88.56"),
        "0.07": Row("--temperature 0.07", "86.29", "89.14"),
        "0.09": Row("--temperature 0.09", "85.20", "88.12"),
        "0.1": Row("--temperature 0.1", "85.36", "87.64"),
    }),
    "trclip": Table("Parts of TrCLIP-VAD (ours; what follows -- names --caption-root)", "all", {
        "visual": Row("--model trclip --branches visual"),
        "text": Row("--model trclip --branches text"),
        "no-rewriting": Row("--model trclip --caption-choice source"),
        "rewrite-1": Row("--model trclip --caption-choice rewrite-1"),
        "rewrite-2": Row("--model trclip --caption-choice rewrite-2"),
        "no-mamba": Row("--model trclip --stack none"),
        "no-mtn": Row("--model trclip --no-mtn"),
        "no-mamba-no-mtn": Row("--model trclip --stack none --no-mtn"),
        "all": Row("--model trclip", "86.38", "88.59"),
    }),
    "losses": Table("Losses of ReFLIP-VAD (ours; the paper has no such table)", "all", {
        "coarse": Row("--blocks cls --no-v-prompt --lambda-magnitude 0"),
        "fine": Row("--blocks vta --no-v-prompt --lambda-magnitude 0 --lambda-text 0"),
        "no-magnitude": Row("--blocks both --lambda-magnitude 0"),
        "no-text": Row("--blocks both --lambda-text 0"),
        "all": Row("--blocks both"),
    }),
    "systems": Table("Systems, each with its published figure (ours; hlnet's as ReFLIP-VAD's tables have it)", "reflip", {
        "deepmil": Row("--model deepmil", "", "75.41 (C3D)"),
        "hlnet": Row("--model hlnet", "78.10", "82.45"),
        "vadclip": Row("--model vadclip", "84.51 (24.70)", "88.02"),
        "reflip": Row("--model reflip", "86.29 FLIP, 85.81 CLIP (27.36)", "89.14 FLIP, 88.57 CLIP"),
    }),
}  # fmt: skip
FIGURES = (("coarse", "auc"), ("coarse", "ano_auc"), ("coarse", "ap"), ("fine", "auc"), ("fine", "ap"), ("map", "anomaly", "avg"))
COMPARED = {"ucf": (("coarse", "auc"), ("fine", "auc")), "xd": (("coarse", "ap"), ("fine", "ap"))}
EXIT = "exit code "  # how the log of a failed run ends


class Epoch(TypedDict):
    """A line of a run's log.jsonl, as far as the table needs it."""

    __pydantic_config__ = OPEN

    seconds: real(0)
    steps: whole(1, 2**40)


class Files(TypedDict):
    """A run's options.json, as far as the table needs it."""

    __pydantic_config__ = OPEN

    gt_path: Text


class Report(TypedDict):
    """A run's report.json, as far as the table takes from it."""

    __pydantic_config__ = OPEN

    model: Literal[*SYSTEMS]
    versions: dict[Text, Plain]
    features: Literal["visual", *report.FEATURES]
    selected_on: Literal[*report.SELECTED]
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
        """What the interpreter is given; a run that was interrupted is resumed."""
        resume = ["--resume"] if (self.folder / "last.pt").exists() else []
        script, *options = self.words
        return [os.path.relpath(ROOT / script), *options, "--seed", str(self.seed), "--output", str(self.place), *resume]

    def printed(self) -> str:
        """The last line that it printed."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").rstrip().splitlines() if self.log.exists() else []
        return lines[-1] if lines else ""

    def state(self) -> str:
        if (self.folder / "report.json").exists():
            return "finished"
        return "failed" if self.printed().startswith(EXIT) else "not finished" if self.log.exists() else "not run"


def all_runs(table: Table, dataset: str, place: Path, seeds: list[int], passed: list[str]) -> list[Run]:
    """Every run of a table, row by row. Raises BadInput where `passed`, the options of all rows, has one that every row sets, and where a
    row's folder holds runs of another command.
    """

    def flags(words) -> list[str]:
        return [word.split("=")[0].replace("--no-", "--", 1) for word in words if word.startswith("--")]

    options = {name: shlex.split(row.options) for name, row in table.rows.items()}
    owned = {"--seed", "--seeds", "--output", "--resume"} | set.intersection(*(set(flags(words)) for words in options.values()))
    if odd := [word for word in flags(passed) if word in owned]:
        raise BadInput(
            f"{odd[0]} after --: the table sets it for each run; leave it out (--seeds, --rows and --output stand before the --)"
        )
    runs = []
    for name, words in options.items():
        folder, words = place / name, [f"{dataset}_train.py", *passed, *words]
        made, found = folder / "ablate.json", words
        if any(folder.glob("seed-*/")):
            found = read_json(made, "--output") if made.exists() else ["another", "program"]
        if found != words:
            raise BadInput(
                f"{folder}: holds runs of `{shlex.join(found)}`, now it is `{shlex.join(words)}`; "
                f"give the same options after --, or another folder with --output"
            )
        runs += [Run(name, seed, words, folder) for seed in seeds]
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
        finally:  # interrupted: so is what runs, and its last epoch is saved
            for _, process in running:
                process.send_signal(signal.SIGINT)
            for _, process in running:
                process.wait()
    return failed


def measure(runs: list[Run], dataset: Dataset) -> tuple[dict, list[dict], float]:
    """Of a row's finished runs the report over seeds, what report.resample drew for each, and the seconds of a training step.

    The report also becomes ROW/report.json, where each run has written its own.
    """
    reports, drawn, epochs = [], [], []
    for run in runs:
        truth = load_ground_truth(read_json(run.folder / "options.json", "--output", Files)["gt_path"], dataset)
        made, scores = read_json(run.folder / "report.json", "--output", Report), load_scores(run.folder / "scores.npz")[0]
        drawn.append(report.resample(scores, truth, dataset))
        made |= testing.published(SYSTEMS[made["model"]], dataset.key, drawn[-1]) | report.evaluate(scores, truth, dataset, drawn[-1])
        if "threshold" not in made:  # segments of an earlier version, cut by another rule
            made.pop("segments", None)
        made.setdefault("official_videos", None)
        reports.append(made)
        epochs += read_json_lines(run.folder / "log.jsonl", "--output", Epoch)
    result = report.summarise(reports, drawn)
    report.write_report(runs[0].place, result)
    return result, drawn, sum(line["seconds"] for line in epochs) / sum(line["steps"] for line in epochs)


def fill(table: Table, runs: list[Run], dataset: Dataset, reference: str) -> dict:
    """The content of table.json; figures are fractions."""
    states = {name: {run.seed: run.state() for run in runs if run.row == name} for name in table.rows}
    finished = {name: [run for run in runs if run.row == name and states[name][run.seed] == "finished"] for name in table.rows}
    measured = {name: measure(own, dataset) for name, own in tqdm(finished.items(), "figures", unit="row", leave=False) if own}
    rows = []
    for name, row in table.rows.items():
        entry = {"row": name, "options": row.options, "seeds": states[name], "paper": getattr(row, dataset.key) or None}
        if name in measured:
            result, drawn, seconds = measured[name]
            figures = report.figures(result)
            gaps = compare(drawn, measured[reference][1]) if name != reference and reference in measured else {}
            entry["figures"] = {label(path): figures[path] for path in FIGURES if path in figures}
            entry["difference"] = {label(path): gaps[path] for path in COMPARED[dataset.key] if path in gaps}
            entry |= {"parameters": result["parameters"], "seconds_per_step": seconds}
        rows.append(entry)
    reports = [read_json(run.folder / "report.json", "--output", Report) for own in finished.values() for run in own]
    about = {key: reports[0][key] for key in ("features", "selected_on", "videos", "frames") if reports}
    names = dict.fromkeys(name for result in reports for name in result["versions"])  # several of one where machines share a table
    versions = {name: list(dict.fromkeys(result["versions"].get(name) for result in reports)) for name in names}
    return {"title": table.title, "dataset": dataset.key, "reference": reference, **about, "versions": versions, "rows": rows}


def markdown(content: dict, passed: list[str]) -> str:
    """table.md from what `fill` gives."""
    dataset, features = DATASETS[content["dataset"]], content.get("features")
    lines = [f"{content['title']}, on {dataset.title}"]
    if features:
        selected = report.SELECTED[content["selected_on"]]
        lines[0] += f": {content['videos']} videos, {content['frames']} frames, {features} features, checkpoint selected on {selected}"
    if features in report.FEATURES:
        lines.append(report.FEATURES[features].format(dataset.title))
    lines.append("Percent: mean ± std over seeds [95 % bootstrap interval over videos and seeds]; parameters are the trained ones.")
    lines.append(f"Δ: the row minus {content['reference']}, paired on the same videos; p is not corrected for the number of rows.")
    lines.append(f"All rows: `{shlex.join(['python', f'{dataset.key}_train.py', *passed])}`")
    lines.append(", ".join(f"{name} {' / '.join(map(str, values))}" for name, values in content["versions"].items()))
    theirs = f"paper: {'AP (AVG mAP)' if dataset.key == 'xd' else 'AUC'}, its features, best on test"
    theirs += "" if features == "visual" else "; not comparable"
    gaps = [label(path) for path in COMPARED[dataset.key]]
    cells = [["row", "options", "seeds", *map(label, FIGURES), *(f"Δ {gap}" for gap in gaps), theirs, "parameters", "seconds / step"]]
    for row in content["rows"]:
        seeds = ", ".join(f"{seed}" if state == "finished" else f"{seed} {state}" for seed, state in row["seeds"].items())
        figures, compared = (row.get(key, {}) for key in ("figures", "difference"))
        cost = [f"{row['parameters']:,}", f"{row['seconds_per_step']:.3g}"] if figures else ["–", "–"]
        shown = [report.percent(figures[name]) if name in figures else "–" for name in map(label, FIGURES)]
        shown += [f"{report.percent(compared[name])}, p = {compared[name]['p']:.3f}" if name in compared else "–" for name in gaps]
        cells.append([row["row"], f"`{row['options']}`", seeds, *shown, row["paper"] or "–", *cost])
    return "\n".join([*(f"{line}  " for line in lines if line), "", *report.markdown(cells), ""])


def main(argv=None) -> None:
    words = list(sys.argv[1:] if argv is None else argv)
    cut = words.index("--") if "--" in words else len(words)
    passed = words[cut + 1 :]
    parser = Parser("python -m tools.ablate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=list(TABLES), help="which table")
    parser.add_argument("--dataset", choices=list(DATASETS), required=True)
    parser.add_argument("--output", metavar="DIR", help="folder of the tables (default: runs/ablate-DATASET)")
    parser.add_argument("--seeds", nargs="+", type=SEED, default=[1, 2, 3], metavar="K", help="one run each (default: 1 2 3)")
    parser.add_argument("--rows", nargs="+", metavar="NAME", help="run only these; the table has all")
    parser.add_argument("--reference", metavar="ROW", help="the row that the others are compared with (default: the paper's full setting)")
    parser.add_argument("--shard", default="1/1", metavar="i/n", help="every n-th run, from the i-th on (default: %(default)s, all)")
    parser.add_argument("--jobs", type=COUNT, default=1, metavar="N", help="runs at a time (default: %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="print the commands of the runs that are not finished, and do nothing")
    options = parser.parse_args(words[:cut])
    table = TABLES[options.table]
    reference = options.reference or table.reference
    for name, option in [*((row, "--rows") for row in options.rows or ()), (reference, "--reference")]:
        if name not in table.rows:
            raise BadInput(f"{option} {name}: no row of {options.table}; expected one of {', '.join(table.rows)}")
    number, count = share(options.shard)
    folder = Path(options.output or os.path.relpath(ROOT / "runs" / f"ablate-{options.dataset}")) / options.table
    runs = all_runs(table, options.dataset, folder, list(dict.fromkeys(options.seeds)), passed)
    shard = [run for run in runs if run.row in (options.rows or table.rows)][number::count]
    todo = [run for run in shard if run.state() != "finished"]
    if options.dry_run:
        for run in todo:
            print(shlex.join(["python", *run.command()]))
        return
    make_folder(folder)
    failed = execute(todo, options.jobs)
    content = fill(table, runs, DATASETS[options.dataset], reference)
    write_json(folder / "table.json", {"command": shlex.join(["python", "-m", "tools.ablate", *words]), **content})
    with replacing(folder / "table.md") as temporary:
        temporary.write_text(markdown(content, passed), encoding="utf-8")
    print(f"{sum(run.state() == 'finished' for run in runs)} of {len(runs)} runs are finished: {folder / 'table.md'}")
    if failed:
        sys.exit(2 if set(failed) == {2} else 1)


if __name__ == "__main__":
    sys.exit(exit_code(main))
