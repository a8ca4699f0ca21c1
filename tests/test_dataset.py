"""Samples, order and batches."""

import numpy as np
import pytest
import torch
from test_card import card_of

from unet_cli.data.dataset import SegmentationDataset, epoch_order
from unet_cli.errors import UserError


def dataset_of(data, cache_bytes=None) -> SegmentationDataset:
    card = card_of(data)
    pairs = card.pairs("train")
    return SegmentationDataset(pairs, card.preprocessing(pairs, size=32), card.labels, cache_bytes)


def test_samples_are_compact_and_of_the_networks_size(data):
    image, mask = dataset_of(data)[0]
    assert (image.shape, image.dtype) == ((3, 32, 32), torch.uint8)
    assert (mask.shape, mask.dtype) == ((32, 32), torch.uint8)
    assert set(mask.unique().tolist()) <= {0, 1}


def test_samples_stay_in_memory_as_long_as_they_fit(data):
    sample_bytes = 32 * 32 * 4
    for budget, kept in ((10 * sample_bytes, 6), (2 * sample_bytes + 1, 2), (0, 0)):
        dataset = dataset_of(data, budget)
        first = [dataset[index] for index in range(6)]
        again = [dataset[index] for index in range(6)]
        assert sum(a[0] is b[0] for a, b in zip(first, again, strict=True)) == kept
        assert all(torch.equal(a[0], b[0]) for a, b in zip(first, again, strict=True))


def test_batches_follow_the_order_and_the_last_may_be_smaller(data):
    dataset = dataset_of(data)
    batches = list(dataset.batches([5, 0, 3, 1, 2], batch_size=2, workers=3))
    assert [batch.indices for batch in batches] == [[5, 0], [3, 1], [2]]
    assert torch.equal(batches[1].image[0], dataset[3][0])
    assert batches[2].mask.shape == (1, 32, 32)


def test_a_file_that_vanishes_is_named(data):
    dataset = dataset_of(data)
    (data / "images" / "cell4.png").unlink()
    with pytest.raises(UserError, match="cell4.png"):
        list(dataset.batches(range(6), batch_size=2))


def test_order_is_a_function_of_seed_and_epoch():
    assert epoch_order(50, seed=1, epoch=2) == epoch_order(50, seed=1, epoch=2)
    assert epoch_order(50, seed=1, epoch=2) != epoch_order(50, seed=1, epoch=3)
    assert sorted(epoch_order(50, seed=1, epoch=2)) == list(np.arange(50))
