"""`unet convert`: a data set in another form is the same to our own readers, and nothing of the first is touched."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from annotated import card_of
from conftest import Run, assert_failed, write_pairs
from PIL import Image
from test_overlapping import write_set
from test_polygons_out import blobs

from unet_cli.data.check.card import Card
from unet_cli.data.maskfile import read_mask

FORMS = ["masks", "coco", "yolo", "labelme"]


def write_classes(folder: Path, splits: tuple[str, ...] = ("",), count: int = 3) -> Path:
    """Images of noise with masks of two classes, 0, 7 and 9, and names for these."""
    for number in range(count * len(splits)):
        split = folder / splits[number // count]
        (split / "images").mkdir(parents=True, exist_ok=True)
        (split / "masks").mkdir(exist_ok=True)
        mask = np.array([0, 7, 9], np.uint8)[blobs(number, (70, 80 + number))]
        image = np.random.default_rng(number).integers(0, 255, (*mask.shape, 3)).astype(np.uint8)
        Image.fromarray(image).save(split / "images" / f"n{number}.png")
        Image.fromarray(mask).save(split / "masks" / f"n{number}.png")
    return folder


def classes_of(card: Card, split: str = "train") -> dict[str, np.ndarray]:
    """Class indices of each image, by the bytes of the file, since names may differ."""
    found = {}
    for pair, facts in card.known[split]:
        mask = replace(pair.mask, size=facts.sides)
        found[pair.image.path.read_bytes()] = card.labels.encode(read_mask(mask))[0]
    return found


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("form", FORMS)
def test_masks_become_what_our_readers_draw_as_the_same_classes(unet: Run, tmp_path, form):
    data = write_classes(tmp_path / "data", ("train", "val"))
    before = contents(data)
    arguments = ["--data", "data", "--classes", "background=0,cell=7,wall=9", "--simplify", 0]
    done = unet("convert", *arguments, "--to", form, "--output", "other")
    assert done.returncode == 0, done.stderr
    assert "3 train, 3 val" in done.stdout
    assert contents(data) == before
    one, other = card_of(data, classes="background=0,cell=7,wall=9"), card_of(tmp_path / "other")
    assert other.labels.names == ("background", "cell", "wall")
    assert not other.refusals
    for split in ("train", "val"):
        was, now = classes_of(one, split), classes_of(other, split)
        assert was.keys() == now.keys()
        assert all((was[key] == now[key]).all() for key in was)
    back = unet("convert", "--data", "other", "--to", "masks", "--output", "back")
    assert back.returncode == 0, back.stderr
    masks = {path.name: np.asarray(Image.open(path)) for path in (tmp_path / "back").rglob("masks/*.png")}
    assert all((np.array([0, 7, 9])[masks[path.name]] == np.asarray(Image.open(path))).all()
               for path in data.rglob("masks/*.png"))  # fmt: skip


@pytest.mark.parametrize("form", ["coco", "yolo", "labelme"])
def test_objects_that_touch_stay_apart_from_annotations_to_annotations(unet: Run, tmp_path, form):
    folder = tmp_path / "data"
    folder.mkdir()
    squares = [[[2, 2], [9, 2], [9, 9], [2, 9]], [[10, 2], [19, 2], [19, 9], [10, 9]]]
    for number in range(2):
        noise = np.random.default_rng(number).integers(0, 255, (30, 30)).astype(np.uint8)
        Image.fromarray(noise).save(folder / f"n{number}.png")
        shapes = [{"label": "cell", "points": points, "shape_type": "polygon"} for points in squares]
        ignored = {"label": "__ignore__", "points": [[20, 20], [25, 25]], "shape_type": "rectangle"}
        content = {"imagePath": f"n{number}.png", "imageHeight": 30, "imageWidth": 30, "shapes": [*shapes, ignored]}
        (folder / f"n{number}.json").write_text(json.dumps(content))
    done = unet("convert", "--data", "data", "--to", form, "--output", "other", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["objects"] == 4
    if form == "yolo":
        assert "YOLO has no ignored pixels: those of 2 images are background now" in done.stderr
        return
    one, other = card_of(folder), card_of(tmp_path / "other")
    was, now = classes_of(one), classes_of(other)
    assert all((was[key] == now[key]).all() for key in was)
    assert {255} < set(np.unique(next(iter(now.values()))))


def test_classes_that_overlap_become_a_folder_of_masks_each(unet: Run, tmp_path):
    for split in ("train", "val"):
        write_set(tmp_path / "data" / split, count=4)
    assert unet("convert", "--data", "data", "--to", "coco", "--simplify", 0, "--output", "coco").returncode == 0
    done = unet("convert", "--data", "coco", "--to", "masks", "--output", "masks")
    assert done.returncode == 0, done.stderr
    masks = {path.relative_to(tmp_path / "masks").as_posix() for path in (tmp_path / "masks").rglob("masks/*/*.png")}
    assert masks == {f"{split}/masks/{name}/p{n}.png" for split in ("train", "val") for name in ("box", "disc")
                     for n in range(4)}  # fmt: skip
    one, other = card_of(tmp_path / "data"), card_of(tmp_path / "masks")
    assert not other.refusals
    assert one.labels == other.labels
    for split in ("train", "val"):
        was, now = classes_of(one, split), classes_of(other, split)
        assert was.keys() == now.keys()
        assert all((was[key] == now[key]).all() for key in was)
        assert any((indices == 0b11).any() for indices in now.values())


def test_masks_of_a_class_each_lose_what_is_ignored_and_say_so(unet: Run, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    corners = {"a/b": [[2, 2], [19, 19]], "..": [[8, 8], [28, 28]], "__ignore__": [[1, 30], [9, 38]]}
    shapes = [{"label": name, "points": two, "shape_type": "rectangle"} for name, two in corners.items()]
    for number in range(2):
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (40, 40), np.uint8)).save(
            folder / f"{number}.png"
        )
        content = {"imagePath": f"{number}.png", "imageHeight": 40, "imageWidth": 40, "shapes": shapes}
        (folder / f"{number}.json").write_text(json.dumps(content))
    done = unet("convert", "--data", "data", "--to", "masks", "--output", "out")
    assert done.returncode == 0, done.stderr
    assert "no ignored pixels: those of 2 images are background now" in done.stderr
    assert {path.parent.name for path in (tmp_path / "out").rglob("*.png")} == {"images", "0", "a-b"}
    assert "masks/0/ holds .., masks/a-b/ holds a/b" in done.stderr


def test_numbered_objects_stay_apart(unet: Run, tmp_path):
    data = write_pairs(tmp_path / "data", count=3)
    for path in (data / "masks").iterdir():
        mask = np.zeros(np.asarray(Image.open(path)).shape, np.uint16)
        mask[4:10, 4:10], mask[4:10, 10:16] = 300, 7
        Image.fromarray(mask).save(path)
    arguments = ["convert", "--data", "data", "--classes", "background,cell", "--output"]
    done = unet(*arguments, "coco", "--to", "coco")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "coco/annotations/instances_default.json").read_text())
    assert [one["area"] for one in found["annotations"]] == [36] * 6
    assert [one["name"] for one in found["categories"]] == ["cell"]


def test_the_printed_next_command_works_on_what_was_written(unet: Run, data, tmp_path):
    done = unet("convert", "--data", "data", "--to", "yolo", "--output", "a new folder")
    assert done.returncode == 0, done.stderr
    assert "unet train --data 'a new folder'" in done.stdout
    assert unet("check", "--data", "a new folder").returncode == 0
    assert (tmp_path / "a new folder/data.yaml").read_text().splitlines()[1:] == [
        "train: images/train", "val: images/train", "names:", '  0: "foreground"',
    ]  # fmt: skip


def test_what_cannot_be_converted_is_refused_by_name(unet: Run, data, tmp_path):
    arguments = ["convert", "--data", "data", "--to", "coco", "--output"]
    assert_failed(unet(*arguments, "data/new"), 1, "lie in each other")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/a.txt").write_text("a")
    assert_failed(unet(*arguments, "full"), 1, "full is not empty")
    assert_failed(unet("convert", "--data", "data", "--to", "svg", "--output", "out"), 2, "svg")
    assert_failed(unet("convert", "--data", "nothing", "--to", "coco", "--output", "out"), 1, "nothing does not exist")
    (data / "images" / "cell1.png").write_bytes(b"broken")
    assert_failed(unet(*arguments, "out"), 1, "cell1.png")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_said(full_disk, data):
    assert_failed(full_disk(1000, "convert", "--data", "data", "--to", "coco", "--output", "out"), 1, "out/")


def test_an_unwritable_output_is_said_at_once(unet: Run, data, read_only):
    done = unet("convert", "--data", "data", "--to", "coco", "--output", read_only / "out")
    assert_failed(done, 1, str(read_only))
