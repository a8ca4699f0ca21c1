"""Samples, order and batches."""

import shutil
import threading
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import pixels, write_pairs
from PIL import Image
from scipy.ndimage import label
from test_card import card_of

from unet_cli.data.check.normalization import preprocessing_of
from unet_cli.data.imagefile import read_image
from unet_cli.data.maskfile import read_mask
from unet_cli.data.objects import CLASSES, parted
from unet_cli.data.preprocess import own_intensities, prepare, resize_mask, whole_intensities
from unet_cli.data.samples.augment import AUGMENTATIONS, augment
from unet_cli.data.samples.cutting import Crops, Cutting, Grid
from unet_cli.data.samples.dataset import SegmentationDataset, epoch_order
from unet_cli.errors import UserError
from unet_cli.system.prefetch import prefetch

SIZES = [(40, 40 + index) for index in range(6)]  # of the pairs of `data`


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Six small pairs, drawn once for all tests of this file."""
    return write_pairs(tmp_path_factory.mktemp("drawn") / "data")


@pytest.fixture
def data(drawn, tmp_path):
    return shutil.copytree(drawn, tmp_path / "data")


def dataset_of(data, cache_bytes=None, cutting: Cutting | None = None, **settings) -> SegmentationDataset:
    card = card_of(data)
    pairs = card.pairs("train")
    preprocessing = replace(preprocessing_of(card, pairs, size=32), **settings)
    return SegmentationDataset(pairs, preprocessing, card.labels, cutting, cache_bytes)


def crops(**settings) -> Crops:
    return Crops(SIZES, (16, 16), 0.5, seed=0, **settings)


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


def test_it_says_how_much_memory_it_will_keep(data):
    card = card_of(data)
    pairs = card.pairs("train")
    whole = SegmentationDataset(pairs, preprocessing_of(card, pairs, 32), card.labels)
    assert whole.bytes_to_keep() == 6 * 32 * 32 * 4
    whole.sample(0)
    assert whole.bytes_to_keep() == 5 * 32 * 32 * 4
    assert SegmentationDataset(pairs, whole.preprocessing, card.labels, cache_bytes=99).bytes_to_keep() == 99
    tiles = SegmentationDataset(pairs, whole.preprocessing, card.labels, Grid(card.sizes(pairs), (32, 32)))
    assert tiles.bytes_to_keep() == 4 * sum(height * width for height, width in card.sizes(pairs))


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


def test_stretched_samples_are_those_of_the_files(data):
    dataset = dataset_of(data, intensity="image")
    for index, pair in enumerate(dataset.pairs):
        image, mask, intensities = dataset.sample(index, epoch=4)
        assert torch.equal(image, prepare(read_image(pair.image), dataset.preprocessing)[0])
        indices = torch.from_numpy(dataset.labels.encode(read_mask(pair.mask))[0])
        assert torch.equal(mask, resize_mask(indices, (32, 32)))
        assert torch.equal(intensities, own_intensities(image[None].float(), dataset.preprocessing)[0])
    assert next(dataset.batches(range(6), 6)).intensities.shape == (6, 4)


def test_crops_of_stretched_images_know_the_intensities_of_the_whole(data):
    whole = dataset_of(data, intensity="image")
    dataset = dataset_of(data, cutting=Crops(SIZES, (16, 16), 0.0, seed=0, stretched=32), intensity="image")
    assert len(dataset) == 4 * len(whole)
    assert dataset.sides == (16, 16)
    for index in range(len(dataset)):
        image, mask, intensities = dataset.sample(index, epoch=2)
        number = dataset.image_numbers[index]
        assert torch.equal(intensities, whole.sample(number)[2])
        seen = whole[number][0].unfold(1, 16, 1).unfold(2, 16, 1).movedim(0, 2).flatten(0, 1)
        assert any(torch.equal(image, part) for part in seen)
        assert mask.shape == (16, 16)


def test_samples_can_be_cut_otherwise_without_reading_again(data, monkeypatch):
    dataset = dataset_of(data, cutting=Crops(SIZES, (16, 16), 0.0, seed=0, stretched=32))
    list(dataset)
    monkeypatch.setattr("unet_cli.data.samples.dataset.read_image", None)
    dataset.cut_by(Crops(SIZES, (32, 32), 0.0, seed=0, stretched=32))
    assert [tuple(image.shape) for image, _ in dataset] == [(3, 32, 32)] * 6


def test_each_sample_knows_its_pair(data):
    dataset = dataset_of(data, cutting=Grid(SIZES, (20, 20)))
    # 40 x 40 are four tiles, and 40 x 41 to 45 six.
    assert dataset.image_numbers == [0] * 4 + [1] * 6 + [2] * 6 + [3] * 6 + [4] * 6 + [5] * 6
    assert len(dataset) == 34
    assert [dataset.pair_of(index) for index in (0, 3, 4, 33)] == [dataset.pairs[number] for number in (0, 0, 1, 5)]
    whole = dataset_of(data)
    assert (len(whole), whole.image_numbers) == (6, list(range(6)))
    assert [whole.pair_of(index) for index in range(6)] == whole.pairs


def test_the_tiles_of_an_image_are_the_image(data):
    dataset = dataset_of(data, cutting=Grid(SIZES, (20, 20)))
    image, mask = pixels(data / "images" / "cell0.png"), pixels(data / "masks" / "cell0.png") > 0
    for index, (top, left) in enumerate([(0, 0), (0, 20), (20, 0), (20, 20)]):
        tile, own = dataset[index]
        assert (tile.permute(1, 2, 0).numpy() == image[top : top + 20, left : left + 20]).all()
        assert (own.numpy() == mask[top : top + 20, left : left + 20]).all()
    total = np.zeros((6, 2), int)
    for index, number in enumerate(dataset.image_numbers):
        total[number] += np.bincount(dataset[index][1].flatten(), minlength=256)[:2]
    assert (total == card_of(data).contents).all()


@pytest.mark.parametrize("cache_bytes", [0, 3 * 40 * 45 * 4, None], ids=["none", "some", "all"])
def test_crops_are_the_same_with_any_number_of_threads_and_whatever_is_kept(data, cache_bytes):
    expected = dataset_of(data, cutting=crops())
    dataset = dataset_of(data, cache_bytes, crops())
    order = list(epoch_order(len(dataset), seed=0, epoch=3))
    batches = list(dataset.batches(order, 5, workers=4, epoch=3))
    assert [index for batch in batches for index in batch.indices] == order
    samples = [expected.sample(index, epoch=3) for index in order]
    assert torch.equal(torch.cat([batch.image for batch in batches]), torch.stack([image for image, *_ in samples]))
    assert torch.equal(torch.cat([batch.mask for batch in batches]), torch.stack([mask for _, mask, _ in samples]))
    assert not torch.equal(batches[0].image[0], expected[order[0]][0])  # of another epoch


def test_images_of_different_sizes_are_kept_as_long_as_their_bytes_fit(data, monkeypatch):
    read = []
    monkeypatch.setattr(
        "unet_cli.data.samples.dataset.read_image",
        lambda source, alpha: read.append(source) or read_image(source, alpha),
    )
    for budget, again in ((40 * (40 + 41) * 4, 4), (40 * (40 + 41) * 4 - 1, 5), (10**6, 0)):
        dataset = dataset_of(data, budget, Grid(SIZES, (64, 64)))
        list(dataset)
        read.clear()
        list(dataset)
        assert len(read) == again


def test_what_is_kept_never_goes_beyond_the_budget_with_many_threads(data):
    dataset = dataset_of(data, 3 * 40 * 45 * 4, crops())
    list(prefetch(dataset.sample, [*range(len(dataset))] * 5, workers=8))
    kept = sum(held.nbytes for held in dataset._cache.cached.values())
    assert 0 < kept <= 3 * 40 * 45 * 4
    assert dataset._cache.bytes_left == 3 * 40 * 45 * 4 - kept


def test_gray_stored_as_colour_takes_the_memory_of_gray(data, monkeypatch):
    for path in (data / "images").iterdir():
        Image.open(path).convert("L").convert("RGB").save(path)
    colour = []

    def read(source, keep_alpha):
        pixels = read_image(source, keep_alpha).copy()
        colour.append(weakref.ref(pixels))
        return pixels

    monkeypatch.setattr("unet_cli.data.samples.dataset.read_image", read)
    dataset = dataset_of(data, cutting=Grid(SIZES, (64, 64)))
    list(dataset)
    assert len(dataset._cache.cached) == 6
    assert [found() for found in colour] == [None] * 6


@pytest.mark.parametrize("intensity", ["image", "percentile"])
def test_crops_come_with_the_intensities_of_their_whole_image(data, intensity):
    dataset = dataset_of(data, cutting=crops(), intensity=intensity)
    batch = next(dataset.batches(range(len(dataset)), 9))
    assert batch.intensities.shape == (9, 4)
    for index, found in zip(batch.indices, batch.intensities, strict=True):
        own = read_image(dataset.pair_of(index).image)
        assert torch.equal(found, whole_intensities(own, dataset.preprocessing))
    assert dataset_of(data, cutting=crops()).sample(0)[2] is None  # by those of the data set


@pytest.mark.parametrize("part", ["images", "masks"])
def test_a_file_of_another_size_than_before_is_named(data, part):
    dataset = dataset_of(data, cutting=crops())
    path = data / part / "cell4.png"
    Image.open(path).resize((50, 30), Image.Resampling.NEAREST).save(path)
    with pytest.raises(UserError, match=rf"{part}.cell4.png is 50x30, but was 44x40 before training: restart it"):
        list(dataset.batches(range(len(dataset)), batch_size=2))


@pytest.mark.parametrize("taken", [1, 3])
def test_closing_batches_ends_their_threads(data, taken):
    before = set(threading.enumerate())
    batches = dataset_of(data, cutting=crops()).batches(range(30), 2, workers=3)
    for _ in range(taken):
        next(batches)
    batches.close()
    assert set(threading.enumerate()) <= before


def test_batches_leave_the_callers_torch_its_threads(data):
    dataset, threads, found = dataset_of(data), torch.get_num_threads(), []

    def use() -> None:  # in a thread that has not used torch before
        list(dataset.batches(range(6), 2))
        found.append(torch.get_num_threads())

    torch.set_num_threads(3)
    try:
        caller = threading.Thread(target=use)
        caller.start()
        caller.join()
    finally:
        torch.set_num_threads(threads)
    assert found == [3]


def test_all_of_a_batch_is_pinned_where_that_is_asked_for(data, monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor.shape) or tensor)
    dataset = dataset_of(data, cutting=crops(), intensity="image")
    list(dataset.batches(range(2), 2))
    assert not pinned
    list(dataset.batches(range(2), 2, pin=True))
    assert pinned == [(2, 3, 16, 16), (2, 16, 16), (2, 4)]


def test_a_data_set_may_be_empty(data):
    card = card_of(data)
    nothing = SegmentationDataset(
        [], preprocessing_of(card, card.pairs("train"), size=32), card.labels, Grid([], (8, 8))
    )
    assert len(nothing) == 0
    assert list(nothing.batches([], 4)) == []


def test_order_is_a_function_of_seed_and_epoch():
    assert epoch_order(50, seed=1, epoch=2) == epoch_order(50, seed=1, epoch=2)
    assert epoch_order(50, seed=1, epoch=2) != epoch_order(50, seed=1, epoch=3)
    assert sorted(epoch_order(50, seed=1, epoch=2)) == list(np.arange(50))


def test_a_pass_in_parts_shows_each_sample_once():
    parts = [epoch_order(50, seed=1, epoch=epoch, parts=4) for epoch in (5, 6, 7, 8)]
    assert sum(parts, ()) == epoch_order(50, seed=1, epoch=2)
    assert [len(part) for part in parts] == [12, 13, 12, 13]
    assert [len(epoch_order(3, seed=1, epoch=epoch, parts=8)) for epoch in range(1, 7)] == [1] * 6


@pytest.fixture
def squares(tmp_path):
    """Three images of 16 numbered squares of 16 x 16 pixels that touch."""
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    for index in range(3):
        rows, columns = np.mgrid[:64, :64] // 16
        numbers = (1000 + 17 * (16 * index + 4 * rows + columns)).astype(np.uint16)
        numbers[:4] = 0
        Image.fromarray(numbers).save(tmp_path / "masks" / f"{index}.png")
        Image.fromarray(np.full((64, 64, 3), 10 * index, np.uint8)).save(tmp_path / "images" / f"{index}.png")
    return card_of(tmp_path)


@pytest.mark.parametrize("mode", ["stretched", "crops", "tiles"])
def test_numbers_of_objects_stay_beside_the_classes(squares, mode):
    pairs = squares.pairs("train")
    sizes = squares.sizes(pairs)
    cutting = {"stretched": None, "crops": Crops(sizes, (64, 64), 0.5, 0), "tiles": Grid(sizes, (64, 64))}[mode]
    side = 32 if mode == "stretched" else 64
    preprocessing = preprocessing_of(squares, pairs, side)
    plain, both = (
        SegmentationDataset(pairs, preprocessing, squares.labels, cutting, with_numbers=wanted)[0][1]
        for wanted in (False, True)
    )
    assert plain.dtype == torch.uint8
    assert torch.equal(both % CLASSES, plain)
    assert label(plain)[1] == 1
    assert label(parted(both[None])[0])[1] == 16


def test_objects_are_still_parted_after_the_papers_deformation(squares):
    pairs = squares.pairs("train")
    data = SegmentationDataset(pairs, preprocessing_of(squares, pairs, 64), squares.labels, with_numbers=True)
    image, mask = (torch.stack(parts) for parts in zip(*(data[index] for index in range(3)), strict=True))
    for epoch in range(4):
        keys = [(0, epoch, index) for index in range(3)]
        _, warped = augment(image.float(), mask, AUGMENTATIONS["paper"], keys)
        for one, classes in zip(warped, parted(warped), strict=True):
            numbers = one // CLASSES
            there = [number for number in numbers.unique().tolist() if number and (numbers == number).sum() > 60]
            found, _ = label(classes)
            centres = [np.unique(found[(numbers == number).numpy() & (found > 0)]) for number in there]
            assert len({int(each[0]) for each in centres}) == len(there)
            assert (classes[numbers == 0] == 0).all()


def test_two_cuts_of_the_same_pairs_share_what_was_read(data, monkeypatch):
    dataset = dataset_of(data, cutting=Crops(SIZES, (16, 16), 0.0, seed=0, stretched=32))
    other = dataset.cut_apart(Crops(SIZES, (32, 32), 0.0, seed=0, stretched=32))
    list(dataset)
    monkeypatch.setattr("unet_cli.data.samples.dataset.read_image", None)
    assert [tuple(image.shape) for image, _ in other] == [(3, 32, 32)] * 6
    assert (dataset.sides, other.sides) == ((16, 16), (32, 32))
