"""Scores of a user's own videos by a trained checkpoint. (app/zero_shot.py: by text alone; app/exported.py: by an exported one.)

T snippets, K crops, D feature width, C+1 classes (class 0 = normal).
"""

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from app.analysis import Analysis, find_segments
from app.live.follower import look_ahead
from model import SYSTEMS
from utils import checkpoint, devices, engine, loading, restore
from utils.captions.embedding import caption_features, embed
from utils.captions.formats import VideoCaptions
from utils.captions.tree import FILLS
from utils.datasets import load_dataset
from utils.errors import BadInput
from utils.evaluation.scores import Scores
from utils.evaluation.segments import RATE, known_threshold, unknown_threshold
from utils.labels import SNIPPET, video_name
from utils.options import Resolved
from utils.text import POOLING, CLIPText, SentenceText, load_sentence_text
from utils.video.crops import UNNAMED, Recipe
from utils.video.decoder import Limits
from utils.video.encoder import CLIPEncoder, ImageEncoder, load_encoder, short_name
from utils.video.extraction import Extracted, encode, extract
from utils.video.frames import BrokenVideo

WINDOWS = 64  # snippets whose windows are scored together
LATE = "Scored as a live stream, which sees little of what follows; the threshold was measured on whole videos."
NO_CAPTIONS = "reads no captions; leave --caption-encoder and --caption-pooling out"
CROPPED = "The mean of several crops; the threshold was measured on one."


@dataclass
class Detector:
    """What scores videos. `scorer` takes (key, features (T, D)[, captions (T, E)]) of any number of videos and gives {key: Scores}.

    length: snippets that it sees at a time; threshold, notes, about: see app.analysis.Analysis; encoder: None for systems that read
    captions alone; caption_encoder: for systems that read captions, else None; fill: what rows without a sentence get there, one of
    utils.captions.tree.FILLS.
    """

    scorer: Callable
    encoder: ImageEncoder | None
    recipe: Recipe
    classes: tuple[str, ...]
    threshold: float
    threshold_from: str
    length: int
    device: torch.device
    precision: str = "fp32"
    notes: list[str] = field(default_factory=list)
    about: dict = field(default_factory=dict)
    caption_encoder: nn.Module | None = None
    fill: str = FILLS[0]

    def encode(self, pictures: Sequence[np.ndarray]) -> Tensor:
        """Pictures (h, w, 3) uint8 as `recipe.fit` gives them -> features (n, K, D) float32 on the CPU."""
        return torch.from_numpy(encode(list(pictures), self.encoder, self.recipe, len(pictures), self.precision))

    def score(self, features: Tensor, captions: Tensor | None = None) -> Scores:
        """features (T, K, D) of a whole video, captions (T, E) of a system that reads some -> its scores, the mean over the crops.

        Cut into chunks of `length` snippets, as in testing.
        """
        more = () if captions is None else (captions,)
        return mean_scores(list(self.scorer([(crop, features[:, crop], *more) for crop in range(features.shape[1])]).values()))

    def score_delayed(self, features: Tensor, ahead: int, captions: Tensor | None = None) -> Scores:
        """features (T, K, D) -> what a live stream gets: snippet t is scored in the window of `length` snippets that ends with snippet
        t + ahead, or with the last one. So it sees `ahead` < `length` snippets of its future, at most.
        """
        total, rows = len(features), []
        for at in range(0, total, WINDOWS):
            windows, places = [], []
            for t in range(at, min(at + WINDOWS, total)):
                end = min(t + ahead + 1, total)
                start = max(0, end - self.length)
                more = () if captions is None else (captions[start:end],)
                windows += [((t, crop), features[start:end, crop], *more) for crop in range(features.shape[1])]
                places.append((t, t - start))
            found = self.scorer(windows)
            for t, row in places:
                crops = [one_row(found[t, crop], row) for crop in range(features.shape[1])]
                rows.append(mean_scores(crops))
        return Scores(*(None if column[0] is None else np.concatenate(column) for column in zip(*rows, strict=True)))

    def analyse(
        self,
        path: Path | str,
        *,
        captions: VideoCaptions | None = None,
        latency: float | None = None,
        limits: Limits | None = None,
        progress: Callable | None = None,
    ) -> Analysis:
        """Decode, encode and score one video file.

        captions: its captions, which a segment is quoted with, and which a system that reads captions needs; latency: score it as a live
        stream with this delay in seconds would be (`score_delayed`), else as a whole; progress: see utils.video.extraction.extract.
        Raises BrokenVideo where it is no sound video, BadInput where captions are missing.
        """
        return self.of_features(self.extract(path, captions, limits=limits, progress=progress), captions, latency)

    def extract(
        self, path: Path | str, captions: VideoCaptions | None = None, *, limits: Limits | None = None, progress: Callable | None = None
    ) -> Extracted:
        """The features of one video file. Raises as `analyse` does."""
        if self.caption_encoder is not None and captions is None:
            found = f"{self.about.get('checkpoint')} reads captions, and there are none of {video_name(str(path))}"
            raise BadInput(f"{path}: {found}; write some (tools.caption_videos), and name them with --captions")
        more = {"device": self.device, "precision": self.precision, "limits": limits or Limits(), "progress": progress}
        [video] = extract([Path(path)], self.encoder, self.recipe, **more)
        if isinstance(video, BrokenVideo):
            raise video
        return video

    def score_between(self, features: Tensor, rows: Tensor | None, ahead: int | None, before, after) -> Scores:
        """The scores of the snippets `features`; ahead: None, or as in `score_delayed`; before, after: as in `of_features`."""
        if not before and not after:
            return self.score(features, rows) if ahead is None else self.score_delayed(features, ahead, rows)
        past = sum(len(one.features) for one, _ in before)
        kept = min(past, self.length // 2 if ahead is None else self.length - 1)
        stop = past + len(features) + (-(kept + len(features)) % self.length if ahead is None else ahead)

        def joined(own: Tensor, of) -> Tensor:
            return torch.cat([*(of(*one) for one in before), own, *(of(*one) for one in after)])[past - kept : stop]

        inputs = joined(features, lambda one, _: torch.from_numpy(one.features))
        texts = None if rows is None else joined(rows, lambda one, said: self.caption_features(said, len(one.features)))
        scores = self.score(inputs, texts) if ahead is None else self.score_delayed(inputs, ahead, texts)
        return Scores(*(None if part is None else part[kept : kept + len(features)] for part in scores))

    def about_video(self, path: Path, captions: VideoCaptions | None, latency: float | None) -> dict:
        """What the analysis of a file depends on: Analysis.about."""
        source = {"path": str(path.resolve())}
        if path.exists():
            source |= {"bytes": path.stat().st_size, "modified": path.stat().st_mtime_ns}
        if captions is not None:
            source["captions"] = f"{zlib.crc32(repr(captions.captions).encode(errors='replace')):08x}"
        return self.about | {"source": source} | ({} if latency is None else {"latency": latency})

    def of_features(
        self,
        video: Extracted,
        captions: VideoCaptions | None = None,
        latency: float | None = None,
        before: Sequence[tuple[Extracted, VideoCaptions | None]] = (),
        after: Sequence[tuple[Extracted, VideoCaptions | None]] = (),
    ) -> Analysis:
        """The analysis of a video whose features are there. before, after: videos (with their captions) that it goes on from and that go on
        from it, in order of time. The scores see up to half a window of the former, and of the latter what fills the last window; with a
        latency as much of both as a stream's.
        """
        features, rows = torch.from_numpy(video.features), None
        if self.caption_encoder is not None:
            rows = self.caption_features(captions, len(features))
        fps = video.fps or (self.recipe.stride * len(features) / video.times[-1] if video.times[-1] > 0 else 25.0)
        ahead = None if latency is None else look_ahead(latency, fps, self.recipe.stride, self.length)
        scores = self.score_between(features, rows, ahead, before, after)
        said = {"captions": captions.captions if captions else (), "stride": self.recipe.stride}
        segments = find_segments(scores, video.times, self.classes, self.threshold, frames=video.frames, **said)
        said |= {name: getattr(video, name) for name in ("frames", "fps", "size", "times", "thumbnails")}
        said |= {name: getattr(self, name) for name in ("classes", "threshold", "threshold_from")}
        notes = self.notes + [LATE] * (latency is not None) + video.notes + of_another(captions, video.frames)
        path, about = Path(video.path), self.about_video(Path(video.path), captions, latency)
        return Analysis(path=path, name=path.stem, scores=scores, segments=segments, notes=notes, about=about, **said)

    def caption_features(self, captions: VideoCaptions, rows: int) -> Tensor:
        """(rows, E) float32 of captions, as tools.embed_captions makes them. Raises BadInput where all are empty."""
        texts = sorted({caption.text for caption in captions.captions if caption.text})
        if not texts:
            raise BadInput("--captions: every caption is empty, and the checkpoint reads them; write them anew (tools.caption_videos)")
        vectors = dict(zip(texts, embed(texts, self.caption_encoder, batch_size=256), strict=True))
        width = self.caption_encoder.output_width
        return torch.from_numpy(caption_features(captions.captions, vectors, length=rows, width=width, fill=self.fill)).float()


def of_another(captions: VideoCaptions | None, frames: int) -> list[str]:
    """A note where captions are of a video of another length."""
    if captions is None or captions.frames is None or abs(captions.frames - frames) < SNIPPET:
        return []
    return [f"Its captions are of a video of {captions.frames:,.0f} frames, this one has {frames:,}: they may be another's."]


def one_row(scores: Scores, row: int) -> Scores:
    """Scores of the snippet `row` alone, T = 1."""
    return Scores(*(None if part is None else part[row : row + 1] for part in scores))


def mean_scores(crops: list[Scores]) -> Scores:
    """The mean over crops of the same video."""
    return Scores(*(None if column[0] is None else np.mean(column, axis=0) for column in zip(*crops, strict=True)))


def pick_threshold(saved: dict, path: Path, rate: float) -> tuple[float, str]:
    """The threshold that training saved for a false-positive rate, of a released checkpoint the one where none is known; and where it comes
    from, in words. Else BadInput.
    """
    known = saved.get("thresholds")
    if found := known_threshold(known, rate):
        return found
    if "options" not in saved:
        value, why = unknown_threshold(rate)
        return value, f"{why}; --threshold sets another"
    if known is None and saved["options"]["select"] == "val":
        why = "its training is not finished; finish it (--resume)"
    elif known is None:
        why = f"training measured none (--select {saved['options']['select']}); train with --select val"
    else:
        held_out = f"{known['snippets']} snippets of {known['videos']} normal videos were held out for it"
        why = f"{held_out}, expected {math.ceil(1 / rate)} or more; train with a larger --val-share"
        why += f", ask for --false-positives {' or '.join(known['rates'])}" if known["rates"] else ""
    raise BadInput(f"{path}: no threshold for --false-positives {rate:g}: {why}, or give the threshold: --threshold 0.5")


class Trained(NamedTuple):
    """A checkpoint and its network, before anything is said of images and captions; notes: what a user should know of it."""

    saved: dict
    model: nn.Module
    options: Resolved
    classes: tuple[str, ...]
    notes: list[str]


def load_trained(
    path: Path, *, released: Resolved | None = None, files: dict | None = None, device: str = "auto", precision: str = "fp32"
) -> Trained:
    """The network of a checkpoint; arguments and errors as of `load_detector`."""
    saved = checkpoint.load(path)
    given = {name: value for name, value in (files or {}).items() if value is not None} | {"device": device, "precision": precision}
    if "options" in saved:
        if released is not None:
            raise BadInput(f"{path}: a checkpoint of ours says itself what it is of; leave --model and --data out")
        options, classes = restore.saved_options(saved, path, **given), tuple(saved["classes"])
    elif released is None:
        raise BadInput(f"{path}: a released state dict does not say which system and classes it is of; name them with --model and --data")
    else:
        options, classes = replace(released, **given), load_dataset(released.data).names
    model, notes = loading.load_model(options, options.seed, classes), []
    if "options" in saved:
        restore.matches(saved, model, path)
    checkpoint.load_trained_state(model, saved["weights"], path)
    if options.sample:
        notes.append("The checkpoint was trained on the built-in sample of simulated features: its scores say nothing about this video.")
    return Trained(saved, model.eval(), options, classes, notes)


def load_detector(
    path: Path,
    *,
    released: Resolved | None = None,
    encoder: str | None = None,
    files: dict | None = None,
    crops: int | None = None,
    keep_aspect: bool | None = None,
    threshold: float | None = None,
    rate: float = RATE,
    caption_encoder: str | None = None,
    caption_pooling: str | None = None,
    device: str = "auto",
    precision: str = "fp32",
) -> Detector:
    """A detector from a checkpoint of ours, or from a state dict that a system's authors released.

    released: of the latter the options that say its system, sizes and data set; encoder: image encoder, else that of the training features,
    or, where that is not known, the CLIP that the checkpoint's text side is, or what the system's paper has; files: model files that lie
    elsewhere than in training (`clip`, `distilbert`, `sentence_encoder`, `text_features`); crops: 1 (None), 5 or 10, whose scores are
    averaged; keep_aspect: else as in the training features; threshold: else the one that training saved for the false-positive rate `rate`;
    caption_encoder, caption_pooling: else those of the training captions.
    Raises BadInput for whatever does not fit.
    """
    place = devices.encoding_device(device, precision)
    saved, model, options, classes, notes = load_trained(path, released=released, files=files, device=device, precision=precision)
    about = {"checkpoint": str(path), "commit": saved.get("commit"), "dataset": options.dataset, "model": options.model}
    reads, sentences, fill, images, recipe = SYSTEMS[options.model].inputs(options), None, FILLS[0], None, Recipe(crops=1)
    if "captions" in reads:
        sentences, fill = caption_side(saved, options.caption_width, path, caption_encoder, caption_pooling, notes)
        about |= {"caption_encoder_digest": sentences.to(place).digest(), "caption_fill": fill}
    elif caption_encoder or caption_pooling:
        raise BadInput(f"{path}: {NO_CAPTIONS}")
    if "features" in reads:
        images, recipe = picture_side(saved, model, options, path, encoder, crops or 1, keep_aspect, notes)
        about |= {"encoder": images.name, "encoder_digest": images.to(place).digest()}
    elif encoder or crops or keep_aspect is not None:
        raise BadInput(f"{path}: reads captions alone; leave --encoder, --crops and --aspect out")
    value, source = (threshold, "--threshold") if threshold is not None else pick_threshold(saved, path, rate)
    if recipe.crops != 1 and threshold is None:
        notes.append(CROPPED)
    with torch.inference_mode(), devices.autocast(place, precision):
        text = model.text_features()
    return Detector(
        scorer=lambda videos: engine.predict(model, videos, options, place, text=text),
        encoder=images and images.eval(),
        recipe=recipe,
        classes=classes,
        threshold=value,
        threshold_from=source,
        length=options.visual_length,
        device=place,
        precision=precision,
        notes=notes,
        about=about | {"recipe": asdict(recipe), "precision": precision},
        caption_encoder=sentences,
        fill=fill,
    )


def caption_side(saved: dict, width: int, path: Path, name: str | None, pooling: str | None, notes: list[str]) -> tuple[SentenceText, str]:
    """The sentence encoder of the captions, by default the one that made the training captions, and what rows without a sentence get, as in
    training. Raises BadInput where it is another one, or not to be had.
    """
    made = saved.get("captions")
    if name is None and made is None:
        raise BadInput(f"{path}: reads captions; name the sentence encoder of its caption features with --caption-encoder")
    try:
        known = (made or {}).get("pooling")  # several joined only an encoder's own files can say
        sentences = load_sentence_text(name or made["encoder"], "--caption-encoder", pooling or (known if known in POOLING else None))
    except BadInput as error:
        if name:
            raise
        found = f"{path}: trained on captions as {made['encoder']} encodes them"
        raise BadInput(f"{found}; say where it lies: --caption-encoder ({error})") from None
    found = f"--caption-encoder {name or made['encoder']}"
    if sentences.output_width != width:
        raise BadInput(f"{found}: vectors of width {sentences.output_width}, {path} reads {width}; name the encoder of its captions")
    if made is None:
        fill = FILLS[0]
        notes += [f"{note}; --caption-pooling chooses"] if (note := sentences.note) else []
        notes.append(
            f"The checkpoint does not say how its captions became features; rows without a sentence are taken as in --fill {fill}."
        )
        return sentences, fill
    if made["encoder_digest"] != sentences.digest():
        wanted = f"those that made the caption features of {path} ({made['encoder']})"
        raise BadInput(f"{found}: other weights or --caption-pooling than {wanted}; name those")
    return sentences, made["fill"]


def picture_side(
    saved: dict, model: nn.Module, options, path: Path, encoder: str | None, crops: int, keep_aspect: bool | None, notes: list[str]
) -> tuple[ImageEncoder, Recipe]:
    """The image encoder, and how it is shown a picture, as in training where that is known. Raises BadInput where they do not fit."""
    made = saved.get("features")
    if encoder:
        images = load_encoder(encoder, "--encoder")
    else:
        images = own_encoder(model, options.clip, made, path, None if "options" in saved else SYSTEMS[options.model].encoder)
    if images.width != options.visual_width:
        found = f"features of width {images.width}, {path} reads {options.visual_width}"
        raise BadInput(f"--encoder {images.name}: {found}; name the encoder that its training features were made with")
    if made is None and not options.sample:
        notes.append(f"The checkpoint does not say what made its features; {images.name} was taken.")
    if made is not None and made["encoder"]["digest"] != images.digest():
        wanted = f"those that made the training features of {path} ({made['encoder']['name']})"
        raise BadInput(f"--encoder {images.name}: other weights than {wanted}; name those")
    said = made["recipe"] if made else {"resize": Recipe.resize}
    if keep_aspect is None:
        keep_aspect = said.get("aspect") == "keep"
    seen = {"stride": said.get("stride", SNIPPET), "resize": said.get("resize", UNNAMED), "size": images.size}
    return images, Recipe(crops=crops, keep_aspect=keep_aspect, **seen)


def own_encoder(model: nn.Module, clip: str, made: dict | None, path: Path, paper: str | None = None) -> ImageEncoder:
    """The encoder that made the training features, as `made` (the checkpoint's "features") says: the visual side of the CLIP that is the
    model's text side where it is that one, else what goes by its name. Where it is not known, that of the text side; where that is another
    encoder, or none, what the system's paper has (`paper`), else that of the CLIP named `clip`. Raises BadInput where it cannot be had by
    its name.
    """
    for part in checkpoint.frozen_parts(model).values():
        if isinstance(part, CLIPText):
            images = CLIPEncoder(part.module, short_name(clip))
            if made is None or made["encoder"]["digest"] == images.digest():
                return images
    if made is None and paper is None:
        return load_encoder(clip, "--clip")
    name = made["encoder"]["name"] if made else paper
    try:
        return load_encoder(clip if Path(clip).name == name else name)
    except BadInput as error:
        raise BadInput(f"{path}: trained on features of {name}; name that encoder, or its file, with --encoder ({error})") from None
