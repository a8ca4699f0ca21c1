"""Networks for images on series of DICOM: each file is an image, and neighbouring slices stay on one side."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_extras import dicom_file
from test_volumes_by_command import write_series
from volumes import drawn_volume

from unet_cli.config.training import TrainConfig
from unet_cli.data.folder.layout import layout_of
from unet_cli.data.samples.blocks import are_few_stacks, hold_out_fold, hold_out_pages
from unet_cli.data.samples.split import group_names
from unet_cli.data.source import Pair, Source
from unet_cli.runs.prepare import examine_for_training
from unet_cli.system.console import Console

pytest.importorskip("pydicom", reason="pip install pydicom, the extra medical")
DEPTH = 12  # slices of a series


def write_cases(root: Path, count: int) -> Path:
    """A folder for each series, with masks of the same names in PNG; the names are in another order than the slices."""
    for index in range(count):
        image, mask = drawn_volume(index)
        write_series(root / "images" / f"case{index}", image, SeriesInstanceUID=f"1.2.{index}")
        (root / "masks" / f"case{index}").mkdir(parents=True)
        for place in range(DEPTH):
            name = f"IM{(7 * place + 3) % 100:03}.png"
            Image.fromarray(mask[place]).save(root / "masks" / f"case{index}" / name)
    return root


def pairs_of(root: Path) -> list[Pair]:
    config = TrainConfig(data=root, model="unet", classes="background,1,2")
    return examine_for_training(config, layout_of(config), Console(quiet=True)).pairs("train")


def test_the_slices_of_a_series_are_one_group(tmp_path):
    pairs = pairs_of(write_cases(tmp_path / "set", 4))
    assert len(pairs) == 4 * DEPTH
    groups = group_names(pairs, None)
    assert len(set(groups)) == 4
    assert all(str(pair.image.path.parent) in group for pair, group in zip(pairs, groups, strict=True))
    assert not are_few_stacks(pairs)


def test_of_few_series_a_block_of_neighbouring_slices_is_held_out(tmp_path):
    pairs = pairs_of(write_cases(tmp_path / "set", 1))
    assert are_few_stacks(pairs)
    split = hold_out_pages(pairs, np.ones((DEPTH, 2)), 0.25)
    order = [f"case0/IM{(7 * place + 3) % 100:03}" for place in range(DEPTH)]
    assert {pair.name for pair in split.val} == set(order[-3:])
    assert [pair.name for pair in split.gap] == [order[-4]]
    assert split.how.startswith("pages 10 to 12 of case0, ")
    assert {pair.name for pair in hold_out_fold(pairs, 3, 1).val} == set(order[:4])


def test_radiographs_that_have_no_place_are_groups_of_their_own(tmp_path):
    pairs = []
    for number in range(3):
        path = tmp_path / f"{number}.dcm"
        dicom_file(path, np.zeros((8, 8)), SeriesInstanceUID="1.2.3")
        pairs.append(Pair(f"{number}", Source((path,)), Source((path,))))
    assert group_names(pairs, None) == ["0", "1", "2"]
    assert not are_few_stacks(pairs)
