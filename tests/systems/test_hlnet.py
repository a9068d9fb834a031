"""HL-Net: the released code's values, its checkpoint, adjacencies and losses by hand, causality, padding as published and masked."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks import XD
from golden import SHARED, difference
from model import SYSTEMS, build_model
from utils.systems.base import Output, Published
from utils.systems.hlnet import score_adjacency
from utils.temporal import distance_adjacency, similarity_adjacency
from utils.text import Frozen

needs_released = pytest.mark.skipif(not SHARED.exists(), reason="../shared (golden values, the released checkpoint) is not here")
losses = SYSTEMS["hlnet"].losses


def released():
    """HL-Net with the authors' weights, in evaluation mode, and the golden values."""
    model = build_model("hlnet", XD.names, None, visual_width=1152).eval()
    model.load_state_dict(released_state())
    return model, np.load(SHARED / "golden" / "hlnet_xd.npz", allow_pickle=False)


def released_state():
    return torch.load(SHARED / "real" / "checkpoints" / "hlnet_xd_wsanodet_mix2.pkl", map_location="cpu", weights_only=True)


def small(**more):
    torch.manual_seed(0)
    return build_model("hlnet", XD.names, None, visual_width=16, **more).eval()


@needs_released
def test_released_outputs_and_losses():
    model, golden = released()
    lengths, abnormal = torch.from_numpy(golden["lengths"]), torch.from_numpy(golden["labels"])
    out = model(torch.from_numpy(golden["features"]), lengths)
    assert difference(out.coarse_logits, golden["offline_logits"][..., 0]) < 1e-5  # padding, too: one bag is as long as the batch
    assert difference(out.online_logits, golden["online_logits"][..., 0]) < 1e-5
    value = losses(out, torch.stack([1 - abnormal, abnormal], 1), lengths, None)
    for name, weight in {"offline": 1, "online": 1, "distil": 5}.items():
        assert value[name].item() == pytest.approx(weight * float(golden[f"loss_{name}"]), rel=1e-5)


@needs_released
def test_the_batch_is_cut_to_its_longest_video_as_published():
    """Bags come filled up further than the authors' batches, which changes nothing."""
    model, golden = released()
    lengths = torch.from_numpy(golden["lengths"])
    out = model(F.pad(torch.from_numpy(golden["features"]), (0, 0, 0, 25)), lengths)
    assert out.coarse.shape == out.online.shape == (3, 65)
    assert difference(out.coarse_logits[:, :40], golden["offline_logits"][..., 0]) < 1e-5


@needs_released
def test_a_key_that_is_missing_extra_or_misshapen_is_named():
    state = released_state()
    cases = [
        ({key: value for key, value in state.items() if key != "gc1.weight"}, r"Missing key.*gc1\.weight"),
        ({**state, "gc9.weight": torch.zeros(1)}, r"Unexpected key.*gc9\.weight"),
        ({**state, "classifier.bias": torch.zeros(3)}, r"size mismatch for classifier\.bias"),
    ]
    for broken, message in cases:
        with pytest.raises(RuntimeError, match=message):
            build_model("hlnet", XD.names, None, visual_width=1152).load_state_dict(broken)


def test_published_drops_what_is_ignored_and_keeps_frozen_parts():
    class Network(Published):
        ignored = ("clipmodel.",)

        def __init__(self):
            super().__init__()
            self.head, self.text = nn.Linear(2, 1), Frozen(nn.Linear(2, 2))

    model = Network()
    state = {"head.weight": torch.ones(1, 2), "head.bias": torch.ones(1), "clipmodel.x": torch.ones(5)}
    kept = model.text.module.weight.clone()
    copied = copy.deepcopy(model)
    for network, given, place in ((copied, state, copied), (nn.Sequential(model), {f"0.{key}": v for key, v in state.items()}, model)):
        network.load_state_dict(given)
        assert place.head.weight.tolist() == [[1, 1]]
        assert torch.equal(place.text.module.weight, kept)
    assert len(state) == 3  # the caller's stays whole
    with pytest.raises(RuntimeError, match=r"head\.bias"):
        model.load_state_dict({"head.weight": torch.ones(1, 2)})


def test_adjacencies_by_hand():
    mask = torch.tensor([[True, True, True, False]])
    near, far = (torch.tensor((0.5 - gap) / 0.1).sigmoid().exp() for gap in (0.0, 0.6))
    a = score_adjacency(torch.tensor([[0.2, 0.8, 0.8, 0.8]]), mask)[0]
    assert torch.allclose(a[0], torch.stack([near, far, far, 0 * far]) / (near + 2 * far))
    assert torch.allclose(a[1], torch.stack([far, near, near, 0 * far]) / (far + 2 * near))
    assert a[3].abs().sum() == 0

    a = similarity_adjacency(torch.tensor([[[1.0, 0], [2, 0], [0, 1], [9, 9]]]), mask)[0]  # cosines 1, 1, 0
    e = torch.e
    assert torch.allclose(a[0], torch.tensor([e, e, 1, 0]) / (2 * e + 1))
    assert torch.allclose(a[2], torch.tensor([1, 1, e, 0]) / (2 + e))
    assert a[3].abs().sum() == 0

    a = distance_adjacency(3, a)
    assert torch.allclose(a[0], torch.tensor([0, -1 / e, -2 / e]).exp())
    assert torch.equal(a, a.T)


def test_online_score_looks_at_no_later_snippet():
    model, x, lengths = small(), torch.randn(2, 30, 16), torch.tensor([30, 30])
    changed = x.clone()
    changed[:, 12:] = torch.randn(2, 18, 16)
    before, after = model(x, lengths), model(changed, lengths)
    assert torch.equal(before.online[:, :12], after.online[:, :12])
    assert not torch.allclose(before.online[:, 12:], after.online[:, 12:])
    assert not torch.allclose(before.coarse[:, :12], after.coarse[:, :12])
    assert torch.equal(before.online[:, :12], model(x[:, :12], torch.tensor([12, 12])).online)  # nor at how long the video will be


@needs_released
def test_the_released_online_score_looks_at_four_earlier_rows_and_no_later_one():
    model, golden = released()
    x, lengths = torch.from_numpy(golden["features"])[:1], torch.tensor([40])
    before = model(x, lengths)
    for t in (0, 12, 39):
        changed = x.clone()
        changed[:, t] = torch.randn(1152)
        moved = (model(changed, lengths).online != before.online)[0].nonzero().flatten()
        assert moved.tolist() == list(range(t, min(t + 5, 40)))
        cut = model(x[:, : t + 1], torch.tensor([t + 1])).online  # nor at how long the video will be
        assert torch.allclose(cut, before.online[:, : t + 1], atol=1e-6)


@pytest.mark.parametrize("mask_padding", [False, True])
def test_padding_as_published_and_masked(mask_padding):
    """Published: padding up to the longest video of the batch reaches the offline score; what stands in it counts as zeros."""
    model = small(mask_padding=mask_padding)
    x, lengths = torch.randn(2, 20, 16), torch.tensor([20, 5])
    spoiled = x.clone()
    spoiled[1, 5:] = torch.nan
    both, alone = model(spoiled, lengths), model(x[1:, :5], lengths[1:])
    assert torch.allclose(both.coarse[1, :5], alone.coarse[0], atol=1e-6) == mask_padding
    assert torch.allclose(both.online[1, :5], alone.online[0], atol=1e-6)
    assert torch.equal(both.coarse[1, :5], model(x * (torch.arange(20) < lengths[:, None])[..., None], lengths).coarse[1, :5])


def test_losses_by_hand():
    """Lengths 16 and 3: K is 2 and 1. What lies behind a bag's end is larger."""
    offline, online = torch.full((2, 20), -1.0), torch.full((2, 20), -2.0)
    offline[0, 16:] = offline[1, 3:] = online[0, 16:] = online[1, 3:] = 9
    offline[0, :2], online[0, :2] = torch.tensor([3.0, 1.0]), torch.tensor([2.0, 1.0])  # abnormal: means 2 and 1.5
    offline[1, 0], online[1, 1] = 0.5, -0.5  # normal
    offline.requires_grad_()
    out = Output(coarse=offline.sigmoid(), online=online.sigmoid(), coarse_logits=offline, online_logits=online)
    value = losses(out, torch.tensor([[0.0, 1], [1, 0]]), torch.tensor([16, 3]), None)

    def s(x):
        return 1 / (1 + np.exp(-x))

    assert value["offline"].item() == pytest.approx(-(np.log(s(2)) + np.log(1 - s(0.5))) / 2)
    assert value["online"].item() == pytest.approx(-(np.log(s(1.5)) + np.log(1 - s(-0.5))) / 2)
    abnormal = -(s(3) * np.log(s(2)) + s(1) * np.log(s(1)) + 14 * s(-1) * np.log(s(-2))) / 16
    normal = -(s(0.5) * np.log(s(-2)) + s(-1) * np.log(s(-0.5)) + s(-1) * np.log(s(-2))) / 3
    assert value["distil"].item() == pytest.approx(5 * (abnormal + normal) / 2)
    assert not value["distil"].requires_grad  # it teaches the online score only


@pytest.mark.parametrize("kind", [0, 1])
def test_gradients_reach_every_parameter_with_bags_of_one_kind_too(kind):
    model, lengths = small().train(), torch.tensor([20, 1])
    x = torch.randn(2, 24, 16)
    x[1, 1:] = torch.nan
    sum(losses(model(x, lengths), torch.eye(2)[[kind, kind]], lengths, None).values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_the_approximator_learns_at_half_the_rate():
    model = small()
    rest, approximator = model.parameter_groups(1e-4)
    assert (rest["lr"], approximator["lr"]) == (1e-4, 5e-5)
    assert approximator["params"] == [*model.approximator.parameters(), *model.conv1d_approximator.parameters()]
    assert len(rest["params"]) + len(approximator["params"]) == len(list(model.parameters()))
