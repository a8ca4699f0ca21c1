"""Missing pixels of an image are background in its mask, whichever way it is predicted, as training ignores them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import TINY, Run, pixels
from test_geo import SCALE, TIES, write_geotiff
from test_views import PLAIN, predictor_of

from unet_cli.data.imagefile import one_band
from unet_cli.data.labels import LabelMap
from unet_cli.inference.missing import Missing
from unet_cli.inference.predictor import Predictor
from unet_cli.inference.views import Band, Stack, Stretched, Tiled

SIDES = (100, 130)


def of_measurements(mode: str) -> Predictor:
    """A predictor of images in floating point, whose probability is that of the pixel itself."""
    predictor = predictor_of([PLAIN], [64], mode=mode)
    for place, member in enumerate(predictor.members):
        predictor.members[place] = replace(member, preprocessing=replace(member.preprocessing, dtype="float32"))
    return predictor


def image_with_a_gap(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Bright everywhere, and missing in a corner and a line."""
    missing = np.zeros(SIDES, bool)
    missing[:30, 20:70] = missing[60] = True
    image = np.random.default_rng(seed).uniform(200, 255, (3, *SIDES)).astype(np.float32)
    image[1, missing] = np.nan  # in one channel alone
    return image, missing


@pytest.mark.parametrize("mode", ["resize", "tile"])
def test_missing_pixels_are_background(mode):
    predictor = of_measurements(mode)
    image, missing = image_with_a_gap()

    def picture(number: int = 0) -> Stretched | Tiled:
        found, _ = image_with_a_gap(number)
        return (
            Stretched(predictor.members, found) if mode == "resize" else Tiled(predictor.members, one_band(found), 0.25)
        )

    for whole, count in ((picture(), 1), (Stack(picture, 2, 1, 1), 2)):
        bands = list(predictor.bands(whole))
        found = np.concatenate([predictor.classes(predictor.finished(band)) for band in bands])
        assert np.array_equal(found == 0, np.concatenate([missing] * count))
    unknown = np.isnan(image).any(0)
    assert np.array_equal(unknown, missing)


def test_of_several_classes_missing_pixels_are_of_the_first():
    predictor = of_measurements("resize")
    predictor.labels = LabelMap((0, 1, 2), ("soil", "crop", "weed"), background=False)
    probs = torch.tensor([0.1, 0.2, 0.7])[:, None, None].repeat(1, 2, 3)
    found = predictor.finished(Band(0, (2, 3), [probs], np.array([[True, False, False]] * 2)))
    assert found[:, 0, 0].tolist() == [1, 0, 0]
    assert torch.equal(found[:, :, 1:], probs[:, :, 1:])
    assert predictor.calibrated(found).isfinite().all()
    assert predictor.classes(found).tolist() == [[0, 2, 2]] * 2


def test_slices_are_noted_as_they_are_read_and_forgotten_when_they_are_taken():
    volume = np.zeros((1, 4, 3, 2), np.float32)
    volume[0, 2, 1, 0] = np.nan
    missing = Missing()
    list(missing.noted(one_band(volume)).rows())
    assert missing.taken(0, (2, 3, 2)) is None
    assert missing.taken(1, (3, 3, 2)).nonzero() == (3 + 1, 0)
    assert missing.taken(0, (4, 3, 2)) is None


def test_missing_pixels_of_geotiffs_are_background_by_the_command_line(unet: Run, tmp_path):
    """The network has seen only foreground, and says so wherever it is asked."""
    (tmp_path / "data/images").mkdir(parents=True)
    (tmp_path / "data/masks").mkdir()
    tags = [SCALE, TIES, (42113, 2, 0, "-9999", True)]
    for number in range(4):
        image = np.random.default_rng(number).uniform(0, 1, (40, 50)).astype(np.float32)
        mask = np.ones(image.shape, np.uint8)
        mask[:2, :2] = 0
        image[10:20, 10:30] = -9999
        write_geotiff(tmp_path / f"data/images/{number}.tif", image, tags)
        write_geotiff(tmp_path / f"data/masks/{number}.tif", mask, [SCALE, TIES])
    done = unet("train", "--data", "data", *TINY, "--epochs", 4, "--lr", 0.05, "--output", ".", "--name", "run")
    assert done.returncode == 0, done.stderr
    for mode in ("resize", "tile"):
        call = ["predict", "--weights", "run", "--input", "data/images", "--output", mode, "--mode", mode]
        done = unet(*call, "--threshold", 0.01, "--probabilities")
        assert done.returncode == 0, done.stderr
        expected = np.ones((40, 50), np.uint8)
        expected[10:20, 10:30] = 0
        assert np.array_equal(pixels(tmp_path / mode / "1.tif"), expected)
        assert np.array_equal(pixels(tmp_path / mode / "1_probability.tif") > 0, expected > 0)
