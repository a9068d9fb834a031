"""tools/caption_videos.py: which frames a captioner is shown; captions do not depend on batches, interruptions or broken neighbours."""

import itertools
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from clips import make_video
from tools import caption_videos
from tools.caption_videos import main
from utils.captions.captioner import Captioner
from utils.captions.formats import read_caption_file, read_captions
from utils.errors import BadInput, exit_code
from utils.files import ROOT
from utils.video.frames import Video, to_rgb

SHARED = ROOT.parent / "shared" / "real"
WORDS = [
    "a",
    "the",
    "man",
    "dog",
    "car",
    "street",
    "walks",
    "runs",
    "falls",
    "fights",
    "red",
    "shop",
    "away",
    "in",
    "on",
    ".",
    "two",
    "hit",
]
STRONG = {"initializer_range": 0.5}  # random weights of this size answer differently to different pictures


def word_tokenizer(special, **names):
    """One token a word; `special` come first, the first of them for unknown words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*special, *WORDS])}, unk_token=special[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=special[0], **names)


def small_smolvlm(folder):
    """A video-language model in the format of SmolVLM2: four tokens a picture."""
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration, SmolVLMImageProcessor, SmolVLMProcessor, SmolVLMVideoProcessor

    tokens = {"image_token": "<image>", "fake_image_token": "<fake>", "global_image_token": "<global-img>", "video_token": "<video>"}
    special = ["<unk>", "<pad>", "<start>", "<end>", *tokens.values()]
    tokens["end_of_utterance_token"] = "<end>"
    tokenizer = word_tokenizer(special, pad_token="<pad>", bos_token="<start>", eos_token="<end>", extra_special_tokens=tokens)
    sizes = {"size": {"longest_edge": 32}, "max_image_size": {"longest_edge": 32}}
    video = SmolVLMVideoProcessor(**sizes, video_sampling={"max_frames": 4, "fps": 1, "video_size": {"longest_edge": 32}})
    template = "{% for message in messages %}{{ message['role'] }}{% endfor %}"  # for videos the processor has one of its own
    SmolVLMProcessor(SmolVLMImageProcessor(**sizes), tokenizer, video, image_seq_len=4, chat_template=template).save_pretrained(folder)
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, **STRONG}
    vision = {"hidden_size": 16, "intermediate_size": 32, "image_size": 32, "patch_size": 8, **layers}
    ids = {"pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3}
    text = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_key_value_heads": 2, "vocab_size": len(tokenizer)}
    config = SmolVLMConfig(image_token_id=4, scale_factor=2, pad_token_id=1, vision_config=vision, text_config={**text, **layers, **ids})
    SmolVLMForConditionalGeneration(config).save_pretrained(folder)


def small_qwen(folder):
    """A video-language model in the format of Qwen3-VL: frames in pairs, as many tokens as the pictures are large."""
    from transformers import Qwen2VLImageProcessor, Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor, Qwen3VLVideoProcessor

    special = ["<unk>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    special += ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]
    tokenizer = word_tokenizer(special, pad_token=special[1], eos_token=special[3], additional_special_tokens=special[2:])
    template = (
        "{% for message in messages %}<|im_start|>{{ message['role'] }} {% for part in message['content'] %}{% if part['type'] == 'text' %}"
        "{{ part['text'] }}{% else %}<|vision_start|><|video_pad|><|vision_end|>{% endif %}{% endfor %}<|im_end|>{% endfor %}<|im_start|>"
    )
    patches = {"patch_size": 8, "merge_size": 2}
    images = Qwen2VLImageProcessor(size={"shortest_edge": 32 * 32, "longest_edge": 64 * 64}, **patches)
    videos = Qwen3VLVideoProcessor(size={"shortest_edge": 32 * 32, "longest_edge": 8 * 32 * 32}, temporal_patch_size=2, **patches)
    Qwen3VLProcessor(images, tokenizer, videos, chat_template=template).save_pretrained(folder)
    vision = {"depth": 2, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "patch_size": 8, "out_hidden_size": 32, **STRONG}
    vision |= {"spatial_merge_size": 2, "temporal_patch_size": 2, "num_position_embeddings": 64, "deepstack_visual_indexes": [0]}
    text = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        **STRONG,
    }
    text |= {"head_dim": 16, "vocab_size": len(tokenizer), "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3}
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
    ids = {"image_token_id": 4, "video_token_id": 5, "vision_start_token_id": 6, "vision_end_token_id": 7}
    Qwen3VLForConditionalGeneration(Qwen3VLConfig(vision_config=vision, text_config=text, **ids)).save_pretrained(folder)


def small_blip(folder):
    """An image captioner in the format of BLIP."""
    from transformers import BertTokenizerFast, BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"))
    BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, **STRONG}
    ids = {"pad_token_id": 0, "bos_token_id": 2, "sep_token_id": 3, "eos_token_id": 3}
    text = {"encoder_hidden_size": 16, "vocab_size": len(tokenizer), "max_position_embeddings": 64, **sizes, **ids}
    config = BlipConfig(vision_config={"image_size": 32, "patch_size": 8, **sizes}, text_config=text)
    BlipForConditionalGeneration(config).save_pretrained(folder)


def small_vit_gpt2(folder):
    """An image captioner in the format of ViT-GPT2, which is published without a processor."""
    from transformers import GPT2Config, VisionEncoderDecoderConfig, VisionEncoderDecoderModel, ViTConfig, ViTImageProcessor

    tokenizer = word_tokenizer(["<unk>", "<pad>", "<end>"], pad_token="<pad>", bos_token="<end>", eos_token="<end>")
    tokenizer.save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, **STRONG}
    ids = {"pad_token_id": 1, "eos_token_id": 2}
    decoder = GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=len(tokenizer), n_positions=64, bos_token_id=2, **STRONG, **ids)
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(ViTConfig(image_size=32, patch_size=8, **sizes), decoder)
    model = VisionEncoderDecoderModel(config)
    model.generation_config.update(decoder_start_token_id=2, **ids)
    model.save_pretrained(folder)


MODELS = {"smolvlm": small_smolvlm, "qwen": small_qwen, "blip": small_blip, "vit-gpt2": small_vit_gpt2}
SOME = ["blip", "smolvlm", *(pytest.param(name, marks=pytest.mark.slow) for name in ("qwen", "vit-gpt2"))]


@pytest.fixture(scope="session")
def captioners(tmp_path_factory):
    """Name -> folder of a small captioner with random weights, made on first use."""
    made = {}

    def get(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            torch.manual_seed(0)
            MODELS[name](folder)
            made[name] = str(folder)
        return made[name]

    return get


def noise(i):
    """A picture that changes every 8 frames."""
    return np.repeat(np.repeat(np.random.default_rng(i // 8).integers(0, 256, (6, 8, 3), np.uint8), 8, 0), 8, 1)


@pytest.fixture(scope="session")
def videos(tmp_path_factory):
    """A folder of two videos, of 72 and 40 frames, one in a subfolder."""
    folder = tmp_path_factory.mktemp("videos")
    (folder / "Fighting").mkdir()
    make_video(folder / "Fighting" / "Fighting001_x264.mp4", 72, picture=noise)
    make_video(folder / "own.mkv", 40, picture=lambda i: noise(i + 100))
    (folder / "notes.txt").write_text("no video")
    return folder


@pytest.fixture
def run(videos, captioners, tmp_path):
    """Caption `videos`; the output folder."""

    def call(*more, model="blip", source=videos, output="captions"):
        words = [source, "--captioner", captioners(model), "--output", tmp_path / output, "--max-new-tokens", 8, "--device", "cpu", *more]
        main(list(map(str, words)))
        return tmp_path / output

    return call


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def texts(folder):
    return {name: [caption.text for caption in video.captions] for name, video in read_captions([folder], fps=25)[0].items()}


@pytest.mark.parametrize("model", SOME)
def test_one_caption_per_snippet(run, model, captioners):
    folder = run(model=model)
    assert list(contents(folder)) == ["Fighting/Fighting001_x264.jsonl", "own.jsonl"]
    videos, _ = read_captions([folder], fps=1)
    assert {name: video.frames for name, video in videos.items()} == {"Fighting001_x264": 72, "own": 40}
    own = videos["own"]
    assert [(caption.start, caption.end, caption.more) for caption in own.captions] == [
        (0, 16, {"snippet": 0}),
        (16, 32, {"snippet": 1}),
        (32, 40, {"snippet": 2}),
    ]
    assert own.fps == 25
    assert own.about["model"] == captioners(model)
    assert len(own.about["revision"]) == 16
    assert own.about["settings"]["max_new_tokens"] == 8
    said = [caption.text for video in videos.values() for caption in video.captions]
    assert len(set(said)) > 1  # or the tests below see nothing
    assert {word for text in said for word in text.replace(".", " . ").split()} <= set(WORDS)  # BERT's decoder joins it to a word


def pictures(path):
    with Video(path) as video:
        return [to_rgb(frame) for frame in video.decode()]


def test_an_image_captioner_sees_the_middle_frame(run, videos, captioners):
    """Against BLIP by hand; the last snippet, frames 64 to 71, has no frame 72: the last one stands in."""
    from transformers import AutoProcessor, BlipForConditionalGeneration

    frames = pictures(videos / "Fighting" / "Fighting001_x264.mp4")
    model = BlipForConditionalGeneration.from_pretrained(captioners("blip")).eval()
    processor = AutoProcessor.from_pretrained(captioners("blip"))
    inputs = processor(images=[frames[i] for i in (8, 24, 40, 56, 71)], return_tensors="pt")
    with torch.inference_mode():
        tokens = model.generate(**inputs, max_new_tokens=8, do_sample=False, num_beams=1)
    assert texts(run())["Fighting001_x264"] == processor.batch_decode(tokens, skip_special_tokens=True)


def test_a_video_model_sees_the_window_after_a_snippet(run, videos, captioners):
    """Against SmolVLM by hand: frames 6, 18, 30, 42 of a window of 48, told as seconds; behind the end the last one."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    frames = pictures(videos / "Fighting" / "Fighting001_x264.mp4")
    model = AutoModelForImageTextToText.from_pretrained(captioners("smolvlm")).eval()
    processor = AutoProcessor.from_pretrained(captioners("smolvlm"))
    message = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "the dog"}]}]
    expected = []
    for start in range(0, 72, 16):
        seen = np.stack([frames[min(start + offset, 71)] for offset in (6, 18, 30, 42)])
        inputs = processor(
            text=processor.apply_chat_template(message, add_generation_prompt=True, tokenize=False),
            videos=[seen],
            video_metadata=[{"total_num_frames": 48, "fps": 25, "duration": 48 / 25, "frames_indices": [6, 18, 30, 42]}],
            do_sample_frames=False,
            return_tensors="pt",
        )
        assert processor.decode(inputs["input_ids"][0]).count("<image>") == 16
        with torch.inference_mode():
            tokens = model.generate(**inputs, max_new_tokens=8, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        expected.append(processor.decode(tokens, skip_special_tokens=True))
    found = run("--frames", 4, "--window", 48, "--prompt", "the dog", model="smolvlm")
    assert texts(found)["Fighting001_x264"] == expected


@pytest.mark.parametrize("model", SOME)
def test_batches_do_not_change_the_captions(run, model):
    alone = contents(run("--batch-size", 1, model=model, output="alone"))
    assert contents(run("--batch-size", 3, model=model, output="three")) == alone


@pytest.mark.parametrize("model", ["blip", "smolvlm"])
def test_a_caption_for_several_snippets(run, model):
    videos, _ = read_captions([run("--every", 2, model=model)], fps=25)
    assert [(caption.start, caption.end, caption.more["snippet"]) for caption in videos["own"].captions] == [(0, 32, 0), (32, 40, 2)]
    assert [caption.start for caption in videos["Fighting001_x264"].captions] == [0, 32, 64]
    assert videos["own"].about["settings"]["window"] == {"blip": 32, "smolvlm": 64}[model]


def test_the_words_asked_matter(run):
    assert texts(run(model="smolvlm")) != texts(run("--prompt", "two people hit the red car", model="smolvlm", output="other"))
    begun = texts(run("--prompt", "the dog", output="begun"))
    assert all(text.startswith("the dog") for captions in begun.values() for text in captions)


@pytest.mark.slow
def test_random_words_follow_the_seed(run, tmp_path):
    sampled = contents(run("--temperature", 2, "--seed", 1, "--batch-size", 2))
    assert contents(run("--temperature", 2, "--seed", 1, "--batch-size", 2, output="again")) == sampled
    assert texts(run("--temperature", 2, "--seed", 2, "--batch-size", 2, output="other")) != texts(tmp_path / "again")


@pytest.mark.parametrize(
    ("more", "tail"),
    [
        ([], b'{"snippet": 9, "fra'),
        pytest.param([], b"", marks=pytest.mark.slow),
        pytest.param(["--temperature", 2], b"\x00\xff\n", marks=pytest.mark.slow),
        pytest.param(["--every", 2], b"{}\n", marks=pytest.mark.slow),
    ],
)
def test_goes_on_after_an_interruption(run, tmp_path, monkeypatch, more, tail):
    """Stopped in the third batch, with the rest of a write behind: the same files, and nothing is captioned twice."""
    more = [*more, "--batch-size", 1]
    whole = contents(run(*more, output="whole"))
    captions, calls = Captioner.captions, []

    def stopping(self, clips, **options):
        calls.append(len(clips))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return captions(self, clips, **options)

    monkeypatch.setattr(Captioner, "captions", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(*more)
    (part,) = tmp_path.rglob("*.part")
    assert part.name == "Fighting001_x264.jsonl.part"
    part.write_bytes(part.read_bytes() + tail)
    folder = run(*more)
    assert contents(folder) == whole
    assert sum(calls) == 1 + sum(content.count(b"\n") - 1 for content in whole.values())
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.jsonl")}
    run(*more)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.jsonl")} == before


@pytest.mark.slow
@pytest.mark.parametrize("model", ["smolvlm"])
def test_goes_on_after_a_kill(run, captioners, tmp_path, model):
    """SIGKILL in the middle of a video, then once to the end: the bytes of an undisturbed run."""
    make_video(tmp_path / "long.mp4", 2000, picture=noise)
    whole = contents(run("--batch-size", 4, model=model, source=tmp_path / "long.mp4", output="whole"))
    words = [tmp_path / "long.mp4", "--captioner", captioners(model), "--output", tmp_path / "captions", "--max-new-tokens", 8]
    command = [sys.executable, "-m", "tools.caption_videos", *map(str, words), "--device", "cpu", "--batch-size", "4"]
    part = tmp_path / "captions" / "long.jsonl.part"
    for kills in range(1, 4):
        process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"HF_HUB_OFFLINE": "1"}, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 120
        while not (part.exists() and part.read_bytes().count(b"\n") > 4 * kills) and process.poll() is None and time.monotonic() < end:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it was to be killed before its end"
        assert contents(tmp_path / "captions").keys() == {"long.jsonl.part"}
    assert subprocess.run(command, cwd=ROOT, env=os.environ | {"HF_HUB_OFFLINE": "1"}).returncode == 0
    assert contents(tmp_path / "captions") == whole


def test_a_broken_video_among_good_ones(run, videos, tmp_path, capsys):
    good = contents(run(output="good"))
    source = tmp_path / "mixed"
    (source / "Fighting").mkdir(parents=True)
    for path in ("Fighting/Fighting001_x264.mp4", "own.mkv"):
        (source / path).write_bytes((videos / path).read_bytes())
    (source / "Fighting" / "cut.mkv").write_bytes((videos / "own.mkv").read_bytes()[:-4000])
    (source / "a_list.mp4").write_text("ffconcat version 1.0\nfile own.mkv\n")
    assert exit_code(lambda: run("--batch-size", 1, source=source)) == 2
    error = capsys.readouterr().err
    assert f"error: {source / 'a_list.mp4'}: cannot be opened" in error
    assert f"error: {source / 'Fighting' / 'cut.mkv'}: " in error
    last = error.strip().splitlines()[-1]
    assert last.startswith("error: 2 of 4 videos are broken")
    assert contents(tmp_path / "captions") == good  # and no part of the broken ones
    (source / "Fighting" / "cut.mkv").unlink()
    (source / "a_list.mp4").unlink()
    run("--batch-size", 1, source=source)
    assert "0 videos captioned, 2 were there" in capsys.readouterr().out


@pytest.mark.parametrize("model", ["smolvlm", pytest.param("qwen", marks=pytest.mark.slow)])
def test_odd_videos_do_not_stop_the_others(run, tmp_path, capsys, model):
    """A recording that changes its size goes on in the first one; a strip that processors refuse is named; any name the disk takes goes."""
    source = tmp_path / "odd"
    source.mkdir()
    for name, size in (("a.ts", (64, 48)), ("b.ts", (48, 64))):
        make_video(tmp_path / name, 40, size=size, picture=lambda i, size=size: np.full((size[1], size[0], 3), 4 * i, np.uint8))
    (source / "changes.ts").write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
    make_video(source / "one.mp4", 1, picture=noise)
    make_video(source / "strip.avi", 20, size=(1600, 4), codec="mpeg4", picture=lambda i: np.zeros((4, 1600, 3), np.uint8))
    (source / "one.mp4").rename(source / os.fsdecode(b"one \xff.mp4"))
    assert exit_code(lambda: run(source=source, model=model)) == 2
    assert "strip.avi: 1600 × 4 pixels; expected" in capsys.readouterr().err
    videos, _ = read_captions([tmp_path / "captions"], fps=25)
    assert {name: (video.frames, len(video.captions)) for name, video in videos.items()} == {
        "changes": (80, 5),
        os.fsdecode(b"one \xff"): (1, 1),
    }


@pytest.mark.parametrize(
    ("reply", "caption"),
    [
        ("<think>A man?</think>\n\n**A man walks.**", "A man walks."),
        ("Here is a description:\nA man walks.\nA dog runs.\x1b[2J", "A man walks. A dog runs."),
        ("I'm sorry, but I can't describe this.", ""),
    ],
)
def test_of_a_chat_models_reply_the_caption_counts(run, monkeypatch, capsys, reply, caption):
    from transformers import PreTrainedTokenizerBase

    monkeypatch.setattr(PreTrainedTokenizerBase, "batch_decode", lambda self, tokens, **_: [reply] * len(tokens))
    found = texts(run(model="smolvlm"))
    assert {text for captions in found.values() for text in captions} == {caption}
    assert ("captions are empty" in capsys.readouterr().err) == (caption == "")


def test_empty_answers_are_counted(run, tmp_path, monkeypatch, capsys):
    captions = Captioner.captions
    monkeypatch.setattr(Captioner, "captions", lambda self, *words, **options: ["", *captions(self, *words, **options)[1:]])
    path = run() / "own.jsonl"
    assert "warning: 2 of 8 captions are empty, the first is line 2 of" in capsys.readouterr().err
    path.write_text(path.read_text().replace('"caption": ""', '"caption": "a man falls"'))
    run()
    assert "warning: 1 of 8 captions are empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "model", "said", "unfinished"),
    [
        (["--every", 2], "blip", "every 1, not 2", False),
        (["--every", 2], "blip", "every 1, not 2", True),
        (["--prompt", "the dog"], "blip", "prompt None, not 'the dog'", False),
        (["--precision", "bf16"], "blip", "precision 'fp32', not 'bf16'", True),
        (["--temperature", 1], "blip", "temperature None, not 1.0", False),
        ([], "smolvlm", "revision ", True),
    ],
)
def test_a_folder_of_other_settings_is_refused(run, change, model, said, unfinished):
    folder = run()
    if unfinished:
        (folder / "own.jsonl").rename(folder / "own.jsonl.part")
        (folder / "Fighting" / "Fighting001_x264.jsonl").unlink()
    before = contents(folder)
    with pytest.raises(BadInput, match=rf"own.jsonl.*{said}.*--output|Fighting001_x264.jsonl.*{said}.*--output"):
        run(*change, model=model)
    assert contents(folder) == before


def test_captions_of_another_origin_are_not_overwritten(run, tmp_path):
    (tmp_path / "captions").mkdir()
    (tmp_path / "captions" / "own.jsonl").write_text('{"video": "own", "frames": 40}\n{"frames": [0, 40], "caption": "by hand"}\n')
    with pytest.raises(BadInput, match=r"own.jsonl: no header of this tool.*--output"):
        run()
    assert "by hand" in (tmp_path / "captions" / "own.jsonl").read_text()


def test_a_corrected_caption_stays(run, tmp_path):
    path = run() / "own.jsonl"
    _, video = read_caption_file(path)
    path.write_text(path.read_text().replace(video.captions[1].text, "a man falls"))
    run()
    assert read_caption_file(path)[1].captions[1].text == "a man falls"


def test_the_same_model_may_lie_elsewhere(run, captioners, tmp_path):
    folder = run()
    moved = tmp_path / "moved"
    moved.mkdir()
    for file in Path(captioners("blip")).iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    before = contents(folder)
    run("--captioner", moved)
    assert contents(folder) == before


@pytest.mark.parametrize("by_torchrun", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_work_is_shared(run, monkeypatch, by_torchrun):
    whole = contents(run(output="whole"))
    made, waited = [], []
    monkeypatch.setattr(caption_videos, "wait_for_others", waited.append)  # two real processes meet there: test_extract_features.py
    for i in range(2):
        if by_torchrun:
            monkeypatch.setenv("RANK", str(i))
            monkeypatch.setenv("WORLD_SIZE", "2")
        folder = run(*([] if by_torchrun else ["--shard", f"{i + 1}/2"]))
        made.append(len(contents(folder)))
    assert made == [1, 2]
    assert waited == ([None] * 2 if by_torchrun else ["1/2", "2/2"])
    assert contents(folder) == whole


def test_missing_captioner_is_named_with_the_way_out(run, tmp_path, capsys):
    with pytest.raises(BadInput) as error:
        run("--captioner", "nobody/no-such-captioner")
    assert all(word in str(error.value) for word in ("--captioner", "nobody/no-such-captioner", "download", "FOLDER"))
    assert "\n" not in str(error.value)
    with pytest.raises(BadInput, match="--captioner"):
        run("--captioner", tmp_path)
    assert not (tmp_path / "captions").exists()


@pytest.mark.parametrize(
    ("words", "model", "said"),
    [
        (["--every", "0"], "blip", "--every 0: expected"),
        (["--batch-size", "0"], "blip", "--batch-size 0: expected"),
        (["--max-new-tokens", "-1"], "blip", "--max-new-tokens -1: expected"),
        (["--temperature", "nan"], "blip", "--temperature nan: expected"),
        (["--shard", "3/2"], "blip", "--shard 3/2: expected"),
        (["--shard", "0/2"], "blip", "--shard 0/2: expected"),
        (["--shard", "a"], "blip", "--shard a: expected"),
        (["--frames", "4"], "blip", "--frames, --window: .*single pictures"),
        (["--frames", "65"], "smolvlm", "--frames 65: more than the window"),
        (["--prompt", "a"], "vit-gpt2", "--prompt: .*without any words"),
    ],
)
def test_options_that_make_no_sense(run, tmp_path, words, model, said):
    with pytest.raises(BadInput, match=said):
        run(*words, model=model)
    assert not (tmp_path / "captions").exists()


def test_paths_that_make_no_sense(run, tmp_path, videos):
    with pytest.raises(BadInput, match="no-such-folder: no such file or folder"):
        run(source=tmp_path / "no-such-folder")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="empty: no video"):
        run(source=tmp_path / "empty")
    (tmp_path / "twice" / "a").mkdir(parents=True)
    for path in ("own.mkv", "a/own.mp4"):
        (tmp_path / "twice" / path).write_bytes((videos / "own.mkv").read_bytes())
    with pytest.raises(BadInput, match=r"own.m.* and .*own.m.* are both own.*rename"):
        run(source=tmp_path / "twice")


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/real")
@pytest.mark.parametrize("model", ["blip", "smolvlm"])
def test_real_videos(run, model):
    """Every snippet of nine real clips has a caption, and its frames follow one another to the video's end."""
    source = SHARED / "videos"
    videos, _ = read_captions([run(source=source, model=model)], fps=30)
    assert videos.keys() == {path.stem for path in source.iterdir()}
    for path in source.iterdir():
        with Video(path) as video:
            frames = video.expected()
        found = videos[path.stem]
        assert found.frames == frames
        assert [caption.more["snippet"] for caption in found.captions] == list(range(math.ceil(frames / 16)))
        edges = [16 * i for i in range(math.ceil(frames / 16))] + [frames]
        assert [(caption.start, caption.end) for caption in found.captions] == list(itertools.pairwise(edges))
    assert len({caption.text for video in videos.values() for caption in video.captions}) > 5
