"""Recomputation of batch norm's statistics for the weights that are validated."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from unet_cli.system.distributed import World

STATISTICS_DRAWS = 3  # last part of the seed that selects the images
BatchNorm = nn.modules.batchnorm._BatchNorm


@torch.no_grad()
def recompute_statistics(
    model: nn.Module, forward: Callable[[Tensor], object], batches: Iterable[Tensor], world: World
) -> None:
    """Replace batch norm's running mean and variance by those over `batches`, for the current weights.

    Running averages need dozens of steps to converge, and those of averaged weights are averages of averages: after few
    steps a well-trained network predicts badly with them. Means and variances are pooled in float64, including the
    variance of the means between batches. Batches have one size; each process contributes as many, and all get the same
    statistics. Those of frozen parts stay, since their weights fit them (see Network.freeze). Without batch norm no
    batch is read; without batches nothing changes. The network is left in evaluation mode.

    forward: forward pass of the network. Source: Wu, Johnson, "Rethinking 'Batch' in BatchNorm", arXiv 2105.07576,
    section 3; it differs in pooling the variance of the means too.
    """
    model.train()  # frozen parts stay in evaluation mode
    tracking = [module for module in model.modules() if isinstance(module, BatchNorm) and module.track_running_stats]
    norms = [norm for norm in tracking if norm.training]
    model.eval()  # dropout stays off
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train().momentum = 1.0  # running statistics are then those of the last batch
    count, device = 0, _statistics(norms[0])[0].device
    device = torch.device("cpu") if device.type == "mps" else device  # MPS has no float64
    sums = [torch.zeros(2, norm.num_features, dtype=torch.float64, device=device) for norm in norms]
    # Whatever a forward pass raises, the network must not keep a momentum of 1.
    try:
        for batch in batches:
            forward(batch)
            count += 1
            for total, norm in zip(sums, norms, strict=True):
                mean, variance = (value.to(device).double() for value in _statistics(norm))
                # Second moments can be averaged over batches, variances can't: E[x^2] = Var[x] + E[x]^2.
                total += torch.stack([mean, variance + mean.square()])
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.eval().momentum = momentum
    if not count:
        return
    for total, norm in zip(sums, norms, strict=True):
        # Batches have one size in all processes, so the mean of their means is the mean over all.
        mean, square = world.sum(total) / (count * world.count)
        for statistic, value in zip(_statistics(norm), (mean, square - mean.square()), strict=True):
            statistic.copy_(value)


def _statistics(norm: BatchNorm) -> tuple[Tensor, Tensor]:
    """Running mean and variance."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean, norm.running_var
