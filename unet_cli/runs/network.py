"""The network that a run trains: its name and settings by flags, data and initial weights, and these weights in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from unet_cli.checkpoint import Checkpoint
from unet_cli.config.base import flag_of, plain
from unet_cli.config.model import MODEL_SETTINGS, ModelConfig
from unet_cli.config.training import TrainConfig
from unet_cli.data.check.card import Card
from unet_cli.data.folder.layout import Layout, holds_volumes
from unet_cli.errors import UserError
from unet_cli.foreign.torchvision import encoder_state
from unet_cli.models import MODELS, Network, build_model, flat_for, resolved, weightless
from unet_cli.models.encoders import EncoderUNet
from unet_cli.runs.initial import start_from
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

    Raises UserError where there is no such network, it doesn't accept a setting, the weights are those of another
    architecture, or of a resumed run's network with other classes or channels, or it has no part to freeze.
    """
    config = call.config
    settings = config.network_settings
    if initial and initial.model.name == config.model:
        settings = {name: getattr(initial.model, name) if value is None else value for name, value in settings.items()}
    in_channels = card.in_channels * (config.slices or 1)
    if initial and call.is_resumed:  # a network for colour images accepts gray ones too
        in_channels = max(in_channels, initial.model.in_channels)
    model = ModelConfig(name=config.model, in_channels=in_channels, num_classes=card.labels.num_classes, **settings)
    model = replace(model, overlapping=card.labels.overlapping, cores=card.labels.cores)
    model = resolved(model, config.size)
    spacing = card.voxel_spacing
    if initial and initial.model.name == model.name:
        model = replace(model, flat=initial.model.flat)
    elif model.flat is not None and model.depth and spacing:
        model = replace(model, flat=flat_for(spacing, model.depth))
    if initial:
        _check_architecture(call, model, resolved(initial.model, config.size))  # an older file has fewer settings
    if config.freeze and not weightless(model).encoder_parts:
        raise UserError(f"--freeze {config.freeze}: {model.name} has no encoder: leave it out")
    return model, settings["base_channels"] is None


def _check_architecture(call: Call, model: ModelConfig, stored: ModelConfig) -> None:
    """Raises UserError where these weights are not those of the network. With --init it may have other classes,
    channels and dropout, which has no weights."""
    source = f"--resume {call.folder}" if call.is_resumed else f"--init {call.config.init}"
    if model.name != stored.name:
        raise UserError(
            f"{source} holds a network {stored.name}, and --model is {model.name}: give --model {stored.name}, or "
            "leave it out"
        )
    here, there = plain(model), plain(stored)
    differing = [key for key in here if here[key] != there[key]]
    if not call.is_resumed:
        differing = [key for key in differing if key in MODEL_SETTINGS and key != "dropout"]
    if not differing:
        return
    differences = [f"{MODEL_SETTINGS.get(key, key)} {there[key]} there, {here[key]} here" for key in differing]
    flags = ", ".join(flag_of(MODEL_SETTINGS[key]) for key in differing if key in MODEL_SETTINGS)
    remedy = f": leave {flags} out, or train without --init" if not call.is_resumed else ""
    raise UserError(f"{source} holds another network: {', '.join(differences)}{remedy}")


def stored_slices(config: TrainConfig, initial: Checkpoint | None) -> int | None:
    """How many slices are seen at once: by --slices, else as the initial weights do."""
    stored = initial.preprocessing.slices if initial else 1
    return config.slices or (stored if stored > 1 else None)


def slices_of(call: Call, card: Card, is_given: bool) -> int | None:
    """How many slices are seen at once of these data. is_given: by --slices, and not by initial weights, which then
    have to do with one. Raises UserError where there are no neighbouring slices to see, or the network sees them
    anyway."""
    config = call.config
    if (config.slices or 1) == 1:
        return config.slices
    has_pages = any(pair.image.page is not None for pair in card.pairs("train"))
    if not (has_pages or is_given or call.is_resumed):
        return None
    if card.is_volumetric:
        raise UserError(f"--slices is for networks for images, and {config.model} sees volumes: leave it out")
    if not has_pages:
        raise UserError(
            f"--slices {config.slices}: no file of {card.layout.root} has several pages that are images, so there are "
            "no neighbouring slices: leave it out"
        )
    return config.slices


def network_with_weights(
    call: Call, template: Checkpoint, initial: Checkpoint | None, shares: Sequence[float]
) -> Network:
    """The network of the template, with all weights of a resumed run, what fits of those of --init, --encoder-weights,
    or random ones, and with the part of --freeze frozen. shares: of each class in the pixels. Raises UserError."""
    config = call.config
    model = build_model(template.model, config.gradient_checkpointing)
    if config.freeze:
        model.freeze(model.encoder_parts)
    if initial and call.is_resumed:
        model.load_state_dict(initial.weights)
        return model
    model.start_at(shares, template.labels.cores)
    if initial:
        call.console.say(f"--init {config.init}: {start_from(model, initial, template)}")
    elif config.encoder_weights:
        load_encoder(call, model, config.encoder_weights)
    return model


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
