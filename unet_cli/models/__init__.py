"""The table of networks. To add one, write its file and its row."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import lru_cache, partial
from typing import Any

import torch
from torch import nn

from unet_cli.config.base import flag_of
from unet_cli.config.model import CPU_WIDTH_SHARE, DATA_SETTINGS, MODEL_SETTINGS, ModelConfig
from unet_cli.errors import UserError
from unet_cli.models.attention import AttentionUNet, attention3d
from unet_cli.models.attention_oktay import OktayAttentionUNet
from unet_cli.models.encoders import EncoderUNet
from unet_cli.models.fitted import Fitted
from unet_cli.models.geometry import Geometry, flat_for
from unet_cli.models.network import Network
from unet_cli.models.nnunet import NNUNet, NNUNetResEnc, nnunet3d, nnunet_resenc3d, stages_for
from unet_cli.models.resunet import ResUNet, resunet3d
from unet_cli.models.transunet import TransUNet, transunet_light
from unet_cli.models.unet import UNet
from unet_cli.models.unet3d import UNet3d
from unet_cli.models.unet_dilated import UNetDilated, UNetDilatedPublished
from unet_cli.models.unet_paper import UNetPaper
from unet_cli.models.unet_plus_plus import UNetPlusPlus
from unet_cli.models.unet_strided import StridedUNet

__all__ = [
    "MODELS",
    "Fitted",
    "Geometry",
    "Network",
    "build_model",
    "defaults_of",
    "flat_for",
    "parameter_count",
    "resolved",
    "trained_count",
    "usual_width",
    "weightless",
]


@dataclass(frozen=True)
class Row:
    """A row of the table.

    network: (in_channels, out_channels, **settings) -> the network with random weights. source: its publication, in a
    few words. lr_factor: multiple of the optimizer's default learning rate. depth: function from the side of the
    network's input to the default depth, None where it is fixed.

    The factors lie at or between learning rates that were compared by validation Dice on a part of the training images
    of dsb2018, one run each: 85 seconds on one core at 256x256, Adam, batches of 4, width 16, light augmentation:

        unet-paper          2e-4 0.26    6e-4 0.70    2e-3 0.68
        unet-dilated        2e-4 0.65    6e-4 0.68    2e-3 0.75    (a lower factor for its full width, without a norm)
        resnet18-unet       5e-4 0.76    2e-3 0.60
        convnext-tiny-unet  2e-4 0.42    6e-4 0.42    2e-3 0.41
        nnunet              2e-3 0.67    6e-3 0.75

    transunet-light at 128x128 and width 32, 100 steps: 5e-4 0.83, 1e-3 0.86, 2e-3 0.88. The attention networks and
    unet++ were better with 2e-3 than with 1e-3 on synthetic cells. The others have the factor of the most similar
    network, resunet and unet-strided that of unet. That of transunet is an estimate: transformers of its size diverge
    at the default rate.
    """

    network: Callable[..., Network]
    source: str
    lr_factor: float = 1.0
    depth: Callable[[int], int] | None = None


MODELS: dict[str, Row] = {
    "unet": Row(UNet, "Ronneberger et al. 2015, with padding and batch norm"),
    "unet-paper": Row(UNetPaper, "Ronneberger et al. 2015, as printed", lr_factor=0.5),
    "unet-strided": Row(StridedUNet, "qiaofengsheng/pytorch-UNet"),
    "unet-dilated": Row(UNetDilated, "dilated encoder, skips laid over the decoder", lr_factor=0.5),
    "unet-dilated-published": Row(UNetDilatedPublished, "dilated encoder, as published", lr_factor=0.5),
    "resunet": Row(ResUNet, "Zhang et al. 2018"),
    "attention": Row(AttentionUNet, "Oktay et al. 2018, in the common 2D form"),
    "attention-oktay": Row(OktayAttentionUNet, "Oktay et al. 2018"),
    "unet++": Row(UNetPlusPlus, "Zhou et al. 2018"),
    "transunet": Row(TransUNet, "Chen et al. 2021, R50-ViT-B/16", lr_factor=0.1),
    "transunet-light": Row(transunet_light, "ours, after Chen et al. 2021, to train from scratch"),
    "unet3d": Row(UNet3d, "Çiçek et al. 2016, for volumes"),
    "resunet3d": Row(resunet3d, "resunet for volumes"),
    "attention3d": Row(attention3d, "attention for volumes"),
    "nnunet3d": Row(nnunet3d, "Isensee et al. 2021, for volumes", lr_factor=2.0),
    "nnunet-resenc3d": Row(nnunet_resenc3d, "Isensee et al. 2024, for volumes", lr_factor=2.0),
    "resnet18-unet": Row(partial(EncoderUNet, "resnet18"), "encoder of He et al. 2016", lr_factor=0.5),
    "resnet34-unet": Row(partial(EncoderUNet, "resnet34"), "encoder of He et al. 2016", lr_factor=0.5),
    "resnet50-unet": Row(partial(EncoderUNet, "resnet50"), "encoder of He et al. 2016", lr_factor=0.5),
    "convnext-tiny-unet": Row(partial(EncoderUNet, "convnext_tiny"), "encoder of Liu et al. 2022", lr_factor=0.25),
    "efficientnet-b0-unet": Row(partial(EncoderUNet, "efficientnet_b0"), "encoder of Tan, Le 2019", lr_factor=0.5),
    "nnunet": Row(NNUNet, "Isensee et al. 2021, 2D configuration", lr_factor=2.0, depth=stages_for),
    "nnunet-resenc": Row(NNUNetResEnc, "Isensee et al. 2024, residual encoder", lr_factor=2.0, depth=stages_for),
}


def row_of(name: str) -> Row:
    """The row of a network. Raises UserError for a name that is not in the table."""
    if name not in MODELS:
        near = get_close_matches(name.lower(), MODELS, n=1)
        hint = f"did you mean {near[0]}? `unet models` lists all" if near else f"choose one of {', '.join(MODELS)}"
        raise UserError(f"there is no network '{name}': {hint}, or update unet")
    return MODELS[name]


def defaults_of(name: str) -> dict[str, Any]:
    """The settings that a network takes, with their defaults."""
    # A network's settings are its keyword arguments, so that a new network declares them only once.
    parameters = inspect.signature(row_of(name).network).parameters.values()
    known = {*MODEL_SETTINGS, *DATA_SETTINGS}
    return {parameter.name: parameter.default for parameter in parameters if parameter.name in known}


def usual_width(name: str, device: str) -> int | None:
    """Default width (channels of the first level), None where a network has no such setting. device: 'GPU' or 'CPU',
    where it is half of that."""
    width = defaults_of(name).get("base_channels")
    return width if width is None or device == "GPU" else max(1, width // CPU_WIDTH_SHARE)


def resolved(config: ModelConfig, size: int) -> ModelConfig:
    """The config with all settings of the network, as given or by default. size: side of the network's input in pixels.

    Raises UserError for a name that is not in the table, and for a setting that the network doesn't take.
    """
    defaults = defaults_of(config.name)
    for name, flag in MODEL_SETTINGS.items():
        if getattr(config, name) is not None and name not in defaults:
            flag = f"no-{flag}" if getattr(config, name) is False else flag
            flags = [flag_of(MODEL_SETTINGS[known]) for known in defaults if known in MODEL_SETTINGS]
            takes = ", ".join(flags) or "no such flag"
            raise UserError(f"{flag_of(flag)} doesn't apply to {config.name}, which takes {takes}: leave it out")
    if config.flat is not None and "flat" not in defaults:
        raise UserError(f"flat levels don't apply to {config.name}: they are for networks for volumes, such as unet3d")
    depth_for = row_of(config.name).depth
    defaults |= {"depth": depth_for(size)} if depth_for else {}
    return replace(config, **{name: value for name, value in defaults.items() if getattr(config, name) is None})


def build_model(config: ModelConfig, gradient_checkpointing: bool = False) -> Network:
    """The network with random weights. Raises UserError for a name that is not in the table.

    gradient_checkpointing: recompute activations in the backward pass instead of storing them; results are the same.
    """
    defaults = defaults_of(config.name)
    settings = {name: getattr(config, name) for name in defaults if getattr(config, name) is not None}
    replace(config, **defaults | settings)  # checks the settings with each other
    model = row_of(config.name).network(config.in_channels, config.out_channels, **settings)
    model.gradient_checkpointing = gradient_checkpointing
    return model


@lru_cache(maxsize=8)
def weightless(config: ModelConfig) -> Network:
    """The network on torch's 'meta' device, whose tensors have shapes but no contents: it takes no memory and little
    time. Cached, so only to be looked at."""
    with torch.device("meta"), torch.inference_mode(False):
        return build_model(config)


def parameter_count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def trained_count(model: nn.Module) -> int:
    """The number of parameters that are not frozen."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
