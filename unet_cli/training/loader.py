"""Training samples as the network sees them, a step at a time: cut, normalised, augmented."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from unet_cli.config.data import Preprocessing
from unet_cli.data.objects import parted
from unet_cli.data.preprocess import normalize
from unet_cli.data.samples.augment import Augmentation, augment
from unet_cli.data.samples.cutting import Cutting
from unet_cli.data.samples.dataset import Batch, SegmentationDataset, epoch_order
from unet_cli.data.samples.warp import center_crop
from unet_cli.data.source import spread
from unet_cli.system.distributed import World
from unet_cli.training.plan import Plan
from unet_cli.training.statistics import STATISTICS_DRAWS


@dataclass
class TrainLoader:
    """The training part of a data set, in the order that seed and epoch give it.

    cut: side in pixels -> how samples of that side are cut, None where the side never changes. augmentation: at its
    full strength, None for none. batch_size: samples of a step, in each process. context: pixels of surroundings that
    the network needs at either end of a sample. device: where batches go.
    """

    data: SegmentationDataset
    plan: Plan
    augmentation: Augmentation | None
    batch_size: int
    seed: int
    device: torch.device
    cut: Callable[[int], Cutting] | None = None
    context: int = 0
    workers: int | None = None
    world: World = field(default_factory=World)
    is_called_slow: bool = False

    @property
    def side(self) -> int:
        """Of what the network sees of a sample, in pixels, without the context."""
        return self.data.side

    def change_side(self, side: int) -> None:
        """Cut samples of this side from now on. Not while batches are being read."""
        if self.cut is not None and side != self.side:
            self.data.cut_by(self.cut(side))

    def steps(self, epoch: int, seen: int = 0) -> list[list[int]]:
        """The samples of each step of an epoch, over all processes; `seen` of its samples are left out."""
        size = self.batch_size * self.world.count
        order = epoch_order(len(self.data), self.seed, epoch, self.plan.parts)[seen:]
        return [list(order[start : start + size]) for start in range(0, len(order), size)]

    def batches(self, steps: list[list[int]], epoch: int) -> Generator[Batch]:
        """This process's part of each step; where it has none, one sample for the shape of it."""
        order = [index for step in steps for index in self.world.share(step) or step[:1]]
        return self.data.batches(order, self.batch_size, self.workers, epoch, self.device.type == "cuda")

    def network_input(self, batch: Batch, epoch: int) -> tuple[Tensor, Tensor]:
        """A batch as the network sees it in training: normalised and augmented (N, C, S, S), with the context beside
        it, and (N, S, S)."""
        image, mask = to_device(batch, self.data.preprocessing, self.device)
        seen = self.side + 2 * self.context
        if self.augmentation is None:
            image = center_crop(image, seen)
        else:
            keys = [(self.seed, epoch, index) for index in batch.indices]
            image, mask = augment(image, mask, self.augmentation.at(self.plan.passes(epoch)), keys, seen)
        mask = center_crop(mask, self.side)
        # The background between touching objects is drawn after the warp, which may lose a line of one pixel.
        return image, parted(mask) if self.data.numbered else mask

    def statistics_batches(self, at_once: int) -> Iterator[Tensor]:
        """Normalised samples of the side that the network has seen lately, but not augmented, evenly from all images:
        what batch norm's statistics are found from. Batches have one size, and each process has as many."""
        count = self.world.count
        as_large = max(1, round((self.data.preprocessing.size / self.side) ** 2))
        drawn = spread(range(len(self.data)), self.plan.statistics * as_large)
        np.random.default_rng((self.seed, STATISTICS_DRAWS)).shuffle(drawn)
        size = max(1, min(at_once, len(drawn) // count))
        rounds = max(1, len(drawn) // (size * count))
        mine = [drawn[(number * count + self.world.rank) % len(drawn)] for number in range(rounds * size)]
        for batch in self.data.batches(mine, size, self.workers):
            image, _ = to_device(batch, self.data.preprocessing, self.device)
            yield center_crop(image, self.side + 2 * self.context)


def to_device(batch: Batch, preprocessing: Preprocessing, device: torch.device) -> tuple[Tensor, Tensor]:
    """Normalised image (N, C, P, P), and mask (N, P, P)."""
    image = batch.image.to(device, non_blocking=True)
    return normalize(image, preprocessing, batch.intensities), batch.mask.to(device, non_blocking=True)
