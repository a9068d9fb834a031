"""What tools.export writes, run by onnxruntime, against PyTorch: `python -m tools.bench onnx`."""

import tempfile
from pathlib import Path

import torch

from app.detector import Trained
from app.exported import ENCODER, SCORER, About, exported_scorer
from model import SYSTEMS, build_model, options_of
from tools.bench.measure import UCF, seconds
from tools.export import LONGEST, export, export_encoder, random_inputs
from ucf_option import parse_args
from utils import engine
from utils.errors import BadInput
from utils.options import declared
from utils.reading import read_onnx
from utils.text import openai_clip
from utils.video.crops import Recipe
from utils.video.encoder import LITE, CLIPEncoder, OnnxEncoder, OnnxImages, load_encoder

VIT_B_16 = (512, 224, 12, 768, 16, 77, 49408, 64, 1, 1)  # the sizes of its image side; the text side is not used
PICTURES = 20  # a batch of extraction on a CPU


def bench_onnx() -> None:
    """Every system at UCF-Crime's sizes on a video of LONGEST snippets and on one chunk; both image encoders."""
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as place:
        for name, system in SYSTEMS.items():
            torch.manual_seed(0)
            words = ["--model", name, "--visual-width", str(system.widths[0]), "--device", "cpu", "--feature-root", "unused"]
            words += ["--caption-root", "unused"] if "caption_root" in declared(name) else []
            options = parse_args(words)
            sizes = {size: getattr(options, size) for size in options_of(name) - {"distilbert"}}
            model = build_model(name, UCF.names, torch.randn(len(UCF.names), 512), **sizes).eval()
            lengths = (options.visual_length, LONGEST)
            export(Trained({}, model, options, UCF.names, []), None, Recipe(), Path(place), lengths)
            scorer = exported_scorer(read_onnx(Path(place, SCORER), "--output", About, threads)[0])
            with torch.inference_mode():
                text = model.text_features()
            for rows in lengths:
                video = ("", *random_inputs(options, rows).values())
                theirs = seconds(lambda: engine.predict(model, [video], options, torch.device("cpu"), text=text), 3)  # noqa: B023
                ours = seconds(lambda: scorer([video]), 3)  # noqa: B023
                print(f"{name}, {rows} snippets: PyTorch {theirs:.3f} s, onnxruntime {ours:.3f} s: {theirs / ours:.2f} times as fast")
        torch.manual_seed(0)
        encoders = [CLIPEncoder(openai_clip().model.CLIP(*VIT_B_16), "ViT-B/16's sizes")]
        try:
            encoders.append(load_encoder(LITE))
        except BadInput as error:
            print(f"left out: {error}")
        for images in encoders:
            difference = export_encoder(images, Path(place, ENCODER))
            other = OnnxEncoder(*read_onnx(Path(place, ENCODER), "--output", OnnxImages, threads))
            batch = torch.randint(0, 256, (PICTURES, 3, images.size, images.size), dtype=torch.uint8)
            rates = [PICTURES / seconds(lambda: one(batch), 3) for one in (images, other)]  # noqa: B023
            said = f"PyTorch {rates[0]:.1f} pictures a second, onnxruntime {rates[1]:.1f}: {rates[1] / rates[0]:.2f} times as fast"
            print(f"{images.name}: {said}; features within {difference:.1e} of the largest")
