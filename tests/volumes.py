"""Sets of small volumes as nnU-Net and the Medical Segmentation Decathlon lay them out, and networks for them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from torch import nn

AFFINE = np.diag([-0.5, -0.5, 2.0, 1.0])  # stored as it is read: columns to left, rows to posterior
SHAPE = (12, 20, 16)  # (D, H, W)


def with_statistics(model: nn.Module) -> nn.Module:
    """A network for volumes in evaluation mode, with batch norms that change something."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.bias)
    return model.double().eval()


def drawn_volume(index: int) -> tuple[np.ndarray, np.ndarray]:
    """A ball with a brighter core, (D, H, W) int16, and its classes 0, 1, 2 as uint8."""
    generator = np.random.default_rng(index)
    center = np.array(SHAPE) / 2 + generator.normal(0, 1.2, 3)
    places = np.stack(np.indices(SHAPE), axis=-1) - center
    radius = np.sqrt(((places * (1.5, 1, 1)) ** 2).sum(-1))
    mask = (radius < 6).astype(np.uint8) + (radius < 3)
    image = mask.astype(int) * 300 + generator.normal(-200, 60, SHAPE)
    return image.astype(np.int16), mask


def write_volume(path: Path, volume: np.ndarray, affine: np.ndarray = AFFINE, codes: str = "LPS") -> Path:
    """(D, H, W) as NIfTI, stored with its axes in these directions."""
    nibabel = pytest.importorskip("nibabel", reason="pip install nibabel, the extra medical")
    orientations = nibabel.orientations
    image = nibabel.Nifti1Image(volume.transpose(), affine)
    turn = orientations.ornt_transform(*(orientations.axcodes2ornt(tuple(axes)) for axes in ("LPS", codes)))
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image.as_reoriented(turn), path)
    return path


def write_set(
    root: Path, count: int = 6, channels: int = 1, is_numbered: bool = True, labels: object = None, **like: object
) -> Path:
    """imagesTr, labelsTr and imagesTs. is_numbered: whether images have _0000 in their names. labels: those of
    dataset.json. like: how masks are written, see `write_volume`."""
    for index in range(count + 2):
        part, name = ("Tr", f"case_{index:03}") if index < count else ("Ts", f"case_{index:03}")
        image, mask = drawn_volume(index)
        for channel in range(channels):
            number = f"_{channel:04}" if is_numbered else ""
            write_volume(root / f"images{part}" / f"{name}{number}.nii.gz", image + 100 * np.int16(channel))
        if part == "Tr":
            write_volume(root / "labelsTr" / f"{name}.nii.gz", mask, **like)
    (root / "imagesTr" / "._case_000.nii.gz").write_bytes(b"\0\5\x16\7 of a Mac")
    if labels is not None:
        (root / "dataset.json").write_text(json.dumps({"labels": labels, "numTraining": count}))
    return root
