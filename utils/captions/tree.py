"""Caption features beside the features of the videos: paired by name and length, never by row number.

A caption tree (`--caption-root DIR`) holds one folder a version, DIR/source, DIR/rewrite-1, …, in each NAME.npy (T, E), one row per 16
frames; without a folder `source` DIR itself is the source, and there are no rewrites. Names as published are read too: NAME_emb_0.npy,
NAME_emb__0.npy, the number being that of the crop. E caption width.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NotRequired

import torch
from typing_extensions import TypedDict

from dataset import Video, index_features, load_features, open_features
from utils.captions.formats import Caption, read_caption_file
from utils.errors import BadInput, some
from utils.labels import SNIPPET
from utils.reading import OPEN, Text, read_json

SOURCE = "source"
VERSION = re.compile(r"source|rewrite-.+")
FILLS = ("previous", "zeros", "nearest")  # what rows without a sentence get; the first is the default
MANIFEST = "embed.json"  # beside caption features that tools.embed_captions wrote: what made them


class Embedded(TypedDict):
    """The manifest, as far as whoever reads caption features needs it: the sentence encoder, its fingerprint, to which its pooling belongs,
    and what rows without a sentence have. Earlier versions knew no pooling but the mean, and did not write it.
    """

    __pydantic_config__ = OPEN

    encoder: Text
    encoder_digest: Text
    fill: Literal[FILLS]
    pooling: NotRequired[Text]


def embedded_by(folder: Path, option: str) -> dict | None:
    """What made the caption features of a folder (`Embedded`); None where nothing tells. Raises BadInput where its manifest cannot be
    read.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    content = {"pooling": "mean", **read_json(path, option, Embedded)}
    return {key: content[key] for key in Embedded.__annotations__}


def check_alike(folder: Path, made: dict, option: str) -> None:
    """Raise BadInput where `folder` is a version of a caption tree (source, rewrite-1, …) and another version's features are of another
    encoder or pooling than `made` says, or filled otherwise.
    """
    for other in sorted(folder.parent.glob("*")) if VERSION.fullmatch(folder.name) else ():
        before = embedded_by(other, option) if VERSION.fullmatch(other.name) and other != folder else None
        for key in ("pooling", "encoder_digest", "fill") if before else ():
            if before[key] != made[key]:
                raise BadInput(
                    f"{other}: its features were made with {key} {before[key]}, those of {folder} with {made[key]}; expected one for all "
                    f"versions of a tree; embed one of them anew, or name another folder with {option}"
                )


def source_folder(root: Path | str) -> Path:
    """Where the source captions of a caption tree lie."""
    return Path(root, SOURCE) if Path(root, SOURCE).is_dir() else Path(root)


def texts_beside(files: dict[str, Path]) -> dict[str, list[Caption]]:
    """The captions of videos whose NAME.jsonl lies beside a file of their features, name -> file; the others are left out. Raises BadInput
    as utils.captions.formats.read_caption_file does.
    """
    paths = {name: file.with_name(f"{name}.jsonl") for name, file in files.items()}
    return {name: read_caption_file(path)[1].captions for name, path in paths.items() if path.is_file()}


def split_published(name: str, number: int | None) -> tuple[str, int | None]:
    """`Abuse001_x264_emb_0` or (`Abuse001_x264_emb`, 0) -> (`Abuse001_x264`, 0); other names as they are."""
    match = re.fullmatch(r"(.+)_emb(?:_(\d))?", name)
    return (match[1], int(match[2]) if match[2] else number) if match else (name, number)


class CaptionTree:
    """The caption features below `root`, each `width` wide. `versions` are the folders' names, "source" first.

    mismatch: by how many rows captions may be off; longer ones are cut, shorter ones repeat their last row. Raises BadInput where there is
    no such folder.
    """

    def __init__(self, root: Path | str, width: int, *, mismatch: int = 0):
        self.root, self.width, self.mismatch = Path(root), width, mismatch
        if not self.root.is_dir():
            raise BadInput(f"{root}: no such folder; name the folder of the caption features with --caption-root")
        folders = {SOURCE: source_folder(root)}
        if folders[SOURCE] != self.root:
            rewrites = [path for path in self.root.glob("rewrite-*") if path.is_dir()]
            folders |= {path.name: path for path in sorted(rewrites, key=lambda path: (len(path.name), path.name))}
        self.versions = tuple(folders)
        self.files = {version: self._index(folder) for version, folder in folders.items()}

    @staticmethod
    def _index(folder: Path) -> dict[str, dict[tuple, dict[int | None, Path]]]:
        """name -> folder below, as parts -> number (None without) -> file."""
        index: dict[str, dict] = {}
        for name, homes in index_features(folder.absolute()).items():
            for home, files in homes.items():
                for number, file in files.items():
                    plain, crop = split_published(name, number)
                    index.setdefault(plain, {}).setdefault(home, {})[crop] = file
        return index

    def find(self, video: Video, crop: int | None, version: str = SOURCE) -> Path | None:
        """The file for a crop of a video: that crop's own, else the one without number, else the lowest; None where there is none.

        Raises BadInput where the name lies in two folders and neither is named as the feature's own, and where only a rewrite is missing.
        """
        homes = self.files[version].get(video.name, {})
        if len(homes) > 1:
            own = [home for home in homes if home[-1:] == (video.files[0].parent.name,)]
            if len(own) != 1:
                two = [next(iter(files.values())) for files in homes.values()][:2]
                raise BadInput(f"{video.name}: captions {two[0]} and {two[1]}; keep one of the two")
            homes = {own[0]: homes[own[0]]}
        if not homes:
            if version != SOURCE and self.find(video, crop) is not None:
                raise BadInput(
                    f"{self.root / version}: no captions of {video.name}, which has some in {SOURCE}; finish tools.rewrite_captions and "
                    f"tools.embed_captions, or train with --caption-choice {SOURCE}"
                )
            return None
        files = next(iter(homes.values()))
        return files[crop] if crop in files else files[min(files, key=lambda number: -1 if number is None else number)]

    def check(self, videos: Sequence[Video], rows: dict[str, int], versions: Sequence[str] = (SOURCE,)) -> None:
        """Check name, shape and length of every caption file before anything is trained.

        rows: T of each video. Raises BadInput naming the videos without captions, the file that is misshapen or of another length, and
        versions that were made otherwise.
        """
        if self.made and len(versions) > 1:
            check_alike(source_folder(self.root), self.made, "--caption-root")
        if without := [video.name for video in videos if any(self.find(video, crop) is None for crop in video.crops or (None,))]:
            raise BadInput(
                f"{self.root}: no captions of {len(without)} of {len(videos)} videos ({some(without)}); write them (tools.caption_videos, "
                f"tools.embed_captions), or list only those that have some (tools.make_list --feature-root {source_folder(self.root)})"
            )
        for video in videos:
            for file in {self.find(video, crop, version) for version in versions for crop in video.crops or (None,)}:
                found = len(open_features(file, self.width, "--caption-width or --caption-root"))
                if abs(found - rows[video.name]) > self.mismatch:
                    raise BadInput(
                        f"{file}: {found} rows, the features of {video.name} have {rows[video.name]}, one per {SNIPPET} frames; embed the "
                        f"captions with --feature-root, or accept it with --allow-length-mismatch {abs(found - rows[video.name])}"
                    )

    def load(self, video: Video, crop: int | None, rows: int, version: str = SOURCE) -> torch.Tensor:
        """(rows, E) float32 of a video that `check` has passed."""
        captions = load_features(self.find(video, crop, version), self.width)[:rows]
        return torch.cat([captions, captions[-1:].expand(rows - len(captions), -1)])

    @property
    def made(self) -> dict | None:
        """What made the source's features (`Embedded`); None where nothing tells. Raises BadInput where its manifest cannot be read."""
        return embedded_by(source_folder(self.root), "--caption-root")

    def texts(self, videos: Sequence[Video]) -> dict[str, list[Caption]]:
        """The captions of videos whose NAME.jsonl lies beside their source; the others are left out. Raises BadInput as
        utils.captions.formats.read_caption_file does.
        """
        return texts_beside({video.name: file for video in videos if (file := self.find(video, None)) is not None})
