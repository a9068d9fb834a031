"""The same metrics for anybody's scores, and the paired bootstrap difference of two systems on the same videos.

    python -m tools.evaluate --dataset ucf --scores runs/ucf-reflip/seed-*/scores.npz
    python -m tools.evaluate --dataset ucf --scores A.npz --against B.npz --json difference.json
    python -m tools.evaluate --dataset ucf --scores pel4vad.csv.gz --names pel4vad.list

Several files on a side are the seeds of one system: figures are their mean, and each resample of the videos draws seeds too. With one
file a side, intervals and p are those of that checkpoint: another training may come out elsewhere. A file is

    .npz    NAME/coarse (T,), NAME/fine (T, C+1), NAME/online (T,), NAME/covered (T,) and `classes`, as --save-scores writes them, or one
            array (T,) per NAME
    .csv    first column the video, a column `score` or `pred`; videos by name, or numbered in the order of the list --names
    .json   {"vid_score": {NAME: {"start, end": score}}}, ranges of frames (VADTree, after its authors' sigmoid of four decimals)

the latter two with or without .gz. T counts snippets of 16 frames, or frames. A score without classes stands as the coarse one. Where a
file holds which rows have a sentence of their own (NAME/covered), figures are also given on the frames of these alone, for all files on the
same. AP is average precision; released code that integrates the precision-recall curve by trapezoids prints another number under the same
name.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from utils.datasets import benchmarks, load_dataset
from utils.errors import BadInput, Parser, bounded, exit_code, some
from utils.evaluation import report
from utils.evaluation.ground_truth import TRUTH, load_ground_truth
from utils.evaluation.intervals import RESAMPLES, difference, interval, over_seeds
from utils.evaluation.report import label
from utils.evaluation.scores import check_lengths, load_scores
from utils.files import write_json
from utils.labels import Dataset
from utils.reading import read_json
from utils.runs import has_results


def run_of(path: str) -> dict:
    """The options.json of the run of ours that a file of scores is of; {} where it is of none, or of its test on another data set."""
    place = Path(path).resolve().parent
    for folder in (place, place.parent):  # the run's, or that of its later test below it
        if (folder / "options.json").is_file() and has_results(folder):
            tested, trained = (tested_on(one) for one in (place, folder))
            return {} if tested and trained and tested != trained else read_json(folder / "options.json", "--scores", dict)
    return {}


def tested_on(folder: Path) -> str | None:
    """The data set that report.json in a folder is of; None where there is none."""
    report = folder / "report.json"
    return str(read_json(report, "--scores", dict).get("dataset")) if report.is_file() else None


def runs_truth(paths: list[str]) -> str | None:
    """The ground truth that runs of ours were tested on: the file beside their scores, else as the options.json of their scores says; None
    where no file is of a run.

    Raises BadInput where two of them were tested on different ones.
    """
    found = {}
    for path in paths:
        beside = Path(path).resolve().with_name(TRUTH)
        if beside.is_file():
            same = (other for other in found if Path(other).name == TRUTH and Path(other).read_bytes() == beside.read_bytes())
            found.setdefault(next(same, str(beside)), path)
        elif isinstance(truth := run_of(path).get("gt_path"), str):
            found.setdefault(truth, path)
    if len(found) > 1:
        (one, a), (other, b), *_ = found.items()
        raise BadInput(f"{a} was tested on {one}, {b} on {other}; measure them apart, or name the ground truth of both with --gt-path")
    return next(iter(found), None)


def load_side(paths: list[str], option: str, dataset: Dataset, names: str | None) -> list[dict]:
    """The scores of each seed of one system. Raises BadInput where their classes are another data set's."""
    runs = []
    for path in paths:
        scores, classes = load_scores(path, names)
        unnamed = classes is None and all(video.fine is None for video in scores.values())
        if not unnamed and classes not in (dataset.names, dataset.labels):
            raise BadInput(
                f"{option} {path}: its classes are {', '.join(map(str, classes or ())) or 'missing'}; expected those of {dataset.title}, "
                f"{', '.join(dataset.names)}; check --dataset"
            )
        runs.append(scores)
    return runs


def check_side(runs: list[dict], paths: list[str], option: str, truth: dict, mismatch: int) -> None:
    """Raise BadInput where the scores of a side do not fit the ground truth, or one another."""
    for path, scores in zip(paths, runs, strict=True):
        try:
            check_lengths({name: len(next(p for p in parts if p is not None)) for name, parts in scores.items()}, truth, mismatch)
        except BadInput as error:
            raise BadInput(f"{option} {path}: {error}") from None
        if scores.keys() != runs[0].keys():
            odd = min(scores.keys() ^ runs[0].keys())
            raise BadInput(f"{option}: {odd} is in only one of {paths[0]} and {path}; seeds of one system have the same videos")
        if odd := [name for name in scores if scores[name].given() != runs[0][name].given()]:
            raise BadInput(
                f"{option}: {odd[0]} has other scores in {path} than in {paths[0]}; seeds of one system have the same kinds of score"
            )


def share_coverage(runs: list[dict]) -> list[dict]:
    """The scores of all files, each with the covered rows that some of them know of; without any, and that is said, where two differ."""
    known, same = {}, True
    for name, rows in ((name, parts.covered) for scores in runs for name, parts in scores.items() if parts.covered is not None):
        same &= np.array_equal(known.setdefault(name, rows), rows)
    if not same:
        print("note: the files differ in which rows have a sentence of their own: no figures of covered frames")
    return [{name: parts._replace(covered=known.get(name) if same else None) for name, parts in scores.items()} for scores in runs]


def compare(ours: list[dict], theirs: list[dict]) -> dict[tuple, dict]:
    """Each figure that both systems have: {"ours", "theirs", "value", "low", "high", "p"}, where "ours" and "theirs" are figures with
    intervals of their own; `ours` and `theirs` hold what report.resample drew for each seed.
    """
    result = {}
    for path in ours[0]:
        if all(path in run for run in (*ours, *theirs)):
            a, b = over_seeds([run[path] for run in ours], seed=1), over_seeds([run[path] for run in theirs], seed=2)
            gap = difference(a, b)
            if gap["value"] is not None:
                result[path] = {"ours": interval(a), "theirs": interval(b), **gap}
    return result


def sentence(path: tuple, row: dict, videos: int, seeds: tuple[int, int]) -> str:
    """What the intervals allow one to say of a figure. Of a system with one seed they know one checkpoint, not the system."""
    apart, what = row["p"] is not None and row["p"] < 0.05, "systems" if min(seeds) > 1 else "checkpoints"
    spread = "no interval"
    if row["low"] is not None:
        spread = f"95 % interval [{100 * row['low']:+.2f}, {100 * row['high']:+.2f}], p = {row['p']:.3f}"
    return (
        f"{label(path)}: {100 * row['ours']['value']:.2f} against {100 * row['theirs']['value']:.2f} on the same {videos} videos; the "
        f"difference of {100 * row['value']:+.2f} points, {spread}, {'tells' if apart else 'does not tell'} the two {what} apart."
    )


def main(argv=None) -> None:
    parser = Parser("python -m tools.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", "--data", metavar="DATA", required=True, help=f"{', '.join(benchmarks())}, or your own dataset.toml")
    parser.add_argument("--scores", nargs="+", required=True, metavar="FILE", help="one file per seed of a system")
    parser.add_argument("--against", nargs="+", metavar="FILE", help="another system's, for the paired difference")
    parser.add_argument(
        "--gt-path", metavar="JSON", help="ground truth (default: that of the run the scores are of, else list/DATASET_gt.json)"
    )
    parser.add_argument("--names", metavar="LIST", help="list whose order numbers the videos of a .csv")
    parser.add_argument(
        "--allow-length-mismatch",
        type=bounded(int, 0, 100_000),
        default=0,
        metavar="N",
        help="accept up to N snippets (default: %(default)s)",
    )
    parser.add_argument(
        "--resamples", type=bounded(int, 1, 10_000), default=RESAMPLES, help="of the bootstrap over videos (default: %(default)s)"
    )
    parser.add_argument("--json", metavar="FILE", help="write all figures there, as fractions")
    options = parser.parse_args(argv)
    dataset = load_dataset(options.dataset, "--dataset")
    given = {"--scores": options.scores} | ({"--against": options.against} if options.against else {})
    paths = [path for side in given.values() for path in side]
    sides = [load_side(side, option, dataset, options.names) for option, side in given.items()]
    shared_rows = iter(share_coverage([scores for side in sides for scores in side]))
    sides = [[next(shared_rows) for _ in side] for side in sides]
    gt_path = options.gt_path or runs_truth(paths) or dataset.gt_path
    if gt_path is None:
        raise BadInput(f"{dataset.path}: names no ground_truth, and the scores are of no run that knows its own; name it with --gt-path")
    truth = load_ground_truth(gt_path, dataset)
    for (option, side), runs in zip(given.items(), sides, strict=True):
        check_side(runs, side, option, truth, options.allow_length_mismatch)
    if sample := [path for path in paths if run_of(path).get("sample")]:
        print(f"note: scores of the built-in sample, simulated features: the figures say nothing about {dataset.title} ({some(sample)})")
    shared = set.intersection(*(set(runs[0]) for runs in sides))
    if not shared:
        raise BadInput("--scores and --against have no video in common; expected the same test set")
    for option, runs in zip(("--scores", "--against"), sides, strict=False):
        if extra := len(runs[0]) - len(shared):
            print(f"note: {extra} videos of {option} are not in the other's scores; both are measured on the {len(shared)} they share")
    if len(shared) < len(truth):
        print(f"note: {len(shared)} of the {len(truth)} videos of {gt_path} have scores; figures are of these")
    by_video = Path(gt_path).name == TRUTH
    drawn = [[report.resample({n: run[n] for n in shared}, truth, dataset, options.resamples, by_video) for run in runs] for runs in sides]
    counts = {"dataset": dataset.key, "scores": options.scores, "against": options.against, "resamples": options.resamples}
    if options.against:
        rows = report.counted(compare(*drawn), shared, truth, dataset)
        if not rows:
            raise BadInput("--scores and --against have no figure in common; expected coarse scores in both, or fine ones")
        content = {**counts, "videos": len(shared), "difference": report.nest(rows)}
        shown = {path: row for path, row in rows.items() if "per_class" not in path}
        cells = [
            (label(path), *(report.percent(figure) for figure in (row["ours"], row["theirs"], row)), report.p_value(row))
            for path, row in shown.items()
        ]
        print("\n".join(report.aligned([("figure (%)", "--scores", "--against", "difference", "p"), *cells])))
        seeds = tuple(map(len, sides))
        print("\n".join(sentence(path, row, len(shared), seeds) for path, row in shown.items() if path[0] != "map"))
    else:
        reports = [{"seeds": [index], "checkpoint": path, **report.evaluate({n: runs[n] for n in shared}, truth, dataset, part)}
                   for index, (path, runs, part) in enumerate(zip(options.scores, sides[0], drawn[0], strict=True), 1)]  # fmt: skip
        result = report.summarise(reports, drawn[0])
        content = {**counts, **{key: value for key, value in result.items() if key not in ("seeds", "checkpoint")}}
        over = f" and seeds, mean ± std of {len(reports)} files" if len(reports) > 1 else ""
        print(
            f"{dataset.title}: {result['videos']} videos, {result['frames']} frames, 95 % bootstrap intervals over "
            f"{report.resampled_over(result)}{over}"
        )
        print("".join(f"{line}\n" for line in (*report.not_known(result), *report.covered_lines(result))), end="")
        if result["online"]:
            print(report.ONLINE)
        print(f"per class: how many videos show it; no interval where fewer than {report.FEW} do")
        cells = [(label(path), report.percent(row), str(row.get("videos", ""))) for path, row in report.figures(result).items()]
        print("\n".join(report.aligned([("figure (%)", "value", "videos"), *cells])))
    if options.json:
        write_json(Path(options.json), content)


if __name__ == "__main__":
    sys.exit(exit_code(main))
