"""The volumes that `unet sample` draws: a function of their seed, with thick slices that their files tell."""

from pathlib import Path

import numpy as np
import pytest
from conftest import Run, assert_failed

from unet_cli.config.data import DataConfig
from unet_cli.data.check.card import Card
from unet_cli.data.check.examine import examine
from unet_cli.data.folder.layout import find_layout
from unet_cli.data.imagefile import read_image
from unet_cli.data.maskfile import read_mask
from unet_cli.data.source import Pair
from unet_cli.data.synthetic_volumes import OFFSET, draw_volume, write_volumes
from unet_cli.system.console import Console


def card_of(folder: Path) -> Card:
    return examine(find_layout(folder), DataConfig(data=folder), Console(quiet=True), as_volumes=True)


def read(pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    return read_image(pair.image)[0], read_mask(pair.mask).values


def test_a_volume_has_thick_slices_an_organ_in_a_body_and_lesions_within_it():
    drawn = [draw_volume(7, index) for index in range(4)]
    assert len({image.shape for image, _, _ in drawn}) > 1
    for image, mask, (depth, height, width) in drawn:
        assert (image.shape, image.dtype, mask.dtype) == (mask.shape, np.int16, np.uint8)
        assert depth > 2 * height == 2 * width
        assert 0.005 < (mask > 0).mean() < 0.2
        assert 80 < image[mask == 1].mean() < 140
        assert image[:, 0, 0].mean() < -900
    assert {2} <= set().union(*(np.unique(mask).tolist() for _, mask, _ in drawn))
    again = draw_volume(7, 1)
    assert all((one == two).all() for one, two in zip(drawn[1][:2], again[:2], strict=True))


@pytest.mark.parametrize(("form", "offset"), [("nii.gz", 0), ("tif", OFFSET)])
def test_files_hold_what_is_drawn_where_it_lies(tmp_path, form, offset):
    if form == "nii.gz":
        pytest.importorskip("nibabel", reason="pip install nibabel, the extra medical")
    write_volumes(tmp_path / "ct", 2, 3, form)
    card = card_of(tmp_path / "ct")
    assert card.refusals == []
    for index, pair in enumerate(card.pairs("train")):
        image, mask, spacing = draw_volume(3, index)
        found = read(pair)
        assert (found[0] == image + np.float32(offset)).all()
        assert (found[1] == mask).all()
        assert card.spacing([pair]) == pytest.approx(spacing, rel=1e-4)


def test_the_next_command_trains_a_network_for_volumes(unet: Run, tmp_path):
    done = unet("sample", "ct", "--volumes", "tif", "--count", 1)
    assert "1 pair written to ct/images and ct/masks" in done.stdout
    assert "unet train --data ct --model unet3d --max-time 3m" in done.stdout
    assert_failed(unet("sample", "ct", "--volumes", "tif"), 1, "exists already")
    assert_failed(unet("sample", "other", "--volumes", "dicom"), 2, "nii.gz")
