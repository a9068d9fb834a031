"""Scores of a user's own videos by what tools.export wrote, run by onnxruntime. (app/detector.py: by a checkpoint.)"""

import zlib
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, NotRequired

import torch
from pydantic import Field
from typing_extensions import TypedDict

from app.detector import CROPPED, NO_CAPTIONS, Detector, caption_side, pick_threshold
from utils.captions.tree import FILLS, Embedded
from utils.checkpoint import Thresholds
from utils.errors import BadInput
from utils.evaluation.scores import Scores
from utils.evaluation.segments import RATE
from utils.labels import CROPS
from utils.reading import FRAMES, OPEN, Flag, OnnxModel, Text, Values, parsing, read_bytes, read_onnx, whole
from utils.video.crops import Recipe
from utils.video.encoder import OnnxEncoder, OnnxImages

SCORER, ENCODER = "scorer.onnx", "encoder.onnx"


class Sampling(TypedDict):
    """A Recipe."""

    crops: whole(1, CROPS)
    stride: whole(1, FRAMES)
    keep_aspect: Flag
    size: whole(1, 4096)
    resize: Text


class About(TypedDict):
    """Metadata of scorer.onnx. options: of the training, absent where the system's authors trained it; encoder: the fingerprint of the
    image encoder that belongs to it, None where it reads captions alone; captions: as in the checkpoint.
    """

    __pydantic_config__ = OPEN

    system: Text
    dataset: Text
    classes: Annotated[list[Text], Field(min_length=2)]
    thresholds: Thresholds | None
    options: NotRequired[dict[Text, Values]]
    length: whole(1, 2**31)
    recipe: Sampling
    encoder: Text | None
    captions: Embedded | None
    caption_width: whole(1, 2**31) | None
    notes: list[Text]
    commit: Text | None


def exported_scorer(exported: OnnxModel) -> Callable:
    """`Detector.scorer` of scorer.onnx."""

    def scorer(videos) -> dict:
        found = {}
        for key, *given in videos:
            rows = dict(zip(("features", "captions"), given, strict=False))
            found[key] = Scores(**exported(**{name: rows[name].float().numpy() for name in exported.reads}))
        return found

    return scorer


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
    scorer, about = read_onnx(path, "--checkpoint", About, torch.get_num_threads())
    notes, sentences, fill, images = list(about["notes"]), None, FILLS[0], None
    more = {"checkpoint": str(folder), "commit": about["commit"], "dataset": about["dataset"], "model": about["system"]}
    more |= {"runtime": "onnx", "scorer_digest": f"{zlib.crc32(read_bytes(path, '--checkpoint', 2**31)):08x}"}
    with parsing(f"{path}: recipe", "export it anew (tools.export)"):
        recipe = Recipe(**about["recipe"])
    if about["caption_width"]:
        sentences, fill = caption_side(about, about["caption_width"], path, caption_encoder, caption_pooling, notes)
        more |= {"caption_encoder_digest": sentences.digest(), "caption_fill": fill}
    elif caption_encoder or caption_pooling:
        raise BadInput(f"{path}: {NO_CAPTIONS}")
    if about["encoder"]:
        images = OnnxEncoder(*read_onnx(folder / ENCODER, "--checkpoint", OnnxImages, torch.get_num_threads()))
        if images.digest() != about["encoder"] or images.size != recipe.size:
            raise BadInput(f"{folder / ENCODER}: of another export than {path}; export both anew (tools.export)")
        recipe = replace(recipe, crops=crops or 1, keep_aspect=recipe.keep_aspect if keep_aspect is None else keep_aspect)
        more |= {"encoder": images.name, "encoder_digest": images.digest()}
    elif crops or keep_aspect is not None:
        raise BadInput(f"{path}: reads captions alone; leave --crops and --aspect out")
    widths = {"features": images and images.width, "captions": about["caption_width"], "fine": len(about["classes"])}
    widths = {name: ("tensor(float)", [width]) for name, width in widths.items()}
    scorer.check(widths | dict.fromkeys(("coarse", "online"), ("tensor(float)", [])))
    value, source = (threshold, "--threshold") if threshold is not None else pick_threshold(about, path, rate)
    return Detector(
        scorer=exported_scorer(scorer),
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
