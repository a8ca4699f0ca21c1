"""A data set in another form: its images as they are, and its masks as files or as annotations.

| form    | images               | the rest                                                        |
|---------|----------------------|-----------------------------------------------------------------|
| masks   | [SPLIT/]images/      | [SPLIT/]masks/NAME.png, dataset.json with the classes' numbers; |
|         |                      | of classes that overlap [SPLIT/]masks/CLASS/NAME.png            |
| coco    | SPLIT/, or images/   | annotations/instances_SPLIT.json                                |
| yolo    | images/SPLIT/        | labels/SPLIT/NAME.txt, data.yaml                                |
| labelme | [SPLIT/]             | NAME.json beside each image                                     |

[SPLIT/] is left out where there is only one. Objects stay apart where the data tell them apart: shapes of annotations,
of which the later lies on top, and numbered objects; in masks of classes, what is connected is one object.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from unet_cli.config.convert import ConvertConfig
from unet_cli.config.model import IGNORED
from unet_cli.data.check.card import Card
from unet_cli.data.class_names import class_files
from unet_cli.data.colours import colours_of
from unet_cli.data.export import coco, labelme, yolo
from unet_cli.data.export.drawing import Drawing
from unet_cli.data.found import Objects, gathered_from
from unet_cli.data.imagefile import read_image
from unet_cli.data.labels import LabelMap
from unet_cli.data.source import Pair, Source
from unet_cli.data.truth import read_truth
from unet_cli.data.writing import write_mask
from unet_cli.errors import UserError
from unet_cli.system.files import make_folder, whole_file, write_bytes


@dataclass
class Converted:
    """What was written. images: by split. ignored: images whose ignored pixels the form has no place for."""

    images: Counter[str] = field(default_factory=Counter)
    objects: int = 0
    ignored: int = 0


def convert(card: Card, config: ConvertConfig) -> Iterator[Converted]:
    """Write the data set, and yield after each image what was written so far; the files of all images come last.
    Raises UserError."""
    form, output = config.to, config.output
    labels, colours = card.labels, colours_of(card.labels).areas
    splits = [split for split, part in card.known.items() if part]
    done = Converted()
    for split in splits:
        entries: list[dict[str, Any]] = []
        for pair, facts in card.known[split]:
            name = _name(pair, split)
            folder, beside = _folders(form, split, len(splits) == 1)
            image = _copied(pair.image, output / folder, name, card.keep_alpha)
            size = (facts.sides[-2], facts.sides[-1])
            indices, objects = objects_of_pair(replace(pair, mask=replace(pair.mask, size=size)), labels)
            is_ignored = indices == IGNORED if labels.ignore is not None else np.zeros(size, bool)
            if form == "masks":
                _write_masks(output / beside, name, indices, labels)
            else:
                stated = image.relative_to(output / folder).as_posix() if form == "coco" else image.name
                drawing = Drawing(stated, objects, labels.names, colours, config.simplify, ignored=is_ignored)
                if form == "coco":
                    entries.append(coco.entry(drawing))
                elif form == "yolo":
                    write_bytes(output / beside / f"{name}.txt", yolo.written(drawing))
                else:
                    write_bytes(image.with_suffix(".json"), labelme.written(drawing))
            done.images[split] += 1
            done.objects += len(objects)
            has_place = form in ("coco", "labelme") or (form == "masks" and not labels.overlapping)
            done.ignored += not has_place and bool(is_ignored.any())
            yield done
        if form == "coco":
            path = output / beside / f"instances_{split if len(splits) > 1 else 'default'}.json"
            make_folder(path.parent)
            with whole_file(path) as file:
                file.writelines(coco.whole(enumerate(entries, 1), labels.names))
    _write_classes(form, output, labels, splits)


def check_convertible(card: Card, config: ConvertConfig) -> None:
    """Raises UserError where these data can't be converted, or would be written over."""
    root, output = card.layout.root.resolve(), config.output.resolve()
    if output == root or output.is_relative_to(root) or root.is_relative_to(output):
        raise UserError(f"--output {config.output} and the data lie in each other: choose a folder elsewhere")
    if output.is_dir() and any(output.iterdir()):
        raise UserError(f"--output {config.output} is not empty: choose a new folder")
    if card.is_volumetric:
        raise UserError("these data are volumes, and unet convert is for images: export their slices as images first")
    several = next((pair.image for pair, _ in card.everything if len(pair.image.paths) > 1), None)
    if several is not None:
        raise UserError(f"{several} has a file for each channel, which no other tool pairs: join the channels first")


def objects_of_pair(pair: Pair, labels: LabelMap) -> tuple[np.ndarray, Objects]:
    """Class indices (H, W) of a pair's mask, and its objects. Raises UserError."""
    truth = read_truth(pair.mask, labels)
    layers = ((truth.numbers_of(labels, index).astype(np.int32), index) for index in range(1, labels.num_classes))
    return truth.classes, gathered_from(layers, truth.classes.shape)


def _write_masks(folder: Path, name: str, indices: np.ndarray, labels: LabelMap) -> None:
    """A mask of class numbers with a palette of their colours, white for what is ignored; or one of each class that may
    overlap."""
    mask = folder / f"{name}.png"
    if not labels.overlapping:
        colours = colours_of(labels).areas
        palette = [*colours, *[(0, 0, 0)] * (IGNORED - len(colours)), (255, 255, 255)]
        make_folder(mask.parent)
        write_mask(mask, indices, [part for colour in palette for part in colour])
        return
    for number, path in enumerate(class_files(folder, mask, labels.scored_names, in_folders=True), 1):
        make_folder(path.parent)
        write_mask(path, labels.mask_of(indices, number), labels.alone(number).written_palette)


def _name(pair: Pair, split: str) -> str:
    """The pair's name, without what only tells splits and pages apart."""
    return pair.name.removeprefix(f"{split}/").replace("#", "_")


def _folders(form: str, split: str, is_only: bool) -> tuple[Path, Path]:
    """Where images and annotations of a split go."""
    within = Path() if is_only else Path(split)
    return {
        "masks": (within / "images", within / "masks"),
        "coco": (Path("images") if is_only else within, Path("annotations")),
        "yolo": (Path("images", split), Path("labels", split)),
        "labelme": (within, within),
    }[form]


def _copied(image: Source, folder: Path, name: str, keep_alpha: bool) -> Path:
    """A copy of the image's file; of a page of a stack, a TIFF of it alone. Raises UserError."""
    if image.page is None:
        path = folder / f"{name}{image.path.suffix}"
        make_folder(path.parent)
        with whole_file(path) as file, open(image.path, "rb") as source:
            shutil.copyfileobj(source, file)
        return path
    pixels = read_image(image, keep_alpha)
    if pixels.dtype not in (np.uint8, np.uint16) or len(pixels) not in (1, 3):
        raise UserError(f"{image} has {len(pixels)} channels of {pixels.dtype}: save the pages of such files yourself")
    path = folder / f"{name}.tif"
    make_folder(path.parent)
    write_mask(path, pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1))
    return path


def _write_classes(form: str, output: Path, labels: LabelMap, splits: list[str]) -> None:
    if form == "yolo":
        folders = {split: f"images/{split}" for split in splits}
        write_bytes(
            output / "data.yaml",
            yolo.data_yaml(labels.names, folders | {"val": folders.get("val", folders[splits[0]])}),
        )
        write_bytes(output / "classes.txt", yolo.classes_txt(labels.names))
    if form == "masks" and not labels.overlapping:
        numbers = {name: index for index, name in enumerate(labels.names)}
        if labels.ignore is not None:
            numbers["ignore"] = IGNORED
        write_bytes(output / "dataset.json", json.dumps({"labels": numbers}, ensure_ascii=False, indent=1).encode())
