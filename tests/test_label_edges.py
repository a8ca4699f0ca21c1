"""What lies between areas: a thin class, a soft edge, or what resizing and JPEG have left of a class."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter
from scipy.ndimage import binary_erosion
from test_label_doubts import SIDE, as_jpeg, card_of, encoded
from test_label_lookalikes import counted, found, patchwork, scattered

from unet_cli.errors import UserError

# --- values


def ringed(draw: np.random.Generator, iterations: int = 1) -> np.ndarray:
    """Objects of 255, the outermost pixels of which are 128."""
    mask = np.where(scattered(draw, [1, 2, 3], 10) > 0, 255, 0).astype(np.uint8)
    mask[(mask == 255) & ~binary_erosion(mask, iterations=iterations)] = 128
    return mask


def lined(draw: np.random.Generator, levels, width: int, side: int = SIDE, count: int = 10) -> Image.Image:
    image = Image.new("L", (side, side))
    for number in range(count):
        ends = draw.integers(0, side, 4).tolist()
        ImageDraw.Draw(image).line(ends, fill=int(levels[number % len(levels)]), width=width)
    return image


def halved(image: Image.Image | np.ndarray, how: Image.Resampling = Image.Resampling.BILINEAR) -> np.ndarray:
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    return np.asarray(image.resize((image.width // 2, image.height // 2), how))


def crossed_by_lines(draw: np.random.Generator, areas, level: int) -> np.ndarray:
    """Patches of some values, and thin lines of another level across them, at twice the size."""
    mask = np.kron(patchwork(draw, areas, 8), np.ones((2, 2))).astype(np.uint8)
    lines = np.asarray(lined(draw, [1], 2, 2 * SIDE, 8))
    return np.where(lines > 0, level, mask).astype(np.uint8)


@pytest.mark.parametrize("count", [1, 8, 30])
def test_a_ring_and_a_slip_are_no_soft_edge_before_somebody_says_so(tmp_path, count):
    draw = np.random.default_rng(11)
    masks = [ringed(draw) for _ in range(count)]
    masks[0][0, 0] = 77
    with pytest.raises(UserError, match="in thin structures, 128 .* is 128 a class, or a soft edge") as asked:
        card_of(tmp_path, masks)
    flag = str(asked.value).split("--classes '")[1].split("'")[0]
    card = card_of(tmp_path, masks, classes=flag)
    assert not card.refusals
    masks[0][0, 0] = 0
    assert (encoded(card) == np.searchsorted([0, 128, 255], masks)).all()
    assert card_of(tmp_path, masks, classes="background,foreground").labels.num_classes == 2


def test_a_wide_ring_and_a_slip_are_a_class_and_noise():
    draw = np.random.default_rng(12)
    masks = [ringed(draw, 2) for _ in range(8)]
    masks[0][0, 0] = 77
    assert found(counted(masks)).values == (0, 128, 255)


@pytest.mark.parametrize("levels", [(85, 170, 255), (50, 100, 150, 200, 255), (40, 80, 120, 160, 200, 255)])
@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("beside", [False, True])
def test_thin_lines_of_several_levels_are_classes(levels, width, beside):
    draw = np.random.default_rng(13)
    masks = [np.array(lined(draw, levels, width)) for _ in range(8)]
    for mask in masks[: 8 * beside]:
        mask[30:50, 30:60] = 255
    masks[0][3, 2:4] = 9  # a slip
    assert found(counted(masks)).values == (0, *levels)


@pytest.mark.parametrize("how", [Image.Resampling.BILINEAR, Image.Resampling.BOX])
@pytest.mark.parametrize("width", [2, 3, 6])
def test_thin_lines_that_were_resized_stay_binary(how, width):
    draw = np.random.default_rng(14)
    labels = found(counted([halved(lined(draw, [255], width, 2 * SIDE), how) for _ in range(8)]))
    assert (labels.kind, labels.values) == ("soft", (0, 255))


@pytest.mark.parametrize(("areas", "level"), [((60, 120, 255), 0), ((0, 60, 200), 255), ((0, 60, 255), 160)])
def test_thin_classes_that_interpolation_has_blurred_are_not_left_out_silently(tmp_path, areas, level):
    draw = np.random.default_rng(15)
    sharp = [crossed_by_lines(draw, areas, level) for _ in range(8)]
    with pytest.raises(UserError, match="resized with interpolation.* resized with nearest neighbour") as asked:
        card_of(tmp_path, [halved(mask) for mask in sharp])
    assert "--classes 'background=" in str(asked.value)
    values = sorted([*areas, level])
    named = ",".join(f"class{value}={value}" for value in values)
    assert not card_of(tmp_path, [halved(mask) for mask in sharp], classes=named).refusals
    assert found(counted([mask[::2, ::2] for mask in sharp])).values == tuple(values)


@pytest.mark.parametrize("how", [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS])
def test_classes_that_all_cover_areas_survive_interpolation(how):
    draw = np.random.default_rng(16)
    masks = [np.kron(patchwork(draw, [0, 80, 160, 255], 6), np.ones((2, 2))).astype(np.uint8) for _ in range(8)]
    assert found(counted([halved(mask, how) for mask in masks])).values == (0, 80, 160, 255)


# --- colours that are mixtures of others

FOUR = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)


def blocks(draw: np.random.Generator) -> np.ndarray:
    """Touching squares of four colours."""
    return FOUR[np.kron(draw.integers(0, 4, (9, 9)), np.ones((21, 21), np.uint8))]


def blurred(image: np.ndarray, width: float) -> np.ndarray:
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(width)))


@pytest.mark.parametrize("count", [1, 8])
@pytest.mark.parametrize("how", [Image.Resampling.BOX, Image.Resampling.BILINEAR, 0.8, 2.5])
def test_mixed_colours_are_no_classes(tmp_path, how, count):
    draw = np.random.default_rng(17)
    sharp = [blocks(draw) for _ in range(count)]
    masks = [blurred(mask, how) if isinstance(how, float) else halved(mask, how) for mask in sharp]
    card = card_of(tmp_path, masks)
    assert sorted(card.labels.values) == [0, 0x0000FF, 0x00FF00, 0xFF0000]
    assert any("are doubtful" in note for note in card.plain()["notes"])
    assert not card.refusals


def test_wide_blurs_are_flat_between_colours_and_make_no_classes_there(tmp_path):
    draw = np.random.default_rng(18)
    discs = [np.kron(scattered(draw, [1, 2, 3], 16), np.ones((3, 3), int)) for _ in range(4)]
    labels = card_of(tmp_path, [blurred(FOUR[mask], 8) for mask in discs]).labels
    assert sorted(labels.values) == [0, 0x0000FF, 0x00FF00, 0xFF0000]


def test_thin_lines_of_a_mixed_colour_are_a_class_where_they_lie_in_one_other(tmp_path):
    draw = np.random.default_rng(19)
    palette = np.concatenate([FOUR, [[128, 0, 0]]]).astype(np.uint8)
    masks = []
    for _ in range(6):
        mask = np.repeat(draw.permutation([0, 1, 2, 3]), SIDE // 4)[:, None].repeat(SIDE, 1)
        mask[:, 20::30] = np.where(mask[:, 20::30] == 1, 4, mask[:, 20::30])
        masks.append(palette[mask])
    assert 0x800000 in card_of(tmp_path, masks).labels.values


def test_an_outline_of_one_mixed_colour_is_asked_about(tmp_path):
    draw = np.random.default_rng(20)
    colours = np.array([[0, 0, 0], [128, 0, 0], [255, 0, 0], [0, 0, 255]], np.uint8)
    masks = []
    for _ in range(6):
        mask = np.searchsorted([0, 128, 255], ringed(draw))
        mask[-12:] = 3
        masks.append(colours[mask])
    with pytest.raises(UserError, match="#800000 in thin structures, and it lies between two other colours"):
        card_of(tmp_path, masks)
    every = "background=#000000,outline=#800000,cell=#ff0000,glass=#0000ff"
    assert (encoded(card_of(tmp_path, masks, classes=every)) == 1).any()


@pytest.mark.parametrize("quality", [20, 50])
def test_classes_that_jpeg_has_left_no_area_of_are_missed(tmp_path, quality):
    draw = np.random.default_rng(21)
    sharp = [FOUR[scattered(draw, draw.integers(1, 4, 9), 5)] for _ in range(8)]
    with pytest.raises(UserError, match="JPEG seems to have blurred classes that are small or thin") as asked:
        card_of(tmp_path, [as_jpeg(mask, quality) for mask in sharp])
    assert "--classes 'background=#000000,name=#rrggbb'" in str(asked.value)
    large = [FOUR[np.kron(scattered(draw, [1, 2, 3], 16), np.ones((2, 2), int))] for _ in range(8)]
    assert len(card_of(tmp_path / "large", [as_jpeg(mask, quality) for mask in large]).labels.values) == 4
