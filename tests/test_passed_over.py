"""What is neither image nor mask is counted by kind, and what can be done about it is said."""

from pathlib import Path

import pytest

from unet_cli.data.folder.layout import find_layout
from unet_cli.data.folder.passed_over import describe
from unet_cli.errors import UserError

COCO = '{"info": {}, "images": [], "annotations": [], "categories": []}'
LABELME = '{"version": "5.0.1", "flags": {}, "shapes": [], "imagePath": "1.jpg"}'
YOLO = "0 0.1 0.1 0.3 0.1 0.3 0.4\n1 0.5 0.5 0.2 0.2 0.1 0.1\n"


def write(folder: Path, **files: str) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = [folder / name.replace("__", ".") for name in files]
    for path, text in zip(paths, files.values(), strict=True):
        path.write_text(text)
    return paths


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("a__nrrd", "", "1 .nrrd: volumes; save them as NIfTI"),
        ("a__zip", "", "1 .zip: unpack it"),
        ("a__CZI", "", "1 .CZI: a microscope's own format; export as TIFF"),
        ("a__cr2", "", "1 .cr2: camera raw"),
        ("a__mp4", "", "1 .mp4: movies"),
        ("a__json", LABELME, "1 .json: labelme annotations"),
        ("a__json", COCO, "1 .json: COCO annotations"),
        ("a__json", '{"_via_settings": {}}', "1 .json: VGG Image Annotator annotations"),
        ("a__json", '{"type": "FeatureCollection"}', "1 .json: GeoJSON annotations"),
        ("a__json", '{"lr": 1}', "1 .json"),
        ("a__txt", YOLO, "1 .txt: YOLO annotations"),
        ("a__txt", "Thanks for using 3 of our images", "1 .txt"),
        ("a__xml", "<annotation><object/></annotation>", "1 .xml: Pascal VOC annotations"),
        ("a__csv", "id,EncodedPixels\n1,2 3", "1 .csv: run-length encoded annotations"),
        ("a", "", "1 without extension"),
    ],
)
def test_a_file_is_named_as_what_it_is(tmp_path, name, text, line):
    [found] = describe(write(tmp_path, **{name: text}))
    assert found.startswith(f"passed over: {line}")


def test_kinds_are_counted_and_the_unknown_share_a_line(tmp_path):
    paths = write(tmp_path, a__json=LABELME, b__json=LABELME, c__zip="", d__txt="x", e__md="x", f__md="x")
    assert describe([*paths, tmp_path / "@eaDir"]) == [
        "passed over: 2 .json: labelme annotations",
        "passed over: 1 .zip: unpack it",
        "passed over: 1 @eaDir: thumbnails and the like of a network drive",
        "passed over: 2 .md, 1 .txt",
    ]


def test_a_drive_s_own_folders_are_not_looked_into_and_are_said(tmp_path):
    for name in ("images/1.png", "masks/1.png", "images/@eaDir/1.png/SYNOFILE_THUMB_M.jpg", "#recycle/images/2.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    layout = find_layout(tmp_path)
    assert [str(pair.image.path.name) for pair in layout.splits["train"]] == ["1.png"]
    assert layout.notes == (
        "passed over: 1 #recycle: thumbnails and the like of a network drive",
        "passed over: 1 @eaDir: thumbnails and the like of a network drive",
    )


@pytest.mark.parametrize(
    ("files", "tool"),
    [
        ({"images/1.jpg": "", "labels/1.xml": "<annotation></annotation>"}, "Pascal VOC"),
    ],
)
def test_images_with_annotations_alone_are_refused_by_the_tool_s_name(tmp_path, files, tool):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=f"1 .*: {tool} annotations, which are not read yet; export masks as PNG"):
        find_layout(tmp_path)
