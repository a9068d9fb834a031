"""Quorum-VAD: what it makes of its members, that they learn by themselves, padding, classes that it was not trained on."""

from types import SimpleNamespace

import pytest
import torch

from benchmarks import UCF
from model import SYSTEMS, build_model
from utils.systems.base import Output
from utils.systems.vadclip import losses as vadclip_losses

OPTIONS = SimpleNamespace(lambda_align=0.7, lambda_text=0.3)


def small(members=3, classes=4, **more):
    torch.manual_seed(0)
    return build_model("quorum", UCF.names[:classes], torch.randn(classes, 12), visual_width=16, members=members, dropout=0.0, **more)


@pytest.fixture
def bags():
    torch.manual_seed(1)
    labels = torch.eye(4)[[0, 1, 3, 0]]
    labels[2, 1] = 1
    return torch.randn(4, 20, 16), torch.tensor([20, 17, 1, 9]), labels


def test_the_score_is_the_mean_of_both_heads_log_odds(bags):
    model = small()
    out = model(*bags[:2])
    normal = out.parts.alignment.softmax(-1)[..., 0]
    log_odds = (out.parts.logits + torch.log((1 - normal) / normal)) / 2
    assert torch.allclose(out.coarse_logits, log_odds.mean(0), atol=1e-5)
    assert torch.equal(out.coarse, out.coarse_logits.sigmoid())
    assert torch.allclose(1 - out.probs[..., 0], out.coarse)
    assert torch.allclose(out.probs.sum(-1), torch.ones(4, 20))
    given = out.parts.alignment[..., 1:].softmax(-1).mean(0)  # which class, where it is one
    assert torch.allclose(out.probs[..., 1:], out.coarse[..., None] * given, atol=1e-6)
    assert model.eval()(*bags[:2]).parts is None


def test_losses_are_vadclips_of_each_member(bags):
    x, lengths, labels = bags
    out = small()(x, lengths)
    found = SYSTEMS["quorum"].losses(out, labels, lengths, OPTIONS)
    each = [
        vadclip_losses(Output(coarse_logits=logits, alignment=alignment, text=text), labels, lengths, OPTIONS)
        for logits, alignment, text in zip(*out.parts, strict=True)
    ]
    assert len(each) == 3
    for name, value in found.items():
        assert value.item() == pytest.approx(sum(one[name].item() for one in each) / 3, rel=1e-5)


def test_a_member_learns_as_if_it_were_alone(bags):
    x, lengths, labels = bags
    together, alone = small(), small(members=1)
    alone.members[0].load_state_dict(together.members[1].state_dict())
    alone.prompt.load_state_dict(together.prompt.state_dict())
    for model in (together, alone):
        sum(SYSTEMS["quorum"].losses(model(x, lengths), labels, lengths, OPTIONS).values()).backward()
    for (name, one), other in zip(together.members[1].named_parameters(), alone.members[0].parameters(), strict=True):
        assert torch.allclose(3 * one.grad, other.grad, atol=1e-5), name


def test_padding_changes_nothing(bags):
    x, lengths, labels = bags
    gap = torch.arange(20) >= lengths[:, None]
    spoiled = torch.cat([x.masked_fill(gap[..., None], torch.nan), torch.full((4, 7, 16), torch.nan)], 1)
    found = []
    for features in (x, spoiled):
        model = small()
        out = model(features, lengths)
        sum(SYSTEMS["quorum"].losses(out, labels, lengths, OPTIONS).values()).backward()
        found.append((out.coarse[:, :20][~gap], out.probs[:, :20][~gap], *(p.grad for p in model.parameters())))
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(*found, strict=True))


def test_another_order_of_the_anomaly_classes_and_others_of_them(bags):
    """Of the classes it knows the words alone: a checkpoint can be asked for others."""
    x, lengths, _ = bags
    model, other, order = small().eval(), small().eval(), [0, 3, 1, 2]
    other.prompt.features = model.prompt.features[order]
    out, again = model(x, lengths), other(x, lengths)
    assert torch.allclose(again.coarse, out.coarse, atol=1e-6)
    assert torch.allclose(again.probs, out.probs[..., order], atol=1e-6)
    weights = {key: value for key, value in model.state_dict().items() if not key.startswith("prompt.")}
    assert small(classes=6).load_state_dict(weights, strict=False).unexpected_keys == []
