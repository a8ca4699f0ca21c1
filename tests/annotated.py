"""Images with one object each, whose outline tests write in the formats of annotation tools."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from conftest import TINY, Run
from PIL import Image

from unet_cli.config.data import DataConfig
from unet_cli.data.check.card import Card
from unet_cli.data.check.examine import examine
from unet_cli.data.folder.layout import Layout, layout_of
from unet_cli.data.maskfile import MaskPixels, read_mask
from unet_cli.system.console import Console

SIDE = 40
SQUARE = [[1, 1], [3, 1], [3, 3], [1, 3]]
COUNT = 6


def corners(number: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the object of a drawn image."""
    return 4 + number, 6, 20 + number, 26


def write_images(folder: Path, count: int = COUNT, extension: str = ".png") -> list[Path]:
    """Noise, and a bright rectangle; SIDE x SIDE, and a column more for each."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(count):
        image = np.random.default_rng(number).integers(0, 60, (SIDE, SIDE + number, 3)).astype(np.uint8)
        left, top, right, bottom = corners(number)
        image[top:bottom, left:right] += 150
        paths.append(folder / f"cell{number}{extension}")
        Image.fromarray(image).save(paths[-1])
    return paths


def outline(number: int) -> list[list[float]]:
    left, top, right, bottom = corners(number)
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def mask_of(layout: Layout, name: str, split: str = "train") -> MaskPixels:
    """As it is read once the image's size is known."""
    [pair] = [pair for pair in layout.splits[split] if pair.name == name]
    with Image.open(pair.image.path) as image:
        return read_mask(replace(pair.mask, size=(image.height, image.width)))


def card_of(data: Path, **settings: Any) -> Card:
    config = DataConfig(data=data, **settings)
    return examine(layout_of(config), config, Console(quiet=True))


def learns(unet: Run, data: Path, names: list[str]) -> None:
    """check, train, evaluate and predict with nothing but the folder."""
    done = unet("check", "--data", data, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [one["name"] for one in json.loads(done.stdout)["classes"]] == ["background", *names]
    done = unet("train", "--data", data, *TINY, "--epochs", 1, "--output", data.parent, "--name", "run")
    assert done.returncode == 0, done.stderr
    weights = data.parent / "run" / "best.pth"
    other = data.parent / "other"
    data.rename(other)
    for path in other.rglob("*.png"):  # others than it was trained on
        with Image.open(path) as image:
            Image.fromarray(255 - np.asarray(image)).save(path)
    done = unet("evaluate", "--weights", weights, "--data", other, "--json")
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)["classes"]) >= {*names} if len(names) > 1 else True
    done = unet("predict", "--weights", weights, "--input", other, "--output", data.parent / "masks", "--json")
    assert done.returncode == 0, done.stderr
    assert len([*(data.parent / "masks").rglob("*.png")]) == len([*other.rglob("*.png")])
