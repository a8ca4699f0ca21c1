"""Words in the names of files and folders: which of them mean images, masks, a split, or nothing of ours.

The one place to add a word that data sets use.
"""

from __future__ import annotations

import re
import unicodedata

IMAGE_WORDS = frozenset({"image", "images", "img", "imgs", "input", "inputs"})
MASK_WORDS = frozenset({
    "mask", "masks", "label", "labels", "lbl", "lbls", "seg", "segs", "segmentation", "segmentations", "annotation",
    "annotations", "anno", "annot", "annots", "gt", "gts", "groundtruth", "groundtruths", "truth", "manual", "target",
    "targets", "trimap", "trimaps", "msk", "msks", "labelmap", "labelmaps",
})  # fmt: skip
# In the name of a file they mean a mask; a folder that is called so may as well hold images that have one.
MASK_HINTS = frozenset({"labelled", "labeled"})
SPLIT_WORDS = {
    "train": "train", "training": "train", "tr": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test", "ts": "test",
}  # fmt: skip
# They say nothing beside a word for a role or a split: JPEGImages, SegmentationClass, ground_truth.
FILLERS = frozenset({"jpeg", "jpg", "png", "tif", "tiff", "class", "ground", "set", "data", "files", "folder"})

# What systems leave in folders, in lower case. Names that begin with a dot are passed over in any case.
LEFT_BEHIND = frozenset({"__macosx", "thumbs.db", "desktop.ini", "$recycle.bin", "system volume information"})
# Folders in which network drives keep small versions of every picture, and what was deleted.
DRIVE_FOLDERS = frozenset({"@eadir", "@__thumb", "#recycle", "@recycle", "#snapshot", "lost+found"})

# Where NAME_cp_masks is the mask of NAME, Cellpose wrote these beside it for itself.
CELLPOSE_MASKS = "_cp_masks"
CELLPOSE_OWN = ("_seg", "_flows", "_cp_outlines", "_outlines", "_cp_output", "_cp_flows")

# Names of background, in lower case, without what is no letter; and of a first class that is what is left beside the
# others. A mask file of the others may show a class: other cells.
NOTHING_NAMES = frozenset({
    "background", "bg", "back", "void", "unlabelled", "unlabeled", "none", "nothing", "empty", "outside",
})  # fmt: skip
BACKGROUND_NAMES = NOTHING_NAMES | {"other", "others", "rest", "unknown"}

# Numbers, words (also thoseThatHumpsTellApart), and every other character by itself.
TOKEN = re.compile(r"\d+|[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_]+|[\W_]")


def known_words(word: str) -> list[str]:
    """A word in lower case, or the two known words that run together in it: trainannot -> train, annot."""
    known = (IMAGE_WORDS, MASK_WORDS, SPLIT_WORDS.keys(), FILLERS)
    if any(word in words for words in known):
        return [word]
    for cut in range(3, len(word) - 1):
        head, tail = word[:cut], word[cut:]
        two_splits = head in SPLIT_WORDS and tail in SPLIT_WORDS  # trainval is neither
        if not two_splits and all(any(part in words for words in known) for part in (head, tail)):
            return [head, tail]
    return [word]


def tokens(name: str) -> list[str]:
    """A name cut into numbers, words and single other characters: 'imagesTr_07' -> images Tr _ 07."""
    return TOKEN.findall(unicodedata.normalize("NFC", name))
