"""The text side: frozen encoders that turn prompts, given as token *embeddings*, into one vector per class.

K prompts of at most L tokens, token embeddings of width W, text features of width D.
"""

import hashlib
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from utils.errors import BadInput
from utils.reading import check_folder, check_packed, parsing, read_json, reason


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
        self.register_buffer("mask", clip_model.transformer.resblocks[0].attn_mask, persistent=False)  # there it stays on the CPU

    def _apply(self, *given, **more):
        """Moves and converts all but the image side, which stays where it was loaded: no text goes through it."""
        images, self.module.visual = self.module.visual, None
        try:
            return super()._apply(*given, **more)
        finally:
            self.module.visual = images

    def tokens(self, text: str) -> tuple[list[int], list[int], list[int]]:
        """`text` as CLIP token numbers: ([SOS], body, [EOS]). Raises BadInput where they are more than CLIP takes."""
        try:
            ids = openai_clip().tokenize(text)[0].tolist()
        except RuntimeError:
            raise BadInput(f"class {text[:60]!r}…: more tokens than the {self.max_length} that CLIP takes; shorten it") from None
        end = max(range(len(ids)), key=ids.__getitem__)
        return ids[:1], ids[1:end], [ids[end]]

    @property
    def table(self) -> nn.Embedding:
        return self.module.token_embedding

    def forward(self, prompts: Tensor, lengths: Tensor) -> Tensor:
        """prompts (K, L, W) float, lengths (K,) int: tokens up to and with [EOS] -> (K, D) unnormalised, pooled at [EOS]."""
        return self.last(prompts, lengths) @ self.module.text_projection

    def last(self, prompts: Tensor, lengths: Tensor, behind: Callable = lambda block, x: x) -> Tensor:
        """As `forward`, before the projection: (K, W). behind(i, x (L, K, W)) -> (L, K, W) stands behind the i-th block."""
        x = prompts + self.module.positional_embedding[: prompts.shape[1]]
        mask = self.mask[: prompts.shape[1], : prompts.shape[1]].to(x.dtype)
        x = x.transpose(0, 1)  # (L, K, W), as in openai-clip's blocks
        for number, block in enumerate(self.module.transformer.resblocks):
            x = x + attended(block.attn, block.ln_1(x), mask)
            x = behind(number, x + block.mlp(block.ln_2(x)))
        return self.module.ln_final(x[lengths - 1, torch.arange(len(lengths), device=x.device)])


def attended(attn: nn.MultiheadAttention, x: Tensor, mask: Tensor) -> Tensor:
    """What attn(x, x, x) gives for x (L, K, W), without the copies that its backward pass makes of queries, keys and values."""
    qkv = nn.functional.linear(x, attn.in_proj_weight, attn.in_proj_bias).unflatten(-1, (3, attn.num_heads, -1))
    q, k, v = qkv.permute(2, 1, 3, 0, 4)  # (K, heads, L, W / heads) each
    y = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return attn.out_proj(y.permute(2, 0, 1, 3).flatten(2))


class Pipeline(NamedTuple):
    """What a sentence encoder's own files (sentence-transformers' modules.json) say that is done around its `transformers` model."""

    pooling: tuple[str, ...] = ()  # empty: they do not say
    dense: tuple[nn.Module, ...] = ()  # layers behind the pooling
    normalise: bool = False
    longest: int | None = None  # tokens of a sentence
    lower: bool = False


class SentenceText(Frozen):
    """A sentence encoder of `transformers` (BERT and RoBERTa, the encoder of T5, …) run on `inputs_embeds` and pooled as `pipeline` says,
    else by the mean of its tokens: for features that live in its space.

    max_length: tokens that its positions reach; longest: tokens of a sentence, the rest of which is cut off.
    """

    def __init__(self, model: nn.Module, tokenizer, pipeline: Pipeline):
        super().__init__(model)
        self.tokenizer, self.pipeline = tokenizer, pipeline
        self.pooling = pipeline.pooling or ("mean",)
        self.dense = nn.ModuleList(pipeline.dense).requires_grad_(False)
        self.width = self.table.embedding_dim
        self.output_width = self.dense[-1][0].out_features if len(self.dense) else model.config.hidden_size * len(self.pooling)
        self.max_length = _positions(model, tokenizer)
        self.longest = min(self.max_length, tokenizer.model_max_length, pipeline.longest or math.inf)
        whole, body = (tokenizer("a", add_special_tokens=special).input_ids for special in (True, False))
        at = next((at for at in range(len(whole)) if whole[at : at + len(body)] == body), 0)
        self._around = whole[:at], whole[at + len(body) :]  # [CLS] and [SEP]; T5 has the latter alone, GPT neither

    @property
    def note(self) -> str:
        """What a user should know of the pooling; empty where the encoder's files, or the user, say which it is."""
        if self.pipeline.pooling:
            return ""
        pooler = " (it has a pooler, which SimCSE's authors take)" if getattr(self.module, "pooler", None) is not None else ""
        return f"the sentence encoder's files do not say how its tokens are pooled: their mean is taken{pooler}"

    def tokens(self, text: str) -> tuple[list[int], list[int], list[int]]:
        """`text` as token numbers: ([CLS], body, [SEP])."""
        start, end = self._around
        return start, self.tokenizer(self._cased(text), add_special_tokens=False).input_ids, end

    def batch(self, sentences: list[str]) -> tuple[Tensor, Tensor]:
        """(n,) sentences -> token numbers (n, L), 0 behind each sentence's end, and their lengths (n,), 1 to `longest`."""
        ids = self.tokenizer([self._cased(text) for text in sentences], truncation=True, max_length=self.longest).input_ids
        ids = [torch.tensor(row or [0]) for row in ids]  # a text of which the tokenizer leaves nothing
        return nn.utils.rnn.pad_sequence(ids, batch_first=True), torch.tensor([len(row) for row in ids])

    def forward(self, prompts: Tensor, lengths: Tensor) -> Tensor:
        """prompts (K, L, W), lengths (K,) -> (K, D): the last layer pooled over each prompt's tokens, of unit norm if the encoder's own
        pipeline says so.
        """
        valid = torch.arange(prompts.shape[1], device=prompts.device) < lengths[:, None]
        output = self.module(inputs_embeds=prompts, attention_mask=valid.long())
        x = torch.cat([POOLING[name](output, valid[..., None], lengths[:, None]) for name in self.pooling], -1)
        for layer in self.dense:
            x = layer(x)
        return nn.functional.normalize(x, dim=-1) if self.pipeline.normalise else x

    def digest(self) -> str:
        """As every encoder's; also of how it pools, where that is not the mean alone."""
        if self.pooling == ("mean",) and not len(self.dense):
            return super().digest()
        more = f"{self.pooling} {super().digest()} {Frozen(self.dense).digest()}"
        return hashlib.sha256(more.encode()).hexdigest()[:16]

    def _cased(self, text: str) -> str:
        return text.lower() if self.pipeline.lower else text


def _pooled_max(output, valid, lengths):
    return output.last_hidden_state.masked_fill(~valid, -math.inf).amax(1)


def _pooled_sum(output, weights):
    return (output.last_hidden_state * weights).sum(1)


def _pooled_weighted(output, valid, lengths):
    weights = valid * torch.arange(1, valid.shape[1] + 1, device=valid.device)[:, None]
    return _pooled_sum(output, weights) / weights.sum(1)


def _pooled_last(output, valid, lengths):
    return output.last_hidden_state[torch.arange(len(lengths), device=valid.device), lengths[:, 0] - 1]


# Names as in sentence-transformers, in the order in which it joins several; `pooler`, the layer that BERT has for it, is transformers' own.
# (output of the model, valid (K, L, 1) bool, lengths (K, 1)) -> (K, D).
POOLING = {
    "cls": lambda output, valid, lengths: output.last_hidden_state[:, 0],
    "max": _pooled_max,
    "mean": lambda output, valid, lengths: _pooled_sum(output, valid) / lengths,
    "mean_sqrt_len_tokens": lambda output, valid, lengths: _pooled_sum(output, valid) / lengths.sqrt(),
    "weightedmean": _pooled_weighted,
    "lasttoken": _pooled_last,
    "pooler": lambda output, valid, lengths: output.pooler_output,
}


def _positions(model: nn.Module, tokenizer) -> int:
    """How many tokens the positions of a model reach. RoBERTa's kin begin to count behind the padding's number."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return module.num_embeddings - module.padding_idx - 1
    config = model.config.get_text_config()
    found = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 0
    if found <= 0:  # positions relative to one another, as T5's: no end but what it was trained with
        found = tokenizer.model_max_length if tokenizer.model_max_length < 10**6 else 512
    return found


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
    Of an encoder-decoder (T5) it is the encoder; a pooler without weights is left out.

    Returns the model, or (model, tokenizer). Raises BadInput naming `option` and the way out where it cannot be had.
    """
    from transformers import MODEL_FOR_TEXT_ENCODING_MAPPING, AutoConfig, AutoModel, AutoModelForTextEncoding, AutoTokenizer, logging

    logging.set_verbosity_error()  # what it has to say is said below, on one line
    logging.disable_progress_bar()
    size, todo = math.inf, f"download https://huggingface.co/{name_or_path.strip('./')} on a machine with internet and give the folder"
    if Path(name_or_path).is_dir():
        size, todo = check_folder(name_or_path, option), "download the model anew, or name another folder"
    with parsing(f"{option} {name_or_path}: cannot be loaded", f"{todo}: {option} FOLDER"):
        config = AutoConfig.from_pretrained(name_or_path, trust_remote_code=False)
        kind = AutoModelForTextEncoding if type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING else AutoModel  # of T5 the encoder alone
        with torch.device("meta"):  # takes no memory
            declared = sum(p.numel() for p in kind.from_config(config, trust_remote_code=False).parameters())
        if declared > size:
            raise ValueError(f"config.json declares {declared:,} weights, its files have {size:,} bytes")
        model, found = kind.from_pretrained(name_or_path, trust_remote_code=False, output_loading_info=True)
        if any("pooler" in key for key in found["missing_keys"]):  # random numbers else
            model.pooler = None
        if missing := sorted(key for key in found["missing_keys"] if "pooler" not in key):
            raise ValueError(f"lacks {missing[0]} and {len(missing) - 1} other weights")
        if not all(value.isfinite().all() for value in model.state_dict().values()):
            raise ValueError("weights that are not finite")
        if config.is_encoder_decoder and kind is AutoModel:
            model = model.get_encoder()
        words = AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False) if tokenizer else None
        rows = getattr(model.get_input_embeddings(), "num_embeddings", math.inf)
        if words is not None and len(words) > rows:
            raise ValueError(f"its tokenizer has {len(words)} tokens, the weights {rows}")
    return (model, words) if tokenizer else model


def load_sentence_text(name_or_path: str, option: str = "--sentence-encoder", pooling: str | None = None) -> SentenceText:
    """A sentence encoder in float32 as text side, pooled as its own files (`modules.json`) say, else by the mean; by `pooling`, a name of
    POOLING, if that is given.

    Raises BadInput naming `option` where it cannot be had, does not encode text, or was trained with something that is not known here.
    """
    model, tokenizer = load_transformer(name_or_path, option, tokenizer=True)
    pipeline = read_pipeline(name_or_path, option)
    if pooling not in (None, *POOLING):
        raise BadInput(f"{pooling!r}: no pooling of {option} {name_or_path}; expected one of {', '.join(POOLING)}")
    if pooling:
        pipeline = pipeline._replace(pooling=(pooling,))
    try:
        encoder = SentenceText(model.float(), tokenizer, pipeline)
        ids, lengths = encoder.batch(["a", "a b"])
        with torch.inference_mode():
            tried = encoder(encoder.table(ids), lengths)
        if tried.shape != (2, encoder.output_width) or not tried.isfinite().all():
            raise ValueError(f"vectors {tuple(tried.shape)}, expected finite ones of {encoder.output_width} columns")
    except Exception as error:  # whatever a model of another kind raises
        if "pooler" in pipeline.pooling and getattr(model, "pooler", None) is None:
            raise BadInput(f"{option} {name_or_path}: has no pooler; choose another pooling ({', '.join(POOLING)})") from None
        raise BadInput(
            f"{option} {name_or_path}: does not encode sentences ({reason(error)}); expected a text encoder of transformers, such as "
            f"sentence-transformers/all-MiniLM-L6-v2; name another"
        ) from None
    return encoder


def read_pipeline(name_or_path: str, option: str) -> Pipeline:
    """What the files beside a sentence encoder's weights say of its pooling, further layers and longest sentence. Raises BadInput naming
    `option` where they cannot be read, or name something that is not known here.
    """
    with parsing(f"{option} {name_or_path}: its own files do not say how to use it", "name another encoder"):
        pipeline = Pipeline()
        if modules := _own_json(name_or_path, "modules.json"):
            about = _own_json(name_or_path, "sentence_bert_config.json") or {}
            pipeline = Pipeline(longest=about.get("max_seq_length"), lower=bool(about.get("do_lower_case")))
        for module in modules or []:
            kind, folder = module["type"].rpartition(".")[2], module["path"]
            if kind == "Pooling":
                pipeline = pipeline._replace(pooling=_pooling_of(_own_json(name_or_path, f"{folder}/config.json")))
            elif kind == "Dense":
                pipeline = pipeline._replace(dense=(*pipeline.dense, _dense(name_or_path, folder)))
            elif kind == "Normalize":
                pipeline = pipeline._replace(normalise=True)
            elif kind not in ("Transformer", "Dropout"):
                raise ValueError(f"modules.json names {kind}; known are Transformer, Pooling, Dense and Normalize")
        return pipeline


def _pooling_of(config: dict) -> tuple[str, ...]:
    """The names of POOLING in a Pooling module's configuration, of which there are two forms."""
    named = config.get("pooling_mode")
    short = {"cls": "cls_token", "max": "max_tokens", "mean": "mean_tokens", "weightedmean": "weightedmean_tokens"}
    named = (
        [named] if isinstance(named, str) else named or [name for name in POOLING if config.get(f"pooling_mode_{short.get(name, name)}")]
    )
    if unknown := [name for name in named if name not in POOLING]:
        raise ValueError(f"pooling {unknown[0]!r}; known are {', '.join(POOLING)}")
    return tuple(named)


def _dense(name_or_path: str, folder: str) -> nn.Sequential:
    """A Dense module: a linear layer and its activation."""
    config = _own_json(name_or_path, f"{folder}/config.json")
    activation = getattr(nn, config.get("activation_function", "torch.nn.Tanh").rpartition(".")[2])
    if not issubclass(activation, nn.Module) or config.get("use_residual"):
        raise ValueError(f"{folder}: a layer that is not known here")
    layer = nn.Linear(config["in_features"], config["out_features"], bias=config.get("bias", True))
    if file := _own_file(name_or_path, f"{folder}/model.safetensors"):
        from safetensors.torch import load_file

        weights = load_file(file)
    else:
        weights = torch.load(_own_file(name_or_path, f"{folder}/pytorch_model.bin"), map_location="cpu", weights_only=True)
    layer.load_state_dict({key.removeprefix("linear."): value.float() for key, value in weights.items()})
    return nn.Sequential(layer, activation())


def _own_json(name_or_path: str, name: str):
    file = _own_file(name_or_path, name)
    return read_json(file, f"{name} of the encoder") if file else None


def _own_file(name_or_path: str, name: str) -> str | None:
    """The path of a file that is published with a model, None where there is none."""
    from transformers.utils import cached_file

    quiet = dict(_raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False)
    return cached_file(name_or_path, name, **quiet)
