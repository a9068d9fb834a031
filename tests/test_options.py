"""Options: nothing is parsed on import, typed dataclasses hold the defaults, the option files state values, the command line wins."""

import subprocess
import sys
from dataclasses import fields

import pytest

import custom_option
import ucf_option
import xd_option
from model import SYSTEMS, ReFLIPSettings
from utils.datasets import benchmarks, load_dataset
from utils.errors import BadInput, exit_code
from utils.files import ROOT
from utils.options import Shared, check_options, declared, of_preset
from utils.sample import announce


def test_paper_settings():
    ucf = ucf_option.parse_args(["--feature-root", "x"])
    xd = xd_option.parse_args(["--feature-root", "x"])
    assert (ucf.lr, ucf.lambda_align, ucf.lambda_magnitude) == (3e-4, 0.01, 0.001)
    assert (xd.lr, xd.lambda_align, xd.lambda_magnitude) == (5e-4, 1e-4, 1e-4)
    for options in (ucf, xd):
        assert (options.batch_size, options.max_epoch, options.visual_length, options.window_length) == (128, 50, 512, 64)
        assert (options.prompt_prefix + options.prompt_postfix, options.temperature, options.optimizer) == (24, 0.07, "adam")
    assert ucf.train_list == str(ROOT / "list" / "ucf_ReFLIP_rgb.csv")
    assert xd.gt_path == str(ROOT / "list" / "xd_gt.json")


def test_sample_and_command_line():
    sample = xd_option.parse_args([])
    assert sample.sample
    assert sample.visual_width == xd_option.SAMPLE["visual_width"]
    assert sample.clip.endswith("clip.pt")
    typed = xd_option.parse_args(["--max-epoch", "3", "--no-ge-skip", "--seeds", "1", "2"])
    assert (typed.max_epoch, typed.ge_skip, typed.seeds) == (3, False, [1, 2])
    assert {"max_epoch", "ge_skip", "seeds"} == set(typed.typed)


@pytest.mark.parametrize("file", [ucf_option, xd_option])
def test_an_option_file_lists_every_hyperparameter_of_reflip_vad(file):
    training = {name for name, one in declared("reflip").items() if one.group == "training"}
    elsewhere = {
        "preset",
        "seeds",
        "device",
        "precision",
        "init",
        "freeze",
        "resume",
        "overwrite",
        "save_steps",
        "compile",
    }  # of one run, of the machine, or of COMMON
    expected = {field.name for field in fields(ReFLIPSettings)} | training | {"clip", "distilbert"}
    assert file.SYSTEMS["reflip"].keys() == expected - elsewhere
    assert set(file.SYSTEMS) <= set(SYSTEMS)
    assert file.COMMON.keys() <= {field.name for field in fields(Shared)}


def test_an_edited_or_deleted_line_has_its_effect(monkeypatch):
    monkeypatch.setitem(xd_option.SYSTEMS["reflip"], "dropout", 0.25)
    monkeypatch.setitem(xd_option.SYSTEMS["reflip"], "temperature", 0.05)
    monkeypatch.delitem(xd_option.SYSTEMS["reflip"], "lambda_align")
    for words in ([], ["--feature-root", "x"]):  # on the sample, too
        options = xd_option.parse_args(words)
        assert (options.dropout, options.temperature, options.lambda_align) == (0.25, 0.05, 0.01)  # the last one is the code's
        other = xd_option.parse_args(["--model", "vadclip", *words])
        assert (other.dropout, other.temperature, other.lambda_align) == (0.0, 0.07, 1)  # lines of one system are that system's
    monkeypatch.setitem(xd_option.COMMON, "precision", "bf16")
    monkeypatch.setitem(xd_option.COMMON, "max_epoch", 3)  # wins over what a system's paper sets
    other = xd_option.parse_args(["--model", "hlnet", "--feature-root", "x"])
    assert (other.precision, other.max_epoch) == ("bf16", 3)
    monkeypatch.setitem(xd_option.SYSTEMS["reflip"], "seeds", (1, 2))
    assert xd_option.parse_args([]).seeds == [1, 2]
    assert xd_option.parse_args(["--seed", "7"]).seeds == [7]


def test_what_the_sample_overrules_is_said_first(monkeypatch, capsys):
    monkeypatch.setattr("utils.sample.builder.is_current", lambda *_: True)
    monkeypatch.setitem(ucf_option.SYSTEMS["reflip"], "lr", 0.002)
    announce(ucf_option.parse_args(["--max-epoch", "3"]))
    data, overruled = capsys.readouterr().out.splitlines()
    assert data.startswith("data: built-in sample")
    assert overruled.startswith("the sample overrules ucf_option.py (SAMPLE there): ")
    for name, text in {"visual_width": "64 (not 512)", "lr": "0.001 (not 0.002)", "clip": "its own (not ViT-B/16)"}.items():
        assert f"{name} {text}" in overruled
    assert "max_epoch" not in overruled  # typed
    assert "dropout" not in overruled
    announce(ucf_option.parse_args(["--feature-root", "x"]))
    assert capsys.readouterr().out == "data: UCF-Crime features in x\n"


def test_what_a_deleted_line_falls_back_to_is_said(monkeypatch, capsys):
    monkeypatch.delitem(xd_option.SYSTEMS["reflip"], "lambda_align")
    monkeypatch.delitem(xd_option.SYSTEMS["reflip"], "margin")
    announce(xd_option.parse_args(["--feature-root", "x", "--margin", "3"]))
    said = "xd_option.py does not set: lambda_align 0.01, the default of the code\ndata: XD-Violence features in x\n"
    assert capsys.readouterr().out == said
    announce(xd_option.parse_args(["--feature-root", "x", "--model", "vadclip"]))
    assert capsys.readouterr().out == "data: XD-Violence features in x\n"


def test_a_preset_wins_over_the_option_file_and_what_is_typed_over_it(monkeypatch, capsys):
    monkeypatch.setitem(ucf_option.SYSTEMS["reflip"], "temperature", 0.05)  # which the paper does not set so
    words = ["--feature-root", "x", "--preset", "paper"]
    options = ucf_option.parse_args([*words, "--ge-skip", "--lambda-text", "0.2"])
    assert (options.preset, options.channel_attention, options.lambda_align, options.scheduler) == ("paper", "plain", 1.28, "none")
    assert (options.temperature, options.ge_skip, options.lambda_text) == (0.07, True, 0.2)
    announce(options)
    preset, _ = capsys.readouterr().out.splitlines()
    assert preset.startswith("preset paper: ")
    assert "temperature 0.07 (not 0.05)" in preset
    assert "lambda_align 1.28 (not 0.01)" in preset
    assert not any(name in preset for name in ("ge_skip", "lambda_text", "batch_size"))  # typed, typed, the same
    plain = ucf_option.parse_args(["--feature-root", "x"])
    assert (plain.preset, plain.changed, plain.temperature, plain.ge_skip, plain.scheduler) == (None, {}, 0.05, True, "cosine")


def test_a_preset_is_of_the_data_set(monkeypatch):
    words = ["--feature-root", "x", "--preset", "paper"]
    xd = xd_option.parse_args(words)
    assert (xd.lr, xd.lambda_align, xd.lambda_magnitude, xd.ge_skip) == (5e-4, 0.0128, 1e-4, False)
    sample = xd_option.parse_args(words[2:])  # whose size it has
    assert (sample.lr, sample.max_epoch, sample.lambda_align, sample.visual_length) == (1e-3, 5, 0.0128, 256)
    assert not {"lr", "max_epoch", "visual_length"} & sample.changed.keys()
    monkeypatch.setitem(xd_option.SYSTEMS["reflip"], "preset", "paper")  # stated there, too
    assert xd_option.parse_args(words[:2]).lambda_align == 0.0128


def test_a_preset_that_is_none():
    with pytest.raises(BadInput, match=r"--preset papr: no such preset of --model reflip; expected one of paper$"):
        ucf_option.parse_args(["--preset", "papr"])
    with pytest.raises(BadInput, match=r"--preset paper: no such preset of --model vadclip; the system has none; leave it out$"):
        ucf_option.parse_args(["--preset", "paper", "--model", "vadclip"])


def test_presets_name_options_and_values_that_there_are():
    for name, system in SYSTEMS.items():
        for preset, values in system.presets.items():
            check_options(values, name, preset)
            assert all(declared(name)[key].hyperparameter for key in values)
            for dataset in benchmarks():
                of_preset(preset, name, load_dataset(dataset))


@pytest.mark.parametrize(
    ("line", "said"),
    [("lrr = 1", "presets.reflip.paper: unknown option 'lrr'; did you mean 'lr'?"), ("lr = 0.0", "lr = 0.0: expected a value above 0")],
)
def test_a_preset_in_a_data_sets_file_that_makes_no_sense(line, said, tmp_path):
    path = tmp_path / "dataset.toml"
    path.write_text(f'title = "Shop"\nfps = 25\n[classes]\nN = "normal"\nT = "theft"\n[presets.reflip.paper]\n{line}\n')
    with pytest.raises(BadInput) as caught:
        custom_option.parse_args(["--data", str(tmp_path), "--preset", "paper"], testing=False)
    assert str(caught.value).startswith(f"{path}: {said}")


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("lr", "3e-4", "a number"),
        ("visual_length", "64", "a whole number"),
        ("visual_length", 64.0, "a whole number"),
        ("visual_length", True, "a whole number"),
        ("ge_skip", "False", "True or False"),
        ("ge_skip", 0, "True or False"),
        ("prompt", None, "a text in quotes"),
        ("milestones", 4, "numbers in brackets"),
        ("milestones", ("4", "8"), "numbers in brackets"),
    ],
)
def test_a_value_of_another_type_in_an_option_file_is_one_line(name, value, kind, monkeypatch):
    monkeypatch.setitem(ucf_option.SYSTEMS["reflip"], name, value)
    with pytest.raises(BadInput) as caught:
        ucf_option.parse_args([])
    said = str(caught.value)
    assert said.startswith(f"ucf_option.py: {name} = {value!r}, of type {type(value).__name__}; expected {kind}")
    assert "\n" not in said


@pytest.mark.parametrize(
    ("where", "name", "value", "said"),
    [
        ("SYSTEMS", "lr", float("inf"), "lr = inf: expected a finite number"),
        ("SYSTEMS", "dropout", 2, "dropout = 2: expected a value from 0 to 0.99"),
        ("SYSTEMS", "optimizer", "sgd", "optimizer = 'sgd': expected one of adam, adamw, adagrad"),
        ("COMMON", "val_share", 1.5, "val_share = 1.5: expected a value from 0 to 0.9"),
        ("COMMON", "caption_root", "x", "COMMON: 'caption_root' is no option of --model reflip; it is one of trclip"),
        ("COMMON", "visual_lenght", 64, "COMMON: unknown option 'visual_lenght'; did you mean 'visual_length'?"),
    ],
)
def test_a_value_that_makes_no_sense_names_the_option_file(where, name, value, said, monkeypatch):
    monkeypatch.setitem(ucf_option.COMMON if where == "COMMON" else ucf_option.SYSTEMS["reflip"], name, value)
    with pytest.raises(BadInput) as caught:
        ucf_option.parse_args([])
    assert str(caught.value).startswith(f"ucf_option.py: {said}")


def test_settings_of_a_system_that_are_no_dict(monkeypatch):
    monkeypatch.setitem(ucf_option.SYSTEMS, "vadclip", None)
    with pytest.raises(BadInput, match=r"ucf_option\.py: SYSTEMS\['vadclip'\] = None; expected dict"):
        ucf_option.parse_args(["--model", "vadclip"])


def test_a_system_that_is_none_in_an_option_file(monkeypatch):
    monkeypatch.setitem(ucf_option.SYSTEMS, "vadclp", {})
    with pytest.raises(BadInput, match=r"ucf_option\.py: 'vadclp' is no system; available: reflip"):
        ucf_option.parse_args([])


def test_importing_the_model_and_the_help_of_a_script_load_no_other_wing():
    """Nor what only they need: video decoding, the page, clients, encoders of sentences; nor what deals folds or draws."""
    heavy = ("av", "gradio", "openai", "transformers", "num2words", "sklearn", "matplotlib", "app", "tools", "utils.video")
    heavy += ("utils.sample.builder", "utils.captions.captioner", "utils.captions.llm", "utils.captions.embedding")
    script = "import runpy, sys; sys.argv = ['ucf_train.py', '--help']; runpy.run_path('ucf_train.py', run_name='__main__')"
    for code in ("import model", script):
        run = [sys.executable, "-X", "importtime", "-c", code]
        done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True)
        loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
        assert "model" in loaded
        assert not {name for name in loaded for wing in heavy if name == wing or name.startswith(f"{wing}.")}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--batch-size", "7"], "--batch-size 7: expected an even number"),
        (["--lr", "0"], "--lr 0.0: expected a value above 0 and up to 1,000,000"),
        (["--visual-length", "0"], "--visual-length 0: expected a value from 1 to 100,000"),
        (["--dropout", "1.5"], "--dropout 1.5: expected a value from 0 to 0.99"),
        (["--val-share", "0"], "--val-share 0"),
        (["--seed", "1", "--seeds", "2"], "--seed and --seeds"),
        (["--text-features", "x.npy", "--prompt", "learnable"], "--text-features and --prompt learnable"),
    ],
)
def test_values_that_make_no_sense(words, message):
    with pytest.raises(BadInput, match=message):
        ucf_option.parse_args(words)


def test_a_system_has_settings_and_options_of_its_own():
    published = ucf_option.parse_args(["--model", "vadclip", "--feature-root", "x"])
    assert (published.lr, published.batch_size, published.visual_layers, published.attn_window, published.seed) == (2e-5, 128, 2, 8, 234)
    assert published.output.endswith("ucf-vadclip")
    folds = ["--model", "vadclip", "--feature-root", "f", "--folds", "3"]
    assert ucf_option.parse_args(folds).output.endswith("ucf-vadclip-folds")  # beside a run without folds
    xd = xd_option.parse_args(["--model", "vadclip", "--feature-root", "x"])
    assert (xd.lr, xd.batch_size, xd.sampling, xd.visual_layers, xd.attn_window, xd.milestones) == (1e-5, 96, "shuffle", 1, 64, (3, 6, 10))
    assert ucf_option.parse_args(["--model", "vadclip", "--lr", "1"]).lr == 1
    for words in (["--model", "deepmil", "--temporal", "local"], ["--model", "hlnet", "--margin", "3"]):
        with pytest.raises(BadInput, match=rf"{words[2]}: --model {words[1]} has no such option; leave it out"):
            ucf_option.parse_args(words)


@pytest.mark.parametrize(("name", "value"), [("model", "vadclp"), ("sampling", "shuffel"), ("scheduler", "multistp"), ("optimizer", "sgd")])
def test_a_choice_that_is_none_in_an_option_file(name, value, monkeypatch):
    monkeypatch.setitem(ucf_option.SYSTEMS["reflip"] if name in ucf_option.SYSTEMS["reflip"] else ucf_option.COMMON, name, value)
    with pytest.raises(BadInput, match=f"(--model {value}|{name} = {value!r}): expected one of "):
        ucf_option.parse_args([])


def test_usage_errors_are_one_line_and_exit_code_2(capsys):
    for words in (["--modle", "reflip"], ["--temporal", "gcm"], ["--lr", "fast"]):
        assert exit_code(lambda words=words: ucf_option.parse_args(words)) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1


def shown(capsys, file, *words, **more) -> str:
    """What --help prints, on one line."""
    with pytest.raises(SystemExit) as caught:
        file.parse_args([*words, "--help"], **more)
    assert caught.value.code == 0
    return " ".join(capsys.readouterr().out.split())


def test_help_names_every_option_its_default_and_what_the_paper_tried(capsys):
    text = shown(capsys, xd_option)
    training = {name for name in declared("reflip") if name not in ("data", "checkpoint", "save_scores", "json")}
    assert all(f"--{name.replace('_', '-')}" in text for name in training)
    assert "[default 0.0005]" in text
    assert "paper tried 0.01 0.03 0.05 0.07 0.09 0.1" in text
    assert "--d-state" not in text  # another system's
    assert "--d-state" in shown(capsys, xd_option, "--model", "trclip")
    assert "--data" in shown(capsys, custom_option)
    assert "there are: paper]" in text
    assert "there are: none]" in shown(capsys, xd_option, "--model", "trclip")


def test_help_of_a_test_script_leaves_training_out_and_of_a_system_shows_its_defaults(capsys):
    testing = shown(capsys, ucf_option, testing=True)
    assert "--checkpoint" in testing
    assert not any(option in testing for option in ("--lr ", "--max-epoch", "--select", "--train-list", "--resume"))
    assert "learning rate [default 2e-05]" in shown(capsys, ucf_option, "--model", "vadclip")


def test_an_unknown_name_in_an_option_file(monkeypatch):
    monkeypatch.setitem(ucf_option.SYSTEMS["reflip"], "learning_rate", 1)
    with pytest.raises(
        BadInput, match=r"ucf_option\.py: SYSTEMS\['reflip'\]: unknown option 'learning_rate'; the names are in reflip's --help"
    ):
        ucf_option.parse_args([])
