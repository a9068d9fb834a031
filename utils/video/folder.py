"""A folder of features and its manifest, extract.json: what made them, and which videos are done. Several processes may share it.

Whoever writes holds the lock `.extract.lock`, which goes with its holder: a video's files come first, its entry in the manifest last, each
under a temporary name and renamed. So a video with an entry is whole, whatever stopped whom, and the manifest's bytes do not depend on the
order.
"""

import contextlib
import hashlib
import io
import re
from pathlib import Path
from typing import Annotated, NotRequired

import av
import numpy as np
from pydantic import Field
from typing_extensions import TypedDict

from dataset import MANIFEST, Manifest, index_features
from utils.errors import BadInput
from utils.files import files_below, locked, make_folder, replacing, write_json
from utils.labels import SNIPPET, video_name
from utils.packs import check_unpacked, open_array
from utils.reading import FRAMES, OPEN, ROWS, Text, checked, read_json, real, whole
from utils.video.crops import UNNAMED
from utils.video.extraction import Extracted

LOCK = ".extract.lock"
LEFT = re.compile(r"\.(.+\.npy|extract\.json)\.\d+\.tmp")  # what utils.files.replacing leaves when it is killed
OTHER = "name another folder with --output"
DECODER = f"PyAV {av.__version__}, FFmpeg {av.ffmpeg_version_info}"


class Entry(TypedDict):
    """A finished video in the manifest; features: file -> checksum."""

    __pydantic_config__ = OPEN

    file: Text
    bytes: whole(0, 2**60)
    frames: whole(0, FRAMES)
    features: Annotated[dict[Text, Text], Field(min_length=1)]


class Whole(Manifest):
    """The manifest as this tool goes on with it."""

    videos: dict[Text, Entry]
    decoders: NotRequired[list[Text]]


class Counted(TypedDict):
    """What others may want to know of a finished video."""

    __pydantic_config__ = OPEN

    frames: whole(1, FRAMES)
    fps: real(0, 1000, gt=0) | None


class Lengths(TypedDict):
    __pydantic_config__ = OPEN

    videos: dict[Text, Counted]


def feature_lengths(root: Path, option: str = "--feature-root") -> tuple[dict[str, tuple[int, float | None]], dict[str, int]]:
    """(Name -> frames and frames per second of the videos in manifests below a folder, name -> frames by its features, 16 a row).

    Raises BadInput where there are no features, one cannot be read, or the files of a video differ in their rows.
    """
    if not root.is_dir():
        raise BadInput(f"{root}: no such folder; name the folder of the feature files with {option}")
    counted: dict[str, tuple[int, float | None]] = {}
    for path in files_below(root):
        if path.name == MANIFEST:
            videos = read_json(path, option, Lengths)["videos"]
            counted |= {video_name(key): (entry["frames"], entry["fps"]) for key, entry in videos.items()}
    rows: dict[str, int] = {}
    for name, homes in index_features(root.absolute()).items():
        for file in (file for files in homes.values() for file in files.values()):
            shape = open_array(file, option).shape
            if not shape or not 0 < shape[0] <= ROWS or rows.setdefault(name, SNIPPET * shape[0]) != SNIPPET * shape[0]:
                other = f", and {rows[name] // SNIPPET} in another file of {name}" if name in rows else ""
                raise BadInput(f"{file}: shape {shape}{other}; expected rows of features, as many in each file of a video; extract it anew")
    if not rows:
        raise BadInput(f"{root}: no .npy below it; name the folder of the feature files with {option}")
    return {name: length for name, length in counted.items() if name in rows}, rows


class FeatureFolder:
    """The folder `path`, whose features are made as `about` says: recipe (dict) and encoder (dict: name, digest, width). Its manifest also
    names what decoded the videos; another version may go on, and is then named, too.

    Raises BadInput where features that were made otherwise lie in it, or it cannot be written.
    """

    def __init__(self, path: Path | str, about: dict):
        check_unpacked(path, "--output")
        self.path, self._about = make_folder(path), about
        with self._locked() as manifest:
            for file in self.path.rglob(".*.tmp"):
                if LEFT.fullmatch(file.name):
                    file.unlink()
            if not (self.path / MANIFEST).exists():
                write_json(self.path / MANIFEST, manifest)

    def unfinished(self, targets: dict[Path, Path]) -> list[Path]:
        """Of the videos of `targets` (video -> NAME.npy in the folder), those whose features are not there.

        Raises BadInput where they are there, but made of another file of that name.
        """
        entries, left = self._read()["videos"], []
        for video, target in targets.items():
            entry = entries.get(self._key(target))
            if entry is None or not all((self.path / file).is_file() for file in entry["features"]):
                left.append(video)
            elif (entry["file"], entry["bytes"]) != (video.name, video.stat().st_size):
                was, now = f"{entry['file']} of {entry['bytes']:,} bytes", f"{video.name} of {video.stat().st_size:,} bytes"
                raise BadInput(f"{target}: the features are those of {was}, not {now}; delete {next(iter(entry['features']))}, or {OTHER}")
        return left

    def write(self, target: Path, found: Extracted) -> None:
        """Write the features of a video: NAME__k.npy (T, D) of crop k, or NAME.npy (T, crops, D), (T, D) of one crop.

        Raises BadInput where they are not finite in the type they are written in.
        """
        layout, dtype = self._about["recipe"]["layout"], self._about["recipe"]["dtype"]
        with np.errstate(over="ignore"):
            features = found.features.astype(dtype)
        if not np.isfinite(features).all():
            raise BadInput(f"{found.path}: features beyond {dtype}, or no numbers; try --dtype float32, or check the encoder")
        if layout == "one":
            files = {target: features[:, 0] if features.shape[1] == 1 else features}
        else:
            files = {target.with_name(f"{target.stem}__{crop}.npy"): features[:, crop] for crop in range(features.shape[1])}
        entry = {"file": found.path.name, "bytes": found.path.stat().st_size, "frames": found.frames, "fps": found.fps}
        entry |= {"header_frames": found.promised}
        entry |= {"snippets": len(features), "features": {}}
        with self._locked() as manifest:
            for file, array in files.items():
                content = io.BytesIO()
                np.save(content, np.ascontiguousarray(array))
                with replacing(file) as temporary:
                    temporary.write_bytes(content.getbuffer())
                entry["features"][file.relative_to(self.path).as_posix()] = hashlib.sha256(content.getbuffer()).hexdigest()
            manifest["videos"][self._key(target)] = entry
            manifest["decoders"] = sorted({*manifest["decoders"], DECODER})
            manifest["videos"] = dict(sorted(manifest["videos"].items()))
            write_json(self.path / MANIFEST, manifest)

    def _key(self, target: Path) -> str:
        return target.relative_to(self.path).as_posix().removesuffix(".npy")

    @contextlib.contextmanager
    def _locked(self):
        """Yield the manifest; nobody else reads it to write it meanwhile."""
        with locked(self.path, LOCK, wait=True, told=False):  # for a moment; who shares the work is told by utils.files.only_writer
            yield self._read()

    def _read(self) -> dict:
        path = self.path / MANIFEST
        if not path.exists():
            return {**self._about, "decoders": [DECODER], "videos": {}}
        manifest = read_json(path, "--output")
        checked(Whole, manifest, str(path), OTHER)  # written again as it was, its keys in their order
        manifest.setdefault("decoders", [])
        found = {"resize": UNNAMED} | {key: manifest["encoder"][key] for key in ("digest", "width")} | manifest["recipe"]
        names = manifest["encoder"]["name"], self._about["encoder"]["name"]
        wanted = {key: self._about["encoder"][key] for key in ("digest", "width")} | self._about["recipe"]
        for key, value in wanted.items():
            if found.get(key) != value:
                if key == "digest":
                    raise BadInput(
                        f"{path}: features of another encoder ({names[0]}, weights {found[key]}), not {names[1]} {value}; {OTHER}"
                    )
                raise BadInput(f"{path}: features with {key} {found.get(key)}, not {value}; set it as there, or {OTHER}")
        return manifest
