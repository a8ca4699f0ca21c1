"""What looks odd in data that can be read: found where it is, and not where it isn't."""

import numpy as np
import pytest
from conftest import pixels, write_pairs
from PIL import Image
from test_card import card_of, each


def kinds(data) -> list[str]:
    return [problem.kind for problem in card_of(data).problems]


@pytest.fixture
def many(tmp_path):
    """Twelve pairs."""
    return write_pairs(tmp_path / "data", count=12)


def copy(path, name) -> None:
    (path.parent / name).write_bytes(path.read_bytes())


def test_good_data_has_no_problems(many):
    assert kinds(many) == []


def test_the_same_image_twice(many):
    for part in ("images", "masks"):
        copy(many / part / "cell3.png", "copy.png")
    (problem,) = card_of(many).problems
    assert problem.kind == "same image"
    assert "cell3.png" in problem.text
    assert "copy.png" in problem.text
    assert not problem.refuses


def test_the_same_image_with_another_mask(many):
    copy(many / "images" / "cell3.png", "copy.png")
    Image.fromarray(255 - pixels(many / "masks" / "cell3.png")).save(many / "masks" / "copy.png")
    (problem,) = [problem for problem in card_of(many).problems if problem.kind == "different masks"]
    assert "100.0% of the pixels" in problem.text


def test_nearly_the_same_image_with_another_mask(many):
    image, mask = (pixels(many / part / "cell3.png") for part in ("images", "masks"))
    Image.fromarray((image // 2 * 2 + 1).clip(0, 255).astype(np.uint8)).save(many / "images" / "copy.png")
    Image.fromarray(np.roll(mask, 15, axis=1)).save(many / "masks" / "copy.png")
    (problem,) = card_of(many).problems
    assert problem.kind == "different masks"
    assert "nearly the same image" in problem.text


def test_the_same_image_in_train_and_test(tmp_path):
    root = tmp_path / "data"
    for split in ("train", "test"):
        write_pairs(root / split, count=4)
        if split == "test":
            each(root / split / "images", lambda image, index: image if index == 0 else image[::-1].copy())
    (problem,) = card_of(root).problems
    assert problem.kind == "leak"
    assert "in test and train" in problem.text


def test_a_mask_that_is_inverted_against_the_rest(tmp_path):
    data = tmp_path / "data"
    for part in ("images", "masks"):
        (data / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index in range(12):
        mask = np.zeros((60, 60), np.uint8)
        y, x = rng.integers(15, 30, 2)
        mask[y : y + 18, x : x + 15] = 255
        image = rng.integers(40, 70, (60, 60)) + 120 * (mask > 0)
        Image.fromarray(image.astype(np.uint8)).save(data / "images" / f"{index}.png")
        Image.fromarray(255 - mask if index == 7 else mask).save(data / "masks" / f"{index}.png")
    (problem,) = card_of(data).problems
    assert problem.kind == "inverted mask"
    assert "7.png" in problem.text


def test_a_constant_image(many):
    image = pixels(many / "images" / "cell2.png")
    Image.fromarray(np.full_like(image, 9)).save(many / "images" / "cell2.png")
    (problem,) = card_of(many).problems
    assert (problem.kind, "cell2.png is 9 everywhere" in problem.text) == ("constant image", True)


def test_a_leak_is_said_also_where_the_masks_differ_or_the_image_was_compressed(tmp_path):
    root = tmp_path / "data"
    for split in ("train", "test"):
        write_pairs(root / split, count=4)
    for name in ("cell1", "cell2", "cell3"):
        for part in ("images", "masks"):
            (root / "test" / part / f"{name}.png").unlink()
    mask = root / "test" / "masks" / "cell0.png"
    Image.fromarray(255 - pixels(mask)).save(mask)
    assert kinds(root) == ["leak", "different masks"]
    image = root / "test" / "images" / "cell0.png"
    Image.fromarray((pixels(image) // 2 * 2 + 1).clip(0, 255).astype(np.uint8)).save(image)
    assert "leak" in kinds(root)


def test_images_that_differ_in_a_few_pixels_only_are_not_the_same(tmp_path):
    data = tmp_path / "data"
    for part in ("images", "masks"):
        (data / part).mkdir(parents=True)
    for index in range(4):
        image, mask = np.zeros((2, 128, 128), np.uint8)
        image[40:60, 40:60] = mask[40:60, 40:60] = 200
        image[1 + 4 * index, 1] = 90
        Image.fromarray(image).save(data / "images" / f"{index}.png")
        Image.fromarray(mask).save(data / "masks" / f"{index}.png")
    assert "same image" not in kinds(data)


def test_masks_without_any_foreground(many):
    each(many / "masks", lambda mask, _: np.zeros_like(mask))
    (problem,) = card_of(many).refusals
    assert (problem.kind, "anything but background" in problem.text) == ("one class", True)
    each(many / "masks", lambda mask, _: np.full_like(mask, 255))
    assert card_of(many).refusals[0].kind == "one class"


def test_a_class_that_no_mask_shows(many, tmp_path):
    (tmp_path / "classes.toml").write_text("background = 0\ncell = 255\nother = 77\n")
    problems = card_of(many, classes=str(tmp_path / "classes.toml")).problems
    assert [problem.text for problem in problems] == ["no mask holds the class other: is its value right?"]
