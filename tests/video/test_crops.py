"""utils/video/crops.py: the ten crops where VadCLIP's released code cuts them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from utils.video.crops import Recipe

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
    assert recipe.resize(picture(height, width)).shape == (*expected[::-1], 3)


def test_a_picture_of_the_published_size_stays_as_it_is():
    image = picture(256, 340)
    np.testing.assert_array_equal(Recipe().resize(image), image)


@given(st.integers(1, 50), st.integers(1, 50), st.booleans(), st.sampled_from([1, 5, 10]), st.sampled_from([8, 32]))
def test_every_picture_has_crops_of_the_encoders_size(width, height, keep, crops, size):
    recipe = Recipe(crops=crops, keep_aspect=keep, size=size)
    found = cut(recipe, np.array(recipe.resize(picture(height, width))))
    assert found.shape == (crops, size, size, 3)
    assert found.dtype == np.uint8


@pytest.mark.parametrize("wrong", [{"crops": 3}, {"stride": 0}, {"size": 0}])
def test_a_recipe_that_is_none_is_refused(wrong):
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        Recipe(**wrong)
