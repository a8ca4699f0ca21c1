"""Image -> probabilities: the network with its checkpoint's preprocessing, ready to be called."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from unet_cli.checkpoint import Checkpoint
from unet_cli.data.preprocess import normalize, prepare, resize_image
from unet_cli.device import Compute


class Predictor:
    """A trained network on its device. It holds no state between calls, so threads may share it."""

    def __init__(self, checkpoint: Checkpoint, compute: Compute) -> None:
        self.checkpoint = checkpoint
        self.compute = compute
        self.model = checkpoint.build().eval()
        self.model.to(compute.device).to(memory_format=torch.channels_last)

    def prepare(self, image: np.ndarray) -> tuple[Tensor, str | None]:
        """(C, H, W) pixels -> (in_channels, S, S) tensor of the same dtype, and what was converted."""
        return prepare(image, self.checkpoint.preprocessing)

    @torch.inference_mode()
    def probabilities(self, images: list[Tensor], batch_size: int) -> Tensor:
        """Up to `batch_size` prepared images -> (N, K, S, S) float32 probabilities on the CPU.

        K is 1, the foreground, for two classes, else the number of classes. The batch is filled up to `batch_size`, so
        that the arithmetic, and with it an image's result, is the same whatever else is in the batch.
        """
        filled = images + [images[-1]] * (batch_size - len(images))
        batch = torch.stack(filled).to(self.compute.device, non_blocking=True)
        batch = normalize(batch, self.checkpoint.preprocessing).contiguous(memory_format=torch.channels_last)
        with self.compute.autocast():
            logits = self.model(batch).float()
        probs = logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(1)
        return probs[: len(images)].cpu()


def at_size(probs: Tensor, size: tuple[int, int]) -> Tensor:
    """(K, S, S) probabilities -> (K, *size), bilinear."""
    return resize_image(probs, size)


def to_classes(probs: Tensor, threshold: float) -> np.ndarray:
    """(K, H, W) probabilities -> (H, W) uint8 class indices: from the threshold on for K = 1, else the largest."""
    if probs.shape[0] == 1:
        return (probs[0] >= threshold).numpy().astype(np.uint8)
    return probs.argmax(0).numpy().astype(np.uint8)
