"""`unet models`: the table of networks."""

from __future__ import annotations

from typing import Any

from unet_cli.cli import app
from unet_cli.cli.options import DONE, command
from unet_cli.config.base import Output, flag_of
from unet_cli.config.model import DEFAULT_SIZE, MODEL_SETTINGS, ModelConfig
from unet_cli.config.training import LRS
from unet_cli.system.console import Console

VOLUME_SIDE = 64  # of the volume whose multiply-adds are given, in voxels
COLUMNS = ("network", "parameters", "multiply-adds", "least side", "lr", "source")


@command(app, "models", example="unet models")
def models_cli(output: Output) -> int:
    """List all networks: parameters, multiply-adds, smallest input, source.

    For three channels and one foreground class, at the usual settings; multiply-adds are of an image of 512x512, or of
    a volume of 64x64x64.
    """
    from unet_cli.models import MODELS

    console = Console(output.json, output.quiet)
    rows = []
    for name in MODELS:
        row = _row(name)
        console.document(row)
        size, cost = f"{row['parameters'] / 1e6:.2f} M", f"{row['multiply_adds'] / 1e9:.1f} G"
        rate = f"{row['learning_rate']:.0e}"
        rows.append((name, size, cost, str(row["least_side"]), rate, row["source"]))
    widths = [max(map(len, column)) for column in zip(COLUMNS, *rows, strict=True)]
    console.result(
        *(
            "  ".join(
                f"{cell:<{width}}" if place in (0, len(row) - 1) else f"{cell:>{width}}"
                for place, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in (COLUMNS, *rows)
        ),
        "",
        "Next, train one of them: unet train --data DIR --model NAME",
        "or several, one after the other: unet compare --data DIR --models NAME,NAME --max-time 3m",
    )
    return DONE


def _row(name: str) -> dict[str, Any]:
    from unet_cli.models import MODELS, defaults_of, parameter_count, resolved, weightless
    from unet_cli.models.cost import multiply_adds

    defaults, config = defaults_of(name), resolved(ModelConfig(name=name), DEFAULT_SIZE)
    network = weightless(config)
    spatial = (DEFAULT_SIZE,) * 2 if network.spatial_dims == 2 else (VOLUME_SIDE,) * 3
    return {
        "name": name,
        "parameters": parameter_count(network),
        "multiply_adds": multiply_adds(network, config.in_channels, spatial),
        "spatial": list(spatial),
        "least_side": network.geometry.side(1),
        "learning_rate": LRS["adam"] * MODELS[name].lr_factor,
        "settings": {
            flag_of(flag): defaults[setting] for setting, flag in MODEL_SETTINGS.items() if setting in defaults
        },
        "source": MODELS[name].source,
    }
