"""Find the pairs of a data set: folders give roles and splits, names give the pairs. Only directories are read.

Each file first gets a role (image or mask), a split and a name from its folders: in `train/images/mouse/1.png`, `train`
is a word for a split and `images` for a role, and the rest, `mouse/1`, is the name. Then the names of a split's images
are paired with those of its masks (see file_pairs.py).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unet_cli.config.data import DataConfig
from unet_cli.data.annotations.find import Found, find_annotations
from unet_cli.data.annotations.labelmap import Colours, colours_beside
from unet_cli.data.folder.advice import choose, no_layout, types_choice
from unet_cli.data.folder.dataset_json import Numbers, numbers_beside
from unet_cli.data.folder.file_pairs import not_used, paired_by_hand, paired_files
from unet_cli.data.folder.pairing import SeveralRules
from unet_cli.data.folder.passed_over import describe
from unet_cli.data.folder.path_rules import masks_beside, rules_beside
from unet_cli.data.folder.roles import File, assign_roles, common_root, located, meaning, twins_of, without_companions
from unet_cli.data.folder.several import Paired
from unet_cli.data.folder.volume_folders import paired_folders
from unet_cli.data.folder.walk import natural, walk
from unet_cli.data.formats import is_volume_file, lacking_packages
from unet_cli.data.source import MASKS_BESIDE, Pair
from unet_cli.errors import UserError
from unet_cli.system.console import counted

MAX_SETS = 20  # subfolders that are tried as data sets


@dataclass(frozen=True)
class Layout:
    """The pairs of a data set by split: 'train', and 'val' and 'test' if they have folders; sorted by name.

    rule: how names were matched, as a phrase. notes: remarks for the user, such as unused folders. left: a message for
    each file without a partner; the caller refuses them or leaves them out. unmasked: number of these that are images
    without a mask. files_per_image: more than 1 if each channel has a file of its own. classes: names of the classes
    with mask files of their own, or of drawn masks, without background. beside: see path_rules.rules_beside. tool:
    annotation format that the masks are drawn from. colours: names and colours of a labelmap.txt, background first.
    numbers: names and values of a dataset.json. channels: see Paired. ignores: whether some annotations mark
    ignored pixels. class_folders: whether the masks of a class lie, or are to lie, in a folder of their own.
    """

    root: Path
    splits: dict[str, list[Pair]]
    rule: str
    notes: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    unmasked: int = 0
    files_per_image: int = 1
    classes: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    tool: str = ""
    colours: Colours = ()
    numbers: Numbers = ()
    channels: tuple[str, ...] = ()
    ignores: bool = False
    class_folders: bool = True


def layout_of(config: DataConfig) -> Layout:
    """The layout according to the settings; see find_layout."""
    takes_missing = config.missing_masks == "background"
    where = config.data and Path(config.data), config.images, config.masks, config.pair
    return find_layout(*where, takes_missing, config.volume_folders)


def find_layout(
    data: Path | None,
    images: str | None = None,
    masks: str | None = None,
    pair: str | None = None,
    takes_missing: bool = False,
    volume_folders: bool = False,
) -> Layout:
    """Find images, masks and pairs in the folder `data`, as far as the user doesn't specify them.

    images, masks: a folder or a file, relative to `data` or to the current directory, or the name of folders anywhere
    below `data`; with both, `data` may be None. pair: see name_rules.parse_pair; its paths are below `data`.
    takes_missing: whether an image without a mask is background. volume_folders: whether each folder of images holds
    the slices of a volume. Raises UserError if that is impossible or ambiguous.
    """
    root = data if data is not None else common_root(images, masks)
    if not root.exists():
        raise UserError(f"{root} does not exist: give the folder that holds your images and masks as --data")
    if not root.is_dir():
        raise UserError(f"{root} is a file: give the folder that holds your images and masks as --data")
    others: list[Path] = []
    drawn: Found | None = None
    if pair is not None:
        if images is not None or masks is not None:
            raise UserError("--pair says where images and masks are: leave out --images and --masks")
        if volume_folders:
            raise UserError("--pair pairs files, and --volume-folders folders: leave one of them out")
        inside = list(walk(root, passed_over=others))
        found, notes = paired_by_hand(root, pair, inside)
    else:
        inside, own = without_companions(list(walk(root, passed_over=others)) if data is not None else [])
        try:
            found, notes = _by_names(root, inside, others, images, masks, volume_folders)
        except UserError as error:
            # A user who specifies images or masks doesn't mean annotations, or subfolders that are data sets.
            if images is not None or masks is not None or volume_folders:
                raise
            drawn = find_annotations(root, inside, others)
            if drawn is None:
                raise UserError("\n".join([str(error), *_sets_below(root, inside)])) from error
            found, notes = drawn.splits, drawn.notes
        if own:
            notes.append(f"passed over: {len(own)} that Cellpose wrote for itself, such as {own[0].name}")
    of_masks = [path for one in found.values() for pair in one.pairs for path in pair.mask.paths]
    colours, used = colours_beside(of_masks, others) if drawn is None else ((), drawn.used)
    numbers, used_too, more = numbers_beside(of_masks, others) if drawn is None else ((), frozenset(), [])
    notes += more
    passed_over = describe(path for path in others if path not in used | used_too)
    if drawn is None:
        passed_over = [
            f"{line}, since there are masks" if line.endswith("annotations") else line for line in passed_over
        ]
    notes += passed_over + lacking_packages(inside)
    layout = replace(_joined(root, found, notes, takes_missing), colours=colours, numbers=numbers)
    if volume_folders:
        return of_volumes(layout)
    return layout if drawn is None else replace(layout, tool=drawn.tool, ignores=drawn.ignores, class_folders=True)


def holds_volumes(layout: Layout) -> bool:
    """Whether images are volumes by the format of their files, or because each is a folder of slices."""
    return any(pair.image.is_volume or is_volume_file(pair.image.path) for pair in layout.splits["train"])


def of_volumes(layout: Layout) -> Layout:
    """The same pairs, each file being a volume."""
    splits = {split: [_of_volume(pair) for pair in pairs] for split, pairs in layout.splits.items()}
    return replace(layout, splits=splits)


def _of_volume(pair: Pair) -> Pair:
    return replace(pair, image=replace(pair.image, is_volume=True), mask=replace(pair.mask, is_volume=True))


def redrawn(layout: Layout, names: Sequence[str]) -> Layout:
    """The same masks with the numbers of these classes, which hold all of the layout's: the background first."""
    classes = tuple(names[1:])
    if classes == layout.classes:
        return layout
    number_of = {number: names.index(name) for number, name in enumerate(layout.classes, 1)}
    splits = {split: [_redrawn(pair, classes, number_of) for pair in pairs] for split, pairs in layout.splits.items()}
    return replace(layout, splits=splits, classes=classes)


def _redrawn(pair: Pair, classes: tuple[str, ...], number_of: Mapping[int, int]) -> Pair:
    mask = pair.mask
    if mask.entry is not None:
        mask = replace(mask, entry=replace(mask.entry, classes=classes, colours=()))
    return replace(pair, mask=replace(mask, classes=tuple(number_of[number] for number in mask.classes)))


def _by_names(
    root: Path,
    inside: list[Path],
    others: list[Path],
    images: str | None,
    masks: str | None,
    volume_folders: bool = False,
) -> tuple[dict[str, Paired], list[str]]:
    """The pairs of each split, and notes, from the names and the user's settings."""
    sides, notes = _sides(root, assign_roles(root, inside, images, masks, others), others)
    try:
        paired = paired_folders if volume_folders else paired_files
        found = {split: paired(*side) for split, side in sides.items()}
    except SeveralRules as error:
        raise UserError(choose(root, error, *_side_of(sides, error), inside or list(walk(root)))) from error
    if masks is not None and images is not None and _look_swapped(images, masks):
        notes.append(f"are images and masks swapped? --images is {images} and --masks {masks}")
    return found, notes


def _joined(root: Path, found: dict[str, Paired], notes: list[str], takes_missing: bool) -> Layout:
    """The pairs of all splits as one layout. Raises UserError if the splits are of different kinds."""
    counts = {split: one.files_per_image for split, one in found.items()}
    if len(set(counts.values())) > 1:
        differing = ", ".join(f"{count} in {split}" for split, count in counts.items())
        raise UserError(f"{root}: the number of files that make one image differs: {differing}. Make it the same.")
    classes = found["train"].classes
    for split, one in found.items():
        if one.classes != classes:
            shown = [", ".join(names) or "no classes" for names in (classes, one.classes)]
            raise UserError(
                f"{root}: masks have a file for each class, but train has {shown[0]} and {split} {shown[1]}: give "
                "every split files of the same names, or leave the split out"
            )
    unmasked = [(split, *one) for split, paired in found.items() for one in paired.unmasked]
    splits = {split: one.pairs for split, one in found.items()}
    left = [message for one in found.values() for message in (*(text for _, text in one.unmasked), *one.left)]
    if takes_missing and unmasked:
        left = [message for one in found.values() for message in one.left]
        for split, pair, _ in unmasked:
            splits[split] = [*splits[split], pair]
        splits = {split: sorted(pairs, key=lambda pair: natural(pair.name)) for split, pairs in splits.items()}
        notes.append(f"{counted(len(unmasked), 'image')} without a mask, or without one of them: taken as background")
    notes += [note for one in found.values() for note in one.notes]
    return Layout(
        root,
        splits,
        "; ".join(dict.fromkeys(one.rule for one in found.values())),
        tuple(dict.fromkeys(notes)),
        tuple(left),
        0 if takes_missing else len(unmasked),
        counts["train"],
        classes,
        rules_beside(found["train"].pairs),
        channels=found["train"].channels,
        class_folders=found["train"].class_folders or not classes,
    )


# --- splits ----------------------------------------------------------------------------------------------------------


def _sides(
    root: Path, files: list[File], others: Sequence[Path]
) -> tuple[dict[str, tuple[list[File], list[File]]], list[str]]:
    """The images and masks of each split, and notes on unused files."""
    splits: defaultdict[str | None, list[File]] = defaultdict(list)
    for file in files:
        if file.role != "unused":
            splits[file.split].append(file)
    if any(_roles(splits["train"])) and all(_roles(splits[None])):
        raise UserError(f"{root} holds images and masks folders and also train: move one kind elsewhere")
    if not all(_images_and_masks(splits["train"])):
        splits["train"] += splits[None]
    sides: dict[str, tuple[list[File], list[File]]] = {}
    notes: list[str] = []
    used: set[Path] = set()
    for split in ("train", "val", "test"):
        images, masks = _images_and_masks(splits[split])
        if images and masks:
            sides[split] = (images, masks)
            used |= {file.path for file in images + masks}
        elif split == "test" and splits[split]:
            notes.append(
                "the test folder has no pairs of images and masks and is not used: "
                + counted(len(splits[split]), "image file")
            )
            used |= {file.path for file in splits[split]}
        elif split == "train" or splits[split]:
            if twins := twins_of(splits[split]):
                raise UserError(types_choice(root, twins))
            raise UserError(no_layout(_split_folder(root, splits[split], split), root, others))
    return sides, notes + not_used(file for file in files if file.path not in used)


def _roles(files: list[File]) -> tuple[bool, bool]:
    return any(file.role == "images" for file in files), any(file.role == "masks" for file in files)


def _images_and_masks(files: list[File]) -> tuple[list[File], list[File]]:
    """Images and masks. Files without a role are the images if only masks have one: photos/ beside masks/, train/ and
    train_masks/."""
    images = [file for file in files if file.role == "images"]
    masks = [file for file in files if file.role == "masks"]
    return images or [file for file in files if file.role is None and file.hint is None], masks


def _split_folder(root: Path, files: list[File], split: str) -> Path:
    """The folder just below the root that contains this split, or the root."""
    tops = {file.path.relative_to(root).parts[0] for file in files if file.path.is_relative_to(root)}
    top = root / tops.pop() if len(tops) == 1 else root
    return top if top.is_dir() and meaning(top.name)[1] == split else root


# --- names and messages ----------------------------------------------------------------------------------------------


def _sets_below(root: Path, inside: Sequence[Path]) -> list[str]:
    """Hints at subfolders that are data sets themselves; not if only file types distinguish masks from images, such as
    JPEG and the PNG of its superpixels."""
    tops = dict.fromkeys(path.relative_to(root).parts[0] for path in inside)
    folders = [root / top for top in tops if (root / top).is_dir()][:MAX_SETS]
    sets = []
    for folder in folders:
        with suppress(UserError):
            below = [path for path in inside if path.is_relative_to(folder)]
            _by_names(folder, below, [], None, None)
            if not any(file.by_type for file in assign_roles(folder, below, None, None)):
                sets.append(folder)
    if not sets:
        return []
    return [f"By itself this is a data set: --data {folder}" for folder in sets]


def _side_of(sides: dict[str, tuple[list[File], list[File]]], error: SeveralRules) -> tuple[list[File], list[File]]:
    """The images and masks to which the rules of the error apply."""
    image, mask = error.choices[0][1][0]
    for images, masks in sides.values():
        if any(file.name == image for file in images) and any(file.name == mask for file in masks):
            return images, masks
    raise AssertionError("the names are those of a split")


def masks_among(root: Path, paths: Sequence[Path], training: Mapping[str, Any]) -> set[Path]:
    """Which of these files below the root are masks: in folders that are named so or given by --masks, or beside their
    images by a rule found in training or given by --pair. training: the training record of a checkpoint.

    Empty if all files are masks: then the user means them as images.
    """
    named = Path(training.get("masks") or "").name.casefold()
    found = {
        file.path
        for file in located(root, paths)
        if file.role == "masks" or (named and named in map(str.casefold, file.path.relative_to(root).parts[:-1]))
    }
    found |= masks_beside(training.get(MASKS_BESIDE) or (), paths)
    if training.get("pair"):
        with suppress(UserError):
            by_hand, _ = paired_by_hand(root, training["pair"], paths)
            found |= {path for one in by_hand.values() for pair in one.pairs for path in pair.mask.paths}
    return found if len(found) < len(paths) else set()


def _look_swapped(images: str, masks: str) -> bool:
    return meaning(Path(images).name)[0] == "masks" and meaning(Path(masks).name)[0] == "images"
