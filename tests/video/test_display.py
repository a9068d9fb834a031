"""utils/video/display.py: how a picture stands, wherever a frame is scored, shown or written."""

import io
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from app.mp4 import Scaler
from clips import make_video
from golden import CASES, needs_cases
from tools.bench.extract import tiny_clip
from utils.video.crops import Recipe
from utils.video.decoder import Decoder
from utils.video.display import Pose, pose_of, shown_size
from utils.video.encoder import CLIPEncoder
from utils.video.extraction import extract
from utils.video.frames import Video, to_rgb, windows

POSES = [(rotation, mirrored) for rotation in (0, 90, 180, -90) for mirrored in (False, True)]


def stored(_):
    """(48, 64, 3): four quadrants, each of a brightness of its own."""
    return np.kron([[250, 170], [90, 10]], np.ones((24, 32))).astype(np.uint8)[..., None].repeat(3, 2)


def shown(rotation, mirrored):
    """`stored` as a player shows it: turned, then mirrored."""
    picture = np.rot90(stored(0), rotation // 90)
    return picture[:, ::-1] if mirrored else picture


def corners(picture):
    """(2, 2): the brightness of the four quadrants."""
    height, width, _ = picture.shape
    return np.array([[picture[row * height // 4, column * width // 4].mean() for column in (1, 3)] for row in (1, 3)])


def first_frame(path):
    with Video(path) as video:
        return next(iter(video.decode()))


@pytest.mark.parametrize(("rotation", "mirrored"), POSES)
def test_the_eight_poses(tmp_path, rotation, mirrored):
    frame = first_frame(make_video(tmp_path / "a.mp4", 2, rotation=rotation, mirrored=mirrored, picture=stored))
    expected = shown(rotation, mirrored)
    found = to_rgb(frame)
    assert found.shape == expected.shape
    assert found.flags.c_contiguous
    assert np.abs(found.astype(int) - expected).mean() < 3
    luma, *colours = Scaler(frame, expected.shape[1::-1])(frame)  # of the annotated copy, and of clips
    assert np.abs(luma.astype(float) - (16 + 219 / 255 * expected[..., 0])).mean() < 3
    assert {plane.shape for plane in colours} == {(expected.shape[0] // 2, expected.shape[1] // 2)}


def opened_jpeg(jpeg):
    return np.asarray(Image.open(io.BytesIO(jpeg)))


@pytest.mark.parametrize(("rotation", "mirrored"), [(0, True), (90, True), (-90, False)])
def test_what_is_scored_and_what_is_looked_at(tmp_path, rotation, mirrored):
    """The encoder's pictures, thumbnails, and what a captioner sees."""
    path, expected = tmp_path / "a.mp4", shown(rotation, mirrored)
    make_video(path, 20, rotation=rotation, mirrored=mirrored, picture=stored)
    with Decoder(path, Recipe(size=32)) as events:
        opened, picture, ended = events
    with Video(path) as video:
        first, _ = windows(video, [0], 16)
    assert opened.size == expected.shape[1::-1]
    thumbnail = opened_jpeg(ended.thumbnails[-1][1])
    assert thumbnail.shape == (90, round(90 * opened.size[0] / opened.size[1]), 3)
    for image in (picture.image, thumbnail, first.pictures[0]):
        assert np.abs(corners(image) - corners(expected)).max() < 20


class Frame:
    """A decoded frame with this display matrix."""

    width, height = 64, 48

    def __init__(self, *matrix, rotation=0):
        self.rotation, self.matrix = rotation, np.array(matrix, np.int32)

    @property
    def side_data(self):
        if not len(self.matrix):
            raise ValueError("31 is not a valid Type")
        return {"DISPLAYMATRIX": self.matrix}


@pytest.mark.parametrize(
    ("frame", "pose"),
    [
        (Frame(*[0] * 9), Pose()),  # no matrix of anything
        (Frame(65536 * 3, 0, 0, 0, 65536, 0, 0, 0, 1 << 30), Pose()),  # larger, but as it is
        (Frame(65000, 3000, 0, -3000, 65000, 0, 0, 0, 1 << 30), Pose()),  # askew
        (Frame(-(2**31), 0, 0, 0, 2**31 - 1, 0, 0, 0, 1 << 30), Pose(mirrored=True)),
        (Frame(rotation=-90), Pose(turns=3)),  # what PyAV cannot list it does turn
    ],
)
def test_any_matrix_has_a_pose(frame, pose):
    assert pose_of(frame) == pose


@pytest.mark.parametrize(
    ("aspect", "size"),
    [
        (None, (64, 48)),
        (Fraction(1, 2), (32, 48)),
        (Fraction(64, 45), (91, 48)),
        (Fraction(9, 1), (64, 48)),  # a mistaken header
    ],
)
def test_pixels_that_are_not_square(tmp_path, aspect, size):
    path = make_video(tmp_path / "a.mp4", 20, aspect=aspect, picture=stored)
    with Video(path) as video:
        assert shown_size(next(iter(video.decode())), video.aspect) == size
    with Video(path) as video:
        first, _ = windows(video, [0], 16)
    assert first.pictures[0].shape == (size[1], size[0], 3)
    assert np.abs(corners(first.pictures[0]) - corners(stored(0))).max() < 20


def test_a_turned_video_whose_pixels_are_not_square(tmp_path):
    path = make_video(tmp_path / "a.mp4", 20, rotation=90, aspect=Fraction(1, 2), picture=stored)
    with Decoder(path, Recipe(size=32, keep_aspect=True)) as events:
        opened, picture, ended = events
    assert opened.size == (48, 32)
    assert picture.image.shape == (37, 55, 3)
    assert opened_jpeg(ended.thumbnails[0][1]).shape == (90, 135, 3)


def features(path, **recipe):
    encoder = CLIPEncoder(tiny_clip())
    [found] = extract([path], encoder, Recipe(size=encoder.size, **recipe))
    return found


def cosine(one, other):
    return float((one * other).sum() / np.linalg.norm(one) / np.linalg.norm(other))


def test_a_kept_aspect_gives_the_features_of_the_video_with_square_pixels(tmp_path):
    rng = np.random.default_rng(0)
    scene = np.kron(rng.integers(0, 256, (6, 8, 3)), np.ones((8, 12, 1))).astype(np.uint8)  # (48, 96, 3)
    square = make_video(tmp_path / "a.mp4", 20, (96, 48), options={"qp": "4"}, picture=lambda _: scene)
    wide = {"size": (192, 48), "aspect": Fraction(1, 2), "picture": lambda _: scene.repeat(2, 1)}
    wide = make_video(tmp_path / "b.mp4", 20, options={"qp": "4"}, **wide)
    expected, found = features(square, keep_aspect=True), features(wide, keep_aspect=True)
    assert found.size == expected.size == (96, 48)
    assert cosine(found.features, expected.features) > 0.999
    assert cosine(features(square).features, expected.features) < 0.999  # squashed, they differ


@needs_cases
def test_the_mirrored_file_of_the_cases():
    plain, mirrored = features(CASES / "plain.mp4", crops=10), features(CASES / "hflip.mp4", crops=10)
    for crop, other in {1: 7, 2: 6, 3: 9, 4: 8, 6: 2, 7: 1, 8: 4, 9: 3}.items():  # its left corner is the mirror of the right one
        assert cosine(mirrored.features[:, crop], plain.features[:, other]) > 0.9999
    assert mirrored.size == plain.size == (160, 120)
    for (_, one), (_, two) in zip(plain.thumbnails, mirrored.thumbnails, strict=True):
        assert np.abs(opened_jpeg(one)[:, ::-1].astype(int) - opened_jpeg(two)).mean() < 5


@needs_cases
def test_the_file_of_narrow_pixels_of_the_cases():
    found = features(CASES / "sar_1_2.mp4")
    assert found.size == (176, 144)
    assert {opened_jpeg(jpeg).shape for _, jpeg in found.thumbnails} == {(90, 110, 3)}
