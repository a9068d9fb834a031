"""A data set of your own: dataset.toml, train.csv, test.csv and, where there are intervals, gt.json, from what you have.

    # VIDEOS/Normal/a.mp4, VIDEOS/Fighting/b.mp4, …
    python -m tools.new_dataset VIDEOS --output data/mine
    # a CSV: path,label[,source][,split][,start,end,class]
    python -m tools.new_dataset VIDEOS --list clips.csv --output data/mine
    # when it happens, in another one: path,start,end[,class]
    python -m tools.new_dataset VIDEOS --intervals events.csv --unit seconds --output data/mine
    # as UCF-Crime and XD-Violence have it
    python -m tools.new_dataset VIDEOS --list Anomaly_Train.txt Anomaly_Test.txt --intervals Temporal_Anomaly_Annotation.txt --output data/u

A list may name a video in several rows, one per interval. A text file has one path a line, whose folder is the label, or what stands behind
`_label_` in its name. Two lists are those of training and testing, as VIDEOS/train/Normal and VIDEOS/test/Normal are. --intervals takes a
ground-truth JSON, too. Times are seconds or frames (--unit), or clock times (1:02:03.5), from the video's start.

Else --test-share of each class is held out, all videos of a `source` (a camera, a scene) on the same side: 0 for training with --folds, 1
for a test alone. Lengths are those that the videos' headers tell, or, exactly, those of features (--feature-root). The files are written
whole or not at all; videos and features stay where they are.
"""

import argparse
import csv
import json
import os
import re
import shlex
import sys
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from utils.datasets import FILE, parse_dataset
from utils.errors import SEED, BadInput, Parser, bounded, exit_code, printable, some
from utils.evaluation.ground_truth import GroundTruth, write_ground_truth
from utils.files import irregular, make_folder, only_writer, replacing
from utils.labels import Dataset
from utils.listing import (
    SIDES,
    Listed,
    add_intervals,
    check_events,
    classes_of,
    deal,
    find_classes,
    find_files,
    make_ground_truth,
    parts_of,
    read_folder,
    read_list,
)
from utils.video.frames import BrokenVideo
from utils.video.lengths import measure_all

FILES = (FILE, "train.csv", "test.csv", "gt.json")
FEW = 3  # videos of a class: with fewer, one side has at most one


def find_lengths(videos: dict[str, Listed], feature_root: Path | None, workers: int) -> list[str]:
    """Give the videos their lengths, where they are not known, and leave out those whose files are no sound videos: why, a line for each.

    Raises BadInput where some of the videos are there, and others are not.
    """
    counted, rows = {}, {}
    if feature_root:
        from utils.video.folder import feature_lengths  # takes PyTorch along

        counted, rows = feature_lengths(feature_root)
    absent = [name for name, entry in videos.items() if entry.file is None and name not in rows]
    if absent and (feature_root or len(absent) < len(videos)):
        where = "neither a video nor features" if feature_root else "no video"
        count = f"{len(absent)} of the {len(videos)} listed have none"
        raise BadInput(f"{videos[absent[0]].place}: {where} of {absent[0]} ({count}); add them, drop their rows, or check VIDEOS")
    for name, entry in videos.items():
        if entry.frames is None and name in counted:
            entry.frames, entry.fps = counted[name]
    todo = {name: entry.file for name, entry in videos.items() if entry.frames is None and entry.file}
    broken = []
    with tqdm(total=len(todo), desc="lengths", unit="video", disable=not todo) as bar:
        for name, found in zip(todo, measure_all(todo.values(), workers), strict=True):
            bar.update()
            if isinstance(found, BrokenVideo):
                broken.append(str(found))
                del videos[name]
            else:
                videos[name].frames, videos[name].fps = found
    for name, entry in videos.items():
        entry.frames = entry.frames or rows.get(name)
        entry.fps = entry.fps and (round(entry.fps, 3) if entry.fps >= 1 else float(f"{entry.fps:.6g}"))
    if not videos:
        raise BadInput(f"{broken[0]} ({len(broken)} videos, all of them broken)")
    return broken


def find_rate(videos: dict[str, Listed], given: float | None) -> float:
    """Frames per second of most videos; those that do not say get the `given` one. Raises BadInput where that is needed, and not given."""
    told = Counter(entry.fps for entry in videos.values() if entry.fps)
    silent = [name for name, entry in videos.items() if entry.fps is None and (entry.frames or entry.intervals or not told)]
    if silent and given is None and (not told or any(entry.intervals for entry in videos.values())):
        raise BadInput(f"frames per second of {len(silent)} videos are not known (first: {silent[0]}); say them: --fps N")
    for name in silent:
        videos[name].fps = given
    return told.most_common(1)[0][0] if told else given


def check_free(output: Path, overwrite: bool) -> None:
    """Raises BadInput where a data set stands in a folder, unless it shall be replaced, and can be."""
    standing = [name for name in FILES if os.path.lexists(output / name)]
    if standing and not overwrite:
        raise BadInput(f"{output}: holds {', '.join(standing)}; name another --output, or replace them: --overwrite")
    for name in standing:
        if fault := irregular(output / name):
            raise BadInput(f"{output / name}: {fault}; expected a file to replace; move it away, or name another --output")


def write(output: Path, text: str, videos: dict[str, Listed], truth: dict[str, GroundTruth]) -> None:
    """Write the files of the data set, whole or not at all. text: of its own file, which is the last to be there; an earlier one that says
    something else, by hand perhaps, stays as FILE.before.
    """
    make_folder(output)
    before = (output / FILE).read_bytes() if (output / FILE).is_file() else b""
    if before and without_comments(before.decode(errors="replace")) != without_comments(text):
        names = (f"{FILE}.before{number}" for number in ("", *range(2, 10_000)))
        kept = next(output / name for name in names if not os.path.lexists(output / name))  # none that was kept before goes
        with replacing(kept) as temporary:
            temporary.write_bytes(before)
        print(f"note: {output / FILE} said otherwise: it is kept as {kept.name}")
    with ExitStack() as stack:
        stack.enter_context(replacing(output / FILE)).write_text(text, encoding="utf-8")
        for side in sides_of(videos):
            rows = [entry for entry in videos.values() if entry.side == side]
            columns = ["path", "label", *["source"] * (rows[0].source is not None)]
            with stack.enter_context(replacing(output / f"{side}.csv")).open("w", newline="", encoding="utf-8") as file:
                csv.writer(file, lineterminator="\n").writerows([columns, *([getattr(entry, name) for name in columns] for entry in rows)])
        if truth:
            write_ground_truth(stack.enter_context(replacing(output / "gt.json")), truth)
        for name in FILES:  # those that stand there: who is stopped from here on has no data set, rather than a mixed one
            (output / name).unlink(missing_ok=True)


def without_comments(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("#")]


def sides_of(videos: dict[str, Listed]) -> list[str]:
    """The sides on which there are videos."""
    return [side for side in SIDES if any(entry.side == side for entry in videos.values())]


def root_in_file(feature_root: Path | None, output: Path) -> str:
    """Relative where it lies in the data set's folder, so that both can be moved."""
    if feature_root is None:
        return "features"
    place, folder = Path(os.path.abspath(feature_root)), os.path.abspath(output)
    return place.relative_to(folder).as_posix() if place.is_relative_to(folder) else str(place)


def toml_of(dataset: Dataset, command: str, sides: list[str], truth: bool, root: str) -> str:
    """The text of a dataset.toml. command: what was typed; root: of the features."""

    def text(value: str) -> str:
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")

    def key(label: str) -> str:
        return label if re.fullmatch("[A-Za-z0-9_-]+", label) else text(label)

    lines = [f"# {printable(command)}", "# What the keys mean: docs/own-data.md.", f"title = {text(dataset.title)}"]
    lines += [f"name = {text(dataset.key)}"] * bool(dataset.key)
    lines += [f"fps = {dataset.fps:.10g}  # of the ground truth's times", 'headline = "coarse auc"  # or "fine ap"']
    lines += [f"{key} = {text(value)}" for key in ("separator", "placeholder") if (value := getattr(dataset, key))]
    lines += [f'{side}_list = "{side}.csv"' for side in sides]
    lines += ['ground_truth = "gt.json"'] * truth + [f"feature_root = {text(root)}", "", "[classes]  # label = words; the first is normal"]
    return "\n".join([*lines, *(f"{key(label)} = {text(words)}" for label, words in zip(dataset.labels, dataset.names, strict=True)), ""])


# What is said


def table(videos: dict[str, Listed], dataset: Dataset) -> str:
    """Videos and seconds of each class and side; a video of several classes counts for each."""
    sides = sides_of(videos)
    sourced = any(entry.source is not None for entry in videos.values())
    rows = [["", *(word for side in sides for word in (side, "seconds")), *["sources"] * sourced]]
    for label in (*dataset.labels, None):
        of = [entry for entry in videos.values() if label is None or label in classes_of(entry, dataset)]
        row = [label or "all videos"]
        for side in sides:
            lengths = [entry.frames and entry.frames / (entry.fps or dataset.fps) for entry in of if entry.side == side]
            row += [f"{len(lengths):,}", "?" if None in lengths else f"{sum(lengths):,.0f}"]
        rows.append([*row, *[f"{len({entry.source for entry in of}):,}"] * sourced])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    first, *others = widths
    return "\n".join("  ".join([row[0].ljust(first), *map(str.rjust, row[1:], others)]).rstrip() for row in rows)


def doubts(videos: dict[str, Listed], dataset: Dataset) -> list[str]:
    """What looks wrong, a line each."""
    found, entries = [], list(videos.values())
    both, sides = {entry.source for entry in entries}, {entry.side for entry in entries}
    for label in dataset.labels:
        of = [entry for entry in entries if label in classes_of(entry, dataset)]
        sources = {entry.source for entry in of}
        if len(of) < FEW:
            found.append(f"{label} has {len(of)} video{'s' * (len(of) != 1)}: too few to learn it, or to measure it")
        if len(sources) == 1 < min(len(of), len(both)):
            found.append(f"all videos of {label} are of one source, {sources.pop()}: its scene alone may tell them")
        found += [f"{label} has no {side} video" for side in SIDES if side in sides - {entry.side for entry in of}]
    for side in SIDES:
        both = both & {entry.source for entry in entries if entry.side == side}
    if named := sorted(both - {None}):
        found.append(f"sources in both lists: {some(named)} ({len(named)}); figures may tell how well scenes are recognised")
    for name, entry in videos.items():
        if others := {one.label for one in entry.intervals} - {None, *classes_of(entry, dataset)}:
            found.append(f"{name} is {entry.label}, and has intervals of {', '.join(sorted(others))}")
    return found


def parse(argv) -> argparse.Namespace:
    parser = Parser("python -m tools.new_dataset", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("videos", nargs="?", type=Path, metavar="VIDEOS", help="folder of the videos (default: where the list lies)")
    add("--list", nargs="+", type=Path, metavar="FILE", help="the videos and their labels; a second file: those of the test list")
    add("--intervals", type=Path, metavar="FILE", help="when something happens, as .csv, .json or official .txt")
    add("--unit", choices=("seconds", "frames"), help="of times without colons in a CSV")
    add("--feature-root", type=Path, metavar="DIR", help="features that are there, whose lengths are taken (default: OUTPUT/features)")
    add("--normal", metavar="LABEL", help="the label of normal videos (default: 'normal', in any case)")
    add("--words", nargs="+", action="extend", default=[], metavar="LABEL=WORDS", help="in prompts (default: made of the label)")
    add("--separator", metavar="TEXT", help="between the labels of a video that has several")
    add("--placeholder", metavar="TEXT", help="with --separator: a part that is no label, XD-Violence's 0")
    add("--fps", type=bounded(float, 0.01, 1000), metavar="N", help="frames per second where neither videos nor features say")
    add("--test-share", type=bounded(float, 0, 1), default=0.2, metavar="X", help="of each class, held out (default: %(default)s)")
    add("--seed", type=SEED, default=1, help="of the split (default: %(default)s)")
    add("--title", help="in reports (default: the output folder's name)")
    add("--name", help="in names of folders, where the title has no letter from a to z")
    add("--output", required=True, type=Path, metavar="DIR", help="folder of the data set")
    add("--overwrite", action="store_true", help="replace the data set that stands there")
    add("--workers", type=bounded(int, 1, 256), metavar="N", help="videos opened at a time (default: the CPU cores, at most 8)")
    options = parser.parse_args(argv)
    options.command = shlex.join(["python", "-m", "tools.new_dataset", *(sys.argv[1:] if argv is None else argv)])
    if not options.list and not options.videos:
        raise BadInput("no videos; name the folder that holds a folder per class, or a list with --list")
    if options.list and len(options.list) > 2:
        raise BadInput(f"--list: {len(options.list)} files; expected one, or that of training and that of testing")
    for word in options.words:
        if not all(word.partition("=")):
            raise BadInput(f"--words {word}: expected LABEL=WORDS, as Fighting='two people fighting'")
    inputs = [*(options.list or []), *filter(None, [options.intervals])]
    if mine := [path for path in inputs if os.path.realpath(path) in {os.path.realpath(options.output / name) for name in FILES}]:
        raise BadInput(f"{mine[0]}: would be replaced by what is made of it; name another --output")
    return options


def main(argv=None) -> None:
    options = parse(argv)
    with only_writer(options.output):
        make(options)


def make(options) -> None:
    """Read, deal, write, and say what was done."""
    output, root = options.output, options.videos or options.list[0].parent
    check_free(output, options.overwrite)
    videos = read(options, root)
    parts = {"separator": options.separator, "placeholder": options.placeholder}
    labels = Counter(part for entry in videos.values() for part in parts_of(entry.label, **parts))
    words = dict(word.split("=", 1) for word in options.words)
    classes = find_classes(labels, options.normal, words, options.list[0] if options.list else root)
    title = options.title or Path(os.path.abspath(output)).name
    dataset = Dataset(key=options.name or "", title=title, fps=1, labels=tuple(classes), names=tuple(classes.values()), **parts)
    parse_dataset(toml_of(dataset, "", [], False, ""), output / FILE, "see --title, --name, --words, --normal and --separator")
    others = add_intervals(options.intervals, videos, options.unit, dataset) if options.intervals else 0
    check_events(videos, dataset)
    feature_root = options.feature_root or (None if any(entry.file for entry in videos.values()) or options.list else root)
    broken = find_lengths(videos, feature_root, options.workers or min(8, os.cpu_count() or 1))
    dataset = replace(dataset, fps=find_rate(videos, options.fps))
    deal(videos, options.test_share, options.seed, dataset)
    truth, cut = make_ground_truth(videos, dataset)
    write(output, toml_of(dataset, options.command, sides_of(videos), bool(truth), root_in_file(feature_root, output)), videos, truth)

    for line in broken:
        print(f"left out: {line}", file=sys.stderr)
    print(f"{output}: {title}, {len(videos)} videos of {len(classes)} classes")
    print(table(videos, dataset))
    if others:
        print(f"{others} videos of {options.intervals} are not listed, and not used")
    if cut:
        print(f"intervals of {len(cut)} videos end after the last frame, by up to {max(cut.values())} frames, which are cut off")
    if truth:
        print(f"gt.json: {len(truth)} videos, {sum(len(one.segments) for one in truth.values())} intervals")
        without = Counter("abnormal" if entry.frames else "unmeasured" for name, entry in videos.items() if name not in truth)
        if without["abnormal"]:
            print(f"  without {without['abnormal']} abnormal videos of which nobody says when it happens: figures by frame leave them out")
        if without["unmeasured"]:
            print(f"  without {without['unmeasured']} videos whose length is not known")
    else:
        print("no intervals: figures will be by video, not by frame")
    for line in doubts(videos, dataset):
        print(f"looks wrong: {printable(line)}")
    print("next:")
    places = [Path(os.path.abspath(entry.file)).parent for entry in videos.values() if entry.file]
    there = "features" if feature_root else "videos" if places else "nothing"
    if not all(place.is_relative_to(os.path.abspath(root)) for place in places):
        root = os.path.commonpath(places)
    for line in following(options, root, there, sides_of(videos)):
        print(f"  {line}")


def read(options, root: Path) -> dict[str, Listed]:
    """The videos that the options name, by name."""
    if not options.list:
        return read_folder(root, options.output)
    videos: dict[str, Listed] = {}
    for path, side in zip(options.list, SIDES if options.list[1:] else (None,), strict=True):
        found = read_list(path, options.unit, side)
        if both := sorted(videos.keys() & found.keys()):
            raise BadInput(f"{path}: {both[0]} is in {options.list[0]}, too ({len(both)} are); expected each video in one list")
        videos |= found
    find_files(videos, root, by_name=options.videos is not None)
    return videos


def following(options, root: Path, there: str, sides: list[str]) -> list[str]:
    """What to type next, where features, videos or nothing is there."""
    output, features = shlex.quote(str(options.output)), shlex.quote(str(options.output / "features"))
    first = {"features": [], "videos": [f"python -m tools.extract_features {shlex.quote(str(root))} --output {features}"]}
    lines = first.get(there, [f"(features of these videos, by whatever made them, below {features})"])
    if sides == ["test"]:  # tools.check_features is of a training
        return [*lines, f"python custom_test.py --data {output} --checkpoint RUN"]
    lines.append(f"python -m tools.check_features --data {output}")
    return [*lines, f"python custom_train.py --data {output}{'' if 'test' in sides else ' --folds 5'}"]


if __name__ == "__main__":
    sys.exit(exit_code(main))
