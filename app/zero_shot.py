"""Events that a user names, found by CLIP's text side alone: nothing is trained (zero-shot classification, Radford et al. 2021).

On the five UCF-Crime videos whose real CLIP ViT-B/16 features are at hand this is no better than chance: with the class names and "normal
event" as texts frame AUC is 0.25 to 0.96 by video, 0.45 over all, and every snippet scores above 0.5; the score of a video's own class
alone gives 0.34 to 0.85. So a threshold means little here, and a user is told so.
"""

from collections.abc import Sequence
from dataclasses import asdict

import torch

from app.detector import Detector
from utils import devices
from utils.errors import BadInput
from utils.evaluation.scores import Scores
from utils.prompt import PositionPrompt, cosine
from utils.text import CLIPText, load_clip
from utils.video.crops import Recipe
from utils.video.encoder import CLIPEncoder, short_name

NORMAL = ("a video of nothing happening", "a video of people walking", "a video of an empty place")
TEMPLATE = "a video of {}"


def text_detector(
    clip: str,
    events: Sequence[str],
    *,
    normal: Sequence[str] = NORMAL,
    crops: int = 1,
    keep_aspect: bool | None = None,
    threshold: float | None = None,
    device: str = "auto",
    precision: str = "fp32",
) -> Detector:
    """A snippet's class probabilities are the softmax of CLIP's logit scale times the cosine of its feature and each text, "a video of
    EVENT" and the `normal` descriptions, whose probabilities add up to that of class 0. Raises BadInput for an empty or double event.
    """
    events = [" ".join(event.split()) for event in events]
    if not all(events) or len({event.lower() for event in events} | {"normal"}) <= len(events):
        raise BadInput(f"--classes {' '.join(map(repr, events))}: expected different names of events, none of them empty or 'normal'")
    place, model = devices.encoding_device(device, precision), load_clip(clip)
    described, scale = [*normal, *(TEMPLATE.format(event) for event in events)], float(model.logit_scale.detach().exp())
    try:
        with torch.inference_mode():
            texts = PositionPrompt(described, CLIPText(model), prefix=0, postfix=0).encoded()
    except BadInput as error:  # too long for CLIP
        raise BadInput(f"--classes, --normal: {error}") from None
    images = CLIPEncoder(model, short_name(clip))

    def scorer(videos) -> dict:
        found = {}
        for key, features in videos:
            probabilities = (scale * cosine(features, texts)).softmax(-1)
            of_normal = probabilities[:, : len(normal)].sum(-1, keepdim=True)
            found[key] = Scores(fine=torch.cat([of_normal, probabilities[:, len(normal) :]], 1).numpy())
        return found

    recipe = Recipe(crops=crops, keep_aspect=bool(keep_aspect), size=images.size, resize="bicubic")  # as CLIP itself was trained
    own = "--threshold" if threshold is not None else "0.5, where an event is likelier than none: by text alone there is no validation data"
    return Detector(
        scorer=scorer,
        encoder=images.to(place).eval(),
        recipe=recipe,
        classes=("normal", *events),
        threshold=0.5 if threshold is None else threshold,
        threshold_from=own,
        length=1,
        device=place,
        precision=precision,
        notes=[
            "Events are found by their names alone (zero-shot CLIP), without training: good for looking, not for alarms "
            "(docs/own-videos.md)."
        ],
        about={
            "texts": described,
            "encoder": images.name,
            "encoder_digest": images.digest(),
            "recipe": asdict(recipe),
            "precision": precision,
        },
    )
