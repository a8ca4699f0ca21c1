"""Import of the networks of milesial/Pytorch-UNet."""

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
    renamed,
    shapes_of,
    tensor_of,
    unlike,
    with_one_logit,
)
from unet_cli.models import resolved
from unet_cli.models.blocks import DoubleConv
from unet_cli.system.console import sides

MILESIAL = "milesial/Pytorch-UNet"
SCALE = 0.5  # default of its train.py and predict.py


def from_milesial(state: dict[str, Tensor], mask_values: object) -> Foreign:
    """The fields of a checkpoint. Source: unet/unet_model.py and unet_parts.py of that repository, in its versions
    since the end of 2019.

    Its older networks are narrower in places: the convolutions of bilinear decoders had no intermediate width of their
    own, and the bottlenecks of transposed ones had 512 channels. Our additional channels there are filled so that they
    stay zero.
    """
    config = _config(state)
    weights = renamed(_without_biases(state), _shapes(state, config), _name, MILESIAL)
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
    """Expected shapes of its tensors, under our names: skips have the width of ours, other widths are read from the
    first tensor of each block."""
    base_channels, depth = len(state["inc.double_conv.0.weight"]), len(_downs(state))

    def width(name: str, dim: int = 0) -> int:
        return tensor_of(state, _name(name), 4, MILESIAL).shape[dim]

    # `below` is the width of the level under the current one, from the bottleneck up.
    skips = [base_channels * 2**level for level in range(depth)]
    below = width(f"encoder.{depth - 1}.3.weight")
    ins, outs = [config.in_channels, *skips], [*skips, below]
    with torch.device("meta"):
        blocks: dict[str, nn.Module] = {
            f"encoder.{level - 1}" if level else "stem": DoubleConv(ins[level], outs[level], "batch")
            for level in range(depth + 1)
        }
        for index, skip in enumerate(reversed(skips)):
            upsampled = below
            if config.upsampling == "transposed":
                upsampled = width(f"decoder.{index}.upsample.weight", 1)
                blocks[f"decoder.{index}.upsample"] = nn.ConvTranspose2d(below, upsampled, 2, stride=2)
            mid, out = (width(f"decoder.{index}.convs.{conv}.weight") for conv in (0, 3))
            blocks[f"decoder.{index}.convs"] = DoubleConv(skip + upsampled, out, "batch", mid)
            below = out
        blocks["head"] = nn.Conv2d(below, len(state["outc.conv.weight"]), 1)
    return {
        f"{name}.{key}": tensor.shape for name, block in blocks.items() for key, tensor in block.state_dict().items()
    }


def _name(ours: str) -> str:
    """Its name of a tensor of ours."""
    for pattern, theirs in (
        (r"stem\.", "inc.double_conv."),
        (r"encoder\.(\d+)\.", "down{}.maxpool_conv.1.double_conv."),
        (r"decoder\.(\d+)\.upsample\.", "up{}.up."),
        (r"decoder\.(\d+)\.convs\.", "up{}.conv.double_conv."),
        (r"head\.", "outc.conv."),
    ):
        if match := re.match(pattern, ours):
            return theirs.format(*(int(number) + 1 for number in match.groups())) + ours[match.end() :]
    raise AssertionError(ours)


def _without_biases(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with the biases of convolutions, which some of its versions have, folded into the batch norms after
    them.

    In evaluation mode a batch norm subtracts its running mean, so a bias before it is the same as a lower mean.
    """
    state = dict(state)
    for match in [re.fullmatch(r"(.+\.double_conv)\.([03])\.bias", name) for name in state]:
        mean = f"{match[1]}.{int(match[2]) + 1}.running_mean" if match else ""
        if match and mean in state and state[mean].shape == state[match[0]].shape:
            state[mean] = state[mean] - state.pop(match[0])
    return state


def _widened(weights: dict[str, Tensor], shapes: dict[str, torch.Size]) -> dict[str, Tensor]:
    """The tensors padded to our shapes with channels that are zero after every convolution and norm, and have no
    influence.

    Only the decoder may be narrower, since padding adds channels at the end: in a concatenation the skip comes first,
    and has its full width.
    """
    widened = {}
    for name, tensor in weights.items():
        missing = [want - have for have, want in zip(tensor.shape, shapes[name], strict=True)]
        if min(missing, default=0) < 0:
            raise unlike(MILESIAL, f"{_name(name)} is {sides(tensor.shape)} and not {sides(shapes[name])}")
        after = [part for count in reversed(missing) for part in (0, count)]
        # Batch norm's variance and weight are padded with 1, which leaves zeros as they are; the rest with 0.
        is_variance_or_weight = tensor.ndim == 1 and name.endswith(("running_var", "weight"))
        widened[name] = F.pad(tensor, after, value=float(is_variance_or_weight)) if any(after) else tensor
    return widened
