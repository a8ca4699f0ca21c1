"""Pairs of files as samples for the network, kept in memory as long as they fit, and batches of them."""

from __future__ import annotations

import copy
import threading
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from unet_cli.config.data import Preprocessing
from unet_cli.config.model import IGNORED
from unet_cli.data.imagefile import missing_pixels, read_image
from unet_cli.data.labels import LabelMap, mask_as
from unet_cli.data.maskfile import read_mask
from unet_cli.data.objects import numbered
from unet_cli.data.preprocess import converted, own_intensities, whole_intensities
from unet_cli.data.samples.cutting import CachedSample, Cutting, Whole
from unet_cli.data.source import Pair
from unet_cli.errors import UserError
from unet_cli.system.memory import total_memory
from unet_cli.system.prefetch import buffered, prefetch

CACHE_SHARE = 0.25  # of the machine's memory may hold decoded images


@dataclass(frozen=True)
class Batch:
    """Samples `indices` of a dataset: image (N, C, P, P) as in the files, mask (N, P, P) uint8 class indices, or int32
    with objects' numbers, intensities (N, 4) of the images that crops were cut from (see preprocess.own_intensities),
    None where they aren't needed."""

    indices: list[int]
    image: Tensor
    mask: Tensor
    intensities: Tensor | None = None


Sample = tuple[Tensor, Tensor, Tensor | None]


class _Cache:
    """What is held of pairs, by their numbers, as long as it fits. Threads may share it."""

    def __init__(self, bytes_left: int) -> None:
        self.held: dict[int, CachedSample] = {}
        self.bytes_left = bytes_left
        self._lock = threading.Lock()

    def keep(self, number: int, held: CachedSample) -> None:
        with self._lock:
            if number not in self.held and held.nbytes <= self.bytes_left:
                self.held[number] = held
                self.bytes_left -= held.nbytes


class SegmentationDataset(Dataset[tuple[Tensor, Tensor]]):
    """Samples as (image (C, P, P) as in the file, mask (P, P) uint8 class indices, or int32 with objects' numbers).

    What they are cut from is kept once decoded, up to CACHE_SHARE of the machine's memory (`cache_bytes` to set it):
    stretched images, or whole ones where crops or tiles are cut. An image that doesn't fit is decoded again for each of
    its samples. Reading may be done from several threads.

    image_numbers: for each sample the number of its pair; samples of one image lie side by side.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        preprocessing: Preprocessing,
        labels: LabelMap,
        cutting: Cutting | None = None,
        cache_bytes: int | None = None,
        with_numbers: bool = False,
    ) -> None:
        """cutting: how images become samples; stretched to the network's size unless given. with_numbers: masks that
        number their objects keep the numbers beside the classes, see objects.numbered."""
        self.pairs = list(pairs)
        self.preprocessing = preprocessing
        self.labels = labels
        self.numbered = with_numbers and labels.kind == "instances"
        self.cut_by(cutting or Whole())
        self._cache = _Cache(int(CACHE_SHARE * total_memory()) if cache_bytes is None else cache_bytes)
        self._latest: tuple[int, CachedSample] | None = None  # of a grid's tiles the next is mostly of the same image

    def __len__(self) -> int:
        return len(self.image_numbers)

    def cut_apart(self, cutting: Cutting) -> SegmentationDataset:
        """The same pairs, cut in this way; both keep what they read in the same place."""
        other = copy.copy(self)
        other.cut_by(cutting)
        return other

    @property
    def side(self) -> int:
        """Of what the network sees of a sample, in pixels."""
        return getattr(self.cutting, "side", self.preprocessing.size)

    def cut_by(self, cutting: Cutting) -> None:
        """Cut samples in this way from now on; what is held of the images stays. Not while batches are being read."""
        self.cutting: Cutting = cutting
        counts = [cutting.count(number) for number in range(len(self.pairs))]
        self.image_numbers = [number for number, count in enumerate(counts) for _ in range(count)]
        self._firsts = [0, *accumulate(counts)]

    def bytes_to_keep(self) -> int:
        """How much memory decoded images are yet to take: all of them, or as many as may be kept."""
        side, preprocessing = self.preprocessing.size, self.preprocessing
        sizes = self.cutting.sizes or [(side, side)] * len(self.pairs)
        pixel = np.dtype(preprocessing.dtype).itemsize * preprocessing.in_channels + (4 if self.numbered else 1)
        held = sum(one.nbytes for one in self._cache.held.values())
        return max(0, min(self._cache.bytes_left, pixel * sum(height * width for height, width in sizes) - held))

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Image and mask of `sample` in epoch 0."""
        image, mask, _ = self.sample(index)
        return image, mask

    def pair_of(self, index: int) -> Pair:
        """The pair that a sample is cut from."""
        return self.pairs[self.image_numbers[index]]

    def sample(self, index: int, epoch: int = 0) -> Sample:
        """Image (C, P, P), mask (P, P), and the intensities (4,) of the whole image where they are needed.

        Raises UserError where the files have changed or vanished since they were examined.
        """
        number = self.image_numbers[index]
        latest = self._latest
        held = latest[1] if latest and latest[0] == number else self._cache.held.get(number)
        if held is None:
            held = self._read(number)
            self._cache.keep(number, held)
            self._latest = number, held
        image, mask = self.cutting.cut(held, index - self._firsts[number], index, epoch)
        return image, mask, held.intensities

    def batches(
        self,
        order: Sequence[int],
        batch_size: int,
        workers: int | None = None,
        epoch: int = 0,
        pin: bool = False,
    ) -> Generator[Batch]:
        """Samples in the given order, `batch_size` at a time (the last batch may be smaller).

        Read ahead in `workers` threads, and stacked one batch ahead in another. Closing the generator ends these. pin:
        batches lie in memory that is pinned for the way to a GPU.
        """
        groups = [list(order[start : start + batch_size]) for start in range(0, len(order), batch_size)]
        torch.get_num_threads()  # settles that of this thread, before others are told to compute alone
        with closing(self._stacked(groups, workers, epoch, pin)) as stacked:
            yield from buffered(stacked, depth=1)

    def _stacked(self, groups: list[list[int]], workers: int | None, epoch: int, pin: bool) -> Generator[Batch]:
        """For a thread of its own, which computes alone."""
        torch.set_num_threads(1)
        samples = prefetch(partial(self.sample, epoch=epoch), [index for group in groups for index in group], workers)
        for group in groups:
            yield _stack(group, [next(samples) for _ in group], pin)

    def _read(self, number: int) -> CachedSample:
        pair, preprocessing = self.pairs[number], self.preprocessing
        try:
            pixels = read_image(pair.image, preprocessing.keep_alpha)
            image, _ = converted(pixels, preprocessing)
            self._check_size(number, image)
            missing = missing_pixels(pair.image, pixels)
            intensities = whole_intensities(pixels, preprocessing) if self.cutting.sizes else None
            if len(image) < len(pixels):
                image = image.copy()  # a view would hold the channels that are left out as well
        except UserError as error:
            raise pair.image.named(error) from error
        try:
            found = read_mask(pair.mask)
            mask = self.labels.encode(found)[0]
            self._check_size(number, mask)
            if missing is not None:
                mask[missing] = IGNORED
            if self.numbered:
                mask = numbered(mask, mask_as(self.labels.reading, found)[0], IGNORED)
        except UserError as error:
            raise pair.mask.named(error) from error
        held = self.cutting.hold(torch.from_numpy(image), torch.from_numpy(mask), intensities, preprocessing.size)
        if self.cutting.sizes or preprocessing.intensity == "dataset":
            return held
        # A crop of a stretched image is normalised by the whole of it, as in prediction.
        return replace(held, intensities=own_intensities(held.image[None].float(), preprocessing)[0])

    def _check_size(self, number: int, pixels: np.ndarray) -> None:
        height, width = pixels.shape[-2:]
        was_height, was_width = self.cutting.sizes[number] if self.cutting.sizes else (height, width)
        if (height, width) != (was_height, was_width):
            raise UserError(f"is {width}x{height}, but was {was_width}x{was_height} before training: start it again")


def _stack(indices: list[int], samples: list[Sample], pin: bool) -> Batch:
    images, masks, intensities = zip(*samples, strict=True)
    known = [one for one in intensities if one is not None]
    parts = [torch.stack(images), torch.stack(masks), *([torch.stack(known)] if known else [])]
    return Batch(indices, *(part.pin_memory() if pin else part for part in parts))


@lru_cache(maxsize=4)  # it is asked for at every step
def epoch_order(length: int, seed: int, epoch: int, parts: int = 1) -> tuple[int, ...]:
    """The order of the samples of an epoch, counted from 1, a function of these numbers alone. A pass over all samples
    is `parts` epochs, none of them without a sample."""
    parts = min(parts, length)
    passed, part = divmod(epoch - 1, parts)
    order = tuple(np.random.default_rng((seed, passed + 1)).permutation(length).tolist())
    return order[length * part // parts : length * (part + 1) // parts]
