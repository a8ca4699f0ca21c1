"""The images on which an exported file is compared with our prediction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from unet_cli.config.data import DataConfig
from unet_cli.data.check.examine import examine
from unet_cli.data.folder.layout import Layout, layout_of, masks_among
from unet_cli.data.folder.walk import walk
from unet_cli.data.formats import count_pages
from unet_cli.data.imagefile import missing_pixels, read_stack
from unet_cli.data.preprocess import seen, with_channels
from unet_cli.data.samples.split import names_in
from unet_cli.data.source import Pair, Source, spread
from unet_cli.data.truth import read_classes
from unet_cli.errors import UserError
from unet_cli.export.graph import Graph
from unet_cli.run_folder import data_of
from unet_cli.system.console import Console

MAX_IMAGES = 20
DRAWN = (201, 263)  # sides of a drawn image
PAGE = "#"  # in the name of a pair, before the number of its page


@dataclass(frozen=True)
class Sample:
    """An image to compare on. pixels: (in_channels, H, W), NaN where they are missing. source: its file, None of a
    drawn one. target: class indices of its mask, None without one."""

    pixels: np.ndarray
    source: Source | None = None
    target: np.ndarray | None = None


@dataclass(frozen=True)
class Found:
    """pairs: images and their masks, if any. where: what they are, for people."""

    pairs: list[tuple[Source, Source | None]]
    where: str


def images_of_run(graph: Graph, weights: Path, workers: int | None) -> Found:
    """Up to MAX_IMAGES of the run's validation part. Raises UserError where they aren't at hand, with the reason."""
    split = weights.parent / "split.json"
    if not split.is_file():
        raise UserError(f"{weights} is in no folder of a run, which would know its validation images")
    named = spread(sorted(names_in(split)[1]), MAX_IMAGES)
    if not named:
        raise UserError("the run has no validation part")
    config = data_of(graph.checkpoint.training, weights.parent, workers)
    layout = layout_of(replace(config, classes=None, ignore_index=None, skip_bad=True))
    every = _pairs(layout, {name.split(PAGE)[0] for name in named} | set(named))
    found = [pair for pair in _examined(graph, layout, config, every) if pair.name in named]
    if not found:
        raise UserError(f"{layout.root} has none of the run's validation images any more")
    return Found([(pair.image, pair.mask) for pair in found], "of the run's validation part")


def images_in(graph: Graph, folder: Path, workers: int | None) -> Found:
    """Up to MAX_IMAGES of a folder, with their masks where it holds such. Raises UserError where it has none."""
    if not folder.is_dir():
        raise UserError(f"--check {folder} is no folder: give one with images")
    training = graph.checkpoint.training
    config = DataConfig(data=folder, keep_alpha=graph.checkpoint.preprocessing.keep_alpha, skip_bad=True)
    where = f"of {folder}"
    try:
        layout = layout_of(replace(config, pair=training.get("pair")))
        pairs = spread(_pairs(layout), MAX_IMAGES)
        found = spread(_examined(graph, layout, replace(config, workers=workers), pairs), MAX_IMAGES)
        return Found([(pair.image, pair.mask) for pair in found], where)
    except UserError:  # no masks, or none that fit
        paths = list(walk(folder))
    paths = spread(sorted(set(paths) - masks_among(folder, paths, training)), MAX_IMAGES)
    if not paths:
        raise UserError(f"--check {folder} holds no images: give a folder with some")
    is_paged = graph.checkpoint.preprocessing.pages == "images"
    sources = [Source((path,), page=0 if is_paged and count_pages(path) > 1 else None) for path in paths]
    return Found([(source, None) for source in sources], where)


def samples_of(graph: Graph, found: Found) -> Iterator[Sample]:
    """Read them. Raises UserError, naming the file."""
    preprocessing, labels = graph.checkpoint.preprocessing, graph.checkpoint.labels
    for image, mask in found.pairs:
        source = seen(image, preprocessing)
        try:
            stack, _ = read_stack(source, preprocessing.keep_alpha)
            pixels, _ = with_channels(stack.reshape(-1, *stack.shape[2:]), preprocessing)
            missing = missing_pixels(image, pixels)
        except UserError as error:
            raise source.named(error) from error
        target = None if mask is None else read_classes(mask, labels, missing)
        if target is not None and target.shape != pixels.shape[1:]:
            target = None
        yield Sample(pixels, source, None if target is None else labels.without_cores(target))


def drawn_sample(graph: Graph) -> Sample:
    """Blurred noise in the range of the training images, larger than a tile."""
    preprocessing = graph.checkpoint.preprocessing
    height, width = (graph.side * 3 // 2, graph.side + 1) if graph.side is not None else DRAWN
    noise = np.random.default_rng(0).normal(size=(preprocessing.in_channels, height, width))
    smooth = noise.cumsum(1).cumsum(2)
    smooth = (smooth - smooth.mean((1, 2), keepdims=True)) / smooth.std((1, 2), keepdims=True)
    mean, std = (np.array(part)[:, None, None] for part in (preprocessing.mean, preprocessing.std))
    values = mean + std * (smooth + noise)
    if preprocessing.dtype != "float32":
        values = values.round().clip(0, np.iinfo(preprocessing.dtype).max)
    return Sample(np.ascontiguousarray(values.astype(preprocessing.dtype)))


def _pairs(layout: Layout, named: set[str] | None = None) -> list[Pair]:
    """Pairs under the names that a run gives them, of all splits or those with these names."""
    has_val = "val" in layout.splits
    pairs = [
        replace(pair, name=f"{split}/{pair.name}" if has_val else pair.name)
        for split, part in layout.splits.items()
        for pair in part
    ]
    return [pair for pair in pairs if named is None or pair.name in named]


def _examined(graph: Graph, layout: Layout, config: DataConfig, pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs that can be used, with a pair for each page. Raises UserError where there are none."""
    if not pairs:
        return []
    chosen = replace(layout, splits={"train": list(pairs)}, left=())
    labels = graph.checkpoint.labels
    config = replace(config, classes=None, ignore_index=None, skip_bad=True)
    card = examine(chosen, config, Console(quiet=True), labels.spec, as_volumes=False)
    return card.pairs("train")
