"""Which image goes with which mask: folders give the roles, names the pairs. Nothing is read but directories.

Every file is first given a role (image or mask), a split and a name, by the folders that it lies in: in
`train/images/mouse/1.png`, `train` is a word for a split and `images` for a role, and what remains, `mouse/1`, is the
name. Then the names of a split's images are paired with those of its masks (see pairing).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unet_cli.config.data import DataConfig
from unet_cli.data.folder.advice import choose, no_layout, types_choice
from unet_cli.data.folder.pairing import Rule, SeveralRules, apply_rule, as_text, find_rule, parse_pair
from unet_cli.data.folder.passed_over import describe
from unet_cli.data.folder.path_rules import masks_beside, option_for, rules_beside, with_extensions
from unet_cli.data.folder.roles import (
    File,
    assign_roles,
    common_root,
    located,
    meaning,
    natural,
    stem,
    twins_of,
    walk,
    without_companions,
)
from unet_cli.data.folder.several import (
    CHANNEL,
    Paired,
    alone,
    result,
    with_channels,
    with_objects,
    with_parts,
    without_mask,
)
from unet_cli.data.formats import lacking_packages
from unet_cli.data.source import MASKS_BESIDE, Pair, Source
from unet_cli.errors import UserError
from unet_cli.system.console import counted

MAX_SETS = 20  # folders that are tried as data sets of their own


@dataclass(frozen=True)
class Layout:
    """The pairs of a data set by split: 'train', and 'val' and 'test' where they have folders; sorted by name.

    rule: how the names were matched, in words. notes: what should be said aloud, such as folders that are not used.
    left: a message for each file without a partner; it is for the caller to refuse them or leave them out. unmasked:
    how many of these are images without a mask.
    files_per_image: more than 1 where each channel has a file of its own. classes: names of those whose masks are files
    of their own, without the background. beside: see path_rules.rules_beside.
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


def layout_of(config: DataConfig) -> Layout:
    """As the settings say; see find_layout."""
    takes_missing = config.missing_masks == "background"
    return find_layout(config.data and Path(config.data), config.images, config.masks, config.pair, takes_missing)


def find_layout(
    data: Path | None,
    images: str | None = None,
    masks: str | None = None,
    pair: str | None = None,
    takes_missing: bool = False,
) -> Layout:
    """Understand the folder `data`, as far as the user does not say which are the images, the masks, and the pairs.

    images, masks: a folder or a file, from `data` or from the current directory, or the name that folders have anywhere
    below `data`; with both, `data` may be None. pair: see pairing.parse_pair; its paths are below `data`.
    takes_missing: an image without a mask is background.
    Raises UserError where that isn't possible, or could be meant in several ways.
    """
    root = data if data is not None else common_root(images, masks)
    if not root.exists():
        raise UserError(f"{root} does not exist: give the folder that holds your images and masks as --data")
    if not root.is_dir():
        raise UserError(f"{root} is a file: give the folder that holds your images and masks as --data")
    others: list[Path] = []
    if pair is not None:
        if images is not None or masks is not None:
            raise UserError("--pair says where images and masks are: leave out --images and --masks")
        inside = list(walk(root, passed_over=others))
        found, notes = _by_hand(root, pair, inside)
    else:
        inside, own = without_companions(list(walk(root, passed_over=others)) if data is not None else [])
        try:
            found, notes = _by_looks(root, inside, others, images, masks)
        except UserError as error:
            # Whoever says where images and masks are doesn't mean sets below.
            below = _sets_below(root, inside) if images is None and masks is None else []
            raise UserError("\n".join([str(error), *below])) if below else error from error
        if own:
            notes.append(f"passed over: {len(own)} that Cellpose wrote for itself, such as {own[0].name}")
    notes += describe(others) + lacking_packages(inside)
    return _joined(root, found, notes, takes_missing)


def _by_looks(
    root: Path, inside: list[Path], others: list[Path], images: str | None, masks: str | None
) -> tuple[dict[str, Paired], list[str]]:
    """The pairs of each split, and notes, as far as names and the user tell."""
    sides, notes = _sides(root, assign_roles(root, inside, images, masks, others), others)
    try:
        found = {split: _paired(*side) for split, side in sides.items()}
    except SeveralRules as error:
        raise UserError(choose(root, error, *_side_of(sides, error), inside or list(walk(root)))) from error
    if masks is not None and images is not None and _look_swapped(images, masks):
        notes.append(f"are images and masks swapped? --images is {images} and --masks {masks}")
    return found, notes


def _joined(root: Path, found: dict[str, Paired], notes: list[str], takes_missing: bool) -> Layout:
    """What was found in each split as one layout. Raises UserError where the splits are of different kinds."""
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
    )


def merge_channels(files: Sequence[Path]) -> list[tuple[Path, tuple[Path, ...]]]:
    """Put ID_0000.ext, ID_0001.ext, ... together: (folder/ID, its files in order); what isn't named so stays alone."""
    images: defaultdict[Path, list[Path]] = defaultdict(list)
    for path in files:
        name = stem(path.name)
        parts = CHANNEL.fullmatch(name)
        images[path.with_name(parts[1] if parts else name)].append(path)
    return [(place, tuple(sorted(paths))) for place, paths in images.items()]


# --- splits ----------------------------------------------------------------------------------------------------------


def _sides(
    root: Path, files: list[File], others: Sequence[Path]
) -> tuple[dict[str, tuple[list[File], list[File]]], list[str]]:
    """The images and the masks of each split, and notes on the files that are in none."""
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
    return sides, notes + _not_used(file for file in files if file.path not in used)


def _roles(files: list[File]) -> tuple[bool, bool]:
    return any(file.role == "images" for file in files), any(file.role == "masks" for file in files)


def _images_and_masks(files: list[File]) -> tuple[list[File], list[File]]:
    """Files without a role are the images where only masks have one: photos/ beside masks/, train/ and train_masks/."""
    images = [file for file in files if file.role == "images"]
    masks = [file for file in files if file.role == "masks"]
    return images or [file for file in files if file.role is None and file.hint is None], masks


def _split_folder(root: Path, files: list[File], split: str) -> Path:
    """The folder just below the root that holds this split, or the root."""
    tops = {file.path.relative_to(root).parts[0] for file in files if file.path.is_relative_to(root)}
    top = root / tops.pop() if len(tops) == 1 else root
    return top if top.is_dir() and meaning(top.name)[1] == split else root


# --- pairs -----------------------------------------------------------------------------------------------------------


def _paired(images: list[File], masks: list[File]) -> Paired:
    """Pair file with file; or else the channels of an image, or the parts of a mask, where they are several files."""
    if len(images) == len(masks) == 1 and images[0].said and masks[0].said:
        only = Pair(images[0].name, Source((images[0].path,)), Source((masks[0].path,)))
        return Paired([only], "the image and the mask that were given")
    try:
        image_files, mask_files = _by_name(images), _by_name(masks)
    except UserError:
        if whole := _by_whole_names(images, masks):
            return whole
        raise
    try:
        matching = find_rule(list(image_files), list(mask_files))
    except UserError:
        if several := _several(image_files, mask_files, images, masks):
            return several
        raise
    several = None
    if not matching.complete:
        several = _several(image_files, mask_files, images, masks, bool(matching.masks_left))
    return several or result(matching, alone(image_files), alone(mask_files))


def _several(
    by_image: dict[str, Path],
    by_mask: dict[str, Path],
    images: list[File],
    masks: list[File],
    may_be_parts: bool = True,
) -> Paired | None:
    """What else the names may mean, where they don't go together one by one."""
    return (
        with_channels(by_image, by_mask)
        or with_objects(by_image, by_mask)
        or _by_whole_names(images, masks)
        or (with_parts(by_image, by_mask) if may_be_parts else None)
    )


def _by_whole_names(images: list[File], masks: list[File]) -> Paired | None:
    """By what masks were made from, with its extension: a.jpg_mask.png of a.jpg, where that leaves nothing over."""
    types = {file.path.suffix for file in images}
    if not any(extension in file.path.stem for file in masks for extension in types):
        return None
    whole = {file.name + file.path.suffix: file.path for file in images}
    mask_files = {_folder(file.name) + file.path.stem: file.path for file in masks}
    if len(whole) < len(images) or len(mask_files) < len(masks):
        return None
    with suppress(UserError):
        matching = find_rule(list(whole), list(mask_files))
        if matching.complete:
            return result(matching, alone(whole), alone(mask_files))
    return None


def _by_hand(root: Path, text: str, inside: Iterable[Path]) -> tuple[dict[str, Paired], list[str]]:
    """The pairs of each split, and notes, by the user's rule; case and leading zeros are overlooked if that pairs
    more."""
    rule = with_extensions(parse_pair(text))
    by_path = {file.path.relative_to(root).as_posix(): file for file in located(root, inside)}
    names = list(by_path)
    matching = apply_rule(rule, names, names)
    if not matching.complete:
        # Names that differ only in what the loose rule overlooks are not its business.
        with suppress(UserError):
            loose = apply_rule(replace(rule, loose=True), names, names)
            matching = max(matching, loose, key=lambda one: len(one.pairs))
    if not matching.pairs:
        counts = f"{len(matching.images_left)} files as images and {len(matching.masks_left)} as masks"
        some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "") if names else "nothing"
        raise UserError(f"--pair '{text}' pairs nothing: it fits {counts}, of {len(names)} in {root}: {some}")
    if twice := {image for image, _ in matching.pairs} & {mask for _, mask in matching.pairs}:
        raise UserError(f"--pair '{text}' makes {by_path[min(twice)].path} an image and a mask: tell them apart")
    # '{id}' fits the masks of '{id}_mask' as well.
    paired = {name for pair in matching.pairs for name in pair}
    masks_left = [name for name in matching.masks_left if name not in paired]
    meant = paired.union(masks_left)
    images_left = [name for name in matching.images_left if name not in meant]
    found = {"train": Paired([], matching.rule.describe())}

    def of(name: str) -> Paired:
        return found.setdefault(by_path[name].split or "train", Paired([], matching.rule.describe()))

    for image, mask in sorted(matching.pairs, key=lambda pair: natural(pair[0])):
        pair = Pair(stem(image), Source((by_path[image].path,)), Source((by_path[mask].path,)))
        of(image).pairs.append(pair)
    for image in images_left:
        of(image).unmasked.append(without_mask(stem(image), (by_path[image].path,)))
    for mask in masks_left:
        of(mask).left.append(f"mask without an image: {by_path[mask].path}")
    if not found["train"].pairs:
        raise UserError(f"--pair '{text}' pairs no files to train on, only some of val or test: let it fit more")
    meant.update(images_left)
    return found, _not_used(file for name, file in by_path.items() if name not in meant)


def _by_name(files: list[File]) -> dict[str, Path]:
    """Raises UserError where two have the same name."""
    named: defaultdict[str, list[Path]] = defaultdict(list)
    for file in files:
        named[file.name].append(file.path)
    alike = []
    for paths in named.values():
        if len(paths) > 1:
            same_folder = len({path.parent for path in paths}) == 1
            how = "differ in their extension alone" if same_folder else "have the same name and the same meaning"
            alike.append(f"{' and '.join(map(str, paths))} {how}: keep one of them")
    if alike:
        raise UserError("\n".join(alike))
    return {name: path for name, [path] in named.items()}


# --- names and messages ----------------------------------------------------------------------------------------------


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _not_used(files: Iterable[File]) -> list[str]:
    folders = Counter(file.path.parent for file in files)
    return [f"{folder} is not used: {counted(count, 'image file')}" for folder, count in folders.items()]


def _sets_below(root: Path, inside: Sequence[Path]) -> list[str]:
    """Folders below that are data sets by themselves; not where types alone tell masks from images, as JPEG and the
    PNG of its superpixels."""
    tops = dict.fromkeys(path.relative_to(root).parts[0] for path in inside)
    folders = [root / top for top in tops if (root / top).is_dir()][:MAX_SETS]
    sets = []
    for folder in folders:
        with suppress(UserError):
            below = [path for path in inside if path.is_relative_to(folder)]
            _by_looks(folder, below, [], None, None)
            if not any(file.by_type for file in assign_roles(folder, below, None, None)):
                sets.append(folder)
    if not sets:
        return []
    return [f"By itself this is a data set: --data {folder}" for folder in sets]


def _side_of(sides: dict[str, tuple[list[File], list[File]]], error: SeveralRules) -> tuple[list[File], list[File]]:
    """The images and masks that several rules fit."""
    image, mask = error.choices[0][1][0]
    for images, masks in sides.values():
        if any(file.name == image for file in images) and any(file.name == mask for file in masks):
            return images, masks
    raise AssertionError("the names are those of a split")


def masks_among(root: Path, paths: Sequence[Path], training: Mapping[str, Any]) -> set[Path]:
    """Which of these files below the root are masks: in folders that words or --masks say are, beside their images by
    a rule that was found in training, or by the --pair that it was told. training: of a checkpoint.

    Nothing where nothing else is there: whoever gives nothing but masks means them.
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
            by_hand, _ = _by_hand(root, training["pair"], paths)
            found |= {path for one in by_hand.values() for pair in one.pairs for path in pair.mask.paths}
    return found if len(found) < len(paths) else set()


def _look_swapped(images: str, masks: str) -> bool:
    return meaning(Path(images).name)[0] == "masks" and meaning(Path(masks).name)[0] == "images"


def swapped(layout: Layout) -> str:
    """The flags by which images become masks, and masks images."""
    if layout.beside:
        rule = parse_pair(layout.beside[0])
        return f"--pair '{as_text(Rule(rule.mask, rule.image))}'"
    pair = layout.splits["train"][0]
    return f"--images {pair.mask.path.parent} --masks {pair.image.path.parent}"


def one_class_options(layout: Layout) -> list[str]:
    """Of classes in files of their own, the --pair for each of them alone."""
    inside = list(walk(layout.root))
    options = []
    for number in range(1, len(layout.classes) + 1):
        pairs = [
            (pair.image.path, pair.mask.paths[pair.mask.classes.index(number)])
            for part in layout.splits.values()
            for pair in part
            if number in pair.mask.classes
        ]
        options.append(option_for(layout.root, pairs, inside))
    return [option for option in options if option]
