"""Pictures through networks that hand on what they see: whatever their geometry, every pixel has to come back in its
place."""

import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from unet_cli.checkpoint import Checkpoint
from unet_cli.config.model import ModelConfig
from unet_cli.config.prediction import Inference
from unet_cli.data.imagefile import Bands
from unet_cli.data.labels import LabelMap
from unet_cli.data.preprocess import Preprocessing, whole_intensities
from unet_cli.errors import UserError
from unet_cli.inference.member import Member
from unet_cli.inference.predictor import Predictor
from unet_cli.inference.views import Band, Stack, Stretched, Tiled
from unet_cli.models import Fitted, Geometry, Network, build_model
from unet_cli.system.device import Compute

IMAGE = np.random.default_rng(0).integers(0, 255, (3, 100, 130), np.uint8)
NETWORK = ModelConfig(base_channels=1)
CHECKPOINT = Checkpoint(
    NETWORK,
    Preprocessing(size=512, in_channels=3, dtype="uint8", mean=(120.0,) * 3, std=(60.0,) * 3),
    LabelMap((0, 255), ("background", "foreground")),
    build_model(NETWORK).state_dict(),
)


class Through(Network):
    """Logits that are the first channel without the margin; refuses what its geometry doesn't allow."""

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        self.geometry = geometry

    def forward(self, image: Tensor) -> Tensor:
        along = [self.geometry.along(axis) for axis in range(image.ndim - 2)]
        assert all(axis.side(side) == side for axis, side in zip(along, image.shape[2:], strict=True)), image.shape
        return image[(slice(None), slice(1), *(slice(axis.margin, -axis.margin or None) for axis in along))]


PLAIN = Geometry(stride=4, reach=5)
STRICT = Geometry(multiple=16, least=32, stride=16, reach=None)
UNPADDED = Geometry(multiple=4, remainder=2, least=14, margin=5, stride=4, reach=0)


def predictor_of(geometries: list[Geometry], sizes: list[int], **settings: object) -> Predictor:
    predictor = Predictor([CHECKPOINT], Compute(torch.device("cpu"), "float32"), Inference(**settings))
    in_tiles = settings.get("mode") == "tile"
    predictor.members = [
        Member(
            CHECKPOINT,
            replace(CHECKPOINT.preprocessing, size=size),
            geometry,
            Fitted(Through(geometry), geometry.margin if in_tiles else 0),
        )
        for geometry, size in zip(geometries, sizes, strict=True)
    ]
    return predictor


def seen(predictor: Predictor, picture: Stretched | Tiled) -> np.ndarray:
    bands = list(predictor.bands(picture))
    tops = [band.top for band in bands]
    assert tops == np.cumsum([0, *(band.size[0] for band in bands[:-1])]).tolist()
    return torch.cat([band.combined() for band in bands], 1)[0].numpy()


def expected(image: np.ndarray) -> np.ndarray:
    mean, std = CHECKPOINT.preprocessing.mean[0], CHECKPOINT.preprocessing.std[0]
    return 1 / (1 + np.exp(-(image[0].astype(float) - mean) / std))


@pytest.mark.parametrize(
    "geometries", [[PLAIN], [STRICT], [UNPADDED], [PLAIN, UNPADDED], [UNPADDED, STRICT, PLAIN]], ids=str
)
@pytest.mark.parametrize("overlap", [0.0, 0.5])
@pytest.mark.parametrize(("height", "width"), [(100, 130), (1, 1), (3, 90), (32, 31)])
def test_in_tiles_every_pixel_comes_back_in_its_place(geometries, overlap, height, width):
    sizes = [32 + 3 * number for number in range(len(geometries))]
    predictor = predictor_of(geometries, sizes, mode="tile", overlap=overlap)
    image = IMAGE[:, :height, :width].copy()
    assert np.allclose(seen(predictor, predictor.picture(image, ())), expected(image), atol=1e-5)


@pytest.mark.parametrize("geometry", [PLAIN, STRICT, UNPADDED], ids=str)
def test_stretched_every_pixel_comes_back_in_its_place(geometry):
    predictor = predictor_of([geometry], [31])
    image = IMAGE[:, :31, :31].copy()  # of the network's size: nothing is resampled
    assert np.allclose(seen(predictor, predictor.picture(image, ())), expected(image), atol=1e-5)


class Mean(Through):
    """Logits that are the mean of the first channel over all pixels that a valid convolution sees."""

    def forward(self, image: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(image[:, :1], 2 * self.geometry.margin + 1, stride=1)


@pytest.mark.parametrize("rows_at_once", [7, 100])
def test_tiles_of_an_unpadded_network_see_the_rows_of_its_margin(rows_at_once):
    def read(top):
        for start in range(top // rows_at_once * rows_at_once, 100, rows_at_once):
            yield start, IMAGE[:, start : start + rows_at_once]

    predictor = predictor_of([UNPADDED], [32], mode="tile", overlap=0.0)
    predictor.members = [replace(predictor.members[0], model=Fitted(Mean(UNPADDED), UNPADDED.margin))]
    picture = Tiled(predictor.members, Bands(3, (100, 130), np.dtype("uint8"), (), read), 0.0)
    margin = UNPADDED.margin
    wide = np.pad(IMAGE[0].astype(float), margin, mode="reflect")
    means = np.lib.stride_tricks.sliding_window_view(wide, (2 * margin + 1,) * 2).mean((2, 3))
    assert np.allclose(seen(predictor, picture), expected(means[None]), atol=1e-5)


def test_the_largest_of_several_sizes_rules():
    picture = Tiled(
        predictor_of([PLAIN, PLAIN], [32, 64]).members, Bands(3, (64, 64), np.dtype("uint8"), (), iter), 0.0
    )
    assert picture.view_count == 1


@pytest.mark.parametrize("rows_at_once", [1, 7, 64])
def test_rows_are_read_once_from_top_to_bottom_and_not_kept(rows_at_once):
    taken = []

    def read(top):
        for start in range(top // rows_at_once * rows_at_once, 100, rows_at_once):
            taken.append(start)
            yield start, IMAGE[:, start : start + rows_at_once]

    bands = Bands(3, (100, 130), np.dtype("uint8"), (), read)
    predictor = predictor_of([PLAIN], [32], mode="tile")
    held = []
    picture = Tiled(predictor.members, bands, 0.25)
    rows = picture._layers
    picture._layers = lambda first: (held.append(part[1].shape[1]) or part for part in rows(first))
    assert np.allclose(seen(predictor, picture), expected(IMAGE), atol=1e-5)
    assert taken == list(range(0, 100, rows_at_once))
    assert max(held) <= 32 + 2 * rows_at_once + 16


@pytest.mark.parametrize("top", [0, 1, 40, 77, 99])
def test_views_from_a_row_on_are_enough_for_the_rows_from_there(top):
    predictor = predictor_of([PLAIN], [32], mode="tile", overlap=0.5)
    picture = predictor.picture(IMAGE, ())
    views = list(picture.views(top))
    bands = [picture.add(view, predictor.probabilities([view])[0]) for view in views]
    rows = {band.top + row: band.combined()[0, row] for band in bands if band for row in range(band.size[0])}
    assert all(np.allclose(rows[row], expected(IMAGE)[row], atol=1e-5) for row in range(top, 100))
    assert (len(views) < picture.view_count) == (top > 30)


@pytest.mark.parametrize("intensity", ["image", "percentile"])
@pytest.mark.parametrize("rows_at_once", [1, 7, 100])
def test_the_intensities_of_an_image_are_those_that_training_on_crops_takes(monkeypatch, intensity, rows_at_once):
    monkeypatch.setattr("unet_cli.data.preprocess.MAX_MEASURED", 3 * 1000)  # every 4th row and column

    def read(top):
        assert top == 0
        for start in range(0, 100, rows_at_once):
            yield start, IMAGE[:, start : start + rows_at_once]

    predictor = predictor_of([PLAIN, PLAIN], [32, 32], mode="tile")
    other = predictor.members[1]
    own = replace(other, preprocessing=replace(other.preprocessing, intensity=intensity))
    picture = Tiled([own, other], Bands(3, (100, 130), np.dtype("uint8"), (), read), 0.25)
    found, nothing = picture._intensities()
    assert torch.equal(found, whole_intensities(IMAGE, own.preprocessing))
    assert found[2] == pytest.approx(IMAGE[:, ::4, ::4].mean(), rel=0.01)
    assert nothing is None


def test_rows_without_probabilities_never_become_a_mask():
    probs = torch.full((1, 2, 2), 0.3)
    assert torch.equal(Band(0, (2, 2), [probs]).finished(), probs)
    probs[0, 1, 1] = torch.nan
    with pytest.raises(UserError, match="not finite"):
        Band(0, (2, 2), [probs]).finished()


@pytest.mark.parametrize("top", [0, 40, 99, 100, 257])
def test_pages_of_a_stack_lie_one_below_the_other_and_few_are_held(top):
    predictor = predictor_of([PLAIN], [32], mode="tile", overlap=0.5)
    pages = [np.roll(IMAGE, 11 * page, axis=2) for page in range(20)]
    opened = weakref.WeakSet()
    most = 0

    def read(page: int) -> Tiled:
        picture = predictor.picture(pages[page], (f"note {page}",))
        opened.add(picture)
        return picture

    stack = Stack(read, 20, workers=1, ahead_of=1)
    assert (stack.size, stack.views_are) == ((2000, 130), "tile")
    found = np.full(stack.size, np.nan, np.float32)
    numbers = []
    for view in stack.views(top):
        numbers.append(view.number)
        band = stack.add(view, predictor.probabilities([view])[0])
        most = max(most, len(opened))
        if band:
            assert band.top // 100 == (band.top + band.size[0] - 1) // 100  # within a page
            found[band.top : band.top + band.size[0]] = band.combined()[0]
    assert np.allclose(found[top:], np.concatenate([expected(page) for page in pages])[top:], atol=1e-5)
    assert numbers == list(range(numbers[0], stack.view_count + 1))
    assert most <= 5
    assert stack.notes == {f"note {page}" for page in range(top // 100, 20)}
