"""What lists, features, captions, ground truth and scores share: a video's name, its snippets and crops, and the classes of a data set in
order, class 0 being normal.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from utils.errors import BadInput

VIDEO_SUFFIXES = {
    ".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".f4v", ".avi", ".mkv", ".webm", ".ogv", ".flv", ".wmv", ".asf", ".mxf", ".mpg", ".mpeg",
    ".m2v", ".vob", ".ts", ".mts", ".m2ts", ".m2t", ".264", ".h264", ".265", ".h265", ".hevc", ".mjpeg", ".mjpg", ".dav",
}  # fmt: skip  # in any case
SNIPPET = 16  # frames that a row of features or scores stands for
CROPS = 10  # of a frame, in VadCLIP's published order: centre, four corners, and these five mirrored


@dataclass(frozen=True)
class Dataset:
    """A data set as its file describes it. `labels` are those of lists and ground truth, `names` the words of prompts and reports.

    key: what folders and options.json call it; separator: between the labels of a video that has several, `placeholder` being none of them;
    label_in: where a file's path tells its label (tools.make_list); tables: a paper's ablation tables, row -> figures (tools.ablate);
    presets: system -> name -> what a preset (System.presets) sets otherwise here.
    """

    key: str
    title: str
    fps: float
    labels: tuple[str, ...]
    names: tuple[str, ...]
    headline: tuple[str, str] = ("coarse", "auc")
    separator: str | None = None
    placeholder: str | None = None
    label_in: str = "folder"
    test_crop: int = 0
    path: Path | None = None
    train_list: Path | None = None
    test_list: Path | None = None
    gt_path: Path | None = None
    feature_root: Path | None = None
    papers: dict[str, dict] = field(default_factory=dict)
    tables: dict[str, dict[str, str]] = field(default_factory=dict)
    presets: dict[str, dict[str, dict]] = field(default_factory=dict)
    sample: dict | None = None

    def name(self, label: str) -> str:
        """The name of one label's class: `B1` -> `fighting`."""
        return self.names[self.labels.index(label)]

    def headline_of(self, system: str) -> tuple[str, str]:
        """Part and metric of the figure that is reported for a system: its paper's on this data set, else the data set's."""
        headline = self.papers.get(system, {}).get("headline")
        return tuple(headline.split()) if headline else self.headline


def class_indices(label: str, dataset: Dataset) -> list[int]:
    """Class numbers of a list's label, in its order: `Abuse` -> [1], on XD-Violence `G-B2-B6` -> [6, 2, 5], `B2-0-0` -> [2].

    Raises BadInput for a label that is not in the dataset's class list.
    """
    parts = label.split(dataset.separator) if dataset.separator else [label]
    parts = [part for part in parts if part != dataset.placeholder]
    unknown = [part for part in parts if part not in dataset.labels]
    if unknown or not parts:
        found = unknown[0] if unknown else label
        raise BadInput(f"label {found!r} is no class of {dataset.title}; expected one of {', '.join(dataset.labels)}")
    found = list(dict.fromkeys(dataset.labels.index(part) for part in parts))
    return [number for number in found if number] or found  # what is normal, too, is not


def multi_hot(label: str, dataset: Dataset) -> np.ndarray:
    """(C+1,) float32, 1 at each class of the label. A video with any abnormal class is abnormal."""
    target = np.zeros(len(dataset.labels), np.float32)
    target[class_indices(label, dataset)] = 1
    return target


def video_name(text: str) -> str:
    """What a video is called in lists, ground truth, scores and captions: `test/Abuse028_x264__9.npy`, `Abuse028_x264.MP4` and
    `Abuse028_x264.avi__9.npy` are all `Abuse028_x264`.
    """
    name = _without(text.replace("\\", "/").rpartition("/")[2], {".npy", *VIDEO_SUFFIXES})
    if re.fullmatch(r"__[0-9]", name[-3:]) and len(name) > 3:
        name = name[:-3]
    return _without(name, VIDEO_SUFFIXES)


def check_video_name(place, name: str) -> None:
    """Raise BadInput, naming `place`, where a video called `name` would be called otherwise in a list, or in ground truth."""
    if video_name(name) != name:
        raise BadInput(f"{place}: the video {name} would be read as {video_name(name)}, {name} being a crop of it, or its file; rename it")


def is_video(name: str) -> bool:
    """Whether a file is a video by its name."""
    return _without(name, VIDEO_SUFFIXES) != name


def _without(name: str, suffixes) -> str:
    """The name without its last suffix, where that is one of `suffixes`, in any case, and something is left."""
    stem, _, suffix = name.rpartition(".")
    return stem if stem and f".{suffix.lower()}" in suffixes else name
