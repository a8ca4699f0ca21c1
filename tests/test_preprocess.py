"""Channels, size and intensity: the same for training and prediction."""

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch

from unet_cli.config.data import Preprocessing
from unet_cli.data.preprocess import (
    MAX_MEASURED,
    measured_step,
    normalize,
    own_intensities,
    prepare,
    resize_image,
    resize_mask,
    to_channels,
    whole_intensities,
)
from unet_cli.errors import UserError

GRAY = np.arange(48, dtype=np.uint8).reshape(1, 6, 8)


def settings(
    in_channels: int = 1, dtype: Literal["uint8", "uint16", "float32"] = "uint8", size: int = 4
) -> Preprocessing:
    return Preprocessing(
        size=size, in_channels=in_channels, dtype=dtype, mean=(10.0,) * in_channels, std=(2.0,) * in_channels
    )


def test_gray_and_colour_are_converted_and_it_is_said():
    colour, note = to_channels(GRAY, 3)
    assert (colour == GRAY).all()
    assert colour.shape == (3, 6, 8)
    assert note == "gray was repeated to three channels"
    back, note = to_channels(colour, 1)
    assert (back == GRAY).all()
    assert note == "RGB with equal channels was read as gray"
    red = np.zeros((3, 1, 1), np.uint8)
    red[0] = 255
    assert to_channels(red, 1)[0].item() == 76  # 0.299 * 255
    assert to_channels(red, 3) == (red, None)


def test_other_numbers_of_channels_are_refused():
    with pytest.raises(UserError, match="has 2 channels, but the network was trained on 3"):
        to_channels(np.zeros((2, 4, 4), np.uint8), 3)


def test_another_depth_is_refused():
    with pytest.raises(UserError, match="holds 16-bit values, but the network was trained on 8-bit"):
        prepare(GRAY.astype(np.uint16), settings())


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_resizing_averages_what_a_pixel_covers(dtype):
    checkers = (np.indices((8, 8)).sum(0) % 2 * 200).astype(dtype)[None]
    small = resize_image(torch.from_numpy(checkers), (2, 2))
    assert small.dtype == torch.from_numpy(checkers).dtype
    assert (small.to(torch.int32) - 100).abs().max() <= 8  # without antialiasing it would be 0 or 200


def test_eight_and_sixteen_bits_are_resized_alike():
    values = np.random.default_rng(0).integers(0, 255, (3, 50, 37), np.uint8)
    small = resize_image(torch.from_numpy(values), (16, 64)).int()
    wide = resize_image(torch.from_numpy(values.astype(np.uint16)), (16, 64)).int()
    assert (small - wide).abs().max() <= 1


def test_masks_keep_their_values_when_resized():
    mask = torch.tensor([[0, 7], [3, 1]], dtype=torch.uint8)
    assert resize_mask(mask, (4, 4)).tolist() == [[0, 0, 7, 7], [0, 0, 7, 7], [3, 3, 1, 1], [3, 3, 1, 1]]


def test_an_image_can_be_normalised_by_itself():
    image = torch.tensor([[[[1, 3]]], [[[100, 100]]]], dtype=torch.uint8)
    own = replace(settings(), intensity="image")
    assert normalize(image, own).tolist() == [[[[-1.0, 1.0]]], [[[0.0, 0.0]]]]  # a constant image is zero
    together, alone = normalize(image, own)[:1], normalize(image[:1], own)
    assert torch.equal(together, alone)


def test_normalisation_subtracts_the_mean_and_divides_by_the_deviation():
    image = torch.tensor([[[[10, 14]]]], dtype=torch.uint16)
    assert normalize(image, settings(dtype="uint16")).tolist() == [[[[0.0, 2.0]]]]


def test_percentiles_take_no_notice_of_a_few_hot_pixels():
    image = torch.linspace(100, 200, 10_000).view(1, 1, 100, 100).round().to(torch.uint16)
    hot = image.clone()
    hot[0, 0, 0, :20] = 65_535
    own = replace(settings(dtype="uint16"), intensity="percentile")
    quiet, loud = normalize(image, own), normalize(hot, own)
    assert (quiet[..., 1:, :] - loud[..., 1:, :]).abs().max() < 0.05
    assert loud.max() < 2


def test_floating_point_images_of_any_scale_are_normalised_and_constant_ones_are_zero():
    image = torch.rand(1, 1, 20, 20) * 1e-6
    own = replace(settings(dtype="float32"), intensity="image")
    assert normalize(image, own).std() == pytest.approx(1, abs=0.01)
    assert normalize(torch.full((1, 1, 4, 4), 3.3), own).abs().max() < 0.1


def test_alpha_stays_the_last_channel():
    rgba = np.stack([GRAY[0], GRAY[0], GRAY[0], 255 - GRAY[0]])
    gray_and_alpha, _ = to_channels(rgba, 2, alpha=True)
    assert (gray_and_alpha == rgba[[0, 3]]).all()
    back, _ = to_channels(gray_and_alpha, 4, alpha=True)
    assert (back == rgba).all()


@pytest.mark.parametrize(
    ("channels", "side", "step"), [(1, 2048, 1), (1, 2049, 2), (1, 4096, 2), (3, 4096, 4), (3, 1, 1)]
)
def test_large_images_are_measured_at_every_nth_row_and_column(channels, side, step):
    assert measured_step(channels, side, side) == step
    assert channels * (side // step) ** 2 <= MAX_MEASURED


def test_the_intensities_of_a_whole_image_are_those_of_the_network_channels(monkeypatch):
    monkeypatch.setattr("unet_cli.data.preprocess.MAX_MEASURED", 3 * 50 * 40)
    colour = np.random.default_rng(0).integers(0, 255, (3, 100, 80), np.uint8)
    own = replace(settings(in_channels=1), intensity="image")
    gray = torch.from_numpy(to_channels(np.ascontiguousarray(colour[:, ::2, ::2]), 1)[0])
    assert torch.equal(whole_intensities(colour, own), own_intensities(gray[None].float(), own)[0])
    assert whole_intensities(colour, settings(in_channels=1)) is None
    with pytest.raises(UserError, match="holds 16-bit values"):
        whole_intensities(colour.astype(np.uint16), own)


def test_an_image_can_be_stretched_to_a_single_pixel():
    image = torch.tensor([[[0, 100], [100, 200]], [[7, 7], [7, 7]], [[255, 255], [255, 254]]], dtype=torch.uint8)
    assert resize_image(image, (1, 1)).flatten().tolist() == [100, 7, 255]
    assert resize_image(image, (1, 1)).dtype == torch.uint8


@pytest.mark.parametrize("intensity", ["dataset", "image", "percentile"])
def test_a_volume_is_normalised_as_its_slices_side_by_side_are(intensity):
    volume = np.random.default_rng(0).integers(0, 255, (2, 5, 6, 7), np.uint8)  # (C, D, H, W)
    rule = replace(settings(in_channels=2), intensity=intensity)
    flat = torch.from_numpy(volume.reshape(2, 30, 7))[None]
    found = normalize(torch.from_numpy(volume)[None], rule)
    assert torch.allclose(found.reshape(1, 2, 30, 7), normalize(flat, rule), atol=1e-6)
    own = own_intensities(torch.from_numpy(volume)[None].float(), rule)[0]
    assert intensity == "dataset" or torch.equal(whole_intensities(volume, rule), own)


def test_large_volumes_are_measured_at_every_nth_slice_row_and_column(monkeypatch):
    monkeypatch.setattr("unet_cli.data.preprocess.MAX_MEASURED", 2 * 5 * 6 * 7)
    assert (measured_step(2, 10, 12, 14), measured_step(2, 10, 12, 15), measured_step(2, 5, 6, 7)) == (2, 3, 1)
    volume = np.random.default_rng(0).normal(size=(2, 10, 12, 14)).astype(np.float32)
    own = replace(settings(in_channels=2, dtype="float32"), intensity="percentile")
    sample = torch.from_numpy(volume[:, ::2, ::2, ::2])[None]
    assert torch.equal(whole_intensities(volume, own), own_intensities(sample, own)[0])
