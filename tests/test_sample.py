"""The sample data set: a function of its seed, and the committed one is what the code draws."""

from pathlib import Path

import numpy as np
from conftest import Run, assert_failed, pixels
from PIL import Image

from unet_cli.data.synthetic import draw_pair, write_sample

COMMITTED = Path(__file__).parents[1] / "data"


def test_committed_data_is_what_the_default_seed_draws(tmp_path: Path):
    write_sample(tmp_path)
    drawn = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.*"))
    assert drawn == sorted(path.relative_to(COMMITTED) for path in COMMITTED.rglob("*.*"))
    assert len(drawn) == 2 * 32
    for name in drawn:
        # Mathematics libraries may round differently, and so may JPEG's.
        difference = np.abs(pixels(COMMITTED / name).astype(float) - pixels(tmp_path / name))
        assert difference.mean() < (0.5 if name.suffix == ".jpg" else 0.02), name


def test_committed_data_is_small():
    assert sum(path.stat().st_size for path in COMMITTED.rglob("*") if path.is_file()) < 3_000_000


def test_another_seed_draws_other_cells(tmp_path: Path):
    write_sample(tmp_path / "a", count=2, seed=5)
    write_sample(tmp_path / "b", count=2, seed=5)
    write_sample(tmp_path / "c", count=2, seed=6)
    name = "masks/cells_01.png"
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert (tmp_path / "a" / name).read_bytes() != (tmp_path / "c" / name).read_bytes()


def test_images_differ_in_size_and_hold_cells_and_background():
    pairs = [draw_pair(seed=3, index=index) for index in range(4)]
    assert len({image.shape for image, _ in pairs}) == 4
    for image, mask in pairs:
        assert image.shape[:2] == mask.shape
        assert all(200 <= side <= 400 for side in mask.shape)
        assert set(np.unique(mask)) == {0, 255}
        assert 0.05 < (mask > 0).mean() < 0.6


def test_nothing_is_written_over(tmp_path: Path, unet: Run):
    (tmp_path / "cells" / "images").mkdir(parents=True)
    Image.new("L", (4, 4)).save(tmp_path / "cells" / "images" / "mine.png")
    assert_failed(unet("sample", "cells"), 1, "exists already")
    assert [path.name for path in (tmp_path / "cells").rglob("*.png")] == ["mine.png"]
