"""What feature files are, all of them: headers, norms of rows, and a guess of what made them. (What training asks of them: dataset.py.)"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from dataset import MANIFEST, Manifest, Video, load_features, open_features
from utils.errors import BadInput, printable
from utils.reading import read_json

AS_CLIP = 10.0  # the norm of CLIP's image features as they come, for which the systems' settings were found

# Width, lowest and highest mean norm of a row, what gives such features.
UNIT = (0.95, 1.05)
ENCODERS = (
    (512, 7, 14, "CLIP ViT-B/16 (or B/32) as it comes, as VadCLIP's authors published theirs"),
    (512, *UNIT, "CLIP ViT-B/16 (or B/32), each row brought to length 1"),
    (768, *UNIT, "CLIP ViT-L/14, or a sentence encoder, each row brought to length 1"),
    (768, 0, math.inf, "CLIP ViT-L/14, or VideoMAE"),
    (384, *UNIT, "a small sentence encoder (MiniLM)"),
    (400, 0, math.inf, "I3D's logits of the 400 classes of Kinetics"),
    (1024, 0, math.inf, "I3D, one stream (RGB or flow)"),
    (1152, 0, math.inf, "I3D and VGGish's audio side by side, as HL-Net has them"),
    (1280, 0, math.inf, "EfficientNet (B0 or Lite0)"),
    (2048, 0, math.inf, "I3D, both streams or of ResNet-50"),
    (4096, 0, math.inf, "C3D"),
)


class Header(NamedTuple):
    """What a feature file says of itself."""

    rows: int
    crops: int  # 10 of (T, 10, D), 1 of (T, D)
    width: int
    dtype: str


@dataclass
class Norms:
    """Euclidean norms of rows. Rows of zeros, as captions have where nobody wrote one, count apart."""

    count: int = 0
    zeros: int = 0
    total: float = 0.0
    squares: float = 0.0
    low: float = math.inf
    high: float = 0.0

    @property
    def mean(self) -> float:
        return self.total / max(self.count, 1)

    @property
    def std(self) -> float:
        return math.sqrt(max(self.squares / max(self.count, 1) - self.mean**2, 0.0))

    def add(self, norms) -> None:
        """norms (n,): float64."""
        some = norms[norms > 0]
        self.zeros += len(norms) - len(some)
        if len(some):
            self.count += len(some)
            self.total += float(some.sum())
            self.squares += float((some**2).sum())
            self.low, self.high = min(self.low, float(some.min())), max(self.high, float(some.max()))


def read_headers(files: Iterable[Path]) -> tuple[dict[Path, Header], dict[Path, str]]:
    """(the header of each file that is sound by it, what is wrong with each other one)."""
    headers, broken = {}, {}
    for file in files:
        try:
            array = open_features(file, None)
        except BadInput as error:
            broken[file] = _fault(error, file)
        else:
            headers[file] = Header(len(array), array.shape[1] if array.ndim == 3 else 1, array.shape[-1], str(array.dtype))
    return headers, broken


def read_norms(files: Iterable[Path], headers: dict[Path, Header]) -> tuple[Norms, dict[Path, str]]:
    """(norms of all rows, what is wrong with each file that training would refuse to read); `files` are of `headers`."""
    norms, broken = Norms(), {}
    for file in files:
        header = headers[file]
        try:
            for crop in range(header.crops) if header.crops > 1 else (None,):
                norms.add(load_features(file, header.width, crop).double().norm(dim=1))
        except BadInput as error:
            broken[file] = _fault(error, file)
    return norms, broken


def _fault(error: BadInput, file: Path) -> str:
    return str(error).removeprefix(printable(f"{file}: ")).partition("; ")[0]


def crop_count(video: Video, headers: dict[Path, Header]) -> int | None:
    """How many crops a video has; None where its one file cannot be read."""
    if video.crops is not None:
        return len(video.crops)
    return headers[video.files[0]].crops if video.files[0] in headers else None


def uneven(video: Video, headers: dict[Path, Header]) -> bool:
    """Whether the crops of a video differ in their number of rows, or one of several files holds ten crops itself."""
    found = {headers[file][:2] for file in video.files if file in headers}
    return len(found) > 1 or (video.crops is not None and any(crops > 1 for _, crops in found))


def made_by(root: Path, width: int, norms: Norms | None) -> str:
    """What made the features below `root`: by their manifest, else a guess from width and norm. Raises BadInput for a bad manifest."""
    if (root / MANIFEST).is_file():
        made = read_json(root / MANIFEST, "--feature-root", Manifest)
        recipe = ", ".join(f"{name} {value}" for name, value in made["recipe"].items())
        return f"{made['encoder']['name']}, {recipe} ({MANIFEST})"
    found = [what for of, low, high, what in ENCODERS if of == width and (norms is None or low <= norms.mean <= high)]
    which = "width" if norms is None else "width and norm"
    return f"{found[0]} (a guess from {which})" if found else f"unknown (no {MANIFEST}; nothing known has this {which})"


def wanted_scale(norms: Norms) -> float:
    """The --feature-scale that brings rows to about the norm of CLIP's, with one digit; 1 where they have it already."""
    ratio = AS_CLIP / norms.mean if norms.count else 1.0
    return 1.0 if 2 / 3 <= ratio <= 3 / 2 else float(f"{ratio:.1g}")
