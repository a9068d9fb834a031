"""Frame-level ground truth as JSON, one video per line. tools.make_gt writes it from the official annotations.

    {"NAME": {"frames": F, "fps": 30, "segments": [[start, end, "Class"], …]}, …}

NAME without crop suffix or extension; frames 0-based, half-open; Class an official label of the dataset. A normal video has no segments.
Segments may overlap: XD-Violence annotates several classes at once. Of an abnormal video of which nobody has said when it shows something,
segments are null, and "labels" are its classes; "source", the camera or scene it is of, may stand beside them. A run that was tested on
such videos leaves what it knew of them as TRUTH beside its scores.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from utils.errors import BadInput
from utils.files import replacing
from utils.labels import Dataset, video_name
from utils.reading import FRAMES, Text, checked, read_json, real, whole

Frame = whole(0, FRAMES)


TRUTH = "truth.json"


@dataclass(frozen=True)
class GroundTruth:
    """A video: number of frames, frames per second, anomalous segments (start, end, label) in frames, 0-based, half-open.

    segments None: it shows `labels`, nobody says when. source: the camera or scene it is of, where that is known.
    """

    frames: whole(1, FRAMES)
    fps: real(0, 10_000, gt=0)
    segments: tuple[tuple[Frame, Frame, Text], ...] | None
    labels: tuple[Text, ...] = ()
    source: Text | None = None

    @property
    def shows(self) -> set[str]:
        """The labels of what it shows; none of a normal video."""
        return set(self.labels) if self.segments is None else {label for *_, label in self.segments}


def load_ground_truth(path: Path | str, dataset: Dataset, option: str = "--gt-path") -> dict[str, GroundTruth]:
    """Read and check a ground-truth file: name -> GroundTruth, in the file's order.

    Raises BadInput naming file and video unless frames > 0, fps > 0, 0 <= start < end <= frames, and each class is an anomaly class of
    `dataset`.
    """
    content = read_json(path, option)
    if not isinstance(content, dict) or not content:
        raise BadInput(
            f'{path}: no videos; expected {{"NAME": {{"frames", "fps", "segments"}}, …}} as tools.make_gt writes it; check {option}'
        )
    truth: dict[str, GroundTruth] = {}
    for key, entry in content.items():
        if (name := video_name(key)) in truth:
            raise BadInput(f"{path}: {name} stands there twice, as {key} too; keep one of the two, or name another file with {option}")
        truth[name] = _checked(name, entry, path, dataset, option)
    return truth


def write_ground_truth(path: Path | str, truth: dict[str, GroundTruth], overwrite: bool = True) -> None:
    """Write `truth` under `path`, whole or not at all, one video per line so that a diff can be read; see utils.files.replacing."""
    lines = []
    for name, video in truth.items():
        fps = int(video.fps) if video.fps == int(video.fps) else video.fps
        entry = {"frames": video.frames, "fps": fps, "segments": video.segments, "labels": video.labels, "source": video.source}
        entry = {key: value for key, value in entry.items() if value or key not in ("labels", "source")}
        lines.append(f"{json.dumps(name, ensure_ascii=False)}: {json.dumps(entry, ensure_ascii=False)}")
    with replacing(path, overwrite) as temporary:
        temporary.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def _checked(name: str, entry, path: Path | str, dataset: Dataset, option: str) -> GroundTruth:
    def wrong(found: str, expected: str) -> BadInput:
        return BadInput(f"{path}: {name}: {found}; expected {expected}; correct the file or name another with {option}")

    video = checked(GroundTruth, entry, f"{path}: {name}", f"correct the file or name another with {option}")
    if (video.segments is None) != bool(video.labels):
        raise wrong(f"segments {video.segments!r} and labels {video.labels!r}", "segments, or null and the labels of what it shows")
    for label in video.labels:
        if label not in dataset.labels[1:]:
            raise wrong(f"label {label!r}", f"an anomaly class of {dataset.title}: {', '.join(dataset.labels[1:])}")
    for start, end, label in video.segments or ():
        segment = [start, end, label]
        if not start < end <= video.frames:
            raise wrong(f"segment {segment!r}", f"0 <= start < end <= {video.frames} frames")
        if label not in dataset.labels[1:]:
            raise wrong(f"class {label!r} in segment {segment!r}", f"an anomaly class of {dataset.title}: {', '.join(dataset.labels[1:])}")
    return video
