"""Losses against the released code's values, literal loops and hand-computed cases."""

import numpy as np
import pytest
import torch

from golden import GOLDEN
from utils.losses import magnitude_separability, mil_align, mil_classification, text_separation, top_k, top_k_mean

needs_golden = pytest.mark.skipif(not GOLDEN.exists(), reason="../shared/golden is not here")


@needs_golden
@pytest.mark.parametrize(("dataset", "weight"), [("ucf", 0.1), ("xd", 1e-4)])
def test_released_vadclip_losses(dataset, weight):
    golden = np.load(GOLDEN / f"vadclip_{dataset}.npz")
    value = {name: torch.tensor(golden[name]) for name in ("logits_coarse", "logits_fine", "multi_hot", "lengths", "text_features")}
    coarse = mil_classification(value["logits_coarse"][..., 0].sigmoid(), value["multi_hot"], value["lengths"])
    align = mil_align(value["logits_fine"], value["multi_hot"], value["lengths"])
    assert coarse.item() == pytest.approx(float(golden["loss_coarse"]), rel=1e-6)
    assert align.item() == pytest.approx(float(golden["loss_align"]), rel=1e-6)
    assert weight * text_separation(value["text_features"]).item() == pytest.approx(float(golden["loss_text"]), rel=1e-6)


def bags():
    torch.manual_seed(0)
    lengths = torch.tensor([1, 15, 16, 33, 48, 5])
    labels = torch.zeros(6, 4)
    labels[[0, 1, 2], 0] = 1
    labels[[3, 4, 5], [1, 2, 3]] = 1
    labels[4, 3] = 1  # two classes in one bag
    return torch.rand(6, 48, 4), labels, lengths


@pytest.mark.parametrize("normal_top1", [False, True])
def test_top_k_and_align_against_a_loop(normal_top1):
    scores, labels, lengths = bags()
    expected = 0.0
    for row, label, length in zip(scores, labels, lengths.tolist(), strict=True):
        k = 1 if normal_top1 and label[0] else length // 16 + 1
        means = torch.stack([row[:length, c].sort(descending=True).values[:k].mean() for c in range(4)])
        expected -= (label / label.sum() * means.log_softmax(0)).sum().item() / 6
    assert mil_align(scores, labels, lengths, normal_top1=normal_top1).item() == pytest.approx(expected, rel=1e-6)


def test_padding_never_counts():
    scores, labels, lengths = bags()
    spoiled = torch.where((torch.arange(48) < lengths[:, None])[..., None], scores, 1e6)
    for function in (mil_align, lambda s, *rest: top_k_mean(s, lengths, top_k(labels, lengths, False)).sum()):
        assert torch.equal(function(scores, labels, lengths), function(spoiled, labels, lengths))


def test_magnitudes_by_hand():
    """Bags of one snippet, magnitudes 1, 2 (normal) and 5, 9 (abnormal), margin 10: nearest of the same kind 1, 1, 4, 4, farthest of the
    other 8, 7, 4, 8.
    """
    visual = torch.tensor([1.0, 2.0, 5.0, 9.0])[:, None, None]
    labels = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    value = magnitude_separability(visual, labels, torch.ones(4, dtype=torch.long), margin=10)
    assert value.item() == pytest.approx((1 + 1 + 16 + 16) / 4 + (4 + 9 + 36 + 4) / 4)
    light = magnitude_separability(visual, labels, torch.ones(4, dtype=torch.long), margin=10, push=0.001)  # as MGFN weighs it
    assert light.item() == pytest.approx((1 + 1 + 16 + 16) / 4 + 0.001 * (4 + 9 + 36 + 4) / 4)


@pytest.mark.parametrize("kinds", [[1, 1], [0, 0], [1, 0]])
def test_magnitudes_without_a_partner_have_finite_gradients(kinds):
    visual = torch.rand(2, 3, 4, requires_grad=True)
    labels = torch.tensor([[float(kind), 1.0 - kind] for kind in kinds])
    magnitude_separability(visual, labels, torch.tensor([3, 2]), margin=5).backward()
    assert visual.grad.isfinite().all()


def test_text_separation_by_hand():
    assert text_separation(torch.tensor([[2.0, 0], [0, 3], [-1, 0]])).item() == pytest.approx(0.5)


@pytest.mark.parametrize("normal_top1", [False, True])
def test_logits_give_the_loss_of_their_scores(normal_top1):
    scores, labels, lengths = bags()
    logits = 8 * scores[..., 0] - 4
    expected = mil_classification(logits.sigmoid(), labels, lengths, normal_top1=normal_top1)
    found = mil_classification(logits, labels, lengths, normal_top1=normal_top1, logits=True)
    assert found.item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize("normal_top1", [False, True])
def test_logits_give_the_cross_entropy_of_a_literal_loop(normal_top1):
    """The mean of the top-k sigmoids in float64, as far as it is told from 0 and 1 there."""
    scores, labels, lengths = bags()
    for reach in (1, 12, 30):
        logits = reach * (2 * scores[..., 0] - 1)
        expected = 0.0
        for row, label, length in zip(logits.double(), labels, lengths.tolist(), strict=True):
            k = 1 if normal_top1 and label[0] else length // 16 + 1
            bag = row[:length].sigmoid().sort(descending=True).values[:k].mean()
            expected += torch.nn.functional.binary_cross_entropy(bag, 1 - label[0].double()).item() / 6
        found = mil_classification(logits, labels, lengths, normal_top1=normal_top1, logits=True)
        assert found.item() == pytest.approx(expected, abs=1e-6, rel=1e-6)


@pytest.mark.parametrize("level", [-200.0, -30.0, 20.0, 30.0, 200.0])
def test_saturated_scores_keep_their_gradient(level):
    """Every score wrong or right by `level`: the loss of the wrong half is |level| each, and its gradient does not vanish."""
    _, labels, lengths = bags()
    logits = torch.full((6, 48), level, requires_grad=True)
    loss = mil_classification(logits, labels, lengths, logits=True)
    loss.backward()
    assert loss.item() == pytest.approx(abs(level) / 2, rel=1e-6)
    wrong = labels[:, 0] > 0 if level > 0 else labels[:, 0] == 0
    assert logits.grad.sum(1)[wrong].abs().tolist() == pytest.approx([1 / 6] * 3, rel=1e-5)
    assert logits.grad.isfinite().all()
    if abs(level) <= 30:  # of right bags, too
        assert ((logits.grad != 0).sum(1) == top_k(labels, lengths, False)).all()
