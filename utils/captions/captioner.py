"""Captioners of `transformers`: video-language models that see several frames (SmolVLM2, Qwen3-VL), image captioners that see one (BLIP).

Which of the two a model is, its processor tells: one with a chat template is asked in words, with the frames as a video, or as that many
images if it knows no videos; one without is given the picture alone, or with the beginning of the caption.
"""

import hashlib
from pathlib import Path

import numpy as np
import torch

from utils.captions.formats import plain_text
from utils.captions.reply import reply_of
from utils.errors import BadInput

PROMPT = "Describe in one sentence what happens in this video."
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Captioner:
    """A captioner by hub name or local folder; `load` reads its weights, which the rest does without.

    chat: whether it is asked in words; revision: the hub's commit, or a digest of the local files.
    Raises BadInput naming `--captioner`, the reason and the way out where it is missing, or no captioner.
    """

    def __init__(self, name: str, revision: str | None = None):
        from transformers import AutoConfig, AutoImageProcessor, AutoProcessor, AutoTokenizer

        self.name, self._at = name, {"revision": revision, "trust_remote_code": False}
        config = self._or_bad_input(AutoConfig.from_pretrained)
        self.revision = getattr(config, "_commit_hash", None) or (digest(Path(name)) if Path(name).is_dir() else revision)
        self.processor = self._or_bad_input(AutoProcessor.from_pretrained)
        if not hasattr(self.processor, "tokenizer"):  # published without a processor: ViT-GPT2
            self.processor, self._images = None, self._or_bad_input(AutoImageProcessor.from_pretrained)
        self.tokenizer = self.processor.tokenizer if self.processor else self._or_bad_input(AutoTokenizer.from_pretrained)
        self.chat = bool(getattr(self.processor, "chat_template", None))
        self.model = None

    def load(self, *, precision: str, device: str, device_map: str | None = None) -> None:
        """Read the weights, in `precision` (fp32, bf16), onto `device`, or spread as `device_map` says (needs accelerate)."""
        from transformers import AutoModelForImageTextToText

        placed = {"device_map": device_map} if device_map else {}
        model = self._or_bad_input(AutoModelForImageTextToText.from_pretrained, dtype=DTYPES[precision], **placed)
        self.model = (model if device_map else model.to(device)).eval()

    def prompt_of(self, prompt: str | None) -> str | None:
        """The words it is given: `prompt`, else a chat model's default. Raises BadInput where it takes none."""
        if prompt and self.processor is None:
            raise BadInput(f"--prompt: {self.name} captions pictures without any words; leave --prompt out")
        return prompt or (PROMPT if self.chat else None)

    @torch.inference_mode()
    def captions(
        self, clips: list[list[np.ndarray]], *, offsets: list[int], window: int, fps: float | None, prompt: str | None, generation: dict
    ) -> list[str]:
        """Clips of pictures (H, W, 3) uint8 -> a caption each, in one line; of a chat model's reply the caption in it, "" for a refusal.

        offsets: the frame number of each picture within a window of `window` frames; a chat model is told the times.
        """
        inputs = self._chat_inputs(clips, offsets, window, fps or 24, prompt) if self.chat else self._image_inputs(clips, prompt)
        inputs = inputs.to(self.model.device, self.model.dtype)
        tokens = self.model.generate(**inputs, **generation)
        if self.chat:
            tokens = tokens[:, inputs["input_ids"].shape[1] :]
        texts = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [" ".join((reply_of(text) if self.chat else plain_text(text)).split()) for text in texts]

    def _chat_inputs(self, clips, offsets, window, fps, prompt):
        as_video = getattr(self.processor, "video_processor", None) is not None
        seen = [{"type": "video"}] if as_video else [{"type": "image"}] * len(offsets)
        message = {"role": "user", "content": [*seen, {"type": "text", "text": prompt}]}
        text = self.processor.apply_chat_template([message], add_generation_prompt=True, tokenize=False)
        texts = {"text": [text] * len(clips), "padding": True, "padding_side": "left", "return_tensors": "pt"}
        if not as_video:
            return self.processor(images=[list(clip) for clip in clips], **texts)
        about = {"total_num_frames": window, "fps": fps, "duration": window / fps, "frames_indices": list(offsets)}
        videos = [np.stack(clip) for clip in clips]  # (N, H, W, 3)
        about = [about | {"frames_indices": list(offsets)} for _ in videos]  # processors write into them
        return self.processor(videos=videos, video_metadata=about, do_sample_frames=False, **texts)

    def _image_inputs(self, clips, prompt):
        pictures = [clip[0] for clip in clips]
        if self.processor is None:
            return self._images(images=pictures, return_tensors="pt")
        words = {"text": [prompt] * len(pictures)} if prompt else {}
        return self.processor(images=pictures, return_tensors="pt", **words)

    def _or_bad_input(self, load, **more):
        try:
            return load(self.name, **self._at, **more)
        except ImportError as error:
            raise BadInput(f"--captioner {self.name}: {error.name or error} is missing; pip install -r requirements-app.txt") from None
        except (OSError, ValueError, KeyError) as error:
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise BadInput(
                f"--captioner {self.name}: cannot be loaded ({reason}); download https://huggingface.co/{self.name.strip('./')} on a "
                f"machine with internet (hf download) and give the folder: --captioner FOLDER"
            ) from None


def digest(folder: Path) -> str:
    """A fingerprint of a model's folder: of its configuration, processor and weights."""
    total = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in (".json", ".safetensors", ".bin", ".txt", ".jinja", ".model"):
            with file.open("rb") as content:
                total.update(f"{file.name} {hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()[:16]
