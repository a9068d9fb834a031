"""DSANet: the released code's values, its optimizer, authors' checkpoints, padding as published and masked, other text sides."""

import json
from argparse import Namespace

import numpy as np
import pytest
import torch

import ucf_option
import ucf_test
import xd_option
from benchmarks import XD
from golden import GOLDEN, difference, golden, needs_golden
from model import SYSTEMS, build_model, options_of
from utils import checkpoint, engine, loading
from utils.errors import BadInput
from utils.evaluation.scores import load_scores
from utils.systems.stable_adamw import StableAdamW, warm_cosine
from utils.text import CLIPText, load_sentence_text, openai_clip

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


@needs_golden
def test_the_authors_file_through_the_test_script(tmp_path):
    """It holds CLIP twice. `ucf_test.py --model dsanet --checkpoint model_ucf.pth` gives the released code's scores."""
    values, weights, _ = golden("dsanet", "ucf")
    clip_weights = {key.removeprefix("clipmodel."): value for key, value in weights.items() if key.startswith("clipmodel.")}
    torch.save(weights | {f"clip_adapter.clipmodel.{key}": value for key, value in clip_weights.items()}, tmp_path / "model_ucf.pth")
    torch.save(clip_weights, tmp_path / "clip.pt")
    lengths = values["test.lengths"].tolist()
    (tmp_path / "features").mkdir()
    rows, truth = ["path,label"], {}
    for number, features in enumerate(np.split(values["test.visual"], np.cumsum(lengths)[:-1])):
        np.save(tmp_path / "features" / f"v{number}.npy", features)
        label = "Abuse" if number % 2 else "Normal"
        rows.append(f"v{number}.npy,{label}")
        segments = [[0, 64, "Abuse"]] if number % 2 else []
        truth[f"v{number}"] = {"frames": 16 * len(features), "fps": 30, "segments": segments}
    (tmp_path / "test.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    files = {"feature-root": "features", "test-list": "test.csv", "gt-path": "gt.json", "clip": "clip.pt", "checkpoint": "model_ucf.pth"}
    files |= {"output": "out", "save-scores": "scores.npz"}
    words = [word for name, file in files.items() for word in (f"--{name}", str(tmp_path / file))]
    sizes = "--model dsanet --visual-width 64 --visual-length 48 --decoder-depth 2 --text-adapt-until 2 --device cpu"
    words += sizes.split()
    ucf_test.main(words)
    scores, _ = load_scores(tmp_path / "scores.npz")
    fine = np.concatenate([scores[f"v{number}"].fine for number in range(len(lengths))])
    assert np.allclose(fine, values["test.probs"], atol=1e-5)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["fine"]["auc"]["value"] == pytest.approx(report["coarse"]["auc"]["value"], abs=1e-6)  # monotone in one another
    with pytest.raises(BadInput, match=r"lacks key 'video_anomaly_refiner\.decoder\.2\.attn\.kv\.bias'; .* other model options"):
        ucf_test.main([*words, "--decoder-depth", "3"])


@needs_golden
def test_a_key_that_is_missing_extra_or_misshapen_is_named():
    _, weights, model = released("xd")
    key = "clip_adapter.text_adapter.1.fc.0.weight"
    cases = [
        ({name: value for name, value in weights.items() if name != key}, f"lacks key '{key}'"),
        ({**weights, "gc9.weight": torch.zeros(1)}, "unknown key 'gc9.weight'"),
        ({**weights, key: torch.zeros(3, 64)}, rf"{key} has shape \(3, 64\), this model's is \(64, 64\)"),
    ]
    for state, message in cases:
        with pytest.raises(BadInput, match=message):
            checkpoint.load_trained_state(model, state, "model_xd.pth")


def small(clip, **more):
    torch.manual_seed(0)
    sizes = {"visual_length": 32, "visual_width": 64, "visual_layers": 2, "visual_head": 1, "attn_window": 8, "decoder_depth": 2}
    model = build_model("dsanet", XD.names, clip, **sizes | more)
    torch.nn.init.normal_(model.classifier.weight, std=1.0)  # scores that tell rows apart
    return model


def step_of(model, x, lengths):
    """What a training step makes of a batch: outputs and the sum of the losses."""
    labels = torch.nn.functional.one_hot(torch.arange(len(x)), len(XD.names)).float()
    out = model.train()(x, lengths)
    return out, sum(losses(out, labels, lengths, Namespace(lambda_align=1, **WEIGHTS)).values())


def test_padding_as_published_and_masked(small_clip):
    """Published: what stands behind the end counts in every part; how much of it a batch holds does not. Masked: it does not count."""
    x, lengths = torch.randn(2, 32, 64), torch.tensor([32, 5])
    spoiled = x.clone()
    spoiled[1, 5:] = torch.nan
    found = {}
    for mask_padding in (False, True):
        model = small(small_clip, mask_padding=mask_padding)
        (both, loss), (_, same) = step_of(model, spoiled, lengths), step_of(model, x, lengths)
        assert loss == same
        alone, _ = step_of(model, x[1:, :5], lengths[1:])
        for name in ("event", "background", "prototypes"):
            assert torch.allclose(getattr(both.parts, name)[1], getattr(alone.parts, name)[0], atol=1e-5), name
        assert torch.allclose(both.parts.rebuilt[1, :5], alone.parts.rebuilt[0], atol=1e-6)
        assert torch.allclose(both.coarse[1, :5], alone.coarse[0], atol=1e-6)
        assert both.parts.chosen.sum(1).tolist() == ([25, 4] if mask_padding else [25, 25])  # 80 % of 32, of 5
        # the same five rows in a bag of five: nothing is filled up
        tight = small(small_clip, mask_padding=mask_padding, visual_length=5)
        state = {key: value for key, value in model.state_dict().items() if key != "frame_position_embeddings.weight"}
        tight.load_state_dict({**state, "frame_position_embeddings.weight": model.frame_position_embeddings.weight[:5]})
        found[mask_padding] = (alone, step_of(tight, x[1:, :5], lengths[1:])[0])
    for name in ("event", "background", "prototypes", "rebuilt"):
        masked, published = ([getattr(out.parts, name) for out in found[key]] for key in (True, False))
        assert torch.allclose(*masked, atol=1e-5), name
        assert not torch.allclose(*published, atol=1e-5), name
    assert torch.allclose(*(out.alignment for out in found[True]), atol=1e-4)
    assert not torch.allclose(*(out.alignment for out in found[False]), atol=1e-4)


def test_masked_padding_takes_the_lowest_valid_rows(small_clip):
    model = small(small_clip, mask_padding=True)
    out, _ = step_of(model, torch.randn(3, 32, 64), torch.tensor([32, 10, 1]))
    for row, length in enumerate((32, 10, 1)):
        lowest = out.coarse_logits[row, :length].argsort()[: max(int(0.8 * length), 1)]
        assert torch.equal(out.parts.normal[row][out.parts.chosen[row]], out.visual[row, lowest])


def test_other_text_sides_have_one_adapter_on_the_class_vectors(small_clip, minilm):
    vectors = 3 * torch.randn(7, 64)
    model = small(vectors, t_w=0.25)
    weight = model.clip_adapter.text_adapter[0].fc[0].weight
    for row, text in zip(vectors, model.text_features(), strict=True):
        adapted = torch.nn.functional.leaky_relu(weight @ row)
        expected = 0.25 * adapted * row.norm() / adapted.norm() + 0.75 * row
        assert torch.allclose(text, expected / expected.norm(), atol=1e-5)
    assert torch.equal(small(vectors, t_w=0.0).clip_adapter(), vectors)  # the norm is kept
    sentences = small(load_sentence_text(minilm), visual_width=384, t_w=0.0)
    assert len(sentences.clip_adapter.text_adapter) == 1
    encoder = sentences.clip_adapter.text
    ids, lengths = encoder.batch(list(XD.names))
    assert torch.allclose(sentences.text_features(), encoder(encoder.table(ids), lengths), atol=1e-5)
    sentences.clip_adapter.weight = 0.25
    for model in (small(vectors), sentences, small(small_clip)):
        out, loss = step_of(model, torch.randn(2, 9, model.classifier.in_features), torch.tensor([9, 4]))
        loss.backward()
        assert all(adapter.fc[0].weight.grad.abs().sum() > 0 for adapter in model.clip_adapter.text_adapter)
        assert torch.allclose(out.text.norm(dim=1), torch.ones(7))


def test_adapters_stand_behind_as_many_blocks_as_there_are(small_clip):
    for blocks, expected in ((0, 1), (1, 2), (2, 3), (9, 3)):  # the last of them is the projection
        assert len(small(small_clip, text_adapt_until=blocks).clip_adapter.text_adapter) == expected


def test_a_width_that_the_refiners_heads_do_not_divide(small_clip, small_sample, tmp_path):
    words = [*small_sample("xd", model="dsanet"), "--visual-width", "60", "--output", str(tmp_path)]
    with pytest.raises(BadInput, match="--visual-width 60: expected a multiple of 8, the heads of DSANet's refiner"):
        loading.load_model(xd_option.parse_args(words), 1)


@pytest.mark.parametrize(("option", "parameters"), [(ucf_option, 44_130_882), (xd_option, 40_454_210)])
def test_as_many_parameters_as_the_authors_train(option, parameters, monkeypatch):
    monkeypatch.setattr(CLIPText, "tokens", lambda self, text: ([0], [0], [0]))  # there are no numbers on the device meta
    options = option.parse_args(["--model", "dsanet", "--feature-root", "x"])
    with torch.device("meta"):
        clip_model = openai_clip().model.CLIP(512, 32, 1, 64, 32, 77, 49408, 512, 8, 12)
        model = build_model("dsanet", XD.names, clip_model, **{name: getattr(options, name) for name in options_of("dsanet")})
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == parameters
    assert sum(p.numel() for p in model.video_anomaly_refiner.parameters()) == 30_479_424


def test_two_optimizers_move_all_that_is_trained(small_clip):
    options = Namespace(model="dsanet", lr=1e-3, max_epoch=2, optimizer="adamw", weight_decay=0.01, grad_clip=0, precision="fp32")
    options = Namespace(**vars(options), sampling="balanced", compile=False, lambda_align=1, **WEIGHTS)
    model = small(small_clip)
    main, (refiner, rate) = engine.make_optimizer(model, options), SYSTEMS["dsanet"].second(model, options, 75)
    count = [sum(p.numel() for group in one.param_groups for p in group["params"]) for one in (main, refiner)]
    assert sum(count) == sum(p.numel() for p in model.parameters() if p.requires_grad)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batch = (torch.randn(2, 9, 64), torch.tensor([9, 4]), torch.eye(7)[:2])
    for step in range(2):
        engine.step(model, batch, main, options, torch.device("cpu"), (refiner, rate))
        moved = {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
        assert ("video_anomaly_refiner" in moved) == (step > 0)  # its first step is 0
        assert {"temporal", "clip_adapter", "classifier"} <= moved
    rates = [1e-3 * warm_cosine(step, 300) for step in range(302)]  # 2 × 2 × 75: the authors count either half of a batch
    assert rate.get_last_lr() == [rates[2]]
    assert rates[0] == 0
    assert rates[99] == max(rates)
    assert rates[300] == rates[301] == pytest.approx(1e-4)
    engine.freeze_parts(model, "video_anomaly_refiner")
    assert SYSTEMS["dsanet"].second(model, options, 75) == ()
    engine.step(model, batch, engine.make_optimizer(model, options), options, torch.device("cpu"))


def test_a_schedule_shorter_than_its_warm_up():
    assert [warm_cosine(step, 3) for step in range(5)] == [0, 1 / 99, 2 / 99, 0.1, 0.1]


def test_the_second_optimizers_state_is_checked_as_it_is_read(small_clip):
    model, options = small(small_clip), Namespace(lr=1e-3, max_epoch=2, sampling="shuffle")
    for parameter in model.video_anomaly_refiner.parameters():
        parameter.grad = torch.ones_like(parameter)
    pair = SYSTEMS["dsanet"].second(model, options, 5)
    for one in pair:
        one.step()
    state = checkpoint.steps_state(*pair)
    fresh = SYSTEMS["dsanet"].second(model, options, 5)
    checkpoint.load_steps(*fresh, state, "last.pt: second")
    assert fresh[1].get_last_lr() == pair[1].get_last_lr() != [0]
    assert torch.equal(*(one.state[one.param_groups[0]["params"][0]]["max_exp_avg_sq"] for one, _ in (pair, fresh)))
    del state["optimizer"]["state"][0]["max_exp_avg_sq"]
    for spoiled, place in ((state, "last.pt: second: optimizer.state.0"), ({}, "last.pt: second")):
        with pytest.raises(BadInput, match=f"{place} is not what this version"):
            checkpoint.load_steps(*fresh, spoiled, "last.pt: second")


def test_a_class_name_of_more_tokens_than_the_text_side_takes(small_clip, minilm):
    with pytest.raises(BadInput, match=r"class 'fire fire .*'…: more tokens than the 77 that CLIP takes; shorten it"):
        build_model("dsanet", ["normal", "fire " * 90], small_clip, visual_width=64)
    with pytest.raises(BadInput, match="classes: 602 tokens with the longest class name, the text encoder takes 512; shorten it"):
        build_model("dsanet", ["normal", "fire " * 600], load_sentence_text(minilm), visual_width=64)
