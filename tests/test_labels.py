"""Mask values and class indices: what is found for each kind of mask, and that writing gives the values back."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

from unet_cli.data.labels import LabelMap, find_labels, value_stats
from unet_cli.data.sample import draw_pair
from unet_cli.errors import UserError

BINARY = draw_pair(seed=0, index=0)[1]  # 0 and 255


def found(*masks: np.ndarray) -> LabelMap:
    return find_labels([value_stats(mask) for mask in masks])


@pytest.mark.parametrize("high", [1, 2, 128, 255])
def test_two_values_are_background_and_foreground(high):
    mask = (BINARY > 0).astype(np.uint8) * high
    labels = found(mask, mask)
    assert labels.values == (0, high)
    assert (labels.encode(mask) == (BINARY > 0)).all()
    assert (labels.decode(labels.encode(mask)) == mask).all()


def test_smoothed_masks_are_binary_from_the_middle_on():
    smooth = np.asarray(Image.fromarray(BINARY).filter(ImageFilter.GaussianBlur(1)))
    labels = found(smooth)
    assert labels.soft
    assert labels.values == (0, 255)
    assert (labels.encode(smooth) == (smooth >= 128)).all()
    assert set(np.unique(labels.decode(labels.encode(smooth)))) == {0, 255}


@pytest.mark.parametrize("scale", [0.5, 0.37, 2.5])
def test_resized_masks_are_binary(scale):
    image = Image.fromarray(BINARY)
    resized = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
    assert found(np.asarray(resized)).soft


@pytest.mark.parametrize("quality", [30, 60, 85, 95, 100])
def test_jpeg_masks_are_binary(quality):
    memory = io.BytesIO()
    Image.fromarray(BINARY).save(memory, format="JPEG", quality=quality)
    decoded = np.asarray(Image.open(memory))
    labels = found(decoded)
    assert labels.soft
    assert (labels.encode(decoded) == (BINARY > 0)).mean() > 0.99


def stripes(*values: int) -> np.ndarray:
    return np.repeat(np.array(values, np.uint8), 12)[None].repeat(30, axis=0)


@pytest.mark.parametrize(
    "values",
    [(0, 1, 2), (1, 2, 3), (0, 128, 255), (0, 32, 64, 96, 128, 159, 191, 223, 255), tuple(range(40)) + (255,)],
)
def test_integer_classes(values):
    labels = found(stripes(*values))
    assert labels.values == values
    assert not labels.soft
    assert (labels.decode(labels.encode(stripes(*values))) == stripes(*values)).all()


def test_classes_come_from_all_masks_together():
    assert found(stripes(0, 1), stripes(0, 4), stripes(2)).values == (0, 1, 2, 4)


def test_empty_masks_alone_still_make_a_map():
    assert found(np.zeros((8, 8), np.uint8)).values == (0, 255)
    assert found(np.full((8, 8), 7, np.uint8)).values == (0, 7)


def test_object_numbers_are_not_taken_for_classes():
    with pytest.raises(UserError, match="look like object numbers"):
        found(np.arange(3000, dtype=np.uint16).reshape(50, 60))


def test_a_value_without_a_class_is_refused():
    with pytest.raises(UserError, match=r"holds the value 9.*0, 1, 2"):
        found(stripes(0, 1, 2)).encode(stripes(0, 9))


def test_small_integers_are_written_with_visible_colours():
    assert found(stripes(0, 1)).written_palette == [0, 0, 0, 255, 255, 255]
    palette = found(stripes(0, 1, 10)).written_palette
    assert palette is not None
    assert len(palette) == 33
    assert sum(palette[3:6]) > 200
    assert found(stripes(0, 255)).written_palette is None


def test_the_users_own_palette_is_kept():
    labels = find_labels([value_stats(stripes(0, 1))], palette=[9, 9, 9, 1, 2, 3])
    assert labels.written_palette == [9, 9, 9, 1, 2, 3]
    assert LabelMap.from_plain(labels.plain()) == labels
