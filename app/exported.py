"""Scores of a user's own videos by what tools.export wrote, run by onnxruntime. (app/detector.py: by a checkpoint.)

Of what a file is, its metadata says: each value is JSON. T snippets, D feature width, E caption width.
"""

import zlib
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import NotRequired

import torch
from torch import Tensor, nn
from typing_extensions import TypedDict

from app.detector import CROPPED, Detector, caption_side, pick_threshold
from utils.captions.tree import FILLS, Embedded
from utils.checkpoint import Thresholds
from utils.errors import BadInput
from utils.evaluation.scores import Scores
from utils.evaluation.segments import RATE
from utils.reading import OPEN, Plain, Text, Values, check_regular, checked, parse_json, parsing, read_bytes, whole
from utils.video.crops import Recipe
from utils.video.encoder import ImageEncoder

SCORER, ENCODER = "scorer.onnx", "encoder.onnx"
INSTALL = "pip install -r requirements-app.txt"


class About(TypedDict):
    """Metadata of scorer.onnx. options: of the training, absent where the system's authors trained it; encoder: the fingerprint of the
    image encoder that belongs to it, None where it reads captions alone; captions: as in the checkpoint.
    """

    __pydantic_config__ = OPEN

    system: Text
    dataset: Text
    classes: list[Text]
    thresholds: Thresholds | None
    options: NotRequired[dict[Text, Values]]
    length: whole(1, 2**31)
    recipe: dict[Text, Plain]
    encoder: Text | None
    captions: Embedded | None
    caption_width: whole(1, 2**31) | None
    notes: list[Text]
    commit: Text | None


class Images(TypedDict):
    """Metadata of encoder.onnx; digest: the fingerprint of what it was exported from (ImageEncoder.digest)."""

    __pydantic_config__ = OPEN

    name: Text
    size: whole(1, 4096)
    width: whole(1, 2**20)
    digest: Text


def open_exported(path: Path, kind) -> tuple:
    """An onnxruntime session of a file of tools.export, of as many threads as torch has, and its metadata as `kind` declares it. Raises
    BadInput where onnxruntime is missing, or the file is none of those.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise BadInput(f"--runtime onnx: onnxruntime is missing ({error}); {INSTALL}") from None
    check_regular(path, "--checkpoint")
    settings, again = onnxruntime.SessionOptions(), "export it anew (tools.export)"
    settings.intra_op_num_threads, settings.log_severity_level = torch.get_num_threads(), 3
    with parsing(f"{path}: not a model that tools.export wrote", again):
        session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
        found = session.get_modelmeta().custom_metadata_map
    return session, checked(kind, {key: parse_json(text, f"{path}: {key}", again) for key, text in found.items()}, str(path), again)


def exported_scorer(session) -> Callable:
    """`Detector.scorer` of a session of scorer.onnx."""
    reads, gives = ([one.name for one in ends] for ends in (session.get_inputs(), session.get_outputs()))

    def scorer(videos) -> dict:
        found = {}
        for key, *given in videos:
            rows = dict(zip(("features", "captions"), given, strict=False))
            values = session.run(gives, {name: rows[name].float().numpy() for name in reads})
            found[key] = Scores(**dict(zip(gives, values, strict=True)))
        return found

    return scorer


class ExportedEncoder(ImageEncoder):
    """The encoder of a session of encoder.onnx."""

    def __init__(self, session, about: Images):
        super().__init__(nn.Identity(), name=about["name"], size=about["size"], width=about["width"], mean=(0.0,) * 3, std=(1.0,) * 3)
        self.session, self.fingerprint = session, about["digest"]

    def forward(self, pictures: Tensor) -> Tensor:
        """pictures (N, 3, size, size) uint8 -> (N, D) float32, unnormalised."""
        return torch.from_numpy(self.session.run(["features"], {"pictures": pictures.numpy()})[0])

    def digest(self) -> str:
        return self.fingerprint


def load_exported(
    folder: Path,
    *,
    crops: int | None = None,
    keep_aspect: bool | None = None,
    threshold: float | None = None,
    rate: float = RATE,
    caption_encoder: str | None = None,
    caption_pooling: str | None = None,
) -> Detector:
    """A detector, on the CPU, from a folder that tools.export wrote; the arguments are as of app.detector.load_detector, and so are errors.

    Neither openai-clip nor transformers is imported, but for the sentence encoder of a system that reads captions.
    """
    path = folder / SCORER
    if not folder.is_dir():
        raise BadInput(f"{folder}: no folder; with --runtime onnx name one that tools.export wrote")
    session, about = open_exported(path, About)
    notes, sentences, fill, images = list(about["notes"]), None, FILLS[0], None
    more = {"checkpoint": str(folder), "commit": about["commit"], "dataset": about["dataset"], "model": about["system"]}
    more |= {"runtime": "onnx", "scorer_digest": f"{zlib.crc32(read_bytes(path, '--checkpoint', 2**31)):08x}"}
    with parsing(f"{path}: recipe", "export it anew (tools.export)"):
        recipe = Recipe(**about["recipe"])
    if about["caption_width"]:
        sentences, fill = caption_side(about, about["caption_width"], path, caption_encoder, caption_pooling, notes)
        more |= {"caption_encoder_digest": sentences.digest(), "caption_fill": fill}
    if about["encoder"]:
        images = ExportedEncoder(*open_exported(folder / ENCODER, Images))
        if images.digest() != about["encoder"] or images.size != recipe.size:
            raise BadInput(f"{folder / ENCODER}: of another export than {path}; export both anew (tools.export)")
        recipe = replace(recipe, crops=crops or 1, keep_aspect=recipe.keep_aspect if keep_aspect is None else keep_aspect)
        more |= {"encoder": images.name, "encoder_digest": images.digest()}
    elif crops or keep_aspect is not None:
        raise BadInput(f"{path}: reads captions alone; leave --crops and --aspect out")
    value, source = (threshold, "--threshold") if threshold is not None else pick_threshold(about, path, rate)
    return Detector(
        scorer=exported_scorer(session),
        encoder=images,
        recipe=recipe,
        classes=tuple(about["classes"]),
        threshold=value,
        threshold_from=source,
        length=about["length"],
        device=torch.device("cpu"),
        notes=notes + [CROPPED] * (recipe.crops != 1 and threshold is None),
        about=more | {"recipe": asdict(recipe), "precision": "fp32"},
        caption_encoder=sentences,
        fill=fill,
    )
