"""Weights of other tools, as checkpoints of ours: tensors get other names, and the function stays as it is.

Known are the networks of milesial/Pytorch-UNet, and `Unet` of segmentation_models_pytorch with a ResNet encoder.
Channels, classes and upsampling are found from the tensors. Images are resized bilinearly, where Pytorch-UNet's way is
bicubic. torchvision.py reads or downloads the weights of encoders.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from unet_cli.foreign.common import Foreign, plain_tensors
from unet_cli.foreign.milesial import MILESIAL, from_milesial
from unet_cli.foreign.smp import SMP, from_smp


def recognised(content: dict[Any, Any]) -> Foreign | None:
    """What a checkpoint needs, from a state dict or what holds one under 'state_dict' or 'model_state_dict'; None if it
    is unknown.

    All keys may begin with 'module.'. What the file doesn't hold, the factor that images were resized by, is what is
    usual with the tool. Raises UserError, without the file's name, where it is nearly a network that is known.
    """
    state = next((content[key] for key in ("state_dict", "model_state_dict") if key in content), content)
    if not isinstance(state, dict):
        return None
    mask_values = state.get("mask_values", content.get("mask_values"))
    tensors = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    if "outc.conv.weight" in tensors and any(name.startswith("inc.") for name in tensors):
        return from_milesial(plain_tensors(tensors, "outc.conv.weight", MILESIAL), mask_values)
    if any(name.startswith("encoder.") for name in tensors) and "segmentation_head.0.weight" in tensors:
        return from_smp(plain_tensors(tensors, "segmentation_head.0.weight", SMP))
    return None
