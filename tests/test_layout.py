"""Which image goes with which mask: folders as data sets have them, the files empty, and the pairs a person sees."""

from pathlib import Path

import pytest

from unet_cli.data.folder.channels import merge_channels
from unet_cli.data.folder.layout import find_layout, masks_among
from unet_cli.data.folder.path_rules import option_for
from unet_cli.data.folder.walk import walk
from unet_cli.errors import UserError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def partners(root: Path, split: str = "train", **given: str) -> dict[str, str]:
    """Paths of images and masks below the root; of several files all."""

    def below(paths):
        return " ".join(path.relative_to(root).as_posix() for path in paths)

    return {below(pair.image.paths): below(pair.mask.paths) for pair in find_layout(root, **given).splits[split]}


@pytest.mark.parametrize(
    "pairs",
    [
        {"images/1.jpg": "masks/1.gif", "images/2.TIF": "masks/2.png"},
        {"imgs/1.png": "labels/1_mask.png", "imgs/11.png": "labels/11_mask.png"},
        {"Images/a.png": "GT/a.png"},
        {"JPEGImages/a.jpg": "SegmentationClass/a.png"},
        {"input/a.jpg": "ground_truth/a.png"},
        {"images/mouse/1.png": "masks/mouse/1.png", "images/rat/1.png": "masks/rat/1.png"},
        {"mouse/images/1.png": "mouse/masks/1.png", "rat/images/1.png": "rat/masks/1.png"},
        {"Slide_01/01_1.png": "GT_01/01_1.png", "Slide_02/02_1.png": "GT_02/02_1.png"},
        {"photos/a.png": "masks/a.png"},
        {"train/a.jpg": "train_masks/a_mask.gif", "train/b.jpg": "train_masks/b_mask.gif"},
        {"train/a.jpg": "masks/a.png"},
        {"train/images/a.png": "train/masks/a.png"},
        {"images/train/a.png": "masks/train/a.png"},
        {"train_images/a.png": "train_masks/a.png"},
        {"imagesTr/a_0000.png": "labelsTr/a.png", "imagesTr/b_0000.png": "labelsTr/b.png"},
        {"images/train2017/a.jpg": "annotations/train2017/a.png"},
        {"a.png": "a_mask.png", "b.png": "b_mask.png"},
        {"images/a.png": "images/a_mask.png", "images/b.png": "images/b_mask.png"},
        {"benign/a (1).png": "benign/a (1)_mask.png", "normal/a (1).png": "normal/a (1)_mask.png"},
        {"train/a_img.png": "train/a_seg.png", "train/b_img.png": "train/b_seg.png"},
        {"train-volume.tif": "train-labels.tif"},
        {"label_free/a.png": "label_free/a_mask.png", "label_free/b.png": "label_free/b_mask.png"},
        {"training/images/21_training.tif": "training/1st_manual/21_manual1.gif"},
        {"p1/scan.png": "p1/label.png", "p2/scan.png": "p2/label.png"},
        {"images/xyz.png": "masks/abc.png"},
        {"images/movie_0000.png": "masks/movie_0000.png", "images/movie_0001.png": "masks/movie_0001.png"},
        {"7.jpg": "7.png", "8.jpg": "8.png"},
        {"images/7.JPG": "images/7.PNG", "images/8.JPG": "images/8.PNG"},
        {"7.svs": "7.tif", "8.svs": "8.tif"},
        {"7.tif": "7.mat", "8.tif": "8.mat"},
        {"a/7.jpeg": "a/7.bmp", "b/8.jpeg": "b/8.bmp"},
        {"7.jpg": "7.jpg.png", "8.jpg": "8.jpg.png"},
        {"train/a.png": "trainannot/a.png", "train/b.png": "trainannot/b.png"},
        {"CamVid/train/a.png": "CamVid/trainannot/a.png", "CamVid/train/b.png": "CamVid/trainannot/b.png"},
        {"trainimages/a.png": "trainlabels/a.png"},
        {"tiles/B7 (2).svs [x=0,y=9].jpg": "tiles/B7 (2).svs [x=0,y=9]-labelled.png"},
        {"t/a.tif": "t/a_labeled.tif", "t/b.tif": "t/b_labeled.tif"},
        {"labeled/a.png": "labeled/a_mask.png", "labeled/b.png": "labeled/b_mask.png"},
        {"images/a.ome.tif": "masks/a.tif", "images/b.tif": "masks/b.tif", "images/c.tif": "masks/c.ome.tif"},
        {"images/a.jpg": "masks/a.jpg.png", "images/b.png": "masks/b.png.png", "images/c.png": "masks/c.png"},
        {"images/a.jpg": "masks/a.jpg_mask.png", "images/b.png": "masks/b.png_mask.png"},
    ],
)
def test_folders_and_names_that_are_understood(tmp_path, pairs):
    touch(tmp_path, *pairs, *pairs.values())
    layout = find_layout(tmp_path)
    assert partners(tmp_path) == pairs
    assert (layout.left, layout.notes, list(layout.splits)) == ((), (), ["train"])


def test_pairs_are_named_by_what_is_no_role_and_sorted_as_people_count(tmp_path):
    touch(tmp_path, *(f"train/{role}/mouse/{n}.png" for role in ("images", "masks") for n in (10, 9, 1)))
    assert [pair.name for pair in find_layout(tmp_path).splits["train"]] == ["mouse/1", "mouse/9", "mouse/10"]


@pytest.mark.parametrize("form", ["{split}/{role}/", "{role}/{split}/", "{split}_{role}/", "{split}/"])
def test_train_val_and_test_folders(tmp_path, form):
    for split, name in (("train", "a"), ("validation", "b"), ("Test", "c")):
        for role, end in (("images", ""), ("masks", "_mask")):
            touch(tmp_path, form.format(split=split, role=role) + name + end + ".png")
    splits = find_layout(tmp_path).splits
    assert {split: [pair.name for pair in pairs] for split, pairs in splits.items()} == {
        "train": ["a"], "val": ["b"], "test": ["c"],
    }  # fmt: skip


def test_folders_below_one_of_masks_hold_no_images(tmp_path):
    numbers = range(3)
    touch(tmp_path, *(f"01/t{n}.tif" for n in numbers), *(f"01_GT/SEG/man_seg{n}.tif" for n in numbers))
    touch(tmp_path, *(f"01_GT/TRA/man_track{n}.tif" for n in numbers))
    assert partners(tmp_path)["01/t2.tif"] == "01_GT/SEG/man_seg2.tif"
    assert find_layout(tmp_path).notes == (f"{tmp_path / '01_GT/TRA'} is not used: 3 image files",)


def test_the_rules_of_all_splits_are_told(tmp_path):
    touch(tmp_path, "train/images/1.png", "train/masks/1.png", "val/images/2.png", "val/masks/2_m.png")
    assert find_layout(tmp_path).rule == "images and masks of the same name; mask NAME_m for image NAME"


def test_pairs_at_the_top_are_for_training_beside_a_test_folder(tmp_path):
    touch(tmp_path, "images/a.png", "masks/a.png", "test/images/b.png", "test/masks/b.png")
    assert partners(tmp_path) == {"images/a.png": "masks/a.png"}
    assert partners(tmp_path, "test") == {"test/images/b.png": "test/masks/b.png"}


def test_what_is_not_used_is_said_once_a_folder(tmp_path):
    touch(tmp_path, "train/images/a.png", "train/masks/a.png", "train/labels16/a.png", "test/b.png", "test/c.png")
    touch(tmp_path, "extra/a.png", "extra/b.png")
    layout = find_layout(tmp_path)
    assert partners(tmp_path) == {"train/images/a.png": "train/masks/a.png"}
    assert layout.notes == (
        "the test folder has no pairs of images and masks and is not used: 2 image files",
        f"{tmp_path / 'extra'} is not used: 2 image files",
        f"{tmp_path / 'train/labels16'} is not used: 1 image file",
    )


def test_files_that_systems_leave_behind_are_passed_over(tmp_path):
    touch(tmp_path, "images/a.png", "images/.DS_Store", "images/._a.png", "images/Thumbs.db", "__MACOSX/images/a.png")
    touch(tmp_path, "masks/a.png", "masks/.a.png", ".cache/b.png", "masks/notes.txt")
    assert partners(tmp_path) == {"images/a.png": "masks/a.png"}


def test_walking_counts_as_people_do_and_ends_where_links_go_round(tmp_path):
    touch(tmp_path, "b2.png", "b10.png", "B1.png", "c/d.png")
    (tmp_path / "c" / "again").symlink_to(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in walk(tmp_path)] == [
        "B1.png", "b2.png", "b10.png", "c/d.png",
    ]  # fmt: skip


def test_everything_that_is_left_over_is_listed(tmp_path):
    touch(tmp_path, "images/a.png", "images/b.png", "images/c.png", "masks/a_m.png", "masks/c_m.png", "masks/d_m.png")
    layout = find_layout(tmp_path)
    assert [pair.name for pair in layout.splits["train"]] == ["a", "c"]
    assert layout.left == (
        f"image without a mask: {tmp_path / 'images/b.png'}", f"mask without an image: {tmp_path / 'masks/d_m.png'}",
    )  # fmt: skip


def test_the_same_name_twice_is_refused_and_all_such_are_listed(tmp_path):
    touch(tmp_path, "images/a.png", "images/a.jpg", "images/b.png", "images/b.tif", "masks/a.png", "masks/b.png")
    with pytest.raises(UserError, match=r"a.jpg and .*a.png differ in their extension alone(.|\n)*b.tif"):
        find_layout(tmp_path)


# --- several files, one image or mask


@pytest.mark.parametrize("form", ["{id}/images/{id}.png", "{id}/images/x7.png", "images/{id}.png"])
def test_the_masks_of_a_folder_are_the_objects_of_one_image(tmp_path, form):
    masks = "masks/{id}/{n}.png" if form.startswith("images") else "{id}/masks/{n}.png"
    for name, objects in (("ab1", 3), ("cd2", 1), ("ef3", 2)):
        touch(tmp_path, form.format(id=name), *(masks.format(id=name, n=f"{name[0]}{n}q") for n in range(objects)))
    layout = find_layout(tmp_path)
    assert [(pair.name, len(pair.mask.paths)) for pair in layout.splits["train"]] == [
        ("ab1", 3),
        ("cd2", 1),
        ("ef3", 2),
    ]
    assert all(pair.name in str(pair.image.path) for pair in layout.splits["train"])
    assert layout.notes == ("6 mask files, one for each object, make 3 masks",)


def test_one_folder_for_each_sample_whatever_the_names_in_it(tmp_path):
    pairs = {"p1/images/k.png": "p1/masks/u.png", "p2/images/w.png": "p2/masks/q.png"}
    touch(tmp_path, *pairs, *pairs.values())
    assert partners(tmp_path) == pairs


def test_masks_of_mirrored_folders_are_no_objects(tmp_path):
    touch(tmp_path, "images/rat/1.png", "images/rat/2.png", "images/mouse/1.png", "images/mouse/2.png")
    touch(tmp_path, "masks/rat/1.png", "masks/rat/2.png", "masks/mouse/1.png", "masks/mouse/3.png")
    assert len(find_layout(tmp_path).left) == 2
    other = touch(tmp_path / "b", *(f"masks/{folder}/{n}.png" for folder in ("rat", "cat") for n in (1, 2)))
    with pytest.raises(UserError, match="two rules"):
        find_layout(touch(other, "images/rat/1.png", "images/cat/1.png"))


def test_channels_in_files_of_their_own_make_one_image(tmp_path):
    touch(tmp_path, *(f"imagesTr/c{n}_{channel:04}.png" for n in range(5) for channel in range(3)))
    touch(tmp_path, *(f"labelsTr/c{n}.png" for n in range(5)))
    layout = find_layout(tmp_path)
    assert layout.files_per_image == 3
    assert layout.notes == ("3 files make one image, a channel each: ID_0000 to ID_0002",)
    assert partners(tmp_path)["imagesTr/c1_0000.png imagesTr/c1_0001.png imagesTr/c1_0002.png"] == "labelsTr/c1.png"
    (tmp_path / "imagesTr/c4_0001.png").unlink()
    layout = find_layout(tmp_path)
    assert layout.left == (f"image without its channel 0001: {tmp_path / 'imagesTr/c4_0000.png'}",)
    assert len(layout.splits["train"]) == 4


def test_frames_with_a_mask_each_are_no_channels(tmp_path):
    touch(tmp_path, *(f"images/movie_{n:04}.png" for n in range(6)), *(f"masks/movie_{n:04}.png" for n in range(4)))
    layout = find_layout(tmp_path)
    assert (layout.files_per_image, len(layout.splits["train"]), len(layout.left)) == (1, 4, 2)
    other = touch(tmp_path / "b", *(f"images/{movie}_{n:04}.png" for movie in "kl" for n in range(4)))
    layout = find_layout(touch(other, "masks/k_0000.png", "masks/k_0001.png", "masks/l_0000.png"))
    assert (layout.files_per_image, len(layout.splits["train"]), len(layout.left)) == (1, 3, 5)


def test_channels_are_put_together_and_what_is_no_channel_stays_alone(tmp_path):
    names = ("a_0001.png", "a_0000.png", "b_0000.png", "c.png")
    found = merge_channels([tmp_path / name for name in names])
    assert [(place.name, [path.name for path in paths]) for place, paths in found] == [
        ("a", ["a_0000.png", "a_0001.png"]), ("b", ["b_0000.png"]), ("c", ["c.png"]),
    ]  # fmt: skip


@pytest.fixture
def several(tmp_path):
    """Two kinds of masks, in train and test."""
    folders = ("images", "masks", "labels16")
    return touch(tmp_path, *(f"{split}/{folder}/a.png" for split in ("train", "test") for folder in folders))


def test_a_folder_that_is_named_is_found_in_every_split(several):
    for split in ("train", "test"):
        assert partners(several, split, masks="labels16") == {f"{split}/images/a.png": f"{split}/labels16/a.png"}
    assert f"{several / 'train/masks'} is not used: 1 image file" in find_layout(several, masks="labels16").notes


def test_folders_are_found_from_the_data_and_from_here(several, monkeypatch):
    expected = {"train/images/a.png": "train/labels16/a.png"}
    assert partners(several, images="train/images", masks="train/labels16") == expected
    assert partners(several, images=str(several / "train/images"), masks="train/labels16") == expected
    monkeypatch.chdir(several / "train")
    layout = find_layout(None, images="images", masks="labels16")
    assert layout.root == several / "train"
    assert [pair.mask.path for pair in layout.splits["train"]] == [several / "train/labels16/a.png"]
    assert partners(several, masks="labels16") == {
        "train/images/a.png": "train/labels16/a.png"
    }  # here, not everywhere below the data


def test_naming_one_side_is_enough(tmp_path):
    touch(tmp_path, "fluo/a.png", "outlines/a.png")
    assert partners(tmp_path, images="fluo") == {"fluo/a.png": "outlines/a.png"}
    assert partners(tmp_path, masks="outlines") == {"fluo/a.png": "outlines/a.png"}


def test_naming_one_of_two_rivals_settles_it(tmp_path):
    touch(tmp_path, "images/a.png", "imgs/a.png", "masks/a.png", "labels/a.png")
    assert partners(tmp_path, images="imgs", masks="labels") == {"imgs/a.png": "labels/a.png"}
    with pytest.raises(UserError, match="labels and masks, which could each be meant: say which with --masks"):
        find_layout(tmp_path, images="imgs")


def test_single_files_are_a_pair_whatever_their_names(tmp_path):
    touch(tmp_path, "stack_01.tif", "truth_02.tif", "other.tif")
    assert partners(tmp_path, images="stack_01.tif", masks="truth_02.tif") == {"stack_01.tif": "truth_02.tif"}
    alone = find_layout(None, images=str(tmp_path / "stack_01.tif"), masks=str(tmp_path / "truth_02.tif"))
    assert (alone.root, len(alone.splits["train"])) == (tmp_path, 1)


def test_a_folder_that_is_not_there_is_answered_with_the_nearest(several, tmp_path):
    with pytest.raises(UserError, match="--masks lables16 does not exist .* folders there are labels16"):
        find_layout(several, masks="lables16")
    with pytest.raises(UserError, match="nowhere does not exist"):
        find_layout(None, images="nowhere", masks=str(several))
    with pytest.raises(UserError, match="--data, or --images and --masks"):
        find_layout(None, images=str(several))


def test_a_rule_by_hand(tmp_path):
    touch(
        tmp_path,
        "raw/7_x.png",
        "raw/8_y.jpg",
        "raw/9_z.png",
        "out/007.png",
        "out/008.png",
        "out/010.png",
        "other/1.png",
    )
    layout = find_layout(tmp_path, pair="raw/{id}_*=out/{id}.png")
    assert partners(tmp_path, pair="raw/{id}_*.*=out/{id}") == {
        "raw/7_x.png": "out/007.png", "raw/8_y.jpg": "out/008.png",
    }  # fmt: skip
    assert layout.left == (
        f"image without a mask: {tmp_path / 'raw/9_z.png'}", f"mask without an image: {tmp_path / 'out/010.png'}",
    )  # fmt: skip
    assert layout.notes == (f"{tmp_path / 'other'} is not used: 1 image file",)
    assert list(partners(tmp_path, pair="raw/{id}_*.png=out/{id}.png")) == ["raw/7_x.png"]


def test_a_rule_by_hand_keeps_splits_and_tells_masks_from_images(tmp_path):
    touch(tmp_path, "train/a.png", "train/a_m.png", "test/b.png", "test/b_m.png", "train/c_m.png")
    layout = find_layout(tmp_path, pair="{id}={id}_m")
    assert {split: [pair.name for pair in pairs] for split, pairs in layout.splits.items()} == {
        "train": ["train/a"], "test": ["test/b"],
    }  # fmt: skip
    assert layout.left == (f"mask without an image: {tmp_path / 'train/c_m.png'}",)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"pair": "a/{id}=b/{id}", "masks": "x"}, "leave out --images and --masks"),
        ({"pair": "a/{id}=b/{id}"}, "pairs nothing: it fits 0 files as images and 0 as masks, of 6"),
        ({"pair": "{id}={id}"}, "an image and a mask"),
        ({"pair": "test/images/{id}=test/masks/{id}"}, "no files to train on"),
        ({"masks": "notes.txt"}, "is no image file"),
        ({"masks": "empty"}, "empty holds no images"),
    ],
)
def test_what_the_user_says_and_cannot_be(several, given, message):
    touch(several, "notes.txt", "empty/notes.txt")
    with pytest.raises(UserError, match=message):
        find_layout(several, **given)


# --- what is no data set


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "no images folder beside a masks folder; it holds nothing"),
        (["photos/a.png"], r"it holds photos/"),
        (["images/a.png"], "no images folder beside a masks folder"),
        (["images/a.txt", "masks/a.png"], "images holds no images"),
        (["images/a.png", "masks/a.txt"], "masks holds no images"),
        (["val/images/a.png", "val/masks/a.png"], "no images folder beside a masks folder; it holds val/"),
        (["train/images/a.png", "train/masks/a.png", "val/images/a.png"], "val has no images folder"),
        (["images/a.png", "images/b.png", "masks/k.png", "masks/l.png"], "no rule"),
        (["images/a.png", "imgs/a.png", "masks/a.png"], "images and imgs, which could each be meant"),
        (["images/a.png", "masks/a.png", "labels/a.png"], "labels and masks, which could each be meant"),
        (
            ["training/images/1.tif", "training/1st_manual/1.gif", "training/mask/1.gif"],
            "1st_manual and .*mask, which could",
        ),
        (["images/a.png", "masks/a.png", "train/images/b.png", "train/masks/b.png"], "masks folders and also train"),
    ],
)
def test_what_is_no_data_set_is_explained(tmp_path, files, message):
    with pytest.raises(UserError, match=message):
        find_layout(touch(tmp_path, *files))


def test_a_missing_folder_and_a_file_are_told_apart(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        find_layout(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is a file"):
        find_layout(touch(tmp_path, "a.zip") / "a.zip")


def test_predictions_beside_the_images_are_not_the_truth(tmp_path):
    touch(tmp_path, "images/a.png", "masks/a.png", "images_masks/a.png")
    layout = find_layout(tmp_path)
    assert [str(pair.mask.path.parent.name) for pair in layout.splits["train"]] == ["masks"]
    assert any("images_masks is not used" in note for note in layout.notes)


def test_what_cellpose_writes_for_itself_is_passed_over(tmp_path):
    for end in (".tif", "_seg.npy", "_cp_masks.png", "_flows.tif", "_cp_outlines.png"):
        touch(tmp_path, *(f"train/well_{n}{end}" for n in range(3)))
    assert partners(tmp_path) == {f"train/well_{n}.tif": f"train/well_{n}_cp_masks.png" for n in range(3)}
    [note] = find_layout(tmp_path).notes
    assert note.startswith("passed over: 9 that Cellpose wrote for itself, such as well_0_")


def test_splits_whose_masks_are_in_folders_with_run_together_names(tmp_path):
    touch(
        tmp_path,
        *(f"{split}{end}/{n}.png" for split in ("train", "val", "test") for end in ("", "annot") for n in "ab"),
    )
    assert [*find_layout(tmp_path).splits] == ["train", "val", "test"]
    assert partners(tmp_path, "val") == {"val/a.png": "valannot/a.png", "val/b.png": "valannot/b.png"}


def test_images_without_a_mask_are_counted_or_taken_as_background(tmp_path):
    touch(tmp_path, *(f"{n}_sat.jpg" for n in range(5)), "0_mask.png", "3_mask.png")
    layout = find_layout(tmp_path)
    assert (layout.unmasked, len(layout.left)) == (3, 3)
    taken = find_layout(tmp_path, takes_missing=True)
    assert [pair.mask.is_blank for pair in taken.splits["train"]] == [False, True, True, False, True]
    assert (taken.unmasked, taken.left) == (0, ())
    assert "3 images without a mask, or without one of them: taken as background" in taken.notes
    by_hand = find_layout(tmp_path, pair="{id}_sat={id}_mask", takes_missing=True)
    assert [pair.mask.is_blank for pair in by_hand.splits["train"]] == [False, True, True, False, True]


def test_of_two_types_neither_of_which_is_a_photograph_the_user_is_asked(tmp_path):
    touch(tmp_path, *(f"{n}.{end}" for n in range(4) for end in ("tif", "png")))
    with pytest.raises(UserError, match="which are the images") as caught:
        find_layout(tmp_path)
    for option in ("{id}.png={id}.tif", "{id}.tif={id}.png"):
        assert f"--pair '{option}'" in str(caught.value)
        assert len(find_layout(tmp_path, pair=option).splits["train"]) == 4


def test_one_folder_a_sample_with_two_pictures_of_its_mask_shows_both_rules(tmp_path):
    touch(tmp_path, *(f"s{n}_json/{name}.png" for n in range(3) for name in ("img", "label", "label_viz")))
    with pytest.raises(UserError) as caught:
        find_layout(tmp_path)
    for option in ("{id}/img={id}/label", "{id}/img={id}/label_viz"):
        assert f"--pair '{option}'" in str(caught.value)
        [first, *_] = find_layout(tmp_path, pair=option).splits["train"]
        assert first.mask.path == tmp_path / "s0_json" / f"{option.rpartition('/')[2]}.png"


def test_a_second_annotator_is_chosen_by_a_flag_that_the_message_gives(tmp_path):
    touch(tmp_path, *(f"{folder}/{n}.tif" for folder in ("images", "1st_manual", "2nd_manual") for n in range(3)))
    with pytest.raises(UserError, match="--masks 1st_manual or --masks 2nd_manual"):
        find_layout(tmp_path)
    assert partners(tmp_path, masks="2nd_manual")["images/0.tif"] == "2nd_manual/0.tif"


@pytest.mark.parametrize(
    ("given", "meant"),
    [("train/images", "train"), ("images2/train", "."), ("train", None)],
)
def test_a_folder_given_one_level_too_low_is_answered_with_the_one_above(tmp_path, given, meant):
    touch(tmp_path, "train/images/a.png", "train/masks/a.png")
    if given.startswith("images2"):
        touch(tmp_path, "masks/train/a.png", "imgs/train/a.png")
        given = "imgs/train"
    if meant is None:
        touch(tmp_path, "b/train/a.png", "b/trainannot/a.png")
        given, meant = "b/train", "b"
    with pytest.raises(UserError) as caught:
        find_layout(tmp_path / given)
    assert f"did you mean --data {tmp_path / meant}?" in str(caught.value)


def test_a_folder_given_one_level_too_high_is_answered_with_the_sets_below(tmp_path):
    touch(tmp_path, "one/images/a.png", "one/masks/a.png", "two/train/images/a.png", "two/train/masks/a.png")
    with pytest.raises(UserError) as caught:
        find_layout(tmp_path)
    for folder in ("one", "two"):
        assert f"By itself this is a data set: --data {tmp_path / folder}" in str(caught.value)


def test_folders_that_speak_against_the_flags_raise_the_question(tmp_path):
    touch(tmp_path, "images/a.png", "masks/a.png")
    assert find_layout(tmp_path, images="masks", masks="images").notes == (
        "are images and masks swapped? --images is masks and --masks images",
    )


def test_masks_are_known_again_by_what_training_knew(tmp_path):
    touch(tmp_path, "x/7.jpg", "x/7.png", "x/9.png", "y/7.png", "masks/1.png", "labels16/2.png", "x/8.jpg")
    paths = list(walk(tmp_path))

    def masks(**training: object) -> set[str]:
        return {path.relative_to(tmp_path).as_posix() for path in masks_among(tmp_path, paths, training)}

    assert masks() == {"masks/1.png"}
    assert masks(masks="labels16") == {"masks/1.png", "labels16/2.png"}
    assert masks(masks_beside=["{id}.jpg={id}.png"]) == {"masks/1.png", "x/7.png"}
    assert masks(pair="x/{id}.jpg=y/{id}.png") == {"masks/1.png", "y/7.png"}
    alone = [path for path in paths if path.parent.name == "masks"]
    assert masks_among(tmp_path, alone, {}) == set()


def test_the_options_for_several_rules_hold_for_all_splits_and_for_folders_that_were_given(tmp_path):
    touch(tmp_path, *(f"{split}/images/{n}.png" for split in ("train", "val") for n in range(3)))
    ends = ("alice_v1", "bob_v2")
    touch(tmp_path, *(f"{split}/masks/{n}_{end}.png" for split in ("train", "val") for n in range(3) for end in ends))
    with pytest.raises(UserError) as caught:
        find_layout(tmp_path)
    options = [line.split("'")[1] for line in str(caught.value).splitlines() if "--pair" in line]
    assert len(options) == 2
    for chosen, end in zip(options, ends, strict=True):
        layout = find_layout(tmp_path, pair=chosen)
        assert layout.splits["train"][0].mask.path.name == f"0_{end}.png"
    with pytest.raises(UserError, match=f"--data {tmp_path / 'train'} --pair '"):
        find_layout(None, images=str(tmp_path / "train/images"), masks=str(tmp_path / "train/masks"))


def test_what_is_passed_over_in_folders_that_were_given_is_counted_too(tmp_path):
    touch(tmp_path, "a/1.png", "a/1.json", "b/1.png", "b/notes.txt")
    layout = find_layout(None, images=str(tmp_path / "a"), masks=str(tmp_path / "b"))
    assert layout.notes == ("passed over: 1 .json, 1 .txt",)


@pytest.mark.parametrize(
    ("mask", "rules"),
    [
        ("images/{}_mask.png", ("{id}={id}_mask",)),
        ("masks/{}_mask.png", ("{id}={id}_mask",)),
        ("images/{}.png", ("{id}.jpg={id}.png",)),
        ("masks/{}.png", ()),
        ("masks/{}/17.png", ()),
    ],
)
def test_how_masks_are_called_is_kept_where_their_names_tell_them_from_images(tmp_path, mask, rules):
    touch(tmp_path, *(f"images/{n}.jpg" for n in "abc"), *(mask.format(n) for n in "abc"))
    assert find_layout(tmp_path).beside == rules


def test_an_option_makes_the_pairs_and_names_types_only_where_they_tell(tmp_path):
    touch(tmp_path, *(f"x/{n}.{end}" for n in "ab" for end in ("jpg", "png")), "x/a_m.png", "x/b_m.png")
    inside = list(walk(tmp_path))
    twins = [(tmp_path / f"x/{n}.jpg", tmp_path / f"x/{n}.png") for n in "ab"]
    assert option_for(tmp_path, twins, inside) == "--pair '{id}.jpg={id}.png'"
    png = [path for path in inside if path.suffix == ".png"]
    masks = [(tmp_path / f"x/{n}.png", tmp_path / f"x/{n}_m.png") for n in "ab"]
    assert option_for(tmp_path, masks, png) == "--pair '{id}={id}_m'"


def test_of_rival_folders_in_a_split_those_are_offered_by_name_that_other_splits_have_too(tmp_path):
    for split, folders in (("training", ("1st_manual", "mask")), ("test", ("1st_manual", "2nd_manual", "mask"))):
        for number in (1, 2, 3):
            for folder in ("images", *folders):
                path = tmp_path / split / folder / f"{number}_{folder}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
    with pytest.raises(UserError, match="say which with --masks 1st_manual or --masks mask$"):
        find_layout(tmp_path)
    layout = find_layout(tmp_path, masks="1st_manual")
    assert {split: len(pairs) for split, pairs in layout.splits.items()} == {"train": 3, "test": 3}


def test_a_folder_in_which_types_alone_tell_masks_is_not_offered_as_a_data_set(tmp_path):
    for number in range(4):
        for form in ("Training_Data/x{}.jpg", "Training_Data/x{}_superpixels.png", "GroundTruth/x{}_segmentation.png"):
            path = tmp_path / form.format(number)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    with pytest.raises(UserError, match="two rules pair") as caught:
        find_layout(tmp_path)
    assert "By itself" not in str(caught.value)
    assert len(find_layout(tmp_path / "Training_Data").splits["train"]) == 4
