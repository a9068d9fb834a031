"""Whether training would start on a folder of features: everything that it would stop at, not only the first, and what to type next.

    python -m tools.check_features --data ucf --feature-root DIR
    python -m tools.check_features --data FOLDER --train-list mine.csv --test-list mine-test.csv --gt-path mine.json
    python -m tools.check_features --data ucf --feature-root DIR -- --val-share 0.3      what stands behind -- training will get, too

Of each list: which of its videos are there, and how many crops they have; of the files: broken ones, widths, types; lengths against the
ground truth; norms of rows, values that are not finite, and what probably made them; what the two lists share. The last line is "ok" and
the exit code 0 where training would start, else one line says why not, and the exit code is 2. --headers leaves the values unread.
"""

import argparse
import contextlib
import importlib
import io
import os
import shlex
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from dataset import Video, check_crops, match_list, same_content, tested_file
from tools.ablate import split_words
from utils import folds, loading
from utils.datasets import benchmarks, command_of, load_dataset, script_of
from utils.errors import COUNT, BadInput, Parser, bounded, exit_code, printable, some
from utils.evaluation.ground_truth import load_ground_truth
from utils.evaluation.scores import length_gap
from utils.labels import SNIPPET, Dataset, video_name
from utils.survey import Header, crop_count, made_by, read_headers, read_norms, uneven, wanted_scale

SHOWN = 3  # lengths that are off, from the smallest on
FOLDS = 5  # that are proposed where there is no test list, or as many as the training list can be dealt to
SLACK = 10  # snippets, up to which --allow-length-mismatch is proposed: more is another video, or another stride
PASSED = ("feature_root", "train_list", "test_list", "gt_path", "test_crop", "visual_width", "allow_length_mismatch")


class Faults(dict):
    """What training would stop at, each in a few words, and whether a command or an option mends it."""

    def add(self, what: str, names, mended: bool = False) -> None:
        """Print and keep a fault, unless `names`, of the videos or files that have it, are none."""
        if names := list(names):
            self[f"{what}: {len(names)}"] = mended
            print(f"  {what}: {len(names)} ({some(names)})")


def counted(values, of: str) -> str:
    """Each value with how many have it: `512 (16000 files), 400 (3 files)`."""
    return ", ".join(f"{value} ({count} {of}{'s' * (count != 1)})" for value, count in Counter(values).most_common()) or "none"


def parse(argv) -> argparse.Namespace:
    parser = Parser("python -m tools.check_features", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", "--dataset", required=True, help=f"{', '.join(benchmarks())}, or your own data set: its folder or dataset.toml")
    add("--feature-root", metavar="DIR", help="folder of the features (default: the data set's)")
    add("--train-list", metavar="CSV", help="(default: the data set's)")
    add("--test-list", metavar="CSV", help="(default: the data set's)")
    add("--gt-path", metavar="JSON", help="ground truth (default: the data set's)")
    add("--test-crop", type=bounded(int, 0, 9), metavar="K", help="crop that is tested (default: the option file's)")
    add("--visual-width", type=COUNT, metavar="D", help="width of a row (default: what most files have)")
    add("--allow-length-mismatch", type=bounded(int, 0, 100_000), metavar="N", help="accept lengths off by up to N snippets (default: 0)")
    add("--allow-overlap", action="store_true", help="accept test videos in the training list")
    add("--headers", action="store_true", help="read what files say of themselves, and not their values")
    return parser.parse_args(argv)


def flags(words: list[str]) -> list[str]:
    return [word.split("=")[0] for word in words]


def near(path) -> str:
    """A path as it is typed here."""
    path = Path(os.path.abspath(path))
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def training_options(typed: argparse.Namespace, dataset: Dataset, passed: list[str]):
    """The options that the data set's training script would have. passed: more words for it."""
    words = command_of(dataset, "train")[1:]
    for name in PASSED:
        if (value := getattr(typed, name)) is not None:
            words += [flag(name), str(value)]
    if dataset.test_list is None and typed.test_list is None and "--folds" not in flags(passed):
        words += ["--folds", str(FOLDS)]
    option_file = importlib.import_module(script_of(dataset.key, "option").removesuffix(".py"))
    options = option_file.parse_args(words + ["--allow-overlap"] * typed.allow_overlap + passed)
    if options.sample:
        raise BadInput("--feature-root: which features? Name the folder of the feature files")
    return options


def list_videos(option: str, path: str, dataset: Dataset, root: str, faults: Faults) -> tuple[list[Video], bool]:
    """The videos of a list that are there, and whether that is all of them."""
    videos, absent, _ = match_list(path, root, dataset, option)
    there = {video.name for video in videos}
    missing = dict.fromkeys(name for row in absent if (name := video_name(row.row)) not in there)
    print(f"{option} {path}: {len(videos) + len(missing)} videos, {len(videos)} of them there")
    faults.add(f"videos of {option} without features", missing, mended=bool(videos))
    faults.add(f"crops that {option} names, not there", [row.row for row in absent if video_name(row.row) in there])
    return videos, not absent


def check_videos(option: str, videos: list[Video], headers: dict[Path, Header], faults: Faults) -> None:
    """The crops and lengths of a list's videos."""
    crops = {video.name: count for video in videos if (count := crop_count(video, headers))}
    usual = max(Counter(crops.values()).items(), key=lambda item: item[1], default=(0, 0))[0]
    others = [f"{name} {count}" for name, count in crops.items() if count != usual]
    rows = [headers[video.files[0]].rows for video in videos if video.files[0] in headers] or [0]
    print(f"{option}: crops {counted(crops.values(), 'video')}" + f", not {usual}: {some(others)}" * bool(others), end="; ")
    print(f"{sum(rows)} rows, {min(rows)} to {max(rows)} a video")
    faults.add(f"videos of {option} whose crops differ in length", [video.name for video in videos if uneven(video, headers)])


def refused(check, *arguments) -> bool:
    try:
        check(*arguments)
    except BadInput:
        return True
    return False


def check_truth(path: str, dataset: Dataset, test: list[Video], rows: dict[str, int], allowed: int, faults: Faults) -> int:
    """By how many snippets test videos differ from the ground truth, at most; 0 where that is too much to be accepted."""
    truth = load_ground_truth(path, dataset)
    off = {name: gap for name, count in rows.items() if name in truth and (gap := length_gap(count, truth[name].frames)[1])}
    print(f"--gt-path {path}: {sum(name in truth and name not in off for name in rows)} of {len(rows)} test videos have its length")
    gaps = sorted(set(off.values()))
    for gap in gaps[:SHOWN]:
        names = [name for name in off if off[name] == gap]
        print(f"  off by {gap} snippet{'s' * (gap > 1)}: {len(names)} ({some(names)})")
    if more := [name for name, gap in sorted(off.items(), key=lambda item: -item[1]) if gap not in gaps[:SHOWN]]:
        print(f"  off by more, up to {gaps[-1]} snippets: {len(more)} ({some(more)})")
    if len(off) > len(rows) / 2:
        ratios = sorted(SNIPPET * count / truth[name].frames for name, count in rows.items() if name in off)
        print(f"  {SNIPPET} × rows / frames is about {ratios[len(ratios) // 2]:.3g}; expected 1, {SNIPPET} frames a row of the same video")
    if not truth.keys() & rows.keys():
        faults.add("test videos that are not in the ground truth", rows)
    elif untimed := [video.name for video in test if video.abnormal and not (video.name in truth and truth[video.name].segments)]:
        print(f"  abnormal ones without intervals, figures are by video: {len(untimed)} ({some(untimed)})")
    if wrong := sum(gap > allowed for gap in off.values()):
        faults[f"test videos of another length than in the ground truth: {wrong}"] = gaps[-1] <= SLACK
    return gaps[-1] if gaps and gaps[-1] <= SLACK else 0


def check_files(files: list[Path], options, typed, faults: Faults) -> tuple[dict[Path, Header], int, float]:
    """Headers by file, the width of most, and the --feature-scale that their norms want."""
    root = Path(os.path.abspath(options.feature_root))
    headers, broken = read_headers(tqdm(files, desc="headers", unit=" files", leave=False))
    widths = Counter(header.width for header in headers.values())
    width = typed.visual_width or widths.most_common(1)[0][0] if widths else options.visual_width
    print(f"files below {near(root)}: {len(files)} of the lists, width {counted((h.width for h in headers.values()), 'file')}, ", end="")
    print(f"type {counted((h.dtype for h in headers.values()), 'file')}")
    for what in dict.fromkeys(broken.values()):
        faults.add(f"broken files, {what}", [file.relative_to(root) for file in broken if broken[file] == what])
    faults.add(f"files of another width than {width}", [file.relative_to(root) for file in headers if headers[file].width != width])
    norms = None
    if not typed.headers:
        good = tqdm([file for file in headers if headers[file].width == width], desc="reading", unit=" files", leave=False)
        norms, broken = read_norms(good, headers)
        faults.add("files with NaN or infinity", [file.relative_to(root) for file in broken])
        zeros = f"; {norms.zeros} rows are zero" * bool(norms.zeros)
        if norms.count:
            print(f"norms of rows: mean {norms.mean:.4g}, std {norms.std:.2g}, {norms.low:.4g} to {norms.high:.4g}{zeros}")
    print(f"made by: {printable(made_by(root, width, norms))}")
    return headers, width, wanted_scale(norms) if norms else 1.0


def check_both(train: list[Video], test: list[Video], typed, faults: Faults) -> None:
    """What the two lists share."""
    names = {video.name for video in test}
    both = [video.name for video in train if video.name in names]
    if typed.allow_overlap:
        print(f"in both lists: {len(both)} videos" + f" ({some(both)})" * bool(both))
    else:
        faults.add("videos in both lists, see --allow-overlap", both)
    if not typed.headers:
        alike = [f"{a} = {b}" for a, b in same_content(train, test) if a != b]
        print(f"the same bytes in both lists under two names: {len(alike)}" + f" ({some(alike, 20)})" * bool(alike))


def main(argv=None) -> None:
    own, passed = split_words(sys.argv[1:] if argv is None else argv)
    typed = parse(own)
    dataset = load_dataset(typed.data)
    options = training_options(typed, dataset, passed)
    if options.folds:  # of the training list: no other is read
        options = replace(options, test_list=None)
    typed.visual_width, typed.allow_overlap = options.typed.get("visual_width"), options.allow_overlap
    root, faults, commands = options.feature_root, Faults(), []
    words = {name: value for name in PASSED if (value := getattr(typed, name)) is not None}  # of the training script
    videos = {}
    for name in ("train_list", "test_list"):
        videos[name] = []
        if getattr(options, name) is None:
            print("no test list: the training list is cross-validated")
            continue
        path = near(getattr(options, name))
        videos[name], whole = list_videos(flag(name), path, dataset, root, faults)
        if videos[name] and not whole:
            words[name] = f"{Path(path).stem}-there.csv"
            place = dataset.key if dataset.key in benchmarks() else near(dataset.path)
            list_words = ["--data", place, "--annotations", path, "--feature-root", near(root), "--output", words[name]]
            commands.append(["python", "-m", "tools.make_list", *list_words])
    train, test = videos.values()
    if options.folds and options.gt_path and not load_ground_truth(options.gt_path, dataset).keys() & {video.name for video in train}:
        options = replace(options, gt_path=None)  # as utils.folds takes it
    headers, width, scale = check_files(list(dict.fromkeys(file for video in train + test for file in video.files)), options, typed, faults)
    for name, found in videos.items():
        if found:
            check_videos(flag(name), found, headers, faults)
    if refused(check_crops, train):
        faults["training videos that lack crops which others have"] = False
    crop = options.test_crop
    faults.add(f"test videos without crop {crop}, see --test-crop", [video.name for video in test if refused(tested_file, video, crop)])
    rows = {video.name: headers[video.files[0]].rows for video in test if video.files[0] in headers}
    gap = 0
    if options.gt_path:
        gap = check_truth(near(options.gt_path), dataset, test, rows, options.allow_length_mismatch, faults)
    elif test:
        print("no ground truth: figures are by video")
    if test:
        check_both(train, test, typed, faults)
    how = (folds.unit(train, options), options.seeds[0], dataset)
    count = next((k for k in range(options.folds or 0, 1, -1) if not refused(folds.deal, train, k, *how)), None)
    if options.folds and train and count is None:
        faults[f"{len(train)} training videos cannot be dealt even to 2 folds with both kinds to train on"] = False
    if not faults and not typed.headers:
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # its notes are above
                lists = {"visual_width": width, "test_list": options.test_list or options.train_list}
                overlap = options.allow_overlap or not options.test_list  # each fold is tested by a model that has not seen it
                loading.load_data(replace(options, **lists, allow_overlap=overlap), options.seeds[0])
        except BadInput as error:
            faults[str(error)] = False
    wanted = {"visual_width": width, "feature_scale": scale, "allow_length_mismatch": gap}
    usual = {"visual_width": options.visual_width, "feature_scale": 1.0, "allow_length_mismatch": 0}
    words |= {name: value for name, value in wanted.items() if value not in (usual[name], getattr(options, name))}
    train_words = [word for name, value in words.items() for word in (flag(name), f"{value:g}" if isinstance(value, float) else value)]
    commands.append(["python", *command_of(dataset, "train"), *train_words, *["--allow-overlap"] * typed.allow_overlap])
    commands[-1] += [*(["--folds", count or FOLDS] if options.folds and "--folds" not in flags(passed) else []), *passed]
    print("to type next:" if all(faults.values()) else "to type next, where the rest is mended:")
    print(*("    " + shlex.join(map(str, command)) for command in commands), sep="\n")
    if faults:
        raise BadInput(f"training would not start: {'; '.join(faults)}")
    print("ok: training would start")


if __name__ == "__main__":
    sys.exit(exit_code(main))
