"""`unet import`: convert weights of another tool into a checkpoint of ours."""

from __future__ import annotations

import shlex
from dataclasses import replace

from unet_cli.cli import app
from unet_cli.cli.options import DONE, command
from unet_cli.config.base import Output, plain
from unet_cli.config.model import ImportConfig
from unet_cli.errors import UserError
from unet_cli.system.console import Console


@command(app, "import", ImportConfig, example="unet import MODEL.pth --output ours.pth --scale 0.5")
def import_cli(config: ImportConfig, output: Output) -> int:
    """Convert weights of Pytorch-UNet or segmentation_models_pytorch into a checkpoint."""
    if config.output.exists():
        raise UserError(f"{config.output} exists already: choose another --output, or move the file away")

    from unet_cli.checkpoint import load_checkpoint, save_checkpoint
    from unet_cli.models import parameter_count
    from unet_cli.system.files import make_folder

    checkpoint = load_checkpoint(config.file)
    if checkpoint.preprocessing.scale is None:
        raise UserError(f"{config.file} is a checkpoint of unet already: predict with it, or see `unet info`")
    if config.scale is not None:
        preprocessing = replace(checkpoint.preprocessing, scale=config.scale)
        checkpoint = replace(checkpoint, preprocessing=preprocessing)
    parameters = parameter_count(checkpoint.build())
    make_folder(config.output.parent)
    save_checkpoint(config.output, checkpoint)
    console = Console(output.json, output.quiet)
    console.document(
        {
            "output": config.output,
            "origin": checkpoint.data,
            "model": plain(checkpoint.model),
            "parameters": parameters,
            "preprocessing": plain(checkpoint.preprocessing),
            "labels": checkpoint.labels.plain(),
        }
    )
    console.result(
        f"{config.file}: {'; '.join(checkpoint.data)}",
        f"network        {checkpoint.model.describe()}, {parameters:,} parameters",
        f"channels       {checkpoint.preprocessing.in_channels}",
        f"classes        {checkpoint.labels.describe()}",
        f"scale          images are seen at {checkpoint.preprocessing.scale:g} times their size",
        f"Written: {config.output}",
        "Next, predict masks for a folder of images:",
        f"  unet predict --weights {shlex.quote(str(config.output))} --input DIR",
    )
    return DONE
