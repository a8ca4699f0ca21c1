"""Images or masks that consist of several files: channels, objects, or classes.

Decided from names alone.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from os.path import commonprefix
from pathlib import Path, PurePath

from unet_cli.data.folder.channels import Files, find_channels, nnunet_name
from unet_cli.data.folder.name_rules import SAME_NAME, Matching
from unet_cli.data.folder.pairing import find_rule
from unet_cli.data.folder.words import NOTHING_NAMES, tokens
from unet_cli.data.formats import is_volume_file
from unet_cli.data.source import Pair, Source
from unet_cli.errors import UserError
from unet_cli.system.console import counted

MAX_CLASS_FILES = 64  # of one image
# Words for further versions of the same mask, in another form or by another annotator: no classes.
VERSIONS = frozenset({
    "viz", "vis", "color", "colors", "colour", "colours", "colored", "coloured", "overlay", "outline", "outlines",
    "contour", "contours", "boundary", "boundaries", "edge", "edges", "preview", "instance", "instances", "semantic",
    "panoptic", "ids", "raw", "gray", "grey", "rgb", "prob", "annotator", "rater", "observer", "expert", "reader", "st",
    "nd", "rd", "manual", "old", "new", "final", "corrected", "copy", "v",
})  # fmt: skip


@dataclass(frozen=True)
class Paired:
    """The pairs of one split, and the corresponding fields of Layout.

    unmasked: images without a mask, each as a pair with a blank mask, and a message. left: a message for each other
    file without a partner. classes: names of the classes if each has mask files of its own. channels: the words in
    the names of the files of an image, in order, if its channels are named by words. class_folders: whether the files
    of a class lie in a folder of their own.
    """

    pairs: list[Pair]
    rule: str
    left: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    files_per_image: int = 1
    unmasked: list[tuple[Pair, str]] = field(default_factory=list)
    classes: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    class_folders: bool = False


def result(matching: Matching, images: Files, masks: Files) -> Paired:
    pairs = [Pair(image, Source(images[image]), Source(masks[mask])) for image, mask in matching.pairs]
    unmasked = [without_mask(image, images[image]) for image in matching.images_left]
    left = [f"mask without an image: {path}" for name in matching.masks_left for path in masks[name]]
    return Paired(pairs, matching.rule.describe(), left, unmasked=unmasked)


def without_mask(name: str, paths: tuple[Path, ...]) -> tuple[Pair, str]:
    """A pair of the image and a blank mask, and the message that its mask is missing."""
    pair = Pair(name, Source(paths), Source(paths, is_blank=True))
    return pair, "\n".join(f"image without a mask: {path}" for path in paths)


def with_channels(images: dict[str, Path], masks: dict[str, Path]) -> Paired | None:
    """ID_0000 and ID_0001, or ID_t1 and ID_t2 of volumes, form one image, and each mask has one such image."""
    merged, lacking, words = find_channels(images)
    if not merged:
        return None
    try:
        matching = find_rule([*merged, *lacking], list(masks))
    except UserError:
        return None
    if matching.masks_left:
        return None
    # An image with a missing channel is reported as such, and its mask is not reported.
    pairs = [(image, mask) for image, mask in matching.pairs if image in merged]
    images_left = [image for image in matching.images_left if image in merged]
    found = result(replace(matching, pairs=pairs, images_left=images_left), merged, alone(masks))
    count = len(next(iter(merged.values())))
    left = [f"image without its channel {channel}: {path}" for path, channel in lacking.values()]
    shown = ", ".join(f"ID_{word}" for word in words) or f"ID_0000 to ID_{count - 1:04}"
    notes = [f"{count} files make one image, a channel each: {shown}"]
    return replace(found, left=found.left + left, notes=notes, files_per_image=count, channels=words)


def with_objects(images: dict[str, Path], masks: dict[str, Path]) -> Paired | None:
    """A folder of masks for each image: ID/images/x with ID/masks/*, or images/ID with masks/ID/*."""
    folders: defaultdict[str, list[Path]] = defaultdict(list)
    for name, path in masks.items():
        folders[_folder(name)].append(path)
    # The folder of images/rat/1 is part of its name, so rat is no sample; that of rat/images/1 may be one.
    samples = {_folder(name): path for name, path in images.items() if PurePath(_folder(name)).name != path.parent.name}
    in_folders = len(samples) == len(images) and "" not in samples
    if "" in folders or not (in_folders or len(folders) < len(masks)):
        return None
    if in_folders:
        images = samples
    elif any(_folder(name) in folders for name in images):
        return None
    try:
        matching = find_rule(list(images), list(folders))
    except UserError:
        return None
    # images/s1_1 does not belong to masks/s1/*, and folders of images must match exactly.
    if matching.rule != SAME_NAME if in_folders else matching.masks_left:
        return None
    if 2 * len(matching.pairs) < len(images):  # folders match images by coincidence
        return None
    found = result(matching, alone(images), {name: tuple(paths) for name, paths in folders.items()})
    if len(folders) == len(masks):
        return replace(found, rule="a folder for each image and its mask")
    notes = [f"{len(masks)} mask files, one for each object, make {len(folders)} masks"]
    return replace(found, rule="a folder of masks for each image", notes=notes)


def with_parts(images: dict[str, Path], masks: dict[str, Path]) -> Paired | None:
    """Several masks for each image, whose names extend that of the image: ID_leaf and ID_stem, leaf/ID and stem/ID, or
    ID_1, ID_2 ...: one for each class, or for each object.

    None if there is only one such form, the files are versions of one mask, or it is ambiguous.
    """
    forms = _forms(list(images), list(masks))
    if not 2 <= len(forms) <= MAX_CLASS_FILES or len(masks) <= max(map(len, forms.values())):
        return None
    names = _differing(list(forms))
    if _are_numbers(names.values()):
        return _as_objects(forms, images, masks)
    if 2 * len(masks) < 3 * len(set().union(*forms.values())):  # too few images have more than one mask
        return None
    is_version = any(not name or VERSIONS & set(_letters(name)) for name in names.values())
    if is_version or min(map(len, forms.values())) < 2 or len(set(names.values())) < len(forms):
        return None
    background = _background(names)
    ordered = sorted(forms.keys() - {background}, key=lambda form: names[form])
    classes = tuple(names[form] for form in ordered)
    pairs, unmasked, lacking = [], [], Counter[str]()
    for image, path in images.items():
        found = {n: masks[forms[form][image]] for n, form in enumerate(ordered, 1) if image in forms[form]}
        if not found:
            unmasked.append(without_mask(image, (path,)))
            continue
        pairs.append(Pair(image, Source((path,)), Source(tuple(found.values()), classes=tuple(found))))
        lacking.update(name for n, name in enumerate(classes, 1) if n not in found)
    notes = [f"{len(forms)} mask files of each image, a class each: {', '.join(classes)}"]
    if lacking:
        told = ", ".join(f"{counted(count, 'image')} without a mask of {name}" for name, count in lacking.items())
        notes.append(f"{told}, but with others: taken for images that show none")
    if background is not None:
        notes.append(f"the files of {names[background]} are not read: background is what no class marks")
    rule = "; ".join("mask {}NAME{} for image NAME".format(*form) for form in ordered)
    in_folders = all("/" in before for before, _ in ordered)
    return Paired(pairs, rule, notes=notes, unmasked=unmasked, classes=classes, class_folders=in_folders)


Form = tuple[str, str]  # prefix and suffix of the image's name in that of its mask


def _forms(images: list[str], masks: list[str]) -> dict[Form, dict[str, str]]:
    """For each form, the mask of each image; empty if a mask has no form."""
    common = _common_end(images)
    stems = {name[: len(name) - len(common)]: name for name in images}
    if len(stems) < len(images):
        return {}
    forms: dict[Form, dict[str, str]] = {}
    for mask in masks:
        form = next((form for form in forms if _within(mask, form) in stems), None) or _form_of(mask, stems)
        if form is None:
            return {}
        image = stems[_within(mask, form)]
        if image in forms.setdefault(form, {}):
            return {}
        forms[form][image] = mask
    return forms


def _common_end(names: list[str]) -> str:
    """The words, without numbers, that all names end with, such as _sat."""
    parts = [tokens(name)[::-1] for name in names]
    common = commonprefix(parts) if len(parts) > 1 else []
    words: list[str] = []
    for part in common:
        if part.isdigit() or part == "/":
            break
        words.append(part)
    return "".join(reversed(words))


def _within(mask: str, form: Form) -> str:
    before, after = form
    fits = mask.startswith(before) and mask.endswith(after) and len(mask) > len(before) + len(after)
    return mask[len(before) : len(mask) - len(after)] if fits else ""


def _form_of(mask: str, stems: dict[str, str]) -> Form | None:
    """Prefix and suffix of the longest image name contained in the mask's name, at word boundaries."""
    parts = tokens(mask)
    borders = [0]
    for part in parts:
        borders.append(borders[-1] + len(part))
    runs = [(start, end) for n, start in enumerate(borders) for end in borders[n + 1 :]]
    for start, end in sorted(runs, key=lambda run: run[0] - run[1]):
        if mask[start:end] in stems:
            return mask[:start], mask[end:]
    return None


def _differing(forms: list[Form]) -> dict[Form, str]:
    """The part of each form that distinguishes it from the others: leaf for ('', '_class_leaf')."""
    texts = [tokens(before + "\0" + after) for before, after in forms]
    start = len(commonprefix(texts))
    end = min(len(commonprefix([text[::-1] for text in texts])), min(map(len, texts)) - start)
    middle = ["".join(text[start : len(text) - end]) for text in texts]
    return {form: name.replace("\0", " ").strip(" _-./") for form, name in zip(forms, middle, strict=True)}


def _background(names: Mapping[Form, str]) -> Form | None:
    """The form of the background masks."""
    plain = {form: "".join(filter(str.isalpha, name.lower())) for form, name in names.items()}
    called = [form for form in names if plain[form] in NOTHING_NAMES]
    so = [form for form in called if plain[form] == "background"] or called
    return so[0] if len(so) == 1 else None


def _are_numbers(names: Iterable[str]) -> bool:
    """Whether the names count: _mask, _mask_1, _mask_2."""
    return all(name.isdigit() or not name for name in names)


def _letters(name: str) -> list[str]:
    return [token.casefold() for token in tokens(name) if token.isalpha()]


def _as_objects(forms: dict[Form, dict[str, str]], images: dict[str, Path], masks: dict[str, Path]) -> Paired | None:
    """One file for each object, if their number varies between images; a constant number could be classes as well."""
    found = {image: [masks[form[image]] for form in forms.values() if image in form] for image in images}
    if len({len(paths) for paths in found.values() if paths}) == 1:
        return None
    pairs = [Pair(image, Source((images[image],)), Source(tuple(paths))) for image, paths in found.items() if paths]
    unmasked = [without_mask(image, (images[image],)) for image, paths in found.items() if not paths]
    notes = [f"{len(masks)} mask files, one for each object, make {counted(len(pairs), 'mask')}"]
    return Paired(pairs, "several masks for each image, numbered", notes=notes, unmasked=unmasked)


def alone(files: Mapping[str, Path]) -> Files:
    return {name: (path,) for name, path in files.items()}


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def with_names_of_nnunet(found: Paired) -> Paired:
    """The same pairs of volumes, called after their masks where all images are the only channel of a case."""
    pairs = [*found.pairs, *(pair for pair, _ in found.unmasked)]
    if not pairs or not all(is_volume_file(pair.image.path) and nnunet_name(pair.name) != pair.name for pair in pairs):
        return found
    unmasked = [(replace(pair, name=nnunet_name(pair.name)), message) for pair, message in found.unmasked]
    return replace(found, pairs=[replace(pair, name=nnunet_name(pair.name)) for pair in found.pairs], unmasked=unmasked)
