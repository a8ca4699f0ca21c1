"""The training data set: cached samples for the network, and batches of them."""

from __future__ import annotations

import copy
import math
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
from unet_cli.data.cores import with_cores
from unet_cli.data.imagefile import missing_pixels, read_image
from unet_cli.data.intensities import volume_intensities
from unet_cli.data.labels import LabelMap
from unet_cli.data.objects import numbered
from unet_cli.data.preprocess import converted, middle_slice, own_intensities, seen, whole_intensities
from unet_cli.data.resample import resampled, resampled_mask
from unet_cli.data.samples.cutting import CachedSample, Cutting, Whole
from unet_cli.data.samples.keeping import Cache, DiskCopies, narrowed
from unet_cli.data.source import Pair
from unet_cli.data.truth import read_classes, read_truth
from unet_cli.errors import UserError
from unet_cli.system.memory import total_memory
from unet_cli.system.prefetch import buffered, prefetch

CACHE_SHARE = 0.25  # fraction of the machine's memory for decoded images
LOCKS = 64  # of images that are being read


@dataclass(frozen=True)
class Batch:
    """The samples `indices` of a data set.

    image: (N, C, *sides) as in the files. mask: (N, *sides) uint8 class indices, or int32 with object numbers.
    intensities: (N, 4) statistics of the images that crops were cut from (see preprocess.own_intensities), None if not
    needed.
    """

    indices: list[int]
    image: Tensor
    mask: Tensor
    intensities: Tensor | None = None


Sample = tuple[Tensor, Tensor, Tensor | None]


class SegmentationDataset(Dataset[tuple[Tensor, Tensor]]):
    """Samples as (image (C, *sides) as in the file, mask (*sides) uint8 class indices, or int32 with object numbers).

    Decoded images are cached, up to CACHE_SHARE of the machine's memory (or `cache_bytes`): resized images, or whole
    ones for crops or tiles. A volume that doesn't fit is copied to a file, if there are `copies`; any other image is
    decoded again for each of its samples. Samples may be read from several threads.

    image_numbers: the index of the pair of each sample; samples of one image are adjacent.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        preprocessing: Preprocessing,
        labels: LabelMap,
        cutting: Cutting | None = None,
        cache_bytes: int | None = None,
        with_numbers: bool = False,
        stored: Sequence[tuple[int, ...]] | None = None,
        copies: DiskCopies | None = None,
    ) -> None:
        """cutting: how images become samples; by default resized to the network's size. with_numbers: whether instance
        masks keep object numbers beside the classes, see objects.numbered. stored: sizes of the files of volumes, which
        are resampled to those of the cutting where they differ. copies: of volumes that don't fit the memory."""
        self.pairs = list(pairs)
        self.preprocessing = preprocessing
        self.labels = labels
        self.numbered = with_numbers and labels.kind == "instances" and not labels.cores
        self.cut_by(cutting or Whole())
        self._stored = None if stored is None else list(stored)
        memory = int(CACHE_SHARE * total_memory()) if cache_bytes is None else cache_bytes
        self._cache = Cache(memory, copies if preprocessing.is_volumetric else None)
        self._reading = [threading.Lock() for _ in range(LOCKS)]
        self._latest: tuple[int, CachedSample] | None = None  # the next tile of a grid is mostly of the same image

    def __len__(self) -> int:
        return len(self.image_numbers)

    def cut_apart(self, cutting: Cutting) -> SegmentationDataset:
        """A copy with another cutting, which shares the pairs and the cache."""
        other = copy.copy(self)
        other.cut_by(cutting)
        return other

    @property
    def sides(self) -> tuple[int, ...]:
        """Sides of the network input, in pixels or voxels."""
        return getattr(self.cutting, "sides", self.preprocessing.sides)

    def cut_by(self, cutting: Cutting) -> None:
        """Change the cutting; the cache is kept. Must not be called while batches are read."""
        self.cutting: Cutting = cutting
        counts = [cutting.count(number) for number in range(len(self.pairs))]
        self.image_numbers = [number for number, count in enumerate(counts) for _ in range(count)]
        self._firsts = [0, *accumulate(counts)]

    def bytes_to_keep(self) -> int:
        """Bytes that decoded images will still occupy in the cache: all of them, or the rest of the limit."""
        preprocessing = self.preprocessing
        sizes = self.cutting.sizes or [preprocessing.sides] * len(self.pairs)
        pixel = np.dtype(preprocessing.dtype).itemsize * preprocessing.in_channels + (4 if self.numbered else 1)
        return max(0, min(self._cache.bytes_left, pixel * sum(map(math.prod, sizes)) - self._cache.nbytes))

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Image and mask of `sample` in epoch 0."""
        image, mask, _ = self.sample(index)
        return image, mask

    def pair_of(self, index: int) -> Pair:
        """The pair that a sample is cut from."""
        return self.pairs[self.image_numbers[index]]

    def sample(self, index: int, epoch: int = 0) -> Sample:
        """Image (C, *sides), mask (*sides), and the statistics (4,) of the whole image if needed.

        Raises UserError if the files have changed or vanished since they were examined.
        """
        number = self.image_numbers[index]
        cached = self._cached(number)
        image, mask = self.cutting.cut(cached, index - self._firsts[number], index, epoch)
        return image.to(self._dtype), mask, cached.intensities

    def batches(
        self,
        order: Sequence[int],
        batch_size: int,
        workers: int | None = None,
        epoch: int = 0,
        pin: bool = False,
    ) -> Generator[Batch]:
        """Samples in the given order, in batches of `batch_size`; the last one may be smaller.

        Samples are prefetched in `workers` threads, and batches are collated one ahead in another thread. Closing the
        generator ends the threads. pin: whether to put batches into pinned memory, for the transfer to a GPU.
        """
        groups = [list(order[start : start + batch_size]) for start in range(0, len(order), batch_size)]
        torch.get_num_threads()  # fixes this thread's own count, before others are set to one
        with closing(self._stacked(groups, workers, epoch, pin)) as stacked:
            yield from buffered(stacked, depth=1)

    def _stacked(self, groups: list[list[int]], workers: int | None, epoch: int, pin: bool) -> Generator[Batch]:
        """Batches, for a thread of its own with a single intra-op thread."""
        torch.set_num_threads(1)
        samples = prefetch(partial(self.sample, epoch=epoch), [index for group in groups for index in group], workers)
        for group in groups:
            yield _stack(group, [next(samples) for _ in group], pin)

    @property
    def _dtype(self) -> torch.dtype:
        """Of images as in the files."""
        return getattr(torch, self.preprocessing.dtype)

    def _cached(self, number: int) -> CachedSample:
        """The decoded pair of that number, read unless it is there."""
        found = self._held(number)
        if found is None:
            with self._reading[number % LOCKS]:  # so that threads that want one volume don't each read it
                found = self._held(number)
                if found is None:
                    found = self._cache.keep(number, self._read(number))
                    self._latest = number, found
        return found

    def _held(self, number: int) -> CachedSample | None:
        latest = self._latest
        return latest[1] if latest and latest[0] == number else self._cache.cached.get(number)

    def _read(self, number: int) -> CachedSample:
        pair, preprocessing = self.pairs[number], self.preprocessing
        try:
            pixels = read_image(seen(pair.image, preprocessing), preprocessing.keep_alpha)
            image, _ = converted(pixels, preprocessing)
            self._check_size(number, image)
            missing = missing_pixels(pair.image, middle_slice(pixels, preprocessing.slices))
            shared = volume_intensities(pair.image, preprocessing)
            intensities = whole_intensities(pixels, preprocessing) if self.cutting.sizes and shared is None else shared
            if len(image) < len(pixels):
                image = image.copy()  # a view would keep the dropped channels in memory
        except UserError as error:
            raise pair.image.named(error) from error
        try:
            if self.labels.cores or self.numbered:
                truth = read_truth(pair.mask, self.labels, missing)
                mask = (
                    with_cores(truth.classes, truth.all_numbers)
                    if self.labels.cores
                    else numbered(truth.classes, truth.numbers, IGNORED)
                )
            else:
                mask = read_classes(pair.mask, self.labels, missing)
            self._check_size(number, mask)
        except UserError as error:
            raise pair.mask.named(error) from error
        sample = self._resampled(number, torch.from_numpy(image), torch.from_numpy(mask))
        held = self.cutting.hold(*sample, intensities, preprocessing.size)
        cached = replace(held, image=narrowed(held.image))
        if shared is not None:
            return replace(cached, intensities=shared)
        if self.cutting.sizes or preprocessing.intensity == "dataset":
            return cached
        # Crops of a resized image are normalized by the statistics of the whole image, as in prediction.
        return replace(cached, intensities=own_intensities(cached.image[None].float(), preprocessing)[0])

    def _resampled(self, number: int, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """A volume at the network's spacing; an image as it is."""
        if self._stored is None or self.cutting.sizes is None:
            return image, mask
        size = self.cutting.sizes[number]
        return resampled(image, size), resampled_mask(mask, size)

    def _check_size(self, number: int, pixels: np.ndarray) -> None:
        stored = self._stored or self.cutting.sizes
        if stored is None:
            return
        was = stored[number]
        now = pixels.shape[-len(was) :]
        if now != was:
            sizes = ["x".join(str(side) for side in reversed(sides)) for sides in (now, was)]
            raise UserError(f"is {sizes[0]}, but was {sizes[1]} before training: restart it")


def _stack(indices: list[int], samples: list[Sample], pin: bool) -> Batch:
    images, masks, intensities = zip(*samples, strict=True)
    known = [one for one in intensities if one is not None]
    parts = [torch.stack(images), torch.stack(masks), *([torch.stack(known)] if known else [])]
    return Batch(indices, *(part.pin_memory() if pin else part for part in parts))


@lru_cache(maxsize=4)  # called at every step
def epoch_order(length: int, seed: int, epoch: int, parts: int = 1) -> tuple[int, ...]:
    """The shuffled order of the samples in an epoch, counted from 1, determined by these numbers alone. A pass over all
    samples takes `parts` epochs, none of them empty."""
    parts = min(parts, length)
    passed, part = divmod(epoch - 1, parts)
    order = tuple(np.random.default_rng((seed, passed + 1)).permutation(length).tolist())
    return order[length * part // parts : length * (part + 1) // parts]
