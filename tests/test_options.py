"""Options: nothing is parsed on import, one table, the option files state what differs, the command line wins."""

import subprocess
import sys

import pytest

import ucf_option
import xd_option
from utils.errors import BadInput
from utils.files import ROOT
from utils.options import BY_NAME


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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--batch-size", "7"], "--batch-size 7: expected an even number"),
        (["--lr", "0"], "--lr 0.0: expected a value above 0"),
        (["--visual-length", "0"], "--visual-length 0: expected 1 or more"),
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
    xd = xd_option.parse_args(["--model", "vadclip", "--feature-root", "x"])
    assert (xd.lr, xd.batch_size, xd.sampling, xd.visual_layers, xd.attn_window, xd.milestones) == (1e-5, 96, "shuffle", 1, 64, (3, 6, 10))
    assert ucf_option.parse_args(["--model", "vadclip", "--lr", "1"]).lr == 1
    for words in (["--model", "deepmil", "--temporal", "local"], ["--model", "hlnet", "--margin", "3"]):
        with pytest.raises(BadInput, match=rf"{words[2]}: --model {words[1]} has no such option; leave it out"):
            ucf_option.parse_args(words)


@pytest.mark.parametrize(("name", "value"), [("model", "vadclp"), ("sampling", "shuffel"), ("scheduler", "multistp"), ("optimizer", "sgd")])
def test_a_choice_that_is_none_in_an_option_file(name, value, monkeypatch):
    monkeypatch.setitem(ucf_option.DEFAULTS, name, value)
    with pytest.raises(BadInput, match=f"--{name} {value}: expected one of "):
        ucf_option.parse_args([])


def test_usage_errors_are_one_line_and_exit_code_2(capsys):
    for words in (["--modle", "reflip"], ["--temporal", "gcm"], ["--lr", "fast"]):
        with pytest.raises(SystemExit) as caught:
            ucf_option.parse_args(words)
        assert caught.value.code == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1


def test_help_names_every_option_its_default_and_what_the_paper_tried():
    done = subprocess.run([sys.executable, str(ROOT / "xd_train.py"), "--help"], capture_output=True, text=True, check=True)
    text = " ".join(done.stdout.split())
    training = {name for name in BY_NAME if name not in ("checkpoint", "save_scores", "json")}
    assert all(f"--{name.replace('_', '-')}" in text for name in training)
    assert "[default 0.0005]" in text
    assert "paper tried 0.01 0.03 0.05 0.07 0.09 0.1" in text


def test_help_of_a_test_script_leaves_training_out_and_of_a_system_shows_its_defaults():
    def text(*words):
        return " ".join(subprocess.run([sys.executable, *words, "--help"], capture_output=True, text=True, check=True).stdout.split())

    testing = text(str(ROOT / "ucf_test.py"))
    assert "--checkpoint" in testing
    assert not any(option in testing for option in ("--lr ", "--max-epoch", "--select", "--train-list", "--resume"))
    assert "learning rate [default 2e-05]" in text(str(ROOT / "ucf_train.py"), "--model", "vadclip")


def test_an_unknown_name_in_an_option_file(monkeypatch):
    monkeypatch.setitem(ucf_option.DEFAULTS, "learning_rate", 1)
    with pytest.raises(BadInput, match=r"ucf_option\.py: unknown option 'learning_rate'"):
        ucf_option.parse_args([])
