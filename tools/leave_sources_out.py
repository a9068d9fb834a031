"""Cross-validation over a folder of short labelled clips in which clips of one source (a camera, a scene) never stand on both sides.

    python -m tools.extract_features CLIPS --encoder efficientnet-lite0 --crops 1 --layout one --output FEATURES
    python -m tools.leave_sources_out CLIPS/clips.csv --feature-root FEATURES --seeds 1 2 3 --output runs/clips-deepmil \\
        --model deepmil --visual-width 1280

clips.csv has the columns path, label (one of UCF-Crime's classes, or Normal), source. Other options are those of ucf_train.py. Each seed
deals the sources to --folds folds, as alike in labels as they go; each fold is scored by a model that was trained on the others, last
epoch, with settings that must have been chosen before. The scores of all clips are then judged together: AUC by clip (the mean of its
top-K snippets, K = ⌊T/16 + 1⌋), with a 95 % interval from resampling the sources, and AUC within sources: of the pairs of an abnormal and
a normal clip of the same source, how many are ranked right, which no knowledge of the scene helps with.
--split clips deals single clips instead, as one must not: what it gains is recognising the scene. --shuffle-labels is a control.
"""

import argparse
import json
import shlex
import statistics
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

import ucf_option
from utils import engine, loading, testing, training
from utils.checkpoint import load, load_trained_state
from utils.errors import SEED, BadInput, Parser, bounded, exit_code
from utils.evaluation.intervals import interval, over_seeds, resampled
from utils.evaluation.segments import anomaly_score
from utils.files import ROOT, locked, make_folder, replacing, write_json
from utils.labels import SNIPPET, class_indices, load_dataset, video_name
from utils.reading import open_array, read_csv

UCF = load_dataset(ROOT / "list/ucf.toml")


def read_clips(path: Path | str) -> pd.DataFrame:
    """Columns name, path (of the features, below --feature-root), label, source, abnormal (bool). Raises BadInput for what is not so."""
    rows = read_csv(path, "CLIPS.csv")
    _, header = next(rows, (0, []))
    missing = {"path", "label", "source"} - set(header)
    if missing:
        raise BadInput(f"{path}: columns {', '.join(header)}; expected path, label and source; add {min(missing)}")
    entries = []
    for line, row in rows:
        if len(row) != len(header) or not row[header.index("path")]:
            raise BadInput(f"{path}: line {line} has {len(row)} cells, or no path; expected {len(header)}: {', '.join(header)}")
        entries.append(row)
    if not entries:
        raise BadInput(f"{path}: no clips; expected path, label and source of each")
    clips = pd.DataFrame(entries, columns=header)
    clips["name"] = [video_name(name) for name in clips["path"]]
    if double := clips["name"][clips["name"].duplicated()].tolist():
        raise BadInput(f"{path}: {double[0]} stands there twice; expected each clip once, and names that differ")
    clips["path"] = [str(Path(name).with_suffix(".npy")) for name in clips["path"]]
    clips["abnormal"] = [class_indices(label, UCF)[0] > 0 for label in clips["label"]]
    return clips


def deal(clips: pd.DataFrame, folds: int, split: str, seed: int) -> list[np.ndarray]:
    """The rows of each test fold. Raises BadInput where there are fewer sources (clips) of a label than folds."""
    kind, groups = {"sources": (StratifiedGroupKFold, clips["source"]), "clips": (StratifiedKFold, None)}[split]
    try:
        dealt = list(kind(folds, shuffle=True, random_state=seed).split(clips["path"], clips["abnormal"], groups))
    except ValueError as error:
        raise BadInput(f"--folds {folds}: {error}; take fewer") from None
    for train, test in dealt:
        if not len(test) or clips["abnormal"].iloc[train].nunique() < 2:
            raise BadInput(f"--folds {folds}: the {clips['source'].nunique()} sources leave a fold without clips of both kinds; take fewer")
    return [test for _, test in dealt]


def score_fold(clips: pd.DataFrame, test: np.ndarray, folder: Path, words: list[str], seed: int) -> dict[str, float]:
    """Train on all clips but the rows `test`; the anomaly score of each of these, by name."""
    held = np.isin(np.arange(len(clips)), test)
    for name, rows in (("train.csv", clips[~held]), ("test.csv", clips[held])):
        with replacing(folder / name) as temporary:
            rows[["path", "label"]].to_csv(temporary, index=False)
    root = words[words.index("--feature-root") + 1]
    truth = {}
    for clip in clips[held].itertuples():  # a clip is normal or abnormal as a whole
        shape = open_array(Path(root) / clip.path, "--feature-root").shape
        frames = SNIPPET * shape[0] if shape else 0
        truth[clip.name] = {"frames": frames, "fps": 30, "segments": [[0, frames, clip.label]] if clip.abnormal else []}
    write_json(folder / "gt.json", truth)
    files = {"train-list": "train.csv", "test-list": "test.csv", "gt-path": "gt.json"}
    paths = [word for option, file in files.items() for word in (f"--{option}", str(folder / file))]
    options = ucf_option.parse_args([*words, *paths, "--select", "last", "--seed", str(seed), "--output", str(folder)])
    data, model = loading.load_data(options, seed), loading.load_model(options, seed)
    best = training.train(model, data, options, seed)
    load_trained_state(model, load(best)["weights"], best)
    scores = engine.score(model, data.test, options, data.captions)
    return {name: engine.bag_score(anomaly_score(parts)) for name, parts in scores.items()}


def figures(clips: pd.DataFrame, scores: np.ndarray) -> dict[str, np.ndarray]:
    """AUC and AUC within sources: each on all clips, then on resamples of the sources."""
    sources, of = np.unique(clips["source"], return_inverse=True)
    abnormal = clips["abnormal"].to_numpy()
    right, pairs = np.zeros(len(sources)), np.zeros(len(sources))
    for number in range(len(sources)):
        high, low = (scores[(of == number) & (abnormal == kind)] for kind in (True, False))
        right[number] = (high[:, None] > low).sum() + (high[:, None] == low).sum() / 2
        pairs[number] = len(high) * len(low)

    def of_weight(weight: np.ndarray) -> dict:
        rows = weight[of]
        both = len(np.unique(abnormal[rows > 0])) == 2
        auc = roc_auc_score(abnormal, scores, sample_weight=rows) if both else None
        return {"auc": auc, "within_source_auc": weight @ right / (weight @ pairs) if weight @ pairs else None}

    return resampled(of_weight, len(sources))


def parse(argv) -> tuple[argparse.Namespace, list[str]]:
    parser = Parser(
        "python -m tools.leave_sources_out", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("clips", metavar="CLIPS.csv", help="path,label,source of each clip")
    parser.add_argument("--feature-root", required=True, metavar="DIR", help="features of the clips, under the same paths")
    parser.add_argument("--folds", type=bounded(int, 2, 1000), default=5, help="(default: %(default)s)")
    parser.add_argument("--split", choices=("sources", "clips"), default="sources", help="what is dealt to folds (default: %(default)s)")
    parser.add_argument("--seeds", type=SEED, nargs="+", default=[1, 2, 3], help="of the folds and of training (default: 1 2 3)")
    parser.add_argument("--shuffle-labels", action="store_true", help="control: labels permuted over the clips, anew for each seed")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the runs and of result.json")
    parser.add_argument("--overwrite", action="store_true", help="replace the result that stands there")
    options, words = parser.parse_known_args(argv)
    return options, [*words, "--feature-root", options.feature_root]


def main(argv=None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    options, words = parse(argv)
    clips, output = read_clips(options.clips), make_folder(options.output)
    with locked(output):
        if (output / "result.json").exists() and not options.overwrite:
            raise BadInput(f"{output}: holds a result; name another --output, or replace it: --overwrite")
        cross_validate(clips, output, options, words, argv)


def cross_validate(clips: pd.DataFrame, output: Path, options, words: list[str], argv: list[str]) -> None:
    """Every seed's folds, then the figures: result.json, which is printed."""
    drawn, scores = [], {}
    for seed in options.seeds:
        given = clips.copy()
        if options.shuffle_labels:
            given[["label", "abnormal"]] = clips[["label", "abnormal"]].sample(frac=1, random_state=seed).to_numpy()
            given["abnormal"] = given["abnormal"].astype(bool)
        found = {}
        for number, test in enumerate(deal(given, options.folds, options.split, seed), 1):
            found |= score_fold(given, test, make_folder(output / f"seed-{seed}" / f"fold-{number}"), words, seed)
        drawn.append(figures(given, np.array([found[name] for name in given["name"]])))
        scores[seed] = found
    result = {"clips": len(clips), "abnormal": int(clips["abnormal"].sum()), "sources": clips["source"].nunique()}
    result |= {key: vars(options)[key] for key in ("folds", "split", "shuffle_labels", "seeds")}
    for name in drawn[0]:
        values = [float(one[name][0]) for one in drawn]
        spread = {"std": statistics.stdev(values)} if len(values) > 1 else {}
        result[name] = interval(over_seeds([one[name] for one in drawn], seed=0)) | spread | {"by_seed": values}
    result |= {"command": shlex.join(["python", "-m", "tools.leave_sources_out", *argv]), "versions": testing.versions()}
    write_json(output / "result.json", result | {"scores": scores})
    print(json.dumps({name: result[name] for name in drawn[0]}, indent=1))
    print(f"{result['clips']} clips, {result['abnormal']} abnormal, {result['sources']} sources: {output / 'result.json'}")


if __name__ == "__main__":
    sys.exit(exit_code(main))
