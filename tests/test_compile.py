"""`--compile`: every system's temporal network and heads are one graph, without a break, and give what they give without it."""

import json

import pytest
import torch

import ucf_train
from model import SYSTEMS
from test_stops import prepared
from utils import engine, ranks
from utils.errors import BadInput


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_is_one_graph(name, small_clip, small_distilbert):
    words = ["--stack", "none"] if name == "trclip" else []  # its scan is refused
    model, batch, _, _, options = prepared(name, small_clip, small_distilbert, torch.device("cpu"), *words)
    torch.compiler.reset()
    features, lengths, labels, *captions = batch
    compiled, text = torch.compile(model, fullgraph=True, backend="aot_eager"), model.text_features()
    text = None if text is None else text.detach()  # a compiled graph goes back once
    weights = [weight for weight in model.parameters() if weight.requires_grad]

    def step(forward):
        loss = sum(SYSTEMS[name].losses(forward(features, lengths, *captions, text=text), labels, lengths, options).values())
        return loss.detach(), torch.autograd.grad(loss, weights, allow_unused=True)

    (expected, plain), (found, gradients) = step(model), step(compiled)
    assert torch.allclose(found, expected, rtol=1e-5)
    for theirs, ours in zip(plain, gradients, strict=True):
        assert (theirs is None) == (ours is None)
        assert theirs is None or torch.allclose(ours, theirs, rtol=1e-3, atol=1e-5 + 1e-4 * float(theirs.abs().max()))


def test_what_cannot_be_one_graph_is_told(small_clip, small_distilbert, monkeypatch):
    model, *_ = prepared("trclip", small_clip, small_distilbert, torch.device("cpu"))
    with pytest.raises(BadInput, match=r"--compile: TrCLIPVAD has Mamba, which torch\.compile cannot take into a graph; leave it out"):
        engine.compile_graph(model)
    monkeypatch.setattr(ranks, "count", lambda: 2)
    with pytest.raises(BadInput, match="--compile: one process expected, torchrun started 2"):
        engine.compile_graph(torch.nn.Linear(1, 1))


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
