"""The videos that somebody has, and what is known of them: a folder per class, a CSV, or lists and annotations as UCF-Crime and XD-Violence
have them. tools.new_dataset makes a data set of it.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from utils.errors import BadInput
from utils.evaluation.annotations import Interval, event_of, read_annotations, read_interval, segments_of
from utils.evaluation.ground_truth import GroundTruth, load_ground_truth
from utils.files import files_below, irregular
from utils.labels import Dataset, check_video_name, class_indices, is_video, video_name
from utils.packs import arrays_below
from utils.reading import read_csv, read_text
from utils.splits import split

SIDES = ("train", "test")
NORMAL_VIDEOS = "Normal_Videos"  # in the names of UCF-Crime's folders: Training_Normal_Videos_Anomaly


@dataclass
class Listed:
    """A video that a folder or list names. path: below the folder of the videos, as lists have it; place: where it is named; side: `train`
    or `test`, where that is fixed; file: None where the video itself is not there; frames, fps: None where they are not known.
    """

    path: PurePosixPath
    label: str
    place: str
    source: str | None = None
    side: str | None = None
    intervals: list[Interval] = field(default_factory=list)
    file: Path | None = None
    frames: int | None = None
    fps: float | None = None


def read_folder(root: Path, output: Path) -> dict[str, Listed]:
    """The videos of a folder per class (else the features), by name; below `train` and `test`, where there is nothing else. What lies below
    `output` is left out. Raises BadInput where there are none, one lies in no folder of a class, and where two have one name.
    """
    if not root.is_dir():
        raise BadInput(f"{root}: {irregular(root) or 'no folder'}; name the folder of the videos")
    there = list(files_below(root, but=output))
    found = [path for path in there if is_video(path.name)] or list(arrays_below(root))
    if not found:
        raise BadInput(f"{root}: no video below it; expected {root}/CLASS/VIDEO.mp4; name the folder that holds the classes, or a --list")
    sided = {path.relative_to(root).parts[0] for path in found} == {"train", "test"}
    videos: dict[str, Listed] = {}
    for path in found:
        below = PurePosixPath(path.relative_to(root))
        side, *folders = below.parts[:-1] if sided else (None, *below.parts[:-1])
        if not folders:
            raise BadInput(f"{path}: lies in no class's folder; expected {root}/CLASS/{path.name}; move it, or name a --list")
        file = path if is_video(path.name) else None
        _add(videos, Listed(below, _label_of(folders[0]), str(path), side=side, file=file))
    return videos


def read_list(path: Path, unit: str | None, side: str | None = None) -> dict[str, Listed]:
    """The videos of a CSV (`path,label`, and maybe `source`, `split`, `start,end,class`) or a text file of paths, by name.

    unit: of times without colons; side: of all of them. A video may have several rows, which agree but for their intervals. Raises BadInput
    naming file and line for what is not so.
    """
    videos: dict[str, Listed] = {}
    for entry in _of_csv(path, unit) if path.suffix.lower() == ".csv" else _of_text(path):
        entry.side = side or entry.side
        _add(videos, entry)
    if not videos:
        raise BadInput(f"{path}: no videos in it; expected a row for each; check --list")
    return videos


def find_files(videos: dict[str, Listed], root: Path, *, by_name: bool) -> None:
    """Give the videos their files below `root`: at the listed path or, `by_name`, wherever they lie."""
    for entry in videos.values():
        file = Path(root, entry.path)
        entry.file = file if is_video(file.name) and not irregular(file) else None
    named: dict[str, Path] = {}
    if by_name and any(entry.file is None for entry in videos.values()):
        for file in filter(lambda file: is_video(file.name), files_below(root)):
            name = video_name(file.name)
            if named.setdefault(name, file) != file and name in videos and videos[name].file is None:
                raise BadInput(f"{file} and {named[name]} have one name; names of videos must differ; rename one")
    for name, entry in videos.items():
        entry.file = entry.file or named.get(name)
        if entry.file and entry.file.is_relative_to(root):
            entry.path = PurePosixPath(entry.file.relative_to(root))


def add_intervals(path: Path, videos: dict[str, Listed], unit: str | None, dataset: Dataset) -> int:
    """Give the videos the intervals of a CSV (`path,start,end[,class]`), a ground-truth JSON, whose lengths are taken, too, or official
    annotations; how many videos of the last two are not listed.

    Raises BadInput for what cannot be read, a row of the CSV whose video is not listed, and where none is.
    """
    suffix = path.suffix.lower()
    if suffix == ".csv":
        for row, place in read_table(path, "--intervals", ("path", "start", "end"), ("class",)):
            if (entry := videos.get(video_name(row["path"]))) is None:
                raise BadInput(f"{place}: {row['path']!r} is none of the {len(videos)} videos; correct the row, or add the video")
            entry.intervals.append(read_interval(row["start"], row["end"], row.get("class", ""), unit, place))
        return 0
    found = load_ground_truth(path, dataset, "--intervals") if suffix == ".json" else read_annotations(path, dataset, "--intervals")
    for name in (name for name in found if name in videos):
        entry, segments = videos[name], found[name]
        if suffix == ".json":
            entry.frames, entry.fps, segments = found[name].frames, found[name].fps, found[name].segments or ()
        entry.intervals += [Interval(start, end, "frames", label, f"{path}: {name}") for start, end, label in segments]
    others = [name for name in found if name not in videos]
    if len(others) == len(found):
        raise BadInput(f"{path}: none of its {len(found)} videos is listed (first: {others[0]}); check --intervals and --list")
    return len(others)


def read_table(path: Path, option: str, needed: tuple[str, ...], more: tuple[str, ...]) -> Iterator[tuple[dict[str, str], str]]:
    """The rows of a CSV as column -> cell, each with its place; of further columns those in `more`. Raises BadInput where a column is
    missing or there twice, and a row has more or fewer cells.
    """
    rows = read_csv(path, option)
    _, header = next(rows, (0, []))
    names = [name.lower() for name in header]
    known = [name for name in names if name in needed + more]
    if len(set(known)) < len(known) or not set(needed) <= set(names):
        expected = f"{','.join(needed)}, and maybe {', '.join(more)}, each once"
        raise BadInput(f"{path}: columns {','.join(header)!r}; expected {expected}; correct its first line, or check {option}")
    for line, row in rows:
        if len(row) != len(names):
            raise BadInput(f"{path}: line {line} has {len(row)} cells; expected {len(names)}: {','.join(header)}; correct it")
        yield {name: cell for name, cell in zip(names, row, strict=True) if name in known}, f"{path}: line {line}"


def _of_csv(path: Path, unit: str | None) -> Iterator[Listed]:
    for row, place in read_table(path, "--list", ("path", "label"), ("source", "split", "start", "end", "class")):
        if not row["label"] or not video_name(row["path"]):
            raise BadInput(f"{place}: path {row['path']!r}, label {row['label']!r}; expected both; correct the row")
        if row.get("source") == "":
            raise BadInput(f"{place}: no source; expected one in every row, of its own where nothing shares it, or no such column")
        side = row["split"].lower() if "split" in row else None
        if side not in (None, "train", "test"):
            raise BadInput(f"{place}: split {row['split']!r}; expected train or test in every row, or no such column")
        entry = Listed(_below(row["path"]), row["label"], place, row.get("source"), side)
        if row.get("start") or row.get("end"):
            entry.intervals = [read_interval(row.get("start", ""), row.get("end", ""), row.get("class", ""), unit, place)]
        yield entry


def _of_text(path: Path) -> Iterator[Listed]:
    for number, line in enumerate(read_text(path, "--list").splitlines(), 1):
        if not line.strip():
            continue
        below, place = _below(line.strip()), f"{path}: line {number}"
        before, told, label = video_name(below.name).rpartition("_label_")
        label = label if before and told else _label_of(below.parent.name)
        if not label:
            expected = "CLASS/VIDEO.mp4, or …_label_CLASS.mp4"
            raise BadInput(f"{place}: {line.strip()!r} tells no label; expected {expected}; or name a CSV (path,label) with --list")
        yield Listed(below, label, place)


def _below(text: str) -> PurePosixPath:
    return PurePosixPath(text.replace("\\", "/"))


def _label_of(folder: str) -> str:
    return "Normal" if NORMAL_VIDEOS in folder else folder


def _add(videos: dict[str, Listed], entry: Listed) -> None:
    """Files of crops are one video, and so are rows of a CSV that differ in intervals alone."""
    name = video_name(entry.path.name)
    check_video_name(entry.place, name)
    if not is_video(entry.path.name):
        entry.path = entry.path.with_name(f"{name}.npy")
    if (first := videos.setdefault(name, entry)) is entry:
        return
    for what in ("path", "label", "source", "side"):
        found, other = getattr(entry, what), getattr(first, what)
        if found != other:
            raise BadInput(
                f"{entry.place}: {name} has the {what} {str(found)!r}, and {str(other)!r} in {first.place}; expected names of videos that "
                f"differ, and rows of one that agree; rename or correct one"
            )
    first.intervals += entry.intervals


# What is made of it


def find_classes(labels: Counter, normal: str | None, words: dict[str, str], place: Path) -> dict[str, str]:
    """Label -> words for the prompt, the normal class first, from the number of videos of each label; place: where they come from.

    Raises BadInput where none is known to be the normal one, there is no other, two differ only in case or have the same words, and where
    `words` has a label that is not there.
    """
    seen: dict[str, str] = {}
    for label in labels:
        if (other := seen.setdefault(label.casefold(), label)) != label:
            both = f"{other!r} ({labels[other]} videos) and {label!r} ({labels[label]})"
            raise BadInput(f"{place}: labels {both} differ only in case; expected one of them; correct the list, or rename the folder")
    known = ", ".join(sorted(labels))
    normal = normal or seen.get("normal")
    if normal not in labels:
        raise BadInput(f"--normal{f' {normal}' if normal else ''}: the labels are {known}; expected that of normal videos; --normal LABEL")
    if len(labels) < 2:
        raise BadInput(f"{place}: all videos are {normal}; expected another class beside it; add videos in which something happens")
    if unknown := [label for label in words if label not in labels]:
        raise BadInput(f"--words {unknown[0]}=…: no such label; expected one of {known}")
    classes = {label: words.get(label) or words_of(label) for label in (normal, *sorted(labels.keys() - {normal}))}
    if normal not in words and "normal" not in classes[normal]:
        classes[normal] = "normal"
    for label, said in classes.items():
        if (other := next(one for one in classes if classes[one] == said)) != label:
            raise BadInput(f"{place}: {other} and {label} are both {said!r} in prompts; say how they differ: --words {label}='…'")
    return classes


def words_of(label: str) -> str:
    """`RoadAccidents` -> road accidents, `People_falling` -> people falling."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[_\s]+", " ", label).lower().strip() or label


def parts_of(label: str, separator: str | None, placeholder: str | None) -> list[str]:
    """The classes that a label names: `B1-B2-0` is [B1, B2] with the separator - and the placeholder 0."""
    return [part for part in (label.split(separator) if separator else [label]) if part != placeholder]


def classes_of(entry: Listed, dataset: Dataset) -> list[str]:
    """The labels of a video's classes."""
    return [dataset.labels[number] for number in class_indices(entry.label, dataset)]


def check_events(videos: dict[str, Listed], dataset: Dataset) -> None:
    """Raises BadInput where an interval's class is none of its video's data set: before lengths are read, which takes long."""
    for name, entry in videos.items():
        for interval in entry.intervals:
            event_of(name, interval, classes_of(entry, dataset), dataset)


def deal(videos: dict[str, Listed], share: float, seed: int, dataset: Dataset) -> None:
    """Put each video on a side, unless all of them stand there. Raises BadInput where some do, and where not all have a source."""
    for what, value in (("side", "split"), ("source", "source")):
        known = [name for name, entry in videos.items() if getattr(entry, what) is not None]
        if known and len(known) < len(videos):
            other = next(name for name in videos if name not in known)
            found = f"{other} has no {value}, {known[0]} has one"
            raise BadInput(f"{videos[other].place}: {found}; expected one for every video, or for none; correct the list")
    entries = list(videos.values())
    if entries[0].side is not None:
        return
    labels = [classes_of(entry, dataset)[0] for entry in entries]
    sources = [name if entry.source is None else entry.source for name, entry in videos.items()]
    for entry, held in zip(entries, split(labels, sources, share, seed), strict=True):
        entry.side = SIDES[int(held)]


def make_ground_truth(videos: dict[str, Listed], dataset: Dataset) -> tuple[dict[str, GroundTruth], dict[str, int]]:
    """(Name -> GroundTruth of every normal video and every one with intervals, name -> frames cut off its intervals), if there are any.

    Raises BadInput where the length of one is not known, and as segments_of does.
    """
    truth, cut = {}, {}
    if not any(entry.intervals for entry in videos.values()):
        return truth, cut
    for name, entry in videos.items():
        classes = classes_of(entry, dataset)
        if not entry.intervals and (classes != [dataset.labels[0]] or (entry.frames is None and entry.side == "train")):
            continue
        if entry.frames is None:
            raise BadInput(f"{name}: its length is not known; expected the video itself, or its features; name VIDEOS, or --feature-root")
        fps = entry.fps or dataset.fps
        segments, cut[name] = segments_of(name, entry.intervals, classes, entry.frames, fps, dataset)
        truth[name] = GroundTruth(entry.frames, fps, segments)
    return truth, {name: frames for name, frames in cut.items() if frames}
