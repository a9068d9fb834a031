"""DSANet: the released code's values, its optimizer, authors' checkpoints, padding as published and masked, other text sides."""

import json
from argparse import Namespace

import numpy as np
import pytest
import torch

from golden import GOLDEN, difference, golden, needs_golden
from model import SYSTEMS, build_model
from utils import engine
from utils.systems.stable_adamw import StableAdamW, warm_cosine

losses = SYSTEMS["dsanet"].losses
WEIGHTS = {f"lambda_{name}": 1 for name in ("text", "event", "background", "consistency", "gather")}


def released(key, **more):
    """Golden values, the network that they are of, and its weights under the authors' names."""
    values, weights, clip_model = golden("dsanet", key)
    config = json.loads(str(values["config"]))
    names = ("visual_length", "visual_width", "visual_layers", "visual_head", "attn_window", "text_adapt_until", "t_w", "temp")
    names += ("num_prototypes", "decoder_depth", "normal_selection_ratio")
    sizes = {name: config[name] for name in names}
    return values, weights, build_model("dsanet", list(values["prompts"]), clip_model, **sizes, **more)


@needs_golden
@pytest.mark.parametrize("key", ["ucf", "xd"])
def test_released_outputs_losses_and_gradients(key):
    values, weights, model = released(key)
    model.load_state_dict(weights)
    lengths, labels = torch.from_numpy(values["lengths"]), torch.from_numpy(values["multi_hot"])
    out = model.train()(torch.from_numpy(values["visual"]), lengths)
    rows = torch.from_numpy(values["normal_indices"])
    found = {
        "text_features": out.text,
        "features": out.visual,
        "logits_coarse": out.coarse_logits[..., None],
        "logits_fine": out.alignment,
        "logits_event": out.parts.event[:, None],
        "logits_background": out.parts.background[:, None],
        "reconstructed": out.parts.rebuilt,
        "prototypes": out.parts.prototypes,
    }
    for name, ours in found.items():
        assert difference(ours, values[name]) < 1e-5, name
    assert torch.equal(out.parts.normal, out.visual.gather(1, rows[..., None].expand(-1, -1, 64)))
    weight = float(values["weight_of_loss_align"])
    terms = losses(out, labels, lengths, Namespace(lambda_align=weight, **WEIGHTS))
    for name, value in terms.items():
        assert value.item() == pytest.approx(float(values[f"loss_{name}"]) * (weight if name == "align" else 1), rel=1e-5), name
    total = sum(terms.values())
    assert total.item() == pytest.approx(float(values["loss_total"]), rel=1e-5)
    total.backward()
    trained = {name for name, p in model.named_parameters() if p.requires_grad} - {"disAdj.sigma"}
    assert trained == {name.removeprefix("grad.") for name in values.files if name.startswith("grad.")}
    for name in trained:
        assert difference(model.get_parameter(name).grad, values[f"grad.{name}"]) < 1e-4, name


@needs_golden
@pytest.mark.parametrize("key", ["ucf", "xd"])
def test_released_test_without_the_reconstruction(key, monkeypatch):
    values, weights, model = released(key)
    model.load_state_dict(weights)
    monkeypatch.setattr(model.video_anomaly_refiner, "forward", None)
    model.eval()
    out = model(torch.from_numpy(values["visual"]), torch.from_numpy(values["lengths"]))
    assert difference(out.coarse_logits, values["eval.logits_coarse"][..., 0]) < 1e-5
    assert difference(out.alignment, values["eval.logits_fine"]) < 1e-5
    assert out.parts is None
    lengths = values["test.lengths"].tolist()
    videos = [(str(i), rows) for i, rows in enumerate(torch.from_numpy(values["test.visual"]).split(lengths))]
    scores = engine.predict(model, videos, Namespace(model="dsanet", visual_length=48, precision="fp32"), torch.device("cpu"))
    coarse, fine = (np.concatenate([getattr(scores[str(i)], part) for i in range(len(lengths))]) for part in ("coarse", "fine"))
    assert difference(torch.from_numpy(coarse), values["test.prob_coarse"]) < 1e-5
    assert difference(torch.from_numpy(fine), values["test.probs"]) < 1e-5
    assert difference(torch.from_numpy(1 - fine[:, 0]), values["test.prob_fine"]) < 1e-5


@needs_golden
def test_the_refiners_optimizer_and_its_rate_by_step():
    with np.load(GOLDEN / "dsanet_optimizer.npz") as values:
        config = json.loads(str(values["config"]))
        parameters = [torch.nn.Parameter(torch.from_numpy(values[f"start_{name}"])) for name in "ab"]
        optimizer = StableAdamW(parameters, lr=config["base"])
        total, warmup = config["total_iters"], config["warmup_iters"]
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warm_cosine(step, total, warmup))
        for step, rate in enumerate(values["lr"]):
            assert optimizer.param_groups[0]["lr"] == pytest.approx(rate, rel=1e-6)
            for parameter, name in zip(parameters, "ab", strict=True):
                parameter.grad = torch.from_numpy(values[f"grads_{name}"][step])
            optimizer.step()
            schedule.step()
            for parameter, name in zip(parameters, "ab", strict=True):
                assert difference(parameter, values[f"params_{name}"][step]) < 1e-5, step
