"""utils/video/crops.py: the ten crops where VadCLIP's released code cuts them, of a picture resized as cv2 does."""

import zlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from utils.video.crops import GREY, Recipe, bilinear, part_of

RNG = np.random.default_rng(0)


def picture(height, width):
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def cut(recipe, image):
    """(crops, size, size, 3) of an (h, w, 3) array."""
    return recipe.cut(torch.from_numpy(image).permute(2, 0, 1)).permute(0, 2, 3, 1).numpy()


def test_the_ten_published_crops():
    image = picture(256, 340)
    whole = [
        image[16:240, 58:282],  # centre
        image[:224, :224],
        image[:224, -224:],
        image[-224:, :224],
        image[-224:, -224:],
    ]
    np.testing.assert_array_equal(cut(Recipe(), image), [*whole, *(part[:, ::-1] for part in whole)])


@pytest.mark.parametrize("crops", [1, 5])
def test_fewer_crops_are_the_first_ones(crops):
    image = picture(256, 340)
    np.testing.assert_array_equal(cut(Recipe(crops=crops), image), cut(Recipe(), image)[:crops])


@pytest.mark.parametrize(
    ("width", "height", "recipe", "expected"),
    [
        (320, 240, Recipe(), (340, 256)),
        (100, 900, Recipe(), (340, 256)),  # whatever the aspect
        (640, 360, Recipe(size=32), (49, 37)),
        (640, 360, Recipe(size=336), (510, 384)),
        (640, 360, Recipe(keep_aspect=True), (455, 256)),
        (360, 640, Recipe(keep_aspect=True), (256, 455)),
        (33, 17, Recipe(keep_aspect=True, size=32), (71, 37)),
    ],
)
def test_the_size_of_resized_pictures(width, height, recipe, expected):
    assert recipe.shape(width, height) == expected
    assert recipe.fit(picture(height, width)).shape == (*expected[::-1], 3)


def test_a_picture_of_the_published_size_stays_as_it_is():
    image = picture(256, 340)
    for resize in ("cv2", "bicubic"):
        np.testing.assert_array_equal(Recipe(resize=resize).fit(image), image)


def test_bilinear_between_the_centres_of_pixels():
    """By hand: 4 pixels to 2 lie half-way between two; 2 to 4 a quarter and three quarters, and the outer ones on the first and last."""
    line = np.array([0, 100, 20, 60], np.uint8)[None, :, None]
    assert bilinear(line, 2, 1).ravel().tolist() == [50, 40]
    assert bilinear(line[:, :2], 4, 1).ravel().tolist() == [0, 25, 75, 100]
    assert bilinear(np.array([0] * 7 + [255], np.uint8)[None, :, None], 2, 1).ravel().tolist() == [0, 0]  # 1.5 and 5.5: no smoothing


def test_a_small_picture_as_cv2_resizes_it():
    """Values of cv2.resize, opencv-python-headless 5.0.0, 4.11.0 and 4.5.5."""
    image = (np.arange(5 * 7 * 3).reshape(5, 7, 3) * 37 % 256).astype(np.uint8)
    smaller = [[[80, 117, 154], [84, 121, 158], [87, 124, 161]], [[103, 140, 177], [106, 143, 180], [109, 146, 162]]]
    assert bilinear(image, 3, 2).tolist() == smaller
    larger = bilinear(image, 10, 9)
    assert larger[1, :, 0].tolist() == [3, 64, 142, 219, 131, 119, 184, 82, 96, 157]
    assert larger[:, 7, 1].tolist() == [116, 119, 124, 129, 134, 139, 137, 107, 88]


@pytest.mark.parametrize(
    ("width", "height", "expected"), [(320, 240, 0xA56155F7), (1920, 1080, 0xEFB56C0D), (680, 512, 0xE09CA6BD), (100, 900, 0xB2D200F8)]
)
def test_every_bit_is_cv2s(width, height, expected):
    """The CRC32 of cv2.resize(image, (340, 256)), of the same three versions."""
    noise = np.arange(width * height * 3, dtype=np.uint64) * 2654435761 % 2**32 >> 24
    assert zlib.crc32(bilinear(noise.astype(np.uint8).reshape(height, width, 3), 340, 256)) == expected


def test_pixels_that_are_not_square():
    image = picture(144, 352)
    recipe = Recipe(keep_aspect=True)
    assert recipe.fit(image, (176, 144)).shape == (256, 313, 3)
    np.testing.assert_array_equal(Recipe().fit(image, (176, 144)), Recipe().fit(image))  # squashed all the same


@given(st.integers(1, 50), st.integers(1, 50), st.booleans(), st.sampled_from([1, 5, 10]), st.sampled_from([8, 32]))
def test_every_picture_has_crops_of_the_encoders_size(width, height, keep, crops, size):
    recipe = Recipe(crops=crops, keep_aspect=keep, size=size)
    found = cut(recipe, np.array(recipe.fit(picture(height, width))))
    assert found.shape == (crops, size, size, 3)
    assert found.dtype == np.uint8


@pytest.mark.parametrize("wrong", [{"crops": 3}, {"stride": 0}, {"size": 0}, {"resize": "area"}])
def test_a_recipe_that_is_none_is_refused(wrong):
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        Recipe(**wrong)


def test_a_part_of_a_picture():
    """The smallest rectangle that holds a polygon, grey outside of it; a picture of any size, and a polygon of any."""
    picture = np.random.default_rng(0).integers(0, 120, (40, 60, 3), np.uint8)
    part, share = part_of(picture, [[0.5, 0], [1, 0], [1, 0.5], [0.5, 0.5]])
    assert np.array_equal(part, picture[:20, 30:])
    assert share == (0.5, 0.5)
    part, share = part_of(picture, [[0, 0], [1, 0], [0, 1]])  # upper left triangle
    assert part.shape == picture.shape
    assert np.array_equal(part[:15, :15], picture[:15, :15])
    assert (part[30:, 40:] == GREY).all()
    for polygon in ([[0.3, 0.3]] * 3, [[1, 1]] * 3, [[0, 0]] * 3, [[0, 0.5], [1, 0.5], [0.5, 0.5]]):
        part, _ = part_of(picture, polygon)
        assert min(part.shape) >= 1
