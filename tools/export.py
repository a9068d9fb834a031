"""Write a trained checkpoint as ONNX: what scores, of any number of snippets, and what encodes pictures.

    python -m tools.export --checkpoint runs/ucf-vadclip/seed-234/best.pt --output exported
    python demo.py VIDEO --runtime onnx --checkpoint exported

exported/scorer.onnx: features (T, D) float32, or captions (T, E), or both -> coarse (T), fine (T, C+1), online (T), as far as the system
has them, cut into chunks as in testing; the texts of the classes are part of it. exported/encoder.onnx: pictures (N, 3, size, size) uint8
-> features (N, D) float32. Their metadata says of what. Both are compared with PyTorch before they have these names.
"""

import argparse
import contextlib
import io
import json
import os
import shlex
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from app.detector import Trained, load_trained, picture_side
from app.exported import ENCODER, SCORER, About, exported_scorer
from demo import parse_sizes, released_options
from model import SYSTEMS
from tools.bench.measure import random_features
from utils import engine
from utils.errors import BadInput, Parser, exit_code, printable
from utils.files import make_folder, only_writer
from utils.reading import read_onnx, reason
from utils.systems import mamba
from utils.video.crops import Recipe
from utils.video.encoder import ImageEncoder, OnnxEncoder, OnnxImages

FILES = ("clip", "distilbert", "sentence_encoder", "text_features")  # of the text side
INSTEAD = "score with the checkpoint itself, in demo.py without --runtime"
TOLERANCE = 1e-4  # of scores; of features relative to the largest
LONGEST = 2000  # snippets that the export is compared with PyTorch's scores on
SMALLEST = -43.0  # of Δ A: the decay, 2e-19, is lost beside the state, and a smaller one takes a processor hundreds of times as long


class Scorer(nn.Module):
    """A system's network over a video of any length, cut into chunks as in engine.predict, with its text features as a constant. A last
    chunk is filled up to `length`, so that the network's sizes are fixed; not of a system that is tested `whole`.
    """

    def __init__(self, model: nn.Module, reads: Sequence[str], length: int, whole: bool):
        super().__init__()
        self.model, self.reads, self.length, self.whole = model.eval(), tuple(reads), engine.WHOLE if whole else length, whole
        with torch.no_grad():
            self.register_buffer("text", model.text_features())

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        """(T, width) of each of `reads` -> the scores that there are."""
        total = given[0].shape[0]
        size = torch.sym_min(total, self.length) if self.whole else self.length
        count = (total + size - 1) // size
        chunks = [F.pad(part, (0, 0, 0, count * size - total)).reshape(count, size, part.shape[1]) for part in given]
        lengths = (total - size * torch.arange(count)).clamp(max=size)
        captions = chunks[-1:] if "captions" in self.reads else []
        out = self.model(chunks[0] if "features" in self.reads else None, lengths, *captions, text=self.text)
        return tuple(part.float().flatten(0, 1)[:total] for part in engine.tested(out) if part is not None)


def scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, chunk: int | None = None) -> Tensor:
    """utils.systems.mamba.selective_scan as ONNX has it: one operation, Scan, where that has a loop of Python and a backward pass."""
    from torch._higher_order_ops.scan import scan as over_time

    def step(h, rows):
        delta, x, b, c = rows
        h = (delta[..., None] * A).clamp(min=SMALLEST).exp() * h + x[..., None] * b[:, None]  # (B, W, N)
        return h, (h @ c[..., None])[..., 0]

    rows = tuple(part.transpose(0, 1) for part in (delta, delta * u, B, C))
    return over_time(step, u.new_zeros(u.shape[0], *A.shape), rows)[1].transpose(0, 1) + u * D


def write(module: nn.Module, path: Path, inputs: dict[str, Tensor], outputs: Sequence[str], about: dict) -> None:
    """Write `module` as ONNX, for inputs such as these of any length along their first axis. Raises BadInput where ONNX cannot say it."""
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise BadInput(f"tools.export: {error.name} is not installed; pip install -r requirements-app.txt") from None
    axes = ({0: torch.export.Dim.DYNAMIC},) * len(inputs)
    said, name = io.StringIO(), type(getattr(module, "model", module)).__name__  # the graph of what fails is printed
    with warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        named = {"input_names": list(inputs), "output_names": list(outputs), "verbose": False}
        named["dynamic_shapes"] = (axes,) if isinstance(module, Scorer) else axes  # one for *given
        try:
            with mock.patch.object(mamba, "selective_scan", scan), torch.no_grad():
                program = torch.onnx.export(module, tuple(inputs.values()), dynamo=True, **named)
        except torch.onnx.OnnxExporterError as error:
            fault = f"{path.name}: torch.onnx cannot say in ONNX what {name} computes ({reason(error.__cause__ or error)})"
            raise BadInput(f"{fault}; {INSTEAD}") from None
    for end in (*program.model.graph.inputs, *program.model.graph.outputs):
        end.shape[0] = "T"
    program.model.metadata_props.update({key: json.dumps(value) for key, value in about.items()})
    program.save(path)


def check(what: str, expected: Sequence, found: Sequence) -> float:
    """The largest difference, relative to the largest value above 1. Raises BadInput where it is above TOLERANCE."""
    pairs = list(zip(expected, found, strict=True))
    difference = [np.abs(a - b).max() / max(1.0, np.abs(a).max()) if a.shape == b.shape else np.inf for a, b in pairs]
    difference = float(np.max(difference))  # of NaN NaN, which Python's own max may leave out
    if not difference <= TOLERANCE:
        raise BadInput(f"{what}: onnxruntime differs from PyTorch by {difference:.1e}, expected {TOLERANCE:g} at most; nothing was written")
    return difference


def random_inputs(options, rows: int) -> dict[str, Tensor]:
    """What engine.predict takes of a video of so many snippets, by name; features of width 0 where they are not read."""
    reads = SYSTEMS[options.model].inputs(options)
    widths = {"features": options.visual_width if "features" in reads else 0}
    widths |= {"captions": options.caption_width} if "captions" in reads else {}
    return {name: random_features(1, rows, width)[0] for name, width in widths.items()}


def export_scorer(model: nn.Module, options, path: Path, about: dict, lengths: Sequence[int]) -> float:
    """Write scorer.onnx and compare it with engine.predict on videos of so many snippets; the largest difference."""
    system = SYSTEMS[options.model]
    reads = system.inputs(options)
    videos = [(rows, *random_inputs(options, rows).values()) for rows in lengths]
    expected = engine.predict(model, videos, options, torch.device("cpu"))
    gives = expected[lengths[0]].given()
    example = {name: rows for name, rows in random_inputs(options, 2 * options.visual_length + 3).items() if name in reads}
    write(Scorer(model, reads, options.visual_length, system.whole), path, example, gives, about)
    found = exported_scorer(read_onnx(path, "--output", About, torch.get_num_threads(), INSTEAD)[0])(videos)
    return max(
        check(f"{path.name}, {rows} snippets", *([getattr(part[rows], name) for name in gives] for part in (expected, found)))
        for rows in lengths
    )


def export_encoder(images: ImageEncoder, path: Path, counts: Sequence[int] = (1, 3)) -> float:
    """Write encoder.onnx and compare it with PyTorch on so many pictures; the largest difference, relative to the largest feature."""
    pictures = [torch.randint(0, 256, (count, 3, images.size, images.size), dtype=torch.uint8) for count in counts]
    about = {"name": images.name, "size": images.size, "width": images.width, "digest": images.digest()}
    write(images, path, {"pictures": pictures[-1]}, ["features"], about)
    exported = OnnxEncoder(*read_onnx(path, "--output", OnnxImages, torch.get_num_threads()))
    return max(check(f"{path.name}, {len(batch)} pictures", [images(batch).numpy()], [exported(batch).numpy()]) for batch in pictures)


def export(trained: Trained, images: ImageEncoder | None, recipe: Recipe, folder: Path, lengths: Sequence[int] = ()) -> None:
    """Write both files into a folder. lengths: of the videos that scores are compared on, else some round a chunk's and LONGEST."""
    saved, model, options, classes, notes = trained
    about = {"system": options.model, "dataset": options.dataset, "classes": classes, "length": options.visual_length}
    about |= {name: saved.get(name) for name in ("thresholds", "captions", "commit")} | {"notes": notes, "recipe": asdict(recipe)}
    captions = random_inputs(options, 1).get("captions")
    about |= {"encoder": images and images.digest(), "caption_width": captions.shape[1] if captions is not None else None}
    about |= {"options": saved["options"]} if "options" in saved else {}
    lengths = lengths or sorted({1, 2, 37, max(options.visual_length - 1, 1), options.visual_length, options.visual_length + 1, LONGEST})
    difference = export_scorer(model, options, folder / SCORER, about, lengths)
    print(f"{SCORER}: {', '.join(map(str, lengths))} snippets, scores within {difference:.1e} of PyTorch's")
    if images is not None:
        print(f"{ENCODER}: features within {export_encoder(images, folder / ENCODER):.1e} of PyTorch's, of the largest")


def main(argv=None) -> None:
    sizes = parse_sizes(argv)
    about = {"description": __doc__, "formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    parser = Parser("python -m tools.export", parents=[sizes], **about)
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help="best.pt of a run, or one that its authors released")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the two files")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export")
    parser.add_argument("--data", metavar="NAME_OR_PATH", help="with --model: data set of a checkpoint that its authors released")
    parser.add_argument("--encoder", metavar="NAME_OR_FILE", help="image encoder [that of the training features, else the system's]")
    for name in FILES:
        parser.add_argument(f"--{name.replace('_', '-')}", metavar="NAME_OR_PATH", help="if it lies elsewhere than in training")
    options = parser.parse_args(argv)
    options.sizes = vars(sizes.parse_known_args(argv)[0])
    options.model = options.sizes.pop("model", None)
    if (options.model is None) != (options.data is None):
        raise BadInput("--model, --data: say what a released --checkpoint is of; give both, or neither")
    path, output = Path(options.checkpoint), Path(os.path.abspath(options.output))
    torch.manual_seed(0)  # of what is compared
    with only_writer(output):
        if there := [name for name in (SCORER, ENCODER) if (output / name).exists() and not options.overwrite]:
            raise BadInput(f"{output / there[0]}: is there already; replace it with --overwrite, or name another folder with --output")
        if odd := [name for name in (SCORER, ENCODER) if (output / name).exists() and not (output / name).is_file()]:
            raise BadInput(f"{output / odd[0]}: is no regular file; move it, or name another folder with --output")
        released = released_options(options) if options.model else None
        trained = load_trained(path, released=released, files={name: getattr(options, name) for name in FILES}, device="cpu")
        images, recipe = None, Recipe(crops=1)
        if "features" in SYSTEMS[trained.options.model].inputs(trained.options):
            images, recipe = picture_side(trained.saved, trained.model, trained.options, path, options.encoder, 1, None, trained.notes)
        elif options.encoder:
            raise BadInput(f"{path}: reads captions alone; leave --encoder out")
        make_folder(output)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=output) as place:
            export(trained, images, recipe, Path(place))
            for file in sorted(Path(place).iterdir()):
                os.replace(file, output / file.name)
    print(printable(f"{output}: python demo.py VIDEO --runtime onnx --checkpoint {shlex.quote(str(output))}"))


if __name__ == "__main__":
    sys.exit(exit_code(main))
