"""Splits of tiny data sets whose right answer is counted by hand, and every way in which a split can't be had."""

import json
from pathlib import Path

import numpy as np
import pytest

from unet_cli.data.samples import split as split_module
from unet_cli.data.samples.blocks import are_few_stacks, block_of, hold_out_fold, hold_out_pages
from unet_cli.data.samples.split import Split, draw_fold, draw_split, group_names, read_split, write_split
from unet_cli.data.source import Pair, Source
from unet_cli.errors import UserError


def pairs_named(*names: str) -> list[Pair]:
    return [Pair(name, Source((Path(f"images/{name}"),)), Source((Path(f"masks/{name}"),))) for name in names]


def numbered(count: int) -> list[Pair]:
    return pairs_named(*(f"p{index:02d}" for index in range(count)))


def names(pairs: list[Pair]) -> list[str]:
    return [pair.name for pair in pairs]


def content(count: int, **holders: list[int]) -> np.ndarray:
    """1,000 pixels of background in each mask, and 10 of each named class in those of its holders."""
    pixels = np.full((count, 1 + len(holders)), 1000)
    for column, indices in enumerate(holders.values(), start=1):
        pixels[:, column] = 0
        pixels[indices, column] = 10
    return pixels


def drawn(count: int, val_fraction: float = 0.2, seed: int = 0, groups: list[str] | None = None, **holders) -> Split:
    pairs = numbered(count)
    return draw_split(pairs, content(count, **holders), groups or names(pairs), val_fraction, seed)


@pytest.mark.parametrize(
    ("count", "val_fraction", "expected"),
    [(40, 0.2, 8), (10, 0.15, 2), (10, 0.01, 1), (10, 0.99, 9), (2, 0.2, 1), (3, 0.5, 2), (7, 0.5, 4)],
)
def test_the_validation_part_has_exactly_the_size_asked_for(count, val_fraction, expected):
    split = drawn(count, val_fraction, rare=[0])
    assert (len(split.train), len(split.val)) == (count - expected, expected)


def test_both_parts_keep_the_order_of_the_data_and_share_no_pair():
    pairs = numbered(20)[::-1]
    split = draw_split(pairs, content(20), names(pairs), 0.3, seed=0)
    for part in (split.train, split.val):
        assert names(part) == sorted(names(part), reverse=True)
    assert sorted(names(split.train + split.val)) == names(numbered(20))


def test_the_same_seed_draws_the_same_and_another_one_something_else():
    assert drawn(40, seed=3, rare=[1, 2]) == drawn(40, seed=3, rare=[1, 2])
    assert len({tuple(names(drawn(40, seed=seed).val)) for seed in range(5)}) == 5


def test_no_validation_where_the_fraction_is_nothing():
    assert drawn(1, val_fraction=0) == Split(numbered(1), [], "no validation part")


def test_groups_never_straddle():
    groups = [f"patient{index % 7}" for index in range(40)]
    group_of = dict(zip(names(numbered(40)), groups, strict=True))
    for seed in range(10):
        split = drawn(40, seed=seed, groups=groups, rare=[0, 1, 2, 9])
        train, val = ({group_of[name] for name in names(part)} for part in (split.train, split.val))
        assert not train & val
        assert train | val == set(groups)
    assert split.how == "by 7 groups, drawn with --seed 9"


def test_groups_are_chosen_so_that_the_size_comes_near():
    groups = ["large"] * 16 + ["a", "b", "c", "d"]
    assert all(len(drawn(20, 0.2, seed, groups).val) == 4 for seed in range(5))


def test_both_parts_get_a_group_however_unequal_they_are():
    groups = ["large"] * 18 + ["small"] * 2
    for val_fraction in (0.01, 0.5, 0.99):
        split = drawn(20, val_fraction, groups=groups)
        assert {len(split.train), len(split.val)} == {2, 18}


@pytest.mark.parametrize("seed", range(4))
def test_a_class_of_two_pairs_is_on_both_sides(seed):
    split = drawn(40, seed=seed, rare=[7, 31], other=[3, 4])
    assert len({"p07", "p31"} & set(names(split.val))) == 1
    assert len({"p03", "p04"} & set(names(split.val))) == 1


@pytest.mark.parametrize("seed", range(4))
def test_a_class_of_one_pair_is_trained_on(seed):
    only = {f"class{index}": [index] for index in range(12)}  # by chance alone a side gets all in one of 4,000 draws
    split = drawn(24, 0.5, seed, **only)
    assert set(names(split.train)) == {f"p{index:02d}" for index in range(12)}


@pytest.mark.parametrize("seed", range(4))
def test_a_class_of_one_group_is_trained_on(seed):
    groups = [f"g{index // 4}" for index in range(40)]
    assert {"p04", "p06"} <= set(names(drawn(40, seed=seed, groups=groups, rare=[4, 6]).train))


def test_pairs_that_hold_a_class_are_shared_out_as_the_pairs_are():
    frequent = list(range(0, 40, 2))
    for seed in range(5):
        split = drawn(40, 0.2, seed, frequent=frequent)
        assert sum(int(name[1:]) % 2 == 0 for name in names(split.val)) == 4


def test_pixels_of_a_class_are_shared_out_too():
    pixels = content(20, cells=list(range(20)))
    pixels[:10, 1] = 1000  # as much as background in one half, hardly any in the other
    for seed in range(5):
        pairs = numbered(20)
        split = draw_split(pairs, pixels, names(pairs), 0.2, seed)
        assert sum(int(name[1:]) < 10 for name in names(split.val)) == 2


def test_pairs_that_hold_a_class_count_as_much_as_its_pixels():
    pixels = content(20, cells=list(range(10)))
    pixels[:10, 1] = [900, *[100] * 9]  # by pixels alone, the first pair would make up for the other nine
    pairs = numbered(20)
    for seed in range(5):
        split = draw_split(pairs, pixels, names(pairs), 0.5, seed)
        assert sum(int(name[1:]) < 10 for name in names(split.val)) == 5


def test_a_class_that_validation_lacks_weighs_more_than_any_difference_of_shares():
    pixels = np.full((5, 12), 1000)
    pixels[:, 11] = [10, 10, 0, 0, 0]
    pixels[:2, 1:11] = 1  # ten classes make the two pairs that hold the rare one unlike the others
    pairs = numbered(5)
    for seed in range(5):
        assert names(draw_split(pairs, pixels, names(pairs), 0.2, seed).val) in (["p00"], ["p01"])


def test_a_class_that_training_lacks_weighs_more_than_one_that_validation_lacks():
    groups = ["a", "a", "a", "b", "c", "c"]
    holders = {"ab": [0, 1, 2, 3], "bc": [3, 4, 5], "ac": [0, 1, 2, 4, 5]}
    for seed in range(5):
        # Two groups in validation would be complete, but leave each class that only they hold to it.
        split = drawn(6, 0.5, seed, groups, **holders)
        assert {groups[int(name[1:])] for name in names(split.val)} in ({"a"}, {"c"})


def test_a_class_that_no_mask_holds_changes_nothing():
    pairs = numbered(10)
    with_empty = np.concatenate([content(10, rare=[1, 2]), np.zeros((10, 1), int)], axis=1)
    assert draw_split(pairs, with_empty, names(pairs), 0.3, 0) == drawn(10, 0.3, rare=[1, 2])
    assert len(draw_split(pairs, np.zeros((10, 2), int), names(pairs), 0.3, 0).val) == 3  # all ignored


def test_twenty_thousand_pairs_are_drawn_no_more_often_than_takes_a_breath(monkeypatch):
    fills = []
    fill = split_module._fill
    monkeypatch.setattr(split_module, "_fill", lambda *given: fills.append(1) or fill(*given))
    split = drawn(20_000, 0.15, rare=[5, 9_000])
    assert len(split.val) == 3_000
    assert len(fills) == split_module.MIN_DRAWS


def test_folds_validate_every_pair_once_and_differ_by_one_pair_at_most():
    pairs = numbered(23)
    parts = [draw_fold(pairs, content(23, rare=[1, 2]), names(pairs), 5, fold, seed=1) for fold in range(1, 6)]
    assert sorted(name for part in parts for name in names(part.val)) == names(pairs)
    assert sorted(len(part.val) for part in parts) == [4, 4, 5, 5, 5]
    for part in parts:
        assert sorted(names(part.train + part.val)) == names(pairs)
    assert parts[1].how == "fold 2 of 5, drawn with --seed 1"


def test_folds_spread_a_rare_class():
    pairs = numbered(20)
    holders = {"p03", "p04", "p05", "p06"}
    for seed in range(5):
        folds = [draw_fold(pairs, content(20, rare=[3, 4, 5, 6]), names(pairs), 4, fold, seed) for fold in range(1, 5)]
        assert max(len(holders & set(names(fold.val))) for fold in folds) <= 2
        assert sum(bool(holders & set(names(fold.val))) for fold in folds) >= 3


def test_folds_keep_groups_whole_and_each_gets_one():
    pairs = numbered(20)
    groups = ["a"] * 15 + ["b"] * 3 + ["c", "d"]
    parts = [draw_fold(pairs, content(20), groups, 4, fold, seed=0).val for fold in range(1, 5)]
    assert sorted(map(len, parts)) == [1, 1, 3, 15]
    assert draw_fold(pairs, content(20), groups, 4, 1, 0).how == "fold 1 of 4, by 4 groups, drawn with --seed 0"


def test_as_many_folds_as_pairs_leave_one_out():
    pairs = numbered(6)
    assert {
        name for fold in range(1, 7) for name in names(draw_fold(pairs, content(6), names(pairs), 6, fold, 0).val)
    } == set(names(pairs))


def test_one_pair_or_one_group_cannot_be_both():
    with pytest.raises(UserError, match=r"^one pair can't be both .* --val-fraction 0 to train without validation$"):
        drawn(1)
    with pytest.raises(UserError, match=r"^one group \(3 pairs of group 'mouse'\) can't be both .*--val-fraction 0"):
        drawn(3, groups=["mouse"] * 3)


@pytest.mark.parametrize(
    ("folds", "fold", "message"),
    [
        (5, 6, "--fold is 6, of --folds 5: give 1 to 5"),
        (5, 0, "--fold is 0, of --folds 5: give 1 to 5"),
        (1, 1, "at least 2 folds"),
        (7, 1, "--folds 7: there are only 6 pairs"),
    ],
)
def test_folds_that_there_cannot_be(folds, fold, message):
    pairs = numbered(6)
    with pytest.raises(UserError, match=message):
        draw_fold(pairs, content(6), names(pairs), folds, fold, seed=0)


def test_more_folds_than_groups():
    with pytest.raises(UserError, match="--folds 3: there are only 2 groups"):
        draw_fold(numbered(6), content(6), ["a"] * 3 + ["b"] * 3, 3, 1, seed=0)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (None, ["P1/day2_a", "P1/day2_b", "P12/day3_a"]),
        ("P([0-9]+)", ["1", "1", "12"]),
        (r"P\d+", ["P1", "P1", "P12"]),
        (r"(P\d+)/day(\d)", ["P1/2", "P1/2", "P12/3"]),
        (r"_(?:a|b)$", ["_a", "_b", "_a"]),
        ("(P12)|(P1)", ["P1", "P1", "P12"]),
    ],
)
def test_a_pattern_finds_the_group_in_the_name(pattern, expected):
    assert group_names(pairs_named("P1/day2_a", "P1/day2_b", "P12/day3_a"), pattern) == expected


def test_a_pattern_that_is_no_regular_expression():
    with pytest.raises(UserError, match=r"--group-by '\(P' is no regular expression: .* at position 0"):
        group_names(numbered(2), "(P")


@pytest.mark.parametrize("pattern", [r"^(P\d)", "^P[0-9]*", "(P?)"])
def test_names_without_a_group_are_listed(pattern):
    with pytest.raises(UserError, match=r"finds no group in cell, scan: ") as error:
        group_names(pairs_named("P1", "cell", "P2", "scan"), pattern)
    assert "P1" not in str(error.value)


def test_long_lists_of_names_end_in_a_count():
    with pytest.raises(UserError, match=r"p00, p01, .*, p19 and 5 more: change the pattern"):
        group_names(numbered(25), "x")


def test_a_split_is_read_as_it_was_written(tmp_path):
    pairs = pairs_named("a/1", "b/ü", "c\udcff", "d")
    split = Split([pairs[0], pairs[2]], [pairs[1], pairs[3]], "drawn with --seed 0")
    write_split(tmp_path / "split.json", split)
    path = tmp_path / "split.json"
    assert json.loads(path.read_text())["how"] == "drawn with --seed 0"
    assert read_split(path, pairs, leave_out=False) == Split(split.train, split.val, f"read from {path}")


def split_file(folder: Path, train: object, val: object) -> Path:
    path = folder / "split.json"
    path.write_text(json.dumps({"train": train, "val": val}))
    return path


def test_a_split_file_needs_no_order_no_how_and_no_validation(tmp_path):
    split = read_split(split_file(tmp_path, ["b", "a"], []), pairs_named("a", "b"), leave_out=False)
    assert (names(split.train), split.val) == (["a", "b"], [])


@pytest.mark.parametrize(
    ("train", "val", "message"),
    [
        (["cell1", "cel2"], ["cell3"], r"not in the data: cel2 \(did you mean 'cell2'\?\): change or remove"),
        (["cell1", "zzz"], ["cell2", "cell3"], "not in the data: zzz: change or remove"),
        (["cell1", "cell2"], ["cell2", "cell3"], "names cell2 in both train and val"),
        (["cell1"], ["cell2"], "doesn't assign cell3 to a part: add to train or val, or leave out with --skip-bad"),
        ([], ["cell1"], "doesn't assign cell2, cell3 to a part"),
        ([], ["cell1", "cell2", "cell3"], "names no pair to train on"),
        (["cell1"], None, "is not a split"),
        (["cell1"], [2], "is not a split"),
        ("cell1", ["cell2"], "is not a split"),
    ],
)
def test_split_files_that_do_not_fit_the_data(tmp_path, train, val, message):
    with pytest.raises(UserError, match=rf"split\.json.*{message}"):
        read_split(split_file(tmp_path, train, val), pairs_named("cell1", "cell2", "cell3"), leave_out=False)


def test_many_unknown_names_are_listed_with_hints_for_the_first(tmp_path):
    path = split_file(tmp_path, [f"p{index:02d}.png" for index in range(25)], [])
    with pytest.raises(UserError, match=r"p00\.png \(did you mean 'p00'\?\), .*, p19\.png and 5 more: ") as error:
        read_split(path, numbered(25), leave_out=False)
    assert str(error.value).count("did you mean") == 3


def test_pairs_that_the_file_does_not_name_can_be_left_out(tmp_path):
    split = read_split(split_file(tmp_path, ["p00"], ["p02"]), numbered(4), leave_out=True)
    assert (names(split.train), names(split.val)) == (["p00"], ["p02"])


@pytest.mark.parametrize("text", [b"train: a", b"", b"\xff\xfe\xfa", b'["a", "b"]', b"3"])
def test_files_that_hold_no_split(tmp_path, text):
    (tmp_path / "split.json").write_bytes(text)
    with pytest.raises(UserError, match=r"split\.json is not (JSON|a split).*the split\.json of a run"):
        read_split(tmp_path / "split.json", numbered(2), leave_out=False)


def test_a_missing_split_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.json: No such file.*: check the path"):
        read_split(tmp_path / "none.json", numbered(2), leave_out=False)


def test_a_split_is_written_whole_or_refused(tmp_path):
    with pytest.raises(UserError, match="missing"):
        write_split(tmp_path / "missing" / "split.json", Split(numbered(2), [], "by hand"))


def test_pages_of_a_stack_stay_together_where_there_are_several_stacks():
    def pages(*stacks):
        return [Pair(f"{s}#{p}", Source((Path(s),), p), Source((Path(s + "m"),), p)) for s in stacks for p in range(3)]

    assert group_names(pages("a", "b"), None) == ["a"] * 3 + ["b"] * 3
    assert group_names(pages("a"), None) == ["a"] * 3


def pages_of(*counts):
    return [
        Pair(f"{name}#{page + 1}", Source((Path(f"{name}.tif"),), page), Source((Path(f"m{name}.tif"),), page))
        for name, count in zip("abcd", counts, strict=False)
        for page in range(count)
    ]


def shown_on(count, *pages):
    """Contents of pages, all of which have background, and these foreground."""
    return np.array([[9, 5 * (page in pages)] for page in range(count)])


def test_of_few_stacks_a_block_of_pages_is_held_out_and_its_neighbour_is_in_neither_part():
    split = hold_out_pages(pages_of(20, 10, 2), shown_on(32, *range(32)), 0.2)
    assert names(split.val) == [*(f"a#{page}" for page in range(17, 21)), "b#9", "b#10"]
    assert names(split.gap) == ["a#16", "b#8"]
    assert names(split.train) == [
        *(f"a#{page}" for page in range(1, 16)),
        *(f"b#{page}" for page in range(1, 8)),
        "c#1",
        "c#2",
    ]
    assert split.how.startswith("pages 17 to 20 of a.tif and pages 9 to 10 of b.tif, 1 page beside them left out")
    wider = hold_out_pages(pages_of(20), shown_on(20, *range(20)), 0.2, gap=3)
    assert (len(wider.val), names(wider.gap)) == (4, ["a#14", "a#15", "a#16"])


@pytest.mark.parametrize(
    ("count", "pages", "fraction", "expected"),
    [
        (10, range(10), 0.2, (8, 10)),
        (10, range(7), 0.2, (6, 8)),  # half of the block shows foreground
        (10, [4], 0.2, (8, 10)),  # the only page of a class is trained on
        (10, [4, 8], 0.2, (8, 10)),
        (10, [], 0.2, (8, 10)),
        (3, range(3), 0.9, (2, 3)),
        (30, range(5, 15), 0.1, (14, 17)),
    ],
)
def test_a_block_is_as_close_to_the_end_as_it_shows_the_classes(count, pages, fraction, expected):
    assert block_of(shown_on(count, *pages), fraction) == expected


def test_only_pages_of_few_stacks_are_divided():
    assert are_few_stacks(pages_of(20, 10, 2))
    assert not are_few_stacks(pages_of(20, 10, 2, 3))
    assert not are_few_stacks(numbered(3))
    assert not are_few_stacks(pages_of(2, 2))
    assert not are_few_stacks(pages_of(3), gap=2)


def test_each_page_of_a_stack_is_in_the_validation_part_of_one_fold():
    pairs = pages_of(11, 8)
    folds = [hold_out_fold(pairs, 4, fold) for fold in range(1, 5)]
    assert sorted(name for fold in folds for name in names(fold.val)) == sorted(names(pairs))
    for split in folds:
        learned = {(pair.image.path, pair.image.page) for pair in split.train}
        beside = {(pair.image.path, pair.image.page + step) for pair in split.val for step in (-1, 0, 1)}
        assert not learned & beside
        assert len(split.train) + len(split.val) + len(split.gap) == 19
    with pytest.raises(UserError, match=r"b\.tif has only 3 pages, and each fold needs two"):
        hold_out_fold(pages_of(11, 3), 2, 1)
    with pytest.raises(UserError, match="--fold is 3, of --folds 2"):
        hold_out_fold(pages_of(11), 2, 3)


def test_the_pages_between_the_parts_are_stored(tmp_path):
    pairs = pages_of(8)
    split = hold_out_pages(pairs, shown_on(8, *range(8)), 0.25)
    write_split(tmp_path / "split.json", split)
    read = read_split(tmp_path, pairs, leave_out=False)
    assert (read.train, read.val, read.gap) == (split.train, split.val, split.gap)
    assert len(read.gap) == 1


def test_pairs_that_have_come_since_may_be_left_out_alone(tmp_path):
    path = split_file(tmp_path, ["p00"], ["p02"])
    split = read_split(path, numbered(4), leave_out=False, may_be_more=True)
    assert ([pair.name for pair in split.train], [pair.name for pair in split.val]) == (["p00"], ["p02"])
    with pytest.raises(UserError, match="p02"):
        read_split(path, numbered(2), leave_out=False, may_be_more=True)
