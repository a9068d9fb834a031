"""utils/video/extraction.py: features are those of a literal reference, and do not depend on neighbours, batches or broken files."""

import threading

import numpy as np
import pytest
import torch

from clips import cut, make_video, stub
from golden import REAL
from tools.bench.extract import literal, write_video
from utils.video import decoder
from utils.video.crops import Recipe
from utils.video.decoder import Limits
from utils.video.encoder import CLIPEncoder
from utils.video.extraction import Extracted, extract
from utils.video.frames import BrokenVideo, Video

SHORT = (
    "RoadAccidents133_x264_270_451.mp4",
    "holmesvau_car_accident.mp4",
)  # the shortest of the clips, and the one with the largest pictures
needs_clips = pytest.mark.skipif(not REAL.is_dir(), reason="needs ../shared/real")


@pytest.fixture(scope="module")
def encoder(small_clip):
    return CLIPEncoder(small_clip, "small")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Three videos of different lengths and pictures."""
    folder = tmp_path_factory.mktemp("clips")
    return [write_video(folder / f"{seconds}.mp4", seconds, (64, 48), seconds) for seconds in (1, 2, 4)]


def features(paths, encoder, **options) -> dict[str, np.ndarray]:
    found = list(extract(paths, encoder, Recipe(size=encoder.size), **options))
    assert {type(one) for one in found} == {Extracted}
    return {one.path.name: one.features for one in found}


def relative(found, expected) -> float:
    """The largest difference of a feature, relative to its length."""
    return (np.linalg.norm(found - expected, axis=-1) / np.linalg.norm(expected, axis=-1)).max()


def check_clips(paths, clip_model):
    for name, found in features(paths, CLIPEncoder(clip_model)).items():
        [path] = [path for path in paths if path.name == name]
        with Video(path) as video:
            assert found.shape == (video.frames // 16, 10, 64)
        expected = literal(path, clip_model)
        assert relative(found, expected) < 1e-3
        assert relative(found[:, 0], expected[:, 5]) > 1e-2  # or this would show nothing


@needs_clips
def test_ten_crops_of_real_videos_are_those_of_a_literal_reference(small_clip):
    check_clips([REAL / "videos" / name for name in SHORT], small_clip)


@needs_clips
@pytest.mark.slow
@pytest.mark.parametrize("size", [32, 224])
def test_ten_crops_of_real_videos(size):
    from utils.text import openai_clip

    torch.manual_seed(0)
    clip_model = openai_clip().model.CLIP(64, size, 2, 64, size // 4, 77, 49408, 64, 1, 2).eval()
    check_clips(sorted((REAL / "videos").iterdir())[:: 2 if size == 32 else 4], clip_model)


@pytest.mark.parametrize("crops", [1, 5])
def test_fewer_crops(clips, encoder, small_clip, crops):
    [found] = extract(clips[1:2], encoder, Recipe(crops=crops, size=32))
    assert relative(found.features, literal(clips[1], small_clip, crops)) < 1e-3


@pytest.mark.parametrize("frames", [1, 15, 16, 17, 47, 48])
def test_lengths_and_times(tmp_path, encoder, frames):
    [found] = extract([make_video(tmp_path / "a.mp4", frames)], encoder, Recipe(size=32, crops=1))
    rows = max(1, frames // 16)
    assert found.features.shape == (rows, 1, 64)
    assert (found.frames, found.fps, found.size) == (frames, 25, (64, 48))
    assert found.times == pytest.approx([*(16 * t / 25 for t in range(rows)), frames / 25])
    assert [when for when, _ in found.thumbnails] == pytest.approx([16 * t / 25 for t in range(-(-frames // 16))])


def test_features_do_not_depend_on_neighbours(clips, encoder):
    """To the byte: rows of a batch that always has the same shape."""
    alone = {name: rows for path in clips for name, rows in features([path], encoder, batch_size=60).items()}
    for paths, workers in ((clips, 1), (clips[::-1], 1), ([*clips[1:], clips[0]], 3)):
        together = features(paths, encoder, batch_size=60, workers=workers)
        assert together.keys() == alone.keys()
        for name, rows in alone.items():
            assert np.array_equal(together[name], rows)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_row_of_vit_b16_does_not_depend_on_its_place(precision):
    """What the test above rests on, at the real sizes."""
    from tools.bench.extract import vit_b16
    from utils.video.extraction import encode

    encoder, recipe = CLIPEncoder(vit_b16()), Recipe(crops=1)
    pictures = list(np.random.default_rng(0).integers(0, 256, (4, 256, 340, 3), dtype=np.uint8))
    rows = encode(pictures, encoder, recipe, 4, precision)
    assert np.array_equal(encode(pictures[::-1], encoder, recipe, 4, precision), rows[::-1])
    assert np.array_equal(encode(pictures[2:3], encoder, recipe, 4, precision), rows[2:3])


def test_videos_share_batches_of_one_shape(clips, encoder):
    shapes = []
    hook = encoder.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))
    try:
        found = features(clips, encoder, batch_size=40)
    finally:
        hook.remove()
    rows = sum(map(len, found.values()))
    assert rows == 1 + 3 + 7
    assert shapes == [(40, 3, 32, 32)] * 3  # four pictures each, 12 with the filling


def test_a_batch_holds_at_least_a_picture(clips, encoder):
    assert features(clips[:1], encoder, batch_size=1).keys() == {"1.mp4"}


def test_broken_videos_are_given_back_and_the_others_are_not_touched(tmp_path, clips, encoder):
    (tmp_path / "text.mp4").write_text("a man walks")
    content = clips[2].read_bytes()
    (tmp_path / "beheaded.mp4").write_bytes(content[: len(content) // 2])  # its header is at the end
    cut(tmp_path / "cut.mp4", 0.7, container={"movflags": "faststart"})  # its first snippets are encoded before this shows
    broken = [tmp_path / name for name in ("text.mp4", "beheaded.mp4", "cut.mp4")]
    found = list(extract([broken[0], clips[0], *broken[1:], *clips[1:]], encoder, Recipe(size=32), batch_size=10, workers=2))
    errors = [one for one in found if isinstance(one, BrokenVideo)]
    assert {error.path for error in errors} == set(broken)
    assert all(str(error).startswith(str(error.path)) for error in errors)
    for one in found:
        if isinstance(one, Extracted):
            assert np.array_equal(one.features, features([one.path], encoder, batch_size=10)[one.path.name])
    assert len(found) == 6


@pytest.mark.slow
def test_a_hanging_decoder_does_not_stop_the_others(tmp_path, monkeypatch, encoder, clips):
    hang = (
        "import json, sys, time, utils.video.decoder as d\nif json.loads(sys.argv[1])['name'].endswith('1.mp4'): time.sleep(600)\nd.main()"
    )
    stub(monkeypatch, hang)
    found = list(extract(clips, encoder, Recipe(size=32), limits=Limits(timeout=30), workers=2))
    assert {type(one): one.path for one in found if isinstance(one, BrokenVideo)} == {BrokenVideo: clips[0]}
    assert {one.path for one in found if isinstance(one, Extracted)} == set(clips[1:])


def test_progress(clips, encoder):
    seen = []
    for found in extract(clips[2:], encoder, Recipe(size=32), batch_size=20, progress=lambda *said: seen.append(said)):
        assert found.path == clips[2]
    assert seen == [(clips[2], done, 7) for done in (2, 4, 6, 7)]


def test_no_thread_or_process_stays_when_nobody_wants_more(clips, encoder, monkeypatch):
    started = []

    class Seen(decoder.Decoder):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            started.append(self)

    monkeypatch.setattr("utils.video.extraction.Decoder", Seen)
    before = threading.active_count()
    found = extract(clips * 5, encoder, Recipe(size=32), batch_size=10, workers=3)
    next(found)
    found.close()
    assert threading.active_count() <= before  # one of an earlier test may end
    assert len(started) < 15
    assert all(one._process.poll() is not None for one in started)


def test_a_bug_in_the_child_is_not_taken_for_a_broken_video(clips, encoder, monkeypatch):
    stub(monkeypatch, "import sys; sys.stdout.buffer.write((2).to_bytes(4) + b'no'); sys.stdout.flush()")
    with pytest.raises(ValueError, match="Expecting value"):
        list(extract(clips, encoder, Recipe(size=32), workers=2))


def test_a_recipe_of_another_size_is_refused(clips, encoder):
    with pytest.raises(ValueError, match="32 pixels, the recipe gives 224"):
        list(extract(clips, encoder, Recipe()))


def test_bf16_is_near(clips, encoder):
    exact, rounded = (features(clips[:2], encoder, precision=precision) for precision in ("fp32", "bf16"))
    for name, rows in exact.items():
        assert rounded[name].dtype == np.float32
        assert 0 < relative(rounded[name], rows) < 0.03
