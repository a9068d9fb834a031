"""Scores of a user's own videos by a trained checkpoint. (app/zero_shot.py: by text alone.)

T snippets, K crops, D feature width, C+1 classes (class 0 = normal).
"""

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from app.analysis import Analysis, choose_thumbnails, find_segments, shown
from app.live.follower import look_ahead
from model import SYSTEMS
from utils import checkpoint, engine, loading, restore
from utils.captions.embedding import caption_features, embed
from utils.captions.formats import VideoCaptions
from utils.errors import BadInput
from utils.evaluation.scores import Scores
from utils.evaluation.segments import RATE, anomaly_score, carrying, known_threshold
from utils.labels import SNIPPET
from utils.text import CLIPText, load_sentence_text
from utils.video.crops import UNNAMED, Recipe
from utils.video.decoder import Limits
from utils.video.encoder import CLIPEncoder, ImageEncoder, load_encoder, short_name
from utils.video.extraction import Extracted, encode, extract
from utils.video.frames import BrokenVideo

WINDOWS = 64  # snippets whose windows are scored together
LATE = "Scored as a live stream, which sees little of what follows; the threshold was measured on whole videos."
CROPPED = "The mean of several crops; the threshold was measured on one."


@dataclass
class Detector:
    """What scores videos. `scorer` takes (key, features (T, D)[, captions (T, E)]) of any number of videos and gives {key: Scores}.

    length: snippets that it sees at a time; threshold, notes, about: see app.analysis.Analysis; caption_encoder: for systems that read
    captions, else None.
    """

    scorer: Callable
    encoder: ImageEncoder
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
        if self.caption_encoder is not None and captions is None:
            raise BadInput(f"{path}: the checkpoint reads captions, and there are none; write them (tools.caption_videos), name --captions")
        [video] = extract(
            [Path(path)],
            self.encoder,
            self.recipe,
            device=self.device,
            precision=self.precision,
            limits=limits or Limits(),
            progress=progress,
        )
        if isinstance(video, BrokenVideo):
            raise video
        return self.of_features(video, captions, latency)

    def about_video(self, path: Path, captions: VideoCaptions | None, latency: float | None) -> dict:
        """What the analysis of a file depends on: Analysis.about."""
        source = {"path": str(path.resolve())}
        if path.exists():
            source |= {"bytes": path.stat().st_size, "modified": path.stat().st_mtime_ns}
        if captions is not None:
            source["captions"] = f"{zlib.crc32(repr(captions.captions).encode(errors='replace')):08x}"
        return self.about | {"source": source} | ({} if latency is None else {"latency": latency})

    def of_features(self, video: Extracted, captions: VideoCaptions | None = None, latency: float | None = None) -> Analysis:
        """The analysis of a video whose features are there."""
        features = torch.from_numpy(video.features)
        rows = None
        if self.caption_encoder is not None:
            rows = self.caption_features(captions, len(features))
        fps = video.fps or (self.recipe.stride * len(features) / video.times[-1] if video.times[-1] > 0 else 25.0)
        scores = (
            self.score(features, rows)
            if latency is None
            else self.score_delayed(features, look_ahead(latency, fps, self.recipe.stride, self.length), rows)
        )
        segments = find_segments(scores, video.times, self.classes, self.threshold)
        if captions is not None:
            values, size = anomaly_score(scores), self.recipe.stride
            whole = max(len(values), -(-video.frames // size))  # frames behind the last whole snippet belong to it
            ends = [whole if one.last == len(values) else one.last for one in segments]
            quotes = [carrying(one.first, end, values, captions.captions, size) for one, end in zip(segments, ends, strict=True)]
            segments = [one._replace(caption=quote) for one, quote in zip(segments, quotes, strict=True)]
        path = Path(video.path)
        return Analysis(
            path=path,
            name=path.stem,
            frames=video.frames,
            fps=video.fps,
            size=video.size,
            times=video.times,
            scores=scores,
            classes=self.classes,
            threshold=self.threshold,
            threshold_from=self.threshold_from,
            segments=segments,
            thumbnails=choose_thumbnails(video.thumbnails, [peak for _, peak in shown(segments, anomaly_score(scores), video.times)]),
            notes=self.notes + [LATE] * (latency is not None) + video.notes,
            about=self.about_video(path, captions, latency),
        )

    def caption_features(self, captions: VideoCaptions, rows: int) -> Tensor:
        """(rows, E) float32 of captions, as tools.embed_captions makes them."""
        texts = sorted({caption.text for caption in captions.captions if caption.text})
        if not texts:
            raise BadInput("--captions: every caption is empty, and the checkpoint reads them; write them anew (tools.caption_videos)")
        vectors = dict(zip(texts, embed(texts, self.caption_encoder, batch_size=256), strict=True))
        width = self.caption_encoder.output_width
        return torch.from_numpy(caption_features(captions.captions, vectors, length=rows, width=width, fill="zeros")[0]).float()


def one_row(scores: Scores, row: int) -> Scores:
    """Scores of the snippet `row` alone, T = 1."""
    return Scores(*(None if part is None else part[row : row + 1] for part in scores))


def mean_scores(crops: list[Scores]) -> Scores:
    """The mean over crops of the same video."""
    return Scores(*(None if column[0] is None else np.mean(column, axis=0) for column in zip(*crops, strict=True)))


def pick_threshold(saved: dict, path: Path, rate: float) -> tuple[float, str]:
    """The threshold that training saved for a false-positive rate, and where it comes from, in words. Else BadInput."""
    known = saved.get("thresholds")
    if found := known_threshold(known, rate):
        return found
    if known is None and saved["options"]["select"] == "val":
        why = "its training is not finished; finish it (--resume)"
    elif known is None:
        why = f"training measured none (--select {saved['options']['select']}); train with --select val"
    else:
        held_out = f"{known['snippets']} snippets of {known['videos']} normal videos were held out"
        why = f"{held_out}, expected {math.ceil(1 / rate)} or more; train with a larger --val-share"
        why += f", ask for --false-positives {' or '.join(known['rates'])}" if known["rates"] else ""
    raise BadInput(f"{path}: no threshold for --false-positives {rate:g}: {why}, or give the threshold: --threshold 0.5")


def load_detector(
    path: Path,
    *,
    encoder: str | None = None,
    files: dict | None = None,
    crops: int = 1,
    keep_aspect: bool | None = None,
    threshold: float | None = None,
    rate: float = RATE,
    caption_encoder: str | None = None,
    caption_pooling: str | None = None,
    device: str = "auto",
    precision: str = "fp32",
) -> Detector:
    """A detector from a checkpoint of ours.

    encoder: image encoder, else that of the training features, or, where that is not known, the CLIP that the checkpoint's text side is;
    files: model files that lie elsewhere than in training (`clip`, `distilbert`, `sentence_encoder`, `text_features`); crops: 1, 5 or 10,
    whose scores are averaged; keep_aspect: else as in the training features; threshold: else the one that training saved for the
    false-positive rate `rate`.
    Raises BadInput for whatever does not fit.
    """
    saved = checkpoint.load(path)
    if "options" not in saved:
        raise BadInput(f"{path}: a released state dict does not say which system and classes it is of; name a best.pt of a run of ours")
    given = {name: value for name, value in (files or {}).items() if value is not None}
    options = restore.saved_options(saved, path, **given, device=device, precision=precision)
    reads = SYSTEMS[options.model].inputs(options)
    if "features" not in reads:
        raise BadInput(f"{path}: trained on {' and '.join(reads)} alone, sees no video; name one that was trained on features, too")
    if "captions" in reads and caption_encoder is None:
        raise BadInput(f"{path}: reads captions; name --captions and the sentence encoder of its caption features, --caption-encoder")
    model = loading.load_model(options, saved["options"]["seed"], saved["classes"])
    restore.matches(saved, model, path, options)
    checkpoint.load_trained_state(model, saved["weights"], path)
    place = engine.pick_device(device)
    notes = []
    sentences = None
    if "captions" in reads:
        sentences = load_sentence_text(caption_encoder, "--caption-encoder", caption_pooling).to(place)
        notes += [f"{note}; --caption-pooling chooses"] if (note := sentences.note) else []
    if options.sample:
        notes.append("The checkpoint was trained on the built-in sample of simulated features: its scores say nothing about this video.")
    images = load_encoder(encoder, "--encoder") if encoder else own_encoder(model, options.clip, saved.get("features"), path)
    if images.width != options.visual_width:
        raise BadInput(
            f"--encoder {images.name}: features of width {images.width}, {path} reads {options.visual_width}; "
            f"name the encoder that its training features were made with"
        )
    made = check_encoder(saved, images, path, notes)
    value, source = (threshold, "--threshold") if threshold is not None else pick_threshold(saved, path, rate)
    if crops != 1 and threshold is None:
        notes.append(CROPPED)
    if keep_aspect is None:
        keep_aspect = made.get("aspect") == "keep"
    resize = made.get("resize", UNNAMED) if made else Recipe.resize
    recipe = Recipe(crops=crops, stride=made.get("stride", SNIPPET), keep_aspect=keep_aspect, size=images.size, resize=resize)
    with torch.inference_mode(), engine.autocast(place, precision):
        text = model.eval().text_features()
    return Detector(
        scorer=lambda videos: engine.predict(model, videos, options, place, text=text),
        encoder=images.to(place).eval(),
        recipe=recipe,
        classes=tuple(saved["classes"]),
        threshold=value,
        threshold_from=source,
        length=options.visual_length,
        device=place,
        precision=precision,
        notes=notes,
        about={
            "checkpoint": str(path),
            "commit": saved["commit"],
            "dataset": options.dataset,
            "model": options.model,
            "encoder": images.name,
            "encoder_digest": images.digest(),
            "recipe": asdict(recipe),
            "precision": precision,
        },
        caption_encoder=sentences,
    )


def own_encoder(model: nn.Module, clip: str, made: dict | None, path: Path) -> ImageEncoder:
    """The encoder that made the training features, as `made` (the checkpoint's "features") says: the visual side of the CLIP that is the
    model's text side where it is that one, else what goes by its name. Where it is not known, that of the text side; where that is another
    encoder, or none, of the CLIP named `clip`. Raises BadInput where it cannot be had by its name.
    """
    for part in checkpoint.frozen_parts(model).values():
        if isinstance(part, CLIPText):
            images = CLIPEncoder(part.module, short_name(clip))
            if made is None or made["encoder"]["digest"] == images.digest():
                return images
    if made is None:
        return load_encoder(clip, "--clip")
    name = made["encoder"]["name"]
    try:
        return load_encoder(clip if Path(clip).name == name else name)
    except BadInput as error:
        raise BadInput(f"{path}: trained on features of {name}; name that encoder, or its file, with --encoder ({error})") from None


def check_encoder(saved: dict, images: ImageEncoder, path: Path, notes: list[str]) -> dict:
    """The recipe of the training features, {} where the checkpoint does not say, with a note. Raises BadInput where another encoder made
    them.
    """
    made = saved.get("features")
    if made is None:
        if not saved["options"].get("sample"):
            notes.append(f"The checkpoint does not say what made its features; {images.name} was taken.")
        return {}
    if made["encoder"]["digest"] != images.digest():
        raise BadInput(
            f"--encoder {images.name}: other weights than those that made the training features of {path} "
            f"({made['encoder']['name']}); name those"
        )
    return made["recipe"]
