"""One command and no flags: every kind of data set that people bring is understood, and masks come back in its values.

Each row writes the same few cells in another way. What the dataset hands to training has to be the same for all.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tifffile
from conftest import TINY, assert_failed, drawn, json_lines
from conftest import pixels as pixels_of
from PIL import Image

from unet_cli.config.data import DataConfig
from unet_cli.data.check.examine import examine
from unet_cli.data.check.normalization import preprocessing_of
from unet_cli.data.folder.layout import find_layout
from unet_cli.data.samples.dataset import SegmentationDataset
from unet_cli.system.console import Console

COUNT, SIDE = 5, 48


def cells() -> list[tuple[np.ndarray, np.ndarray]]:
    """Gray (SIDE, SIDE) uint8 images and bool masks."""
    result = []
    for index in range(COUNT):
        image, mask = drawn(seed=3, index=index)
        top, left = (int(place[0]) for place in np.nonzero(mask[:-SIDE, :-SIDE]))
        image, mask = image[top : top + SIDE, left : left + SIDE, 1], mask[top : top + SIDE, left : left + SIDE]
        result.append((image, mask > 0))
    return result


def save(path: Path, pixels: np.ndarray, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def write(root: Path, image: str, mask: str, draw_image=lambda i: i, draw_mask=lambda m: m * np.uint8(255), **options):
    for index, (pixels, cell) in enumerate(cells()):
        save(root / image.format(index, index=index), draw_image(pixels))
        save(root / mask.format(index, index=index), draw_mask(cell), **options)


def as_colours(cell: np.ndarray) -> np.ndarray:
    return np.where(cell[..., None], np.uint8([0, 200, 30]), np.uint8([40, 0, 90])).astype(np.uint8)


def gif(root: Path) -> None:
    for index, (image, cell) in enumerate(cells()):
        save(root / f"images/{index}.png", image)
        mask = Image.fromarray(cell.astype(np.uint8))
        mask.putpalette([0, 0, 0, 1, 1, 1])
        (root / "masks").mkdir(exist_ok=True)
        mask.save(root / f"masks/{index}.gif")


def palette(root: Path) -> None:
    for index, (image, cell) in enumerate(cells()):
        save(root / f"images/{index}.png", image)
        mask = Image.fromarray(cell.astype(np.uint8))
        mask.putpalette([10, 20, 30, 240, 30, 30])
        (root / "masks").mkdir(exist_ok=True)
        mask.save(root / f"masks/{index}.png")


def stacks(root: Path) -> None:
    root.mkdir()
    images, masks = (np.stack(part) for part in zip(*cells(), strict=True))
    tifffile.imwrite(root / "train-volume.tif", images)
    tifffile.imwrite(root / "train-labels.tif", masks * np.uint8(255), compression="zlib")


def one_folder_a_sample(root: Path) -> None:
    """A file for each object: here, for each of the four quarters of the mask."""
    for index, (image, cell) in enumerate(cells()):
        save(root / f"sample{index}/images/sample{index}.png", image)
        for quarter in range(4):
            part = np.zeros_like(cell)
            rows, columns = (slice(SIDE // 2 * half, SIDE // 2 * (half + 1)) for half in divmod(quarter, 2))
            part[rows, columns] = cell[rows, columns]
            save(root / f"sample{index}/masks/{index}{quarter}ab.png", part * np.uint8(255))


def channels_in_files(root: Path) -> None:
    for index, (image, cell) in enumerate(cells()):
        for channel in range(2):
            save(root / f"imagesTr/case{index}_{channel:04d}.png", image if channel == 0 else 255 - image)
        save(root / f"labelsTr/case{index}.png", cell.astype(np.uint8))


def numpy_files(root: Path) -> None:
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    for index, (image, cell) in enumerate(cells()):
        np.save(root / f"images/{index}.npy", image.astype(np.float32) / 255 - 0.5)
        np.savez(root / f"masks/{index}.npz", mask=cell)


def numbered_objects(root: Path) -> None:
    for index, (image, cell) in enumerate(cells()):
        save(root / f"images/{index}.png", image)
        stripes = 1 + np.arange(SIDE)[None] * (10 + 3 * index) // SIDE
        objects = np.where(cell, np.broadcast_to(stripes, cell.shape), 0)
        found, objects = np.unique(objects, return_inverse=True)
        save(root / f"masks/{index}.png", objects.reshape(cell.shape).astype(np.uint16))


@dataclass(frozen=True)
class Row:
    """A way to write the cells, how its masks are read, and where training has other pixels than the drawn ones."""

    write: Callable[[Path], None]
    kind: str = "values"
    values: tuple[int, ...] = (0, 255)
    agreement: float = 1.0


ROWS = {
    "suffixes on both sides": Row(lambda r: write(r, "images/c{}_image.png", "masks/c{}_annotation.png")),
    "one folder, told apart by a suffix": Row(lambda r: write(r, "{}_sat.png", "{}_mask.png")),
    "numbers padded differently": Row(lambda r: write(r, "images/{}.tif", "masks/labels{:08d}.png")),
    "masks of 0 and 1": Row(
        lambda r: write(r, "images/{}.png", "masks/{}.png", draw_mask=lambda m: m.astype(np.uint8)), values=(0, 1)
    ),
    "one bit": Row(lambda r: write(r, "images/{}.png", "masks/{}.png", draw_mask=lambda m: m)),
    "GIF with a palette of 0 and 1": Row(gif, values=(0, 1)),
    "a palette": Row(palette, values=(0, 1)),
    "JPEG masks": Row(lambda r: write(r, "images/{}.png", "masks/{}.jpg", quality=80), kind="soft", agreement=0.98),
    "RGB colours": Row(
        lambda r: write(r, "images/{}.png", "masks/{}.png", draw_mask=as_colours), "colours", (0x28005A, 0x00C81E)
    ),
    "16 bits of which little is used": Row(
        lambda r: write(
            r,
            "images/{}.png",
            "masks/{}.png",
            draw_image=lambda i: (33_000 + i.astype(float) * 4000 / 255).astype(np.uint16),
        )
    ),
    "RGBA": Row(
        lambda r: write(
            r, "images/{}.png", "masks/{}.png", draw_image=lambda i: np.dstack([i, i, i, np.full_like(i, 255)])
        )
    ),
    "one folder a sample, one file an object": Row(one_folder_a_sample),
    "channels in files of their own": Row(channels_in_files, values=(0, 1)),
    "two stacks of pages": Row(stacks),
    "numpy": Row(numpy_files, values=(0, 1)),
    "numbered objects": Row(numbered_objects, kind="instances"),
}


def same_class(found: np.ndarray, cell: np.ndarray) -> float:
    return float((found == cell).mean())


@pytest.mark.parametrize("name", ROWS)
def test_every_kind_of_data_set_is_understood_without_a_flag(tmp_path, name):
    row, root = ROWS[name], tmp_path / "data"
    row.write(root)
    card = examine(find_layout(root), DataConfig(data=root), Console(quiet=True))
    card.refuse()
    assert (card.labels.kind, card.labels.num_classes) == (row.kind, 2)
    if row.kind != "soft":
        # Of two colours, the more frequent one is the background.
        assert sorted(card.labels.values) == sorted(row.values)
    pairs = card.pairs("train")
    assert len(pairs) == COUNT
    dataset = SegmentationDataset(pairs, preprocessing_of(card, pairs, size=SIDE), card.labels)
    swapped = row.kind == "colours" and card.labels.values != row.values
    for (image, mask), (pixels, cell) in zip(dataset, cells(), strict=True):
        assert same_class(mask.numpy() == (0 if swapped else 1), cell) >= row.agreement
        brightness = image[0].numpy().astype(float).ravel()
        assert np.corrcoef(brightness, pixels.ravel())[0, 1] > 0.999


@pytest.mark.parametrize("name", ["RGB colours", "two stacks of pages", "channels in files of their own", "a palette"])
def test_training_and_prediction_from_disk_to_disk(unet, tmp_path, name):
    row, root = ROWS[name], tmp_path / "data"
    row.write(root)
    done = unet("train", "--data", "data", *TINY, "--epochs", 1, "--name", "run", "--json")
    assert done.returncode == 0, done.stderr
    next_command = json_lines(done.stdout)[0]["next"].split()
    assert next_command[:2] == ["unet", "predict"]
    predicted = unet(*next_command[1:], "--output", "out")
    assert predicted.returncode == 0, predicted.stderr
    masks = [pixels_of(path) for path in sorted((tmp_path / "out").rglob("*.png"))]
    assert len(masks) == COUNT
    for mask in masks:
        values = mask.astype(int) @ (1 << 16, 1 << 8, 1) if mask.ndim == 3 else mask
        assert set(np.unique(values)) <= set(row.values)


def test_classes_with_an_ignored_value_and_names(unet, tmp_path):
    for index, (image, cell) in enumerate(cells()):
        mask = cell.astype(np.uint8) * (1 + np.arange(SIDE) * 3 // SIDE).astype(np.uint8)
        mask[:4] = 11
        save(tmp_path / f"data/images/{index}.png", image)
        save(tmp_path / f"data/masks/{index}.png", mask)
    flags = ("--data", "data", "--ignore-index", 11, "--classes", "soil,weed,crop,tree")
    done = unet("check", *flags, "--json")
    assert done.returncode == 0, done.stderr
    card = json.loads(done.stdout)
    assert card["ignored_value"] == 11
    assert [(one["name"], one["value"]) for one in card["classes"]] == [
        ("soil", 0), ("weed", 1), ("crop", 2), ("tree", 3),
    ]  # fmt: skip
    assert sum(one["pixels"] for one in card["classes"]) == COUNT * SIDE * (SIDE - 4)
    done = unet("train", *flags, *TINY, "--epochs", 1, "--name", "run")
    assert done.returncode == 0, done.stderr
    assert "Dice of soil" in done.stderr
    header = (tmp_path / "checkpoints/run/log.csv").read_text().splitlines()[0]
    assert "val_dice_weed" in header
    predicted = unet("predict", "--weights", "checkpoints/run", "--input", "data/images", "--output", "out")
    assert predicted.returncode == 0, predicted.stderr
    assert set(np.unique(pixels_of(tmp_path / "out/0.png"))) <= {0, 1, 2, 3}


def test_mixed_sizes_from_100_to_640(unet, tmp_path):
    for index, side in enumerate((100, 640, 333, 512, 204)):
        image, mask = drawn(seed=4, index=index)
        size = (side, 640 - side // 2)
        save(tmp_path / f"data/images/{index}.png", np.asarray(Image.fromarray(image).resize(size)))
        resized = Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)
        save(tmp_path / f"data/masks/{index}.png", np.asarray(resized))
    done = unet("train", "--data", "data", *TINY, "--epochs", 1)
    assert done.returncode == 0, done.stderr
    assert "5 sizes, sides of 100 to 640 pixels" in done.stderr


def test_masks_in_a_folder_that_is_named(unet, tmp_path):
    numbered_objects(tmp_path / "data")
    (tmp_path / "data/masks").rename(tmp_path / "data/labels16")
    write(tmp_path / "data", "images/{}.png", "masks/{}.png")
    usual = json.loads(unet("check", "--data", "data", "--json").stdout)
    assert usual["kind"] == "values"
    assert any("labels16" in note for note in usual["notes"])
    done = unet("check", "--data", "data", "--masks", "labels16", "--json")
    assert json.loads(done.stdout)["kind"] == "instances", done.stderr


def test_a_rule_given_by_hand(unet, tmp_path):
    write(tmp_path / "data", "photos/{}_x_shot.png", "truth/t{}.png")
    done = unet("check", "--data", "data", "--pair", "photos/{id}_x_shot.png=truth/t{id}.png", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["pairs"] == {"train": COUNT}


def test_orphans_are_listed_and_left_out_when_told(unet, tmp_path):
    write(tmp_path / "data", "images/{}.png", "masks/{}.png")
    (tmp_path / "data/masks/2.png").unlink()
    for command in ("check", "train"):
        done = unet(command, "--data", "data")
        assert done.returncode == 1
        assert "data/images/2.png" in done.stdout + done.stderr
        assert "--skip-bad" in done.stdout + done.stderr
    done = unet("train", "--data", "data", "--skip-bad", *TINY, "--epochs", 1)
    assert done.returncode == 0, done.stderr
    assert "data/images/2.png" in done.stderr


def test_the_depth_of_the_training_images_is_asked_of_others(unet, tmp_path):
    ROWS["16 bits of which little is used"].write(tmp_path / "data")
    done = unet("train", "--data", "data", *TINY, "--epochs", 1, "--name", "run")
    assert done.returncode == 0, done.stderr
    save(tmp_path / "other/a.png", cells()[0][0])
    done = unet("predict", "--weights", "checkpoints/run", "--input", "other")
    assert_failed(done, 3, "holds 8-bit values, but the network was trained on 16-bit ones")
