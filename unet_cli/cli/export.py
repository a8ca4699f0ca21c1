"""`unet export`: a trained network for other runtimes."""

from __future__ import annotations

import shlex

from unet_cli.cli import app
from unet_cli.cli.options import DONE, command
from unet_cli.config.base import Output
from unet_cli.config.export import ExportConfig
from unet_cli.system.console import Console


@command(app, "export", ExportConfig, example="unet export --weights checkpoints/data-1 --to onnx")
def export_cli(config: ExportConfig, output: Output) -> int:
    """Write a trained network for other runtimes, pixels to mask in one file, and check what it predicts."""
    return export(config, Console(output.json, output.quiet))


def export(config: ExportConfig, console: Console) -> int:
    """Export the network. Raises UserError, also where the file predicts something else; then none is left."""
    from unet_cli.checkpoint import find_checkpoint, load_checkpoint
    from unet_cli.export.export import exportable, target_of, write
    from unet_cli.export.files import check_packages
    from unet_cli.export.make import make
    from unet_cli.system.files import writable_folder

    check_packages(config.to)
    weights = find_checkpoint(config.weights)
    path = target_of(weights, config)
    graph = exportable(load_checkpoint(weights), config)
    writable_folder(path.parent)
    made = make(graph, config, weights, console)
    written = write(made.contents, path)
    console.document({"output": str(path), **made.document})
    console.result(*made.lines)
    console.result(f"Written: {', '.join(map(str, written))}")
    if config.to == "bioimage":
        console.result(
            "Next, open it in Fiji (deepImageJ: install from a local file), ilastik or QuPath; the README.md in it "
            "says what they have to be told"
        )
    else:
        console.result("Next, predict masks with it:", f"  unet predict --weights {shlex.quote(str(path))} --input DIR")
    return DONE
