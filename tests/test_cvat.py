"""Folders with CVAT's XML file of images are understood as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from annotated import COUNT, SIDE, SQUARE, card_of, corners, learns, mask_of, outline, write_images
from PIL import Image

from unet_cli.data.folder.layout import find_layout
from unet_cli.data.maskfile import SETS
from unet_cli.errors import UserError

LABELS = (("cell", "#ff0000"), ("wall", "#00ff00"), ("idle", "#0000ff"))


def cvat(path: Path, images: dict[str, str], more: str = "") -> None:
    """images: the elements of each by its name; sizes as write_images draws them."""
    meta = "".join(f"<label><name>{name}</name><color>{colour}</color></label>" for name, colour in LABELS)
    text = "".join(
        f'<image id="{number}" name="{name}" {more} width="{SIDE + number}" height="{SIDE}">{elements}</image>'
        for number, (name, elements) in enumerate(images.items())
    )
    path.write_text(
        f'<?xml version="1.0"?><annotations><version>1.1</version><meta><task><labels>{meta}</labels></task></meta>'
        f"{text}</annotations>"
    )


def polygon(points: list[list[float]], label: str = "cell", z: int = 0) -> str:
    text = ";".join(f"{x:.2f},{y:.2f}" for x, y in points)
    return f'<polygon label="{label}" source="manual" occluded="0" points="{text}" z_order="{z}"></polygon>'


def write_cvat(folder: Path) -> Path:
    paths = write_images(folder / "images")
    cvat(folder / "annotations.xml", {path.name: polygon(outline(number)) for number, path in enumerate(paths)})
    return folder


def test_cvat_shapes_of_every_kind(tmp_path):
    write_images(tmp_path / "images", 1)
    elements = [
        polygon(SQUARE, "wall", z=1),
        polygon(SQUARE),
        '<box label="cell" xtl="10" ytl="10" xbr="14" ybr="12" />',
        '<box label="cell" xtl="20" ytl="10" xbr="24" ybr="12" rotation="90.0" />',
        '<ellipse label="cell" cx="30" cy="10" rx="3" ry="3" />',
        '<mask label="wall" rle="1, 3" left="30" top="30" width="2" height="2" />',
        '<polyline label="cell" points="1,1;2,2" />',
        polygon(SQUARE[:2]),
    ]
    cvat(tmp_path / "annotations.xml", {"cell0.png": "".join(elements)})
    card = card_of(tmp_path)
    values = mask_of(card.layout, "cell0").values[0]
    assert (values[1:3, 1:3] == SETS | 0b11).all()
    assert values[10:12, 10:14].all()
    assert values[9:13, 21:23].all()
    assert np.count_nonzero(values[9:13, 20:24]) == 8
    assert np.count_nonzero(values[:20, 26:34]) == 32
    assert values[30:32, 30:32].tolist() == [[0, 2], [2, 2]]
    notes = "\n".join(card.layout.notes)
    assert "1 polyline, which has no area, 1 polygon of fewer than 3 points" in notes
    assert "classes without any annotation are left out: idle" in notes


def test_cvat_names_and_colours_are_kept(tmp_path):
    data = write_cvat(tmp_path / "data")
    labels = card_of(data).labels
    assert labels.names == ("background", "cell")
    assert labels.written_palette == [0, 0, 0, 255, 0, 0]


def test_cvat_subsets_are_splits(tmp_path):
    for split, count in (("Train", 4), ("Validation", 2)):
        paths = write_images(tmp_path / "images" / split, count)
        images = {path.name: polygon(outline(number)) for number, path in enumerate(paths)}
        cvat(tmp_path / f"annotations{count}.xml", images, f'subset="{split}"')
    layout = find_layout(tmp_path)
    assert {split: len(pairs) for split, pairs in layout.splits.items()} == {"train": 4, "val": 2}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("<annotations>", '<!DOCTYPE a [<!ENTITY b "c">]><annotations>'), "defines entities"),
        (("</annotations>", ""), "is damaged, or no CVAT file"),
        (("cell1.png", "cell0.png"), "lists the image cell0.png twice"),
        (("<image ", "<track "), "is damaged"),
    ],
)
def test_a_cvat_file_that_can_t_be_read_is_named(tmp_path, change, message):
    data = write_cvat(tmp_path / "data")
    file = data / "annotations.xml"
    file.write_text(file.read_text().replace(*change))
    with pytest.raises(UserError, match=f"annotations.xml {message}"):
        find_layout(data)


def test_a_cvat_file_of_a_video_is_refused_with_what_to_do(tmp_path):
    data = write_cvat(tmp_path / "data")
    (data / "annotations.xml").write_text("<annotations><track id='0' label='cell'></track></annotations>")
    with pytest.raises(UserError, match=r"export it as CVAT for images 1.1"):
        find_layout(data)


@pytest.mark.parametrize(
    ("element", "message"),
    [
        (polygon([[1, 1], [float("nan"), 2], [3, 3]]), "not finite"),
        ('<polygon label="cell" points="1,1;2;3,3" />', "no pairs of numbers"),
        ('<polygon points="1,1;2,1;3,3" />', "no label"),
        ('<box label="cell" xtl="1" ytl="a" xbr="2" ybr="2" />', "ytl 'a', which is no number"),
        ('<mask label="cell" rle="1, x" left="0" top="0" width="2" height="2" />', "no whole numbers"),
        ('<mask label="cell" rle="1, 7" left="0" top="0" width="2" height="2" />', "add up to 8 pixels"),
    ],
)
def test_a_shape_that_can_t_be_drawn_is_a_problem_of_its_image_alone(tmp_path, element, message):
    data = write_cvat(tmp_path / "data")
    images = {f"cell{number}.png": polygon(outline(number)) for number in range(COUNT)}
    cvat(data / "annotations.xml", images | {"cell0.png": element})
    [problem] = card_of(data).refusals
    assert message in problem.text
    assert "cell0.png" in problem.text


@pytest.mark.slow  # as test_coco and test_annotations_all: formats differ up to the card only
def test_cvat_end_to_end(unet, tmp_path):
    learns(unet, write_cvat(tmp_path / "data"), ["cell"])


def write_mask_export(folder: Path, palette: bool) -> Path:
    """What CVAT calls Segmentation mask 1.1, with images: colours in RGB, or as a palette."""
    (folder / "SegmentationClass").mkdir(parents=True)
    for number, path in enumerate(write_images(folder / "JPEGImages", extension=".jpg")):
        left, top, right, bottom = corners(number)
        mask = np.zeros((SIDE, SIDE + number), np.uint8)
        mask[top:bottom, left:right] = 1
        mask[top : top + 8, left:right] = 2
        image = Image.fromarray(mask).convert("P")
        image.putpalette([0, 0, 0, 250, 50, 83, 51, 221, 255])
        (image if palette else image.convert("RGB")).save(folder / "SegmentationClass" / f"{path.stem}.png")
    (folder / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\ncell:250,50,83::\nbackground:0,0,0::\nwall:51,221,255::\n"
    )
    return folder


@pytest.mark.parametrize("palette", [False, True])
def test_names_and_colours_of_cvat_s_mask_exports_come_from_labelmap_txt(tmp_path, palette):
    card = card_of(write_mask_export(tmp_path / "data", palette))
    assert card.labels.names == ("background", "cell", "wall")
    assert card.labels.values == (0, 0xFA3253, 0x33DDFF)
    assert not [note for note in card.plain()["notes"] if note.startswith("passed over")]


def test_a_labelmap_of_other_colours_is_said_and_not_used(tmp_path):
    data = write_mask_export(tmp_path / "data", palette=False)
    (data / "labelmap.txt").write_text("background:0,0,0::\ncell:1,2,3::\n")
    card = card_of(data)
    assert card.labels.num_classes == 3
    assert "labelmap.txt is not used: the masks hold other colours" in card.plain()["notes"]


def test_a_broken_labelmap_is_named(tmp_path):
    data = write_mask_export(tmp_path / "data", palette=False)
    (data / "labelmap.txt").write_text("background:0,0,0::\ncell:1,2\n")
    with pytest.raises(UserError, match=r"labelmap.txt, line 2: 'cell:1,2' is no name with a colour"):
        find_layout(data)
