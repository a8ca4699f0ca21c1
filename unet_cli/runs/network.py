"""The network that a run trains: its name and settings by flags, data and initial weights."""

from __future__ import annotations

from dataclasses import replace

from unet_cli.checkpoint import Checkpoint
from unet_cli.config.base import plain
from unet_cli.config.model import MODEL_SETTINGS, ModelConfig
from unet_cli.config.training import TrainConfig
from unet_cli.data.check.card import Card
from unet_cli.data.folder.layout import Layout, holds_volumes
from unet_cli.errors import UserError
from unet_cli.foreign.torchvision import encoder_state
from unet_cli.models import MODELS, Network, flat_for, resolved
from unet_cli.models.encoders import EncoderUNet
from unet_cli.runs.resume import Call


def model_name(config: TrainConfig, layout: Layout, initial: Checkpoint | None) -> str:
    """The network: by --model, else that of the initial weights, else by the data."""
    if config.model != "auto":
        return config.model
    if initial:
        return initial.model.name
    if config.slices:
        return "unet"
    return "unet3d" if holds_volumes(layout) else "unet"


def network_of(call: Call, card: Card, initial: Checkpoint | None) -> tuple[ModelConfig, bool]:
    """The network's settings from flags, then the initial checkpoint, then the network's defaults; and whether its
    width is still free.

    Raises UserError where there is no such network, it doesn't accept a setting, or the weights are those of another.
    """
    config = call.config
    settings = config.network_settings
    if initial and initial.model.name == config.model:
        settings = {name: getattr(initial.model, name) if value is None else value for name, value in settings.items()}
    # A network for colour images accepts gray ones too.
    in_channels = card.in_channels * (config.slices or 1)
    in_channels = max(in_channels, initial.model.in_channels) if initial else in_channels
    model = ModelConfig(name=config.model, in_channels=in_channels, num_classes=card.labels.num_classes, **settings)
    model = replace(model, overlapping=card.labels.overlapping, cores=card.labels.cores)
    model = resolved(model, config.size)
    spacing = card.voxel_spacing
    if initial and initial.model.name == model.name:
        model = replace(model, flat=initial.model.flat)
    elif model.flat is not None and model.depth and spacing:
        model = replace(model, flat=flat_for(spacing, model.depth))
    if initial and (stored := resolved(initial.model, config.size)) != model:  # an older file has fewer settings
        source = f"--resume {call.folder}" if call.saved or call.restart_from else f"--init {config.init}"
        here, there = plain(model), plain(stored)
        differing = [key for key in here if here[key] != there[key]]
        if model.name != initial.model.name:
            raise UserError(
                f"{source} holds a network {initial.model.name}, and --model is {model.name}: give --model "
                f"{initial.model.name}"
            )
        differences = [f"{MODEL_SETTINGS.get(key, key)} {there[key]} there, {here[key]} here" for key in differing]
        raise UserError(f"{source} holds another network: {', '.join(differences)}")
    return model, settings["base_channels"] is None


def load_encoder(call: Call, model: Network, weights: str) -> None:
    """Load pretrained encoder weights; the first process downloads them where needed. Raises UserError where they
    aren't available."""
    if not isinstance(model, EncoderUNet):
        names = ", ".join(name for name in MODELS if name.endswith("-unet"))
        raise UserError(
            f"--encoder-weights is for networks with an encoder of torchvision, {names}; not for {call.config.model}"
        )
    with call.world.first_before_others():
        model.load_encoder(encoder_state(model.name, weights))
