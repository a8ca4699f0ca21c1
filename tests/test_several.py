"""Several files that make one mask: which are classes, which objects, which versions of the same mask; from names."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from unet_cli.config.data import DataConfig
from unet_cli.data.check.examine import examine
from unet_cli.data.folder.layout import find_layout
from unet_cli.data.maskfile import SETS, read_mask
from unet_cli.data.source import Source
from unet_cli.errors import UserError
from unet_cli.system.console import Console

PLOTS = range(4)


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


@pytest.mark.parametrize(
    "mask",
    [
        "masks/plot{}_class_{}.png",
        "masks/plot{}_{}.png",
        "masks/{1}_plot{0}.png",
        "masks/{1}/plot{0}.png",
        "masks_{1}/plot{0}.png",
        "images/plot{}_{}.png",
        "images/plot{}_mask_{}.png",
    ],
)
def test_a_mask_file_for_each_class_is_told_by_suffix_prefix_or_folder(tmp_path, mask):
    touch(tmp_path, *(f"images/plot{n}.jpg" for n in PLOTS))
    touch(tmp_path, *(mask.format(n, name) for n in PLOTS for name in ("leaf", "stem", "root")))
    layout = find_layout(tmp_path)
    assert layout.classes == ("leaf", "root", "stem")
    first = layout.splits["train"][0]
    assert first.image.path == tmp_path / "images/plot0.jpg"
    names = [path.relative_to(tmp_path).as_posix() for path in first.mask.paths]
    assert (names, first.mask.classes) == ([mask.format(0, name) for name in layout.classes], (1, 2, 3))
    assert layout.left == ()
    assert "3 mask files of each image, a class each: leaf, root, stem" in layout.notes


def test_a_file_of_the_background_is_no_class(tmp_path):
    touch(tmp_path, *(f"images/p{n}.jpg" for n in PLOTS))
    touch(tmp_path, *(f"masks/p{n}_{name}.png" for n in PLOTS for name in ("Background", "cell", "other")))
    layout = find_layout(tmp_path)
    assert layout.classes == ("cell", "other")
    assert [path.name for path in layout.splits["train"][0].mask.paths] == ["p0_cell.png", "p0_other.png"]
    assert any("the files of Background are not read" in note for note in layout.notes)


def test_a_class_whose_file_is_missing_beside_others_is_absent(tmp_path):
    touch(tmp_path, *(f"images/p{n}.jpg" for n in PLOTS), *(f"masks/p{n}_leaf.png" for n in PLOTS))
    touch(tmp_path, "masks/p0_stem.png", "masks/p2_stem.png")
    layout = find_layout(tmp_path)
    assert [pair.mask.classes for pair in layout.splits["train"]] == [(1, 2), (1,), (1, 2), (1,)]
    assert (layout.left, layout.unmasked) == ((), 0)
    assert "2 images without a mask of stem, but with others: taken for images that show none" in layout.notes


@pytest.mark.parametrize("form", ["{}_mask{}.png", "{}{}.png"])
def test_numbered_masks_whose_count_varies_are_objects(tmp_path, form):
    ends = {0: [""], 1: ["", "_1"], 2: ["", "_1", "_2"], 3: [""]} if "mask" in form else {
        0: ["_1"], 1: ["_1", "_2"], 2: ["_1", "_2", "_3"], 3: ["_1"],
    }  # fmt: skip
    touch(tmp_path, *(f"images/scan{n}.png" for n in PLOTS))
    touch(tmp_path, *("masks/" + form.format(f"scan{n}", end) for n in PLOTS for end in ends[n]))
    layout = find_layout(tmp_path)
    assert [len(pair.mask.paths) for pair in layout.splits["train"]] == [1, 2, 3, 1]
    assert (layout.classes, layout.left) == ((), ())
    assert "7 mask files, one for each object, make 4 masks" in layout.notes


@pytest.mark.parametrize(
    "ends", [("_1st", "_2nd"), ("_rater1", "_rater2"), ("_label", "_label_viz"), ("_mask", "_mask_color"), ("_1", "_2")]
)
def test_versions_of_one_mask_are_no_classes_and_each_rule_can_be_pasted(tmp_path, ends):
    touch(tmp_path, *(f"images/a{n}.png" for n in PLOTS))
    touch(tmp_path, *(f"masks/a{n}{end}.png" for n in PLOTS for end in ends))
    with pytest.raises(UserError, match="two rules pair 4 names each") as caught:
        find_layout(tmp_path)
    options = [line.split("'")[1] for line in str(caught.value).splitlines() if line.startswith("  --pair")]
    assert len(options) == 2
    masks = [find_layout(tmp_path, pair=option).splits["train"][0].mask.path.name for option in options]
    assert masks == [f"a0{end}.png" for end in ends]


def draw(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def test_class_files_become_the_indices_of_their_classes(tmp_path):
    left, right = np.zeros((2, 3, 4), np.uint8)
    left[:, :2], right[1, 3] = 255, 1
    left[0, 2] = 60  # a soft edge
    paths = (draw(tmp_path / "l.png", left), draw(tmp_path / "r.png", right))
    mask = read_mask(Source(paths, classes=(1, 2)))
    assert mask.values[0].tolist() == [[1, 1, 0, 0], [1, 1, 0, 2], [1, 1, 0, 0]]
    assert mask.overlap == 0
    assert read_mask(Source(paths[1:], classes=(2,))).values.max() == 2
    right[0, 0] = 1
    assert read_mask(Source((paths[0], draw(paths[1], right)), classes=(1, 2))).overlap == 1


HALF = np.zeros((8, 12), np.uint8)
HALF[2:7, 6:] = 1  # 30 pixels
RAMP = np.clip((np.arange(12) - 4) * 84, 0, 254).astype(np.uint8) * (HALF.max(1, keepdims=True) > 0)
RING = HALF.copy()
RING[2:7, 5] = 255


def of_palette(*colours: tuple[int, int, int]) -> Image.Image:
    image = Image.fromarray(HALF)
    image.putpalette([part for colour in colours for part in colour])
    return image


def in_colour(mask: np.ndarray, background: tuple[int, ...], colour: tuple[int, ...]) -> np.ndarray:
    return np.array([background, colour], np.uint8)[mask]


@pytest.mark.parametrize(
    ("mask", "drawn"),
    [
        pytest.param(RAMP, RAMP >= 127, id="soft edges up to 254"),
        pytest.param(RAMP.astype(np.uint16) * 200, RAMP >= 127, id="soft edges, 16 bits"),
        pytest.param(HALF * 7, HALF, id="the number of the class"),
        pytest.param((HALF * np.arange(12)).astype(np.uint8), HALF, id="numbers of objects"),
        pytest.param(HALF.astype(np.uint16) * (100 + np.arange(12) // 9).astype(np.uint16), HALF, id="two objects"),
        pytest.param(HALF + 254, HALF * 0 + 1, id="all is class"),
        pytest.param(of_palette((255, 255, 255), (0, 0, 0)), 1 - HALF, id="palette, white first"),
        pytest.param(of_palette((0, 0, 0), (128, 0, 0)), HALF, id="palette, red"),
        pytest.param(of_palette((0, 0, 0), (0, 0, 0)), HALF, id="palette without entries"),
        pytest.param(in_colour(HALF, (0, 0, 0), (0, 0, 128)), HALF, id="blue"),
        pytest.param(in_colour(HALF, (255, 255, 255, 0), (200, 0, 0, 255)), HALF, id="white, but transparent"),
    ],
)
def test_a_class_file_marks_what_an_eye_sees_in_it(tmp_path, mask, drawn):
    path = tmp_path / "p_leaf.png"
    (mask if isinstance(mask, Image.Image) else Image.fromarray(mask)).save(path)
    other = draw(tmp_path / "p_stem.png", HALF * 0)
    for place in (1, 2):
        paths = (path, other) if place == 1 else (other, path)
        assert (read_mask(Source(paths, classes=(1, 2))).values[0] == place * np.asarray(drawn)).all()


def test_what_a_class_file_calls_unlabelled_stays_so_where_no_class_is(tmp_path):
    np.save(tmp_path / "leaf.npy", np.where(RING == 255, -1, RING.astype(int)))
    tifffile.imwrite(tmp_path / "stem.tif", 255 - 254 * RING.clip(0, 1), extratags=[(42113, "s", 0, "255", True)])
    leaf, stem = tmp_path / "leaf.npy", tmp_path / "stem.tif"
    assert (read_mask(Source((leaf,), classes=(2,))).values[0] == np.where(RING == 255, -1, 2 * HALF.astype(int))).all()
    assert (read_mask(Source((stem,), classes=(2,))).values[0] == np.where(RING == 0, -1, 2)).all()
    assert read_mask(Source((stem, leaf), classes=(1, 2))).values.max() == SETS | 0b11


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (RING, "holds 0, 1 and up to 255, so that"),
        (np.where(HALF.T, 255, np.arange(8) // 4 * 128).astype(np.uint8), "holds 0, 128, 255, so that"),
        (in_colour(HALF, (255, 255, 255), (255, 0, 0)), "holds #ff0000, #ffffff, none of which is a background"),
    ],
)
def test_a_class_file_of_more_than_background_and_class_is_refused(tmp_path, mask, message):
    with pytest.raises(UserError, match=f"leaf.png is the mask of one class and {message}"):
        read_mask(Source((draw(tmp_path / "leaf.png", mask),), classes=(1,)))


def test_two_versions_of_a_mask_are_refused_with_the_option_for_each(tmp_path):
    chance = np.random.default_rng(0)
    for n in PLOTS:
        draw(tmp_path / f"images/p{n}.png", chance.integers(0, 255, (16, 16), np.uint8))
        for name, rows in (("leaf", slice(2, 12)), ("stem", slice(2, 11))):
            mask = np.zeros((16, 16), np.uint8)
            mask[rows] = 255
            draw(tmp_path / f"masks/p{n}_{name}.png", mask)
    card = examine(find_layout(tmp_path), DataConfig(data=tmp_path), Console(quiet=True))
    [problem] = card.refusals
    assert "leaf and stem mark 90% of their pixels both" in problem.text
    assert "--pair 'images/{id}=masks/{id}_leaf'" in problem.text
    assert card.labels.names == ("background", "leaf", "stem")
    named = DataConfig(data=tmp_path, classes="background,leaf,stem")
    assert examine(find_layout(tmp_path), named, Console(quiet=True)).labels.overlapping
