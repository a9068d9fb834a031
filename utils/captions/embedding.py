"""Captions as features: one row per snippet, the mean of the embeddings of the sentences that overlap it in time. T rows, D columns."""

import numpy as np
import torch

from utils.captions.formats import Caption, snippets
from utils.text import SentenceText


def caption_features(captions: list[Caption], vectors: dict[str, np.ndarray], *, length: int, width: int, fill: str) -> np.ndarray:
    """Rows (length, width) float64 of a video.

    Rows that no sentence covers are zero, or that of the last covered snippet before (`previous`; zero before the first), or of the
    `nearest`.
    """
    total, count = np.zeros((length, width), np.float32), np.zeros(length, np.int64)
    for start, end, text, _ in captions:
        if text:
            rows = snippets(start, end, length)
            total[rows] += vectors[text]
            count[rows] += 1
    features = total / np.maximum(count, 1)[:, None]
    covered = np.flatnonzero(count)
    if fill != "zeros" and len(covered):
        row = np.arange(length)
        before = covered[np.maximum(np.searchsorted(covered, row, side="right") - 1, 0)]  # last covered row up to this one, else the first
        after = covered[np.minimum(np.searchsorted(covered, row), len(covered) - 1)]  # first covered row from this one on, else the last
        if fill == "previous":
            features = features[before] * (before <= row)[:, None]
        else:
            features = features[np.where(np.abs(after - row) < np.abs(row - before), after, before)]
    return features


@torch.inference_mode()
def embed(sentences: list[str], encoder: SentenceText, *, batch_size: int, precision: str = "fp32") -> np.ndarray:
    """(n,) sentences -> (n, D) float32, in their order; batches are of like length. Longer ones than the encoder takes are cut."""
    device = encoder.table.weight.device
    order = sorted(range(len(sentences)), key=lambda i: len(sentences[i]))
    result = np.empty((len(sentences), encoder.output_width), np.float32)
    for at in range(0, len(order), batch_size):
        batch = order[at : at + batch_size]
        ids, lengths = encoder.batch([sentences[i] for i in batch])
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            result[batch] = encoder(encoder.table(ids.to(device)), lengths.to(device)).float().cpu().numpy()
    return result
