"""The training data loader: batches of samples that are cropped, normalised and augmented."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from unet_cli.config.data import Preprocessing
from unet_cli.data.objects import parted
from unet_cli.data.preprocess import normalize
from unet_cli.data.samples.augment import Augmentation, augment
from unet_cli.data.samples.cutting import Crops
from unet_cli.data.samples.dataset import Batch, SegmentationDataset, epoch_order
from unet_cli.data.samples.warp import center_crop
from unet_cli.data.source import spread
from unet_cli.system.distributed import World
from unet_cli.training.plan import Plan
from unet_cli.training.statistics import STATISTICS_DRAWS


@dataclass
class TrainLoader:
    """Loader of the training part, in an order that is a function of seed and epoch.

    cut: crop side in pixels (of a volume's slices) -> how samples of that side are cropped; None where the side never
    changes. augmentation:
    at full strength, None for none. batch_size: samples of a step in each process. context: pixels of surroundings that
    the network needs at either end of a sample. device: device of the network inputs.
    """

    data: SegmentationDataset
    plan: Plan
    augmentation: Augmentation | None
    batch_size: int
    seed: int
    device: torch.device
    cut: Callable[[int], Crops] | None = None
    context: int = 0
    workers: int | None = None
    world: World = field(default_factory=World)
    is_called_slow: bool = False

    @property
    def sides(self) -> tuple[int, ...]:
        """Sides of a crop in pixels or voxels, without the context."""
        return self.data.sides

    def change_side(self, side: int) -> None:
        """Change the crop side. Not while batches are being read."""
        if self.cut is not None and side != self.sides[-1]:
            self.data.cut_by(self.cut(side))

    def steps(self, epoch: int, seen: int = 0) -> list[list[int]]:
        """Indices of the samples of each step of an epoch, over all processes; its first `seen` samples are skipped."""
        # One order for all processes, from which each takes its share: a resumed run skips what has been seen.
        size = self.batch_size * self.world.count
        order = epoch_order(len(self.data), self.seed, epoch, self.plan.parts)[seen:]
        return [list(order[start : start + size]) for start in range(0, len(order), size)]

    def batches(self, steps: list[list[int]], epoch: int) -> Generator[Batch]:
        """This process's batch of each step."""
        # A process without samples in a step still takes part in its collectives, so it gets one sample to compute on.
        order = [index for step in steps for index in self.world.share(step) or step[:1]]
        return self.data.batches(order, self.batch_size, self.workers, epoch, self.device.type == "cuda")

    def network_input(self, batch: Batch, epoch: int) -> tuple[Tensor, Tensor]:
        """The network's input: the normalised, augmented image (N, C, *sides + 2 context), and the mask (N, *sides)."""
        image, mask = to_device(batch, self.data.preprocessing, self.device)
        sides = self._seen
        if self.augmentation is None:
            image = center_crop(image, sides)
        else:
            # Randomness is a function of the sample, not of a generator's state: a resumed run draws the same.
            keys = [(self.seed, epoch, index) for index in batch.indices]
            image, mask = augment(image, mask, self.augmentation.at(self.plan.passes(epoch)), keys, sides)
        mask = center_crop(mask, self.sides)
        # The background line between touching objects is drawn after the warp, which may lose a line of one pixel.
        return image, parted(mask) if self.data.numbered else mask

    def statistics_batches(self, micro_batch: int) -> Iterator[Tensor]:
        """Batches from which batch norm's statistics are recomputed: normalised samples at the current crop side,
        without augmentation, spread evenly over all images. All batches have one size, and all processes as many."""
        count = self.world.count
        crops_per_image = max(1, round(math.prod(self.data.preprocessing.sides) / math.prod(self.sides)))
        drawn = spread(range(len(self.data)), self.plan.statistics * crops_per_image)
        np.random.default_rng((self.seed, STATISTICS_DRAWS)).shuffle(drawn)
        size = max(1, min(micro_batch, len(drawn) // count))
        rounds = max(1, len(drawn) // (size * count))
        # Wraps around where there are fewer samples than processes, so that every process has the same number.
        indices = [drawn[(number * count + self.world.rank) % len(drawn)] for number in range(rounds * size)]
        for batch in self.data.batches(indices, size, self.workers):
            image, _ = to_device(batch, self.data.preprocessing, self.device)
            yield center_crop(image, self._seen)

    @property
    def _seen(self) -> list[int]:
        """Sides of what the network sees: a crop with its context."""
        return [side + 2 * self.context for side in self.sides]


def to_device(batch: Batch, preprocessing: Preprocessing, device: torch.device) -> tuple[Tensor, Tensor]:
    """Normalised image (N, C, *patch) and mask (N, *patch) on `device`."""
    image = batch.image.to(device, non_blocking=True)
    return normalize(image, preprocessing, batch.intensities), batch.mask.to(device, non_blocking=True)
