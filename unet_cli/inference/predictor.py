"""The predictor: an ensemble of trained networks with their preprocessing, from image to probabilities and mask."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from unet_cli.checkpoint import Checkpoint
from unet_cli.config.base import plain
from unet_cli.config.hardware import CPU_PREDICT_BATCH, GPU_PREDICT_BATCH
from unet_cli.config.prediction import Cleaning, Inference
from unet_cli.config.spacing import describe_spacing, in_mm
from unet_cli.data.folder.volume_folders import volume_in
from unet_cli.data.imagefile import Bands, image_pixels, one_band, open_bands, read_stack, volume_pixels
from unet_cli.data.intensities import volume_intensities
from unet_cli.data.preprocess import normalize, seen
from unet_cli.data.resample import are_alike, size_at
from unet_cli.data.source import Source
from unet_cli.data.spacing import spacing_of
from unet_cli.errors import UserError
from unet_cli.inference.cleaning import clean
from unet_cli.inference.member import Member, make_member
from unet_cli.inference.numbering import number_objects
from unet_cli.inference.resampled import Resampled
from unet_cli.inference.views import Band, Picture, Stretched, Tiled, View, check_inputs
from unet_cli.metrics.calibration import calibrated, calibrated_number, uncalibrated
from unet_cli.models.classes import decided, to_probabilities
from unet_cli.system.device import DTYPES, Compute, compiling, keep_freed_memory

AnyCleaning = TypeVar("AnyCleaning", bound=Cleaning)

UNTOLD = "the file doesn't tell the spacing of its voxels, so they are taken for the network's; --spacing states it"


class Predictor:
    """One or several networks on their device. Threads may share it: between calls it keeps nothing
    but batch_size, which `through_network` lowers where the memory doesn't suffice.

    labels: label map of the masks. mode: 'resize' or 'tile'. planes: probability maps, see LabelMap.outputs; attention
    maps follow them. temperature: calibrates the probabilities that users see. threshold: calibrated probability from
    which a pixel is foreground. Raises UserError where the networks can't be averaged, or don't support the settings.
    """

    def __init__(self, checkpoints: Sequence[Checkpoint], compute: Compute, settings: Inference | None = None) -> None:
        settings = settings or Inference()
        keep_freed_memory(compute)
        self.compute, self.settings = compute, settings
        self.labels = checkpoints[0].labels
        self.preprocessing = checkpoints[0].preprocessing
        self.mode = settings.mode or self.preprocessing.mode
        if self.preprocessing.is_volumetric:
            self.mode = "tile"
            _check_for_volumes(settings)
        # In evaluation it is also the unit of distances, that of images included.
        is_stated = settings.spacing is not None and self.preprocessing.spacing
        self._stated = in_mm(settings.spacing) if settings.spacing is not None and is_stated else None
        _check_alike(checkpoints, settings)
        self.temperature = _temperature(checkpoints)
        self.threshold = _chosen_threshold(checkpoints, settings, self.temperature)
        self.core_threshold = sum(checkpoint.core_threshold for checkpoint in checkpoints) / len(checkpoints)
        self._raw_threshold = uncalibrated(self.threshold, self.temperature)  # of uncalibrated probabilities
        self.members = [make_member(checkpoint, compute, settings, self.mode) for checkpoint in checkpoints]
        check_inputs(self.members, self.mode)
        if settings.attention_maps and len(self.members) > 1:
            raise UserError("--attention-maps are of one network, and --weights are several: give one")
        usual = 1 if self.preprocessing.is_volumetric else compute.usual(CPU_PREDICT_BATCH, GPU_PREDICT_BATCH)
        self.batch_size = settings.batch_size or usual
        if self.mode == "resize" and any(member.preprocessing.scale is not None for member in self.members):
            self.batch_size = 1  # with a fixed scale images differ in size
        if settings.compile:
            self._compile()

    @property
    def planes(self) -> int:
        return self.labels.outputs - self.labels.cores

    def cleaning(self, wanted: AnyCleaning) -> AnyCleaning:
        """What is done to masks: as wanted, and of objects with cores what the validation part found best."""
        if not self.labels.cores:
            return wanted
        fits = [member.checkpoint for member in self.members]
        smallest = wanted.remove_smaller or min(fit.smallest_object for fit in fits)
        is_split = wanted.split_touching or all(fit.split_cores for fit in fits)
        return replace(wanted, remove_smaller=smallest, split_touching=is_split)

    @property
    def gates(self) -> int:
        """Number of attention maps, which follow the probabilities."""
        return self.members[0].gates

    @property
    def identity(self) -> dict[str, Any]:
        """Plain values on which all probabilities and classes depend, to recognise results of the same prediction."""
        return {
            "weights": self._digest,
            "preprocessing": [plain(member.preprocessing) for member in self.members],
            "mode": self.mode,
            "overlap": self.settings.overlap,
            "flips": self.settings.flips,
            "prune": self.settings.prune,
            "threshold": self.threshold,
            "core_threshold": self.core_threshold,
            "spacing": self._stated,
            "temperature": self.temperature,
            "computing": [self.compute.kind, self.compute.precision, self.batch_size, self.settings.compile],
        }

    @cached_property
    def _digest(self) -> str:
        """Of all weights, and exported files."""
        digest = hashlib.blake2b()
        for member in self.members:
            if member.checkpoint.exported is not None:
                digest.update(member.checkpoint.exported.digest.encode())
            for name, weight in member.checkpoint.weights.items():
                digest.update(name.encode() + weight.contiguous().cpu().numpy().tobytes())
        return digest.hexdigest()

    def __call__(self, image: str | Path | np.ndarray | Image.Image) -> np.ndarray:
        """The mask of an image or volume in the values or colours of the training masks, as `unet predict` writes it:
        ([D,] H, W) uint8 or uint16, or ([D,] H, W, 3) uint8. Of classes that overlap (K, [D,] H, W) uint8, a mask of 0
        and 255 for each but the background. Of objects their numbers, uint16.

        image: a path, which for volumes may be a folder of slices, a Pillow image, or an array ([D,] H, W) or ([D,] H,
        W, C) in the value range of the training files. Raises UserError.
        """
        if isinstance(image, (str, Path)):
            path = Path(image)
            is_folder = self.preprocessing.is_volumetric and path.is_dir()
            picture = self.read(volume_in(path) if is_folder else Source((path,)))
        else:
            channels, keep_alpha = self.preprocessing.in_channels, self.preprocessing.keep_alpha
            pixels = volume_pixels if self.preprocessing.is_volumetric else image_pixels
            picture = self.picture(*pixels(image, channels, keep_alpha))
        rows = [self.classes(self.finished(band)) for band in self.bands(picture)]
        indices = np.concatenate(rows).reshape(picture.shape)
        if self.labels.cores:
            cleaning = self.cleaning(Cleaning())
            return number_objects(clean(indices, cleaning, self.labels), cleaning, self.labels)
        if not self.labels.overlapping:
            return self.labels.decode(indices)
        return np.stack([self.labels.mask_of(indices, number) for number in self.labels.scored])

    def finished(self, band: Band) -> Tensor:
        """`Band.finished`, with missing pixels, which training ignores, as background: of the first class."""
        probs = band.finished()
        if band.missing is None:
            return probs
        probs = probs.masked_fill(torch.from_numpy(band.missing), 0)
        if not self.labels.has_threshold:
            probs[0] += torch.from_numpy(band.missing)
        return probs

    def classes(self, probs: Tensor) -> np.ndarray:
        """(planes and more, H, W) probabilities of `Band.combined` -> (H, W) uint8 class indices, with the cores of
        objects marked."""
        scores, labels = probs[None, : self.labels.outputs], self.labels
        return decided(scores, labels.overlapping, labels.cores, self._raw_threshold, self.core_threshold)[0].numpy()

    def calibrated(self, probs: Tensor) -> Tensor:
        """(planes, ...) probabilities of `Band.combined` -> calibrated ones, of the same shape."""
        return calibrated(probs, self.temperature, self.labels.overlapping)

    def bands(self, picture: Picture) -> Iterator[Band]:
        """Predict one image on its own: its finished rows, from top to bottom. Raises UserError."""
        views = picture.views()
        # A band is complete with the last view that overlaps it, so most views complete none.
        while batch := list(islice(views, self.batch_size)):
            for view, probs in zip(batch, self.probabilities(batch), strict=True):
                band = picture.add(view, probs)
                if band is not None:
                    yield band

    def read(self, source: Source) -> Picture:
        """Open an image in the predictor's mode, or a volume. Raises UserError."""
        keep_alpha = self.preprocessing.keep_alpha
        source = seen(source, self.preprocessing)
        try:
            shared = [volume_intensities(source, member.preprocessing) for member in self.members]
            intensities = shared if any(one is not None for one in shared) else None
            if self.mode == "tile":
                bands = open_bands(source, keep_alpha)
                if intensities is not None:  # of a slice
                    return Tiled(self.members, bands, self.settings.overlap, intensities=intensities)
                is_asked = self.preprocessing.spacing and self._stated is None
                return self._in_tiles(bands, spacing_of(source) if is_asked else self._stated)
            stack, notes = read_stack(source, keep_alpha)
            return Stretched(self.members, stack.reshape(-1, *stack.shape[2:]), notes, intensities)
        except UserError as error:
            raise source.named(error) from error

    def _compile(self) -> None:
        """Compile the networks now, on a blank image. Raises UserError where that fails."""
        sides = [64] * len(self.preprocessing.sides)
        blank = np.zeros((self.preprocessing.in_channels, *sides), self.preprocessing.dtype)
        with compiling():
            self.probabilities([next(self.picture(blank, ()).views())])

    def picture(self, pixels: np.ndarray, notes: tuple[str, ...] = ()) -> Picture:
        """An image or volume in memory, (C, *spatial). Raises UserError."""
        if self.mode == "tile":
            return self._in_tiles(one_band(pixels, notes), self._stated)
        return Stretched(self.members, pixels, notes)

    def _in_tiles(self, bands: Bands, spacing: tuple[float, ...] | None) -> Picture:
        """An image or volume in tiles; a volume at the networks' spacing. spacing: of its voxels, None where it is not
        known. Raises UserError."""
        size = size_at(bands.spatial, spacing, self.preprocessing.spacing)
        if size != bands.spatial:
            return Resampled(self.members, bands, size, self.settings.overlap)
        if self.preprocessing.spacing and spacing is None:
            bands = replace(bands, notes=(*bands.notes, UNTOLD))
        return Tiled(self.members, bands, self.settings.overlap)

    @torch.inference_mode()
    def probabilities(self, views: Sequence[View]) -> list[list[Tensor]]:
        """Up to `batch_size` views -> for each view and member (planes + gates, *sides) float32 probabilities on the
        CPU."""
        # The batch is padded to `batch_size`, since kernels are chosen by shape: so the arithmetic, and with it an
        # image's result, doesn't depend on what else is in the batch.
        filled = [*views, *[views[-1]] * (self.batch_size - len(views))]
        by_member = []
        for number, member in enumerate(self.members):
            image = torch.stack([view.inputs[number] for view in filled])
            measured = [intensities for view in filled if (intensities := view.intensities[number]) is not None]
            image = image.to(self.compute.device, non_blocking=True)
            image = normalize(image, member.preprocessing, torch.stack(measured) if measured else None)
            by_member.append(self._augmented(member, image)[: len(views)].cpu())
        return [list(probs) for probs in zip(*by_member, strict=True)]

    def _augmented(self, member: Member, image: Tensor) -> Tensor:
        """Normalised (N, C, *sides) -> (N, planes + gates, *sides), with --flips averaged over the flips and rotations
        of test-time augmentation."""
        image = image.to(DTYPES[self.compute.precision])
        if not self.settings.flips:
            return self._probabilities(member.model, image)
        views = [self._turned(member.model, image, *symmetry) for symmetry in member.symmetries]
        return torch.stack(views).mean(0)

    def _probabilities(self, model: nn.Module, image: Tensor) -> Tensor:
        # Float32 from here on: a sigmoid or softmax in half precision would lose the small probabilities.
        memory_format = self.compute.memory_format(image.ndim - 2)
        output = model(image.contiguous(memory_format=memory_format)).float()
        logits, maps = output.split([self.labels.outputs, self.gates], dim=1)
        probs = to_probabilities(logits, self.labels.has_threshold, self.labels.cores)
        return torch.cat([probs, maps], dim=1) if self.gates else probs

    def _turned(self, model: nn.Module, image: Tensor, turns: int, flipped: tuple[int, ...]) -> Tensor:
        """Probabilities of the flipped and rotated image, rotated and flipped back. flipped: axes."""
        probs = self._probabilities(model, torch.rot90(image.flip(flipped) if flipped else image, turns, (-2, -1)))
        probs = torch.rot90(probs, -turns, (-2, -1))
        return probs.flip(flipped) if flipped else probs


def _temperature(checkpoints: Sequence[Checkpoint]) -> float:
    """The network's temperature, or for an ensemble the geometric mean, in which a factor and its inverse cancel. That
    is a compromise: each was fitted to one network, and their average is less confident than each of them."""
    return math.prod(checkpoint.temperature for checkpoint in checkpoints) ** (1 / len(checkpoints))


def _chosen_threshold(checkpoints: Sequence[Checkpoint], settings: Inference, temperature: float) -> float:
    """The calibrated threshold: --threshold, else the checkpoint's; 'auto' is the mean of the members' best thresholds,
    taken on uncalibrated probabilities and calibrated with the common temperature."""
    labels = checkpoints[0].labels
    if settings.threshold is None:
        return checkpoints[0].threshold
    if not labels.has_threshold:
        raise UserError(
            f"--threshold is for one foreground class, and these weights have {labels.num_classes - 1}: leave it out"
        )
    if settings.threshold != "auto":
        return float(settings.threshold)
    best = [(one.best_threshold, one.temperature) for one in checkpoints if one.best_threshold is not None]
    if len(best) < len(checkpoints):
        raise UserError(
            "--threshold auto: these weights have no best threshold, since their run was not finished: give a number"
        )
    if len(best) == 1:
        return best[0][0]  # exactly: the round trip through `uncalibrated` would change the last bits
    return calibrated_number(sum(uncalibrated(*one) for one in best) / len(best), temperature)


def _check_for_volumes(settings: Inference) -> None:
    """Raises UserError for settings of images alone."""
    for flag, is_given in (("--mode resize", settings.mode == "resize"), ("--size", settings.size)):
        if is_given:
            raise UserError(
                f"{flag} is for images, and these weights predict volumes, in tiles as in training: omit it"
            )


def _check_alike(checkpoints: Sequence[Checkpoint], settings: Inference) -> None:
    """Check that the members have the same classes and read files alike, or their probabilities can't be averaged.
    Raises UserError."""
    first = checkpoints[0]
    for other in checkpoints[1:]:
        if any(
            getattr(other.labels, name) != getattr(first.labels, name)
            for name in ("names", "values", "overlapping", "cores")
        ):
            raise UserError(
                f"--weights have different classes, {first.labels.describe()} and {other.labels.describe()}: "
                "only networks for the same classes can be averaged"
            )
        for name in (
            "dtype",
            "keep_alpha",
            "files",
            "pages",
            "slices",
            "statistics",
            *(() if settings.mode else ("mode",)),
        ):
            one, two = getattr(first.preprocessing, name), getattr(other.preprocessing, name)
            if one != two:
                hint = "choose one with --mode" if name == "mode" else "they can't be averaged"
                raise UserError(
                    f"--weights were trained on images that are read differently ({name} {one} and {two}): {hint}"
                )
        if not are_alike(other.preprocessing.spacing, first.preprocessing.spacing):
            spacings = [one.preprocessing.spacing for one in (first, other)]
            both = [describe_spacing(spacing) if spacing else "that of each file" for spacing in spacings]
            raise UserError(
                f"--weights see volumes at different spacings, {' and '.join(both)}: only networks that were trained "
                "with the same --resample can be averaged"
            )
