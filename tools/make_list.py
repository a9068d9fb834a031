"""Lists for training and testing, one row per video, from the official files or from a feature folder.

    python -m tools.make_list --dataset ucf --annotations Anomaly_Train.txt --output list/ucf_ReFLIP_rgb.csv
    python -m tools.make_list --dataset xd --annotations xd_train_videos.txt --feature-root DIR --output mine.csv

The official files: UCF-Crime's Anomaly_Train.txt and Anomaly_Test.txt (`Abuse/Abuse001_x264.mp4`), XD-Violence's names one a line.
A published list (CSV `path,label`, ten rows a video or one) and, for XD-Violence, a ground-truth JSON serve as well. Rows keep the file's
order. With --feature-root only the videos with features below it are listed, under their path there; without --annotations all of them. A
CSV's sources are kept, and the crop of a video of which it names one alone.
"""

import argparse
import csv
import sys
from pathlib import Path, PurePosixPath

from dataset import index_features, read_entries, read_rows, split_crop
from utils.datasets import benchmarks, load_dataset
from utils.errors import BadInput, Parser, exit_code, some
from utils.files import replacing
from utils.labels import Dataset, class_indices, video_name
from utils.reading import read_json, read_text


def official_label(path: PurePosixPath, dataset: Dataset) -> str | None:
    """The label that a video's path tells: its folder (`Training_Normal_Videos_Anomaly`: Normal) or, behind `_label_`, its name
    (Dataset.label_in). None where it tells none.
    """
    if dataset.label_in == "folder":
        normal = dataset.labels[0]
        folder = normal if f"{normal}_Videos" in path.parent.name else path.parent.name
        return folder if folder in dataset.labels else None
    return path.name.removesuffix(".npy").rpartition("_label_")[2] if "_label_" in path.name else None


def read_videos(path: Path | str, dataset: Dataset, option: str = "--annotations") -> dict[str, tuple[PurePosixPath, str]]:
    """Read an official file, a published list or a ground-truth JSON: name -> (official folder / NAME.npy, label), in the file's order.

    Raises BadInput naming file and video where it cannot be read, names no video, or tells no or an unknown or two different labels.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".csv":
        entries = read_rows(path, option)
    elif suffix == ".json":
        content = read_json(path, option)
        entries = [(name, None) for name in content] if isinstance(content, dict) else []
    else:
        entries = [(line, None) for line in read_lines(path, option)]
    videos: dict[str, tuple[PurePosixPath, str]] = {}
    for entry, label in entries:
        *folders, file = entry.replace("\\", "/").split("/")
        name = video_name(file)
        if not name:
            raise BadInput(f"{path}: {entry!r} names no video; check {option}")
        place = PurePosixPath(*folders[-1:], f"{name}.npy")
        label = label or official_label(place, dataset)
        if label is None:
            where = "its folder (Abuse/Abuse001_x264.mp4)" if dataset.label_in == "folder" else "its name (…_label_B2-0-0)"
            raise BadInput(f"{path}: {entry!r} has no label; {dataset.title} expects it in {where}; check {option} and --dataset")
        try:
            class_indices(label, dataset)
        except BadInput as error:
            raise BadInput(f"{path}: {entry!r}: {error}; check {option} and --dataset") from None
        if dataset.label_in != "folder" or official_label(place, dataset) is None:
            place = PurePosixPath(place.name)  # somebody's own folder, not one of the data set
        if videos.setdefault(name, (place, label)) != (place, label):
            raise BadInput(f"{path}: {name} stands there as {videos[name][1]} and as {label}, or in two folders; keep one of the two")
    if not videos:
        raise BadInput(f"{path}: no videos in it; check {option}")
    return videos


def read_folder(root: Path | str, dataset: Dataset) -> dict[str, tuple[PurePosixPath, str]]:
    """Every video with features below `root`, labels as `official_label` finds them, sorted by path. As read_videos."""
    videos = {}
    for place in sorted(PurePosixPath(*home, f"{name}.npy") for name, homes in _features(root).items() for home in homes):
        label = official_label(place, dataset)
        if label is None:
            where = "a folder named after the class" if dataset.label_in == "folder" else "_label_… in the name"
            raise BadInput(f"{Path(root, place)}: no label; {dataset.title} expects {where}; give the official list with --annotations")
        class_indices(label, dataset)
        name = place.name.removesuffix(".npy")
        if name in videos:
            raise BadInput(f"{root}: {name} lies in {videos[name][0].parent} and in {place.parent}; keep one of the two")
        videos[name] = (place, label)
    return videos


def read_more(path: Path | str) -> tuple[dict[str, int], dict[str, str]]:
    """What a list in CSV says besides labels: the crop of each video of which it names one alone, and the sources, if it has them."""
    crops, sources = {}, {}
    for row, _, source in read_entries(path, "--annotations"):
        _, crop = split_crop(f"{row.replace(chr(92), '/').rpartition('/')[2].removesuffix('.npy')}.npy")
        crops.setdefault(name := video_name(row), set()).add(crop)
        if source is not None:
            sources[name] = source
    return {name: crop for name, named in crops.items() if len(named) == 1 and (crop := next(iter(named))) is not None}, sources


def with_features(
    videos: dict[str, tuple[PurePosixPath, str]], root: Path | str, crops: dict[str, int] | None = None
) -> dict[str, tuple[PurePosixPath, str]]:
    """Keep the videos that have features anywhere below `root`, with or without crop suffix; their path becomes the one below the root, of
    those in `crops` that of this crop, where it has a file.

    Raises BadInput where a video lies in two folders and neither is the official one, and where nothing is left.
    """
    index = _features(root)
    found = {}
    for name, (place, label) in videos.items():
        homes = [PurePosixPath(*home) for home in index.get(name, ())]
        homes = [home for home in homes if home == place.parent] or homes
        if len(homes) > 1:
            raise BadInput(f"{root}: {name} lies in {homes[0]} and in {homes[1]}; keep one, or name the right folder with --feature-root")
        if homes:
            crop = (crops or {}).get(name)
            suffix = "" if crop not in index[name][homes[0].parts] or crop is None else f"__{crop}"
            found[name] = (homes[0] / f"{name}{suffix}.npy", label)
    if not found:
        raise BadInput(f"{root}: features of none of the {len(videos)} videos (first: {next(iter(videos))}); check --feature-root")
    return found


def write_list(
    path: Path | str, videos: dict[str, tuple[PurePosixPath, str]], overwrite: bool = False, sources: dict[str, str] | None = None
) -> None:
    """Write the CSV `path,label`, and `source` where there are some, whole or not at all. Raises BadInput where `path` holds something
    else, unless `overwrite`.
    """
    rows = [("path", "label", "source"), *((*video, sources[name]) for name, video in videos.items())] if sources else None
    with replacing(path, overwrite) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows or [("path", "label"), *videos.values()])


def read_lines(path: Path | str, option: str = "--annotations") -> list[str]:
    """The non-empty lines of a text file, stripped. Raises BadInput where it cannot be read."""
    return [line.strip() for line in read_text(path, option).splitlines() if line.strip()]


def _features(root: Path | str) -> dict[str, dict]:
    if not Path(root).is_dir():
        raise BadInput(f"{root}: no such folder; name the folder of the feature files with --feature-root")
    return index_features(Path(root).absolute())


def main(argv=None) -> None:
    parser = Parser("python -m tools.make_list", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--dataset", "--data", metavar="DATA", required=True, help=f"whose classes: {', '.join(benchmarks())}, or your own dataset.toml"
    )
    parser.add_argument("--annotations", metavar="FILE", help="official list (.txt), published list (.csv) or ground truth (.json)")
    parser.add_argument("--feature-root", metavar="DIR", help="list only the videos that have features below this folder")
    parser.add_argument("--output", required=True, metavar="CSV", help="the list to write")
    parser.add_argument("--overwrite", action="store_true", help="replace what OUTPUT holds")
    options = parser.parse_args(argv)
    dataset = load_dataset(options.dataset, "--dataset")
    if options.annotations:
        wanted = read_videos(options.annotations, dataset)
        crops, sources = read_more(options.annotations) if Path(options.annotations).suffix.lower() == ".csv" else ({}, {})
        videos = with_features(wanted, options.feature_root, crops) if options.feature_root else wanted
    elif options.feature_root:
        wanted, sources = (videos := read_folder(options.feature_root, dataset)), {}
        if not videos:
            raise BadInput(f"{options.feature_root}: no .npy below it; name the folder of the feature files with --feature-root")
    else:
        raise BadInput("nothing to list; name an official list with --annotations, a feature folder with --feature-root, or both")
    write_list(options.output, videos, options.overwrite, sources)
    normal = sum(label == dataset.labels[0] for _, label in videos.values())
    print(f"{options.output}: {len(videos)} videos of {dataset.title}, {len(videos) - normal} abnormal, {normal} normal")
    if missing := [name for name in wanted if name not in videos]:
        print(f"left out, no features below {options.feature_root}: {len(missing)} of {len(wanted)} videos ({some(missing)})")


if __name__ == "__main__":
    sys.exit(exit_code(main))
