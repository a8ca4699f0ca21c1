"""`unet export`: a trained network for other runtimes."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from unet_cli.cli import app
from unet_cli.cli.options import DONE, command
from unet_cli.config.base import Output
from unet_cli.config.export import ExportConfig
from unet_cli.system.console import Console, counted

if TYPE_CHECKING:
    from pathlib import Path

    from unet_cli.export.graph import Graph
    from unet_cli.export.images import Found
    from unet_cli.export.make import Made


@command(app, "export", ExportConfig, example="unet export --weights checkpoints/data-1 --to onnx")
def export_cli(config: ExportConfig, output: Output) -> int:
    """Write a trained network for other runtimes, pixels to mask in one file, and check what it predicts.

    The file takes an image as a decoder gives it, of any size, and gives the mask at that size and the probabilities.
    It is written only if it predicts the same as here on images of the validation part, or of --check.
    """
    return export(config, Console(output.json, output.quiet))


def export(config: ExportConfig, console: Console) -> int:
    """Export the network. Raises UserError, also where the file predicts something else; then none is left."""
    from unet_cli.checkpoint import find_checkpoint, load_checkpoint
    from unet_cli.export.export import check_verdict, exportable, target_of, write
    from unet_cli.export.files import check_packages, opened
    from unet_cli.export.images import drawn_sample, samples_of
    from unet_cli.export.make import make
    from unet_cli.export.verdict import verdict
    from unet_cli.system.files import writable_folder

    check_packages(config.to)
    weights = find_checkpoint(config.weights)
    path = target_of(weights, config)
    graph = exportable(load_checkpoint(weights), config)
    writable_folder(path.parent)
    found, reason = _images(graph, weights, config)
    console.say(f"Exporting {graph.checkpoint.model.describe()}")
    made = make(graph, config, weights, found, console)
    if config.to == "bioimage":  # its networks were compared as it was made, and it is for other programs
        return _told(made, path, console)
    if found is None:
        samples, total, where = iter([drawn_sample(graph)]), 1, "that was drawn"
    else:
        samples, total, where = samples_of(graph, found), len(found.pairs), found.where
    seen = verdict(graph, opened(made.contents), console.progress(samples, total, "comparing", "images"))
    if not config.int8:  # which is judged by its Dice
        check_verdict(seen, config, where)
    written = write(made.contents, path)
    console.document(
        {
            "output": str(path),
            "files": list(map(str, written)),
            "to": config.to,
            "images": None if found is None else found.where,
            "not_checked": reason,
            "verdict": seen.plain(),
            **made.document,
        }
    )
    console.result(f"Compared with `unet predict` on {counted(seen.images, 'image')} {where}:", *seen.describe())
    if found is None:
        console.result(f"  No real images were at hand ({reason}): give some with --check DIR")
    console.result(*made.lines, f"Written: {', '.join(map(str, written))}", *_next(path, config))
    return DONE


def _told(made: Made, path: Path, console: Console) -> int:
    """Write a model of bioimage.io. Raises UserError."""
    from unet_cli.export.export import write

    written = write(made.contents, path)
    console.document({"output": str(path), "files": list(map(str, written)), "to": "bioimage", **made.document})
    console.result(
        *made.lines,
        f"Written: {path}",
        "Next, open it in Fiji (deepImageJ), ilastik or QuPath; its README.md says what they have to be told",
    )
    return DONE


def _images(graph: Graph, weights: Path, config: ExportConfig) -> tuple[Found | None, str | None]:
    """Those of --check or of the run, or why there are none. Raises UserError for those of --check."""
    from unet_cli.errors import UserError
    from unet_cli.export.images import images_in, images_of_run

    if config.check is not None:
        return images_in(graph, config.check, config.workers), None
    try:
        return images_of_run(graph, weights, config.workers), None
    except UserError as error:
        return None, str(error).splitlines()[0]


def _next(path: Path, config: ExportConfig) -> list[str]:
    name = shlex.quote(str(path))
    if config.to == "torch":
        return ["Next, load it in Python:", f"  torch.export.load({str(path)!r}).module()"]
    return ["Next, predict masks with it:", f"  unet predict --weights {name} --input DIR"]
