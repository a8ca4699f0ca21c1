"""Words in file and folder names that mean images, masks, a split, or files to ignore.

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
# In a file name they mean a mask; a folder of that name may also contain images that have masks.
MASK_HINTS = frozenset({"labelled", "labeled"})
SPLIT_WORDS = {
    "train": "train", "training": "train", "tr": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test", "ts": "test",
}  # fmt: skip
# Without meaning next to a word for a role or a split: JPEGImages, SegmentationClass, ground_truth.
FILLERS = frozenset({"jpeg", "jpg", "png", "tif", "tiff", "class", "ground", "set", "data", "files", "folder"})

# Files and folders of operating systems, in lower case. Names that begin with a dot are ignored anyway.
LEFT_BEHIND = frozenset({"__macosx", "thumbs.db", "desktop.ini", "$recycle.bin", "system volume information"})
# Folders of network drives for thumbnails and deleted files.
DRIVE_FOLDERS = frozenset({"@eadir", "@__thumb", "#recycle", "@recycle", "#snapshot", "lost+found"})

# Further files that Cellpose writes beside the mask NAME_cp_masks.
CELLPOSE_MASKS = "_cp_masks"
CELLPOSE_OWN = ("_seg", "_flows", "_cp_outlines", "_outlines", "_cp_output", "_cp_flows")

# Names of background, in lower case, letters only. BACKGROUND_NAMES adds names of a first class for the remainder; a
# mask file of that name may show a class, such as other cells.
NOTHING_NAMES = frozenset({
    "background", "bg", "back", "void", "unlabelled", "unlabeled", "none", "nothing", "empty", "outside",
})  # fmt: skip
BACKGROUND_NAMES = NOTHING_NAMES | {"other", "others", "rest", "unknown"}

# Numbers, words (also in camelCase), and every other character by itself.
TOKEN = re.compile(r"\d+|[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_]+|[\W_]")


def known_words(word: str) -> list[str]:
    """A word in lower case, or the two known words that it is composed of: trainannot -> train, annot."""
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
    """Split a name into numbers, words and single other characters: 'imagesTr_07' -> images Tr _ 07."""
    return TOKEN.findall(unicodedata.normalize("NFC", name))
