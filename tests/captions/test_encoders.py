"""Sentence encoders of every kind, small and random, as folders in transformers' and sentence-transformers' formats."""

import json
import math

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn

import ucf_option
from dataset import Video
from tools.embed_captions import main
from utils.captions.embedding import embed
from utils.captions.tree import CaptionTree
from utils.errors import BadInput
from utils.loading import check_space, load_text
from utils.prompt import TextProjection
from utils.text import POOLING, load_sentence_text

WORDS = ("a", "man", "walks", "dog", "runs", "car", "hits", "red", "the", "away", "shop")
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")  # RoBERTa's numbers
SENTENCES = ["the dog runs away", "a", "the red car hits the shop", "a man walks the dog away"]
SIZES = dict(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16)
T5_SIZES = dict(d_model=8, d_kv=4, d_ff=16, num_layers=2, num_heads=2)


def tokenizer(folder, *, around=("<s>", "</s>"), pad="<pad>"):
    """A word tokenizer with numbers as above; `around`: what stands before and behind a sentence."""
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate((*SPECIAL, *WORDS))}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    template = " ".join([around[0], "$A", around[1]]).strip()
    words.post_processor = processors.TemplateProcessing(single=template, special_tokens=[(name, vocabulary[name]) for name in SPECIAL])
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"} | ({"pad_token": pad} if pad else {})
    PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)


def make(folder, kind, **more):
    """A random encoder of a kind in `folder`; its path as text."""
    import transformers as t

    torch.manual_seed(0)
    vocabulary = len(SPECIAL) + len(WORDS)
    around = {"t5": ("", "</s>"), "mt5": ("", "</s>"), "gpt2": ("", "")}.get(kind, ("<s>", "</s>"))
    if kind in ("bert", "bert without pad", "bert without pooler"):
        config = t.BertConfig(vocab_size=vocabulary, max_position_embeddings=16, **SIZES)
        model = t.BertModel(config, add_pooling_layer=kind != "bert without pooler")
    elif kind == "roberta":
        model = t.RobertaModel(t.RobertaConfig(vocab_size=vocabulary, max_position_embeddings=18, pad_token_id=1, **SIZES))
    elif kind == "mpnet":
        model = t.MPNetModel(t.MPNetConfig(vocab_size=vocabulary, max_position_embeddings=18, pad_token_id=1, **SIZES))
    elif kind == "t5":
        model = t.T5Model(t.T5Config(vocab_size=vocabulary, **T5_SIZES))
    elif kind == "mt5":  # as sentence-t5 is published: the encoder alone
        model = t.MT5EncoderModel(t.MT5Config(vocab_size=vocabulary, **T5_SIZES))
    elif kind == "bart":
        sizes = dict(d_model=8, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=16, decoder_ffn_dim=16)
        heads = dict(encoder_attention_heads=2, decoder_attention_heads=2)
        model = t.BartModel(t.BartConfig(vocab_size=vocabulary, max_position_embeddings=16, **sizes, **heads))
    else:
        model = t.GPT2Model(t.GPT2Config(vocab_size=vocabulary, n_positions=16, n_embd=8, n_layer=1, n_head=2))
    model.save_pretrained(folder)
    tokenizer(folder, around=around, pad=None if kind in ("gpt2", "bert without pad") else "<pad>")
    for name, content in more.items():
        place = folder / name.replace("__", "/").replace("_json", ".json")
        place.parent.mkdir(exist_ok=True)
        place.write_text(json.dumps(content))
    return str(folder)


def pipeline(*kinds):
    return [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]


@pytest.mark.parametrize("kind", ["bert", "bert without pad", "bert without pooler", "roberta", "mpnet", "t5", "mt5", "bart", "gpt2"])
def test_every_kind_of_encoder(tmp_path, kind):
    """Whatever its batch, a sentence has one vector, and one of any length has one: what the encoder cannot take is cut off."""
    encoder = load_sentence_text(make(tmp_path, kind))
    alone = np.concatenate([embed([sentence], encoder, batch_size=1) for sentence in SENTENCES])
    assert alone.shape == (4, 8)
    assert np.abs(alone[0] - alone[1]).max() > 1e-3
    np.testing.assert_allclose(embed(SENTENCES, encoder, batch_size=4), alone, atol=1e-5)
    longest = encoder.longest - sum(map(len, encoder._around))
    whole, cut = embed([("dog runs " * 1000)[: 5 * 1000], " ".join((["dog", "runs"] * 1000)[:longest])], encoder, batch_size=2)
    np.testing.assert_allclose(whole, cut, atol=1e-5)
    assert encoder.longest == (512 if kind in ("t5", "mt5") else 16)
    assert np.isfinite(embed(["\ufffd", "!", "…"], encoder, batch_size=3)).all()
    assert load_sentence_text(str(tmp_path)).digest() == encoder.digest()


@pytest.mark.parametrize("kind", ["roberta", "bert without pad", "mt5"])
def test_an_encoder_gives_what_transformers_gives(tmp_path, kind):
    from transformers import AutoModel, AutoTokenizer, MT5EncoderModel

    folder = make(tmp_path, kind)
    model = (MT5EncoderModel if kind == "mt5" else AutoModel).from_pretrained(folder)
    tokens = AutoTokenizer.from_pretrained(folder)("the red car", return_tensors="pt", return_token_type_ids=False)
    with torch.inference_mode():
        expected = model(**tokens).last_hidden_state.mean(1).numpy()
    found = embed(["the red car", *SENTENCES], load_sentence_text(folder), batch_size=5)[:1]
    np.testing.assert_allclose(found, expected, atol=1e-5)


OLD = {"mean": "mean_tokens", "cls": "cls_token", "max": "max_tokens", "weightedmean": "weightedmean_tokens"}


@pytest.mark.parametrize(
    "modes", [("mean",), ("cls",), ("max",), ("lasttoken",), ("weightedmean",), ("mean_sqrt_len_tokens",), ("cls", "mean")]
)
@pytest.mark.parametrize("form", ["old", "new"])
def test_pooling_as_in_its_own_files(tmp_path, modes, form):
    """Old: a flag for each; new: names. sentence-transformers reads the same folder."""
    sentence_transformers = pytest.importorskip("sentence_transformers")
    config = {f"pooling_mode_{OLD.get(mode, mode)}": mode in modes for mode in POOLING if mode != "pooler"}
    config = config if form == "old" else {"pooling_mode": list(modes) if len(modes) > 1 else modes[0]}
    config |= {"word_embedding_dimension": 8} if form == "old" else {"embedding_dimension": 8}
    more = {"modules_json": pipeline("Transformer", "Pooling", "Normalize"), "1_Pooling__config_json": config}
    folder = make(tmp_path, "roberta", sentence_bert_config_json={"max_seq_length": 6, "do_lower_case": False}, **more)
    expected = sentence_transformers.SentenceTransformer(folder, device="cpu").encode(SENTENCES)
    encoder = load_sentence_text(folder)
    assert encoder.pooling == modes
    assert encoder.note == ""
    assert encoder.longest == 6
    assert encoder.max_length == 16  # of prompts, whose tokens are embedded one by one
    np.testing.assert_allclose(embed(SENTENCES, encoder, batch_size=3), expected, atol=1e-5)


@pytest.mark.parametrize("activation", ["torch.nn.modules.activation.Tanh", "torch.nn.modules.linear.Identity"])
@pytest.mark.parametrize("suffix", ["model.safetensors", "pytorch_model.bin"])
def test_a_layer_behind_the_pooling(tmp_path, activation, suffix):
    """As sentence-t5 and LaBSE have one."""
    from safetensors.torch import save_file

    modules = pipeline("Transformer", "Pooling", "Dense", "Normalize")
    config = {"in_features": 8, "out_features": 5, "bias": True, "activation_function": activation}
    files = {"1_Pooling__config_json": {"pooling_mode_cls_token": True}, "2_Dense__config_json": config}
    folder = make(tmp_path, "bert", modules_json=modules, **files)
    layer = nn.Linear(8, 5)
    weights = {f"linear.{key}": value for key, value in layer.state_dict().items()}
    (save_file if suffix.endswith("safetensors") else torch.save)(weights, tmp_path / "2_Dense" / suffix)
    encoder = load_sentence_text(folder)
    assert encoder.output_width == 5
    with torch.inference_mode():
        x = layer(torch.from_numpy(embed(SENTENCES, load_sentence_text(make(tmp_path / "alone", "bert"), pooling="cls"), batch_size=4)))
    expected = nn.functional.normalize(x.tanh() if "Tanh" in activation else x, dim=-1).numpy()
    np.testing.assert_allclose(embed(SENTENCES, encoder, batch_size=4), expected, atol=1e-5)


def test_the_pooler_is_chosen_where_the_files_say_nothing(tmp_path):
    """SimCSE is published so."""
    from transformers import AutoModel, AutoTokenizer

    folder = make(tmp_path, "bert")
    tokens = AutoTokenizer.from_pretrained(folder)("the red car", return_tensors="pt", return_token_type_ids=False)
    with torch.inference_mode():
        expected = AutoModel.from_pretrained(folder)(**tokens).pooler_output.numpy()
    encoder, mean = load_sentence_text(folder, pooling="pooler"), load_sentence_text(folder)
    np.testing.assert_allclose(embed(["the red car"], encoder, batch_size=1), expected, atol=1e-6)
    assert not encoder.note
    assert mean.note.endswith(" how its tokens are pooled: their mean is taken (it has a pooler, which SimCSE's authors take)")
    assert encoder.digest() != mean.digest()


@pytest.mark.parametrize(
    ("kind", "more", "pooling", "expected"),
    [
        ("bert without pooler", {}, "pooler", "has no pooler; choose another pooling"),
        ("mt5", {}, "pooler", "has no pooler"),
        ("bert", {}, "middle", "expected one of cls, max, mean"),
        ("bert", {"modules_json": pipeline("Transformer", "LSTM")}, None, "names LSTM; known are"),
        ("bert", {"modules_json": pipeline("Transformer", "Pooling")}, None, "its own files do not say how to use it"),
        (
            "bert",
            {"modules_json": pipeline("Transformer", "Pooling"), "1_Pooling__config_json": {"pooling_mode": "x"}},
            None,
            "pooling 'x'",
        ),
        ("bert", {"modules_json": {"a": 1}}, None, "its own files do not say how to use it"),
        ("bert", {"modules_json": [], "sentence_bert_config_json": []}, None, None),
    ],
)
def test_an_encoder_that_cannot_be_used_is_one_line(tmp_path, kind, more, pooling, expected):
    folder = make(tmp_path, kind, **more)
    if expected is None:
        load_sentence_text(folder, "--encoder", pooling)
        return
    with pytest.raises(BadInput, match=expected) as error:
        load_sentence_text(folder, "--encoder", pooling)
    assert f"--encoder {folder}" in str(error.value)


def test_a_model_of_pictures_is_no_sentence_encoder(tmp_path):
    from transformers import ViTConfig, ViTModel

    ViTModel(ViTConfig(image_size=16, patch_size=8, **SIZES)).save_pretrained(tmp_path)
    tokenizer(tmp_path)
    with pytest.raises(BadInput, match=r"--encoder .*: does not encode sentences \(.*\); expected a text encoder"):
        load_sentence_text(str(tmp_path), "--encoder")


def test_the_tool_says_and_keeps_the_pooling(tmp_path, capsys):
    captions = {"Own": {"duration": 2.0, "timestamps": [[0, 1], [1, 2]], "sentences": ["the red car " * 50, "half an emoji \ud83d"]}}
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    folder = make(tmp_path / "encoder", "roberta")
    arguments = [str(tmp_path / "captions.json"), "--encoder", folder, "--output", str(tmp_path / "out"), "--device", "cpu"]
    main(arguments)
    out = capsys.readouterr().out
    said = "their mean is taken (it has a pooler, which SimCSE's authors take); --pooling chooses (cls, max, mean, "
    assert f"note: the sentence encoder's files do not say how its tokens are pooled: {said}" in out
    assert json.loads((tmp_path / "out" / "embed.json").read_text())["pooling"] == "mean"
    assert np.isfinite(np.load(tmp_path / "out" / "Own.npy")).all()
    assert json.loads((tmp_path / "out" / "Own.jsonl").read_text().splitlines()[2])["caption"] == "half an emoji \ufffd"
    with pytest.raises(BadInput, match=r"made with .*, not .*; name another folder with --output"):
        main([*arguments, "--pooling", "cls"])
    main([*arguments[:-3], str(tmp_path / "cls"), "--device", "cpu", "--pooling", "cls"])
    assert "note:" not in capsys.readouterr().out
    assert math.isclose(json.loads((tmp_path / "cls" / "embed.json").read_text())["width"], 8)


def test_one_tree_is_made_in_one_way(tmp_path):
    """Versions of another pooling or fill: the tool makes none, and training refuses those that another version made."""
    (tmp_path / "captions.json").write_text(json.dumps({"Own": {"duration": 2.0, "timestamps": [[0, 1]], "sentences": ["the red car"]}}))
    tree, words = tmp_path / "tree", [str(tmp_path / "captions.json"), "--encoder", make(tmp_path / "encoder", "bert"), "--device", "cpu"]
    main([*words, "--pooling", "pooler", "--output", str(tree / "source")])
    for more, said in (([], "pooling pooler, .* with mean"), (["--pooling", "pooler", "--fill", "zeros"], "fill previous, .* with zeros")):
        with pytest.raises(BadInput, match=rf"{tree / 'source'}: its features were made with {said}; expected one for all versions"):
            main([*words, *more, "--output", str(tree / "rewrite-1")])
        assert not (tree / "rewrite-1").exists()
    main([*words, "--output", str(tree / "rewriting")])  # no version of the tree
    (tree / "rewriting").rename(tree / "rewrite-1")
    videos = [Video("Own", "Abuse", (0.0, 1.0), (tree / "source" / "Own.npy",), None)]
    with pytest.raises(BadInput, match=r"rewrite-1: its features were made with pooling mean, .* with pooler"):
        CaptionTree(tree, 8).check(videos, {"Own": 3}, ("source", "rewrite-1"))
    CaptionTree(tree, 8).check(videos, {"Own": 3})


def test_a_text_side_of_other_features_is_refused(tmp_path):
    """Class names and sentences are compared as they are: one encoder, pooled in one way."""
    (tmp_path / "captions.json").write_text(json.dumps({"Own": {"duration": 2.0, "timestamps": [[0, 1]], "sentences": ["the red car"]}}))
    folder = make(tmp_path / "encoder", "bert")
    main(
        [str(tmp_path / "captions.json"), "--encoder", folder, "--pooling", "pooler", "--output", str(tmp_path / "out"), "--device", "cpu"]
    )
    words = ["--feature-root", str(tmp_path / "out"), "--visual-width", "8", "--sentence-encoder", folder]
    options = ucf_option.parse_args([*words, "--pooling", "pooler"])
    check_space(nn.Sequential(load_text(options)), options)
    options = ucf_option.parse_args(words)
    with pytest.raises(BadInput, match=r"--sentence-encoder .*: pooled by mean, it is not what made the features of .*, pooler\)"):
        check_space(nn.Sequential(load_text(options)), options)
    check_space(nn.Sequential(load_text(options), TextProjection(8, 8)), options)
