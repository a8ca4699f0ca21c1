"""Objects of a mask: what separates them, and the line that is put between those that touch."""

import numpy as np
import pytest
from PIL import Image

from unet_cli.config.prediction import Cleaning
from unet_cli.data.labels import LabelMap
from unet_cli.data.objects import components, separated
from unet_cli.data.source import Source
from unet_cli.evaluation.answers import read_truth
from unet_cli.inference.numbering import objects_of
from unet_cli.training.losses.distances import border_weights


def test_what_meets_at_a_corner_is_one_object():
    mask = np.ones((5, 5), dtype=np.uint8)
    mask[np.arange(5), np.arange(5)] = 0
    assert components(mask)[1] == 1
    mask[np.arange(4), np.arange(1, 5)] = 0  # a staircase of background keeps the two triangles apart
    numbers, count = components(mask)
    assert count == 2
    assert (numbers == np.triu(np.ones((5, 5)), 2) + 2 * np.tril(np.ones((5, 5)), -1)).all()
    corners = np.zeros((2, 2, 2), dtype=np.uint8)
    corners[0, 0, 0] = corners[1, 1, 1] = 1
    assert components(corners)[1] == 1


def test_training_prediction_and_evaluation_count_the_same_objects(tmp_path):
    """A chain of pixels that only touch at their corners, and a pixel apart, in a file and as a prediction."""
    mask = np.zeros((6, 6), dtype=np.uint8)
    mask[np.arange(4), np.arange(4)] = mask[5, 5] = 1
    Image.fromarray(255 * mask).save(tmp_path / "mask.png")
    source = Source((tmp_path / "mask.png",))
    truth = read_truth(source, LabelMap((0, 255), ("background", "cell")))
    assert [components(mask)[1], int(objects_of(mask, Cleaning()).max()), int(truth.numbers.max())] == [2, 2, 2]
    assert border_weights(mask)[4, 4] > border_weights(mask)[0, 5] > 0


def test_objects_of_two_classes_are_two():
    numbers, count = components(np.array([[1, 1, 2, 0, 1]]))
    assert count == 3
    assert numbers.tolist() == [[1, 1, 3, 0, 2]]
    assert components(np.zeros((2, 3, 4), dtype=np.uint8))[1] == 0


def test_the_larger_of_two_that_touch_gives_the_line():
    numbers = np.array([
        [7, 7, 3, 3, 3],
        [7, 7, 3, 3, 3],
        [0, 0, 0, 0, 5],
    ], dtype=np.uint16)  # fmt: skip
    line = separated(numbers)
    assert line.dtype == np.uint16
    assert line.tolist() == [
        [7, 7, 0, 3, 3],
        [7, 7, 0, 0, 0],
        [0, 0, 0, 0, 5],
    ]


def test_of_equals_the_higher_number_gives_the_line():
    assert separated(np.array([[2, 2, 1, 1]])).tolist() == [[2, 0, 1, 1]]
    assert separated(np.array([[1, 1, 2, 2]])).tolist() == [[1, 1, 0, 2]]


def test_objects_that_meet_at_a_corner_are_separated_and_one_object_stays():
    assert separated(np.array([[1, 0, 0], [1, 0, 0], [0, 2, 2], [0, 2, 2]])).tolist() == [
        [1, 0, 0],
        [1, 0, 0],
        [0, 0, 2],
        [0, 2, 2],
    ]
    assert separated(np.array([[0, 0, 1], [0, 0, 1], [2, 2, 0], [2, 2, 0]])).tolist() == [
        [0, 0, 1],
        [0, 0, 1],
        [2, 0, 0],
        [2, 2, 0],
    ]
    for numbers in ([[1, 1], [1, 1]], [[0, 0], [0, 0]]):
        assert separated(np.array(numbers)).tolist() == numbers


@pytest.mark.parametrize("shape", [(40, 60), (12, 12, 12)])
def test_no_two_objects_are_joined_afterwards_and_the_smallest_is_whole(shape):
    generator = np.random.default_rng(0)
    seeds = generator.random((8, len(shape))) * shape
    places = np.stack(np.indices(shape), -1)[..., None, :]
    numbers = ((places - seeds) ** 2).sum(-1).argmin(-1) + 1  # cells that fill everything
    line = separated(numbers)
    assert ((line == numbers) | (line == 0)).all()
    joined, _ = components((line > 0).astype(np.uint8))
    for number in np.unique(joined[joined > 0]):
        assert len(np.unique(line[joined == number])) == 1
    smallest = np.bincount(numbers.ravel())[1:].argmin() + 1
    assert (line[numbers == smallest] == smallest).all()
