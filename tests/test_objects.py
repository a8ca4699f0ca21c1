"""Objects of a mask: what separates them, and the line that is put between those that touch."""

import numpy as np
import pytest

from unet_cli.data.objects import components, separated


def test_a_diagonal_line_of_background_separates():
    mask = np.ones((5, 5), dtype=np.uint8)
    mask[np.arange(5), np.arange(5)] = 0
    numbers, count = components(mask)
    assert count == 2
    assert (numbers == np.triu(np.ones((5, 5)), 1) + 2 * np.tril(np.ones((5, 5)), -1)).all()


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
        [7, 7, 0, 3, 0],
        [0, 0, 0, 0, 5],
    ]


def test_of_equals_the_higher_number_gives_the_line():
    assert separated(np.array([[2, 2, 1, 1]])).tolist() == [[2, 0, 1, 1]]
    assert separated(np.array([[1, 1, 2, 2]])).tolist() == [[1, 1, 0, 2]]


def test_what_meets_at_a_corner_only_or_is_one_object_stays():
    for numbers in ([[1, 0], [0, 2]], [[1, 1], [1, 1]], [[0, 0], [0, 0]]):
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
