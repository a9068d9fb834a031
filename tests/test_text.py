"""Text encoders: causal short contexts equal 77 tokens, a real sentence encoder equals its own pipeline, missing weights are errors."""

import pytest
import torch

from benchmarks import UCF
from utils.errors import BadInput
from utils.text import CLIPText, load_clip, load_sentence_text, load_transformer, openai_clip


def prompts(text, sentences):
    """Embeddings (K, L, W) and lengths (K,) of whole sentences, as the prompt encoder builds them."""
    rows = [torch.cat([text.embed(part) for part in text.tokens(sentence)]) for sentence in sentences]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.tensor([len(row) for row in rows])


def test_short_context_equals_77_tokens(small_clip):
    text = CLIPText(small_clip)
    sentences = [*UCF.names, "a long video of a man who climbs over the fence"]
    with torch.no_grad():
        full = small_clip.encode_text(openai_clip().tokenize(sentences))
        short = text(*prompts(text, sentences))
    assert torch.allclose(full, short, rtol=1e-5, atol=1e-6)


def test_sentence_encoder_equals_its_own_pipeline(minilm):
    from sentence_transformers import SentenceTransformer

    text = load_sentence_text(minilm)
    sentences = ["a video of shoplifting", "two men fight in the street", "normal"]
    with torch.no_grad():
        ours = text(*prompts(text, sentences))
    theirs = torch.from_numpy(SentenceTransformer(minilm, device="cpu").encode(sentences))
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_frozen_parts_stay_frozen(small_clip):
    text = CLIPText(small_clip).train()
    assert not text.training
    assert not text.module.training
    assert not any(p.requires_grad for p in text.parameters())


def test_clip_files(small_clip, tmp_path):
    state = tmp_path / "clip.pt"
    torch.save({key: value.half() for key, value in small_clip.state_dict().items()}, state)
    assert load_clip(str(state)).text_projection.dtype == torch.float32
    other = tmp_path / "other.pt"
    torch.save({"weight": torch.zeros(1)}, other)
    cut = tmp_path / "cut.pt"
    cut.write_bytes(state.read_bytes()[:2000])
    for path in (other, cut):
        with pytest.raises(BadInput, match=f"--clip .*{path.name}"):
            load_clip(str(path))
    with pytest.raises(BadInput, match=r"--clip absent\.pt: no such file and no CLIP name \(.*ViT-B/16"):
        load_clip("absent.pt")


def test_missing_transformer_names_the_option():
    with pytest.raises(BadInput, match=r"--distilbert some/absent: cannot be loaded .* --distilbert FOLDER") as caught:
        load_transformer("some/absent", "--distilbert")
    assert "\n" not in str(caught.value)
