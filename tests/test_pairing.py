"""Which image name goes with which mask name: the rows are names of real data sets, their partners written by hand."""

import random

import pytest

from unet_cli.data.folder.name_rules import Rule, apply_rule, parse_pair
from unet_cli.data.folder.pairing import find_rule, split_mixed
from unet_cli.errors import UserError


def partners(images, masks):
    return dict(find_rule(images, masks).pairs)


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("{}", "{}"),
        ("{}", "{}_mask"),
        ("{}", "mask_{}"),
        ("{}_training", "{}_manual1"),
        ("t{:03}", "man_seg{:03}"),
        ("{:02}", "labels{:08}"),
        ("{}", "{:04}"),
        ("scan_{:04}_raw", "gt_{:04}_v2"),
        ("patient{0}_image_slice{0}", "patient{0}_mask_slice{0}"),
        ("case_{}", "case_seg_{}"),
        ("scan{}", "scan_mask{}"),
        ("benign ({})", "benign ({})_mask"),
        ("IMG_{}", "img_{}"),
        ("Frame_{}_RGB", "frame_{:05}_seg"),
        ("mouse{}/7", "labels_mouse{}/7"),
        ("img [{}]+{{x}}\n*", "seg [{}]+{{x}}\n*"),
        ("größe_{}", "größe_{}_maske"),
        ("x{}.v1", "x{}.v2"),
    ],
)
def test_names_that_a_rule_pairs(image, mask):
    images, masks = ([side.format(n) for n in range(1, 31)] for side in (image, mask))
    shuffled = random.Random(0).sample(masks, 30)
    assert partners(images, shuffled) == dict(zip(images, masks, strict=True))
    assert partners(shuffled, images) == dict(zip(masks, images, strict=True))


def test_several_numbers_and_repeated_ones_are_told_apart():
    grid = [(i, j) for i in range(1, 12) for j in range(1, 12)]
    images = [f"patient{i}_image_slice{j}" for i, j in grid]
    assert partners(images, [f"patient{i}_mask_slice{j}" for i, j in grid])["patient1_image_slice11"] == (
        "patient1_mask_slice11"
    )
    images = [f"sub-{i:02}_run-{j}_bold" for i, j in grid]
    masks = [f"sub-{i:02}_desc-mask_run-{j}_bold" for i, j in grid]
    assert partners(images, masks) == dict(zip(images, masks, strict=True))


def test_a_word_that_stands_elsewhere_in_the_other_name_is_no_hindrance():
    images = [f"mouse_{n}_slice_{2 * n}_x" for n in range(30)]
    assert partners(images, [f"seg.{n}_x-{2 * n}_slice" for n in range(30)])["mouse_7_slice_14_x"] == "seg.7_x-14_slice"


def test_folders_that_mirror_each_other_under_other_names():
    images = [f"Slide_{i:02}/{i:02}_{j}" for i in range(1, 4) for j in range(1, 4)]
    assert partners(images, [image.replace("Slide", "GT") for image in images])["Slide_02/02_1"] == "GT_02/02_1"


def test_words_that_run_into_one_another():
    assert partners(["cat", "dog", "emu"], ["dogmask", "emumask", "catmask"])["dog"] == "dogmask"
    assert partners(["catImage", "dogImage"], ["dogMask", "catMask"])["dog" + "Image"] == "dogMask"


def test_accents_are_the_same_however_they_are_written():
    assert (
        partners(["caf\u00e9_1", "caf\u00e9_2"], ["cafe\u0301_2_m", "cafe\u0301_1_m"])["caf\u00e9_1"]
        == "cafe\u0301_1_m"
    )


def test_the_rule_says_what_it_does():
    assert find_rule(["1"], ["1"]).rule.describe() == "images and masks of the same name"
    assert find_rule(["1", "2"], ["1_mask", "2_mask"]).rule.describe() == "mask NAME_mask for image NAME"
    assert find_rule(["1", "2"], ["01", "02"]).rule.loose
    assert find_rule(["photo"], ["outline"]).rule.describe() == "the only mask for the only image"
    assert find_rule(["train-volume"], ["train-labels"]).rule == Rule("{id}-volume", "{id}-labels")


def test_a_strict_rule_does_not_depend_on_padding():
    rule = find_rule([f"{n:03}" for n in range(8, 12)], [f"m{n:03}" for n in range(8, 12)]).rule
    assert rule == Rule("{id}", "m{id}")
    assert not apply_rule(rule, ["7"], ["m007"]).pairs
    assert apply_rule(Rule("{id}", "m{id}", loose=True), ["7"], ["m007"]).pairs == [("7", "m007")]


def test_what_is_left_over_is_told():
    matching = find_rule(["a", "b", "c"], ["a_m", "c_m", "d_m"])
    assert (matching.pairs, matching.images_left, matching.masks_left) == (
        [("a", "a_m"), ("c", "c_m")], ["b"], ["d_m"]
    )  # fmt: skip
    assert not matching.rule.loose
    few = [f"x{n}_mask" for n in range(0, 1000, 37)]
    assert len(find_rule([f"x{n}" for n in range(1000)], few).pairs) == len(few)


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        (["20210304_a", "20210305_b"], ["20210304_x", "20210305_y"]),
        ([f"cam1_{n:04}" for n in range(40)], [f"cam1_{n:04}" for n in range(100, 140)]),
        (["cam1_0001"], ["cam1_0010"]),
        (["cam1_0001", "cam1_0002"], ["cam1_0010", "cam1_0020"]),
        ([f"20210304_{n}" for n in range(100, 150)], [f"20210304_{n}_m" for n in range(200, 250)]),
        (["d0.05", "d1.5"], ["d0.5", "d1.05"]),
        (["a", "b", "c", "d"], ["a_m", "e_m", "f_m", "g"]),
        (["a", "b", "c", "d", "e"], ["a_m", "b_m", "x_m", "y_m", "z_m"]),
        (["7", "007"], ["m07", "m0007"]),
        (["1", "01", "2", "3"], ["m001", "m002", "m003"]),
    ],
)
def test_names_that_share_something_by_accident_are_not_paired(images, masks):
    with pytest.raises(UserError, match="no rule"):
        find_rule(images, masks)


def test_two_rules_that_fit_equally_well_are_both_shown():
    with pytest.raises(UserError) as caught:
        find_rule(["a", "b", "c"], ["a_1st", "b_1st", "c_1st", "a_2nd", "b_2nd", "c_2nd"])
    for words in (
        "NAME_1st for image NAME: a with a_1st",
        "NAME_2nd for image NAME: a with a_2nd",
        "--pair 'images/{id}.png=",
    ):
        assert words in str(caught.value)


WORDS = ["img", "cam1", "2021", "mouse", "T2", "scan", "x", "slice"]


@pytest.mark.parametrize("seed", range(10))
def test_no_rule_ever_pairs_names_of_different_ids(seed):
    """Names made of an id of two numbers and constants at random places; masks of other ids among them."""
    chance = random.Random(seed)
    ids = [(chance.randrange(30), chance.randrange(300)) for _ in range(60)]
    ids = list(dict.fromkeys(ids))
    padding = [chance.choice(["", "04"]) for _ in range(2)]

    def template(width):
        words = [chance.choice(WORDS) + chance.choice("_-. /") for _ in range(3)]
        return lambda a, b: f"{words[0]}{a:{width}}_{words[1]}{b:{width}}_{words[2]}z"

    image, mask = map(template, padding)
    pictured = {image(*one): one for one in chance.sample(ids, len(ids) * 3 // 4)}
    masked = {mask(*one): one for one in chance.sample(ids, len(ids) * 3 // 4)}
    try:
        pairs = find_rule(list(pictured), list(masked)).pairs
    except UserError:
        return
    assert all(pictured[one] == masked[other] for one, other in pairs)
    assert len(pairs) == len(set(pictured.values()) & set(masked.values()))


def test_images_and_masks_of_one_list_are_told_apart_by_whole_words():
    assert split_mixed(["1", "1_mask", "unmasked_2", "2Mask"]) == (["1", "unmasked_2"], ["1_mask", "2Mask"])
    assert split_mixed(["train-volume", "train-labels"]) == (["train-volume"], ["train-labels"])
    assert split_mixed(["gt/1", "gt/1_seg0"]) == (["gt/1"], ["gt/1_seg0"])
    assert split_mixed(["a", "b"]) == (["a", "b"], [])


def test_a_rule_by_hand_pairs_what_it_says():
    rule = parse_pair("images/{who}_{n}_*=masks/{n}/{who}")
    names = ["images/ann_1_x", "images/bob_2_y", "masks/1/ann", "masks/3/bob", "notes"]
    matching = apply_rule(rule, names, names)
    assert matching.pairs == [("images/ann_1_x", "masks/1/ann")]
    assert (matching.images_left, matching.masks_left) == (["images/bob_2_y"], ["masks/3/bob"])
    assert rule.describe() == "mask masks/{n}/{who} for image images/{who}_{n}_*"


def test_a_rule_by_hand_that_is_not_one_to_one_is_refused():
    with pytest.raises(UserError, match="a_1 and a_2 are the same"):
        apply_rule(parse_pair("{id}_*=m/{id}"), ["a_1", "a_2"], ["m/a"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("images/{id}", "no '='"),
        ("images/a=masks/b", "no placeholder"),
        ("images/*=masks/*", "no placeholder"),
        ("images/{id}=masks/{name}", r"\{id\} for images, but \{name\} for masks"),
        ("images/{id}=masks/x", "but none for masks"),
        ("images/{id=masks/{id}", "braces in 'images/{id' don't match"),
        ("images/id}=masks/{id}", "braces"),
        ("images/{}=masks/{}", "without a name"),
        ("images/{id:03}=masks/{id}", "a name in braces, no more"),
    ],
)
def test_a_rule_by_hand_that_makes_no_sense_is_explained(text, message):
    with pytest.raises(UserError, match=message):
        parse_pair(text)
