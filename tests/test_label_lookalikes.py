"""Masks that look like those of another kind: read as what they are, or asked about with the flags to paste."""

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, binary_erosion, grey_dilation, grey_erosion
from test_label_doubts import SIDE, card_of, encoded

from unet_cli.data.labels import ClassSpec, LabelMap, ValueStats, find_labels, parse_classes, value_stats
from unet_cli.data.maskfile import MaskPixels
from unet_cli.errors import UserError

LAND_COVER = [
    111, 112, 121, 122, 123, 131, 132, 133, 141, 142, 211, 212, 213, 221, 222, 223, 231, 241, 242, 243, 244, 311, 312,
    313, 321, 322, 323, 324, 331, 332, 333, 411, 412, 421, 422, 511, 512, 521, 522, 523,
]  # fmt: skip


def counted(masks, planes: int = 0) -> list[ValueStats]:
    return [value_stats(MaskPixels(np.ascontiguousarray(mask)[None], planes=planes)) for mask in masks]


def asks_about_objects(stats: list[ValueStats]) -> bool:
    return found(stats).may_be_objects(stats)


def found(stats: list[ValueStats]) -> LabelMap:
    return find_labels(stats, ClassSpec())


def scattered(draw: np.random.Generator, values, radius: int = 8) -> np.ndarray:
    """A disc of each value, anywhere, none over another."""
    mask = np.zeros((SIDE, SIDE), np.uint16)
    rows, columns = np.ogrid[:SIDE, :SIDE]
    for value in values:
        inside = np.ones_like(mask, bool)
        while mask[inside].any() or inside.all():
            size = int(draw.integers(radius - 3, radius + 4))
            row, column = draw.integers(size + 1, SIDE - size - 1, 2)
            inside = (rows - row) ** 2 + (columns - column) ** 2 < size**2
        mask[inside] = value
    return mask


def patchwork(draw: np.random.Generator, values, patches: int) -> np.ndarray:
    """Every pixel has the value of the nearest of some points."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    points = draw.integers(0, SIDE, (patches, 2))
    nearest = ((rows[..., None] - points[:, 0]) ** 2 + (columns[..., None] - points[:, 1]) ** 2).argmin(-1)
    return draw.choice(values, patches)[nearest].astype(np.uint16)


# --- numbers of objects, or classes?


@pytest.mark.parametrize(("lowest", "highest"), [(0, 2), (1, 2), (0, 3), (1, 3), (2, 3)])
@pytest.mark.parametrize("count", [12, 80])
def test_two_or_three_numbered_objects_are_objects_or_asked_about(lowest, highest, count):
    draw = np.random.default_rng(count)
    masks = [scattered(draw, range(1, 1 + draw.integers(lowest, highest + 1))) for _ in range(count)]
    stats = counted(masks)
    assert found(stats).kind == "instances" or asks_about_objects(stats)


def test_what_is_asked_about_two_objects_can_be_answered(tmp_path):
    draw = np.random.default_rng(1)
    masks = [scattered(draw, range(1, 2 + number % 2)).astype(np.uint8) for number in range(8)]
    (problem,) = card_of(tmp_path, masks).refusals
    assert "--classes background,object for objects, or --classes background,1,2 for classes" in problem.text
    assert card_of(tmp_path, masks, classes="background,object").labels.kind == "instances"
    assert not card_of(tmp_path, masks, classes="background,1,2").refusals


def test_a_part_within_another_is_a_class_however_often_it_is_missing():
    draw = np.random.default_rng(2)
    masks = [scattered(draw, [1], 20) for _ in range(20)]
    for mask in masks[:12]:
        row, column = np.argwhere(mask).mean(0).astype(int)
        mask[row - 4 : row + 4, column - 3 : column + 4] = 2
    stats = counted(masks)
    assert found(stats).values == (0, 1, 2)
    assert not asks_about_objects(stats)


@pytest.mark.parametrize(("count", "patches"), [(6, 15), (12, 40), (40, 6)])
def test_codes_of_land_cover_are_classes(count, patches):
    draw = np.random.default_rng(3)
    masks = [patchwork(draw, LAND_COVER, patches) for _ in range(count)]
    stats = counted(masks)
    assert found(stats).values == tuple(np.unique(masks))
    assert not asks_about_objects(stats)


def test_codes_that_may_be_numbers_of_objects_are_asked_about():
    draw = np.random.default_rng(4)
    assert asks_about_objects(counted([scattered(draw, draw.choice(LAND_COVER, 6, replace=False)) for _ in range(40)]))


@pytest.mark.parametrize("highest", [600, 5000])
def test_numbers_that_are_unique_over_the_set_are_objects_beyond_255_too(highest):
    draw = np.random.default_rng(5)
    masks = [scattered(draw, draw.integers(300, highest, 10), 5) for _ in range(12)]
    assert found(counted(masks)).kind == "instances"


def test_planes_of_which_all_masks_have_as_many_are_classes():
    draw = np.random.default_rng(6)
    masks = [scattered(draw, range(1, draw.integers(3, 21)), 5) for _ in range(12)]
    assert found(counted(masks)).kind == "instances"
    stats = counted(masks, planes=20)
    assert found(stats).values == tuple(range(1 + max(mask.max() for mask in masks)))
    assert not asks_about_objects(stats)


def test_planes_of_which_masks_have_different_numbers_may_be_objects():
    draw = np.random.default_rng(7)
    masks = [scattered(draw, range(1, draw.integers(14, 21)), 5) for _ in range(12)]
    assert asks_about_objects([one for mask in masks for one in counted([mask], planes=int(mask.max()))])


# --- pixels without a value: background, or not labelled?


def with_nothing(value: float, objects) -> list[np.ndarray]:
    draw = np.random.default_rng(8)
    masks = [scattered(draw, objects).astype(np.float32) for _ in range(6)]
    for mask in masks:
        mask[mask == 0] = value
    return masks


@pytest.mark.parametrize("value", [np.nan, -1])
@pytest.mark.parametrize("objects", [(1, 1), (1, 2, 2)])
def test_nothing_beside_objects_alone_is_asked_about_and_can_be_background(tmp_path, value, objects):
    masks = with_nothing(value, objects)
    with pytest.raises(UserError, match=r"are they background, or not labelled\?") as asked:
        card_of(tmp_path, masks)
    flag = str(asked.value).split("--classes '")[1].split("'")[0]
    card = card_of(tmp_path, masks, classes=flag)
    assert not card.refusals
    assert (card.labels.values, card.labels.ignore) == ((0, *sorted(set(objects))), None)
    assert (encoded(card) == np.nan_to_num(np.stack(masks), nan=0).clip(0)).all()
    assert any("have no value (NaN, -1): background" in note for note in card.plain()["notes"])
    assert LabelMap.from_plain(card.labels.plain()) == card.labels
    again = card_of(tmp_path, masks, ignore_index=-1)
    assert again.labels.ignore == -1


def test_nothing_beside_several_classes_stays_unlabelled_and_the_other_flag_is_said(tmp_path):
    masks = with_nothing(np.nan, (1, 1, 2, 2, 3, 3))
    card = card_of(tmp_path, masks)
    assert (card.labels.values, card.labels.ignore) == ((1, 2, 3), -1)
    assert any("--classes 'background=-1,1=1,2=2,3=3'" in note for note in card.plain()["notes"])


@pytest.mark.parametrize("classes", ["background=-1,cell=0", "background=-1,cell=1,ignore=-1", "background=0,cell=-1"])
def test_no_second_class_has_what_has_no_value(classes):
    with pytest.raises(UserError, match="-1"):
        parse_classes(classes)


# --- 255 beside small numbers: a class, or what nobody has labelled?


def vessels(draw: np.random.Generator) -> np.ndarray:
    """A field of view at 1, with winding lines of 255."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    view = np.hypot(rows - SIDE / 2, columns - SIDE / 2) < 45
    middle = draw.uniform(20, 70, (4, 1, 1)) + 6 * np.sin(columns / 9 + draw.uniform(0, 6, (4, 1, 1)))
    is_vessel = (np.abs(rows - middle) < draw.integers(1, 4)).any(0)
    return np.where(view, np.where(is_vessel, 255, 1), 0).astype(np.uint8)


def nuclei(draw: np.random.Generator) -> np.ndarray:
    mask = scattered(draw, [1, 2, 1], 12).astype(np.uint8)
    mask[binary_erosion(mask > 0, iterations=5)] = 255
    return mask


def bordered(width: int):
    """Objects with a border of 255 around each, as in PASCAL VOC."""

    def draw_mask(draw: np.random.Generator) -> np.ndarray:
        mask = scattered(draw, [1, 1, 2, 2], 10).astype(np.uint8)
        border = grey_dilation(mask, 3) != grey_erosion(mask, 3)
        mask[binary_dilation(border, iterations=width)] = 255
        return mask

    return draw_mask


def street(draw: np.random.Generator) -> np.ndarray:
    """Patches of classes, some not labelled, and the bonnet of the car along the lower border."""
    mask = patchwork(draw, [0, 1, 2, 3, 4, 255], 20).astype(np.uint8)
    mask[-10:] = 255
    return mask


@pytest.mark.parametrize("draw_mask", [vessels, nuclei])
def test_255_within_other_values_is_asked_about(tmp_path, draw_mask):
    draw = np.random.default_rng(9)
    masks = [draw_mask(draw) for _ in range(6)]
    values = tuple(np.unique(masks))
    with pytest.raises(UserError, match="is 255 a class, or pixels that nobody has labelled") as asked:
        card_of(tmp_path, masks)
    assert "--ignore-index -1 if it is a class, or --ignore-index 255" in str(asked.value)
    assert card_of(tmp_path, masks, ignore_index=-1).labels.values == values
    labels = card_of(tmp_path, masks, ignore_index=255).labels
    assert (labels.values, labels.ignore) == (values[:-1], 255)


@pytest.mark.parametrize("draw_mask", [bordered(1), bordered(3), street])
def test_255_between_values_and_along_the_borders_is_not_labelled(draw_mask):
    draw = np.random.default_rng(10)
    labels = found(counted([draw_mask(draw) for _ in range(10)]))
    assert labels.ignore == 255
    assert 255 not in labels.values
