"""ImageJ's ROIs, one or a set in an archive, written here byte by byte."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
import tifffile
from annotated import SIDE, SQUARE, card_of, mask_of, outline, write_images
from annotation_writers import roi, write_imagej, zipped

from unet_cli.data.annotations import imagej
from unet_cli.data.folder.layout import find_layout
from unet_cli.data.formats import extras
from unet_cli.errors import UserError

roifile = pytest.importorskip("roifile")


def test_selections_of_every_kind(tmp_path):
    """A square from 1 to 3 is two pixels wide, a rectangle too; an oval 6 wide is a disc."""
    [path] = write_images(tmp_path, 1)
    far = (np.array(SQUARE) + 20).tolist()
    rois = [
        roi(SQUARE, name="a"),
        roi(far, 1, name="boxes-1"),
        roi([[30, 2], [36, 8]], 2, name="discs_2"),
        roi([[2, 30], [6, 30], [6, 34], [2, 34]], 8, name="0031-0004"),
        roi(SQUARE, 3, name="line"),
        roi(SQUARE[:1], 10, name="points"),
        roi(SQUARE[:2], 0, name="two"),
    ]
    zipped(path.with_suffix(".zip"), *rois)
    card = card_of(tmp_path)
    assert card.labels.names == ("background", "boxes", "discs", "object")
    values = mask_of(card.layout, "cell0").values[0]
    assert values[1:3, 1:3].tolist() == [[3, 3], [3, 3]]
    assert values[21:23, 21:23].tolist() == [[1, 1], [1, 1]]
    assert [int((values == number).sum()) for number in (1, 3)] == [4, 4 + 16]
    assert abs(int((values == 2).sum()) - 28) <= 4
    notes = "\n".join(card.layout.notes)
    assert "1 line, which has no area, 1 points, which has no area, 1 outline of fewer than 3 points" in notes


def test_composites_have_holes_and_curves_and_groups_are_classes(tmp_path):
    [path] = write_images(tmp_path, 1)
    ring = [0, 0, 0, 1, 10, 0, 1, 10, 10, 1, 0, 10, 4, 0, 2, 2, 1, 4, 2, 1, 4, 4, 1, 2, 4, 4]
    curve = [0, 20, 20, 2, 30, 20, 30, 30, 1, 20, 30, 4]
    made = roifile.ImagejRoi()
    made.roitype, made.version, made.group = roifile.ROI_TYPE.RECT, 227, 2
    made.left, made.top, made.right, made.bottom = 0, 0, 30, 30
    made.multi_coordinates = np.array(ring + curve, np.float32)
    made.shape_roi_size = len(made.multi_coordinates)
    path.with_suffix(".roi").write_bytes(made.tobytes())
    layout = find_layout(tmp_path)
    values = mask_of(layout, "cell0").values[0]
    assert layout.classes == ("group 2",)
    assert values[:11, :11].sum() == 100 - 4
    assert 75 < values[20:, 20:].sum() < 95  # a quarter of a parabola's square: 5/6 of it


def test_what_roifile_writes_at_parts_of_pixels_is_read(tmp_path):
    [path] = write_images(tmp_path, 1)
    made = roifile.ImagejRoi.frompoints(np.array(SQUARE, float) + 0.4)
    path.with_suffix(".roi").write_bytes(made.tobytes())
    assert mask_of(find_layout(tmp_path), "cell0").values[0, 1:3, 1:3].all()


def test_the_set_beside_the_only_image_of_a_folder_is_its_own_whatever_its_name(tmp_path):
    for number, path in enumerate(write_images(tmp_path / "all", 3)):
        folder = tmp_path / "data" / f"s{number}"
        folder.mkdir(parents=True)
        path.rename(folder / path.name)
        zipped(folder / "RoiSet.zip", roi(outline(number)))
    layout = find_layout(tmp_path / "data")
    assert len(layout.splits["train"]) == 3
    assert "RoiSet.zip is taken for the annotations of" in "".join(layout.notes)


def test_the_slices_of_a_stack_that_rois_name_are_images(tmp_path):
    stack = np.random.default_rng(0).integers(0, 255, (5, SIDE, SIDE), np.uint8)
    tifffile.imwrite(tmp_path / "stack.tif", stack)
    zipped(tmp_path / "stack.zip", roi(SQUARE, position=2), roi(outline(0), position=4), roi(SQUARE, name="cell-3"))
    card = card_of(tmp_path)
    assert not card.refusals
    assert [pair.name for pair in card.pairs("train")] == ["stack#2", "stack#4"]
    assert card.contents[:, 1].tolist() == [4, 4 + 16 * 20]
    assert "has annotations of 2 of the 5 slices" in "".join(card.layout.notes)
    again = card_of(tmp_path)  # as remembered
    assert [pair.name for pair in again.pairs("train")] == ["stack#2", "stack#4"]
    zipped(tmp_path / "stack.zip", roi(SQUARE, position=2), roi(outline(0), position=9))
    assert "of slice 9, but" in card_of(tmp_path).refusals[0].text


def test_without_roifile_its_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(extras, "is_installed", lambda package: package is not extras.ROI)
    data = write_imagej(tmp_path / "data")
    with pytest.raises(UserError, match=r"pip install roifile \(the extra `roi`\)"):
        find_layout(data)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"Iout" + b"\0" * 10, "damaged ROI"),
        (roi(outline(0))[:70], "damaged ROI"),
        (b"PK\3\4 0001.roi", "damaged or encrypted archive"),
    ],
)
def test_a_damaged_file_is_a_problem_of_its_image_alone(tmp_path, content, message):
    data = write_imagej(tmp_path / "data")
    file = data / "cell0_RoiSet.zip"
    file.unlink()
    (data / ("cell0.zip" if content.startswith(b"PK") else "cell0.roi")).write_bytes(content)
    [problem] = card_of(data).refusals
    assert message in problem.text
    assert str(data / "cell0.") in problem.text


def test_archives_that_would_not_end_are_refused_and_their_names_lead_nowhere(tmp_path, monkeypatch):
    data = write_imagej(tmp_path / "data")
    with zipfile.ZipFile(data / "cell0_RoiSet.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../evil-1.roi", roi(outline(0), name=""))
        archive.writestr("__MACOSX/._evil.roi", b"x")
        archive.writestr("notes.txt", b"x")
    layout = find_layout(data)
    assert "2 file in the archive that is no ROI" in "".join(layout.notes)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    monkeypatch.setattr(imagej, "MAX_BYTES", 1000)
    with zipfile.ZipFile(data / "cell0.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.roi", bytes(100_000))
    (data / "cell0_RoiSet.zip").unlink()
    [problem] = card_of(data).refusals
    assert "keep fewer in a file" in problem.text


def test_a_broken_path_of_a_composite_is_said():
    for path in ([7], [0, 1], [1, 2, 3], [float("nan")]):
        with pytest.raises(UserError, match="path is damaged"):
            imagej._path_rings(np.array(path, np.float32))
