"""The text side: frozen encoders that turn prompts, given as token *embeddings*, into one vector per class.

K prompts of at most L tokens, token embeddings of width W, text features of width D.
"""

import hashlib
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from utils.errors import BadInput
from utils.reading import check_folder, check_packed, parsing, read_text, reason


class Frozen(nn.Module):
    """A pretrained part that is never trained, never leaves evaluation mode and is not stored in checkpoints (utils/checkpoint.py)."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module.requires_grad_(False).eval()

    def train(self, mode: bool = True):
        return super().train(False)

    @property
    def table(self) -> nn.Embedding:
        """The token embeddings (vocabulary, W)."""
        return self.module.get_input_embeddings()

    def embed(self, ids: list[int]) -> Tensor:
        """(n,) token numbers -> (n, W) embeddings, without positions."""
        return self.table(torch.tensor(ids, dtype=torch.long, device=self.table.weight.device))

    def digest(self) -> str:
        """A fingerprint of the weights: a checkpoint trained with one encoder is refused with another."""
        sums = [f"{name} {tuple(p.shape)} {p.double().sum().item():.10e}" for name, p in self.module.named_parameters()]
        return hashlib.sha256("\n".join(sums).encode()).hexdigest()[:16]


class CLIPText(Frozen):
    """CLIP's text transformer, run at the longest length in use. Its attention is causal, so the result equals that of 77 tokens."""

    def __init__(self, clip_model: nn.Module):
        super().__init__(clip_model)
        self.width = self.table.embedding_dim
        self.output_width = clip_model.text_projection.shape[1]
        self.max_length = clip_model.positional_embedding.shape[0]

    def tokens(self, text: str) -> tuple[list[int], list[int], list[int]]:
        """`text` as CLIP token numbers: ([SOS], body, [EOS])."""
        ids = openai_clip().tokenize(text)[0].tolist()
        end = max(range(len(ids)), key=ids.__getitem__)
        return ids[:1], ids[1:end], [ids[end]]

    @property
    def table(self) -> nn.Embedding:
        return self.module.token_embedding

    def forward(self, prompts: Tensor, lengths: Tensor) -> Tensor:
        """prompts (K, L, W) float, lengths (K,) int: tokens up to and with [EOS] -> (K, D) unnormalised, pooled at [EOS]."""
        x = prompts + self.module.positional_embedding[: prompts.shape[1]]
        mask = self.module.transformer.resblocks[0].attn_mask[: prompts.shape[1], : prompts.shape[1]].to(x)
        x = x.transpose(0, 1)  # (L, K, W), as openai-clip's blocks expect
        for block in self.module.transformer.resblocks:
            y = block.ln_1(x)
            x = x + block.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
            x = x + block.mlp(block.ln_2(x))
        end = self.module.ln_final(x[lengths - 1, torch.arange(len(lengths), device=x.device)])
        return end @ self.module.text_projection


class SentenceText(Frozen):
    """A `transformers` sentence encoder (BERT family) run on `inputs_embeds` and mean-pooled, for features that live in its space."""

    def __init__(self, model: nn.Module, tokenizer, normalise: bool = False):
        super().__init__(model)
        self.tokenizer, self.normalise = tokenizer, normalise
        self.width = self.table.embedding_dim
        self.output_width = model.config.hidden_size
        self.max_length = model.config.max_position_embeddings

    def tokens(self, text: str) -> tuple[list[int], list[int], list[int]]:
        """`text` as token numbers: ([CLS], body, [SEP])."""
        body = self.tokenizer(text, add_special_tokens=False).input_ids
        return [self.tokenizer.cls_token_id], body, [self.tokenizer.sep_token_id]

    def forward(self, prompts: Tensor, lengths: Tensor) -> Tensor:
        """prompts (K, L, W), lengths (K,) -> (K, D): the mean of the last layer over each prompt's tokens, unit norm if the encoder's own
        pipeline says so.
        """
        valid = torch.arange(prompts.shape[1], device=prompts.device) < lengths[:, None]
        x = self.module(inputs_embeds=prompts, attention_mask=valid.long()).last_hidden_state
        x = (x * valid[..., None]).sum(1) / lengths[:, None]
        return nn.functional.normalize(x, dim=-1) if self.normalise else x


def openai_clip():
    """The package openai-clip, without the warning that its import of pkg_resources prints."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        import clip
    return clip


def load_clip(name_or_path: str, option: str = "--clip") -> nn.Module:
    """OpenAI's CLIP in float32 on the CPU, by name (openai-clip downloads it on first use) or from a file: a state dict, or OpenAI's own
    TorchScript archive.

    Raises BadInput naming the file, where to get it and `option` where it is missing or no CLIP.
    """
    clip = openai_clip()
    if name_or_path in clip.available_models():
        try:
            return clip.load(name_or_path, device="cpu")[0].float()
        except (OSError, RuntimeError) as error:
            raise BadInput(
                f"{option} {name_or_path}: openai-clip could not download it ({reason(error)}); fetch the file elsewhere "
                f"(https://github.com/openai/CLIP names the addresses) and give its path: {option} FILE.pt"
            ) from None
    if not Path(name_or_path).is_file():
        raise BadInput(
            f"{option} {name_or_path}: no such file and no CLIP name ({', '.join(clip.available_models())}); "
            f"a local path must be a checkpoint in OpenAI's format"
        )
    size = check_packed(name_or_path, option)
    # Any way a file can fail to be a CLIP: cut short, another model, another format.
    with parsing(f"{option} {name_or_path}: not a CLIP in OpenAI's format", "convert it, or give a name such as ViT-B/16"):
        try:
            state = torch.load(name_or_path, map_location="cpu", weights_only=True)
        except RuntimeError:  # OpenAI's own files are TorchScript archives, which torch.load refuses
            state = torch.jit.load(name_or_path, map_location="cpu").state_dict()  # (deprecated; OpenAI's files remain)
        state = dict(state)
        if sum(value.numel() for value in state.values()) > size:
            raise ValueError("sizes beyond the file's own")
        model = clip.model.build_model(dict(state)).float()
        model.load_state_dict({key: state[key] for key in model.state_dict()})  # build_model rounds to half precision
        if not all(value.isfinite().all() for value in model.state_dict().values()):
            raise ValueError("weights that are not finite")
    return model


def load_transformer(name_or_path: str, option: str, tokenizer: bool = False):
    """A frozen encoder from `transformers` (DistilBERT, a sentence encoder), by hub name or local folder; with its tokenizer if asked for.

    Returns the model, or (model, tokenizer). Raises BadInput naming `option` and the way out where it cannot be had.
    """
    from transformers import AutoConfig, AutoModel, AutoTokenizer, logging

    logging.set_verbosity_error()  # what it has to say is said below, on one line
    size = check_folder(name_or_path, option) if Path(name_or_path).is_dir() else None
    todo = f"download https://huggingface.co/{name_or_path.strip('./')} on a machine with internet and give the folder: {option} FOLDER"
    with parsing(f"{option} {name_or_path}: cannot be loaded", todo):
        if size is not None:
            config = AutoConfig.from_pretrained(name_or_path, trust_remote_code=False)
            with torch.device("meta"):  # no memory
                declared = sum(p.numel() for p in AutoModel.from_config(config, trust_remote_code=False).parameters())
            if declared > size:
                raise ValueError(f"config.json declares {declared:,} weights, its files have {size:,} bytes")
        model, found = AutoModel.from_pretrained(name_or_path, trust_remote_code=False, output_loading_info=True)
        if missing := sorted(key for key in found["missing_keys"] if "pooler" not in key):
            raise ValueError(f"lacks {missing[0]} and {len(missing) - 1} other weights")
        if not all(value.isfinite().all() for value in model.state_dict().values()):
            raise ValueError("weights that are not finite")
        words = AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False) if tokenizer else None
        if words is not None and len(words) > model.get_input_embeddings().num_embeddings:
            raise ValueError(f"its tokenizer has {len(words)} tokens, the weights {model.get_input_embeddings().num_embeddings}")
    return (model, words) if tokenizer else model


def load_sentence_text(name_or_path: str, option: str = "--sentence-encoder") -> SentenceText:
    """A sentence encoder as text side; a `modules.json` beside the weights that ends in Normalize gives unit vectors."""
    model, tokenizer = load_transformer(name_or_path, option, tokenizer=True)
    return SentenceText(model, tokenizer, normalise=has_normalize(name_or_path))


def has_normalize(name_or_path: str) -> bool:
    """Whether the sentence encoder's own pipeline (`modules.json`) ends in a Normalize module."""
    from transformers.utils import cached_file

    file = cached_file(
        name_or_path,
        "modules.json",
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return file is not None and "Normalize" in read_text(file, "the sentence encoder")
