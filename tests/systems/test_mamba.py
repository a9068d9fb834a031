"""utils/systems/mamba.py: the scan against the literal recurrence, gradients included; the block against mamba_ssm's weights and
transformers.
"""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from benchmarks import UCF
from golden import golden, needs_golden
from launches import Operators, unreal
from model import SYSTEMS, build_model
from tools.bench.mamba import indexed, mixer, unbound
from utils.systems import mamba
from utils.systems.mamba import Mamba, scan_backend, selective_scan
from utils.text import openai_clip


def arguments(batch, length, width, states, dtype=torch.float64, seed=0):
    """u, delta, A, B, C, D as a block makes them: delta positive, A negative."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype)

    u, B, C = normal(batch, length, width), normal(batch, length, states), normal(batch, length, states)
    made = [u, F.softplus(normal(batch, length, width) - 1), -normal(width, states).exp(), B, C, normal(width)]
    return [part.requires_grad_() for part in made]


def gradients(scan, given, **more):
    y = scan(*given, **more)
    return y, torch.autograd.grad(y, given, torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y))


def assert_equal(ours, theirs, tolerance=1e-10):
    """The values and all gradients, relative to the largest of each."""
    for mine, other in zip((ours[0], *ours[1]), (theirs[0], *theirs[1]), strict=True):
        assert mine.shape == other.shape
        assert (mine - other).abs().max() <= tolerance * other.abs().max().clamp(min=1)


@settings(max_examples=30, deadline=None)
@given(*(st.integers(1, most) for most in (4, 20, 5, 5)), st.none() | st.integers(1, 25), st.integers(1, 300), st.integers(1, 20))
def test_the_scan_is_the_recurrence_whatever_the_sizes(batch, length, width, states, chunk, numbers, few):
    """`numbers`: how much is worked on at once, so that these few are cut into groups of videos and steps as large ones are. `few`: of how
    many steps at most a group is not halved, as a GPU's are.
    """
    inputs = arguments(batch, length, width, states)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mamba, "group_sizes", lambda *sizes: smaller_groups(*sizes[:3], numbers))
        patch.setattr(mamba, "few_steps", lambda device: few)
        ours = gradients(selective_scan, inputs, chunk=chunk)
    assert_equal(ours, gradients(indexed, inputs))


def smaller_groups(videos, steps, state, numbers):
    videos = max(min(videos, numbers // state), 1)
    return videos, max(min(steps, numbers // (state * videos)), 1)


@pytest.mark.parametrize(
    ("sizes", "chunk"),
    [((3, 1, 4, 3), None), ((2, 13, 5, 3), 4), ((2, 12, 5, 3), 4), ((2, 13, 5, 3), 50), ((3, 40, 64, 16), None), ((2, 20, 300, 256), None)],
    ids=["one snippet", "chunk left over", "chunks fit", "chunk longer than the video", "many videos at once", "a video, a step at a time"],
)
def test_the_scan_is_the_recurrence(sizes, chunk):
    inputs = arguments(*sizes)
    ours = gradients(selective_scan, inputs, chunk=chunk)
    assert_equal(ours, gradients(indexed, inputs))
    assert_equal(ours, gradients(unbound, inputs))
    with torch.no_grad():
        assert torch.allclose(selective_scan(*inputs, chunk=chunk), ours[0], rtol=0, atol=1e-10 * float(ours[0].abs().max()))


@pytest.mark.slow
def test_a_training_step_at_the_papers_sizes_is_few_launches(monkeypatch):
    """As a GPU with room for AT_ONCE numbers has them: fewer than 2,000, and not more with 512 states than with 256 where both fit."""
    monkeypatch.setattr(mamba, "few_steps", lambda device: mamba.FEW)
    monkeypatch.setattr(mamba, "clamp_at", lambda *given: None)  # looks at values, on a CPU only

    def launches(room=mamba.AT_ONCE, **more):
        monkeypatch.setattr(mamba, "group_sizes", lambda *sizes: smaller_groups(*sizes[:3], room))
        clip_model = openai_clip().model.CLIP(64, 32, 1, 64, 8, 77, 49408, 64, 1, 12)  # as many layers as ViT-B/16's text side
        model = build_model("trclip", UCF.names, clip_model, visual_length=256, **more).train()
        labels = torch.eye(len(UCF.names))[torch.arange(128) % len(UCF.names)]
        options = SimpleNamespace(lambda_align=1, lambda_text=0.1)
        with unreal(model):
            given = torch.empty(128, 256, 512), torch.empty(128, dtype=torch.int64), torch.empty(128, 256, 768)
            optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
            for _ in range(2):  # the first one makes the optimizer's state
                optimizer.zero_grad()
                with Operators() as operators:
                    sum(SYSTEMS["trclip"].losses(model(*given), labels, given[1], options).values()).backward()
                    optimizer.step()
        return operators.launches.total()

    assert launches() < 2000
    assert launches(2**40, d_state=512) == launches(2**40, d_state=256)


def test_gradients_are_those_of_finite_differences():
    assert torch.autograd.gradcheck(lambda *given: selective_scan(*given, chunk=3), arguments(2, 7, 3, 2))


def test_decays_too_small_for_float32_do_no_harm():
    """exp(−150) is no number in float32; such a decay is taken as 1e-19, which changes nothing beyond rounding."""
    u, delta, A, B, C, D = arguments(2, 9, 4, 3, torch.float32)
    inputs = [u, delta, (A.detach() * 500).requires_grad_(), B, C, D]
    ours, exact = gradients(selective_scan, inputs), gradients(indexed, [part.detach().double().requires_grad_() for part in inputs])
    assert_equal((ours[0].double(), [part.double() for part in ours[1]]), exact, 1e-5)


def test_values_of_a_snippet_depend_on_none_behind_it():
    torch.manual_seed(0)
    block, x = Mamba(16, d_state=4).eval(), torch.randn(2, 12, 16)
    changed = x.clone()
    changed[:, 8:] = torch.randn(2, 4, 16)
    before, after = block(x), block(changed)
    assert torch.allclose(before[:, :8], after[:, :8], atol=1e-6)
    assert not torch.allclose(before[:, 8:], after[:, 8:], atol=1e-3)
    assert torch.allclose(before[:, :8], block(x[:, :8]), atol=1e-6)


def test_padding_behind_a_videos_end_has_no_influence():
    torch.manual_seed(0)
    block, x = Mamba(16, d_state=4), torch.randn(1, 8, 16)
    results = []
    for padding in (torch.zeros(1, 0, 16), torch.zeros(1, 5, 16), torch.full((1, 5, 16), 9.0)):
        block.zero_grad()
        y = block(torch.cat([x, padding], 1))[:, :8]
        y.square().sum().backward()
        results.append([y.detach(), *(weight.grad.clone() for weight in block.parameters())])
    for other in results[1:]:
        for part, first in zip(other, results[0], strict=True):
            assert torch.allclose(part, first, rtol=1e-4, atol=1e-5)


def test_the_scan_is_float32_under_autocast():
    inputs = arguments(2, 9, 8, 4, torch.float32)
    plain = gradients(selective_scan, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        y, grads = gradients(selective_scan, inputs)
    assert y.dtype == torch.float32
    for part, other in zip((y, *grads), (plain[0], *plain[1]), strict=True):
        assert torch.equal(part, other)
    rough = [part.detach().bfloat16() for part in inputs]
    assert selective_scan(*rough).equal(selective_scan(*(part.float() for part in rough)))


def test_a_block_under_autocast_is_trained_and_near_float32():
    torch.manual_seed(0)
    block, x = Mamba(16, d_state=8), torch.randn(2, 12, 16)
    plain = block(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = block(x)
    assert y.dtype == torch.bfloat16
    assert (y - plain).abs().max() < 0.02 * plain.abs().max()
    y.float().sum().backward()
    assert all(weight.grad.dtype == torch.float32 and weight.grad.isfinite().all() for weight in block.parameters())


def test_the_same_bits_every_time():
    inputs = arguments(3, 50, 16, 8, torch.float32)
    first = gradients(selective_scan, inputs)
    for _ in range(3):
        again = gradients(selective_scan, inputs)
        assert all(torch.equal(part, other) for part, other in zip((again[0], *again[1]), (first[0], *first[1]), strict=True))


def test_what_is_kept_for_backward_does_not_grow_with_states_times_snippets():
    def kept(scan, length):
        inputs, saved = arguments(2, length, 16, 32, torch.float32), {}

        def pack(tensor):
            saved[tensor.data_ptr(), tensor.shape] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            y = scan(*inputs)
        assert y.requires_grad
        return sum(saved.values()) - sum(part.numel() for part in inputs)  # behind the inputs themselves

    state = 2 * 16 * 32  # numbers of one step
    assert kept(unbound, 400) > 400 * state
    assert kept(lambda *given: selective_scan(*given, chunk=20), 400) == 20 * state
    short, long = kept(selective_scan, 1600), kept(selective_scan, 6400)
    assert 0 < short <= 40 * state  # √T of them
    assert short <= long <= 80 * state


@needs_golden
def test_weights_go_both_ways_by_mamba_ssms_names():
    _, weights, _ = golden("trclip", "ucf")
    theirs = {name.removeprefix("mamba.mamba1."): value for name, value in weights.items() if name.startswith("mamba.mamba1.")}
    block = Mamba(32, d_state=16, d_conv=2, expand=1)
    assert {name: value.shape for name, value in block.state_dict().items()} == {name: value.shape for name, value in theirs.items()}
    block.load_state_dict(theirs)
    assert all(torch.equal(value, theirs[name]) for name, value in block.state_dict().items())


@pytest.mark.parametrize("sizes", [{"d_state": 4, "d_conv": 2, "expand": 1}, {"d_state": 3}])
def test_transformers_block_gives_the_same(sizes):
    torch.manual_seed(0)
    block, x = Mamba(32, **sizes), torch.randn(2, 11, 32)
    other = mixer(block)
    with torch.no_grad():
        block.conv1d.bias.copy_(torch.randn_like(block.conv1d.bias))
        block.D.copy_(torch.randn_like(block.D))
    other.load_state_dict(block.state_dict())
    ours, theirs = block(x), other(x)
    assert torch.allclose(ours, theirs, atol=1e-5)
    for result in (ours, theirs):
        result.square().sum().backward()
    grads = {name: weight.grad for name, weight in other.named_parameters()}
    for name, weight in block.named_parameters():
        assert torch.allclose(weight.grad, grads[name], rtol=1e-4, atol=1e-4), name


def test_weights_start_as_mamba_ssms():
    torch.manual_seed(0)
    block = Mamba(64, d_state=16)
    assert torch.allclose(block.A_log.exp(), torch.arange(1.0, 17).expand(128, -1))
    assert torch.equal(block.D, torch.ones(128))
    start = F.softplus(block.dt_proj.bias)
    assert 0.99e-3 < start.min() < 2e-3
    assert 0.05 < start.max() < 0.101
    assert 0.4 < block.dt_proj.weight.abs().max() <= 4**-0.5
    free = [name for name, weight in block.named_parameters() if getattr(weight, "_no_weight_decay", False)]
    assert free == ["A_log", "D"]


@pytest.mark.parametrize("installed", [True, False])
def test_mamba_ssms_kernel_is_for_cuda_only(installed, monkeypatch):
    name = "mamba_ssm.ops.selective_scan_interface"
    called = []
    fake = ModuleType(name)
    fake.selective_scan_fn = lambda *given: called.append(given)
    for part in ("mamba_ssm", "mamba_ssm.ops", name):
        monkeypatch.setitem(sys.modules, part, (fake if part == name else ModuleType(part)) if installed else None)
    mamba.kernel.cache_clear()
    try:
        assert mamba.kernel() is (fake.selective_scan_fn if installed else None)
        assert scan_backend(torch.device("cpu")) == "selective scan: plain PyTorch"
        expected = "mamba_ssm's CUDA kernel" if installed else "plain PyTorch (mamba_ssm is not installed)"
        assert scan_backend(torch.device("cuda")) == f"selective scan: {expected}"
        selective_scan(*arguments(1, 3, 2, 2, torch.float32))
        assert not called
    finally:
        mamba.kernel.cache_clear()
