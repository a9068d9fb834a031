"""A training step without a stop: nothing in it reads a value from the device, nor brings one there, so that a GPU never waits."""

import pytest
import torch

from benchmarks import UCF
from launches import Operators
from model import SYSTEMS, build_model, options_of
from ucf_option import parse_args
from utils import engine, ranks


def prepared(name, clip_model, distilbert, device, *words):
    """A small model in training, a batch, its optimizers and options."""
    files = ["--feature-root", "unused", *(["--caption-root", "unused"] if name == "trclip" else [])]
    sizes = "--visual-width 64 --visual-length 40 --batch-size 6"
    sizes += " --caption-width 64 --d-state 4" if name == "trclip" else ""
    options = parse_args(["--model", name, *files, *sizes.split(), "--device", device.type, *words])
    more = {"distilbert": distilbert} if name == "reflip" else {}
    torch.manual_seed(0)
    given = {key: getattr(options, key) for key in options_of(name) - more.keys()}
    model = build_model(name, UCF.names, clip_model, **given, **more).to(device).train()
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0  # what is drawn depends on how a tensor lies in memory
    lengths = torch.tensor([40, 3, 20, 40, 17, 1])
    features = torch.randn(6, 40, 64) * (torch.arange(40) < lengths[:, None])[..., None]
    batch = features, lengths, torch.eye(len(UCF.names))[[0, 0, 0, 3, 5, 13]]
    batch += (torch.randn(6, 40, 64),) if name == "trclip" else ()
    optimizers = engine.make_optimizer(model, options), SYSTEMS[name].second(model, options, 4)
    return model, [part.to(device) for part in batch], *optimizers, options


class Still:
    """In place of an optimizer, whose own numbers lie on the CPU there."""

    def step(self):
        pass


MASKS = [[], ["--mask-padding"]]


@pytest.mark.parametrize("words", MASKS, ids=["as published", "masked"])
@pytest.mark.parametrize("name", SYSTEMS)
def test_no_operator_of_a_step_stops_a_gpu(name, words, small_clip, small_distilbert, monkeypatch):
    if words and "mask_padding" not in options_of(name):
        pytest.skip("has no such option")
    model, batch, _, _, options = prepared(name, small_clip, small_distilbert, torch.device("cpu"), *words)
    expected = ranks.summed({"loss": sum(SYSTEMS[name].losses(model(*batch[:2], *batch[3:]), batch[2], batch[1], options).values())})[
        "loss"
    ]
    monkeypatch.setattr(ranks, "is_host", lambda device: False)  # go the way that a GPU's tensors go
    if name == "trclip":
        monkeypatch.setattr("utils.systems.mamba.clamp_at", lambda *given: None)  # looks at values on a CPU only
    with Operators() as operators:
        found = engine.step(model, batch, Still(), options, torch.device("cpu"))["loss"]
    assert not operators.stops
    assert operators.launches.total() > 50
    assert torch.allclose(found, expected, rtol=1e-5)


def test_stops_are_seen():
    x = torch.randn(5)
    for work in (lambda: x.sum().item(), lambda: x[x > 0], lambda: x.nonzero(), lambda: bool(x[0] > 0), lambda: torch.tensor([1.0])):
        with Operators() as operators:
            work()
        assert operators.stops.total() == 1
    y = x.clone()
    with Operators() as operators:
        y[x > 0] = 0.0 * x[x > 0]
    assert operators.stops.total() == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("name", SYSTEMS)
def test_no_step_waits_for_a_gpu(name, small_clip, small_distilbert):
    model, batch, optimizer, second, options = prepared(name, small_clip, small_distilbert, torch.device("cuda"))
    for _ in range(2):  # the first one loads kernels and makes the optimizer's state
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error" if _ else "default")
        try:
            engine.step(model, batch, optimizer, options, torch.device("cuda"), second)
        finally:
            torch.cuda.set_sync_debug_mode("default")
