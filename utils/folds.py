"""Cross-validation within the training list (`--folds K`): each fold is scored by a run that was trained on the others, and the scores of
all are judged together.

Where the list has a column `source` (a camera, a scene), sources are dealt, never one to two folds: single videos dealt at random measure
whether a scene is recognised. Each fold is a run like any other, OUTPUT/seed-K/fold-J/, with the lists that it was trained and tested on.
"""

import csv
import io
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from dataset import Video, check_features, read_list, read_rows
from utils import loading, ranks, runs, testing, training
from utils.datasets import load_dataset
from utils.errors import BadInput
from utils.evaluation.ground_truth import load_ground_truth
from utils.files import make_folder, replacing
from utils.labels import Dataset, class_indices, multi_hot, video_name
from utils.reading import read_text


def unit(videos: Sequence[Video], options) -> str:
    """What is dealt to folds, "sources" or "videos": what `--folds-of` says, videos where the list has no sources."""
    return "videos" if any(video.source is None for video in videos) else options.folds_of


def deal(videos: Sequence[Video], folds: int, of: str, seed: int, dataset: Dataset) -> list[set[str]]:
    """The names of each fold's videos, the folds as alike in classes (first labels) as they go. of: "sources", or "videos".

    Raises BadInput where there are too few videos or sources for it, so that a fold is empty, or the others have not both kinds.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold  # two seconds that only --folds may cost

    kinds = np.array([class_indices(video.label, dataset)[0] for video in videos])
    sources = [video.source for video in videos] if of == "sources" else None
    dealer = StratifiedKFold if sources is None else StratifiedGroupKFold
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a class of fewer videos than folds
            dealt = list(dealer(folds, shuffle=True, random_state=seed).split(kinds, kinds, sources))
    except ValueError:  # more folds than any class has videos
        most = np.bincount(kinds).max()
        raise BadInput(f"--folds {folds}: more than the largest class of the training list has videos, {most}; take fewer") from None
    for train, test in dealt:
        if not len(test) or len(np.unique(kinds[train] > 0)) < 2:
            what = f"{len(videos)} videos" if sources is None else f"{len(set(sources))} sources"
            raise BadInput(f"--folds {folds}: the {what} leave a fold empty, or without both kinds to train on; take fewer")
    return [{videos[number].name for number in test} for _, test in dealt]


def shuffled(videos: Sequence[Video], seed: int, dataset: Dataset) -> list[Video]:
    """The videos with their labels permuted, a control: nothing can be learned from these."""
    labels = [videos[number].label for number in np.random.RandomState(seed).permutation(len(videos))]
    return [replace(v, label=label, target=tuple(multi_hot(label, dataset).tolist())) for v, label in zip(videos, labels, strict=True)]


def cross_validate(options, seed: int) -> testing.Tested | None:
    """Train and test the folds of one seed, or what is left of them, then judge their scores together: scores.npz, report.json, report.md
    and plots/ in OUTPUT/seed-K; of several ranks the first one judges.

    Raises BadInput where a fold that has results was dealt otherwise.
    """
    dataset = load_dataset(options.data)
    videos = read_list(options.train_list, options.feature_root, dataset, "--train-list")
    of = unit(videos, options)
    given = {} if options.gt_path is None or options.shuffle_labels else load_ground_truth(options.gt_path, dataset)
    if options.shuffle_labels:
        videos = shuffled(videos, seed, dataset)
    truth = loading.known_truth(videos, check_features(videos, options.visual_width), given, dataset)
    folder, ready, tested = Path(options.output) / f"seed-{seed}", [], []
    for number, names in enumerate(deal(videos, options.folds, of, seed, dataset), 1):
        place = folder / f"fold-{number}"
        rows = {"train": [], "test": []}
        by_name = {video.name: video for video in videos}
        for row, *_ in read_rows(options.train_list, "--train-list"):
            video = by_name[video_name(row)]
            rows["test" if video.name in names else "train"].append([row, video.label, *([video.source] if video.source else [])])
        write_lists(place, rows)
        own = {
            **{"train_list": str(place / "train.csv"), "test_list": str(place / "test.csv")},
            **{"gt_path": options.gt_path if given.keys() & names else None, "folds": None, "shuffle_labels": False},
        }
        own = replace(options, **own)
        ready.append((place, own, loading.load_data(own, seed)))  # what is wrong with the last one is known before the first is trained
    for number, (place, own, data) in enumerate(ready, 1):
        print(f"fold {number} of {options.folds}, seed {seed}: {len(data.test)} videos, tested by a model trained on the others")
        model = loading.load_model(own, seed)
        best = training.train(model, data, own, seed, place)  # of a finished one what it left, where the options are the same
        tested.append(testing.test(model, best, data, own, place, place))
    about = {"count": options.folds, "of": of, "shuffled": options.shuffle_labels}
    return None if ranks.rank() else testing.pool(tested, truth, dataset, options, folder, about)


@ranks.first
def write_lists(place: Path, rows: dict[str, list]) -> None:
    """Write train.csv and test.csv of a fold into its folder. Raises BadInput as write_list does."""
    make_folder(place)
    for kind, listed in rows.items():
        write_list(place / f"{kind}.csv", listed)


def write_list(path: Path, rows: list[list[str]]) -> None:
    """Write a fold's list. Raises BadInput where the fold has results and was another one."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([["path", "label", "source"][: len(rows[0])], *rows])
    if runs.has_results(path.parent) and path.exists() and read_text(path, "--output") != text.getvalue():
        raise BadInput(f"{path}: the training list, or how it is dealt, has changed since; give the same, or another --output")
    with replacing(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")
