"""Batch norm's statistics of the weights that are judged, not of those that came before them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from unet_cli.system.distributed import World

STATISTICS_DRAWS = 3  # last part of the seed that chooses the images they are found from
BatchNorm = nn.modules.batchnorm._BatchNorm


@torch.no_grad()
def recompute_statistics(
    model: nn.Module, forward: Callable[[Tensor], object], batches: Iterable[Tensor], world: World
) -> None:
    """Replace batch norm's running mean and variance by those over `batches`, with the weights as they are.

    Running averages need dozens of steps to arrive, and those of averaged weights are averages of averages: after few
    steps a network that has learned well predicts badly by them. Means and variances are pooled in float64, the
    variance of the means between batches included. Batches are of one size; each process brings as many, and all end
    with the same statistics. Without a batch norm none is asked for, and where there is none, nothing changes. The
    network is left in evaluation mode.

    forward: the network's own pass. Source: Wu, Johnson, "Rethinking 'Batch' in BatchNorm", arXiv 2105.07576, section
    3; it differs in pooling the variance of the means too.
    """
    norms = [module for module in model.modules() if isinstance(module, BatchNorm) and module.track_running_stats]
    model.eval()  # dropout stays off
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train().momentum = 1.0  # running statistics are then those of the batch
    count, home = 0, _statistics(norms[0])[0].device
    home = torch.device("cpu") if home.type == "mps" else home  # which has no float64
    sums = [torch.zeros(2, norm.num_features, dtype=torch.float64, device=home) for norm in norms]
    try:
        for batch in batches:
            forward(batch)
            count += 1
            for total, norm in zip(sums, norms, strict=True):
                mean, variance = (found.to(home).double() for found in _statistics(norm))
                total += torch.stack([mean, variance + mean.square()])
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.eval().momentum = momentum
    if not count:
        return
    for total, norm in zip(sums, norms, strict=True):
        mean, square = world.sum(total) / (count * world.count)
        for statistic, found in zip(_statistics(norm), (mean, square - mean.square()), strict=True):
            statistic.copy_(found)


def _statistics(norm: BatchNorm) -> tuple[Tensor, Tensor]:
    """Running mean and variance."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean, norm.running_var
