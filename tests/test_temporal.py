"""Temporal networks: padding without influence, windows that are windows, one case by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model import TEMPORAL, Emphasize, ShortcutConvolution, TemporalNetwork
from utils.temporal import from_windows, similarity_adjacency, to_windows


def network(name, width=32, **more):
    torch.manual_seed(0)
    sizes = {"length": 40, "layers": 1, "heads": 1, "attn_window": 8, "window_length": 8, "ge_skip": True} | more
    return TemporalNetwork(name, width, **sizes)


MGFN = {"stage_norm": True, "shortcut_conv": True}
VARIANTS = [*((name, {}) for name in TEMPORAL), *((name, MGFN) for name in ("ge", "eg", "ee", "ge-fusion"))]
VARIANTS += [("ge", {"channel_attention": form}) for form in ("plain", "mean")]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("name", "more"), VARIANTS)
@settings(max_examples=5, deadline=None)
@given(lengths=st.lists(st.integers(2, 30), min_size=2, max_size=4), extra=st.integers(0, 10), seed=st.integers(0, 99))
def test_padding_never_influences_a_valid_snippet(name, more, training, lengths, extra, seed):
    """Neither the content of the padding nor its amount changes anything, in training (batch statistics) or testing."""
    lengths = torch.tensor(lengths)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(len(lengths), int(lengths.max()), 32, generator=generator, dtype=torch.float64)  # rounding hides nothing
    mask = torch.arange(x.shape[1]) < lengths[:, None]
    clean = torch.where(mask[..., None], x, 0)
    longer = torch.cat([torch.where(mask[..., None], x, 1e3), torch.full((len(lengths), extra, 32), -1e3, dtype=x.dtype)], 1)
    longer_mask = torch.cat([mask, torch.zeros(len(lengths), extra, dtype=torch.bool)], 1)
    a = network(name, **more).double().train(training)(clean, mask)
    b = network(name, **more).double().train(training)(longer.masked_fill(~longer_mask[..., None], 0), longer_mask)
    c = network(name, **more).double().train(training)(longer, longer_mask)
    assert torch.allclose(a[mask], b[:, : x.shape[1]][mask], atol=1e-9)
    assert torch.allclose(b[longer_mask], c[longer_mask], atol=1e-9)


@pytest.mark.parametrize(("name", "more"), VARIANTS)
def test_gradients_reach_every_parameter(name, more):
    model = network(name, **more)
    x = torch.randn(3, 20, 32)
    (model(x, torch.arange(20) < torch.tensor([[20], [9], [4]])) ** 2).mean().backward()
    assert [key for key, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_windows_go_there_and_back():
    x = torch.arange(2 * 10 * 3.0).reshape(2, 10, 3)
    assert to_windows(x, 4).shape == (6, 4, 3)
    assert torch.equal(from_windows(to_windows(x, 4), 2, 10), x)


def test_emphasize_stays_inside_its_window():
    torch.manual_seed(0)
    model = Emphasize(4, window=5).eval()
    x, mask = torch.randn(1, 10, 4), torch.ones(1, 10, dtype=torch.bool)
    y = x.clone()
    y[0, 4] += 1
    changed = (model(x, mask) != model(y, mask)).any(-1)[0]
    assert changed.nonzero().flatten().tolist() == [2, 3, 4]  # five wide: two on either side, none beyond snippet 4


@pytest.mark.parametrize(
    ("attention", "expected"),
    [("residual", [2 + 2 * 5, 3 + 3 * 5]), ("plain", [2 * 5, 3 * 5]), ("mean", [2 + 2 * 5 / 2, 3 + 3 * 5 / 2])],
)
def test_channel_attention_by_hand(attention, expected):
    """out_l = Σ_m g_l·g_m at each snippet, with convolution and feed-forward silenced."""
    model = Emphasize(2, window=4, attention=attention).eval()
    for p in [*model.conv.parameters(), *model.ffn.parameters()]:
        torch.nn.init.zeros_(p)
    out = model(torch.tensor([[[2.0, 3.0]]]), torch.ones(1, 1, dtype=torch.bool))
    assert out.tolist() == [[expected]]


@pytest.mark.parametrize("name", ["ge", "eg", "ge-fusion"])
def test_mgfns_norms_and_convolutions_are_where_it_has_them(name):
    """A LayerNorm where the width changes behind a stage and behind the last one; x + Conv1d(x), kernel 3, before every stage. At width
    512 Glimpse has 16 channels, Emphasize 32.
    """
    plain, block = (network(name, 512, layers=2, **more).parts[0] for more in ({}, MGFN))
    fusion = name == "ge-fusion"
    first, second = (32, 16) if name == "eg" else (16, 32)
    new = {key: tuple(p.shape) for key, p in block.named_parameters() if key.endswith("weight") and "stages" not in key}
    norms = {"widen.0.weight": (48,)} if fusion else {"squeeze.2.0.weight": (first,), "widen.0.weight": (second,)}
    linear = {"squeeze.0.weight": (first, 512), "widen.1.weight": (512, 48 if fusion else second)}
    linear |= {"squeeze.2.weight": (second, 512)} if fusion else {"squeeze.2.1.weight": (second, first)}
    convolutions = {f"shortcuts.{i}.weight": (size, size, 3) for i, size in enumerate((first, first, second, second))}
    assert new == norms | linear | convolutions
    assert plain.state_dict().keys() == {key.replace("widen.1", "widen").replace("squeeze.2.1", "squeeze.2") for key in block.state_dict()
                                         if "shortcuts" not in key and "widen.0" not in key and "squeeze.2.0" not in key}  # fmt: skip


def test_shortcut_convolution_by_hand():
    conv = ShortcutConvolution(1)
    torch.nn.init.ones_(conv.weight)
    torch.nn.init.zeros_(conv.bias)
    out = conv(torch.tensor([[[1.0], [2], [4], [100]]]), torch.tensor([[True, True, True, False]]))
    assert out[0, :3, 0].tolist() == [1 + 1 + 2, 2 + 1 + 2 + 4, 4 + 2 + 4]


def test_similarity_adjacency_by_hand():
    x = torch.tensor([[[1.0, 0], [2, 0], [0, 1], [9, 9]]])
    a = similarity_adjacency(x, torch.tensor([[True, True, True, False]]))[0]
    e = torch.e
    assert torch.allclose(a[0, :3], torch.tensor([e, e, 1]) / (2 * e + 1))  # each snippet's weights sum to 1, zeros keeping theirs
    assert torch.allclose(a[2, :3], torch.tensor([1, 1, e]) / (2 + e))
    assert a[3].sum() == 0
    assert a[:, 3].sum() == 0
