"""DeepMIL: its layers, each loss term by hand, padding, bags of one kind."""

import pytest
import torch

from benchmarks import UCF
from model import SYSTEMS, build_model
from utils.systems.base import Output

losses = SYSTEMS["deepmil"].losses


def small(**more):
    torch.manual_seed(0)
    return build_model("deepmil", UCF.names, None, visual_width=16, **more)


def test_layers_as_published():
    model = small().eval()
    first, second, third = (layer for layer in model.layers if isinstance(layer, torch.nn.Linear))
    x = torch.randn(2, 5, 16)
    out = model(x, torch.tensor([5, 5]))
    logits = third(second(first(x).relu()))[..., 0]
    assert torch.allclose(out.coarse_logits, logits)
    assert torch.allclose(out.coarse, logits.sigmoid())
    assert [layer.p for layer in model.layers if isinstance(layer, torch.nn.Dropout)] == [0.6, 0.6]
    assert model.text_features() is out.alignment is out.online is None


def test_losses_by_hand():
    """Largest scores 0.9 and 0.3 (abnormal), 0.2 and 0.7 (normal): hinges 0.3, 0.8 and 0.9, 1.4. What lies behind a bag's end is larger."""
    coarse = torch.tensor([[0.1, 0.9, 0.4], [0.2, 0.1, 1.0], [0.3, 1.0, 1.0], [0.5, 0.7, 1.0]])
    labels = torch.tensor([[0.0, 1], [1, 0], [0, 1], [1, 0]])
    value = losses(Output(coarse=coarse), labels, torch.tensor([3, 2, 1, 2]), None)
    assert value["rank"].item() == pytest.approx((0.3 + 0.8 + 0.9 + 1.4) / 2)  # summed over abnormal bags, averaged over normal ones
    assert value["smooth"].item() == pytest.approx(8e-5 * (0.8**2 + 0.5**2))
    assert value["sparse"].item() == pytest.approx(8e-5 * (0.1 + 0.9 + 0.4 + 0.3))


def test_a_pair_ranked_by_more_than_1_costs_nothing():
    value = losses(Output(coarse=torch.tensor([[1.0], [0.0]])), torch.tensor([[0.0, 1], [1, 0]]), torch.tensor([1, 1]), None)
    assert value["rank"].item() == 0


@pytest.mark.parametrize("kind", [0, 1])
def test_bags_of_one_kind(kind):
    model = small()
    labels = torch.eye(2)[[kind, kind]]
    value = losses(model(torch.randn(2, 4, 16), torch.tensor([4, 1])), labels, torch.tensor([4, 1]), None)
    assert value["rank"].item() == 0
    assert (value["sparse"].item() > 0) == (kind == 1)
    sum(value.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_gradients_reach_every_parameter_and_padding_changes_nothing():
    x, lengths, labels = torch.randn(4, 6, 16), torch.tensor([6, 3, 6, 2]), torch.eye(2)[[0, 1, 1, 0]]
    spoiled = torch.where((torch.arange(6) < lengths[:, None])[..., None], x, torch.nan)
    gradients = []
    for features in (x, spoiled):
        model = small(dropout=0.0)
        sum(losses(model(features, lengths), labels, lengths, None).values()).backward()
        gradients.append([p.grad for p in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert one.abs().sum() > 0
        assert torch.equal(one, other)
