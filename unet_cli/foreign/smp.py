"""Import of `Unet` of segmentation_models_pytorch with a ResNet encoder."""

from __future__ import annotations

import re

import torch
from torch import Tensor

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
from unet_cli.system.console import few

SMP = "segmentation_models_pytorch.Unet"
IMAGENET_MEAN = (0.485, 0.456, 0.406)  # RGB, for pixels in 0 to 1
IMAGENET_STD = (0.229, 0.224, 0.225)
RESNETS: dict[tuple[tuple[int, ...], bool], str] = {  # (number of blocks in each stage, whether they are bottlenecks)
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
}


def from_smp(state: dict[str, Tensor]) -> Foreign:
    """The fields of a checkpoint. Source: segmentation_models_pytorch 0.3 to 0.5, decoders/unet, with its default
    decoder_channels."""
    _refuse_other_decoders(state)
    classes = len(state["segmentation_head.0.weight"])
    config = ModelConfig(
        name=f"{_encoder(state)}-unet",
        in_channels=tensor_of(state, "encoder.conv1.weight", 4, SMP).shape[1],
        num_classes=max(2, classes),
    )
    config = resolved(config, DEFAULT_SIZE)
    shapes = shapes_of(config)
    for name in ("head.weight", "head.bias"):
        shapes[name] = torch.Size([classes, *shapes[name][1:]])
    weights = with_one_logit(renamed(state, shapes, _name, SMP))
    # ImageNet's statistics are of RGB; other numbers of channels get those of its gray values.
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if config.in_channels == 3 else ((0.449,), (0.226,))
    return Foreign(
        model=config,
        preprocessing=preprocessing_of(config, mean, std, 1.0),
        labels=labels_of(classes, None)[0],
        weights=weights,
        data=[f"not known: imported from {SMP}"],
    )


def _encoder(state: dict[str, Tensor]) -> str:
    """Name of the ResNet. Raises UserError for another encoder."""
    stages = [re.compile(rf"encoder\.layer{stage}\.\d+\.conv1\.weight") for stage in range(1, 5)]
    blocks = tuple(sum(stage.fullmatch(name) is not None for name in state) for stage in stages)
    name = RESNETS.get((blocks, "encoder.layer1.0.conv3.weight" in state))
    if name is None or "encoder.conv1.weight" not in state:
        is_resnet = "encoder.conv1.weight" in state and all(blocks)
        encoder = f"a ResNet of {'-'.join(map(str, blocks))} blocks" if is_resnet else "not a ResNet"
        raise unlike(SMP, f"its encoder is {encoder}", f"{', '.join(RESNETS.values())} can be imported")
    return name


def _refuse_other_decoders(state: dict[str, Tensor]) -> None:
    """Raises UserError that names the first tensor that isn't in the default decoder of smp.Unet."""
    parts = [name for name in state if name.startswith("decoder.")]
    attention = [name for name in parts if ".attention" in name]
    other = [name for name in parts if not re.match(r"decoder\.blocks\.\d+\.(conv[12]|attention[12])\.", name)]
    numbers = {name.split(".")[2] for name in parts if name not in other}
    if other or not parts:
        raise unlike(SMP, f"its decoder is of another architecture ({few(other) or 'none'})")
    if attention:
        raise unlike(SMP, f"its decoder has attention (decoder_attention_type, {attention[0]})")
    if len(numbers) != 5:
        raise unlike(SMP, f"its decoder has {len(numbers)} blocks and not 5 (encoder_depth)")


def _name(ours: str) -> str:
    """Its name of a tensor of ours."""
    return re.sub(r"^decoder\.", "decoder.blocks.", re.sub(r"^head\.", "segmentation_head.0.", ours))
