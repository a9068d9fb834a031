"""Scores of a test set: one anomaly score, and class probabilities, per snippet or per frame of each video; ours and other methods' files.

Scores of a test set are {NAME: Scores}, T rows of 16 frames each, or one row a frame.
"""

import io
import itertools
from array import array
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from typing_extensions import TypedDict

from utils.errors import BadInput
from utils.evaluation.ground_truth import GroundTruth
from utils.files import replacing
from utils.labels import SNIPPET, video_name
from utils.reading import FRAMES, OPEN, checked, parsing, read_arrays, read_csv, read_json

PARTS = ("coarse", "fine", "online")  # the scores that there may be
TOTAL = 20 * FRAMES  # frames of all videos together, at most


class Ranges(TypedDict):
    """VADTree's file: by video, by "start, end" in frames, half-open, a score or [score, …]."""

    __pydantic_config__ = OPEN

    vid_score: dict


class Scores(NamedTuple):
    """What a system gives for one video; a score that it does not have is None."""

    coarse: np.ndarray | None = None  # (T,)
    fine: np.ndarray | None = None  # (T, C+1) probabilities, class 0 = normal
    online: np.ndarray | None = None  # (T,), looks at no later row of features
    covered: np.ndarray | None = None  # (T,) bool: where features are of sentences, which rows have one of their own; None: not known

    def given(self) -> list[str]:
        """The names of the scores that are there."""
        return [part for part in PARTS if getattr(self, part) is not None]

    def anomaly(self, part: str) -> np.ndarray | None:
        """(T,) the score named `part`; of the fine one 1 − p(normal). None where there is none."""
        values = getattr(self, part)
        return 1 - values[:, 0] if part == "fine" and values is not None else values


def to_frames(values: np.ndarray, frames: int) -> np.ndarray:
    """(T, ...) one row per snippet or per frame -> (frames, ...): a snippet's row 16 times, the last cut to the video's length.

    Whoever extracts floor(F/16) snippets leaves up to 15 frames at the end: they take the last row's value, so that every method is
    measured on the same frames.
    """
    rows = values if by_frame(len(values), frames) else np.repeat(values, SNIPPET, axis=0)
    missing = max(frames - len(rows), 0)
    return np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)])[:frames]


def by_frame(rows: int, frames: int) -> bool:
    """Whether so many rows of scores stand for single frames, not snippets."""
    return abs(rows - frames) < abs(SNIPPET * rows - frames)


def length_gap(count: int, frames: int) -> tuple[str, int]:
    """What `count` rows of scores or features of a video of `frames` are, snippets or frames, and by how many snippets they are off."""
    if by_frame(count, frames):
        return "frames", max(0, -(-abs(count - frames) // SNIPPET) - 1)
    return "snippets", max(0, frames // SNIPPET - count, count - -(-frames // SNIPPET))


def check_lengths(rows: dict[str, int], truth: dict[str, GroundTruth], allowed: int = 0) -> None:
    """rows: scores or features of each video. A video of F frames has floor or ceil(F/16) of them, depending on who extracted it, or one
    per frame, up to a snippet more or less.

    Raises BadInput naming the first video that ground truth lacks, or whose count is off by more than `allowed` snippets.
    """
    for name, count in rows.items():
        if name not in truth:
            raise BadInput(f"{name}: not in the ground truth; expected every test video there; add it, or name another file with --gt-path")
        frames = truth[name].frames
        what, off = length_gap(count, frames)
        if off > allowed:
            raise BadInput(
                f"{name}: {count} {what} of features or scores, {frames} frames of ground truth = {frames / SNIPPET:.1f} snippets; "
                f"expected the same video; accept it with --allow-length-mismatch {off}"
            )


def save_scores(path: Path | str, scores: dict, class_names) -> None:
    """NAME/coarse (T,), NAME/fine (T, C+1), NAME/online (T,), NAME/covered (T,) bool, and `classes` as .npz without pickled objects."""
    arrays = {"classes": np.array(list(class_names))}
    for name, parts in scores.items():
        arrays |= {f"{name}/{part}": value for part, value in parts._asdict().items() if value is not None}
    packed = io.BytesIO()  # interrupted on the way into a file, an archive complains that it is closed
    np.savez(packed, **arrays)
    with replacing(path) as temporary:
        temporary.write_bytes(packed.getbuffer())


def load_scores(path: Path | str, names: Path | str | None = None) -> tuple[dict, tuple[str, ...] | None]:
    """(scores, class names or None) from any of

    - `.npz` as `save_scores` writes it, or with one array (T,) per NAME: an anomaly score;
    - `.csv`, `.csv.gz`: the first column the video, a column `score` or `pred` its scores, one row per snippet or frame. Videos are names,
      or numbers that count the videos in the order in which they first appear in the list `names`;
    - `.json`, `.json.gz`: {"vid_score": {NAME: {"start, end": score or [score, …]}}}, ranges of frames, half-open (VADTree). As in its
      authors' refinement_eval.py, scores go through a sigmoid and are rounded to four decimals, which makes ties; as they are 0 or more,
      all but 0 come to lie above 0.5, so that a false-alarm rate says nothing of them.

    Names lose folder, crop suffix and extension. Raises BadInput naming the file and what is wrong with it.
    """
    suffix = PurePosixPath(str(path).removesuffix(".gz")).suffix
    readers = {".npz": _read_npz, ".csv": _read_csv, ".json": _read_json}
    if suffix not in readers:
        raise BadInput(f"{path}: no score file; expected a name that ends in {', '.join(readers)} or one of these with .gz")
    with parsing(f"{path}: no readable scores", "the formats are in python -m tools.evaluate --help"):
        scores, classes = readers[suffix](path, names)
        if not scores:
            raise ValueError("no video")
    first, whole = next(iter(scores.items()))
    for name, parts in scores.items():
        if not _sound(parts, classes):
            raise BadInput(
                f"{path}: {name}: expected finite scores, coarse (T,), fine (T, classes), online (T,), and covered (T,) of true and false "
                f"or none, one T of 1 or more; write them anew"
            )
        if parts.given() != whole.given():
            raise BadInput(
                f"{path}: {name} has {' and '.join(parts.given())}, {first} has {' and '.join(whole.given())}; "
                f"expected the same kinds of score for each video; write them anew"
            )
    return scores, classes


def _sound(parts: Scores, classes) -> bool:
    given = [part for part in parts if part is not None]
    return (
        any(parts.given())
        and (parts.covered is None or parts.covered.dtype == bool)
        and all(part.ndim == (2 if part is parts.fine else 1) for part in given)
        and (parts.fine is None or classes is None or parts.fine.shape[1] == len(classes))
        and all(part.size and part.dtype.kind in "biuf" and np.isfinite(part).all() for part in given)
        and len({len(part) for part in given}) == 1
    )


def _once(pairs) -> dict:
    scores = {}
    for name, value in pairs:
        if name in scores:
            raise ValueError(f"{name} stands there twice: folder, crop suffix and extension are no part of a name")
        scores[name] = value
    return scores


def _read_npz(path, names):
    arrays = read_arrays(path, "--scores")
    classes = arrays.pop("classes", None)
    found: dict[str, list] = {part: [] for part in Scores._fields}
    for key, values in arrays.items():
        name, _, part = key.rpartition("/")
        found.get(part, found["coarse"]).append((video_name(name if part in found else key), values))
    parts = {part: _once(pairs) for part, pairs in found.items()}
    names = dict.fromkeys(itertools.chain(*parts.values()))
    scores = {name: Scores(**{part: values.get(name) for part, values in parts.items()}) for name in names}
    return scores, None if classes is None else tuple(map(str, classes.ravel().tolist()))


def _read_csv(path, names):
    rows = read_csv(path, "--scores")
    _, header = next(rows, (0, []))
    column = next((header.index(name) for name in ("score", "pred") if name in header), None)
    if column is None:
        raise ValueError(f"columns {', '.join(header)}; expected the video, then score or pred")
    videos: dict[str, array] = {}
    for line, row in rows:
        if len(row) <= column:
            raise ValueError(f"line {line} has {len(row)} cells; expected {len(header)}")
        videos.setdefault(row[0], array("d")).append(float(row[column] or "nan"))
    found = [(key, Scores(np.array(values))) for key, values in videos.items()]
    if names is None:
        return _once((video_name(key), parts) for key, parts in found), None
    listed = [row for _, row in read_csv(names, "--names")]
    order = list(dict.fromkeys(video_name(row[0]) for row in (listed[1:] if listed and listed[0][:2] == ["path", "label"] else listed)))
    if odd := [key for key, _ in found if not 0 <= float(key) < len(order)]:
        raise ValueError(f"video number {odd[0]}, but {names} has {len(order)} videos, numbered from 0")
    return _once((order[int(float(key))], parts) for key, parts in found), None


def _read_json(path, names):
    videos = read_json(path, "--scores", Ranges)["vid_score"]
    scores, total = [], 0
    for name, ranges in videos.items():
        checked(dict, ranges, f"{path}: {name}", "check --scores")
        spans = sorted((*map(int, key.split(",")), value[0] if isinstance(value, list) else value) for key, value in ranges.items())
        if any(end != start for (_, end, _), (start, _, _) in itertools.pairwise(spans)) or not spans or spans[0][0] != 0:
            raise ValueError(f"{name}: ranges that overlap or leave frames out")
        if (total := total + spans[-1][1]) > TOTAL:
            raise ValueError(f"{name}: more than {TOTAL:,} frames in all")
        logits = np.array([float(score) for *_, score in spans])
        with np.errstate(over="ignore"):  # exp of -1000, whose sigmoid is 0
            values = (1 / (1 + np.exp(-logits))).round(4)
        scores.append((video_name(name), Scores(np.repeat(values, [end - start for start, end, _ in spans]))))
    return _once(scores), None
