"""Features by CSV list: find and read them, resample for training, chunk for testing, balance batches, hold videos out.

Glossary: B videos in a batch, T snippets of 16 frames each, D feature width, C anomaly classes (C+1 with 0 = normal).
A feature file is `NAME__k.npy` (T, D) of crop k = 0..9, or `NAME.npy`: one crop (T, D) or all ten (T, 10, D).
Features are float32 CPU tensors. Source: VadCLIP's released code and features.
"""

import functools
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from operator import eq
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import pad
from typing_extensions import TypedDict

from utils.errors import BadInput, some
from utils.files import irregular
from utils.labels import CROPS, Dataset, class_indices, multi_hot, video_name
from utils.packs import arrays_below, content, open_array, packed
from utils.reading import OPEN, ROWS, Plain, Text, read_csv, whole

MANIFEST = "extract.json"  # beside features that tools.extract_features wrote: what made them


class Encoder(TypedDict):
    """What made features: name and fingerprint of an encoder, and its width D."""

    name: Text
    digest: Text
    width: whole(1, 1_000_000)


class Manifest(TypedDict):
    """The manifest beside features, as far as whoever reads them needs it (utils/video/folder.py has the rest)."""

    __pydantic_config__ = OPEN

    encoder: Encoder
    recipe: dict[Text, Plain]


@dataclass(frozen=True)
class Video:
    """A video of a list. `files`: one per crop, in the order of `crops`; `crops` is None for a single `NAME.npy`.

    `target`: multi-hot (C+1,). `named`: every row of the video named its crop, as published lists do. `source`: the camera or scene it is
    of, where the list has that column.
    """

    name: str
    label: str
    target: tuple[float, ...]
    files: tuple[Path, ...]
    crops: tuple[int, ...] | None
    named: bool = False
    source: str | None = None

    @property
    def abnormal(self) -> bool:
        return any(self.target[1:])


def split_crop(file_name: str) -> tuple[str, int | None]:
    """`Abuse028_x264__5.npy` -> (`Abuse028_x264`, 5), `Abuse028_x264.npy` -> (`Abuse028_x264`, None); else BadInput. The name is
    utils.labels.video_name's.
    """
    match = re.fullmatch(r"(?s).+?(?:__([0-9]))?\.npy", file_name)
    if match is None:
        raise BadInput(f"{file_name!r} is no feature file; expected a name that ends in .npy")
    return video_name(file_name), None if match[1] is None else int(match[1])


class Absent(NamedTuple):
    """A row of a list that has no file: its number, what it says, and what is there instead."""

    number: int
    row: str
    label: str
    fault: str


def read_list(path: Path | str, feature_root: Path | str, dataset: Dataset, option: str = "--train-list") -> list[Video]:
    """Read the list `path` (CSV `path,label`) and find its files below `feature_root`; videos in the list's order.

    A row without crop suffix takes all crops that lie side by side, a row with one (`…__5.npy`) that crop; the rows of
    a video become one Video. A row may end in a video's suffix, or in none. Of somebody else's absolute path the longest tail counts that
    exists below the root.
    Raises BadInput for an unreadable list, an unknown label, a missing or ambiguous file, and contradicting rows.
    """
    videos, absent, rows = match_list(path, feature_root, dataset, option)
    if absent:
        first = absent[0]
        raise BadInput(
            f"{path}: {len(absent)} of its {rows} rows have no features below {os.path.abspath(feature_root)}, first row {first.number} "
            f"({first.row},{first.label}): {first.fault}; tools.check_features says what to type for those that are there, or name "
            f"another --feature-root"
        )
    return videos


def match_list(
    path: Path | str, feature_root: Path | str, dataset: Dataset, option: str = "--train-list"
) -> tuple[list[Video], list[Absent], int]:
    """As read_list, but (the videos that are there, the rows that have no file, how many rows there are)."""
    root = Path(os.path.abspath(feature_root))
    if not root.is_dir():
        raise BadInput(f"{feature_root}: no such folder; name the folder of the feature files with --feature-root")
    index = index_features(root)
    first: dict[str, tuple] = {}
    sources: dict[str, str | None] = {}
    files: dict[str, dict] = {}
    unnamed, absent = set(), []
    rows = read_entries(path, option)
    for number, (row, label, source) in enumerate(rows, start=1):
        try:
            class_indices(label, dataset)
            name, crop, folder, found = _locate(row, root, index)
            if not found:
                absent.append(Absent(number, row, label, _what_is_missing(row, name, crop, root)))
                continue
            other, other_label = first.setdefault(name, (folder, label))
            if (other, other_label) != (folder, label):
                both = f"{root.joinpath(*folder)} as {label} and in {root.joinpath(*other)} as {other_label}"
                raise BadInput(f"{name} is listed in {both}; keep one of the two")
            if sources.setdefault(name, source) != source:
                raise BadInput(f"{name} is listed with the sources {sources[name]} and {source}; keep one of the two")
        except BadInput as error:
            raise BadInput(f"{path}: row {number} ({row},{label}): {error}") from None
        files.setdefault(name, {}).update(found)
        if crop is None:
            unnamed.add(name)
    videos = []
    for name, (_, label) in first.items():
        crops, paths = zip(*sorted(files[name].items()), strict=True)
        target = tuple(multi_hot(label, dataset).tolist())
        videos.append(Video(name, label, target, paths, None if crops == (None,) else crops, name not in unnamed, sources[name]))
    return videos, absent, len(rows)


def read_rows(path: Path | str, option: str) -> list[tuple[str, str]]:
    """Path and label of each row of a list."""
    return [(row, label) for row, label, _ in read_entries(path, option)]


def read_entries(path: Path | str, option: str) -> list[tuple[str, str, str | None]]:
    """Path, label and source (None where the list has no such column) of each row of a list. It may have further columns."""
    rows = read_csv(path, option)
    _, header = next(rows, (0, []))
    at, entries = header.index("source") if "source" in header else None, []
    for line, row in rows if header[:2] == ["path", "label"] else ():
        if len(row) != len(header):
            raise BadInput(f"{path}: line {line} has {len(row)} fields; expected {' and '.join(header)}; check {option}")
        if at and not row[at]:
            raise BadInput(f"{path}: line {line} has no source; name one for each video, if only its own, or drop the column")
        entries.append((row[0], row[1], row[at] if at else None))
    if not entries:
        found = f"header {','.join(header)!r}, {len(entries)} rows"
        raise BadInput(f"{path}: {found}; expected 'path,label' and two fields in each row; check {option}")
    return entries


def index_features(root: Path) -> dict[str, dict[tuple[str, ...], dict[int | None, Path]]]:
    """Every .npy below the root (absolute), packed or not: name -> folder below the root, as parts -> crop (None without suffix) -> file.

    Links are followed (utils.files.files_below); what is no regular file is left out. Raises BadInput where two files of a folder have the
    same name and crop, and for a pack that is not as it was made (utils/packs.py).
    """
    index: dict[str, dict] = {}
    for file in arrays_below(root):
        name, crop = split_crop(file.name)
        home = index.setdefault(name, {}).setdefault(file.parent.relative_to(root).parts, {})
        if home.setdefault(crop, file) != file:  # a.npy and a.mp4.npy
            raise BadInput(f"{file} and {home[crop]} are both {name}; keep one of them, or rename it")
    return index


def _locate(row: str, root: Path, index: dict) -> tuple[str, int | None, tuple[str, ...], dict[int | None, Path]]:
    """Name, crop, folder below the root and files by crop of a listed path: its exact place, else its longest tail. No files: absent."""
    path = Path(root, row.replace("\\", "/"))
    name, crop = split_crop(path.name if path.name.endswith(".npy") else f"{path.name}.npy")
    folder = (path.relative_to(root) if path.is_relative_to(root) else path).parts[:-1]
    homes = index.get(name, {})
    if crop is not None:
        homes = {home: {crop: files[crop]} for home, files in homes.items() if crop in files}
    if not homes:
        return name, crop, folder, {}
    tails = {home: sum(1 for _ in takewhile(bool, map(eq, reversed(home), reversed(folder)))) for home in homes}
    best = [folder] if folder in homes else [home for home in homes if tails[home] == max(tails.values())]
    files = homes[best[0]]
    one_each = [next(iter(homes[home].values())) for home in best]
    if None in files and len(files) > 1:
        one_each = [files[None], next(file for number, file in files.items() if number is not None)]
    if len(one_each) > 1:
        raise BadInput(f"fits {one_each[0]} and {one_each[1]}; write the path in full, or remove one of the files")
    return name, crop, best[0], files


def _what_is_missing(row: str, name: str, crop: int | None, root: Path) -> str:
    path = Path(root, row.replace("\\", "/"))
    if os.path.lexists(path) and (fault := irregular(path)):
        return f"{path}: {fault}"
    return f"no file {path.name}" if crop is not None else f"no file {name}.npy or {name}__0.npy … {name}__{CROPS - 1}.npy"


def open_features(path: Path | str, width: int | None, options: str = "--visual-width or --feature-root") -> np.ndarray:
    """Map a feature file, (T, D) or (T, 10, D), and check all that its header tells; reads no features. width: D, None is any. Raises
    BadInput as load_features does; `options` are those that it names.
    """
    expected = f"expected float features (T, {width or 'D'}) or (T, {CROPS}, {width or 'D'}); extract it anew, or set {options}"
    array = open_array(path, options, expected)
    width = width or max(1, *array.shape[-1:])
    if array.dtype.kind != "f":
        fault = f"{array.dtype} values"
    elif array.shape[1:] not in ((width,), (CROPS, width)):
        fault = f"shape {array.shape}"
        if array.ndim > 1 and array.shape[1:-1] in ((), (CROPS,)):
            expected = expected.replace("--visual-width or", f"--visual-width {array.shape[-1]} or")
    elif not 0 < len(array) <= ROWS:
        fault = f"{len(array) or 'no'} rows"
    else:
        return array
    raise BadInput(f"{path}: {fault}; {expected}")


def load_features(path: Path | str, width: int, crop: int | None = None) -> torch.Tensor:
    """Features (T, D) float32 of a file (T, D), which ignores `crop`, or of crop `crop` of a file (T, 10, D).

    Raises BadInput for a file that is missing, empty, truncated, pickled, no array, no floats, of another rank or
    width, without rows, or not finite, and for a crop that is not there.
    """
    array, part = open_features(path, width), None
    if array.ndim == 3:
        if crop is None or not 0 <= crop < CROPS:
            raise BadInput(f"{path}: no crop {crop} in shape {array.shape}; choose --test-crop from 0 to {CROPS - 1}")
        array, part = array[:, crop], crop
    features = _float32(array)
    if (found := packed(path)) is None or not found.is_finite(part):
        finite = np.isfinite(features.numpy()).all(axis=1)
        if not finite.all():
            raise BadInput(f"{path}: NaN or infinity in row {finite.argmin()}; expected finite features; extract it anew")
    return features


def _float32(array: np.ndarray) -> torch.Tensor:
    """A float32 copy in C order. PyTorch takes a twentieth of NumPy's time for float16, and no types but its own."""
    if array.dtype.isnative and array.itemsize <= 8 and array.flags.aligned:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it can be written through the tensor, which lives for this line only
            return torch.from_numpy(array).to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    with np.errstate(over="ignore"):  # float64 beyond float32 turns into infinity, which is refused
        return torch.from_numpy(np.array(array, dtype=np.float32, order="C"))


def check_features(videos: Sequence[Video], width: int) -> dict[str, int]:
    """Check the header of every file at the start, so that no training dies in hour two; the number of rows T of each video.

    Raises BadInput as load_features does, but for NaN, and where the crops of a video differ in their number of rows.
    """
    rows = {}
    for video in videos:
        shapes = [open_features(file, width).shape for file in video.files]
        rows[video.name] = shapes[0][0]
        for file, shape in zip(video.files, shapes, strict=True):
            if shape != shapes[0] or (len(shape) == 3 and video.crops is not None):
                expected = f"expected ({shapes[0][0]}, {width}) in every crop of {video.name}, as {video.files[0]} begins"
                raise BadInput(f"{file}: shape {shape}; {expected}; extract the crops anew")
    return rows


def check_crops(videos: Sequence[Video]) -> None:
    """Raise BadInput where some videos lack crops that the others have: their bags would be fewer than they should be, without a word.

    Videos whose rows name their crops have those that were wanted.
    """
    counts = Counter(video.crops for video in videos if video.crops is not None and not video.named)
    if len(counts) < 2:
        return
    usual = counts.most_common(1)[0][0]
    odd = [video for video in videos if video.crops in counts and video.crops != usual and not video.named]
    names = some(video.name for video in odd)
    raise BadInput(
        f"{odd[0].files[0].parent}: {odd[0].name} has the crops {', '.join(map(str, odd[0].crops))}, of {counts.total()} videos "
        f"{counts[usual]} have {', '.join(map(str, usual))}; extract {len(odd)} anew ({names}), or leave them out of the list"
    )


def resample(features: torch.Tensor, length: int, out: torch.Tensor | None = None) -> tuple[torch.Tensor, int]:
    """Training input: (T, D) float32 -> (length, D), valid rows = min(T, length). out: (length, D) that is written.

    A longer video is averaged over `length` even segments, a shorter one zero-padded (as VadCLIP's released code).
    """
    rows, width = features.shape
    out = features.new_empty(length, width) if out is None else out
    if rows <= length:
        out[:rows] = features
        out[rows:] = 0
        return out, rows
    segments, counts = _segments(rows, length)
    return out.zero_().index_add_(0, segments, features).div_(counts), length


@functools.lru_cache(2048)
def _segments(rows: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The segment of each row (T,), and how many rows each has (length, 1)."""
    # Floats rounded down, as released: i * rows // length differs now and then (114 rows to 100).
    counts = torch.from_numpy(np.diff(np.linspace(0, rows, length + 1, dtype=np.int64)))  # (length,), all positive
    return torch.arange(length).repeat_interleave(counts), counts[:, None].float()


def chunk(features: torch.Tensor, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Test input: (T, D) -> zero-padded chunks (n, length, D), their valid rows (n,) int64; n = T // length + 1.

    A video of a multiple of `length` ends in an empty chunk, 0 valid rows, to be skipped (as VadCLIP's released code).
    """
    rows, width = features.shape
    n = rows // length + 1
    chunks = pad(features, (0, 0, 0, n * length - rows)).view(n, length, width)
    return chunks, (rows - length * torch.arange(n)).clamp(max=length)


def same_content(videos: Sequence[Video], others: Sequence[Video]) -> list[tuple[str, str]]:
    """Names of the pairs (video, other) whose first feature files are equal byte for byte: one recording under two names."""

    @functools.cache
    def digest(file: Path) -> str:
        return content(file)[1]()

    sizes: dict[int, list[Video]] = {}
    for other in others:
        sizes.setdefault(content(other.files[0])[0], []).append(other)
    same = [(video, other) for video in videos for other in sizes.get(content(video.files[0])[0], [])]
    return [(video.name, other.name) for video, other in same if digest(video.files[0]) == digest(other.files[0])]


class FeatureDataset(torch.utils.data.Dataset):
    """Training samples, one per video and crop: features (length, D) float32, valid rows, target (C+1,) float32, and with `captions`
    (utils/captions/tree.py) the caption features (length, E) float32, brought to `length` as the features are.

    An index is a number, or with captions (number, version), the version one of theirs; a list of them gives a batch, (B, length, D), (B,),
    (B, C+1), (B, length, E). `abnormal[i]` says whether sample i is of an abnormal video; `versions` are those that are asked for. Raises
    BadInput as load_features does.
    """

    def __init__(self, videos: Sequence[Video], *, length: int, width: int, captions=None, versions: Sequence[str] = ()):
        self.length, self.width, self.captions, self.versions = length, width, captions, tuple(versions)
        self.samples: list[tuple[Video, Path, int | None]] = []
        for video in videos:
            ten = video.crops is None and open_features(video.files[0], width).ndim == 3
            crops = range(CROPS) if ten else (None,)
            self.samples += [(video, file, crop) for file in video.files for crop in crops]
        self.abnormal = [video.abnormal for video, _, _ in self.samples]

    def __len__(self) -> int:
        return len(self.samples)

    def name(self, index) -> str:
        """The name of the video that an index of a batch stands for."""
        return self.samples[index[0] if isinstance(index, tuple) else index][0].name

    def __getitem__(self, index) -> tuple:
        if not isinstance(index, list):
            features, lengths, *more = self[[index]]
            return features[0], int(lengths[0]), *(part[0] for part in more)
        parts = [one if isinstance(one, tuple) else (one,) for one in index]
        features, lengths = torch.empty(len(parts), self.length, self.width), torch.zeros(len(parts), dtype=torch.int64)
        captions = [] if self.captions is None else [torch.empty(len(parts), self.length, self.captions.width)]
        for row, (number, *version) in enumerate(parts):
            found = self.load(number)
            lengths[row] = resample(found, self.length, features[row])[1]
            for part in captions:
                resample(self.load_captions(number, len(found), *version), self.length, part[row])
        return features, lengths, torch.tensor([self.samples[number][0].target for number, *_ in parts]), *captions

    def load(self, number: int) -> torch.Tensor:
        """The features (T, D) of a sample."""
        _, file, crop = self.samples[number]
        return load_features(file, self.width, crop)

    def load_captions(self, number: int, rows: int, *version: str) -> torch.Tensor:
        """The caption features (rows, E) of a sample whose features have so many rows."""
        return self.captions.load(self.samples[number][0], self.crop(number), rows, *version)

    def crop(self, number: int) -> int | None:
        """Which crop a sample is of, where its file or the file's name says."""
        _, file, crop = self.samples[number]
        return split_crop(file.name)[1] if crop is None else crop


def tested_file(video: Video, crop: int) -> Path:
    """The file of a video that is tested with `--test-crop`. Raises BadInput where it has no such crop."""
    if video.crops is None or (video.named and len(video.crops) == 1):
        return video.files[0]
    if crop not in video.crops:
        there = f"{video.name} has the crops {', '.join(map(str, video.crops))} in {video.files[0].parent}"
        raise BadInput(f"--test-crop {crop}: {there}; choose one of these")
    return video.files[video.crops.index(crop)]


def test_videos(videos: Sequence[Video], width: int, crop: int, captions=None) -> Iterator[tuple]:
    """Name and features (T, D) float32 of each video: of the one crop that its list names, else of crop `crop`; with `captions`
    (utils/captions/tree.py) their source (T, E), too.

    A file of one crop is taken as it is. Raises BadInput where there is no such crop, and as load_features does.
    """
    for video in videos:
        file = tested_file(video, crop)
        features = load_features(file, width, crop if video.crops is None else None)
        taken = split_crop(file.name)[1] if video.crops is not None else crop
        yield (video.name, features) if captions is None else (video.name, features, captions.load(video, taken, len(features)))


def hold_out(videos: Sequence[Video], share: float, seed: int, dataset: Dataset) -> tuple[list[Video], list[Video]]:
    """Split into (train, validation) by video, `share` of each class (first label) held out; both in the list's order.

    A class of two or more has at least one on either side, a class of one trains. Raises BadInput unless 0 < share < 1.
    """
    if not 0 < share < 1:
        raise BadInput(f"--val-share {share}: expected a fraction between 0 and 1")
    rng = np.random.default_rng(seed)
    classes = np.array([class_indices(video.label, dataset)[0] for video in videos])
    held: set[int] = set()
    for number in range(len(dataset.labels)):
        members = rng.permutation(np.flatnonzero(classes == number))
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        held.update(members[: max(count, 0)].tolist())
    train = [video for index, video in enumerate(videos) if index not in held]
    return train, [videos[index] for index in sorted(held)]


def divide(held_out: Sequence[Video]) -> tuple[list[Video], list[Video]]:
    """Of held-out videos (those that choose the epoch, the normal ones that measure thresholds), in the list's order: an epoch that was
    chosen for its low scores in some normal videos has too low a threshold there, so every second normal one does not choose. A single
    one does both.
    """
    normal = [video for video in held_out if not video.abnormal]
    apart = normal[1::2]
    return [video for video in held_out if video not in apart], apart or normal
