"""Ground truth as JSON from the official annotations.

    python -m tools.make_gt --dataset ucf --annotations Temporal_Anomaly_Annotation.txt --frames FRAMES.json --output list/ucf_gt.json
    python -m tools.make_gt --dataset xd --annotations annotations_multiclasses.txt --frames FEATURE_FOLDER \
        --test-list list/xd_ReFLIP_rgbtest.csv --output list/xd_gt.json

The official files hold no frame counts; --frames is a JSON {NAME: frames} or {NAME: {"frames": frames}}, or a folder of features (16 frames
a row). XD-Violence's normal test videos are not in its annotations either: they come from --test-list, or are all that --frames names.
"""

import argparse
import sys
from pathlib import Path, PurePosixPath

from dataset import index_features
from tools.make_list import official_label, read_videos
from utils.datasets import benchmarks, load_dataset
from utils.errors import BadInput, Parser, exit_code, printable, some
from utils.evaluation.annotations import Segments, read_annotations
from utils.evaluation.ground_truth import GroundTruth, write_ground_truth
from utils.labels import SNIPPET, Dataset, video_name
from utils.packs import open_array
from utils.reading import FRAMES, ROWS, read_json, shown

SLACK = 16  # frames by which official segments end after a video whose count is a multiple of 16 (list/README.md)


def read_frames(path: Path | str) -> dict[str, int]:
    """Frame counts by name: from JSON, or 16 × rows of the features below a folder (only headers are read).

    Raises BadInput for a count that is no integer above 0 and where the files of a video differ in their rows.
    """
    if not Path(path).is_dir():
        entries = read_json(path, "--frames")
        if not isinstance(entries, dict):
            raise BadInput(f"{path}: no object {{NAME: frames}}; check --frames")
        frames = {}
        for key, entry in entries.items():
            name, count = video_name(key), entry.get("frames") if isinstance(entry, dict) else entry
            if type(count) is not int or not 0 < count <= FRAMES:
                raise BadInput(f"{path}: {name}: {shown(count)} frames; expected an integer above 0, at most {FRAMES:,}; check --frames")
            if name in frames:
                raise BadInput(f"{path}: {name} stands there twice, as {key} too; keep one of the two; check --frames")
            frames[name] = count
        return frames
    frames = {}
    for name, homes in index_features(Path(path).absolute()).items():
        rows = {file: count_rows(file) for files in homes.values() for file in files.values()}
        first, *others = rows
        for file in others:
            if rows[file] != rows[first]:
                raise BadInput(f"{file}: {rows[file]} rows, {first} has {rows[first]}; expected the same; extract {name} anew")
        frames[name] = SNIPPET * rows[first]
    if not frames:
        raise BadInput(f"{path}: no .npy below it; name a folder of features or a JSON of frame counts with --frames")
    return frames


def make_ground_truth(
    annotated: dict[str, Segments], frames: dict[str, int], names: dict[str, str | None], dataset: Dataset
) -> tuple[dict[str, GroundTruth], dict[str, int]]:
    """Put the two together for `names` (name -> its listed label, or None): (name -> GroundTruth, name -> frames cut off its segments).

    A segment that ends up to 16 frames after the last frame is clipped. Raises BadInput naming the video where one reaches further,
    where the frame count or the annotation of a video is missing, and where a segment is empty.
    """
    if missing := [name for name in names if name not in frames]:
        raise BadInput(
            f"--frames: {len(missing)} of {len(names)} videos are not in it ({some(missing)}); add them, or list the others: --test-list"
        )
    truth, clipped = {}, {}
    for name in names:
        segments = []
        label = names[name] or official_label(PurePosixPath(name), dataset)
        if name not in annotated and label != dataset.labels[0]:
            listed = "by its name; list the test videos with --test-list" if names[name] is None else "by --test-list; add its intervals"
            raise BadInput(f"--annotations: {name} is not in it, and no normal video {listed}")
        for start, end, label in annotated.get(name, []):
            if not 0 <= start < min(end, frames[name]) or end > frames[name] + SLACK:
                raise BadInput(
                    f"{name}: segment {start}–{end} in a video of {frames[name]} frames; expected 0 <= start < end <= frames "
                    f"(up to {SLACK} more are clipped); check its count in --frames"
                )
            if end > frames[name]:
                clipped[name] = max(end - frames[name], clipped.get(name, 0))
            segments.append((start, min(end, frames[name]), label))
        truth[name] = GroundTruth(frames[name], dataset.fps, tuple(segments))
    return truth, clipped


def count_rows(file: Path) -> int:
    shape = open_array(file, "--frames", "extract it anew").shape
    if not shape or not 0 < shape[0] <= ROWS:
        raise BadInput(f"{file}: shape {shape}; expected rows of features; extract it anew")
    return shape[0]


def main(argv=None) -> None:
    parser = Parser("python -m tools.make_gt", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--dataset", "--data", metavar="DATA", required=True, help=f"whose classes: {', '.join(benchmarks())}, or your own dataset.toml"
    )
    parser.add_argument("--annotations", required=True, metavar="FILE", help="the official text file")
    parser.add_argument("--frames", required=True, metavar="FILE_OR_FOLDER", help="frame counts as JSON, or a folder of features")
    parser.add_argument("--test-list", metavar="CSV", help="the videos to keep, in its order (default: all of them)")
    parser.add_argument("--output", required=True, metavar="JSON", help="the ground truth to write")
    parser.add_argument("--overwrite", action="store_true", help="replace what OUTPUT holds")
    options = parser.parse_args(argv)
    dataset = load_dataset(options.dataset, "--dataset")
    annotated, frames = read_annotations(options.annotations, dataset), read_frames(options.frames)
    if options.test_list:
        names = {name: label for name, (_, label) in read_videos(options.test_list, dataset, "--test-list").items()}
    else:
        names = dict.fromkeys(annotated if dataset.label_in == "folder" else annotated | frames)
    truth, clipped = make_ground_truth(annotated, frames, names, dataset)
    write_ground_truth(options.output, truth, options.overwrite)
    segments = sum(len(video.segments) for video in truth.values())
    normal = sum(not video.segments for video in truth.values())
    frames = sum(video.frames for video in truth.values())
    print(f"{options.output}: {len(truth)} videos of {dataset.title}, {normal} normal, {frames} frames, {segments} segments")
    if clipped:
        most = max(clipped.values())
        print(
            f"clipped: segments of {len(clipped)} videos end after the last frame, by up to {most} frames: {printable(', '.join(clipped))}"
        )


if __name__ == "__main__":
    sys.exit(exit_code(main))
