"""The classes of each dataset, in the order of the papers (systems.md): class 0 is normal."""

from dataclasses import dataclass

import numpy as np

from utils.errors import BadInput


@dataclass(frozen=True)
class Dataset:
    """A benchmark: `labels` are the official files' and lists' labels, `names` the texts that go into prompts and reports."""

    key: str
    title: str
    fps: int
    labels: tuple[str, ...]
    names: tuple[str, ...]


UCF = Dataset(
    "ucf",
    "UCF-Crime",
    30,
    ("Normal", "Abuse", "Arrest", "Arson", "Assault", "Burglary", "Explosion", "Fighting", "RoadAccidents", "Robbery",
     "Shooting", "Shoplifting", "Stealing", "Vandalism"),
    ("normal", "abuse", "arrest", "arson", "assault", "burglary", "explosion", "fighting", "roadAccidents", "robbery",
     "shooting", "shoplifting", "stealing", "vandalism"),
)  # fmt: skip
XD = Dataset(
    "xd",
    "XD-Violence",
    24,
    ("A", "B1", "B2", "B4", "B5", "B6", "G"),
    ("normal", "fighting", "shooting", "riot", "abuse", "car accident", "explosion"),
)
DATASETS = {"ucf": UCF, "xd": XD}


def class_indices(label: str, dataset: Dataset) -> list[int]:
    """Class numbers of a list's label, in its order: `Abuse` -> [1], `G-B2-B6` -> [6, 2, 5], `B2-0-0` -> [2] (`0` is ignored).

    Raises BadInput for a label that is not in the dataset's class list.
    """
    parts = [part for part in label.split("-") if part != "0"]
    unknown = [part for part in parts if part not in dataset.labels]
    if unknown or not parts:
        found = unknown[0] if unknown else label
        raise BadInput(f"label {found!r} is no class of {dataset.title}; expected one of {', '.join(dataset.labels)}")
    return list(dict.fromkeys(dataset.labels.index(part) for part in parts))


def multi_hot(label: str, dataset: Dataset) -> np.ndarray:
    """(C+1,) float32, 1 at each class of the label. A video with any abnormal class is abnormal."""
    target = np.zeros(len(dataset.labels), np.float32)
    target[class_indices(label, dataset)] = 1
    return target
