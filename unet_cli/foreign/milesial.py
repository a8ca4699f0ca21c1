"""The networks of milesial/Pytorch-UNet."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unet_cli.config.model import DEFAULT_SIZE, ModelConfig
from unet_cli.foreign.common import (
    Foreign,
    labels_of,
    preprocessing_of,
    shapes_of,
    taken,
    tensor_of,
    unlike,
    with_one_logit,
)
from unet_cli.models import resolved
from unet_cli.models.blocks import DoubleConv
from unet_cli.system.console import sides

MILESIAL = "milesial/Pytorch-UNet"
SCALE = 0.5  # of its train.py and predict.py unless told otherwise


def from_milesial(state: dict[str, Tensor], mask_values: object) -> Foreign:
    """Source: unet/unet_model.py and unet_parts.py of that repository, in its forms since the end of 2019.

    Its older networks are narrower in places: convolutions of bilinear decoders had no middle width of their own, and
    the bottoms of transposed ones 512 channels. Ours has more channels there, which are filled so that they stay zero.
    """
    config = _config(state)
    weights = taken(_without_biases(state), _shapes(state, config), _name, MILESIAL)
    labels, note = labels_of(len(state["outc.conv.weight"]), mask_values)
    return Foreign(
        model=config,
        preprocessing=preprocessing_of(config, (0.0,), (1.0,), SCALE),
        labels=labels,
        weights=_widened(with_one_logit(weights), shapes_of(config)),
        data=[f"not known: imported from {MILESIAL}", *note],
    )


def _config(state: dict[str, Tensor]) -> ModelConfig:
    first = tensor_of(state, "inc.double_conv.0.weight", 4, MILESIAL)
    if not _downs(state):
        raise unlike(MILESIAL, "down1.maxpool_conv.1.double_conv.0.weight is missing")
    config = ModelConfig(
        name="unet",
        in_channels=first.shape[1],
        num_classes=max(2, len(state["outc.conv.weight"])),
        base_channels=first.shape[0],
        depth=len(_downs(state)),
        upsampling="transposed" if "up1.up.weight" in state else "bilinear",
        norm="batch",
    )
    return resolved(config, DEFAULT_SIZE)


def _downs(state: dict[str, Tensor]) -> list[str]:
    """The first convolution of each level below the first."""
    return [name for name in state if re.fullmatch(r"down\d+\.maxpool_conv\.1\.double_conv\.0\.weight", name)]


def _shapes(state: dict[str, Tensor], config: ModelConfig) -> dict[str, torch.Size]:
    """Of its tensors, by our names: skips are as wide as ours, and the rest is as wide as its first tensors say."""
    base_channels, depth = len(state["inc.double_conv.0.weight"]), len(_downs(state))

    def width(name: str, dim: int = 0) -> int:
        return tensor_of(state, _name(name), 4, MILESIAL).shape[dim]

    skips = [base_channels * 2**level for level in range(depth)]
    below = width(f"encoder.{depth - 1}.3.weight")
    ins, outs = [config.in_channels, *skips], [*skips, below]
    with torch.device("meta"):
        blocks: dict[str, nn.Module] = {
            f"encoder.{level - 1}" if level else "stem": DoubleConv(ins[level], outs[level], "batch")
            for level in range(depth + 1)
        }
        for index, skip in enumerate(reversed(skips)):
            raised = below
            if config.upsampling == "transposed":
                raised = width(f"decoder.{index}.upsample.weight", 1)
                blocks[f"decoder.{index}.upsample"] = nn.ConvTranspose2d(below, raised, 2, stride=2)
            middle, out = (width(f"decoder.{index}.convs.{conv}.weight") for conv in (0, 3))
            blocks[f"decoder.{index}.convs"] = DoubleConv(skip + raised, out, "batch", middle)
            below = out
        blocks["head"] = nn.Conv2d(below, len(state["outc.conv.weight"]), 1)
    return {
        f"{name}.{key}": tensor.shape for name, block in blocks.items() for key, tensor in block.state_dict().items()
    }


def _name(ours: str) -> str:
    for pattern, theirs in (
        (r"stem\.", "inc.double_conv."),
        (r"encoder\.(\d+)\.", "down{}.maxpool_conv.1.double_conv."),
        (r"decoder\.(\d+)\.upsample\.", "up{}.up."),
        (r"decoder\.(\d+)\.convs\.", "up{}.conv.double_conv."),
        (r"head\.", "outc.conv."),
    ):
        if found := re.match(pattern, ours):
            return theirs.format(*(int(number) + 1 for number in found.groups())) + ours[found.end() :]
    raise AssertionError(ours)


def _without_biases(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """With the biases of convolutions, which its networks have, folded into the batch norms behind them.

    In evaluation a batch norm subtracts its running mean; what a bias adds can as well be subtracted from that.
    """
    state = dict(state)
    for found in [re.fullmatch(r"(.+\.double_conv)\.([03])\.bias", name) for name in state]:
        mean = f"{found[1]}.{int(found[2]) + 1}.running_mean" if found else ""
        if found and mean in state and state[mean].shape == state[found[0]].shape:
            state[mean] = state[mean] - state.pop(found[0])
    return state


def _widened(weights: dict[str, Tensor], shapes: dict[str, torch.Size]) -> dict[str, Tensor]:
    """With further channels that are zero behind every convolution and norm, and that nothing reads.

    Only what follows the bottom may be narrower: in a concatenation the skip comes first, and then has its full width.
    """
    widened = {}
    for name, tensor in weights.items():
        missing = [want - have for have, want in zip(tensor.shape, shapes[name], strict=True)]
        if min(missing, default=0) < 0:
            raise unlike(MILESIAL, f"{_name(name)} is {sides(tensor.shape)} and not {sides(shapes[name])}")
        after = [part for count in reversed(missing) for part in (0, count)]
        is_divisor_or_factor = tensor.ndim == 1 and name.endswith(("running_var", "weight"))
        widened[name] = F.pad(tensor, after, value=float(is_divisor_or_factor)) if any(after) else tensor
    return widened
