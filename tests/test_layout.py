"""Which image goes with which mask, from names alone."""

from pathlib import Path

import pytest

from unet_cli.data.layout import find_layout
from unet_cli.errors import UserError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def partners(root: Path, split: str = "train") -> dict[str, str]:
    return {pair.image.name: pair.mask.name for pair in find_layout(root).splits[split]}


def test_same_names_whatever_the_extensions(tmp_path):
    touch(tmp_path, "images/1.jpg", "images/2.TIF", "masks/2.png", "masks/1.gif")
    assert partners(tmp_path) == {"1.jpg": "1.gif", "2.TIF": "2.png"}


def test_one_suffix_that_all_masks_share(tmp_path):
    touch(tmp_path, "imgs/1.png", "imgs/11.png", "labels/11_mask.png", "labels/1_mask.png")
    assert partners(tmp_path) == {"1.png": "1_mask.png", "11.png": "11_mask.png"}
    assert find_layout(tmp_path).rule == "mask NAME_mask for image NAME"


def test_folder_names_in_any_case(tmp_path):
    touch(tmp_path, "Images/a.png", "GT/a.png")
    assert partners(tmp_path) == {"a.png": "a.png"}


def test_sub_folders_that_mirror_each_other(tmp_path):
    touch(tmp_path, "images/mouse/1.png", "images/rat/1.png", "masks/mouse/1.png", "masks/rat/1.png")
    assert [pair.name for pair in find_layout(tmp_path).splits["train"]] == ["mouse/1", "rat/1"]


def test_train_val_and_test_folders(tmp_path):
    touch(tmp_path, "train/images/a.png", "train/masks/a.png", "validation/images/b.png", "validation/masks/b.png")
    touch(tmp_path, "test/images/c.png", "test/masks/c.png")
    splits = find_layout(tmp_path).splits
    assert {split: [pair.name for pair in pairs] for split, pairs in splits.items()} == {
        "train": ["a"], "val": ["b"], "test": ["c"],
    }  # fmt: skip


def test_files_that_systems_leave_behind_are_passed_over(tmp_path):
    touch(
        tmp_path,
        "images/a.png",
        "images/.DS_Store",
        "images/._a.png",
        "images/Thumbs.db",
        "masks/a.png",
        "masks/.a.png",
    )
    assert partners(tmp_path) == {"a.png": "a.png"}


def test_everything_that_is_left_over_is_listed_at_once(tmp_path):
    touch(tmp_path, "images/a.png", "images/b.png", "images/c.png", "masks/a_m.png", "masks/d_m.png", "masks/e.png")
    with pytest.raises(UserError) as caught:
        find_layout(tmp_path)
    for left in ("images/b.png", "images/c.png", "masks/d_m.png", "masks/e.png"):
        assert str(tmp_path / left) in str(caught.value)
    assert str(tmp_path / "images/a.png") not in str(caught.value)


def test_the_same_name_twice_is_refused(tmp_path):
    touch(tmp_path, "images/a.png", "images/a.jpg", "masks/a.png")
    with pytest.raises(UserError, match="differ in their extension alone"):
        find_layout(tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "no images folder beside a masks folder; it holds nothing"),
        (["photos/a.png"], r"it holds photos/"),
        (["images/a.png"], "no images folder beside a masks folder"),
        (["images/a.txt", "masks/a.png"], "images holds no images"),
        (["images/a.png", "masks/a.txt"], "masks holds no images"),
        (["val/images/a.png", "val/masks/a.png"], "no images folder beside a masks folder"),
        (["train/images/a.png", "train/masks/a.png", "val/images/a.png"], "val has no images folder"),
    ],
)
def test_what_is_no_data_set_is_explained(tmp_path, files, message):
    with pytest.raises(UserError, match=message):
        find_layout(touch(tmp_path, *files))


def test_folders_that_could_each_be_meant_are_not_chosen_between(tmp_path):
    touch(tmp_path, "images/a.png", "imgs/a.png", "masks/a.png")
    with pytest.raises(UserError, match="images and imgs, which could each be meant"):
        find_layout(tmp_path)
    other = touch(tmp_path / "other", "images/a.png", "masks/a.png", "train/images/b.png", "train/masks/b.png")
    with pytest.raises(UserError, match="images and masks folders and also train"):
        find_layout(other)


def test_a_missing_folder_and_a_file_are_told_apart(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        find_layout(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is a file"):
        find_layout(touch(tmp_path, "a.zip") / "a.zip")
