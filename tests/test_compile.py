"""`--compile`: every system's temporal network and heads are one graph, without a break, and give what they give without it."""

import json

import pytest
import torch

import ucf_train
from model import SYSTEMS
from test_stops import prepared
from utils.errors import BadInput


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_is_one_graph(name, small_clip, small_distilbert):
    model, batch, _, _, options = prepared(name, small_clip, small_distilbert, torch.device("cpu"))
    torch.compiler.reset()
    features, lengths, labels, *captions = batch
    compiled, text = torch.compile(model, fullgraph=True, backend="aot_eager"), model.text_features()
    text = None if text is None else text.detach()  # a compiled graph goes back once
    plain, out = (one(features, lengths, *captions, text=text) for one in (model, compiled))
    expected, found = (sum(SYSTEMS[name].losses(one, labels, lengths, options).values()) for one in (plain, out))
    assert torch.allclose(found, expected, rtol=1e-5)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    given = [torch.autograd.grad(loss, weights, allow_unused=True) for loss in (expected, found)]
    for theirs, ours in zip(*given, strict=True):
        assert (theirs is None) == (ours is None)
        assert theirs is None or torch.allclose(ours, theirs, rtol=1e-3, atol=1e-5 + 1e-4 * float(theirs.abs().max()))


def test_a_compiler_that_is_missing_is_told(small_sample, tmp_path, monkeypatch):
    def missing(graph, inputs):
        raise RuntimeError("No working C++ compiler found")

    real = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda model, **more: real(model, **more, backend=missing))
    words = [*small_sample("ucf", model="deepmil"), "--max-epoch", "1", "--seed", "1", "--output", str(tmp_path / "run"), "--compile"]
    with pytest.raises(BadInput, match=r"^--compile: torch\.compile cannot do it here \(.*No working C\+\+ compiler found\); leave it out"):
        ucf_train.main(words)


@pytest.mark.slow
def test_a_training_compiles(small_sample, tmp_path, monkeypatch):
    real, asked = torch.nn.Module.compile, []

    def compile_without_a_c_compiler(model, **more):
        asked.append(more)
        real(model, **more, backend="aot_eager")

    monkeypatch.setattr(torch.nn.Module, "compile", compile_without_a_c_compiler)
    for words in ([], ["--compile"]):
        ucf_train.main([*small_sample("ucf", model="deepmil"), *words, "--dropout", "0", "--output", str(tmp_path / str(len(words)))])
    assert asked == [{"fullgraph": True}]
    plain, compiled = (json.loads((tmp_path / name / "seed-1" / "log.jsonl").read_text().splitlines()[-1]) for name in "01")
    assert compiled["loss"] == pytest.approx(plain["loss"], rel=1e-4)
