"""Import of other tools' weights as checkpoints of ours: tensors are renamed, and the network's function is unchanged.

Supported are the networks of milesial/Pytorch-UNet, and `Unet` of segmentation_models_pytorch with a ResNet encoder.
Channels, classes and upsampling are inferred from the tensors. Images are resized bilinearly, where Pytorch-UNet is
bicubic. torchvision.py reads or downloads pretrained weights of encoders.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from unet_cli.foreign.common import Foreign, plain_tensors
from unet_cli.foreign.milesial import MILESIAL, from_milesial
from unet_cli.foreign.smp import SMP, from_smp


def recognised(content: dict[Any, Any]) -> Foreign | None:
    """The fields of a checkpoint, from a state dict or a dict with one under 'state_dict' or 'model_state_dict'; None
    where the network is unknown.

    All keys may have the prefix 'module.'. The scale factor of images, which the file doesn't hold, is the tool's
    default. Raises UserError, without the file's name, where the network is similar to a supported one.
    """
    state = next((content[key] for key in ("state_dict", "model_state_dict") if key in content), content)
    if not isinstance(state, dict):
        return None
    mask_values = state.get("mask_values", content.get("mask_values"))
    tensors = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    if all(name.startswith("module.") for name in tensors):  # saved from DataParallel or DistributedDataParallel
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    if "outc.conv.weight" in tensors and any(name.startswith("inc.") for name in tensors):
        return from_milesial(plain_tensors(tensors, "outc.conv.weight", MILESIAL), mask_values)
    if any(name.startswith("encoder.") for name in tensors) and "segmentation_head.0.weight" in tensors:
        return from_smp(plain_tensors(tensors, "segmentation_head.0.weight", SMP))
    return None
