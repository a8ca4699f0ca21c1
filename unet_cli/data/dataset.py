"""Pairs of files as samples at the network's size, kept in memory as long as they fit, and batches of them."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from unet_cli.ahead import ahead
from unet_cli.config import Preprocessing
from unet_cli.data.imagefile import read_image, read_mask
from unet_cli.data.labels import LabelMap
from unet_cli.data.preprocess import prepare, resize_mask
from unet_cli.data.source import Pair
from unet_cli.errors import UserError

CACHE_SHARE = 0.25  # of the machine's memory may hold decoded samples


@dataclass(frozen=True)
class Batch:
    """Samples `indices` of a dataset: image (N, C, S, S) as in the files, mask (N, S, S) uint8 class indices."""

    indices: list[int]
    image: Tensor
    mask: Tensor


class SegmentationDataset(Dataset[tuple[Tensor, Tensor]]):
    """Pairs as (image (C, S, S) as in the file, mask (S, S) uint8 class indices), S being the network's size.

    Samples are kept once decoded, up to CACHE_SHARE of the machine's memory (`cache_bytes` to set it). Reading may be
    done from several threads.
    """

    def __init__(
        self, pairs: Sequence[Pair], preprocessing: Preprocessing, labels: LabelMap, cache_bytes: int | None = None
    ) -> None:
        self.pairs = list(pairs)
        self.preprocessing = preprocessing
        self.labels = labels
        value_bytes = np.dtype(preprocessing.dtype).itemsize
        sample_bytes = preprocessing.size**2 * (preprocessing.in_channels * value_bytes + 1)
        budget = int(CACHE_SHARE * machine_memory()) if cache_bytes is None else cache_bytes
        self._capacity = budget // sample_bytes
        self._cache: dict[int, tuple[Tensor, Tensor]] = {}

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Raises UserError where the files have changed or vanished since they were examined."""
        sample = self._cache.get(index)
        if sample is None:
            sample = self._read(self.pairs[index])
            if index < self._capacity:
                self._cache[index] = sample
        return sample

    def _read(self, pair: Pair) -> tuple[Tensor, Tensor]:
        try:
            image, _ = prepare(read_image(pair.image, self.preprocessing.keep_alpha), self.preprocessing)
        except UserError as error:
            raise pair.image.named(error) from error
        try:
            indices = self.labels.encode(read_mask(pair.mask))[0]
        except UserError as error:
            raise pair.mask.named(error) from error
        side = self.preprocessing.size
        return image, resize_mask(torch.from_numpy(indices), (side, side))

    def batches(self, order: Sequence[int], batch_size: int, workers: int | None = None) -> Generator[Batch]:
        """Samples in the given order, `batch_size` at a time (the last batch may be smaller), read ahead in threads."""
        groups = [list(order[start : start + batch_size]) for start in range(0, len(order), batch_size)]
        samples = ahead(self.__getitem__, [index for group in groups for index in group], workers)
        for group in groups:
            images, masks = zip(*(next(samples) for _ in group), strict=True)
            yield Batch(group, torch.stack(images), torch.stack(masks))


def epoch_order(length: int, seed: int, epoch: int) -> list[int]:
    """The order of the samples, a function of seed and epoch alone."""
    return np.random.default_rng((seed, epoch)).permutation(length).tolist()


def machine_memory() -> int:
    """Bytes of memory of this machine, or of the container that we are in; 8 GiB where the system doesn't say."""
    try:
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        physical = 8 * 2**30
    limit = Path("/sys/fs/cgroup/memory.max")
    allowed = limit.read_text().strip() if limit.is_file() else "max"
    return min(physical, int(allowed)) if allowed.isdigit() else physical
